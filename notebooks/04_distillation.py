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
# # Distillation: the frozen CLIP teaches a video model
#
# This chapter trains the video stream. A copy of CLIP {cite}`radford2021clip` learns the gestures from labels while a frozen
# CLIP holds it near what it knew before: {term}`distillation`. It is section 2.2 of the paper {cite}`wang2024multimodal`, equations 1 to 4, after
# FROSTER {cite}`huang2024froster`. How the student sees several frames at once is the next chapter.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from migcore import experiments, metrics, presets, recipes
from migcore.data.datasets import VideoClips
from migcore.labels import CLASSES, class_prompts
from migcore.models import froster
from migcore.models.clip import load_teacher
from migcore.recipes.student import make_student
from migcore.report import plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)
students = experiments.run_all(
    ["froster", "froster_decay"], config, seed, weights=True
)  # side by side; the second is the next chapter's
runs = {
    "froster": students["froster"],
    **{
        name: experiments.run(name, config, seed)
        for name in ("vclip", "zero_shot", "linear_probe")
    },
}

# %% [markdown]
# ## The idea in one picture
#
# ```{figure} ../_static/method.svg
# :name: fig-method
# :alt: Left, a frozen CLIP above a trained one, both reading the same film and sentences; right, two skeleton networks on heat-maps; below, the weighted sum of the three
#
# The paper's Figure 1, drawn again. This chapter is its left half. The hatched boxes at the top and at the bottom are the frozen
# {term}`teacher` (sentences above, frames below); the two plain ones between them are the student, which is trained. Both see the same
# frames and the same sentences. The skeleton branch on the right and the fixed-step search for the weights of the sum below come in
# later chapters.
# ```
#
# A CLIP that is trained further on a thousand clips ({term}`fine-tuning`) learns them, and may forget the millions of pictures that it came from. FROSTER's
# remedy is a second demand. Next to *say the right class*, the student hears: *stay near what the frozen CLIP says of these
# very frames and sentences*. (On the studio, "CLIP" is the {term}`miniature` of chapter 3, pre-trained on drawn stills with the renderer's
# help: nothing below is about OpenAI's.) The paper writes $z_f$ for features of the **f**rozen CLIP and $z_g$ for the student's. Each has a
# vision part $z^v$, one vector per frame, and a text part $z^t$, one vector per class.
#
# ## Equation 1: labels
#
# The {term}`student`'s classifier is CLIP's own: cosines of frames and sentences, over a temperature $\tau$, into a cross-entropy,
#
# $$\ell_{cls} = -\frac{1}{N} \left[ \sum_{i=1}^N \ell_{ce} \{ \text{sim}[p(z_g^{v,i}), z_g^t] / \tau, y_i \} \right].$$ (eq-student-labels)
#
# The function is {py:func}`migcore.models.froster.video_logits`. Unlike in zero-shot, everything in it is trained: the vision
# encoder, the text encoder, and $\tau$.
#
# **By hand.** Two frames, $(1, 0)$ and $(0, 1)$; classes A $(1, 0)$ and B $(0.6, 0.8)$; $\tau = 0.5$. A's cosines are 1 and 0,
# on average 0.5; B's are 0.6 and 0.8, on average 0.7. Over $\tau$ the {term}`logits` are 1.0 and 1.4. The soft-max gives B
# $1 / (1 + e^{-0.4}) = 0.60$. If B is true, the loss is $-\log 0.60 = 0.51$.

# %%
frames_BTE = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
text_CE = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
log_scale = torch.tensor(1 / 0.5).log()  # CLIP learns log(1/τ)
for pool in ("frames", "clip"):
    logits = froster.video_logits(frames_BTE, text_CE, log_scale, pool)
    loss = F.cross_entropy(logits, torch.tensor([1]))
    print(pool, [round(x, 2) for x in logits[0].tolist()], f"loss {loss:.2f}")

