"""Ablations that the paper does not show: one part of the method changed at a time, each variant an ordinary run.

A variant is an experiment with some fields of its preset overridden; it is filed, keyed and loaded like any other run.
The first row of an ablation is what the preset does. Nothing here trains: :func:`runs_of` names what is to be run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from migcore import metrics
from migcore.errors import ConfigError
from migcore.ledger import Run
from migcore.models.cost import tower_cost
from migcore.models.vclip import VCLIPConfig
from migcore.presets import KEEP_VIT_B16, Preset, changed
from migcore.report import tables
from migcore.report.tables import NOT_RUN, STREAMS, Table


@dataclass(frozen=True)
class Variant:
    """One row: an experiment under some overrides.

    Attributes:
        label: what differs.
        experiment: its name.
        overrides: dotted field → value as text.
    """

    label: str
    experiment: str
    overrides: Mapping[str, str] = field(default_factory=dict)

    def preset(self, config: Preset) -> Preset:
        """The preset of its run, from that of the method's runs."""
        return changed(config, self.overrides)


@dataclass(frozen=True)
class Ablation:
    """What is varied.

    Attributes:
        name: short, without spaces.
        question: that it answers.
        where: in the paper.
        variants: what is compared.
    """

    name: str
    question: str
    where: str
    variants: tuple[Variant, ...]

    def rows(self, config: Preset) -> list[Variant]:
        """The variants, that which the preset has before the others."""
        same = [v for v in self.variants if v.overrides and v.preset(config) == config]
        first = [replace(v, label=f"{v.label} (preset)") for v in same]
        return [*first, *(v for v in self.variants if v not in same)]


def _values(field: str, *values: str, experiment: str = "froster", words: str = "{}") -> tuple[Variant, ...]:
    """One field of an experiment, each value spelt out: that of the preset is found among them."""
    return tuple(Variant(words.format(value), experiment, {field: value}) for value in values)


ABLATIONS: tuple[Ablation, ...] = (
    Ablation("alpha", "Does the residual of the projector matter?", "Eq. 2", (
        *_values("student.alpha", "0.1", "0", "0.5", words="α = {}"),
    )),
    Ablation("beta", "How near to its teacher should the student stay?", "Eq. 4", (
        *_values("student.beta", "2", "0.5", "8", words="β = {}"),
        Variant("no distillation", "vclip"),
    )),
    Ablation("distance", "Which distance distils?", "Eq. 3", _values("student.distill", "l2", "cosine", "sq_l2")),
    Ablation("boundary", "What stands for the neighbours that a clip's ends lack?", "Section 2.3", (
        *_values("student.vclip.boundary", "zero", "mask", "replicate"),
        Variant("no neighbours at all", "froster", {"student.vclip.span": "0"}),
    )),
    Ablation("decay", "By what should patches be chosen?", "Section 2.3", (
        *_values(
            "student.vclip.score", "logits", "softmax", experiment="froster_decay", words="[cls] and keys, {}"
        ),
        Variant("by chance", "froster_decay", {"student.vclip.reduce": "random"}),
    )),
    Ablation("average", "Does the mean of the weights over epochs help?", "FROSTER's recipe", (
        Variant("last epoch", "froster", {"train_student.average_from": "0"}),
        Variant("mean over all epochs", "froster", {"train_student.average_from": "1"}),
    )),
    Ablation("gamma", "How much should the texts weigh?", "Eq. 6", (
        *_values(
            "alignment.gamma", "0", "0.004", "0.0390625", "0.2", experiment="posec3d_joint_text", words="γ = {}"
        ),
        Variant("labels alone, no map", "posec3d_joint"),
    )),
    Ablation("head", "Does the classifier see the embedding?", "Section 2.4", (
        *_values("alignment.embedding", "series", "parallel", experiment="posec3d_joint_text"),
    )),
    Ablation("joints", "Do map and texts help the joints?", "Section 2.4", (
        Variant("labels alone", "posec3d_joint"),
        Variant("with map and texts", "posec3d_joint_text"),
    )),
    Ablation("limbs", "Do map and texts help the limbs?", "Section 2.4", (
        Variant("labels alone", "posec3d_limb"),
        Variant("with map and texts", "posec3d_limb_text"),
    )),
    Ablation("fusion", "What should be added up?", "Eq. 7", (
        *_values("search.kind", "probabilities", "logits", experiment="ours"),
    )),
)  # fmt: skip
"""All ablations but that of token reduction, which has costs beside it (:data:`REDUCTIONS`)."""

