"""The ledger of claims: what the rules call a claim that holds, that does not, and that nothing is known about."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migcore import ensemble, experiments, metrics
from migcore.data.imigue import AbsentClassWarning
from migcore.ledger import Ledger, Run, source_hash
from migcore.models.cost import Cost
from migcore.models.vclip import VCLIPConfig
from migcore.presets import Preset, preset
from migcore.report import claims, tables
from migcore.report.claims import LEVEL, MARGIN, UNDECIDED, UNTESTED, Verdict
from migcore.report.tables import STREAMS

SMOKE = preset("smoke")
HOLDS, FAILS = "holds on the studio", "does not hold on the studio"
N, SUBJECTS = 200, 10
LABELS = np.arange(N) % 32
SEARCH = {"split": "val", "step": 0.25, "kind": "probabilities", "metric": "top1"}


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger; nothing of the machine's data is at hand, and no tower is counted."""
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    monkeypatch.setenv("MIGCORE_RUNS", str(book.runs))
    monkeypatch.setattr(experiments, "ledger", lambda: book)
    monkeypatch.setattr(tables, "_cost", counted)
    return book


def counted(model: str, config: VCLIPConfig, attention: str) -> Cost:
    share = 0.68 if config.keep and attention == "written" else 0.8 if config.keep else 1
    return Cost(int(2**30 * share), 0, int(10**11 * share), (197,))


def key_of(name: str, config: Preset, seed: int) -> str:
    return hashlib.sha256(f"{name} {config.label} {seed}".encode()).hexdigest()[:16]


def add(
    book: Ledger,
    name: str,
    right: int | np.ndarray,
    seed: int = 0,
    *,
    config: Preset = SMOKE,
    logits: np.ndarray | None = None,
    splits: Sequence[str] = ("val", "test"),
    subjects: int = SUBJECTS,
    **values: object,
) -> Run:
    """A run that has the first ``right`` clips right, or those marked; clips are dealt out to the subjects."""
    hits = np.arange(N) < right if isinstance(right, int) else right
    if logits is None:
        logits = np.eye(32, dtype=np.float32)[np.where(hits, LABELS, (LABELS + 1) % 32)]
    modules = list(experiments.EXPERIMENTS[name].modules)
    clips = {"ids": [f"c{i}" for i in range(N)], "subjects": [f"P{i % subjects}" for i in range(N)]}
    searched = {"weights": dict(zip(STREAMS, (0.5, 0.25, 0.25), strict=True)), "search": SEARCH}
    fields: dict[str, object] = {
        "extra": searched if name == "ours" else {},
        "key": key_of(name, config, seed),
        "experiment": name,
        "preset": config.label,
        "seed": seed,
        "config": experiments._resolved(name, config, seed),
        "data": "d",
        "code": source_hash(modules),
        "modules": modules,
        "depends": {other: key_of(other, config, seed) for other in experiments.EXPERIMENTS[name].depends},
        "metrics": {split: metrics.classification(logits, LABELS) for split in splits},
        "clips": {split: clips for split in splits},
        "created": "2024-01-01T00:00:00+00:00",
    }
    run = Run(**{**fields, **values})  # type: ignore[arg-type]
    return book.save(run, {f"{s}.{k}": v for s in splits for k, v in (("logits", logits), ("labels", LABELS))})


def verdict(name: str, seeds: Sequence[int] = (0,), config: Preset = SMOKE) -> Verdict:
    return next(v for v in claims.verdicts(config, seeds) if v.claim.name == name)


def test_without_runs_nothing_can_be_tested() -> None:
    found = claims.verdicts(SMOKE)
    assert [v.claim for v in found] == list(claims.CLAIMS)
    assert all(v.state == UNTESTED and not v.rows and v.evidence.endswith(".") for v in found)
    assert len({claim.name for claim in claims.CLAIMS}) == len(claims.CLAIMS) == 11
    assert claims.known_seeds(SMOKE) == ()


def test_clearly_better_in_every_seed_holds(book: Ledger) -> None:
    for seed in (0, 1):
        add(book, "froster", 150, seed)
        add(book, "vclip", 90, seed)
    found = verdict("froster-plain", (0, 1))
    assert found.state == HOLDS and [row.seed for row in found.rows] == [0, 1]
    assert all(row.difference == pytest.approx(30) and row.low > 0 and row.adjusted < LEVEL for row in found.rows)
    assert {run.experiment for run in found.runs} == {"froster", "vclip"}
    assert "+30.00 points" in found.evidence and "200 test clips" in found.evidence


def test_clearly_worse_does_not_hold(book: Ledger) -> None:
    add(book, "froster", 90)
    add(book, "vclip", 150)
    assert verdict("froster-plain").state == FAILS