# %% [markdown]
# The second line pools the frames first, as equation {eq}`eq-student-labels` is printed. The first line averages cosines, as
# FROSTER's code does, and as we do. The minus before the bracket is one too many: a cross-entropy is a negative log-likelihood
# already, and whoever minimises its negative teaches the student to be wrong. We leave it out.
#
# A training step does not read all 29 sentences of a class (the chapter on the teacher lists them). It reads two {term}`prompts <prompt>`: one
# template drawn by chance ({py:func}`migcore.models.froster.sample_prompts`), and name and description alone. Evaluation reads
# averages all 29, computed once.
#
# ## Equation 2: some room to move
#
# A student that must have exactly the teacher's features cannot learn. So what is compared with the teacher is not $z_g$ itself
# but
#
# $$\hat z_g = z_g + \alpha \times \text{MLP}(z_g),$$ (eq-residual)
#
# with two layers, $\text{MLP}(z) = W_2\,\text{GELU}(W_1 z)$, where $\text{GELU}(x) = x\,\Phi(x)$ with the normal distribution function
# $\Phi$, and $\alpha = 0.1$ in FROSTER's code. $W_2$ starts at zero. So at
# step 0 the MLP is not there, and later it can take up a part of the difference between student and teacher. The classifier
# reads $z_g$; $\hat z_g$ exists only inside of the loss. There is one such {term}`residual MLP` for frames and one for texts
# ({py:class}`migcore.models.froster.ResidualProjector`).
#
# **By hand.** $z = (1, 0)$, $W_1$ the identity, $W_2$ swaps the two numbers. $\text{GELU}(1) = \Phi(1) = 0.841$ and $\text{GELU}(0) = 0$,
# swapped $(0, 0.841)$, times 0.1: $\hat z = (1, 0.084)$. Its length is 1.004; it is not made 1 again.

# %%
z = torch.tensor([[1.0, 0.0]])
mlp = froster.ResidualProjector(2, alpha=0.1)
with torch.no_grad():
    print("step 0:", mlp(z)[0].tolist())
    mlp[0].weight.copy_(torch.eye(2))
    mlp[2].weight.copy_(torch.eye(2).flip(0))
    print("later: ", [round(x, 3) for x in mlp(z)[0].tolist()])

# %% [markdown]
# ## Equation 3: which distance?
#
# $$\ell_{fd} = \sum_i^N \|(z_f - \hat{z}_g)\|_2$$ (eq-distance)
#
# is the plain, unsquared length of the difference, row by row: frames in the vision part, classes in the text part. This is
# what FROSTER's code computed when the paper was written, but for one thing: it averages where the paper adds up. A sum would
# grow with the batch and with the number of frames. Ten months after its release the code went over to $1 - \cos$. Both are in
# {py:func}`migcore.models.froster.distillation_loss`, and two more that are often meant by "L2".
#
# **By hand.** $z_f = (0.6, 0.8)$ and $\hat z_g = (0.8, 0.6)$ differ by $(-0.2, 0.2)$. The length is $\sqrt{0.08} = 0.283$, its
# square 0.08, the mean square 0.04. The cosine is 0.96, so $1 - \cos = 0.04$. For vectors of length 1, $1 - \cos$ is always
# half of the squared length.

# %%
z_f, z_hat = torch.tensor([[0.6, 0.8]]), torch.tensor([[0.8, 0.6]])
for kind in ("l2", "sq_l2", "mse", "cosine"):
    print(f"{kind:7s}{froster.distillation_loss(z_hat, z_f, kind):.3f}")

# %% [markdown]
# ## Equation 4: the sum
#
# $$\mathcal{L} = \ell_{cls} + \beta(\ell_{fd}^v + \ell_{fd}^t)$$ (eq-total)
#
# with $\beta = 2$ in FROSTER's code ({py:func}`migcore.models.froster.froster_loss`). **By hand.** With the 0.51 from above, a
# distance of 0.283 in the frames and none in the texts: $0.51 + 2 \times 0.283 = 1.08$.
#
# Here are the parts on a few real clips, for the student of this chapter. The size of the four distances differs a lot, so the
# same $\beta$ means four different things.

# %%
# the challenge keeps its test labels to itself
split = "test" if (index.labels("test") >= 0).any() else "val"
teacher = load_teacher(config.teacher)
student = recipes.load_student(runs["froster"].folder / experiments.WEIGHTS)
clips = VideoClips(
    index,
    split,
    config.video,
    train=False,
    seed=seed,
    skip_bad=config.data.skip_bad,
)
some = np.linspace(0, len(clips) - 1, min(len(clips), 24)).astype(int)
video = torch.stack([clips[i]["video"][0] for i in some])  # [B, 3, T, H, W]
labels = torch.tensor([clips.records[i].label for i in some])

