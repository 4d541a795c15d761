# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From film to volume: preprocessing
#
# This chapter follows one clip from the film and the skeleton file to the two tensors that the networks read: a stack of
# frames, and a {term}`volume` of {term}`heat-maps <heat-map>`. It is section 2.1 of the paper {cite}`wang2024multimodal`; the heat-maps are those of
# PoseC3D {cite}`duan2022posec3d`.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from migcore import ensemble, experiments, heatmaps, metrics, presets
from migcore.data import augment, imigue, sampling, video
from migcore.data.layouts import layout
from migcore.labels import CLASSES, gesture
from migcore.report import pictures, plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)
skeleton = layout(config.skeleton.layout)
train = sorted(index.split("train"), key=lambda c: -c.frames)  # the longest first
clip = next(c for c in train if c.label == gesture("touch neck").id)
print(f"clip {clip.id}: {CLASSES[clip.label].name}")
print(f"frames {clip.start} to {clip.end} of film {clip.video}")

# %% [markdown]
# ## The idea in one picture
#
# A network for images wants pictures. A skeleton is a list of numbers, and a very short one: it is *sparse*. So we paint it.
# Every keypoint becomes a little round spot in a picture of its own, every frame a sheet, and the sheets are stacked into a
# volume. Wrong keypoints do little harm there: an unsure one is a faint spot, a missing one is no spot. And a 3-D
# convolution can look at it as if it were a film.

# %% mystnb={"figure": {"name": "fig-pipeline", "caption": "One moment on its way: the frame, the keypoints on it, the crop around all keypoints of the clip, and the heat-maps of joints and limbs (all channels laid over each other)."}, "image": {"alt": "A film frame, the same with a stick figure, and two dark pictures with bright spots and bright lines"}} tags=["remove-input"]
pictures.pipeline(
    clip,
    index,
    skeleton,
    size=config.skeleton.test_size,
    padding=config.skeleton.padding,
)

# %% [markdown]
# ## A clip is a range of frames
#
# {term}`iMiGUE`'s films are minutes long. A label file beside each film says when a gesture begins and ends: `gesture id, first frame,
# last frame`, counted from 1, ends included. A clip is one such row, and its name `NNNN_k` is the film's number and the row's,
# counted from 0. The record above is one {term}`clip`. Films are decoded only where a clip needs frames: the reader jumps to the nearest
# earlier picture that is stored whole (a *key frame*) and decodes from there.

# %%
at = clip.film_start + sampling.segment_centres(clip.frames, 8)
frames = video.read_frames(clip.film, at)
print(f"the clip has {clip.frames} frames, {imigue.clip_seconds(clip):.2f} s")
print(f"frames [3, T, H, W] = {list(frames.shape)}, {frames.dtype}")

# %% [markdown]
# The skeleton file has a row for each frame of the film: a number that is skipped, then $x$, $y$ and a score for each of 35
# {term}`keypoints <keypoint>`. Of these, 22 are used. Sides are named by the viewer: *left* is the speaker's right. A point that was not found has
# score 0.

# %%
# [T, V, 2] in pixels of the film, and [T, V] in 0..1
keypoints, scores = imigue.read_clip_skeleton(clip, index.column_map)
first = {"x": keypoints[0, :, 0], "y": keypoints[0, :, 1], "score": scores[0]}
pd.DataFrame(first, index=skeleton.joints).head(8).map("{:.2f}".format)

# %% [markdown]
# ### Clips have different lengths, networks want one

# %% mystnb={"figure": {"name": "fig-durations", "caption": "How long the clips of this page's data last, by split. In iMiGUE they last from 0.18 to 80.92 seconds and 2.55 on average (section 3.1 of the paper)."}, "image": {"alt": "Histogram of clip durations in seconds"}} tags=["remove-input"]
plots.durations(
    {
        s: np.array([imigue.clip_seconds(c) for c in index.split(s)])
        for s in index.summary()
    }
)

# %% [markdown]
# From each clip a fixed number of frames is taken. In training they are drawn by chance, one from each of equal segments, so
# that the network has another {term}`view` of a clip each time. In testing they are the same every time: the middle of each segment. (For
# heat-maps we use PoseC3D's own sampler, which is a little more involved, draw for draw.)
#
# **By hand.** A clip of 8 frames, 4 are wanted: the segments are 0–1, 2–3, 4–5 and 6–7. Their middles lie between two frames,
# and the later one is taken.

# %%
rng = np.random.default_rng(seed)
print(
    "training:",
    sampling.segment_train(8, 4, rng),
    sampling.segment_train(8, 4, rng),
)
print("testing: ", sampling.segment_centres(8, 4))