def test_one_seed_that_disagrees_leaves_it_undecided(book: Ledger) -> None:
    for seed, right in ((0, 150), (1, 90)):
        add(book, "froster", right, seed)
        add(book, "vclip", 120, seed)
    assert verdict("froster-plain", (0,)).state == HOLDS
    assert verdict("froster-plain", (1,)).state == FAILS
    assert verdict("froster-plain", (0, 1)).state == UNDECIDED


def test_a_small_lead_is_undecided_and_the_lead_is_said(book: Ledger) -> None:
    add(book, "posec3d_joint_text", 103)
    add(book, "posec3d_joint", 100)
    found = verdict("text-joint")
    assert found.state == UNDECIDED and "+1.50 points" in found.evidence
    assert verdict("text-limb").state == UNTESTED


def test_clips_of_few_subjects_do_not_count_as_many(book: Ledger) -> None:
    """All the lead is one subject's: McNemar's test is impressed, the interval is not."""
    one = np.arange(N) % SUBJECTS == 0
    add(book, "froster", np.where(one, True, np.arange(N) % 2 == 0))
    add(book, "vclip", np.where(one, False, np.arange(N) % 2 == 0))
    found = verdict("froster-plain")
    assert found.rows[0].adjusted < LEVEL and found.rows[0].low <= 0 and found.state == UNDECIDED


def test_few_clips_do_not_count_as_much_evidence(book: Ledger) -> None:
    """Five subjects win one clip each: the interval is impressed, McNemar's test (2 / 2⁵) is not."""
    add(book, "froster", 105)
    add(book, "vclip", 100)
    found = verdict("froster-plain")
    assert found.rows[0].low > 0 and found.rows[0].adjusted == 0.0625 and found.state == UNDECIDED


def test_one_subject_decides_nothing(book: Ledger) -> None:
    add(book, "froster", 190, subjects=1)
    add(book, "vclip", 20, subjects=1)
    found = verdict("froster-plain")
    assert found.state == UNDECIDED and np.isnan(found.rows[0].low) and "one subject alone" in found.evidence


def test_better_than_each_needs_each(book: Ledger) -> None:
    add(book, "ours", 160)
    add(book, STREAMS[0], 100)
    add(book, STREAMS[1], 90)
    found = verdict("fusion-streams")
    assert found.state == UNTESTED and "limb, text-aligned" in found.evidence and len(found.rows) == 2
    add(book, STREAMS[2], 158)
    assert verdict("fusion-streams").state == UNDECIDED
    add(book, STREAMS[2], 195)
    assert verdict("fusion-streams").state == FAILS
    add(book, STREAMS[2], 80)
    assert verdict("fusion-streams").state == HOLDS


def test_table_1_is_tested_as_far_as_it_has_been_run(book: Ledger) -> None:
    add(book, "ours", 160)
    assert verdict("fusion-table1").state == UNTESTED
    add(book, "posec3d_joint", 100)
    found = verdict("fusion-table1")
    assert found.state == HOLDS and "DSCNet" in found.evidence and "ST-GCN" in found.evidence
    assert [row.other for row in found.rows] == ["posec3d_joint"]


@pytest.mark.parametrize(
    ("lost", "state"),
    [(0, HOLDS), (2, UNDECIDED), (60, FAILS)],
)
def test_not_worse_has_a_margin(book: Ledger, lost: int, state: str) -> None:
    add(book, "froster", 150)
    add(book, "froster_decay", 150 - lost)
    found = verdict("decay-accuracy")
    assert found.state == state and np.isnan(found.rows[0].adjusted)
    assert (found.rows[0].low > -MARGIN) == (state == HOLDS)


def test_a_gain_is_not_needed_to_be_not_worse(book: Ledger) -> None:
    """One clip in 200 is lost: worse in number, inside the margin with certainty."""
    hits = np.arange(N) < 150
    add(book, "froster", hits)
    hits = hits.copy()
    hits[0] = False
    add(book, "froster_decay", hits)
    found = verdict("decay-accuracy")
    assert found.rows[0].difference == pytest.approx(-0.5) and found.state == HOLDS


def test_the_memory_is_calibrated_and_no_evidence() -> None:
    found = verdict("decay-memory")
    assert found.state == UNTESTED and "0.68" in found.evidence and "calibrated" in found.evidence
    assert "0.80 the same with fused attention" in found.evidence