which = [0, 28]  # "a photo of …", and name and description alone
prompts = class_prompts()
with torch.no_grad():
    outputs = student(video, which)
    z_f = teacher.encode_video(video)  # [B, T, E]
    w_f = teacher.class_embeddings([prompts[w] for w in which])  # [C, E]
    z_hat = student.projector_v(outputs.frames_BTE)
    w_hat = student.projector_t(outputs.text_CE)
    whole = froster.froster_loss(student, outputs, labels, z_f, w_f)
    labels_part = F.cross_entropy(outputs.logits_BC, labels)
kinds = ("l2", "sq_l2", "mse", "cosine")
sizes = pd.DataFrame(
    {
        "frames": [
            froster.distillation_loss(z_hat, z_f, k).item() for k in kinds
        ],
        "texts": [froster.distillation_loss(w_hat, w_f, k).item() for k in kinds],
    },
    index=kinds,
)
sizes["times β"] = student.config.beta * (sizes.frames + sizes.texts)
print(f"labels {labels_part:.3f}, whole loss {whole:.3f}")
sizes.map("{:.4f}".format)

# %% tags=["remove-input"]
kind = student.config.distill
share = (whole - labels_part) / whole
Markdown(
    f"**What do we see?** This student was trained with `{kind}`: on these {len(some)} {split} clips {share:.0%} of its loss"
    f" is distance to the teacher. `l2` is {sizes.frames['l2'] / sizes.frames['cosine']:.0f} times the size of `cosine` and"
    f" {sizes.frames['l2'] / sizes.frames['mse']:.0f} times that of `mse`, which divides by the {z_f.shape[-1]} numbers of a"
    " vector. Take over another distance, and β has to be chosen again."
)

# %% [markdown]
# ## The real run
#
# Two students that differ in nothing but equation 3. *froster* is trained on the whole of equation {eq}`eq-total`; *vclip* ({term}`VCLIP`) on
# labels alone, which is plain fine-tuning of the same network from the same weights. (A third, with token decay, was trained
# beside them and belongs to the next chapter.)

# %% mystnb={"figure": {"name": "fig-distillation-curves", "caption": "Training loss and validation accuracy, with distillation (froster) and without (vclip). The two losses are not the same sum: froster's holds the distances too."}, "image": {"alt": "Two line charts over the epochs: the losses fall, the accuracies rise"}} tags=["remove-input"]
plots.curves({name: runs[name].history for name in ("froster", "vclip")})

# %% tags=["remove-input"]
rows = {
    name: {
        "training loss, first epoch": f"{runs[name].history[0]['loss']:.2f}",
        "last epoch": f"{runs[name].history[-1]['loss']:.2f}",
        "training top-1, last epoch": f"{runs[name].history[-1]['train_top1']:.1%}",
        "validation top-1": f"{runs[name].metrics['val']['top1']:.1%}"
        if runs[name].metrics.get("val")
        else "no labels",
    }
    for name in ("froster", "vclip")
}
pd.DataFrame(rows).T

# %% tags=["remove-input"]
loose = runs["vclip"].history[-1]["train_top1"]
held = runs["froster"].history[-1]["train_top1"]
Markdown(
    "**What do we see?** In the last epoch, the student without a teacher has"
    f" {loose:.1%} of its training views right, the one with a teacher {held:.1%}."
    f" {'Being held costs something on the training clips.' if held < loose else 'Being held costs nothing on the training clips.'}"
    " What counts is what they do with speakers they have not seen."
)

# %% [markdown]
# ### Against the frozen CLIP
#
# An interval *[a, b]* comes from drawing whole subjects again and again ({term}`cluster bootstrap`): as many people as there are, with
# replacement; take all their clips, and repeat; the middle 95 % of the accuracies is the interval. Two models are compared clip by clip.
# Overlapping intervals settle nothing, since a hard subject is hard for both. {term}`McNemar's test` asks how likely so uneven a split of
# won and lost clips is by chance, and {term}`Holm's correction` allows for asking several times.
#
# **By hand.** Of 13 clips on which two models differ, one has 10. So uneven a split, or more so, to either side has a probability of
# $2\,(1 + 13 + 78 + 286) / 2^{13} = 0.092$. Holm on 0.01, 0.03 and 0.04: the smallest times 3, the next times 2, none below the one
# before: 0.03, 0.06, 0.06.

# %%
one = np.array([True] * 10 + [False] * 3)
print(f"p = {metrics.mcnemar(one, ~one):.3f}")
print(metrics.holm({"a": 0.01, "b": 0.03, "c": 0.04}))

