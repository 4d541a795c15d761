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
# # The teacher: CLIP, before it has heard of the gestures
#
# This chapter asks what {term}`CLIP` {cite}`radford2021clip` knows about the 32 gestures without any training on them: by comparing
# frames with sentences ({term}`zero-shot`), and by a linear classifier on its frozen features. It is the frozen branch of section 2.2
# of the paper {cite}`wang2024multimodal` and the {term}`teacher` of all that follows.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from migcore import experiments, presets
from migcore.data.datasets import VideoClips
from migcore.labels import CLASSES, class_prompts
from migcore.models.clip import load_teacher
from migcore.report import pictures, plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)
teacher = load_teacher(config.teacher)
parameters = sum(p.numel() for p in teacher.parameters())
print(f"teacher: {config.teacher.name}, {parameters:,} parameters")
print(f"pictures of {teacher.image_size}, vectors of {teacher.embed_dim}")

# %% [markdown]
# ## The idea in one picture
#
# CLIP is two networks. One turns a picture into a vector, its {term}`embedding`, the other a sentence. They were trained
# together so that a picture and its caption point the same way, and a picture and somebody else's caption do not. Afterwards
# a *classifier* needs no training: write a sentence for each class, turn the sentences into vectors, and take the class whose
# vector is nearest to the picture's.

# %% tags=["hide-input"]
# the challenge keeps its test labels to itself
split = "test" if (index.labels("test") >= 0).any() else "val"
text = teacher.class_embeddings()  # [C, E], unit vectors
clips = VideoClips(index, split, config.video, train=False, seed=seed)
labels = index.labels(split)
some = [int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)][
    :20
]  # a clip of each class, the first 20 classes
video = torch.stack([clips[i]["video"][0] for i in some])  # [B, 3, T, H, W] uint8
frames = teacher.encode_video(video)  # [B, T, E], unit vectors
print(
    "video",
    list(video.shape),
    "→ frames",
    list(frames.shape),
    "; texts",
    list(text.shape),
)

# %% mystnb={"figure": {"name": "fig-clip", "caption": "Two towers meet: how near the frames of some clips (rows) are to the sentences of the classes (columns). Bright is near; a ring marks the true class. A good classifier would have every ring on the brightest cell of its row."}, "image": {"alt": "A matrix of cosines between clips and classes, with marks on the true classes"}} tags=["remove-input"]
plots.against_texts((frames.mean(1) @ text.T).cpu().numpy(), labels[some])

# %% [markdown]
# ```{admonition} Which CLIP is this?
# :class: important
# On iMiGUE the teacher is OpenAI's {term}`ViT-B/16`, trained on some 400 million pictures from the internet. On the studio that would
# be both too slow for a laptop and unfair to the drawn films, so the studio has a teacher of its own: a {term}`miniature`,
# pre-trained with the same contrastive loss on captioned studio frames of other speakers. Its captions say what can be seen
# ("left hand at the chin, face turned to the right"), never a class name or one of the sentences below. Two things make its
# life easier than CLIP's: captions and class descriptions use the same plain words, and its pre-training was helped by what
# only a renderer knows, which pixel belongs to which part of the body. And more than half of its pictures show one of the 32 gestures
# being made; what it was never given are their names and sentences. It has never seen a person.
# ```
#
# ## Sentences for classes
#
# A name alone is a poor sentence: "turtle neck" is a pullover as well. Following FROSTER {cite}`huang2024froster`, each class
# gets a short description. Each of 28 templates is filled with the name and followed by name and description; the 29th {term}`prompt`
# is name and description alone.

# %%
prompts = class_prompts()  # 29 lists of 32 sentences
neck = next(g for g in CLASSES if g.name == "touch neck")
for row in (0, 1, 10, 28):
    print(f"{row:2d}  {prompts[row][neck.id]}")

# %% [markdown]
# A class's vector, its {term}`class embedding`, is the mean of its 29 unit vectors, made unit again. How near are the classes to each other? If two
# sentences point the same way, no picture can tell them apart.

# %% mystnb={"figure": {"name": "fig-similarity", "caption": "Cosine between the text vectors of the classes, in the order of their body parts."}, "image": {"alt": "A 32 by 32 matrix of cosines between class texts"}} tags=["remove-input"]
plots.similarity((text @ text.T).cpu().numpy())

