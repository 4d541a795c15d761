"""Presets are complete, and every field of theirs can be set, once, to values of its own type."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import presets
from migcore.errors import ConfigError
from migcore.ledger import NO_NUMBERS, canonical_json
from migcore.models.cost import calibrate
from migcore.presets import PRESETS, Preset, override, preset


@dataclasses.dataclass(frozen=True)
class Part:
    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    choice: Literal["x", "y"] = "x"
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = (1.0,)
    maybe: int | str = 3


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part = Part()
    other: Part = Part()
    hidden: int = dataclasses.field(default=0, metadata=NO_NUMBERS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_what_they_say(name: str) -> None:
    made = preset(name)
    assert made.name == made.label == name and made.overrides == ()
    assert (made.studio is None) == (name == "imigue")
    assert canonical_json(made) == canonical_json(preset(name))
    assert made.posec3d.num_classes == 32 and made.video.frames >= 2


def test_the_published_recipe() -> None:
    made = preset("imigue")
    recipe = made.train_posec3d
    assert (made.skeleton.frames, made.skeleton.train_size, made.skeleton.test_size) == (48, (56, 56), (64, 64))
    assert (made.skeleton.test_clips, made.skeleton.test_flip, made.skeleton.padding) == (10, True, 0.25)
    assert made.posec3d.base_channels == 32 and made.teacher.name == "ViT-B-16"
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.epochs) == ("sgd", 0.2, 128, 24 * 10)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 3e-4)
    assert (recipe.schedule, recipe.warmup_epochs, recipe.clip_norm) == ("cosine", 0, 40)


def test_sizes_grow() -> None:
    studios = [preset(name).studio for name in ("smoke", "laptop", "workstation")]
    clips = [(s.train_clips, s.val_clips, s.test_clips) for s in studios if s is not None]
    assert clips == [(64, 32, 40), (1000, 400, 600), (6000, 1500, 2500)]


def test_overrides_are_typed_and_make_the_label() -> None:
    made = preset("laptop", {"train_posec3d.epochs": "3", "skeleton.train_size": "24,24", "posec3d.dropout": 0})
    assert made.train_posec3d.epochs == 3 and made.skeleton.train_size == (24, 24) and made.posec3d.dropout == 0.0
    assert made.label == "laptop+posec3d.dropout=0.0+skeleton.train_size=24,24+train_posec3d.epochs=3"
    plain = preset("laptop")
    assert plain == preset("laptop", {}) == preset("laptop", {"train_posec3d.epochs": plain.train_posec3d.epochs})
    assert preset("laptop", {"studio.size": 32}).studio.size == 32  # type: ignore[union-attr]


def test_what_decides_no_number_is_not_in_the_label() -> None:
    made = preset("laptop", {"train_posec3d.workers": 2, "data.root": "/somewhere", "train_posec3d.device": "cpu"})
    assert made.label == "laptop" and made.train_posec3d.workers == 2 and made.data.root == "/somewhere"
    assert canonical_json(made) == canonical_json(preset("laptop"))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("labtop", {}, r"no preset is called 'labtop'\. Did you mean laptop\?"),
        ("zzz", {}, r"There are smoke, laptop, workstation, imigue"),
        ("laptop", {"train_posec3d.epoch": 1}, r"'train_posec3d.epoch'\. Did you mean .*train_posec3d\.epochs"),
        ("laptop", {"epochs": 1}, r"mean train_posec3d\.epochs, train_student\.epochs, baselines\.train_stgcn\.epochs"),
        ("laptop", {"train_posec3d": 1}, r"no field is called 'train_posec3d'"),
        ("laptop", {"name": "smoke"}, r"no field is called 'name'"),
        ("laptop", {"overrides": ()}, r"no field is called 'overrides'"),
        ("laptop", {"train_posec3d.epochs.x": 1}, r"no field is called"),
        ("imigue", {"studio.size": 32}, r"this preset has no studio"),
        ("laptop", {"train_posec3d.epochs": "many"}, r"epochs cannot be 'many'\. It takes a whole number"),
        ("laptop", {"train_posec3d.epochs": 0}, r"epochs must be at least 1"),
        ("laptop", {"train_posec3d.precision": "fp8"}, r"It takes 'fp32' or 'bf16'"),
        ("laptop", {"skeleton.train_size": "32"}, r"a whole number and a whole number, separated by a comma"),
    ],
)  # fmt: skip
def test_wrong_names_and_values_are_told(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset(name, overrides)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("whole", "7", 7), ("whole", 7.0, 7), ("whole", " -2 ", -2), ("whole", "1e3", 1000),
        ("real", "1e-3", 1e-3), ("real", 2, 2.0), ("flag", "true", True), ("flag", "No", False), ("flag", True, True),
        ("text", "x,y", "x,y"), ("choice", "y", "y"), ("pair", "3,4", (3, 4)), ("pair", [3, 4], (3, 4)),
        ("pair", "(3, 4)", (3, 4)), ("many", "1,2,3", (1.0, 2.0, 3.0)), ("many", [], ()), ("maybe", "5", 5),
        ("maybe", "five", "five"),
    ],
)  # fmt: skip
def test_values_are_parsed_to_the_type_of_the_field(field: str, value: Any, expected: Any) -> None:
    found = getattr(override(Whole(), {f"part.{field}": value}).part, field)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("whole", 1.5), ("whole", True), ("whole", "x"), ("whole", None), ("whole", "inf"), ("real", "x"),
        ("real", [1]), ("flag", 2), ("flag", "maybe"), ("text", 3), ("choice", "z"), ("pair", "1,2,3"), ("pair", 3),
        ("pair", "1,x"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"part.{field} cannot be|part.{field}"):
        override(Whole(), {f"part.{field}": value})


@settings(max_examples=25, deadline=None)
@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_text_and_value_say_the_same(whole: int, real: float, flag: bool) -> None:
    values = {"part.whole": whole, "part.real": real, "other.flag": flag}
    by_text = override(Whole(), {name: str(value) for name, value in values.items()})
    assert by_text.part == dataclasses.replace(Part(), whole=whole, real=real)
    assert by_text.other == dataclasses.replace(Part(), flag=flag)


def test_fields_are_set_all_at_once() -> None:
    """Some values are right only together: which of them is named first does not matter."""

    @dataclasses.dataclass(frozen=True)
    class Ordered:
        low: int = 10
        high: int = 20
        inner: Whole = Whole()

        def __post_init__(self) -> None:
            if self.low >= self.high:
                raise ConfigError("not in order")

    for values in ({"low": "30", "high": "40", "inner.part.whole": 2}, {"inner.part.whole": 2, "high": 40, "low": 30}):
        assert override(Ordered(), values) == Ordered(30, 40, Whole(Part(whole=2)))
    with pytest.raises(ConfigError, match="not in order"):
        override(Ordered(), {"low": 30})
    with pytest.raises(ConfigError, match=r"inner\.part\.whole cannot be 'x'"):
        override(Ordered(), {"high": 40, "inner.part.whole": "x"})


def test_nothing_changes_in_place() -> None:
    whole = Whole()
    override(whole, {"part.whole": 9, "hidden": 1})
    assert whole == Whole() and isinstance(preset("smoke"), Preset)


def test_token_decay_is_the_calibrated_one() -> None:
    assert calibrate(model="ViT-B-16") == presets.KEEP_VIT_B16 == preset("imigue").student.vclip.keep
    assert calibrate(model="miniature") == presets.KEEP_MINIATURE == preset("laptop").student.vclip.keep