# %%
ledger = experiments.ledger()
names = ["zero_shot", "linear_probe", "vclip", "froster"]
arrays = {name: ledger.load_arrays(runs[name], split) for name in names}
truth = arrays["froster"]["labels"]
right = {
    name: metrics.correct(arrays[name]["logits"], truth) for name in names
}  # [N] bool each
subjects = runs["froster"].clips[split]["subjects"]


def interval(values):
    """95 % interval of a mean over clips, by drawing subjects."""
    rng = np.random.default_rng(seed)
    return metrics.bootstrap_interval(values, subjects, rng=rng)


rows = [(n, 100 * right[n].mean(), *(100 * x for x in interval(right[n])))
        for n in names]  # fmt: skip

# %% mystnb={"figure": {"name": "fig-distillation-forest", "caption": "Top-1 of the frozen CLIP of this page (zero-shot, and with a linear probe) and of the two students, with 95 % intervals from drawing subjects. The dashed line is a guess at the most frequent class."}, "image": {"alt": "Four accuracies with intervals, one below another"}} tags=["remove-input"]
most = 100 * np.bincount(truth).max() / len(truth)
plots.forest(rows, f"top-1 on the {split} clips, %", reference=most)

# %% tags=["remove-input"]
others = ["zero_shot", "linear_probe", "vclip"]
p = metrics.holm({o: metrics.mcnemar(right["froster"], right[o]) for o in others})
sentences = []
for other in others:
    apart = right["froster"].astype(float) - right[other]
    low, high = (100 * x for x in interval(apart))
    lead = 100 * apart.mean()
    sure = p[other] < 0.05 and low * high > 0
    word = "better than" if lead > 0 else "worse than"
    sentences.append(
        f"* froster {f'is {word}' if sure else 'cannot be told from'} {other}: {lead:+.1f} points [{low:+.1f}, {high:+.1f}], McNemar's p ="
        f" {p[other]:.2g} (Holm, over these {len(others)})."
    )
shown = {
    o: right["froster"].mean() > right[o].mean() and p[o] < 0.05 for o in others
}
val = {
    n: runs[n].metrics.get("val", {}).get("top1") for n in ("froster", "vclip")
}
turned = (
    split == "test"
    and None not in val.values()
    and (val["froster"] - val["vclip"])
    * (right["froster"].mean() - right["vclip"].mean())
    < 0
)
Markdown(
    "**What do we see?**\n\n"
    + "\n".join(sentences)
    + "\n\nFROSTER's own claim is that distillation beats both the frozen CLIP and plain fine-tuning. With this seed, on these"
    f" {len(truth)} clips: better than zero-shot {'is shown' if shown['zero_shot'] else 'is not shown'}, better than plain fine-tuning"
    f" {'is shown' if shown['vclip'] else 'is not shown'}."
    f"{' On the validation clips the order of these two is the other one: a difference that changes its sign is not one to build on.' if turned else ''}"
    " FROSTER measured it on *other data sets* than the one it was trained"
    " on, where forgetting hurts most. Here training and test have the same 32 classes."
)

# %% [markdown]
# ## What does the residual MLP do?
#
# It began as nothing. How far has it moved, and does it do what it is there for: bring $z_g$ nearer to the teacher? "Before
# training" is a fresh student with the teacher's weights. Its frames are not the teacher's, although no weight differs: it
# sees neighbouring frames.

# %%
fresh = make_student(teacher, student.config, seed).eval()


def against(model):
    """Lengths and cosines between student, MLP and teacher, frames and texts."""
    with torch.no_grad():
        z = model(video).frames_BTE
        pairs = {
            "frames": (z, model.projector_v(z), z_f),
            "texts": (
                model.classes(),
                model.projector_t(model.classes()),
                teacher.class_embeddings(),
            ),
        }
    return {
        part: {
            "‖ẑ - z‖": (moved - own).norm(dim=-1).mean().item(),
            "cos(z, teacher)": F.cosine_similarity(own, target, dim=-1)
            .mean()
            .item(),
            "cos(ẑ, teacher)": F.cosine_similarity(moved, target, dim=-1)
            .mean()
            .item(),
            "‖z - teacher‖": (own - target).norm(dim=-1).mean().item(),
            "‖ẑ - teacher‖": (moved - target).norm(dim=-1).mean().item(),
        }
        for part, (own, moved, target) in pairs.items()
    }


