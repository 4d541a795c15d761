"""What a system takes to judge one clip: parameters, multiplications, milliseconds (the columns beside Table 1).

Counted on the networks as an experiment's preset has them, with random weights: neither depends on what was learned. A
clip is judged as in test, with all of its views. Choices:

* a system's parameters are those of every network that is needed to judge a clip, the frozen CLIP of EVL included; a
  CLIP's text tower is not, since the class embeddings are computed once and kept;
* one MAC is half of an operation of torch's flop counter: products of matrices and convolutions only;
* drawing heat-maps is in the milliseconds and has no MACs; decoding films is in neither.

B clips (1), K views, T frames, V keypoints, E bones, M persons, H W pixels.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from migcore.baselines import with_drawn_weights
from migcore.data.layouts import layout
from migcore.experiments import EXPERIMENTS
from migcore.heatmaps import joint_heatmaps, limb_heatmaps
from migcore.models.clip import load_teacher
from migcore.models.evl import frozen_features
from migcore.models.posec3d import PoseC3D
from migcore.models.vclip import VCLIPConfig, VideoTower
from migcore.presets import Preset
from migcore.recipes import baselines
from migcore.recipes.student import without_decay

_REPEATS = 5


@dataclass(frozen=True)
class SystemCost:
    """Of one clip in test.

    Attributes:
        parameters: of all networks needed.
        macs: multiplications (with their additions).
        milliseconds: median of some runs, one clip at a time, on one thread of the CPU: several would wait for each
            other where the machine has something else to do.
    """

    parameters: int
    macs: int
    milliseconds: float


@dataclass(frozen=True)
class _Part:
    """A network (or several), and the call that judges one clip with it."""

    modules: tuple[nn.Module, ...]
    judge: Callable[[], object]


@lru_cache(maxsize=64)
def system_cost(experiment: str, preset: Preset) -> SystemCost:
    """Cost of an experiment's system; of a fusion, the sum over the experiments that it fuses.

    Args:
        experiment: a name.
        preset: its sizes.
    """
    preset = dataclasses.replace(preset, baselines=with_drawn_weights(preset.baselines))
    inputs = EXPERIMENTS[experiment].depends
    if experiment not in _PARTS:
        parts = [system_cost(other, preset) for other in inputs]
        return SystemCost(*(sum(values) for values in zip(*map(dataclasses.astuple, parts), strict=True)))
    with torch.inference_mode():
        part = _PARTS[experiment](preset)
        for module in part.modules:
            module.eval()
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know the fast path's operator
        try:
            with FlopCounterMode(display=False) as counter:
                part.judge()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        times, threads = [], torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(_REPEATS):
                started = time.perf_counter()
                part.judge()
                times.append(time.perf_counter() - started)
        finally:
            torch.set_num_threads(threads)
    parameters = {id(p): p.numel() for module in part.modules for p in module.parameters()}
    return SystemCost(sum(parameters.values()), counter.get_total_flops() // 2, 1000 * statistics.median(times))


def _posec3d(preset: Preset, *, limb: bool = False, aligned: bool = False) -> _Part:
    skeleton, settings = layout(preset.skeleton.layout), preset.skeleton
    shape = dataclasses.replace(preset.posec3d, in_channels=skeleton.num_bones if limb else skeleton.num_joints)
    if aligned:
        dim = load_teacher(preset.teacher).embed_dim
        shape = dataclasses.replace(shape, embed_dim=dim, embedding=preset.alignment.embedding)
    model = PoseC3D(shape, generator=torch.Generator()).to(memory_format=torch.channels_last_3d)
    views = settings.test_clips * (2 if settings.test_flip else 1)
    size = settings.test_size
    place = torch.rand(views, 1, settings.frames, skeleton.num_joints, 2, generator=torch.Generator().manual_seed(0))
    keypoints = place * torch.tensor([size[1], size[0]])
    scores = torch.ones(keypoints.shape[:-1])
    draw = partial(limb_heatmaps, bones=skeleton.bones) if limb else joint_heatmaps

    def judge() -> Tensor:
        return model(draw(keypoints, scores, size).to(memory_format=torch.channels_last_3d))

    return _Part((model,), judge)


def _video(preset: Preset, frames: int | None = None) -> Tensor:
    size = preset.video.size
    return torch.zeros(preset.video.test_clips, 3, frames or preset.video.frames, size, size, dtype=torch.uint8)


def _student(preset: Preset, config: VCLIPConfig) -> _Part:
    teacher = load_teacher(preset.teacher)
    tower = VideoTower(teacher.clip.visual, dataclasses.replace(config, attention="written"))
    video = torch.zeros(preset.video.test_clips, 3, preset.video.frames, *tower.image_size)
    return _Part((tower,), lambda: tower(video))


def _teacher(preset: Preset) -> _Part:
    teacher = load_teacher(preset.teacher)
    video = _video(preset)
    return _Part((teacher.clip.visual,), lambda: teacher.encode_video(video))


def _sequence(preset: Preset, make: Callable[[Preset, int], nn.Module], frames: int, *, persons_first: bool) -> _Part:
    model, joints = make(preset, 0), layout(preset.skeleton.layout).num_joints
    shape = (1, 1, 3, frames, joints) if persons_first else (1, 3, frames, joints, 1)
    x = torch.zeros(shape)
    return _Part((model,), lambda: model(x))


def _evl(preset: Preset) -> _Part:
    teacher = load_teacher(preset.teacher)
    model, layers = baselines.make_evl(preset, 0, teacher), preset.baselines.evl.layers
    visual = teacher.clip.visual
    video = torch.zeros(preset.video.test_clips, 3, preset.video.frames, *teacher.image_size)
    return _Part((visual, model), lambda: model(frozen_features(visual, video, layers)))


def _film(preset: Preset, make: Callable[[Preset, int], nn.Module], video: Tensor) -> _Part:
    model = make(preset, 0)
    return _Part((model,), lambda: model(video.float()))


def _dense(preset: Preset) -> _Part:
    clips = preset.baselines.dense_clips
    return _film(preset, baselines.make_dense, torch.zeros(1, 3, clips.segments * clips.window, clips.size, clips.size))


_PARTS: dict[str, Callable[[Preset], _Part]] = {
    "posec3d_joint": _posec3d,
    "posec3d_limb": partial(_posec3d, limb=True),
    "posec3d_joint_text": partial(_posec3d, aligned=True),
    "posec3d_limb_text": partial(_posec3d, limb=True, aligned=True),
    "vclip": lambda preset: _student(preset, without_decay(preset.student).vclip),
    "froster": lambda preset: _student(preset, without_decay(preset.student).vclip),
    "froster_decay": lambda preset: _student(preset, preset.student.vclip),
    "zero_shot": _teacher,
    "linear_probe": _teacher,
    "stgcn": lambda p: _sequence(p, baselines.make_stgcn, p.baselines.stgcn_clips.frames, persons_first=False),
    "hyperformer": lambda p: _sequence(
        p, baselines.make_hyperformer, p.baselines.hyperformer_clips.frames, persons_first=False
    ),
    "trn": lambda p: _film(p, baselines.make_trn, _video(p)),
    "evl": _evl,
    "dscnet_dense": _dense,
    "dscnet_sparse": lambda p: _sequence(p, baselines.make_sparse, p.baselines.sparse_clips.frames, persons_first=True),
}
