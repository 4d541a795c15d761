"""The paper's claims held against this build's runs: one verdict per claim, computed from the ledger.

Letters: N clips, D draws of subjects, G points of a grid of weights, C classes.

The rules; they name no result, and no result can change them:

* A claim that A is better than B **holds** if, in every seed, A is ahead on the same clips, McNemar's exact test with
  Holm's correction gives p < 0.05, and the 95 % interval of the difference lies above 0. The interval is drawn by
  whole subjects: it knows that clips of a subject are alike, which McNemar's test does not.
* Holm's family is all such comparisons of one seed, over all claims. Across seeds nothing is corrected, since every
  seed has to agree.
* A claim over several B holds if it does so for each. It **does not hold** if, for one of them, the interval lies at or
  below 0 in every seed. Everything between is **undecided**, and the difference is given.
* "Not worse" is "better than by -:data:`MARGIN`": it holds if the interval lies above ``-MARGIN`` in every seed, and
  does not if it lies at or below it in every seed. McNemar's p is shown, but asks another question: it is not
  corrected.
* An order of weights holds if every seed found it and it is found in 95 % of the draws of the search's subjects; it
  does not hold if no seed found it and at most 5 % of the draws do.
* Without the runs, or where a number was made to come out, a claim **cannot be tested here**.

On drawn data a claim "holds on the studio"; "reproduced" is kept for real data.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from migcore import ensemble, experiments, metrics
from migcore.data.imigue import AbsentClassWarning
from migcore.ledger import Run
from migcore.presets import Preset
from migcore.report import tables
from migcore.report.tables import Table

LEVEL = 0.05
"""Of the tests."""
MARGIN = 2.0
"""Points of top-1 that "not worse" allows: one standard error of an accuracy of 60 % on 600 independent clips."""
DRAWS = 1000
"""Of subjects, for the order of weights."""
UNDECIDED, UNTESTED = "undecided", "cannot be tested here"

NAMES: dict[str, str] = {
    "ours": "the fusion",
    "froster_decay": "distilled, with decay",
    "froster": "distilled, all tokens",
    "vclip": "plain fine-tuning",
    "zero_shot": "teacher, zero-shot",
    "linear_probe": "teacher, linear probe",
    "posec3d_joint": "joint, labels alone",
    "posec3d_limb": "limb, labels alone",
    "posec3d_joint_text": "joint, text-aligned",
    "posec3d_limb_text": "limb, text-aligned",
}
"""What the experiments are called here."""


@dataclass(frozen=True)
class Claim:
    """What is claimed.

    Attributes:
        name: short, without spaces.
        text: in one sentence.
        where: in the paper.
    """

    name: str
    text: str
    where: str


_IMPLIED = "not claimed as such; implied by section 2.4, Tables 1 and 2"

CLAIMS: tuple[Claim, ...] = (
    Claim("fusion-streams", "The fusion is better than each of its three streams.", "Table 2"),
    Claim("fusion-table1", "The fusion is better than every other method of Table 1.", "Table 1, section 3.2"),
    Claim("decay-better", "Token decay makes the video stream better.", "Table 3"),
    Claim(
        "decay-accuracy",
        f"With token decay the video stream is not worse than without (by more than {MARGIN:g} points).",
        "not claimed; a weaker reading of Table 3",
    ),
    Claim("decay-memory", "Token decay brings the memory to 0.68 of what it was.", "Table 3"),
    Claim("text-joint", "Text alignment (map and texts) makes the joint network better.", _IMPLIED),
    Claim("text-limb", "Text alignment (map and texts) makes the limb network better.", _IMPLIED),
    Claim("weights", "The best weights favour RGB, then joint, then limb.", "Table 2"),
    Claim("froster-frozen", "Distillation is better than the frozen CLIP it learns from, zero-shot.", "Section 2.2"),
    Claim("froster-probe", "Distillation is better than a linear probe of that CLIP.", "not claimed; near Table 1"),
    Claim("froster-plain", "Distillation is better than plain fine-tuning.", "FROSTER's claim; section 2.2"),
)
"""Those that runs can speak to."""

# Claim → what is said to be better, and than which; a row of Table 1 that nobody has run is left out, and named.
_BETTER: dict[str, tuple[str, tuple[str, ...]]] = {
    "fusion-streams": ("ours", tables.STREAMS),
    "fusion-table1": ("ours", tuple(m.experiment for m in tables.PAPER_TABLE1 if m.experiment != "ours")),
    "decay-better": ("froster_decay", ("froster",)),
    "decay-accuracy": ("froster_decay", ("froster",)),
    "text-joint": ("posec3d_joint_text", ("posec3d_joint",)),
    "text-limb": ("posec3d_limb_text", ("posec3d_limb",)),
    "froster-frozen": ("froster", ("zero_shot",)),
    "froster-probe": ("froster", ("linear_probe",)),
    "froster-plain": ("froster", ("vclip",)),
}
_AS_FAR_AS_RUN = {"fusion-table1"}
_NOT_WORSE = {"decay-accuracy"}


@dataclass(frozen=True)
class Comparison:
    """Two runs of a seed on the same clips.

    Attributes:
        better, other: experiments; the first is said to be better.
        seed: of both.
        split: whose clips.
        clips, subjects: how many.
        difference: of top-1, first less second, in points.
        low, high: 95 % interval of the difference from drawing subjects, in points; NaN for one subject.
        p: McNemar's, exact and two-sided.
        adjusted: p after Holm's correction over the seed; NaN where the question is not which is better.
        stale: one of them was recorded with an older version of the code.
    """

    better: str
    other: str
    seed: int
    split: str
    clips: int
    subjects: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float = float("nan")
    stale: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim.

    Attributes:
        claim: which.
        state: "holds on the studio", "does not hold on the studio" (on real data "reproduced", "not reproduced"),
            "undecided" or "cannot be tested here".
        evidence: in words and numbers.
        rows: the comparisons behind it, if there are any.
        runs: all runs behind it.
    """

    claim: Claim
    state: str
    evidence: str
    rows: tuple[Comparison, ...] = ()
    runs: tuple[Run, ...] = ()