moves = {
    (name, part): row
    for name, model in (("before training", fresh), ("froster", student))
    for part, row in against(model).items()
}
pd.DataFrame(moves).T.map("{:.3f}".format)

# %% tags=["remove-input"]
seen = moves["froster", "frames"]
nearer = seen["‖z - teacher‖"] - seen["‖ẑ - teacher‖"]
Markdown(
    f"**What do we see?** On these clips the MLP moves a frame's vector by {seen['‖ẑ - z‖']:.3f} of its length of 1. The"
    f" distance to the teacher goes from {seen['‖z - teacher‖']:.3f} to {seen['‖ẑ - teacher‖']:.3f}:"
    f" {'it takes up ' + format(nearer / seen['‖z - teacher‖'], '.0%') + ' of the difference, and the rest is what the student pays for in the loss.' if nearer > 0 else 'on clips it has not been trained on, it does not bring the student nearer.'}"
    f" The frames of a fresh student have a cosine of {moves['before training', 'frames']['cos(z, teacher)']:.3f} with the"
    f" teacher's, those of the trained one {seen['cos(z, teacher)']:.3f}."
)

# %% [markdown]
# ## The geometry of teacher and student
#
# Each clip has one feature: the mean of its frames' vectors. The students' features are in the ledger; the teacher's are made
# now, for some of the clips. All three clouds are laid into one plane, that of their two largest common directions.

# %% tags=["hide-input"]
at = np.linspace(0, len(clips) - 1, min(len(clips), 160)).astype(int)
with torch.no_grad():
    teacher_BE = torch.stack(
        [teacher.encode_video(clips[i]["video"]).mean((0, 1)) for i in at]
    )
features = {
    "teacher": teacher_BE.numpy(),
    "vclip": arrays["vclip"]["features"][at].astype(np.float32),
    "froster": arrays["froster"]["features"][at].astype(np.float32),
}
stacked = np.concatenate(list(features.values()))
directions = np.linalg.svd(stacked - stacked.mean(0), full_matrices=False)[2][:2]
plane = {
    name: (f - stacked.mean(0)) @ directions.T for name, f in features.items()
}

# %% mystnb={"figure": {"name": "fig-geometry", "caption": "Features of the same clips, in one plane: teacher, student without distillation, student with it. Each sign is a clip, with the colour and shape of its body part."}, "image": {"alt": "Three clouds of coloured signs side by side"}} tags=["remove-input"]
plots.feature_map(plane, truth[at])

# %% [markdown]
# A plane can deceive. So we count in all dimensions: take a clip, look for the nearest clip *of another subject*, and ask whether
# it is of the same class, or at least of the same body part.

# %%
group = np.array([g.group for g in CLASSES])
who = np.array(subjects)[at]
counted = {}
for name, f in features.items():
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    cosines = np.where(who[:, None] == who[None], -2, unit @ unit.T)
    nearest = truth[at][cosines.argmax(1)]
    counted[name] = {
        "same class": (nearest == truth[at]).mean(),
        "same body part": (group[nearest] == group[truth[at]]).mean(),
    }
pd.DataFrame(counted).T.map("{:.1%}".format)

# %% [markdown]
# ### Drift
#
# How far have the students gone from where they came from? The cosine of a clip's feature with the teacher's feature of the same
# clip, and of a class's text with the teacher's text of the same class.

# %%
drift = {}
for name in ("vclip", "froster"):
    texts = torch.from_numpy(ledger.load_arrays(runs[name], "text")["embeddings"])
    own = torch.from_numpy(features[name])
    drift[name] = {
        "clips": F.cosine_similarity(own, teacher_BE, dim=-1).mean().item(),
        "texts": F.cosine_similarity(
            texts.float(), teacher.class_embeddings(), dim=-1
        )
        .mean()
        .item(),
        "1/τ": np.exp(runs[name].extra["logit_scale"]),
    }
pd.DataFrame(drift).T.map("{:.3f}".format)

# %% tags=["remove-input"]
lines = []
for part in ("clips", "texts"):
    loose, held = drift["vclip"][part], drift["froster"][part]
    lines.append(
        f"of the {part} {'grows' if held > loose else 'does not grow'} with distillation ({loose:.3f} without, {held:.3f} with)"
    )
