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
# # Ablations: one thing changed at a time
#
# The paper {cite}`wang2024multimodal` shows two {term}`ablations <ablation>`, its Tables 2 and 3. This chapter shows those that it leaves out:
# every choice of sections 2.2 to 2.5 that can be made another way, and token decay beside three other ways to have fewer tokens.

# %% tags=["parameters"]
preset = "laptop"  # smoke, laptop, workstation or imigue: data and training
seed = 0  # of everything that is drawn by chance
overrides = {}  # fields of the preset to change, {"train_posec3d.epochs": "3"}

# %% tags=["hide-input"]
import torch
from IPython.display import Markdown

from migcore import experiments, presets
from migcore.models import reduction
from migcore.report import ablations, plots

config = presets.preset(preset, overrides)
index = experiments.dataset(config)

# %% [markdown]
# ## How to read them
#
# A variant is an ordinary {term}`run`: an experiment with one field of its {term}`preset` changed. This page trains nothing. It shows the runs
# that are in the ledger, fresh or recorded; a variant without one says "not run yet". To make those of one ablation:
#
# ```bash
# migcore ablate gamma --preset laptop
# ```
#
# Three habits keep such tables honest. *Choose by validation*: the test column stands there so that one can see how well
# validation foretold it, not to choose by. *Compare in pairs*: two variants met the same clips, so the difference has a narrower
# interval than the two scores. *Mind the number of looks*: of twenty differences that are nothing, one lies outside of its 95 %
# interval.

# %% [markdown]
# ## Token reduction in context
#
# The paper's {term}`token decay` drops the patches that [cls] looks at least. It is one of a family. At the same number of kept tokens one may
#
# * drop **by chance**, the baseline that a clever rule must beat;
# * **fuse** the dropped patches into one token, weighted by the same score, as EViT does {cite}`liang2022evit`;
# * **merge** similar patches into their mean, as ToMe does {cite}`bolya2023tome`: nothing is thrown away, and no [cls] is asked.
#
# Both are adapted: they cut where token decay cuts, after the MLP (theirs cut before it), and our fused token is a weighted mean, where
# EViT's code has a sum. Read their rows as "after EViT" and "after ToMe".
#
# ### By hand
#
# Four patches with the values 1, 2, 3 and 10 and the scores 0.1, 0.4, 0.3 and 0.2; two are to be left.

# %%
values = torch.tensor([0.0, 1, 2, 3, 10]).view(1, 1, 5, 1)  # [cls] is 0
scores = torch.tensor([0.1, 0.4, 0.3, 0.2]).view(1, 1, 4)
for name, made in {
    "decay keeps the best two": reduction.cut(values, scores, 2)[0],
    "EViT keeps one, and a mean of three": reduction.fuse(values, scores, 2)[0],
}.items():
    print(f"{name}: {[round(v, 2) for v in made.flatten().tolist()]}")

# %% [markdown]
# The mean is $(0.1 \cdot 1 + 0.3 \cdot 3 + 0.2 \cdot 10) / 0.6 = 5$. ToMe would not look at the scores: 2 and 3 are alike, so are 1
# and 2.
#
# ### Table 3, extended

# %% tags=["remove-input"]
reduced = ablations.reduction_table(config, seeds=(seed,))
reduced

# %% [markdown]
# ### Accuracy against cost
#
# One line per way, one marker per budget: the preset's, and shares of 0.9 and 0.6 kept in every block but the last
# (`migcore ablate budgets`).

# %% mystnb={"figure": {"name": "fig-trade-off", "caption": "Test accuracy of the video student against the work of a forward pass, one run each. The star keeps all tokens. No intervals are drawn: a difference of two points is within the subjects' spread."}, "image": {"alt": "Lines of accuracy over work for decay, random dropping, fusing and merging, and a star for all tokens"}} tags=["remove-input"]
points = ablations.trade_off(config, seed)
whole = points.pop(ablations.ALL_TOKENS.label)
plots.trade_off(
    points,
    "forward pass of the tower trained here, GFLOP",
    "test top-1, %",
    reference=whole[0] if whole else (float("nan"), float("nan")),
)