def known_seeds(config: Preset) -> tuple[int, ...]:
    """Seeds of which the ledger has the whole method ("ours") with this preset, ascending."""
    return tuple(sorted({run.seed for run in experiments.ledger().find("ours", config.label)}))


def verdicts(config: Preset, seeds: Sequence[int] = (0,)) -> list[Verdict]:
    """Hold every claim against the runs that there are; nothing is trained.

    Args:
        config: preset of the runs.
        seeds: to look at; those without the runs of a claim are left out, and the evidence says which were there.
    """
    index, data = tables.clips_of(config)
    names = {name for better, others in _BETTER.values() for name in (better, *others)}
    runs = {name: tables.find_runs(name, config, seeds, index, data) for name in sorted(names)}
    made = {claim: _comparisons(runs, *_BETTER[claim]) for claim in _BETTER}
    made = _corrected(made)
    words = ("reproduced", "not reproduced") if tables.is_real(config) else _STUDIO
    found = []
    for claim in CLAIMS:
        if claim.name in _BETTER:
            found.append(_compared(claim, made[claim.name], runs, words))
        elif claim.name == "weights":
            found.append(_ordered(claim, runs, words))
        else:
            found.append(_calibrated(claim, config))
    return found


_STUDIO = ("holds on the studio", "does not hold on the studio")


def _comparisons(runs: Mapping[str, Mapping[int, Run]], better: str, others: Sequence[str]) -> list[Comparison]:
    """All that can be made, seed by seed."""
    return [
        compare(runs[better][seed], runs[other][seed], seed)
        for other in others
        for seed in runs[better]
        if seed in runs[other]
    ]


def compare(better: Run, other: Run, seed: int) -> Comparison:
    """Two runs on the clips that both have read, of test, or of validation where the test labels are not known.

    Args:
        better, other: runs on the same data.
        seed: what the comparison is filed under; an experiment without chance is compared in every seed.

    Raises:
        DataError: they have no labelled clip in common.
    """
    split = "test" if better.metrics.get("test") and other.metrics.get("test") else "val"
    clips = tables.same_clips({"better": better, "other": other}, split)
    a, b = (metrics.correct(clips.logits[name], clips.labels) for name in ("better", "other"))
    apart = a.astype(float) - b.astype(float)
    low, high = tables.interval(apart, clips.subjects)
    return Comparison(
        better.experiment,
        other.experiment,
        seed,
        split,
        clips=len(apart),
        subjects=len(np.unique(clips.subjects)),
        difference=100 * float(apart.mean()),
        low=low,
        high=high,
        p=metrics.mcnemar(a, b),
        stale=better.stale or other.stale,
    )


def _corrected(made: Mapping[str, Sequence[Comparison]]) -> dict[str, list[Comparison]]:
    """With Holm's correction over each seed's comparisons of "better"."""
    tested = [(claim, row) for claim, rows in made.items() if claim not in _NOT_WORSE for row in rows]
    adjusted: dict[tuple[str, str, int], float] = {}
    for seed in {row.seed for _, row in tested}:
        family = {f"{claim} {row.other}": row.p for claim, row in tested if row.seed == seed}
        for name, p in metrics.holm(family).items():
            claim, other = name.split(" ")
            adjusted[claim, other, seed] = p
    nan = float("nan")
    return {
        claim: [replace(row, adjusted=adjusted.get((claim, row.other, row.seed), nan)) for row in rows]
        for claim, rows in made.items()
    }