counts = {name: row["same class"] for name, row in counted.items()}
parts = {name: row["same body part"] for name, row in counted.items()}
best, best_part = max(counts, key=counts.get), max(parts, key=parts.get)
Markdown(
    f"**What do we see?** The cosine {' and that '.join(lines)}. (That of clips is above the one of single frames in the table before: a"
    " clip's feature is a mean over its frames, which evens out their differences.) The teacher's scale 1/τ was"
    f" {teacher.clip.logit_scale.exp():.1f}. By nearest neighbours the classes are best sorted in the space of {best}:"
    f" {counts[best] * len(at):.0f} of {len(at)} clips (teacher: {counts['teacher'] * len(at):.0f}); body parts in that of {best_part}:"
    f" {parts[best_part] * len(at):.0f} (teacher: {parts['teacher'] * len(at):.0f}). A handful of clips is no difference."
)

# %% [markdown]
# ## When the teacher is wrong
#
# A student that is held near its teacher may inherit its mistakes. We sort the clips by whether zero-shot has them right, and ask
# what the students say of each half. *Repeats* is the share of all those clips in which the student gives the very class that the
# teacher wrongly gave.

# %%
said = {name: arrays[name]["logits"].argmax(1) for name in names}
taught = right["zero_shot"]
table = {}
for name in ("vclip", "froster"):
    repeats = (said[name] == said["zero_shot"])[~taught]
    table[name] = {
        f"right, of {taught.sum()} where the teacher is right": right[name][
            taught
        ].mean(),
        f"right, of {(~taught).sum()} where it is wrong": right[name][
            ~taught
        ].mean(),
        "repeats, where it is wrong": repeats.mean(),
    }
pd.DataFrame(table).map("{:.1%}".format)

# %% tags=["remove-input"]
(a_kept, a_mended, a_same), (b_kept, b_mended, b_same) = (
    list(table[name].values()) for name in ("vclip", "froster")
)


def more(x, y):
    """In words, which of two shares is larger."""
    return "more" if x > y else "fewer" if x < y else "no more and no fewer"


Markdown(
    f"**What do we see?** With distillation the student keeps {more(b_kept, a_kept)} of the clips that the teacher had right"
    f" ({b_kept:.1%} against {a_kept:.1%}), mends {more(b_mended, a_mended)} of those that it had wrong ({b_mended:.1%} against"
    f" {a_mended:.1%}), and repeats {more(b_same, a_same)} of its mistakes ({b_same:.1%} against {a_same:.1%})."
    " The student is pulled to the teacher's features, never to its answers: there is no distance between logits in equation 3. So it can stay"
    " near a teacher that is wrong and still be right."
)

# %% [markdown]
# ## What the paper leaves open
#
# * **Equation 1** has a minus too many, and pools before the cosine where the published code pools after it.
# * **Equation 3** adds up where the code averages. Printed as a sum, $\beta$ would mean another thing for every batch size.
# * **Which FROSTER?** The paper's $\|\cdot\|_2$ fits the code of January to November 2024. The weights were published one
#   day after that change; which of the two they were trained with is not said. Whoever compares with FROSTER must say which.
# * $\alpha$, $\beta$ and $\tau$ are not given. Ours are FROSTER's: 0.1, 2, and CLIP's learnt scale. FROSTER's learning rate is made for
#   the long training on Kinetics; a thousand clips give few steps, so our small presets have a larger one, chosen on validation clips.
# * **The text encoder.** The paper speaks of a "distilled text encoder", so it is trained, as in FROSTER. In Open-VCLIP
#   {cite}`weng2023openvclip` it is not.
# * FROSTER's published code runs on a GPU in mixed precision only, and overwrites a tensor that the gradient still needs; ours runs anywhere.
#
# ## Summary
#
# * The student is CLIP with labels (Eq. 1) and a leash (Eq. 3); $\beta$ is how short the leash is.
# * The residual MLP gives the leash some slack, and is thrown away after training.
# * "L2" can mean four numbers of very different size.
# * Whether distillation helps is a question for data; on this page it is answered by McNemar's test and intervals over subjects.
#
# ## Exercises
#
# ````{exercise} The minus · pencil
# :label: ex-minus
# Take equation 1 as printed, with its minus. In which direction does a step of gradient descent move the probability of the true class?
# ````

# %% [markdown]
# ````{solution-start} ex-minus
# :class: dropdown
# ````

