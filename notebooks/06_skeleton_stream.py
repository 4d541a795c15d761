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
# # The skeleton stream: PoseC3D on joints and limbs
#
# This chapter trains a 3-D convolutional network on heat-map volumes, once on joints and once on limbs, and adds up what the
# two say. It is section 2.4 of the paper {cite}`wang2024multimodal` without the text alignment, which makes it the PoseC3D
# {cite}`duan2022posec3d` rows of Table 1.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from migcore import ensemble, experiments, metrics, presets
from migcore.labels import CLASSES, GROUPS, NUM_CLASSES
from migcore.models.posec3d import PoseC3D
from migcore.report import pictures, plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)

# %% [markdown]
# ## The idea in one picture
#
# A residual network for images, made three-dimensional. It is called *SlowOnly*: it takes few frames, keeps every one of them
# until late, and looks along time only in its last two stages. Space shrinks early, time hardly. Heat-maps hold little
# detail, so the network has three stages instead of four, and half the usual width.

# %% mystnb={"figure": {"name": "fig-slowonly", "caption": "What becomes of a volume: channels, frames and height × width after each part of the network (sizes of this page's preset)."}, "image": {"alt": "Boxes whose faces shrink while their depth in channels grows"}} tags=["remove-input"]
pictures.network(
    config.posec3d, config.skeleton.frames, config.skeleton.train_size
)

# %% tags=["hide-input"]
frames, (height, width) = config.skeleton.frames, config.skeleton.train_size
model = PoseC3D(config.posec3d).eval()
x = torch.zeros(1, config.posec3d.in_channels, frames, height, width)
rows = [("volume", list(x.shape), 0)]
with torch.no_grad():
    for name, part in model.backbone.named_children():
        x = part(x)
        rows.append(
            (name, list(x.shape), sum(p.numel() for p in part.parameters()))
        )
rows.append(
    (
        "mean, linear",
        list(model.cls_head(x).shape),
        sum(p.numel() for p in model.cls_head.parameters()),
    )
)
pd.DataFrame(rows, columns=["", "[B, D, T, H, W]", "parameters"]).set_index(
    ""
).rename_axis(None)

# %% [markdown]
# ## The loss
#
# The first line of equation 6 is the cross-entropy of the true class, over the network's soft-max $\hat y$:
#
# $$\ell_{cls} = -\frac{1}{N}\sum_{i=1}^{N}\sum_{j=1}^{K} y_{i,j}\log \hat y_{i,j}.$$ (eq-cross-entropy)
#
# Its second line, $\ell_{emb}$, pulls the pooled feature towards the text vector of the true class. That is a later chapter;
# here $\gamma = 0$.
#
# **By hand.** An untrained network knows nothing: all 32 classes get 1/32, and the loss is $\log 32 = 3.47$. Every
# training should begin near this value. If yours begins elsewhere, look for a bug.

# %%
torch.nn.functional.cross_entropy(
    torch.zeros(1, NUM_CLASSES), torch.tensor([0])
).item()

# %% [markdown]
# ## The real run
#
# Both networks are trained with stochastic gradient descent and a cosine schedule; the preset holds the recipe. If a run with
# this configuration, these data and this code is in the ledger, it is loaded instead.

# %%
joint = experiments.run("posec3d_joint", config, seed=seed)
limb = experiments.run("posec3d_limb", config, seed=seed)
fusion = experiments.run("posec3d_fusion", config, seed=seed)

ledger = experiments.ledger()
# the challenge keeps its test labels to itself
split = "test" if fusion.metrics.get("test") else "val"
arrays = {
    name: ledger.load_arrays(run, split)
    for name, run in (("joints", joint), ("limbs", limb), ("fusion", fusion))
}
labels = arrays["fusion"]["labels"]
predicted = {name: a["logits"].argmax(1) for name, a in arrays.items()}

# %% mystnb={"figure": {"name": "fig-curves", "caption": "Training loss and validation accuracy, epoch by epoch."}, "image": {"alt": "Two line charts: loss falling and accuracy rising over the epochs, for joints and limbs"}} tags=["remove-input"]
plots.curves({"joints": joint.history, "limbs": limb.history})

