"""What the miniature CLIP is pre-trained on: rendered stills kept on the disk, their captions as tokens, and batches.

Part of the pre-training in :mod:`migcore.studio.teacher`.

Letters: N stills, B stills of a batch, K distinct captions, U of them in a batch, L tokens, V keypoints, P parts, H W
pixels, S pixels or cells a side, G = 16 cells a side of the part map.

Choices:

* Stills are rendered in chunks, each from a generator of its own, so that an interrupted rendering goes on.
* A batch is a function of seed and step: the step number is all the state that there is.
* Two captions mean the same if they state the same facts, in whatever order and with whatever opening.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor
from tqdm import tqdm

from migcore.data.layouts import IMIGUE22
from migcore.errors import StorageError
from migcore.files import expanded, write_whole
from migcore.models.clip import MINIATURE, register_miniature
from migcore.studio.captions import OPENINGS
from migcore.studio.figure import PART_NAMES
from migcore.studio.stills import still_frames

CHUNK = 640
"""Stills rendered, and written, at a time: ten subjects."""
_STILLS, _ORDER, _CHANGES = 0x5711, 0x0DE2, 0xC4A6  # keep the random streams of one seed apart
_MIRROR = np.array([-1, 1], np.float32)  # x → 1 − x, y as it is
_PRETRAINING = ("teacher.py", "teacher_data.py", "teacher_model.py")  # sources that decide no still


@dataclass(frozen=True)
class StillCache:
    """All stills of a pre-training, and what the renderer knows of them.

    Attributes:
        frames: [N, 3, H, W] uint8, mapped from the disk.
        parts: [N, G, G] uint8 index into ``PART_NAMES``.
        keypoints: [N, V, 2] float32 (x, y) in frame units.
        visible: [N, V] bool.
        captions: N texts.
        identity: hash of everything but the frames, 16 hexadecimal digits.
    """

    frames: np.ndarray
    parts: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    captions: list[str]
    identity: str


def digest(*parts: bytes) -> str:
    """Hash of byte strings, 16 hexadecimal digits."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def working_folder() -> Path:
    """Where stills and checkpoints live: ``$MIGCORE_RUNS/teacher`` (``~`` is the home folder) or ``runs/teacher``."""
    return expanded(os.environ.get("MIGCORE_RUNS") or "runs") / "teacher"


def cached_stills(count: int, seed: int, size: int, *, progress: bool = True) -> StillCache:
    """The stills of a seed; those that are not yet on the disk are rendered, chunk by chunk.

    The folder is named by a hash of seed, count, size and the studio's source, so that stills of another studio are
    never taken. A chunk counts as done when its targets are written, which is after its frames.

    Args:
        count: how many.
        seed: of the stills; no film shares its random streams.
        size: height and width in pixels.
        progress: show a bar.

    Raises:
        StorageError: the disk is full or not writable; finished chunks stay.
    """
    here = Path(__file__).parent
    sources = [path.read_bytes() for path in sorted(here.glob("*.py")) if path.name not in _PRETRAINING]
    folder = working_folder() / f"stills-{digest(repr((count, seed, size)).encode(), *sources)}"
    path, shape = folder / "frames.npy", (count, 3, size, size)
    chunks = [folder / f"targets-{i:04d}.npz" for i in range(math.ceil(count / CHUNK))]
    if not path.exists():
        write_whole(path, lambda new: _empty_array(new, shape))
    for i, file in enumerate(tqdm(chunks, "stills", unit=f"×{CHUNK}", disable=not progress)):
        if file.exists():
            continue
        rng = np.random.default_rng([_STILLS, seed, i])
        stills = still_frames(rng, min(CHUNK, count - i * CHUNK), size)
        _write_frames(path, i * CHUNK, stills.frames.numpy())
        text = np.frombuffer(json.dumps(stills.captions).encode(), np.uint8)
        arrays = {
            "parts": stills.parts.numpy().astype(np.uint8),
            "keypoints": stills.keypoints.numpy(),
            "visible": stills.visible.numpy(),
            "captions": text,
        }
        write_whole(file, functools.partial(_write_npz, arrays=arrays))
    loaded = [dict(np.load(file)) for file in chunks]
    captions = [text for chunk in loaded for text in json.loads(chunk.pop("captions").tobytes())]
    targets = {name: np.concatenate([chunk[name] for chunk in loaded]) for name in ("parts", "keypoints", "visible")}
    identity = digest(json.dumps(captions).encode(), *(targets[name].tobytes() for name in sorted(targets)))
    return StillCache(np.load(path, mmap_mode="r"), captions=captions, identity=identity, **targets)