# %% tags=["remove-input"]
cosines = (text @ text.T).cpu().numpy()
off = np.where(np.eye(len(CLASSES), dtype=bool), -1, cosines)
a, b = np.unravel_index(off.argmax(), off.shape)
Markdown(
    f"**What do we see?** The two nearest classes are *{CLASSES[a].name}* and *{CLASSES[b].name}* with a cosine of"
    f" {cosines[a, b]:.3f}; on average two different classes have {cosines[~np.eye(len(CLASSES), dtype=bool)].mean():.3f}."
    " What matters is not how large the cosines are but how much they differ: the classifier only compares."
)

# %% [markdown]
# ## From frames to logits
#
# Section 2.2 of the paper calls the frames' vectors $z^v_f \in \mathbb R^{T \times C}$ and the texts' $z^t_f \in \mathbb R^{L \times C}$.
# Equation 1 compares them by cosine, divided by a {term}`temperature`:
#
# $$\text{logit}_{l} = \frac{1}{T}\sum_{t=1}^{T} \frac{\cos(z^v_{f,t},\, z^t_{f,l})}{\tau}.$$ (eq-zero-shot)
#
# The paper writes that it pools over time first, $\text{sim}[p(z^v), z^t]$, and then takes the cosine. The published code of
# FROSTER takes a cosine per frame and averages. We do as the code does. Our function is
# {py:meth}`migcore.models.clip.Teacher.logits`, and $1/\tau$ is CLIP's learnt scale.
#
# **By hand.** Two frames, $(1, 0)$ and $(0, 1)$, and one class, $(0.6, 0.8)$. The cosines are 0.6 and 0.8, on average 0.7.
# Pooling first gives the mean $(0.5, 0.5)$, whose cosine with the class is $0.7 / \sqrt{0.5} = 0.99$. The two readings of
# equation 1 are not the same: pooling first forgets that the frames disagreed. (With vectors of length 1, as here, they never disagree
# about which class wins, only about how sure it is.)

# %%
frames_BTE = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
class_CE = torch.tensor([[0.6, 0.8]])
per_frame = (frames_BTE @ class_CE.T).mean(1).item()
pooled = torch.nn.functional.cosine_similarity(
    frames_BTE.mean(1), class_CE
).item()
print(f"mean of cosines {per_frame:.2f}, cosine of the mean {pooled:.2f}")

# %% [markdown]
# ## The real run: zero-shot and a linear probe
#
# Two experiments. *Zero-shot* uses nothing but the sentences. The {term}`linear probe` throws the sentences away, averages each
# clip's frame vectors, and fits a linear classifier on the training clips. It tells how much the features know,
# whatever the sentences make of it. Both are kept in the ledger like any other run.

# %%
zero_shot = experiments.run("zero_shot", config, seed=seed)
probe = experiments.run("linear_probe", config, seed=seed)
found = {run.experiment: run.metrics[split] for run in (zero_shot, probe)}
pd.DataFrame(found).T[["top1", "top5", "mean_class"]].map("{:.1%}".format)

# %% tags=["remove-input"]
chance = 1 / found["zero_shot"]["classes_present"]
zero, linear = (
    found[name]["mean_class"] for name in ("zero_shot", "linear_probe")
)
Markdown(
    f"**What do we see?** On the {split} clips, guessing has a mean-class accuracy of {chance:.1%}. Zero-shot has {zero:.1%},"
    f" which is {zero / chance:.1f} times that; the linear probe has {linear:.1%}, {linear / chance:.1f} times."
    f" {'The features know more than the sentences bring out' if linear > zero else 'The sentences lose nothing here'}: from"
    f" the sentences to the probe the difference is {100 * (linear - zero):+.1f} points."
)

# %% [markdown]
# ### Class by class
#
# The {term}`recall` of a class is the share of its clips that are found.

# %% mystnb={"figure": {"name": "fig-teacher-recall", "caption": "Recall per class on the test clips: zero-shot and linear probe."}, "image": {"alt": "Bars of recall per class for zero-shot and linear probe"}} tags=["remove-input"]
ledger = experiments.ledger()
recalls = {}
for name, run in {"zero-shot": zero_shot, "linear probe": probe}.items():
    arrays = ledger.load_arrays(run, split)
    recalls[name] = plots.recalls(arrays["logits"].argmax(1), arrays["labels"])
plots.class_bars(recalls, label=f"recall on the {split} clips")

# %% [markdown]
# ### Where it fails