def test_holms_family_is_a_seed(book: Ledger) -> None:
    for seed in (0, 1):
        add(book, "froster", 120, seed)
        add(book, "vclip", 105, seed)
    add(book, "posec3d_joint_text", 120, 1)
    add(book, "posec3d_joint", 110, 1)
    found = {v.claim.name: v for v in claims.verdicts(SMOKE, (0, 1))}
    alone, beside = found["froster-plain"].rows
    assert alone.adjusted == alone.p == beside.p
    expected = metrics.holm({"a": beside.p, "b": found["text-joint"].rows[0].p})
    assert (beside.adjusted, found["text-joint"].rows[0].adjusted) == (expected["a"], expected["b"])
    assert beside.adjusted == 2 * beside.p


def test_an_experiment_without_chance_is_compared_in_every_seed(book: Ledger) -> None:
    add(book, "zero_shot", 40)
    for seed in (1, 2):
        add(book, "froster", 150, seed)
        add(book, "linear_probe", 60, seed)
    for name, other in (("froster-frozen", "zero_shot"), ("froster-probe", "linear_probe")):
        found = verdict(name, (1, 2))
        assert found.state == HOLDS and [(row.other, row.seed) for row in found.rows] == [(other, 1), (other, 2)]


def test_real_data_reproduces_or_does_not(book: Ledger) -> None:
    config = preset("smoke", {"data.root": "/nowhere"})
    real = pytest.MonkeyPatch()
    with real.context() as patch:
        patch.setattr(experiments, "dataset_at_hand", lambda _: None)
        for name, right in (("froster", 150), ("vclip", 90), ("posec3d_joint", 150), ("posec3d_joint_text", 90)):
            add(book, name, right, config=config)
        assert verdict("froster-plain", config=config).state == "reproduced"
        assert verdict("text-joint", config=config).state == "not reproduced"


def test_validation_clips_stand_in_and_a_searched_one_is_warned_of(book: Ledger) -> None:
    add(book, "ours", 160, splits=("val",))
    for name in STREAMS:
        add(book, name, 90, splits=("val",))
    found = verdict("fusion-streams")
    assert {row.split for row in found.rows} == {"val"} and "searched on these very clips" in found.evidence


def test_an_older_run_is_marked(book: Ledger) -> None:
    add(book, "froster", 150, code="0" * 64)
    add(book, "vclip", 90)
    found = verdict("froster-plain")
    assert "†" in found.evidence and "†" in claims.comparisons([found]).rows[0][0]
    assert "older version" in claims.comparisons([found]).to_text()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=N, max_size=N))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_comparison_is_the_plain_difference(book: Ledger, hits: list[tuple[bool, bool]]) -> None:
    a, b = np.array(hits).T
    row = claims.compare(add(book, "froster", a), add(book, "vclip", b), 7)
    assert row.difference == pytest.approx(100 * (a.mean() - b.mean())) and row.p == metrics.mcnemar(a, b)
    interval = metrics.bootstrap_interval(a * 1.0 - b, np.arange(N) % SUBJECTS, rng=np.random.default_rng(0))
    assert (row.low, row.high) == pytest.approx(tuple(100 * end for end in interval))
    assert (row.seed, row.clips, row.subjects, row.split) == (7, N, SUBJECTS, "test") and np.isnan(row.adjusted)


# ------------------------------------------------------------------------------------------------- the order of weights


def add_search(
    book: Ledger, strengths: Sequence[float], seed: int = 0, *, found: Sequence[float], **how: object
) -> Run:
    """Three noisy streams of these strengths, and a run that says it found these weights."""
    for name, strength in zip(STREAMS, strengths, strict=True):
        logits = np.random.default_rng([seed, *name.encode()]).normal(size=(N, 32)).astype(np.float32)
        logits[np.arange(N), LABELS] += strength
        add(book, name, 0, seed, logits=logits)
    extra = {"weights": dict(zip(STREAMS, found, strict=True)), "search": SEARCH | how}
    return add(book, "ours", 150, seed, extra=extra)


def test_an_order_that_every_draw_finds_holds(book: Ledger) -> None:
    """On a grid of thirds only 2/3, 1/3, 0 falls: the limb says nothing, and RGB more than the joint."""
    right = np.arange(N) % 4
    strong, weak = np.zeros((2, N, 32), np.float32)
    # RGB is right on three quarters; on the last the joint is right and surer than RGB is wrong by less than half.
    strong[np.arange(N), np.where(right < 3, LABELS, (LABELS + 1) % 32)] = np.where(right < 3, 8.0, 3.2)
    weak[np.arange(N), np.where(right == 3, LABELS, (LABELS + 2) % 32)] = np.where(right == 3, 50.0, 3.0)
    never = np.eye(32, dtype=np.float32)[(LABELS + 3) % 32] * 50
    for name, logits in zip(STREAMS, (strong, weak, never), strict=True):
        add(book, name, 0, logits=logits)
    weights = dict(zip(STREAMS, (2 / 3, 1 / 3, 0.0), strict=True))
    add(book, "ours", 150, extra={"weights": weights, "search": SEARCH | {"step": 1 / 3}})
    found = verdict("weights")
    assert found.state == HOLDS and "0.667 / 0.333 / 0" in found.evidence and "100 % of 1000 draws" in found.evidence
    even = dict.fromkeys(STREAMS, 1 / 3)
    add(book, "ours", 150, extra={"weights": even, "search": SEARCH | {"step": 1 / 3}})
    assert verdict("weights").state == UNDECIDED  # the draws agree, but the search itself found something else


