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
# # The skeleton stream and its text alignment
#
# This chapter trains a 3-D convolutional network on {term}`heat-map` {term}`volumes <volume>`, once on joints and once on
# {term}`limbs <limb>`: the PoseC3D
# {cite}`duan2022posec3d` rows of Table 1. Then it does what section 2.4 of the paper {cite}`wang2024multimodal` adds: it pulls
# the network's feature to the sentence of the clip's class, as the distilled video student has learnt to read it.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from migcore import experiments, metrics, presets
from migcore.labels import CLASSES, GROUPS, NUM_CLASSES
from migcore.models.clip import load_teacher
from migcore.models.posec3d import PoseC3D, alignment_loss
from migcore.report import pictures, plots, tables

config = presets.preset(preset, overrides)
index = experiments.dataset(config)

# %% [markdown]
# ## The idea in one picture
#
# A residual network for images, made three-dimensional. It is called *SlowOnly*: it takes few frames, keeps every one of them
# until late, and looks along time only in its last two stages. Space shrinks early, time hardly. Heat-maps hold little detail,
# so the network has three stages instead of four, and half the usual width: PoseC3D's has 32 channels after its first layer, and a small
# preset fewer still.

# %% mystnb={"figure": {"name": "fig-slowonly", "caption": "What becomes of a volume after each part of the network: a sheet is as high as the picture and as wide as the clip has frames; the more sheets, the more channels. The numbers are channels × frames × height × width (sizes of this page's preset)."}, "image": {"alt": "Six piles of sheets, from heat-maps to logits: the sheets shrink from layer to layer while their number grows"}} tags=["remove-input"]
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
# Its second line, $\ell_{emb}$, is the text alignment. It comes [further down](text-alignment); until then there is none.
#
# **By hand.** An untrained network knows nothing: all 32 classes get 1/32, and the loss is $\log 32 = 3.47$. Every training from
# random weights should begin near this value. If yours begins elsewhere, look for a bug.

# %%
torch.nn.functional.cross_entropy(
    torch.zeros(1, NUM_CLASSES), torch.tensor([0])
).item()

# %% [markdown]
# ## The real run: labels alone
#
# Both networks are trained with stochastic gradient descent and a cosine schedule; the preset holds the recipe. If a run with
# this configuration, these data and this code is in the ledger, fresh or recorded, it is loaded instead.