# %% tags=["remove-input"]
at_preset = {name: found[0][1] for name, found in points.items() if found}
if whole and len(at_preset) > 1:
    best = max(at_preset, key=at_preset.get)
    worst = min(at_preset, key=at_preset.get)
    text = (
        f"**What do we see?** All tokens reach {whole[0][1]:.1f} %. At the preset's budget the best of {len(at_preset)} ways is"
        f" *{best}* with {at_preset[best]:.1f} %, the last *{worst}* with {at_preset[worst]:.1f} %. One standard error of such a number"
        f" is about {100 * (0.25 / len(index.split('test'))) ** 0.5:.1f} points, if the clips were independent."
    )
    pairs = ablations.rule_against_chance(config, seed)
    for pair in pairs:
        at = (
            "the preset's budget"
            if pair.share is None
            else f"{pair.share:g} of the patches kept"
        )
        where = {"validation": pair.validation, "test": pair.test}
        text += f"\n* The paper's rule less random dropping, {at}: " + ", ".join(
            f"{ablations.points(apart)} points on {split}"
            for split, apart in where.items()
            if apart is not None
        )
    ahead = sum(pair.validation[0] > 0 for pair in pairs)
    text += f"\n\nOn validation the rule is ahead of chance at {ahead} of {len(pairs)} budgets."
else:
    text = "Too few of these runs are in the ledger to say anything."
Markdown(text)

# %% [markdown]
# ## The video student

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("alpha"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("beta"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("distance"), (seed,))

# %% [markdown]
# A β that was chosen for one distance means nothing for another: the three differ by large factors (chapter 4), so this row also
# changes how near to its teacher the student is held.

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("boundary"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("decay"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("average"), (seed,))

# %% [markdown]
# ## The skeleton networks

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("gamma"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("head"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("joints"), (seed,))

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("limbs"), (seed,))

# %% [markdown]
# The last two change the head and the loss at once. What the texts alone do is the difference between γ = 0 and a larger γ in the first
# table: the map is there in both. Verdicts over all seeds stand in chapter 9.
#
# ## The ensemble

# %% tags=["remove-input"]
ablations.ablation_table(config, ablations.ablation("fusion"), (seed,))

# %% [markdown]
# ## What do we see?

# %% tags=["remove-input"]
said = [
    ablations.conclusion(config, each, (seed,)) for each in ablations.ABLATIONS
]
Markdown("\n".join(f"* {each}" for each in said))

# %% [markdown]
# ## Summary
#
# * Each table changes one field; the first row is what the presets do.
# * Random dropping is the baseline that a rule for dropping tokens has to beat, at the same budget; whether it does, is said above.
# * One run per variant on a few hundred clips can show large effects only.
#
# ## Exercises
#
# ````{exercise} Expected false alarms · pencil
# :label: ex-false-alarms
# How many of the variants on this page would fall outside of their 95 % interval if nothing that is changed here mattered?
# ````

# %% [markdown]
# ````{solution-start} ex-false-alarms
# :class: dropdown
# ````

# %%
changed = sum(len(each.variants) - 1 for each in ablations.ABLATIONS)
changed += len(ablations.REDUCTIONS) - 1
print(f"{changed} differences, so about {0.05 * changed:.1f}")

# %% [markdown]
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} Equal budgets · pencil
# :label: ex-equal-budgets
# EViT's fused token counts as one of the $k$ that stay. What would an unfair comparison do, and whom would it favour?
# ````

# %% [markdown]
# ````{solution-start} ex-equal-budgets
# :class: dropdown
# ````

# %%
keep = config.student.vclip.keep
patches = 64
for share in keep:
    patches = max(1, int(share * patches + 0.5))
print(f"{patches} patches are left of 64; one more would be {1 / patches:.1%}")

# %% [markdown]
# It would let EViT keep $k$ patches and the fused token besides. The budget grows by one token per block: little at first, and
# more the fewer patches are left.
#
# ````{solution-end}
# ````

# %% [markdown]
# ````{exercise} What is lost · code
# :label: ex-what-is-lost
# Show by a small example that cutting loses the sum of the tokens and that fusing loses their mean too, unless all scores are
# equal.
# ````

# %% [markdown]
# ````{solution-start} ex-what-is-lost
# :class: dropdown
# ````

# %%
even = torch.full((1, 1, 4), 0.25)
print("sum before", values.sum().item())
print("sum after cutting", reduction.cut(values, scores, 2)[0].sum().item())
fused = reduction.fuse(values, even, 2)[0].flatten()[1:]
print("with equal scores, 1 kept + 3 fused:", (fused[0] + 3 * fused[1]).item())

# %% [markdown]
# With equal scores the fused token is the plain mean of the three, so that three times it, and the kept one, give the sum again.
# ToMe remembers such sizes and gives the merged keys their weight in the soft-max.
#
# ````{solution-end}
# ````

# %% [markdown]
# ## Used here
#
# {py:mod}`migcore.report.ablations`, {py:func}`migcore.models.reduction.cut`, {py:func}`migcore.models.reduction.fuse`,
# {py:func}`migcore.models.cost.tower_cost`. References: {cite}`wang2024multimodal,liang2022evit,bolya2023tome,huang2024froster`.
