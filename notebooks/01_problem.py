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
# # The problem: movements that nobody meant to make
#
# This chapter shows what a {term}`micro-gesture` is, which 32 classes {term}`iMiGUE` has, and why it is hard to name them. It follows
# sections 1 and 3.1 of the paper {cite}`wang2024multimodal` and the data set's own description {cite}`liu2021imigue`.

# %% [markdown]
# ```{admonition} Parameters of this page
# :class: note dropdown
# Every notebook of this book begins with the same three. To run the page with others, set `BOOK_PRESET`, `BOOK_SEED` and
# `BOOK_SET` when you build the book, or change the cell in the notebook.
# ```

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from migcore import experiments, metrics, presets
from migcore.data.layouts import layout
from migcore.labels import CLASSES, GROUPS, ILLUSTRATIVE, NUM_CLASSES, gesture
from migcore.report import pictures, plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)

# %% [markdown]
# ## The idea in one picture
#
# A *gesture* in the usual sense is made for someone: we wave, point, applaud. A *micro-gesture* is made for nobody. It is
# spontaneous, mostly unconscious, and over in a moment. The paper wants to find it in two records of the same moment. One
# is the **film**: rich, but heavy, and full of things that do not matter, such as a sponsor's wall. The other is the
# **skeleton**: 22 {term}`keypoints <keypoint>` per frame, light and free of background, but blind to lips, ties and pens.

# %% mystnb={"figure": {"name": "fig-two-records", "caption": "Two clips, each recorded twice: what the camera saw, and where the keypoint estimator believed the hands and the nose to be (gaps: not found; the axes differ). The curves show heights against their median; up is up. A hand that goes to the neck is in both records. Pressed lips are in the film alone."}, "image": {"alt": "Film frames of two gestures, and under each the height of hands and nose over time"}} tags=["remove-input"]
longest = sorted(index.split("train"), key=lambda c: -c.frames)
pair = [
    next(c for c in longest if c.label == gesture(name).id)
    for name in ("touch neck", "bit lip")
]
pictures.sensors(
    pair, index, layout(config.skeleton.layout), ["HandLeft", "HandRight", "Nose"]
)

# %% [markdown]
# The two again, and two more, to be played or leafed through with the arrow keys. They are small and short: that is the problem.

# %% tags=["remove-input"]
moving = {}
for clip in longest:
    if clip.label != ILLUSTRATIVE:
        moving.setdefault(clip.label, clip)
others = [c for c in moving.values() if c.label not in {p.label for p in pair}]
shown = [*pair, *others[:2]]
pictures.gesture_player(shown, [CLASSES[c.label].name for c in shown])

# %% [markdown]
# ## The 32 classes
#
# iMiGUE has 31 micro-gestures and one class for everything else that a talking person does with the hands,
# {term}`illustrative` body language. A class is a number from 0 to 31 everywhere in this book; label files hold 1 to 31, and 99 for
# *illustrative*. The names in the list of the {term}`MiGA` challenge, in which the paper took part, are sometimes loose: "touch face" is, in the data set's own wording,
# *touching or scratching head*. `migcore.labels` keeps both.

# %% tags=["hide-input"]
pd.set_option("display.max_colwidth", None)
pd.DataFrame(
    [(g.id, g.name, g.n_train, g.n_val, g.group, g.wording) for g in CLASSES],
    columns=[
        "class",
        "name",
        "train",
        "val",
        "body part",
        "wording of the data set",
    ],
).set_index("class").rename_axis(None)

# %% [markdown]
# The columns *train* and *val* count the {term}`clips <clip>` of each class in the training and validation {term}`splits <split>` of the MiGA challenge. Look at them for
# a moment before you read on.
#
# ## A long tail

# %% tags=["hide-input"]
counts = np.array([g.n_train + g.n_val for g in CLASSES])  # iMiGUE

