"""What a file is, told by its first bytes and not by its name: weights that are read, or what was fetched instead.

Choices: nothing of a file is run or unpickled here; a zip archive is told by the names in it, a pickle by its opcodes.
"""

from __future__ import annotations

import json
import mmap
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from migcore.errors import CheckpointError

FileKind = Literal["safetensors", "torch", "unknown"]

_HEAD = 4096  # bytes that are looked at
_LARGEST_HEADER = 100_000_000  # of a safetensors file, in bytes
_LARGEST_JSON = 64_000_000
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save wrote first before it wrote zip archives
_AGAIN = "fetch it again"
_UNPACK = "unpack it, and give the weight file in it"
_OTHERS = "migcore reads files of PyTorch (.pth, .pt, .pyth) and .safetensors; save the weights as one of these"
_SAVE_ALONE = "save the weights alone, torch.save(model.state_dict(), FILE); migcore never runs code of a file"
_BEGINNINGS = (
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write", _OTHERS),
    (b"\x93NUMPY", "an array of NumPy (.npy)", _OTHERS),
    (b"GGUF", "a GGUF file", _OTHERS),
    (b"%PDF", "a PDF document", _OTHERS),
    (b"\x89PNG", "a picture", _OTHERS),
    (b"\xff\xd8\xff", "a picture", _OTHERS),
)


class Pickled(NamedTuple):
    """What a pickle asks for: functions and classes by name, as today's Python names them, and its protocol."""

    names: tuple[str, ...]
    protocol: int


def file_kind(path: Path) -> FileKind:
    """Whether a file is a safetensors file, one of ``torch.save``, or nothing that is known.

    Raises:
        CheckpointError: there is no file, it cannot be opened, or it is something else, which is named.
    """
    if not path.is_file():
        _refuse_no_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise CheckpointError(f"the file cannot be read ({error.strerror})", where=path, hint="check it") from error
    if not head:
        raise CheckpointError("the file is damaged: it is empty", where=path, hint=_AGAIN)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head[:1] == b"\x80":
        return _pickle_kind(path, head)
    found = _binary(path, head) or _text(path, head)
    if found:
        raise CheckpointError(f"the file is {found[0]}, not weights that are read here", where=path, hint=found[1])
    return "unknown"


def beginning(path: Path) -> str:
    """The first bytes of a file, for messages."""
    with path.open("rb") as file:
        return repr(file.read(16))[1:]


def pickled(path: Path) -> Pickled:
    """What the pickle in a file of ``torch.save`` asks for; nothing of a damaged one."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:
            with zipfile.ZipFile(path) as archive, archive.open(_pickle_in(archive.namelist())) as stream:
                return _asked_for(stream, 1)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _asked_for(mapped, 4)  # a number, a version and the machine go before
    except Exception:  # whatever is damaged is for the reader to say
        return Pickled((), 2)


# --- pickles ----------------------------------------------------------------------------------------------------------


def _asked_for(stream: Any, pickles: int) -> Pickled:
    """Of the last of some pickles in a row; ``stream`` is a file or a map of one, which reads no more than it has."""
    names, protocol = dict[str, None](), 2
    for _ in range(pickles):
        names.clear()
        for opcode, argument in _opcodes(stream):
            if opcode == "PROTO":
                protocol = argument
            elif opcode == "GLOBAL":
                names[_todays_name(*argument.split(" ", 1))] = None
    return Pickled(tuple(names), protocol)


def _opcodes(stream: Any) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(stream):
        yield opcode.name, argument


def _todays_name(module: str, name: str) -> str:
    """As torch's reader names them: protocol 2 writes Python 2's names."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _pickle_kind(path: Path, head: bytes) -> FileKind:
    if head[2:].startswith(_OLD_TORCH):
        return "torch"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            arrays = any("numpy" in argument for _, argument in _opcodes(mapped) if isinstance(argument, str))
    except Exception as error:  # opcodes of a damaged one fail with whatever comes
        raise CheckpointError(
            "the file is damaged, or no torch file: it begins as a pickle does", where=path, hint=_AGAIN
        ) from error
    what = "of NumPy arrays, as Caffe2 and Detectron write" if arrays else "that torch.save did not write"
    raise CheckpointError(f"the file is a pickle {what}, not weights that are read here", where=path, hint=_SAVE_ALONE)


# --- archives ---------------------------------------------------------------------------------------------------------