# %% [markdown]
# ### The crop around the speaker
#
# Most of a frame is not the speaker. `compact_box` finds the box around all keypoints of the clip, makes it square (up to rounding; it
# may stick out of the frame), adds a margin, and shifts the coordinates into it. It is one box for the whole clip: a box per frame would take the motion out.

# %%
cropped, box = augment.compact_box(
    keypoints[None], scores[None], padding=config.skeleton.padding
)  # [M = 1, T, V, 2]
print("left, top, right, bottom:", box)

# %% [markdown]
# ## Heat-maps of joints
#
# The paper writes that a heat-map $J$ is "composed of $K$ Gaussian heatmaps" around the keypoints. In full
# {cite}`duan2022posec3d`: for keypoint $k$ with position $(x_k, y_k)$ and score $c_k$, its channel at the pixel in column $i$
# and row $j$ is
#
# $$J_{kij} = c_k \exp\!\left(-\frac{(i - x_k)^2 + (j - y_k)^2}{2\sigma^2}\right),\qquad \sigma = 0.6,$$ (eq-joint)
#
# and zero outside a window of $3\sigma = 1.8$ pixels to either side. If there are several persons, the largest value counts.
# Our function is {py:func}`migcore.heatmaps.joint_heatmaps`. It draws a whole batch at once, on the GPU if there is one,
# because a drawn volume is large and a list of keypoints is small:

# %%
volume_size = (
    skeleton.num_joints,
    config.skeleton.frames,
    *config.skeleton.train_size,
)
volume_bytes = 4 * np.prod(volume_size)
list_bytes = 4 * config.skeleton.frames * skeleton.num_joints * 3
print(
    f"volume [V, T, H, W] = {volume_size}: {volume_bytes / 2**20:.2f} MiB of float32"
)
print(
    f"x, y, score: {list_bytes / 2**10:.2f} KiB, {volume_bytes // list_bytes} times less"
)

# %% [markdown]
# **By hand.** One keypoint at $x = 10$, $y = 2$ with score 1. The peak is $e^0 = 1$. One pixel away the value is
# $e^{-1/0.72} = 0.249$, two pixels away $e^{-4/0.72} = 0.004$. Now the window. It runs from $10 - 1.8 = 8.2$ to
# $10 + 1.8 = 11.8$. The published code cuts both ends to whole numbers, 8 and 11, and so covers pixels 8 to 11: two to the
# left, one to the right. It is a little lopsided, and we keep it so, because weights were trained on it. Below, rows are $y$ and
# columns are $x$, of which 6 to 13 are shown.

# %%
one = torch.tensor([10.0, 2.0]).view(1, 1, 1, 1, 2)  # [B, M, T, V, 2]
drawn = heatmaps.joint_heatmaps(
    one, torch.ones(1, 1, 1, 1), size=(5, 16)
)  # [B, V, T, H, W]
pd.DataFrame(drawn[0, 0, 0].numpy()).loc[:, 6:13].map("{:.3f}".format)

# %% [markdown]
# ## Heat-maps of limbs
#
# A bone $e$ between keypoints $a$ and $b$, a {term}`limb`, gets a channel, too. The distance is now to the line segment, and the bone is only as
# sure as the less sure of its ends:
#
# $$L_{eij} = \min(c_a, c_b)\, \exp\!\left(-\frac{d\big((i,j),\, \overline{ab}\big)^2}{2\sigma^2}\right).$$ (eq-limb)
#
# **By hand.** A bone from $(2, 2)$ with score 1 to $(6, 2)$ with score 0.2: the ridge is 0.2 high all along, and
# $0.2 \cdot 0.249 = 0.050$ beside it.

# %%
ends = torch.tensor([[2.0, 2.0], [6.0, 2.0]]).view(1, 1, 1, 2, 2)
ridge = heatmaps.limb_heatmaps(
    ends, torch.tensor([1.0, 0.2]).view(1, 1, 1, 2), size=(5, 16), bones=[(0, 1)]
)
pd.DataFrame(ridge[0, 0, 0].numpy()).loc[:, :8].map("{:.3f}".format)

# %% [markdown]
# ## The real run
#
# Here is the clip from above as heat-maps, joints on the left, limbs on the right, all channels laid over each other. (A network gets
# fewer frames, and each channel by itself.) Press play.

# %% tags=["remove-input"]
joint, limb = pictures.clip_volumes(
    clip,
    index,
    skeleton,
    frames=min(clip.frames, 48),
    size=config.skeleton.test_size,
    padding=config.skeleton.padding,
)
pictures.volume_animation(joint, limb)