# %% mystnb={"figure": {"name": "fig-tail", "caption": "Clips per class in iMiGUE (MiGA training and validation) and in the data of this page, sorted by body part; the axis is logarithmic."}, "image": {"alt": "Bar chart of clips per class; the bars differ by a factor of a thousand"}} tags=["remove-input"]
here = np.bincount(
    [c.label for c in index.clips if c.label >= 0], minlength=NUM_CLASSES
)
plots.class_bars(
    {"iMiGUE": counts, "this page": np.where(here > 0, here, np.nan)},
    label="clips",
    log=True,
)

# %% tags=["remove-input"]
share = np.sort(counts)[::-1] / counts.sum()
rare = counts / counts.sum() < 0.01
unseen = [g.name for g in CLASSES if g.n_val == 0]
Markdown(
    f"**What do we see?** The most frequent class alone has {share[0]:.1%} of iMiGUE's clips, the first five have"
    f" {share[:5].sum():.1%}. {rare.sum()} classes have less than one clip in a hundred and together make up"
    f" {counts[rare].sum() / counts.sum():.1%}. The largest class is {counts.max() // counts.min()} times the size of the"
    f" smallest. The challenge's validation films lack {len(unseen)} classes altogether ({', '.join(unseen)}), so nothing"
    " that is chosen on them can be chosen for those."
)

# %% [markdown]
# ## How to score: accuracy of clips, accuracy of classes
#
# The paper counts clips. With $N$ clips, true classes $y_i$ and predictions $\hat y_i$,
#
# $$\text{top-1} = \frac{1}{N}\sum_{i=1}^{N} [\hat y_i = y_i],\qquad
# \text{mean-class} = \frac{1}{|\mathcal C|}\sum_{c\in\mathcal C}\frac{\sum_i [\hat y_i = y_i = c]}{\sum_i [y_i = c]},$$ (eq-accuracies)
#
# where $\mathcal C$ are the classes that occur. {term}`Top-5 <top-5>` asks whether the true class is among the five best. With a long tail,
# top-1 can look good while most classes are never found; {term}`mean-class <mean-class accuracy>` then tells. The paper reports top-1 and top-5. We print
# all three. Our function is {py:func}`migcore.metrics.classification`.
#
# **By hand.** Four clips of three classes: three show class 0, one shows class 1. A classifier always says 0. Three of four
# clips are right, so top-1 is 3/4. Class 0 is found every time, class 1 never, class 2 does not occur: mean-class is
# (1 + 0) / 2.

# %%
always_zero = np.tile(
    [2.0, 1.0, 0.0], (4, 1)
)  # logits [N = 4, C = 3]: class 0 always wins
metrics.classification(always_zero, np.array([0, 0, 0, 1]))

# %% [markdown]
# The function also returns `mean_class_published`. The toolboxes in this field average over the classes that occur *or are
# predicted*. Had the classifier called one of the three clips of class 0 class 2, ours would be $(2/3 + 0)/2 = 0.33$ and the published
# one $(2/3 + 0 + 0)/3 = 0.22$.
#
# ## What is hidden
#
# Classes differ in who can see them. The body parts of the table above are a first guess. For *head*, most of the action is
# in the face, where a skeleton of 22 points has a nose, two eyes and two ears. For *head-hand* and *body-hand*, a hand touches
# something, and it matters what, to the centimetre. For *body* and most of *hand*, the skeleton sees what there is to see; the pen of
# *play things* it does not.

# %% tags=["hide-input"]
parts = pd.DataFrame(
    {
        "iMiGUE": counts,
        "this page": np.bincount(index.labels("train"), minlength=NUM_CLASSES),
    }
)
parts = parts.groupby([g.group for g in CLASSES]).sum().loc[list(GROUPS)]
(parts / parts.sum()).map("{:.1%}".format)

# %% [markdown]
# ## The data of this page
#
# iMiGUE is gated: its films show real people, and one has to ask for them. A book that everybody can build needs data that
# everybody can have. So this one comes with the {term}`studio`: a program that draws seated speakers, lets them fidget, and writes
# films, skeletons and labels in iMiGUE's own layout. From there on the code is the same. [The two data sets](../data.md)
# says what was built in and what was not.
#
# How much there is of it on this page:

# %% tags=["hide-input"]
pd.DataFrame(index.summary()).T