# %%
alone = experiments.run_all(["posec3d_joint", "posec3d_limb"], config, seed=seed)
joint, limb = alone["posec3d_joint"], alone["posec3d_limb"]
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
    f"{best} are ahead of {worse},"
    if lead > 0
    else "joints and limbs are equally good:"
)
won, lost = (
    ((predicted[a] == labels) & (predicted[b] != labels)).sum()
    for a, b in ((best, worse), (worse, best))
)
chance = metrics.mcnemar(predicted[best] == labels, predicted[worse] == labels)
first, last = joint.history[0]["loss"], joint.history[-1]["loss"]
gap = 100 * (found[best]["top1"] - found[best]["mean_class"])
Markdown(
    f"**What do we see?** The loss of the joints is {first:.2f} on average over the first epoch (an untrained network has"
    f" {np.log(NUM_CLASSES):.2f}) and {last:.2f} over the last. On the {found['joints']['n']} {split} clips, {order}"
    f" {found[best]['top1']:.1%} against {found[worse]['top1']:.1%} top-1: {won} clips that only they have right against {lost},"
    f" a difference that {'is more than chance would make' if chance < 0.05 else 'chance can make'} (McNemar's p = {chance:.2g}). The paper's Table 1 has the limbs in front, by 60.74"
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
# Ask of each: is it in the skeleton at all? There are no lips among the 22 points: that they are pressed, a network can only guess from
# what is missing, when nothing else moves. For such clips the film is there, and that is what the paper's third stream is for.
#
# ### Two streams are better than one?
#
# PoseC3D's authors add the probabilities of both networks, each with half the weight:
#
# $$Y = \tfrac12\, y_2 + \tfrac12\, y_3,$$ (eq-fusion)
#
# with $y_2$ of the joints and $y_3$ of the limbs; $y_1$ will be the film.
# The function is {py:func}`migcore.ensemble.fuse`; the next chapter asks for better weights, with the film as third stream.

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
# (text-alignment)=
# ## Text alignment: a sentence as a second teacher
#
# A label says *which* class, and nothing of what the classes have to do with each other. The text vectors of the classes do:
# *touch hat* stands nearer to *touch forehead* than to *cross finger*. Section 2.4 of the paper gives this to the skeleton network. A linear
# map turns the pooled feature into $\hat x$, a vector as long as a text vector, and a second loss pulls it to the text of the
# clip's class: {term}`text alignment`. The texts come from the video student (distilled, with token decay): they were trained on labelled gestures, the
# teacher's were not. So the skeleton runs depend on a video run, and the ledger keeps its key.
#
# ### Whose sentences?

# %%
student = experiments.run("froster_decay", config, seed=seed)
texts = {
    "teacher": load_teacher(config.teacher).class_embeddings().cpu().numpy(),
    "student": ledger.load_arrays(student, "text")["embeddings"],
}  # each [C, E], unit vectors
cosine = {who: text @ text.T for who, text in texts.items()}  # [C, C]

# %% mystnb={"figure": {"name": "fig-student-texts", "caption": "Cosine between the text vectors of the classes. Above the diagonal: the teacher's. Below: the student's, after distillation. Were the student's sentences those of its teacher, the picture would be symmetric."}, "image": {"alt": "A 32 by 32 matrix of cosines whose upper half is the teacher's and whose lower half is the student's"}} tags=["remove-input"]
rank = np.argsort(plots.by_group())  # a class's row in the picture
above = rank[:, None] < rank
plots.similarity(np.where(above, cosine["teacher"], cosine["student"]))

# %% tags=["remove-input"]
pairs = ~np.eye(NUM_CLASSES, dtype=bool)
both = pd.DataFrame({who: c[pairs] for who, c in cosine.items()})
kept = both.corr(method="spearman").loc["teacher", "student"]
moved = (
    "closer together"
    if both["student"].mean() > both["teacher"].mean()
    else "apart"
)
nearest = {}
for who, c in cosine.items():
    a, b = np.unravel_index(np.where(pairs, c, -1).argmax(), c.shape)
    nearest[who] = f"*{CLASSES[a].name}* and *{CLASSES[b].name}* ({c[a, b]:.2f})"
Markdown(
    f"**What do we see?** Two different classes have a mean cosine of {both['teacher'].mean():.2f} with the teacher and"
    f" {both['student'].mean():.2f} with the student: training has moved the sentences {moved}. The order of the pairs, from near"
    f" to far, has a rank correlation of {kept:.2f} between the two, where 1 is the same order. The nearest pair is"
    f" {nearest['teacher']} for the teacher and {nearest['student']} for the student."
)

# %% [markdown]
# ### Equation 6, as printed and as meant
#
# $$\ell_{emb} = -\frac{1}{N}\sum_{i}^{N}\sum_{j}^{K} y_{i,j}\,\|\hat x_i - z_g^{t,i}\|^2,\qquad
# \mathcal L = \ell_{cls} + \gamma\,\ell_{emb}.$$ (eq-alignment-printed)
#
# Two things are odd. The minus belongs to a cross-entropy, whose logarithm is negative; before a distance it turns the pull
# into a push. And the text carries the index of the sample, $i$, so that the sum over the classes $j$ has nothing to choose. We
# take it to mean
#
# $$\ell_{emb} = \frac{1}{N}\sum_{i}^{N}\sum_{j}^{K} y_{i,j}\,\|\hat x_i - z_g^{t,j}\|^2
# = \frac{1}{N}\sum_i^N \|\hat x_i - z_g^{t,y_i}\|^2,$$ (eq-alignment)
#
# which is {py:func}`migcore.models.posec3d.alignment_loss`. The squared distance is a *sum* over the $E$ numbers of the vector.
# The winner of 2023 {cite}`li2023joint`, who did the same with word vectors instead of CLIP's, took their *mean* and weighted
# it by 20. For CLIP's $E = 512$ this is $\gamma = 20/512 \approx 0.04$ here, and this is what the preset for iMiGUE has. (The
# squared distance of two vectors of length 1 is $2 - 2\cos$, however many numbers they have, so this $\gamma$ means the same
# for the shorter texts of the miniature.) The studio's presets have a weaker pull, the best of three positive values on
# its validation clips; whether none at all is better still: see below.
#
# **By hand.** Two classes with the texts $(1, 0)$ and $(0, 1)$. A clip of the first has $\hat x = (0.6, 0.8)$, a clip of the
# second $(0, 2)$. The squared distances are $0.4^2 + 0.8^2 = 0.8$ and $1^2 = 1$; the loss is their mean, 0.9. As printed it
# would be $-0.9$, and smaller still the further away. Note the second clip: it points exactly at its text, and is pulled all
# the same, because it is too long. Brought to length 1 first (an option), it would cost nothing, and the loss would be 0.4.

# %%
text_CE = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
embedding_BE = torch.tensor([[0.6, 0.8], [0.0, 2.0]])
truth = torch.tensor([0, 1])
for normalise in (False, True):
    loss = alignment_loss(embedding_BE, text_CE, truth, normalise=normalise)
    print(f"normalise={normalise}: {loss:.2f}")

# %% [markdown]
# ### In series or in parallel?
#
# Section 2.4 of the paper says that $\hat x$ "is fed into a linear layer to classify": feature → $\hat x$ → classes, in series. The winner
# of 2023 had two heads side by side, feature → classes and feature → $\hat x$, and threw the second away after training. In
# series the classifier sees nothing but $\hat x$; in parallel the sentences reach it only through the feature that both heads
# share. Ours is in series; `alignment.embedding=parallel` is the other.

# %% tags=["hide-input"]
size = texts["student"].shape[1]
rows = {}
for name, shape in {
    "labels alone": config.posec3d,
    "in series": replace(config.posec3d, embed_dim=size, embedding="series"),
    "in parallel": replace(config.posec3d, embed_dim=size, embedding="parallel"),
}.items():
    head = PoseC3D(shape).cls_head
    rows[name] = {
        "feature": shape.feature_channels,
        "x̂": size if head.fc_emb else "none",
        "the classifier sees": head.fc_cls.in_features,
        "parameters of the head": sum(p.numel() for p in head.parameters()),
    }
pd.DataFrame(rows).T

# %% [markdown]
# ## The real run: with texts
#
# The same networks, {term}`seeds <seed>`, clips and recipe; the backbones start from the same weights. Only the head and the loss differ.

# %%
with_texts = experiments.run_all(
    ["posec3d_joint_text", "posec3d_limb_text"], config, seed=seed
)
pair = {
    "joints": (joint, with_texts["posec3d_joint_text"]),
    "limbs": (limb, with_texts["posec3d_limb_text"]),
}  # without and with texts
clips = {
    name: tables.same_clips(
        dict(zip(("without", "with"), runs, strict=True)), split
    )
    for name, runs in pair.items()
}
right = {
    name: [
        metrics.correct(y, same.labels).astype(float)
        for y in same.logits.values()
    ]
    for name, same in clips.items()
}  # [N], 1 where a clip is right

# %% mystnb={"figure": {"name": "fig-text-curves", "caption": "Training loss and validation accuracy with and without texts. The loss with texts has a second part, so only the right panel compares."}, "image": {"alt": "Two line charts with four lines each: loss and accuracy over the epochs for joints and limbs, with and without texts"}} tags=["remove-input"]
plots.curves(
    {
        f"{name}{', texts' if run is runs[1] else ''}": run.history
        for name, runs in pair.items()
        for run in runs
    }
)


# %% tags=["hide-input"]
def cell(values: np.ndarray, subjects: np.ndarray, sign: str = "") -> str:
    """A mean in percent with its interval."""
    low, high = tables.interval(values, subjects)
    return f"{100 * values.mean():{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


p = {
    name: metrics.mcnemar(plain > 0, texts > 0)
    for name, (plain, texts) in right.items()
}
corrected = metrics.holm(p)
rows = {
    name: {
        "labels alone": cell(plain, clips[name].subjects),
        "with texts": cell(aligned, clips[name].subjects),
        "difference": cell(aligned - plain, clips[name].subjects, "+"),
        "clips won": int((aligned > plain).sum()),
        "clips lost": int((aligned < plain).sum()),
        "p": f"{p[name]:.3f}",
        "p (Holm)": f"{corrected[name]:.3f}",
    }
    for name, (plain, aligned) in right.items()
}
pd.DataFrame(rows).T

# %% [markdown]
# Top-1 in percent, with 95 % intervals from drawing subjects. $p$ is that of {term}`McNemar's test`: how likely so uneven a split of won and lost
# clips is, were both networks equally good ({py:func}`migcore.metrics.mcnemar`). Two questions are asked at once, joints and
# limbs, and {term}`Holm's correction` makes up for it.

# %% tags=["remove-input"]
verdict = {}
for name, (plain, aligned) in right.items():
    low, high = tables.interval(aligned - plain, clips[name].subjects)
    clear = corrected[name] < 0.05 and (low > 0 or high < 0)
    effect = "helps" if (aligned - plain).mean() > 0 else "hurts"
    verdict[name] = (
        effect if clear else "makes no difference that can be told from chance to"
    )
lead = {
    name: (aligned - plain).mean() for name, (plain, aligned) in right.items()
}
as_paper = lead["joints"] > 0 > lead["limbs"]
sure = all(effect in ("helps", "hurts") for effect in verdict.values())
Markdown(
    f"**What do we see?** On these {len(labels)} {split} clips, with this seed, text alignment {verdict['joints']} the joints, and"
    f" {verdict['limbs']} the limbs. The paper's tables, read side by side, have 59.54 and 63.83 for the joints (+4.29) and 60.74"
    f" and 54.65 for the limbs (−6.09), if the texts are what differs between Table 1 and Table 2."
    f" {'Ours has the same signs' if as_paper else 'Ours has other signs'}{'' if sure else ', but not both differences can be told from chance'}"
    " (chapter 9 has other seeds);"
    " one seed on drawn films proves nothing about iMiGUE, in either direction."
)

# %% [markdown]
# ### Which classes gain, and which lose

# %% mystnb={"figure": {"name": "fig-text-gain", "caption": "Recall per class with texts minus recall with labels alone. To the right: the texts helped. A class with few clips moves in large steps."}, "image": {"alt": "Bars to the left and right of zero for each class, for joints and limbs"}} tags=["remove-input"]
change = {}
for name, same in clips.items():
    before, after = (
        plots.recalls(y.argmax(1), same.labels) for y in same.logits.values()
    )
    change[name] = after - before
plots.class_bars(change, label=f"difference of recall on the {split} clips")

# %% tags=["remove-input"]
support = np.bincount(labels, minlength=NUM_CLASSES)
lines = []
for name, difference in change.items():
    net = np.nan_to_num(difference * support).round().astype(int)  # won - lost
    ordered = np.argsort(-net, kind="stable")
    won = [f"{CLASSES[c].name} (+{net[c]})" for c in ordered[:3] if net[c] > 0]
    lost = [
        f"{CLASSES[c].name} ({net[c]})" for c in ordered[::-1][:3] if net[c] < 0
    ]
    lines.append(
        f"The {name} win most clips of {', '.join(won) or 'no class'} and lose most of {', '.join(lost) or 'no class'}."
    )
Markdown("**What do we see?** " + " ".join(lines))

# %% [markdown]
# ### How strong a pull?
#
# $\gamma = 0$ leaves a head in series that nothing pulls. A large $\gamma$ makes the sentences more important than the labels.
# The runs below differ in nothing else; what the ledger has is shown, nothing is trained. To add one:
# `migcore train posec3d_joint_text --set alignment.gamma=0.3`.


# %%
def without_gamma(run):
    alignment = {**run.config["alignment"], "gamma": None}
    return {**run.config, "alignment": alignment}, run.data


this = with_texts["posec3d_joint_text"]
sweep = {}
for run in ledger.find("posec3d_joint_text", seed=seed):  # newest first
    if without_gamma(run) == without_gamma(this):
        sweep.setdefault(run.config["alignment"]["gamma"], run)
sweep[config.alignment.gamma] = this
gammas = sorted(sweep)
top1 = [sweep[gamma].metrics["val"]["top1"] for gamma in gammas]

# %% mystnb={"figure": {"name": "fig-gamma", "caption": "Validation accuracy of the joints by the weight of the alignment loss, one run each. The level line is the network without map and texts."}, "image": {"alt": "A line of accuracy over gamma on a logarithmic axis, beside a level line for labels alone"}} tags=["remove-input"]
plots.line_by(
    [round(gamma, 3) for gamma in gammas],
    {
        "with texts": top1,
        "labels alone": [joint.metrics["val"]["top1"]] * len(gammas),
    },
    "γ",
    "validation top-1",
    log_x=len(gammas) > 1,
)

# %% tags=["remove-input"]
n = this.metrics["val"]["n"]
best = gammas[int(np.argmax(top1))]
noise = 100 * np.sqrt(max(top1) * (1 - max(top1)) / n)
older = any(run.stale or run.depends != this.depends for run in sweep.values())
if len(sweep) == 1:
    text = f"Only one run is in the ledger, that of γ = {best:.3f}: nothing can be said about other values."
else:
    text = (
        f"The best of {len(sweep)} values on the {n} validation clips is γ = {best:.3f} with {max(top1):.1%}; the worst has"
        f" {min(top1):.1%}, and the preset's, {config.alignment.gamma:.3f}, {this.metrics['val']['top1']:.1%}. One standard error is"
        f" about {noise:.1f} points if clips were independent, and more in truth:"
        f" {'the best and the worst are further apart than two of them' if 100 * (max(top1) - min(top1)) > 2 * noise else 'best and worst are within two of them, so the curve is flat as far as we can tell'}."
    )
free = sweep.get(0.0)
if free is not None and len(sweep) > 1:
    gain = 100 * (free.metrics["val"]["top1"] - joint.metrics["val"]["top1"])
    pull = 100 * (
        max(t for g, t in zip(gammas, top1, strict=True) if g > 0)
        - free.metrics["val"]["top1"]
    )
    text += (
        f" The map alone, with no pull at all, is {gain:+.1f} points from labels alone, and the best pull {pull:+.1f} points from no pull:"
        f" {'what helps here is the map, not the sentences.' if gain > 0 >= pull else 'the sentences add to what the map does.' if pull > 0 else 'neither helps here.'}"
    )
Markdown(
    "**What do we see?** "
    + text
    + (
        " Some of these runs were made with older code, or with the texts of an earlier run."
        if older
        else ""
    )
)

# %% [markdown]
# ### Does it mix up what reads alike?
#
# If $\hat x$ stands near its sentence, classes with similar sentences should be mixed up more often than others. For every
# ordered pair of classes we take how often the first is taken for the second, and the cosine of their sentences, and correlate
# the ranks of both. Two gestures of one body part read alike *and* look alike, so that the network without texts shows a
# correlation too; what the texts did is the difference. The last column asks how often sentences that are dealt out to the
# classes at random correlate as well.

# %% tags=["hide-input"]
draws = 500
part = np.array([GROUPS.index(g.group) for g in CLASSES])
known = pairs & (support > 0)[:, None]  # a class without clips is never confused
rows = {}
for name, same in clips.items():
    for which, y in same.logits.items():
        counts = metrics.confusion(y, same.labels)
        rate = counts / np.maximum(support[:, None], 1)
        found_for = {}
        for among, mask in {
            "all pairs": known,
            "pairs of one body part": known & (part[:, None] == part),
        }.items():
            ranks = pd.DataFrame(
                {"rate": rate[mask], "cos": cosine["student"][mask]}
            )
            found_for[among] = ranks.corr(method="spearman").loc["rate", "cos"]
        rng = np.random.default_rng(0)
        ranked = pd.Series(rate[known]).rank().to_numpy()
        order = pd.DataFrame(cosine["student"]).stack().rank().to_numpy()
        order = order.reshape(NUM_CLASSES, NUM_CLASSES)
        chance = []
        for _ in range(draws):
            dealt = rng.permutation(NUM_CLASSES)
            chance.append(
                np.corrcoef(ranked, order[np.ix_(dealt, dealt)][known])[0, 1]
            )
        own = np.corrcoef(ranked, order[known])[0, 1]
        rows[f"{name}, {which} texts"] = {
            **found_for,
            "as good by chance": (1 + (np.array(chance) >= own).sum())
            / (1 + draws),
        }
follow = pd.DataFrame(rows).T
follow.map("{:.3f}".format)

# %% tags=["remove-input"]
said = []
for name in pair:
    plain, aligned = (
        follow.loc[f"{name}, {which} texts", "all pairs"]
        for which in ("without", "with")
    )
    said.append(f"{aligned:.2f} instead of {plain:.2f} for the {name}")
Markdown(
    f"**What do we see?** With texts the rank correlation of confusions and sentences is {' and '.join(said)}. {1 / (draws + 1):.3f} in the"
    f" last column is the smallest value that {draws} draws can give. These are differences of two runs: what would be the same with"
    " another seed, one seed cannot say."
)

# %% [markdown]
# ## Summary
#
# * Heat-map volumes let an image-like network read skeletons; an untrained network's loss is $\log 32$.
# * Joints and limbs see the same keypoints, yet make different mistakes, and a sum can use that.
# * What the skeleton does not hold, no network finds in it.
# * Equation 6 as printed pushes. With the other sign it pulls the feature to the sentence of its class.
# * Whether that helps is a question for paired tests on the same clips, not for two numbers in two tables.
#
# ## Exercises
#
# ````{exercise} Pushed away · code
# :label: ex-push
# Take $\hat x = (0.6, 0.8)$ with the text $(1, 0)$, and go one step of gradient descent with rate 0.1 on the distance of
# equation {eq}`eq-alignment`, then on that of equation {eq}`eq-alignment-printed`. What becomes of the squared distance after
# one step, and after fifty? Can the cross-entropy hold the printed one back?
# ````

# %% [markdown]
# ````{solution-start} ex-push
# :class: dropdown
# ````

# %%
text = torch.tensor([[1.0, 0.0]])
for name, sign in (("pull", 1), ("push", -1)):
    x = torch.tensor([[0.6, 0.8]], requires_grad=True)
    for step in range(1, 51):
        loss = sign * alignment_loss(x, text, torch.tensor([0]))
        (slope,) = torch.autograd.grad(loss, x)
        x = (x - 0.1 * slope).detach().requires_grad_()
        if step in (1, 50):
            print(f"{name}, step {step}: {(x - text).square().sum():.3g}")

# %% [markdown]
# The gradient is $\pm 2(\hat x - z)$, so a step multiplies the difference by $1 - 0.2 = 0.8$ or by $1.2$, and its square by
# 0.64 or 1.44. The printed loss has no lower end, and the cross-entropy cannot hold it back: it grows no faster than $\hat x$,
# while the printed distance falls with its square. Training would run off to infinity, and nobody would have reported 63.83.
# The minus is a slip of the pen, hardly of the code.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Two maps in a row · code
# :label: ex-two-maps
# In series, the feature passes two linear layers with nothing between them. Show that one layer could do the same. What, then,
# changes with $\gamma = 0$?
# ````

# %% [markdown]
# ````{solution-start} ex-two-maps
# :class: dropdown
# ````

# %%
shape = replace(config.posec3d, embed_dim=size)
head = PoseC3D(shape, generator=torch.Generator().manual_seed(0)).cls_head.eval()
first, second = head.fc_emb, head.fc_cls
feature = torch.randn(4, shape.feature_channels)
weight = second.weight @ first.weight
bias = second.weight @ first.bias + second.bias
one = torch.nn.functional.linear(feature, weight, bias)
print("the same logits:", torch.allclose(second(first(feature)), one, atol=1e-5))

# %% [markdown]
# $W_2(W_1 x + b_1) + b_2 = (W_2 W_1)x + (W_2 b_1 + b_2)$. As long as $E$ is not smaller than the number of classes, no logits
# are lost and none are won. With $\gamma = 0$ only the way there changes: the gradients, the weight decay and the first weights
# are those of a product. Comparing $\gamma = 0$ with labels alone shows what the head does, and $\gamma > 0$ with $\gamma = 0$
# what the texts do.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Chance and the clip count · pencil
# :label: ex-standard-error
# How large is the standard error of a top-1 accuracy of 60 % on 600 clips, if clips were independent? Why is it larger in
# truth?
# ````

# %% [markdown]
# ````{solution-start} ex-standard-error
# :class: dropdown
# ````

# %%
print(f"{np.sqrt(0.6 * 0.4 / 600):.1%}")

# %% [markdown]
# Clips of one person resemble each other, so 600 clips of a few people tell less than 600 clips of 600 people. This is why the
# intervals in this book draw whole subjects, not clips ({py:func}`migcore.metrics.bootstrap_interval`).
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:class}`migcore.models.posec3d.PoseC3D`, {py:func}`migcore.models.posec3d.alignment_loss`,
# {py:func}`migcore.experiments.run`, {py:func}`migcore.experiments.run_all`, {py:func}`migcore.ensemble.fuse`,
# {py:func}`migcore.metrics.bootstrap_interval`, {py:func}`migcore.metrics.mcnemar`, {py:func}`migcore.metrics.holm`,
# {py:func}`migcore.metrics.confusion`.
# Next: the three streams are added up.
# References: {cite}`duan2022posec3d,li2023joint,wang2024multimodal`.