def _compared(
    claim: Claim,
    rows: Sequence[Comparison],
    runs: Mapping[str, Mapping[int, Run]],
    words: tuple[str, str],
) -> Verdict:
    better, others = _BETTER[claim.name]
    missing = [other for other in others if not any(row.other == other for row in rows)]
    not_run = f"not run, or not with {called(better)}: {', '.join(map(called, missing))}" if missing else ""
    if not rows or (missing and claim.name not in _AS_FAR_AS_RUN):
        return Verdict(claim, UNTESTED, f"{not_run}.", tuple(rows))
    bar = -MARGIN if claim.name in _NOT_WORSE else 0.0
    if claim.name in _NOT_WORSE:
        holds = all(row.low > bar for row in rows)
    else:
        holds = all(row.difference > 0 and row.adjusted < LEVEL and row.low > 0 for row in rows)
    compared = [[row for row in rows if row.other == other] for other in others if other not in missing]
    fails = any(all(row.high <= bar for row in of_one) for of_one in compared)
    state = words[0] if holds else words[1] if fails else UNDECIDED
    used = [runs[name][row.seed] for row in rows for name in (row.better, row.other)]
    worse = claim.name in _NOT_WORSE and state == UNDECIDED and all(row.high < 0 for row in rows)
    known = f"worse in every seed; only whether by more than {MARGIN:g} points is open" if worse else ""
    evidence = [_closest(rows), known, not_run, _cautions(rows)]
    text = ". ".join(part[0].upper() + part[1:] for part in evidence if part)
    return Verdict(claim, state, f"{text}.", tuple(rows), tuple(used))


def called(experiment: str) -> str:
    """What an experiment is called in the chapters, else in Table 1, else as it is."""
    printed = {m.experiment: m.name for m in tables.PAPER_TABLE1}
    return NAMES.get(experiment) or printed.get(experiment, experiment)


def _closest(rows: Sequence[Comparison]) -> str:
    """The comparison that decides: that with the smallest difference."""
    row = min(rows, key=lambda row: row.difference)
    where = f"{called(row.better)} against {called(row.other)}"
    if len(rows) > 1:
        where = f"least favourable of {len(rows)}: {where}, seed {row.seed}"
    adjusted = "" if np.isnan(row.adjusted) else f", Holm-adjusted p {p_text(row.adjusted)}"
    return f"{where}, {row.difference:+.2f} points {interval_text(row)}{adjusted}, {row.clips} {row.split} clips"


def _cautions(rows: Sequence[Comparison]) -> str:
    notes = []
    if any(row.split == "val" and row.better == "ours" for row in rows):
        notes.append("the weights were searched on these very clips")
    if any(row.stale for row in rows):
        notes.append("† a run is of an older version of the code")
    if any(row.subjects < 2 for row in rows):
        notes.append("clips of one subject alone say nothing about others")
    return "; ".join(notes)


def interval_text(row: Comparison) -> str:
    """The interval of a comparison, as the tables write it; "" where there is none."""
    return tables.interval_cell(row.low, row.high)


def p_text(p: float) -> str:
    """A p-value, for people; "" for NaN."""
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ordered(claim: Claim, runs: Mapping[str, Mapping[int, Run]], words: tuple[str, str]) -> Verdict:
    seeds = [seed for seed in runs["ours"] if all(seed in runs[name] for name in tables.STREAMS)]
    if not seeds:
        return Verdict(claim, UNTESTED, f"not run: {called('ours')}, or one of its streams.")
    found, shares, texts, several = [], [], [], True
    for seed in seeds:
        ours, streams = runs["ours"][seed], {name: runs[name][seed] for name in tables.STREAMS}
        weights = [float(ours.extra["weights"][name]) for name in tables.STREAMS]
        share, subjects = share_of_draws(ours, streams)
        found.append(_falls(np.array([weights]))[0])
        shares.append(share)
        several &= subjects > 1
        texts.append(
            f"seed {seed}: {' / '.join(f'{w:.3g}' for w in weights)}; {100 * share:.0f} % of {DRAWS} draws of the"
            f" {subjects} {ours.extra['search']['split']} subjects give that order"
        )
    holds, fails = all(found) and min(shares) >= 1 - LEVEL, not any(found) and max(shares) <= LEVEL
    state = UNDECIDED if not several else words[0] if holds else words[1] if fails else UNDECIDED
    used = [runs[name][seed] for seed in seeds for name in ("ours", *tables.STREAMS)]
    stale = ". † a run is of an older version of the code" if any(run.stale for run in used) else ""
    return Verdict(claim, state, f"RGB / joint / limb, {'. '.join(texts)}{stale}.", (), tuple(used))


def _falls(weights_GS: np.ndarray) -> np.ndarray:
    return np.asarray((np.diff(weights_GS, axis=1) < 0).all(1))