def test_another_order_does_not_hold(book: Ledger) -> None:
    add_search(book, (0.0, 0.0, 9.0), found=(0.0, 0.25, 0.75))
    assert verdict("weights").state == FAILS


def test_an_order_that_hangs_on_the_subjects_is_undecided(book: Ledger) -> None:
    add_search(book, (2.0, 2.0, 2.0), found=(0.75, 0.25, 0.0))
    assert verdict("weights").state == UNDECIDED


def test_seeds_that_found_different_orders_are_undecided(book: Ledger) -> None:
    add_search(book, (0.0, 0.0, 9.0), 0, found=(0.0, 0.25, 0.75))
    add_search(book, (0.0, 0.0, 9.0), 1, found=(0.75, 0.25, 0.0))
    found = verdict("weights", (0, 1))
    assert found.state == UNDECIDED and "seed 0: 0 / 0.25 / 0.75" in found.evidence and "seed 1: 0.75" in found.evidence
    assert claims.known_seeds(SMOKE) == (0, 1)


@pytest.mark.parametrize("metric", ["top1", "mean_class"])
def test_draws_are_searched_as_the_search_does(book: Ledger, metric: str) -> None:
    """Each draw by hand: the clips of the drawn subjects, as often as they were drawn, through the real search."""
    ours = add_search(book, (2.4, 1.8, 1.0), found=(0.5, 0.3, 0.2), metric=metric, step=0.1)
    streams = {name: book.find(name)[0] for name in STREAMS}
    draws = 40
    share, subjects = claims.share_of_draws(ours, streams, draws)
    logits = {name: book.load_arrays(run, "val")["logits"] for name, run in streams.items()}
    times = np.random.default_rng(0).multinomial(SUBJECTS, np.full(SUBJECTS, 1 / SUBJECTS), size=draws)
    falls = []
    for row in times:
        clips = np.repeat(np.arange(N), row[np.arange(N) % SUBJECTS])
        drawn = {name: y[clips] for name, y in logits.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AbsentClassWarning)
            weights = ensemble.search_weights(drawn, LABELS[clips], step=0.1, metric=metric).weights  # type: ignore[arg-type]
        a, b, c = weights.values()
        falls.append(a > b > c)
    assert subjects == SUBJECTS and share == np.mean(falls) and 0 < share < 1


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_show_every_claim_and_every_comparison(book: Ledger) -> None:
    for seed in (0, 1):
        add(book, "froster", 150, seed)
        add(book, "vclip", 90, seed)
        add(book, "froster_decay", 150, seed)
    found = claims.verdicts(SMOKE, (0, 1))
    ledger, rows = claims.table(found), claims.comparisons(iter(found))
    assert [row[0] for row in ledger.rows] == [claim.text for claim in claims.CLAIMS]
    assert [row[2] for row in ledger.rows] == [v.state for v in found]
    assert all(len(row) == len(t.columns) for t in (ledger, rows) for row in t.rows)
    assert len(rows.rows) == 4 and sum(len(v.rows) for v in found) == 6  # two claims look at the same pairs
    plain = next(row for row in rows.rows if row[1] == "plain fine-tuning")
    assert plain[:5] == ["distilled, all tokens", "plain fine-tuning", "0", "200 test", "+30.00"]
    assert (
        plain[6:] == ["< 0.001", "< 0.001"] and plain[5] == "[30.0,\N{NO-BREAK SPACE}30.0]"
    )  # every subject has lost six of twenty
    assert next(row for row in rows.rows if row[0] == "distilled, with decay")[7] == "1.000"
    alone = claims.comparisons([v for v in found if v.claim.name == "decay-accuracy"])
    assert [row[7] for row in alone.rows] == ["not tested"] * 2
    assert key_of("vclip", SMOKE, 1) in ledger.to_text() and ":name: tab-claims" in ledger._repr_markdown_()


def test_p_values_for_people() -> None:
    assert [claims.p_text(p) for p in (1.0, 0.0499, 0.0001, float("nan"))] == ["1.000", "0.050", "< 0.001", ""]