# %% [markdown]
# Watch the wrists and the finger tips. Where the estimator was unsure the spots fade; where it lost a hand they vanish. Small
# motions are smaller still in here, and a motion of less than a pixel shows only in how the brightness is shared among neighbouring
# pixels.
#
# ### All classes on one sheet

# %% mystnb={"figure": {"name": "fig-contact-sheet", "caption": "The 32 classes, each as three frames of one clip of the training split."}, "image": {"alt": "Contact sheet of 32 gestures in two columns, three film frames each"}} tags=["remove-input"]
pictures.contact_sheet(index)

# %% [markdown]
# Could you name them without the captions? Try with a hand over the labels. Then ask which of them you could still name from
# the skeleton alone. A tie, a pen, pressed lips and puffed cheeks are on the film and nowhere in the 22 points. On the other
# hand the skeleton does not care about light, shirts and walls.
#
# ### Two sensors

# Take a gesture of the shoulders and one with a pen, and look at both records of each.

# %% mystnb={"figure": {"name": "fig-sensors", "caption": "Above what the camera saw, below the height of shoulders, left hand and nose as the skeleton file has it, against their median; up is up (gaps: not found)."}, "image": {"alt": "Film frames of two gestures, and under each the height of some keypoints over time"}} tags=["remove-input"]
pair = [
    next(c for c in train if c.label == gesture(name).id)
    for name in ("shake shoulder", "play things")
]
pictures.sensors(
    pair, index, skeleton, ["ShoulderLeft", "ShoulderRight", "HandLeft", "Nose"]
)

# %% tags=["remove-input"]
found = np.concatenate(
    [
        imigue.read_clip_skeleton(c, index.column_map)[1]
        for c in index.split("train")
    ]
)  # [N, V]
lost = dict(zip(skeleton.joints, (found == 0).mean(0), strict=True))
body, fingers = skeleton.joints[:12], skeleton.joints[12:]
worst = max(body, key=lambda name: lost[name])
Markdown(
    "**What do we see?** Shoulders are in their curves, as far as the noise lets one see; a pen is in no curve at all. The skeleton file"
    f" is an estimate. Over all training frames, {(found == 0).mean():.1%} of its points"
    f" are missing: {np.mean([lost[name] for name in fingers]):.1%} of the fingers, {np.mean([lost[name] for name in body]):.1%}"
    f" of the other joints, most often *{worst}* ({lost[worst]:.1%}). The scores of those that were found have a median of"
    f" {np.median(found[found > 0]):.2f}. The curves jitter even where nobody moves: that is noise, and the network has to"
    " look past it. What the film has and the skeleton has not, no amount of training brings back."
)

# %% [markdown]
# ### How many of each

# %% mystnb={"figure": {"name": "fig-classes", "caption": "Clips per class and split in the data of this page."}, "image": {"alt": "Bar chart of clips per class for each split"}} tags=["remove-input"]
plots.class_bars(
    {
        s: np.bincount(index.labels(s), minlength=len(CLASSES))
        for s in index.summary()
    },
    label="clips",
)

# %% [markdown]
# ### How hard is it?
#
# A drawn data set can be made as easy or as hard as one likes, so it was made before any method was run on it, and then
# frozen. The yardstick is two deliberately simple networks: a 1-D CNN on the raw keypoints and a 2-D CNN on eight frames
# ({py:mod}`migcore.studio.probes`). Each should be right on 50 to 75 % of the validation clips, and the two together clearly on
# more: otherwise one sensor would be enough, and there would be nothing to fuse.

# %%
difficulty = {
    name: experiments.run(f"difficulty_{name}", config, seed=seed)
    for name in ("skeleton", "film")
}
ledger = experiments.ledger()
outputs = {
    name: ledger.load_arrays(run, "val") for name, run in difficulty.items()
}
labels = outputs["film"]["labels"]
both = ensemble.fuse(
    {name: out["logits"] for name, out in outputs.items()},
    {"skeleton": 0.5, "film": 0.5},
)
rows = {
    **{name: run.metrics["val"] for name, run in difficulty.items()},
    "both": metrics.classification(both, labels),
}
pd.DataFrame(rows).T[["top1", "mean_class"]].map("{:.1%}".format)

# %% tags=["remove-input"]
recall = {
    name: plots.recalls(out["logits"].argmax(1), labels)
    for name, out in outputs.items()
}
lead = np.nan_to_num(recall["film"] - recall["skeleton"])
missed = [
    c.name
    for c in CLASSES
    if max(recall["skeleton"][c.id], recall["film"][c.id]) == 0
]
Markdown(
    f"**What do we see?** The film probe leads most on *{CLASSES[lead.argmax()].name}*, the skeleton probe on"
    f" *{CLASSES[lead.argmin()].name}*. Classes that both always miss: {', '.join(missed) or 'none'}. Remember these numbers when you"
    " read chapters 4 to 7: nothing says that the paper's networks, which are larger, are made for pre-training on real films and get"
    " few epochs here, must lie above them on data this small. What those chapters compare is the methods with each other."
)