def _empty_array(path: Path, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # a file and not a path: savez would append .npz to the temporary name
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _write_frames(path: Path, first: int, frames_N3HW: np.ndarray) -> None:
    """Write some rows of the array in place. Not through a memory map, where a full disk kills the process."""
    try:
        with open(path, "rb+") as file:
            header = np.load(path, mmap_mode="r").offset
            file.seek(header + first * frames_N3HW[0].nbytes)
            file.write(frames_N3HW.tobytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "Free space, or set MIGCORE_RUNS to another disk, then run again; finished stills are kept"
        raise StorageError(f"stills could not be written ({error})", where=path, hint=hint) from error


# --- captions ---------------------------------------------------------------------------------------------------------


def swap_sides(text: str) -> str:
    """The caption of the mirrored picture: the words *left* and *right* change places."""
    return re.sub(r"\b(left|right)\b", lambda m: "right" if m[0] == "left" else "left", text)


def stated_facts(caption: str) -> frozenset[str]:
    """What a caption says, whatever its opening ("a photo of a person, ") and the order of its facts."""
    opening = max((o for o in OPENINGS if caption.startswith(o)), key=len)
    return frozenset(caption.removeprefix(opening).split(", "))


@dataclass(frozen=True)
class Captions:
    """All captions, as they are and mirrored, as tokens.

    Attributes:
        tokens: [K, L] int32, one row per distinct text, in numbers of ``vocabulary``; padded with 0 behind the end.
        lengths: [K] tokens of each text, with start and end.
        vocabulary: [W] the tokenizer's ids that occur, ascending, so that the end of a text keeps the highest number.
        text: [N, 2] row in ``tokens`` of each still's caption, as it is and mirrored.
        meaning: [N, 2] a number that two captions share if they state the same facts.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    vocabulary: np.ndarray
    text: np.ndarray
    meaning: np.ndarray


def tokenise(captions: Sequence[str], context: int) -> Captions:
    """Tokens of captions and of their mirror images, by open_clip's tokenizer.

    Args:
        captions: one text per still.
        context: longest row; a text with more tokens is cut before its end-of-text token, as open_clip does.
    """
    register_miniature()
    tokenizer = open_clip.get_tokenizer(MINIATURE)
    encode = functools.cache(tokenizer.encode)  # word by word: the tokenizer never joins over a blank
    texts: dict[str, int] = {}
    meanings: dict[frozenset[str], int] = {}
    text, meaning, rows = [], [], []
    for caption in captions:
        for version in (caption, swap_sides(caption)):
            if version not in texts:
                words = [token for word in version.split() for token in encode(word)]
                rows.append([tokenizer.sot_token_id, *words[: context - 2], tokenizer.eot_token_id])
            text.append(texts.setdefault(version, len(texts)))
            meaning.append(meanings.setdefault(stated_facts(version), len(meanings)))
    lengths = np.array([len(row) for row in rows])
    vocabulary = np.unique(np.concatenate([np.array(row) for row in rows]))
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = np.searchsorted(vocabulary, row)
    return Captions(tokens, lengths, vocabulary, np.reshape(text, (-1, 2)), np.reshape(meaning, (-1, 2)))


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        images: [B, 3, H, W] float32, normalised with CLIP's mean and deviation.
        parts: [B, G, G] int64.
        keypoints: [B, V, 2] float32 in frame units, ``visible`` [B, V] bool.
        tokens: [U, L] int64 distinct captions, ``caption`` [B] int64 row of each image.
        meaning: [B] int64, equal where captions state the same facts.
    """

    images: Tensor
    parts: Tensor
    keypoints: Tensor
    visible: Tensor
    tokens: Tensor
    caption: Tensor
    meaning: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def flip_parts() -> np.ndarray:
    """[P] the part that each part is in the mirrored picture."""
    return np.array([PART_NAMES.index(swap_sides(name)) for name in PART_NAMES])


def draw_batch(
    stills: StillCache, captions: Captions, step: int, *, seed: int, size: int, flip: float, shift: int, gain: float
) -> Batch:
    """The batch of a step.

    Every epoch is a new permutation of all stills; what does not fill a batch is left out.

    Args:
        stills: to draw from.
        captions: of the same stills.
        step: 0-based.
        seed: of order and augmentation.
        size: stills in a batch, at most N.
        flip: probability of mirroring a still, its targets and its caption.
        shift: largest displacement in pixels; what it brings in repeats the border.
        gain: largest relative change of a colour channel.
    """
    epoch, position = divmod(step, len(stills.captions) // size)
    order = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(stills.captions))
    chosen = order[position * size : (position + 1) * size]
    rng = np.random.default_rng([_CHANGES, seed, step])
    flipped = rng.random(size) < flip
    shift_B2 = rng.integers(-shift, shift + 1, (size, 2))
    gain_B3 = rng.uniform(1 - gain, 1 + gain, (size, 3)).astype(np.float32)

    pixels = stills.frames.shape[-1]
    frames_BHW3 = _moved(stills.frames[chosen].transpose(0, 2, 3, 1), pixels, flipped, shift_B2)
    parts_BGG = _moved(stills.parts[chosen], pixels, flipped, shift_B2)
    parts_BGG = np.where(flipped[:, None, None], flip_parts()[parts_BGG], parts_BGG)
    points_BV2, visible_BV = stills.keypoints[chosen], stills.visible[chosen]  # copies
    pairs = IMIGUE22.flip_permutation
    points_BV2[flipped] = points_BV2[flipped][:, pairs] * _MIRROR + (1 - _MIRROR) / 2
    visible_BV[flipped] = visible_BV[flipped][:, pairs]
    points_BV2 += (shift_B2 / pixels).astype(np.float32)[:, None]
    visible_BV &= ((points_BV2 >= 0) & (points_BV2 <= 1)).all(-1)

    version = flipped.astype(np.int64)
    rows_U, caption_B = np.unique(captions.text[chosen, version], return_inverse=True)
    longest = int(captions.lengths[rows_U].max())
    scale = torch.from_numpy(gain_B3)[:, :, None, None] / 255
    images = torch.from_numpy(frames_BHW3).permute(0, 3, 1, 2).contiguous().mul(scale).clamp_(0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return Batch(
        images=images.sub_(mean).div_(std),
        parts=torch.from_numpy(parts_BGG.astype(np.int64)),
        keypoints=torch.from_numpy(points_BV2),
        visible=torch.from_numpy(visible_BV),
        tokens=torch.from_numpy(captions.tokens[rows_U, :longest].astype(np.int64)),
        caption=torch.from_numpy(caption_B),
        meaning=torch.from_numpy(captions.meaning[chosen, version]),
    )


def _moved(pictures: np.ndarray, pixels: int, flipped: np.ndarray, shift_B2: np.ndarray) -> np.ndarray:
    """Pictures [B, S, S, ...] mirrored where ``flipped``, then displaced by ``shift_B2`` (x, y) of ``pixels`` a side.

    A cell of a map coarser than the pixels takes what comes to lie at its centre.
    """
    side = pictures.shape[1]
    cell = pixels // side
    centre = np.arange(side) * cell + cell // 2
    rows, columns = (np.clip((centre - shift_B2[:, axis, None]) // cell, 0, side - 1) for axis in (1, 0))
    columns = np.where(flipped[:, None], side - 1 - columns, columns)
    return pictures[np.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None, :]]
