"""Files of ``torch.save`` opened without running code of them, whatever lies beside the weights.

Choices:

* Torch's own restricted reader reads (``weights_only=True``). It calls nothing but what it knows and what stands here.
* What else a file names (a ``Namespace`` of arguments, a configuration, a path, a date) is never looked up: a stand-in
  of ours takes its place, which keeps no more than attributes and items and calls nothing.
* A file that calls a function when it is opened is refused, although nothing would be called: weights do not do so.
* NumPy's numbers and arrays are rebuilt here, so that its own code does not see the file's bytes.
"""

from __future__ import annotations

import pickle
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from migcore.errors import CheckpointError
from migcore.models.filekinds import pickled

_CLASS = "the class it stands for"  # no attribute of an object is called so
_ALONE = "have it saved as weights alone, torch.save(model.state_dict(), FILE); migcore never runs code of a file"
_BLOCKED = ("os.", "posix.", "nt.", "sys.")  # modules of which torch's reader takes no name, whatever is admitted
_SHARD = re.compile(r"torch\.distributed\..*\.(DTensor|ShardedTensor)")
_MAKE_DATA = re.compile(  # whose calls make plain data; others that do are classes, and written with a capital
    r"(numpy|collections|datetime|decimal|fractions|uuid)\..*|re\._compile|functools\.partial|copyreg\._reconstructor"
    r"|builtins\.(object|slice|range|frozenset|bytes|int|float|str|bool|list|tuple|dict)"
)
_ORDINARY = re.compile(  # beside weights that are saved as they should be
    r"torch\.(\w+|(_utils|_tensor|serialization|storage)\.\w+|nn\.parameter\.\w+)|collections\.(OrderedDict|Counter)"
    r"|_codecs\.encode|builtins\.(bytearray|set|complex)|numpy(\.\w+)*"
)
_LOCK = threading.Lock()  # torch keeps one list of what is admitted, for the whole process


class _Called(Exception):
    """The file calls a function."""


def read_torch(path: Path) -> object:
    """What a file of ``torch.save`` holds, on the CPU; what is no data is an empty stand-in.

    Raises:
        CheckpointError: the file is damaged, calls a function, or holds what cannot be passed over.
    """
    names, protocol = pickled(path)
    _refuse_hopeless(names, path)
    strange = [name for name in names if not _ORDINARY.fullmatch(name)]
    failed: Exception | None = None
    # The kinds of object that a stand-in may be; the first that bears all that the file does to its objects serves.
    for made in (_empty, _Object, _list) if strange else (_empty,):
        try:
            return _with_arrays(_loaded(path, names, made), set())
        except _Called as error:
            raise CheckpointError(
                f"opening the file would call {error}, which is code", where=path, hint=_ALONE
            ) from error
        except Exception as error:  # a damaged file fails with whatever comes
            failed = failed or error
    raise _unreadable(path, strange, protocol, failed) from failed


def class_name(value: object) -> str | None:
    """The class that a stand-in stands for; None of anything else."""
    name = value.name if isinstance(value, _Object) else getattr(value, _CLASS, None)
    return name if isinstance(name, str) else None


def _loaded(path: Path, names: tuple[str, ...], made: Callable[[str], Any]) -> object:
    """The file as torch's reader has it, with stand-ins for these names, whose objects ``made`` makes.

    What the process admits for its own files is not admitted for this one.
    """
    known = {name for _, name in _NUMPY}
    with _LOCK, path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on other protocols: what cannot be read of them is refused
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals([*_NUMPY, (_Object, _Object.__name__)])
            torch.serialization.add_safe_globals([(_standin(name, made), name) for name in names if name not in known])
            return torch.load(file, map_location="cpu", weights_only=True)
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _refuse_hopeless(names: tuple[str, ...], path: Path) -> None:
    sharded = [name for name in names if _SHARD.fullmatch(name)]
    if sharded:
        raise CheckpointError(
            f"the weights are cut over several processes (the file holds {sharded[0]})",
            where=path,
            hint="have the full state dict gathered before it is saved (FSDP: FULL_STATE_DICT; DTensor: full_tensor())",
        )
    blocked = [name for name in names if name.startswith(_BLOCKED)]
    if blocked:
        raise CheckpointError(
            f"beside tensors the file asks for {', '.join(blocked[:3])}, which is never given", where=path, hint=_ALONE
        )