# %% [markdown]
# ## Summary
#
# * A clip is a row of a label file; only the frames that are needed are decoded.
# * A fixed number of frames is sampled: by chance in training, always alike in testing.
# * One square box around the speaker for the whole clip; then a spot per joint, a ridge per bone.
# * Volumes are drawn after the clips are gathered into a batch, on the device that trains.
#
# ## Exercises
#
# ````{exercise} Half a pixel · pencil
# :label: ex-half
# Move the keypoint of the example from $x = 10$ to $x = 10.5$. What is the largest value in the heat-map, and how many columns
# are not zero? Compute it by hand first.
# ````

# %% [markdown]
# ````{solution-start} ex-half
# :class: dropdown
# ````

# %%
half = heatmaps.joint_heatmaps(
    torch.tensor([10.5, 2.0]).view(1, 1, 1, 1, 2),
    torch.ones(1, 1, 1, 1),
    size=(5, 16),
)
columns = (half[0, 0, 0, 2] > 0).nonzero().flatten().tolist()
print(f"largest {half.max():.3f} = exp(-0.25/0.72); columns {columns}")

# %% [markdown]
# The grid has no pixel at 10.5, so no pixel gets the full score: where a keypoint falls between pixels changes how bright
# it is. The window runs from 8.7 to 12.3, which is cut to 8 and 12: five columns instead of four.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} The wrong bones · code
# :label: ex-wrong-bones
# The winner of the 2023 challenge {cite}`li2023joint` published a bone list that counts joints from 1 where the code counts
# from 0. Our package keeps it as `imigue22_miga2023` so that its weights can be loaded. Which bones does it have that the
# correct tree has not? Draw one frame with each.
# ````

# %% [markdown]
# ````{solution-start} ex-wrong-bones
# :class: dropdown
# ````

# %% mystnb={"image": {"alt": "The same frame twice: with the bones of a body, and with lines that cross it"}}
published = layout("imigue22_miga2023")
tree = {frozenset(bone) for bone in skeleton.bones}
wrong = [
    tuple(published.joints[j] for j in bone)
    for bone in published.bones
    if frozenset(bone) not in tree
]
print(
    f"{len(wrong)} of {published.num_bones} bones are not in the tree, for example"
)
print(wrong[:3])
pictures.skeletons(clip, index, [skeleton, published])

# %% [markdown]
# The network was trained on those lines all the same, and won: its channels held *some* pairs of joints. What the wrong pairs
# cost it, only training both can tell.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Mirror, mirror · code
# :label: ex-mirror
# A flipped clip must swap left and right keypoints as well as mirror $x$. Flip the clip twice and check that nothing has
# changed. Then flip only the coordinates and look at what a network would be told.
# ````

# %% [markdown]
# ````{solution-start} ex-mirror
# :class: dropdown
# ````

# %%
width_px = 64
flipped = augment.flip_keypoints(keypoints, scores, skeleton, width_px)
back = augment.flip_keypoints(*flipped, skeleton, width_px)
print("twice is nothing:", np.allclose(back[0], keypoints, atol=1e-3))
left = skeleton.joints.index("HandLeft")
found = (scores[:, left] > 0) & (flipped[1][:, left] > 0)
for name, x in (
    ("as it is", keypoints[..., 0]),
    ("flipped", flipped[0][..., 0]),
    ("coordinates only", width_px - 1 - keypoints[..., 0]),
):
    print(f"{name:17s}x of HandLeft {x[found, left].mean():.0f} on average")
pairs = [
    (skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.flip_pairs[:3]
]
print("swapped with each other:", pairs)

# %% [markdown]
# In the picture, *HandLeft* is the hand on the left. With coordinates alone it is on the right: the channel "left hand" would hold a
# right hand in every second training clip.
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:func}`migcore.data.video.read_frames`, {py:func}`migcore.data.imigue.read_clip_skeleton`,
# {py:func}`migcore.data.sampling.segment_centres`, {py:func}`migcore.data.augment.compact_box`,
# {py:func}`migcore.heatmaps.joint_heatmaps`, {py:func}`migcore.heatmaps.limb_heatmaps`.
# Next: what CLIP, trained on other pictures, knows of the gestures.
# References: {cite}`wang2024multimodal,duan2022posec3d,liu2021imigue,li2023joint`.