# %% mystnb={"figure": {"name": "fig-teacher-failures", "caption": "Test clips that zero-shot gets wrong although it is most sure of them."}, "image": {"alt": "Film strips with true and predicted class"}} tags=["remove-input"]
arrays = ledger.load_arrays(zero_shot, split)
sure = torch.from_numpy(arrays["logits"]).softmax(1).numpy()
wrong = np.flatnonzero(
    (sure.argmax(1) != arrays["labels"]) & (arrays["labels"] >= 0)
)
worst = wrong[np.argsort(-sure[wrong].max(1))][:4]
records = {clip.id: clip for clip in index.split(split)}
mistaken = [records[zero_shot.clips[split]["ids"][i]] for i in worst]
titles = [
    f"{CLASSES[arrays['labels'][i]].name}, taken for {CLASSES[sure[i].argmax()].name} ({sure[i].max():.0%} sure)"
    for i in worst
]
pictures.strips(mistaken, titles)

# %% [markdown]
# Ask of each failure: is it a hand that is taken for something near by, or is it motion? The teacher looks at frames one by one. What
# is told apart by *motion* (a shoulder that shakes, a torso that moves) it can only guess from a posture. This is what the video student of a later chapter adds: attention across frames.
#
# ## Summary
#
# * CLIP compares pictures with sentences, so a classifier can be written instead of trained.
# * The sentences matter: name, description, and how many wordings are averaged (more need not be better: first exercise).
# * The mean of cosines and the cosine of the mean are different readings of equation 1.
# * A linear probe separates what the features know from what the sentences say.
#
# ## Exercises
#
# ````{exercise} One sentence or twenty-nine · code
# :label: ex-prompts
# Classify some validation clips with only the last prompt (name and description, no template). Does the average of 29 help?
# ````

# %% [markdown]
# ````{solution-start} ex-prompts
# :class: dropdown
# ````

# %%
validation = VideoClips(index, "val", config.video, train=False, seed=seed)
few = np.linspace(0, len(validation) - 1, min(len(validation), 160)).astype(int)
known = torch.tensor([validation.records[i].label for i in few])
seen = torch.cat(
    [teacher.encode_video(validation[i]["video"][:1]) for i in few]
)  # [B, T, E]
last = class_prompts()[-1:]  # one list of 32 sentences
hits = {}
for name, vectors in (("one", teacher.class_embeddings(last)), ("all 29", text)):
    hits[name] = (teacher.logits(seen, vectors).argmax(1).cpu() == known).sum()
    print(f"{name}: {hits[name]} of {len(few)} clips are right")

# %% tags=["remove-input"]
Markdown(
    (
        "Here the average does worse. On the studio, one reason may be that most prompts say the class's name twice, and the captions of its"
        " teacher never say it."
        if hits["one"] > hits["all 29"]
        else "Here the average does not do worse."
    )
    + " CLIP's authors found that it helps with CLIP {cite}`radford2021clip`. Prompts are chosen on validation clips, like all else."
)

# %% [markdown]
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Shuffled time · pencil
# :label: ex-time
# Reverse the order of the frames of a clip. What happens to the logits? Prove it with equation {eq}`eq-zero-shot`.
# ````

# %% [markdown]
# ````{solution-start} ex-time
# :class: dropdown
# ````

# %%
same = torch.allclose(
    teacher.logits(frames, text), teacher.logits(frames.flip(1), text), atol=1e-4
)
print("the same logits:", same)

# %% [markdown]
# A mean does not know the order of what it averages. To this teacher, a hand that goes to the chin and a hand that leaves it
# are the same clip.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Your own sentence · long
# :label: ex-sentence
# *Bite nails* is a class that zero-shot seldom finds on the studio. Write a better description for it; say only what can be seen. Is it
# found on validation clips now, and what does it take from others?
# ````

# %% [markdown]
# ````{solution-start} ex-sentence
# :class: dropdown
# ````

# %%
bite = next(g for g in CLASSES if g.name == "bite nails").id
mine = text.clone()
mine[bite] = teacher.encode_text(
    ["bite nails: one hand with finger tips at the mouth"]
)[0]
for name, vectors in (("before", text), ("after", mine)):
    said = teacher.logits(seen, vectors).argmax(1).cpu()
    own, all_right = known == bite, (said == known).sum()
    print(
        f"{name}: {(said[own] == bite).sum()} of {own.sum()} found, {all_right} right in all"
    )

# %% [markdown]
# Replace the sentence by yours. If you now measure test accuracy for ten sentences and keep the best, you have trained on the
# test clips; use the validation clips for that.
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:func}`migcore.labels.class_prompts`, {py:func}`migcore.models.clip.load_teacher`,
# {py:class}`migcore.models.clip.Teacher`, {py:func}`migcore.experiments.run`.
# Next: this CLIP teaches a network that sees films.
# References: {cite}`radford2021clip,huang2024froster,ilharco2021openclip,wang2024multimodal`.
