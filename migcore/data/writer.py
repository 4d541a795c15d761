"""Films written whole or not at all.

Notable choice: H.264 with a closed group of 25 frames, so that no frame needs more than 25 decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.frame import VideoFrame

from migcore.errors import ConfigError, DataError, StorageError

GROUP = 25
"""Frames from one key frame to the next in films that we write."""


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place when the block ends well and is gone when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        hint = "Free space or choose another disk, then run again; what was there before is intact"
        raise StorageError(f"could not be written ({error.strerror or error})", where=path, hint=hint) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class FilmWriter:
    """Writes a film, whole or not at all: H.264 in MP4, yuv420p, one thread, closed groups of 25 frames.

    A context manager; the file appears under its name when the block ends without an error.

    Args:
        path: the film.
        size: (H, W), both even.
        fps: frames per second.
        crf: x264's constant quality, 0 (lossless) to 51; small films need low values to keep small motion.

    Raises:
        ConfigError: the size is odd or empty, or fps or crf are out of range.
        StorageError: the film could not be written (full disk, no permission); nothing is left behind.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float, *, crf: int = 16) -> None:
        height, width = size
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ConfigError(f"a film of {height}×{width} pixels is not possible", hint="Both sides are even numbers")
        if not 0 < fps <= 1000 or not 0 <= crf <= 51:
            raise ConfigError(f"fps {fps} or crf {crf} is out of range")
        self.path, self.size, self.frames = Path(path), (height, width), 0
        self._rate = Fraction(fps).limit_denominator(1001)
        self._crf = crf

    def __enter__(self) -> FilmWriter:
        with ExitStack() as stack:
            # A Python file, because its errors (a full disk) come through as they are.
            file = stack.enter_context(stack.enter_context(_replacing(self.path)).open("wb"))
            self._container = stack.enter_context(av.open(file, "w", format="mp4"))
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.height, self._stream.width = self.size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1
            self._stream.options = {
                "crf": str(self._crf),
                "preset": "veryfast",
                # Without mbtree and b-adapt the same frames give the same bytes, also where frames are tiny.
                "x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:open-gop=0:mbtree=0:b-adapt=0",
            }
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
            frames: [N, H, W, 3] uint8, RGB.

        Raises:
            DataError: another shape or type.
        """
        if frames.ndim != 4 or frames.shape[1:] != (*self.size, 3) or frames.dtype != np.uint8:
            expected = f"uint8 [N, {self.size[0]}, {self.size[1]}, 3]"
            raise DataError(f"frames are {frames.dtype} {list(frames.shape)}, not {expected}", where=self.path)
        for picture in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush the encoder when all went well."""
        if kind is None:
            if not self.frames:
                raise DataError("a film needs at least one frame", where=self.path)
            self._container.mux(self._stream.encode(None))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