# %% tags=["remove-input"]
found = {
    name: run.metrics[split]
    for name, run in (("joints", joint), ("limbs", limb), ("fusion", fusion))
}
columns = ["top1", "top5", "mean_class", "mean_class_published"]
pd.DataFrame(found).T[columns].map("{:.1%}".format)

# %% tags=["remove-input"]
best, worse = sorted(("joints", "limbs"), key=lambda name: -found[name]["top1"])
lead = found[best]["top1"] - found[worse]["top1"]
order = (
    f"{best} are better than {worse},"
    if lead > 0
    else "joints and limbs are equally good:"
)
first, last = joint.history[0]["loss"], joint.history[-1]["loss"]
gap = 100 * (found[best]["top1"] - found[best]["mean_class"])
Markdown(
    f"**What do we see?** The loss of the joints is {first:.2f} on average over the first epoch (an untrained network has"
    f" {np.log(NUM_CLASSES):.2f}) and {last:.2f} over the last. On the {found['joints']['n']} {split} clips, {order}"
    f" {found[best]['top1']:.1%} against {found[worse]['top1']:.1%} top-1. The paper's Table 1 has the limbs in front, by 60.74"
    f" to 59.54. Mean-class accuracy of the {best} is {abs(gap):.1f} points {'below' if gap > 0 else 'above'} their top-1"
    f"{': the frequent classes carry the score' if gap > 0 else ''}."
)

# %% [markdown]
# ### Class by class

# %% mystnb={"figure": {"name": "fig-recall", "caption": "Recall per class on the test clips."}, "image": {"alt": "Bars of recall per class for joint, limb and their fusion"}} tags=["remove-input"]
plots.class_bars(
    {name: plots.recalls(p, labels) for name, p in predicted.items()},
    label=f"recall on the {split} clips",
)

# %% [markdown]
# ### What is taken for what

# %% mystnb={"figure": {"name": "fig-confusion", "caption": "Confusion of the fusion by body part: each row shows where the clips of one body part end up."}, "image": {"alt": "A square matrix of shares, body part by body part"}} tags=["remove-input"]
plots.group_confusion(predicted["fusion"], labels)

# %% tags=["remove-input"]
part = np.array([GROUPS.index(g.group) for g in CLASSES])
same_part = (part[predicted["fusion"]] == part[labels]).mean()
right = (predicted["fusion"] == labels).mean()
recall = plots.recalls(predicted["fusion"], labels)
lost = [g.name for g in CLASSES if recall[g.id] == 0]
Markdown(
    f"**What do we see?** {same_part:.1%} of the clips end up in the right body part and {right:.1%} in the right class."
    f" {'Of the clips in the right part, ' + format(right / same_part, '.1%') + ' also have the right class.' if same_part else ''}"
    f" {len(lost)} classes are never found{': ' + ', '.join(lost) if lost else ''}."
)

# %% [markdown]
# ### Where it fails

# %% mystnb={"figure": {"name": "fig-skeleton-failures", "caption": "Test clips that the fusion gets wrong although it is most sure of them, as the camera saw them. The network saw only the skeletons."}, "image": {"alt": "Film strips of four clips with their true and predicted classes"}} tags=["remove-input"]
sure = torch.from_numpy(arrays["fusion"]["logits"]).softmax(1).numpy()
wrong = np.flatnonzero(predicted["fusion"] != labels)
worst = wrong[np.argsort(-sure[wrong].max(1))][:4]
records = {clip.id: clip for clip in index.split(split)}
titles = [
    f"{CLASSES[labels[i]].name}, taken for {CLASSES[predicted['fusion'][i]].name} ({sure[i].max():.0%} sure)"
    for i in worst
]
pictures.strips([records[fusion.clips[split]["ids"][i]] for i in worst], titles)

# %% [markdown]
# Ask of each: is it in the skeleton at all? A network cannot find pressed lips among 22 points that hold no lips. For such
# clips the film is needed, and that is what the paper's third stream is for.
#
# ## Two streams are better than one?
#
# Section 2.5 adds the streams' outputs with weights. With two streams and equal weights, equation 7 is
#
# $$Y = w_1 y_1 + w_2 y_2,\qquad w_1 = w_2 = \tfrac12.$$ (eq-fusion)
#
# We add probabilities, as the authors of PoseC3D do. The function is {py:func}`migcore.ensemble.fuse`.
#
# **By hand.** One stream says 0.6 for class A and 0.4 for B, the other 0.1 and 0.9. The sum is 0.35 against 0.65: B. The
# second was surer, and that counts.