def _unreadable(path: Path, strange: list[str], protocol: int, error: Exception | None) -> CheckpointError:
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(". ")[0]
    if "Weights only load failed" in reason or not reason:
        reason = type(error).__name__
    listed = f"{', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}"
    if "persistent_load of storage" in reason and strange:  # old torch wrote the sources of modules beside them
        message, hint = f"the file holds a whole model, {listed}, not its weights by name", _ALONE
    elif isinstance(error, pickle.UnpicklingError) and protocol > 3:
        message = f"the file is written in protocol {protocol} of pickle, which is not read here"
        hint = "save it again with torch.save, without pickle_protocol"
    elif strange:
        message, hint = f"what the file holds beside tensors cannot be passed over: {listed} ({reason})", _ALONE
        if not isinstance(error, pickle.UnpicklingError | TypeError):
            message = f"the file is damaged ({reason}); it also holds {listed}"
    else:
        message, hint = f"the file is damaged or no torch file ({reason})", "fetch it again"
    return CheckpointError(message, where=path, hint=hint)


# --- stand-ins --------------------------------------------------------------------------------------------------------


class _Object:
    """Stands for what a call makes, such as a date, a path or a member of an enumeration."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class _Standin(type):
    """Of classes that stand for what a file names: a pickle makes an object by ``__new__`` and calls all else."""

    stands_for: str
    part: bool  # of a class, and no name of a module
    made: Callable[[str], Any]

    def __call__(cls, *given: Any) -> Any:
        name = cls.stands_for
        if name == "builtins.getattr" and len(given) == 2 and isinstance(given[0], _Standin):
            return cls._part(given[0].stands_for, given[1])
        plain = _MAKE_DATA.fullmatch(name) and not cls.part
        if not plain and not name.rpartition(".")[2].lstrip("_")[:1].isupper():
            raise _Called(name)
        if name == "collections.deque":
            return []
        return _empty(name) if name == "collections.defaultdict" else _Object(name)

    def _part(cls, owner: str, name: object) -> _Standin:
        """What stands for a class or a method inside of a class; only now is its name known to torch's reader."""
        made = _standin(f"{owner}.{name}", cls.made, part=True)
        torch.serialization.add_safe_globals([(made, made.stands_for)])
        return made


def _standin(name: str, made: Callable[[str], Any], part: bool = False) -> _Standin:
    def new(*_: Any) -> Any:
        return made(name)

    return _Standin(name, (), {"__new__": new, "stands_for": name, "part": part, "made": staticmethod(made)})


def _empty(name: str) -> OrderedDict[Any, Any]:
    """Stands for an object: it takes attributes, and items too, as classes of dictionaries have."""
    made: OrderedDict[Any, Any] = OrderedDict()
    made.__dict__[_CLASS] = name
    return made


def _list(_: str) -> list[Any]:
    """Stands for an object of a class of lists."""
    return []


# --- NumPy ------------------------------------------------------------------------------------------------------------


class _Dtype:
    """Stands for a ``numpy.dtype``; of other types than plain numbers it has none."""

    def __init__(self, code: object, *_: Any) -> None:
        plain = isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]", code)
        self.dtype = np.dtype(code) if plain and isinstance(code, str) else None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for a ``numpy.ndarray`` until it is replaced; ``value`` is None of one that holds no plain numbers."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if kind.dtype is not None:
            flat = np.frombuffer(content, dtype=kind.dtype).astype(kind.dtype.newbyteorder("="))
            self.value = flat.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: _Dtype, content: Any = None) -> Any:
    return None if kind.dtype is None else np.frombuffer(content, dtype=kind.dtype)[0].item()


def _new_array(*_: Any) -> _Array:
    return _Array()


_NUMPY: tuple[tuple[type | Callable[..., Any], str], ...] = (
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_new_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)


def _with_arrays(content: Any, seen: set[int]) -> Any:
    """The same with arrays in the place of what stands for them, in dictionaries, which weights lie in."""
    if isinstance(content, _Array):
        return content.value
    if isinstance(content, dict) and id(content) not in seen:
        seen.add(id(content))
        for name, value in content.items():
            content[name] = _with_arrays(value, seen)
    return content