KINDS: Mapping[str, str] = {
    "decay by [cls] (the paper)": "decay",
    "random dropping": "random",
    "fusing the rest (EViT)": "fuse",
    "merging (ToMe)": "merge",
}
"""Ways to have fewer tokens, and what ``student.vclip.reduce`` calls them."""
BUDGETS: tuple[float, ...] = (0.9, 0.6)
"""Shares of patches kept by every block but the last, beside the preset's own."""


def _reduction(label: str, kind: str, **others: str) -> Variant:
    reduce = {} if kind == "decay" else {"student.vclip.reduce": kind}
    return Variant(
        label, "froster_decay", {**reduce, **{f"student.vclip.{name}": value for name, value in others.items()}}
    )


ALL_TOKENS = Variant("all tokens", "froster")
REDUCTIONS: tuple[Variant, ...] = (ALL_TOKENS, *(_reduction(label, kind) for label, kind in KINDS.items()))
"""The rows of the extended Table 3, at the same number of kept tokens."""


def budgets(config: Preset) -> dict[str, list[Variant]]:
    """Every kind at every budget, that of the preset among them: label → variants."""
    blocks = len(config.student.vclip.keep)
    keeps = [",".join([f"{share:g}"] * (blocks - 1) + ["1"]) for share in BUDGETS]
    return {
        label: [_reduction(label, kind), *(_reduction(label, kind, keep=keep) for keep in keeps)]
        for label, kind in KINDS.items()
    }