# %%
for sign, name in ((1, "cross-entropy"), (-1, "as printed")):
    scores = torch.zeros(1, 3, requires_grad=True)
    (sign * F.cross_entropy(scores, torch.tensor([0]))).backward()
    stepped = (scores - 0.5 * scores.grad).softmax(-1)
    print(f"{name}: p(true) from 0.333 to {stepped[0, 0]:.3f}")

# %% [markdown]
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} A root at zero · code
# :label: ex-root
# At step 0 the student's texts are the teacher's. Write the distance of equation 3 as `((a - b) ** 2).sum(-1).sqrt()` and look at its
# gradient there. Why does {py:func}`migcore.models.froster.distillation_loss` not have this trouble?
# ````

# %% [markdown]
# ````{solution-start} ex-root
# :class: dropdown
# ````

# %%
target = torch.tensor([[0.6, 0.8]])
written = target.clone().requires_grad_()
((written - target) ** 2).sum(-1).sqrt().mean().backward()
ours = target.clone().requires_grad_()
froster.distillation_loss(ours, target).backward()
print("written out:", written.grad.tolist(), "; ours:", ours.grad.tolist())

# %% [markdown]
# The root has an infinite slope at 0, and infinity times zero is not a number. One such step destroys all weights.
# `torch.linalg.vector_norm` has the gradient 0 there, which is one of the right answers: the length has a kink at 0.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Half-way back · long
# :label: ex-patch
# Mix the weights of student and teacher, $\rho\,\theta_{teacher} + (1 - \rho)\,\theta_{student}$ (Open-VCLIP calls it *patching*;
# {py:func}`migcore.models.interpolate.patched`). Measure a handful of validation clips for $\rho$ from 0 to 1. Is there a valley
# between the two?
# ````

# %% [markdown]
# ````{solution-start} ex-patch
# :class: dropdown
# ````

# %%
from migcore.models.interpolate import patched

validation = VideoClips(index, "val", config.video, train=False, seed=seed)
few = np.linspace(0, len(validation) - 1, min(len(validation), 64)).astype(int)
films = torch.stack([validation[i]["video"][0] for i in few])
known = torch.tensor([validation.records[i].label for i in few])
trained, original = student.state_dict(), fresh.state_dict()
mixed = make_student(teacher, student.config, seed)
for rho in (0, 0.25, 0.5, 0.75, 1):
    mixed.load_state_dict(patched(trained, original, rho))
    mixed.train().eval()  # forget the class texts of the weights before
    with torch.no_grad():
        hits = (mixed(films).logits_BC.argmax(1) == known).float().mean()
    print(f"ρ = {rho:4}: {hits:.1%} of {len(few)} clips")

# %% [markdown]
# A valley would be a $\rho$ in the middle that is worse than both ends. At $\rho = 1$ the weights are the teacher's, but not the network: it
# still sees neighbouring frames. A few dozen clips decide nothing;
# a $\rho$ that you mean to use is chosen on all validation clips.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Pool first, or last · code
# :label: ex-pool
# For how many clips of this page does the student's answer change if equation 1 is taken as printed?
# ````

# %% [markdown]
# ````{solution-start} ex-pool
# :class: dropdown
# ````

# %%
with torch.no_grad():
    frames, text = student.visual(student.preprocess(video)), student.classes()
    scale = student.clip.logit_scale
    last = froster.video_logits(frames, text, scale, "frames").argmax(1)
    first = froster.video_logits(frames, text, scale, "clip").argmax(1)
print(f"{(first != last).sum()} of {len(first)} answers change")

# %% [markdown]
# The student's vectors are taken here *before* they are brought to length 1. If all frames of a clip have vectors of the same length,
# none can change: the two readings then differ by one factor per clip (the
# length of the mean of the frames' unit vectors), which leaves the order of the classes as it is. Only frames of unequal length
# can change an answer. Training is another matter: the factor is a temperature of each clip's own.
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:func}`migcore.models.froster.video_logits`, {py:class}`migcore.models.froster.ResidualProjector`,
# {py:func}`migcore.models.froster.distillation_loss`, {py:func}`migcore.models.froster.froster_loss`,
# {py:class}`migcore.models.froster.Student`, {py:func}`migcore.recipes.load_student`, {py:func}`migcore.metrics.mcnemar`,
# {py:func}`migcore.metrics.bootstrap_interval`.
# Next: how the student sees several frames, and how it sheds tokens.
# References: {cite}`huang2024froster,radford2021clip,weng2023openvclip,wang2024multimodal`.
