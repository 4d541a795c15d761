"""Timings and memory of what is computed most, beside the naive versions of :mod:`migcore.reference`.

Choices: inputs are random skeletons of a plausible posture (drawing a limb costs what its length is) and weights are
random; the first call is thrown away; the naive version runs once, and only at the smaller of two sizes.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from migcore import heatmaps, reference
from migcore.data.layouts import IMIGUE22
from migcore.errors import ConfigError
from migcore.models.clip import Teacher, miniature_tokenizer, random_miniature
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.vclip import VCLIPConfig, VideoTower
from migcore.presets import KEEP_MINIATURE


@dataclass(frozen=True)
class BenchRow:
    """One line of ``migcore bench``.

    Attributes:
        name: what ran.
        size: of the input.
        device: where.
        ms: median milliseconds of a call.
        ms_min, ms_max: fastest and slowest call.
        reference_ms: the naive version on the same input, on the CPU; None where it is not run.
        peak_mib: largest memory in use during a call, inputs and outputs included; None except on CUDA.
    """

    name: str
    size: str
    device: str
    ms: float
    ms_min: float
    ms_max: float
    reference_ms: float | None
    peak_mib: float | None


@dataclass(frozen=True)
class _Case:
    """A call to time, and its naive version; ``gradients`` are recorded for a training step alone."""

    size: str
    call: Callable[[], object]
    naive: Callable[[], object] | None
    gradients: bool = False


def bench(
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    *,
    quick: bool = False,
) -> list[BenchRow]:
    """Time the named parts.

    Args:
        names: of :data:`PARTS`; all if not given.
        device: where the fast versions run.
        repeats: timed calls per row.
        quick: only the first row of each part, which is the smaller size, and of a training step the first as well.

    Returns:
        two rows or more per name, the smaller size first.

    Raises:
        ConfigError: a name is unknown, ``repeats`` under 1, or the device is not there.
    """
    names = tuple(PARTS) if names is None else tuple(names)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise ConfigError(f"no benchmark is called {unknown[0]!r}", hint=f"choose from {', '.join(PARTS)}")
    if repeats < 1:
        raise ConfigError(f"{repeats} repeats", hint="--repeats is at least 1")
    device = _there(device)
    rows = []
    for name in names:
        cases = PARTS[name](device)
        for case in _smallest(cases) if quick else cases:
            with torch.inference_mode(not case.gradients):
                rows.append(_row(name, case, device, repeats))
    return rows


def _there(device: torch.device | str) -> torch.device:
    """The device, once a number has been there and back."""
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has all three for it
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise ConfigError(f"cannot run on {str(device)!r} ({reason})", hint="Give --device cpu, or cuda") from error


def _smallest(cases: Sequence[_Case]) -> list[_Case]:
    """The first case without gradients, and the first with them."""
    return list({case.gradients: case for case in reversed(cases)}.values())[::-1]


def _row(name: str, case: _Case, device: torch.device, repeats: int) -> BenchRow:
    on_cuda = device.type == "cuda"
    case.call()
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    times = [_milliseconds(case.call, device) for _ in range(repeats)]
    return BenchRow(
        name=name,
        size=case.size,
        device=str(device),
        ms=statistics.median(times),
        ms_min=min(times),
        ms_max=max(times),
        reference_ms=None if case.naive is None else _milliseconds(case.naive, torch.device("cpu")),
        peak_mib=torch.cuda.max_memory_allocated(device) / 2**20 if on_cuda else None,
    )


def _milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _skeletons(batch: int, frames: int, side: int) -> tuple[Tensor, Tensor]:
    """Random upper bodies, [B, 1, T, 22, 2] and [B, 1, T, 22], their bones an eighth of the frame on average."""
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.full((batch, 1, frames, IMIGUE22.num_joints, 2), side / 2)
    for bone, (parent, child) in enumerate(IMIGUE22.bones):
        length = side / 10 if bone < 11 else side / 30  # the fingers come last
        offset = length * torch.randn(batch, 1, 1, 2, generator=generator)
        keypoints[..., child, :] = keypoints[..., parent, :] + offset
    keypoints += 0.5 * torch.randn(keypoints.shape, generator=generator)
    return keypoints, torch.rand(keypoints.shape[:-1], generator=generator)


def _joints(device: torch.device) -> list[_Case]:
    cases = []
    for batch, frames, side in ((2, 16, 32), (16, 48, 64)):
        keypoints, scores = _skeletons(batch, frames, side)
        size = (side, side)
        call = partial(heatmaps.joint_heatmaps, keypoints.to(device), scores.to(device), size)
        naive = partial(reference.joint_heatmaps, keypoints.numpy(), scores.numpy(), size)
        cases.append(_Case(f"{batch}×{frames}×{side}×{side}", call, naive if side == 32 else None))
    return cases


def _limbs(device: torch.device) -> list[_Case]:
    cases = []
    for batch, frames, side in ((2, 16, 32), (16, 48, 64)):
        keypoints, scores = _skeletons(batch, frames, side)
        size, bones = (side, side), IMIGUE22.bones
        call = partial(heatmaps.limb_heatmaps, keypoints.to(device), scores.to(device), size, bones=bones)
        naive = partial(reference.limb_heatmaps, keypoints.numpy(), scores.numpy(), size, bones=bones)
        cases.append(_Case(f"{batch}×{frames}×{side}×{side}", call, naive if side == 32 else None))
    return cases


def _posec3d(device: torch.device) -> list[_Case]:
    cases = []
    for base, shape in ((8, (2, 22, 16, 32, 32)), (32, (1, 22, 48, 56, 56))):
        model = PoseC3D(PoseC3DConfig(base_channels=base), generator=torch.Generator().manual_seed(0)).eval()
        volume = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        naive = partial(reference.posec3d, model.state_dict(), volume) if base == 8 else None
        fast = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last_3d)
        call = partial(fast, volume.to(device, memory_format=torch.channels_last_3d))
        cases.append(_Case(f"width {base}, {'×'.join(map(str, shape))}", call, naive))
    return cases


def _teacher(device: torch.device) -> list[_Case]:
    clip = random_miniature(0).eval()
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    teacher = Teacher(clip, miniature_tokenizer()).to(device)
    cases = []
    for batch, frames in ((1, 4), (16, 8)):
        generator = torch.Generator().manual_seed(0)
        video = torch.randint(0, 256, (batch, 3, frames, *teacher.image_size), dtype=torch.uint8, generator=generator)
        call = partial(teacher.encode_video, video.to(device))
        images = [teacher.preprocess(frame[None])[0].cpu() for frame in video[0].unbind(1)]
        naive = partial(_naive_images, state, images) if batch == 1 else None
        cases.append(_Case(f"{batch}×{frames} frames, {'×'.join(map(str, teacher.image_size))}", call, naive))
    return cases


def _naive_images(state: dict[str, Tensor], images: list[Tensor]) -> list[Tensor]:
    return [reference.clip_image(state, image, head_width=32) for image in images]


def _video_tower(device: torch.device) -> list[_Case]:
    """A forward pass of a short video, and training steps at laptop size in both forms of attention."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn((4, 3, 8, 64, 64), generator=generator)
    short = VideoTower(random_miniature(0).visual, VCLIPConfig(keep=KEEP_MINIATURE)).requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in short.state_dict().items()}
    naive = partial(reference.vclip_tower, state, video[0, :, :2], head_width=32, keep=KEEP_MINIATURE)
    call = partial(short.to(device), video[:1, :, :2].to(device))
    cases = [_Case("1×2 frames, forward, decay", call, naive)]
    forms: tuple[Literal["fused", "written"], ...] = ("fused", "written")
    for keep, attention in itertools.product(((), KEEP_MINIATURE), forms):
        tower = VideoTower(random_miniature(0).visual, VCLIPConfig(keep=keep, attention=attention)).to(device)
        size = f"4×8 frames, training step, {attention}, {'decay' if keep else 'all tokens'}"
        cases.append(_Case(size, partial(_tower_step, tower, video.to(device)), None, gradients=True))
    return cases


def _tower_step(tower: VideoTower, video: Tensor) -> None:
    tower.zero_grad(set_to_none=True)
    tower(video).sum().backward()


PARTS: dict[str, Callable[[torch.device], list[_Case]]] = {
    "joint_heatmaps": _joints,
    "limb_heatmaps": _limbs,
    "posec3d": _posec3d,
    "teacher": _teacher,
    "video_tower": _video_tower,
}
"""What can be timed."""