# %%
first, second = (
    np.log([[0.6, 0.4]]),
    np.log([[0.1, 0.9]]),
)  # logits [N = 1, C = 2]
ensemble.fuse({"first": first, "second": second}, {"first": 0.5, "second": 0.5})

# %% tags=["remove-input"]
hit = {name: p == labels for name, p in predicted.items()}
only_joint, only_limb = (
    (hit["joints"] & ~hit["limbs"]).sum(),
    (hit["limbs"] & ~hit["joints"]).sum(),
)
gain = 100 * (
    found["fusion"]["top1"] - max(found["joints"]["top1"], found["limbs"]["top1"])
)
Markdown(
    f"**What do we see?** Joints alone are right on {only_joint} clips where limbs are wrong, limbs alone on {only_limb}; on"
    f" {(hit['joints'] & hit['limbs']).sum()} both are right. The sum is {gain:+.1f} points from the better single stream."
    " If both streams made the same mistakes, adding them could win nothing."
)

# %% [markdown]
# ## Summary
#
# * Heat-map volumes let an image-like network read skeletons.
# * An untrained network's loss is $\log 32$; this checks the plumbing.
# * Joints and limbs see the same keypoints, yet make different mistakes, and a sum can use that.
# * What the skeleton does not hold, no network finds in it.
#
# ## Exercises
#
# ````{exercise} How unequal should the weights be?
# :label: ex-weights
# Move the weight of the joints from 0 to 1 in ten steps and list the accuracy on validation and on test clips. Which weight would
# you choose, and by which of the two curves?
# ````

# %% [markdown]
# ````{solution-start} ex-weights
# :class: dropdown
# ````

# %%
scores: dict[str, dict[float, float]] = {}
for part in {"val", split}:
    joints, limbs = (ledger.load_arrays(run, part) for run in (joint, limb))
    logits = {"joints": joints["logits"], "limbs": limbs["logits"]}
    for w in np.linspace(0, 1, 11).round(1):
        fused = ensemble.fuse(logits, {"joints": w, "limbs": 1 - w})
        scores.setdefault(part, {})[w] = metrics.classification(
            fused, joints["labels"]
        )["top1"]
pd.DataFrame(scores).rename_axis("weight of the joints").map("{:.1%}".format)

# %% [markdown]
# Choose by validation, always: a weight that is chosen on the test clips has seen the answers. How flat the curve is around its
# best tells how little the exact weight matters.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Count the oracle
# :label: ex-oracle
# For how many test clips is at least one of the two streams right? An *oracle* that always picks the right stream would reach
# this. How far is the fusion from it?
# ````

# %% [markdown]
# ````{solution-start} ex-oracle
# :class: dropdown
# ````

# %%
either = hit["joints"] | hit["limbs"]
print(f"either {either.mean():.1%}, fusion {hit['fusion'].mean():.1%}")

# %% [markdown]
# The gap is what a better way of joining them could win at most.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Chance and the clip count
# :label: ex-standard-error
# How large is the standard error of a top-1 accuracy of 60 % on 600 clips, if clips were independent? Why is it larger in truth?
# ````

# %% [markdown]
# ````{solution-start} ex-standard-error
# :class: dropdown
# ````

# %%
print(f"{np.sqrt(0.6 * 0.4 / 600):.1%}")

# %% [markdown]
# Clips of one person resemble each other, so 600 clips of a few people tell less than 600 clips of 600 people. This is why
# the intervals in this book draw whole subjects, not clips ({py:func}`migcore.metrics.bootstrap_interval`).
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:class}`migcore.models.posec3d.PoseC3D`, {py:func}`migcore.experiments.run`, {py:func}`migcore.ensemble.fuse`,
# {py:func}`migcore.metrics.classification`, {py:func}`migcore.metrics.confusion`.
# References: {cite}`duan2022posec3d,duan2022pyskl,wang2024multimodal`.