def share_of_draws(ours: Run, streams: Mapping[str, Run], draws: int = DRAWS) -> tuple[float, int]:
    """How often the search would find weights that fall from stream to stream, had it met other subjects.

    The subjects of the search's split are drawn with replacement, and each draw is searched with the run's own grid,
    score and rule for ties (:func:`migcore.ensemble.search_weights`).

    Args:
        ours: a run that searched.
        streams: the runs it searched over, by name, in the order in which weights should fall.
        draws: D.

    Returns:
        the share of the draws, 0..1, and the number of subjects.
    """
    search = ours.extra["search"]
    clips = tables.same_clips(streams, search["split"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        grid = ensemble.search_weights(
            clips.logits, clips.labels, step=search["step"], split=search["split"], kind=search["kind"]
        ).grid
    hits_GN = np.stack([
        ensemble.fuse(clips.logits, dict(zip(clips.logits, point, strict=True)), kind=search["kind"]).argmax(1)
        == clips.labels
        for point in grid.tolist()
    ])  # fmt: skip
    names, subject = np.unique(clips.subjects, return_inverse=True)
    rng = np.random.default_rng(0)
    times_DN = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)[:, subject].astype(float)
    if search["metric"] == "mean_class":
        one_hot_NC = clips.labels[:, None] == np.unique(clips.labels)
        times_DN /= np.maximum(times_DN @ one_hot_NC, 1)[:, one_hot_NC.argmax(1)]
    scores_DG = times_DN @ hits_GN.T
    squares_G = (grid**2).sum(1).round(9)
    best_DG = scores_DG >= scores_DG.max(1, keepdims=True) - 1e-9
    chosen_D = np.where(best_DG, squares_G, np.inf).argmin(1)
    return float(_falls(grid)[chosen_D].mean()), len(names)


def _calibrated(claim: Claim, config: Preset) -> Verdict:
    taken = tables.measures(config)
    first, *others = taken
    rest = "; ".join(f"{m.ratio:.2f} {m.head}" for m in others if not m.calibrated)
    evidence = (
        f"{first.ratio:.2f} comes out because the decay was chosen so that it does (calibrated), so it is no evidence."
        f" The paper does not say what was measured, or how many tokens stay. With the same decay: {rest}."
    )
    return Verdict(claim, UNTESTED, evidence)


# -------------------------------------------------------------------------------------------------------------- tables


def table(found: Iterable[Verdict]) -> Table:
    """The ledger: each claim with its verdict.

    Args:
        found: of :func:`verdicts`.
    """
    found = list(found)
    rows = [[v.claim.text, v.claim.where, v.state, v.evidence[:1].upper() + v.evidence[1:]] for v in found]
    rule = (
        "Better: ahead in every seed with a Holm-adjusted p below 0.05 (McNemar) and an interval of the difference over"
        " subjects above 0; refuted: the interval at or below 0 in every seed; between, undecided. Not worse: the"
        f" interval above {-MARGIN:g} points. The order of weights: found in every seed and in 95 % of draws of"
        " subjects. Differences are in points of top-1; brackets: 95 % interval over subjects."
    )
    used = {run.key: run for v in found for run in v.runs}
    columns = ["Claim", "Where", "Verdict", "Evidence"]
    notes = [rule, tables.provenance(list(used.values()))]
    return Table("tab-claims", "The paper's claims held against this build's runs", columns, rows, notes=notes)


def every_comparison(found: Iterable[Verdict]) -> list[Comparison]:
    """The comparisons behind some verdicts, each once: with its corrected p, if any of the claims asks which is better.

    Args:
        found: of :func:`verdicts`.
    """
    unique: dict[tuple[str, str, int], Comparison] = {}
    for row in (row for verdict in found for row in verdict.rows):
        which = row.better, row.other, row.seed
        if which not in unique or np.isnan(unique[which].adjusted):
            unique[which] = row
    return list(unique.values())


def comparisons(found: Iterable[Verdict]) -> Table:
    """Every comparison behind the ledger, seed by seed.

    Args:
        found: of :func:`verdicts`.
    """
    rows = [
        [
            called(row.better) + (" †" if row.stale else ""),
            called(row.other),
            f"{row.seed}",
            f"{row.clips} {row.split}",
            f"{row.difference:+.2f}",
            interval_text(row),
            p_text(row.p),
            p_text(row.adjusted) or "not tested",
        ]
        for row in every_comparison(found)
    ]
    columns = ["Said to be better", "Than", "Seed", "Clips", "Difference", "95 % interval", "McNemar p", "Holm's p"]
    notes = ["Differences in points of top-1 on the same clips; intervals from drawing subjects."]
    if any("†" in row[0] for row in rows):
        notes.append("† one of the two runs was recorded with an older version of the code.")
    return Table("tab-comparisons", "The comparisons behind the claims, seed by seed", columns, rows, notes=notes)