def trade_off(config: Preset, seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """(forward pass of the tower trained here in GFLOP, top-1 in percent) of every run of :func:`budgets` there is."""
    index, data = tables.clips_of(config)
    points: dict[str, list[tuple[float, float]]] = {}
    for label, found in {ALL_TOKENS.label: [ALL_TOKENS], **budgets(config)}.items():
        points[label] = []
        for variant in found:
            this = variant.preset(config)
            score = tables.score(variant.experiment, this, (seed,), index, data)
            if score is not None:
                vclip = _vclip(variant, this)
                points[label].append((tower_cost(config.teacher.name, vclip).flops / 1e9, score.top1))
    return points


@dataclass(frozen=True)
class AtBudget:
    """The paper's decay less dropping by chance, at a budget.

    Attributes:
        share: of the patches that every block but the last keeps; None for the preset's own.
        validation, test: difference of top-1 in points, and its 95 % interval over subjects; test is None where its
            labels are withheld.
    """

    share: float | None
    validation: tuple[float, float, float]
    test: tuple[float, float, float] | None


def rule_against_chance(config: Preset, seed: int = 0) -> list[AtBudget]:
    """What the rule by which patches are dropped is worth, at every budget of which both runs are in the ledger."""
    index, data = tables.clips_of(config)
    by_rule, by_chance = (budgets(config)[label] for label in list(KINDS)[:2])
    found = []
    for share, *both in zip((None, *BUDGETS), by_rule, by_chance, strict=True):
        rule, chance = (tables.find_runs(v.experiment, v.preset(config), (seed,), index, data) for v in both)
        validation, test = (
            _difference(rule, chance, split) if _labelled([*rule.values(), *chance.values()], split) else None
            for split in ("val", "test")
        )
        if validation is not None:
            found.append(AtBudget(share, validation, test))
    return found


def ablation(name: str) -> Ablation:
    """The ablation of that name.

    Raises:
        ConfigError: there is none.
    """
    for each in ABLATIONS:
        if each.name == name:
            return each
    raise ConfigError(
        f"no ablation is called {name!r}",
        hint=f"There are {', '.join(a.name for a in ABLATIONS)}, reduction and budgets",
    )


def variants(config: Preset, names: Sequence[str] = ()) -> list[Variant]:
    """The variants of some ablations, each once.

    Args:
        config: preset of the method's runs.
        names: ablations, "reduction" (the extended Table 3), "budgets" (the same at other budgets); all but the last if
            none is given.

    Raises:
        ConfigError: a name is none of these.
    """
    found = [v for name in names if name not in ("reduction", "budgets") for v in ablation(name).variants]
    if not names:
        found = [v for each in ABLATIONS for v in each.variants]
    if not names or "reduction" in names:
        found += REDUCTIONS
    if "budgets" in names:
        found += [v for of_kind in budgets(config).values() for v in of_kind]
    return list({(v.experiment, v.preset(config).label): v for v in reversed(found)}.values())[::-1]


@dataclass(frozen=True)
class Reading:
    """What the runs of a variant say.

    Attributes:
        variant: which.
        validation: top-1 on validation in percent, mean over the seeds; None where no validation clip has a label.
        score: on the split that decides nothing.
        difference: top-1 less that of the first variant on the same clips and seeds, in points, and its 95 % interval
            over subjects; None for the first itself, and where the two share no seed.
    """

    variant: Variant
    validation: float | None
    score: tables.Score
    difference: tuple[float, float, float] | None


def readings(config: Preset, which: Ablation, seeds: Sequence[int] = (0,)) -> list[Reading | None]:
    """The runs of an ablation's rows, in their order; None where there is none.

    Args:
        config: preset of the method's runs.
        which: the ablation.
        seeds: over which numbers are averaged.
    """
    index, data = tables.clips_of(config)
    found: list[Reading | None] = []
    first: Mapping[int, Run] = {}
    for variant in which.rows(config):
        this = variant.preset(config)
        runs = tables.find_runs(variant.experiment, this, seeds, index, data)
        score = tables.score(variant.experiment, this, seeds, index, data)
        if score is None:
            found.append(None)
            continue
        first = first or runs
        validation = None
        if _labelled(score.runs, "val"):
            validation = 100 * sum(run.metrics["val"]["top1"] for run in score.runs) / len(score.runs)
        found.append(Reading(variant, validation, score, _difference(runs, first, score.split)))
    return found


def ablation_table(config: Preset, which: Ablation, seeds: Sequence[int] = (0,)) -> Table:
    """An ablation as a table: validation and test top-1 of each variant, and the difference from the first.

    Args:
        config, which, seeds: as for :func:`readings`.
    """
    rows, used = [], []
    for variant, found in zip(which.rows(config), readings(config, which, seeds), strict=True):
        if found is None:
            rows.append([variant.label, NOT_RUN, "", ""])
            continue
        used += list(found.score.runs)
        apart = "" if found.difference is None else points(found.difference)
        validation = tables.WITHHELD if found.validation is None else f"{found.validation:.2f}"
        rows.append([variant.label, validation, found.score.cells()[0], apart])
    notes = [
        "Top-1 in percent, [95 % interval over subjects]; the difference is from the first row, on the same clips and"
        " seeds, with the interval of the difference. Choices are made by validation; the test column decides nothing.",
        *tables.older(used),
        tables.provenance(used),
    ]
    return Table(
        "", f"{which.question} ({which.where})", ["Variant", "validation", "test", "difference on test"], rows, notes
    )


def conclusion(config: Preset, which: Ablation, seeds: Sequence[int] = (0,)) -> str:
    """An ablation in a sentence or two: what validation would choose, and what that does on test.

    Args:
        config, which, seeds: as for :func:`readings`.
    """
    known = [found for found in readings(config, which, seeds) if found is not None]
    if len(known) < 2:
        return f"{which.question} There are too few runs to say."
    text = _chosen(known)
    told = [found for found in known if found.difference and (found.difference[1] > 0 or found.difference[2] < 0)]
    apart = ", ".join(f"*{found.variant.label}* ({points(found.difference)})" for found in told if found.difference)
    if told:
        text += f" Apart from the first row on test, by their intervals: {apart}."
    else:
        text += " On test no interval of a difference excludes zero."
    return f"{which.question} {text}"


def _chosen(known: Sequence[Reading]) -> str:
    """What validation would choose of two readings or more, and what that does on test."""
    scores = [found.validation for found in known if found.validation is not None]
    if len(scores) < len(known):
        return "No validation clip has a label: nothing is chosen."
    first, best = known[0], known[scores.index(max(scores))]  # of equal ones the first
    if best is first:
        second = max(scores[1:])
        closest, ahead = known[scores.index(second, 1)], scores[0] - second
        if ahead == 0:
            return f"Validation cannot tell *{first.variant.label}* from *{closest.variant.label}*."
        return f"Validation chooses *{first.variant.label}*, {ahead:.2f} points ahead of *{closest.variant.label}*."
    ahead = max(scores) - scores[0]
    text = f"Validation would choose *{best.variant.label}*, {ahead:.2f} points ahead of *{first.variant.label}*."
    return text if best.difference is None else f"{text} On test that is {points(best.difference)} points."


def _labelled(runs: Sequence[Run], split: str) -> bool:
    """Whether all runs were judged on clips of a split whose labels are known."""
    return all(run.metrics.get(split) for run in runs)


def reduction_table(config: Preset, seeds: Sequence[int] = (0,)) -> Table:
    """Table 3 with other ways to have fewer tokens, each with as many as the paper's decay keeps.

    Args:
        config: preset of the method's runs.
        seeds: over which numbers are averaged.
    """
    index, data = tables.clips_of(config)
    rows, used = [], []
    decay = tables.find_runs(STREAMS[0], config, seeds, index, data)
    for variant in REDUCTIONS:
        this = variant.preset(config)
        score = tables.score(variant.experiment, this, seeds, index, data)
        cells = [variant.label, NOT_RUN, ""]
        if score is not None:
            used += list(score.runs)
            runs = tables.find_runs(variant.experiment, this, seeds, index, data)
            apart = _difference(runs, decay, score.split)
            cells[1:] = score.cells()[0], "" if apart is None else points(apart)
        rows.append([*cells, *_costs(this, _vclip(variant, this))])
    trained = tables.model_name(config.teacher.name)
    columns = ["Tokens", f"Top-1, {trained}", "less the paper's decay", "tokens into the last block"]
    columns += [
        f"saved for backward, {trained}, MiB",
        f"forward pass, {trained}, GFLOP",
        "saved for backward, ViT-B/16, GiB",
        "forward pass, ViT-B/16, GFLOP",
    ]
    notes = [
        "Top-1 in percent, [95 % interval over subjects]; differences are on the same clips and seeds, with the"
        " interval of the difference. All rows but the first keep the same number of patches after every block. Memory"
        " and work are counted as in Table 3: 8 frames, batch 1, float32, attention written out;"
        " ViT-B/16 has the decay that was calibrated for it. Merging weighs keys by their sizes, which takes memory.",
        *tables.older(used),
        tables.provenance(used),
    ]
    return Table("tab-reduction", "Fewer tokens, by other means", columns, rows, notes)


def _vclip(variant: Variant, config: Preset) -> VCLIPConfig:
    """The tower of a variant's run."""
    vclip = config.student.vclip
    return replace(vclip, keep=()) if variant.experiment == "froster" else vclip


def _costs(config: Preset, vclip: VCLIPConfig) -> list[str]:
    here = tower_cost(config.teacher.name, vclip)
    vit = here
    if config.teacher.name != tables.VIT:
        vit = tower_cost(tables.VIT, replace(vclip, keep=KEEP_VIT_B16 if vclip.keep else ()))
    return [
        f"{here.tokens[-1]}",
        f"{here.saved_bytes / 2**20:.1f}",
        f"{here.flops / 1e9:.2f}",
        f"{vit.saved_bytes / 2**30:.2f}",
        f"{vit.flops / 1e9:.0f}",
    ]


def _difference(runs: Mapping[int, Run], first: Mapping[int, Run], split: str) -> tuple[float, float, float] | None:
    """Top-1 of some runs less that of others, in points over the seeds that both have, and its interval."""
    apart, subjects = [], []
    for seed in sorted(runs.keys() & first.keys()):
        if runs[seed].key == first[seed].key:
            return None
        clips = tables.same_clips({"this": runs[seed], "first": first[seed]}, split)
        a, b = (metrics.correct(clips.logits[name], clips.labels).astype(float) for name in ("this", "first"))
        apart.append(a - b)
        subjects.append(clips.subjects)
    if not apart:
        return None
    mean = 100 * float(np.concatenate(apart).mean())
    return mean, *tables.interval(np.concatenate(apart), np.concatenate(subjects))


def points(difference: tuple[float, float, float]) -> str:
    """A difference and its interval, as the tables write them."""
    mean, low, high = difference
    return f"{mean:+.2f} {tables.interval_cell(low, high)}".rstrip()