# %% [markdown]
# ```{admonition} What a number made on the studio means
# :class: important
# It says that the code runs and how methods compare *on the studio*. It does not say how well anything recognises the
# gestures of people. We write "holds on the studio" and keep the word *reproduced* for iMiGUE.
# ```

# %% tags=["remove-input"]
kind = (
    "the studio, drawn by a program"
    if config.studio and not config.data.root
    else f"the folder `{config.data.root}`"
)
train = index.labels("train")
# the challenge keeps its test labels to itself
split = "test" if (index.labels("test") >= 0).any() else "val"
test = index.labels(split)
majority = np.bincount(train).argmax()
Markdown(
    f"This page was made with **{kind}**: {len(index.clips)} clips of {len({c.video for c in index.clips})} films. Its"
    f" most frequent class is *{CLASSES[majority].name}*. Whoever always says so is right in {(test == majority).mean():.1%}"
    f" of the {split} clips, and has a mean-class accuracy of 1/{len(set(test))} = {1 / len(set(test)):.1%}. Every result in"
    " this book is to be read against these two numbers."
)

# %% [markdown]
# ## Summary
#
# * A micro-gesture is small, short and made for nobody; iMiGUE names 31 kinds and one class for the rest.
# * The classes have a long tail, so top-1 and mean-class tell different stories.
# * Film and skeleton hide different things. The paper uses both.
# * The data here are drawn unless you bring iMiGUE, and every page says which.
#
# ## Exercises
#
# ````{exercise} A lie detector? · pencil
# :label: ex-base-rate
# Suppose a gesture occurs in 20 % of tense answers and in 10 % of calm ones, and that one answer in ten is
# tense. You see the gesture. How likely is it that the answer was tense? How much more frequent than in calm answers must the
# gesture be for even odds?
# ````

# %% [markdown]
# ````{solution-start} ex-base-rate
# :class: dropdown
# ````

# %%
tense, with_tense, with_calm = 0.1, 0.2, 0.1
posterior = tense * with_tense / (tense * with_tense + (1 - tense) * with_calm)
needed = (1 - tense) / tense  # even odds: tense · r · p = (1 - tense) · p
print(f"P(tense | gesture) = {posterior:.2f}")
print(f"even odds take a gesture that is {needed:.0f} times as frequent")

# %% [markdown]
# A gesture that is twice as frequent when tense still points at a calm person four times out of five. That is one reason
# why [micro-gestures are no lie detector](../responsible_use.md).
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} The laziest classifier · code
# :label: ex-majority
# For iMiGUE's own counts (training and validation together), what do top-1, top-5 and mean-class
# become if the classifier always ranks the classes by their frequency? Compute it with {py:func}`migcore.metrics.classification`.
# ````

# %% [markdown]
# ````{solution-start} ex-majority
# :class: dropdown
# ````

# %%
labels = np.repeat(np.arange(NUM_CLASSES), counts)
found = metrics.classification(
    np.tile(counts.astype(float), (len(labels), 1)), labels
)
{name: round(found[name], 3) for name in ("top1", "top5", "mean_class")}

# %% [markdown]
# A top-5 above two thirds without looking at a single film: this is why small differences in top-5 deserve suspicion.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Without the filler · code
# :label: ex-illustrative
# *Illustrative* is not a micro-gesture. Leave it out. What share do the five largest classes have now?
# Would you report a score with it or without it?
# ````

# %% [markdown]
# ````{solution-start} ex-illustrative
# :class: dropdown
# ````

# %%
without = np.sort(np.delete(counts, ILLUSTRATIVE))[::-1]
share = without[:5].sum() / without.sum()
print(f"{share:.1%} are in the five largest of {len(without)} classes")

# %% [markdown]
# The tail stays long. The challenge scores with it, so we do, too, in order to compare; for a use in practice, telling
# "some micro-gesture" from "none" is a question of its own.
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:data}`migcore.labels.CLASSES`, {py:func}`migcore.experiments.dataset`, {py:func}`migcore.metrics.classification`,
# `migcore.report.plots`. Next: how films and skeletons become what a network can read.
# References: {cite}`wang2024multimodal,liu2021imigue`.