def _pickle_in(names: list[str]) -> str:
    """The main pickle of a torch file; "" of another archive."""
    return next((name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")), "")


def _zip_kind(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged archive fails with whatever comes
        raise CheckpointError(
            "the file is damaged: a zip archive, as torch writes, that ends too early or is not whole",
            where=path,
            hint=f"{_AGAIN}; a download may have been cut off",
        ) from error
    if any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(  # as OpenAI's own files are
            "the file is a TorchScript program, not a state dict",
            where=path,
            hint="save the state_dict() of open_clip's copy of the model; migcore never runs code of a file",
        )
    if _pickle_in(names):
        return "torch"
    what, hint = f"a zip archive that holds {_listed(names)}", _UNPACK
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        what, hint = "a program of torch.export", _SAVE_ALONE
    elif names and all(name.endswith(".npy") for name in names):
        what, hint = "an archive of NumPy arrays (.npz)", _OTHERS
    elif any(name.endswith(".weights.h5") for name in names):
        what, hint = "a model of Keras", _OTHERS
    raise CheckpointError(f"the file is {what}, not weights that are read here", where=path, hint=hint)


def _listed(names: list[str]) -> str:
    return (", ".join(names[:3]) + (", …" if len(names) > 3 else "")) or "nothing"


# --- other files ------------------------------------------------------------------------------------------------------


def _refuse_no_file(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError("there is no such weight file", where=path, hint="check the path")
    kinds = (".safetensors", ".pth", ".pt", ".pyth", ".bin", ".ckpt")
    inside = sorted(file.name for file in path.iterdir() if file.suffix in kinds)
    hint = f"give the file in it: {_listed(inside)}" if inside else "give the weight file itself"
    if (path / ".metadata").is_file() or any(path.glob("*.distcp")):
        hint = "its weights are cut over several processes; gather them: python -m torch.distributed.checkpoint."
        hint += "format_utils dcp_to_torch FOLDER FILE"
    raise CheckpointError("there is no such weight file: it is a folder", where=path, hint=hint)


def _binary(path: Path, head: bytes) -> tuple[str, str] | None:
    """What it is, and what to do."""
    for start, what, hint in _BEGINNINGS:
        if head.startswith(start):
            return what, hint
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if head[4:8] == b"TFL3":
        return "a model of TensorFlow Lite", _OTHERS
    producer = head[4 : 4 + head[3]] if head[:1] == b"\x08" and head[2:3] == b"\x12" else b""
    if path.suffix == ".onnx" or re.fullmatch(rb"[A-Za-z][\w .-]+", producer):
        return "a model in the ONNX format", _OTHERS
    return ("a graph of TensorFlow", _OTHERS) if path.suffix == ".pb" else None


def _text(path: Path, head: bytes) -> tuple[str, str] | None:
    """What a download or a clone left in the place of the weights, and what to do."""
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    low = text.lower()
    if text.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d+)", text, re.MULTILINE)
        what = f"a Git LFS pointer{f' to {size[1]} bytes' if size else ''}"
        return what, "fetch the weights themselves with `git lfs pull`, or download the file from its page"
    if low.startswith(("<!doctype html", "<html", "<head")) or "<html" in low:
        return (
            f"a web page{_quoted(r'<title[^>]*>(.*?)</title>', text)}",
            "the site answered with a page (a log-in, a warning, an error); open the link in a browser and save the "
            "file itself",
        )
    if text.startswith(("<?xml", "<Error")):
        found = _quoted(r"<(?:Code|Message)>(.*?)</", text)
        return f"XML text{found}", "it may be a server's error in place of the file; fetch it again"
    return _json(path) if text.startswith(("{", "[")) else None


def _quoted(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.IGNORECASE | re.DOTALL)
    return f" ({' '.join(found[1].split())[:80]})" if found and found[1].strip() else ""


def _json(path: Path) -> tuple[str, str] | None:
    if path.stat().st_size > _LARGEST_JSON:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if isinstance(weight_map, dict):
        files = sorted({str(file) for file in weight_map.values()})
        return (
            f"an index of weights that lie in {len(files)} files ({_listed(files)})",
            "migcore reads weights from one file; load the model with its own library and save its state_dict()",
        )
    answer = content if isinstance(content, dict) else {}
    said = next((f" ({answer[key]!s:.80})" for key in ("error", "message", "detail") if answer.get(key)), "")
    return f"JSON text{said}", "it may be a server's error or a configuration; fetch the weight file itself"
