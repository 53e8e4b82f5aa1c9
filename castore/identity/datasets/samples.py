"""What every rule for a dataset takes and returns."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError, RandomError
from castore.identity.describe import describe, document_of, refuse_random, refuse_unknown
from castore.identity.files.contents import File
from castore.identity.findings import Captures
from castore.identity.members import function_in
from castore.identity.rows import RowIds
from castore.identity.values import type_name

__all__ = [
    "INSTEAD_OF_RANDOM",
    "Indices",
    "Rule",
    "Samples",
    "Terms",
    "as_indices",
    "identifying",
    "is_exactly",
    "is_path",
    "length_of",
    "levels_up",
    "name_of_dataset",
    "refusal",
    "source_of",
    "within",
]

Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """How samples are to be identified.

    Attributes
    ----------
    by : {"content", "stat"}
        Whether files are known by their content, or by size and modification time.
    ignored : frozenset of str
        Parts of an item that are left out: ``target``, ``path``.
    freeze : bool
        Whether transforms known to be random are accepted.
    on_file : callable, optional
        Called with the number of files read so far.
    """

    by: str = "content"
    ignored: frozenset[str] = frozenset()
    freeze: bool = False
    on_file: Callable[[int], object] | None = None


@dataclass(frozen=True)
class Samples:
    """The identity of some samples of a dataset.

    Attributes
    ----------
    sources : list
        What turns items into samples; several where a dataset has several parts.
    row_ids : ndarray
        uint8 (n, 16).
    not_keyed : dict
        Attributes of the dataset that no row id knows of, with their types.
    probes : tuple of int
        Positions, one a source, of samples to load when it counts whether loading is random.
    frozen : dict
        Transforms known to be random, which `Terms.freeze` let pass.
    parts : frozenset of str
        Parts of the items that could be ignored.
    by_index : bool
        Whether a vouched dataset's rows are named by their index.
    left : dict
        Attributes that the names of the rows stand for, with their types.
    """

    sources: list[Json]
    row_ids: RowIds
    not_keyed: dict[str, str] = field(default_factory=dict)
    probes: tuple[int, ...] = ()
    frozen: dict[str, str] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    by_index: bool = False
    left: dict[str, str] = field(default_factory=dict)


Rule: TypeAlias = Callable[[Any, Indices, Terms], Samples]


def as_indices(values: Any, what: str) -> Indices:
    """Return a list, range, array or tensor of integers as int64 (n,).

    Raises
    ------
    FingerprintError
        If they are something else.
    """
    try:
        array = arrays.as_array(values)
        if array is None:
            array = np.array(list(values))
    except Exception as error:  # whatever reading them raises
        msg = f"{what}: {error}; indices are one list of integers"
        raise FingerprintError(msg) from error
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max() > np.iinfo(np.int64).max:
        msg = f"{what} are {array.dtype} {array.shape}: indices are one list of integers"
        raise FingerprintError(msg)
    return array.astype(np.int64)


def within(indices: Indices, dataset: Any) -> Indices:
    """Return indices into `dataset` with the negative ones counted from its end.

    Raises
    ------
    FingerprintError
        If one is out of range.
    """
    length = length_of(dataset)
    if not indices.size:
        return indices
    least, most = int(indices.min()), int(indices.max())
    if least >= 0 and most < length:
        return indices
    if not (-length <= least and most < length):
        worst = most if most >= length else least
        name = name_of_dataset(dataset)
        msg = f"index {worst} is outside {name}, which has {length:,} samples"
        raise FingerprintError(msg)
    return np.where(indices < 0, indices + length, indices)


def length_of(dataset: Any) -> int:
    """Return ``len(dataset)``.

    Raises
    ------
    FingerprintError
        If it has none, or asking for it fails.
    """
    why = ""
    if hasattr(type(dataset), "__len__"):
        try:
            return len(dataset)
        except Exception as error:
            why = f" that it can tell ({type(error).__name__}: {error})"
    msg = f"{name_of_dataset(dataset)} has no length{why}, so its rows cannot be named"
    raise FingerprintError(msg)


def is_exactly(dataset: Any, module: str, name: str, methods: tuple[str, ...] = ()) -> bool:
    """Tell whether `dataset` is of that type, or of a subclass that reads samples the same way.

    By `methods` in particular, beside those that every dataset has.
    """
    kind, base = type(dataset), getattr(sys.modules.get(module), name, None)
    if not (isinstance(base, type) and issubclass(kind, base)):
        return False
    defined = {n: _defined(base, n) for n in _read_by(base, (*_READ, *methods))}
    if any(_defined(kind, n) is not item for n, item in defined.items()):
        return False
    held = getattr(dataset, "__dict__", {})
    return not any(item is not None and n in held for n, item in defined.items())


@functools.lru_cache(maxsize=256)
def _read_by(base: type, methods: tuple[str, ...]) -> frozenset[str]:
    """Return what may be looked up on an object of the type `base` when `methods` run.

    A subclass may override what is called, or put a property in the place of an attribute.
    """
    found: set[str] = set()
    names = list(methods)
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            function = function_in(_defined(base, name))
            names += function.__code__.co_names if function is not None else ()
    return frozenset(found)


def _defined(kind: type, name: str) -> Any:
    """Return what a class or its bases have under a name, as it is written there."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def name_of_dataset(dataset: Any) -> str:
    """Return how messages call a dataset: its type, and where that is written."""
    kind = type(dataset)
    try:
        file = Path(inspect.getfile(kind)).name
        line = inspect.getsourcelines(kind)[1]
    except Exception:  # built in, made without a file, or of a file that was edited since
        return kind.__qualname__
    return f"{kind.__qualname__} ({file}:{line})"


def source_of(
    name: str, read: Mapping[str, Any], terms: Terms, used: tuple[str, ...] = ()
) -> tuple[dict[str, Json], Captures]:
    """Return the source of samples of a type that castore knows, and what was found for it.

    Parameters
    ----------
    name : str
        The type.
    read : mapping
        The attributes that are part of the source, by name. Paths lie elsewhere on another
        machine, and the type reads none but those its items are made of: they are listed.
    terms : Terms
        How samples are to be identified.
    used : tuple of str
        Libraries that decode the items.

    Raises
    ------
    FingerprintError
        If an attribute has no rule, or holds what is random.
    """
    found = describe({name: value for name, value in read.items() if not is_path(value)})
    refuse_unknown(found)
    if not terms.freeze:
        refuse_random(found)
    paths = {n: type_name(type(value)) for n, value in read.items() if is_path(value)}
    found.not_keyed.update({f"dataset.{n}": kind for n, kind in paths.items()})
    return {"dataset": name, **document_of(found, used)}, found


def is_path(value: Any) -> bool:
    """Tell whether `value` says where something lies on this machine."""
    if type(value) is str:
        return value.startswith(os.sep)
    return issubclass(type(value), os.PathLike) and type(value) is not File


@contextlib.contextmanager
def identifying(*datasets: Any) -> Iterator[None]:
    """Remember that `datasets` are being identified: what they hold may hold them."""
    token = _open.set((*_open.get(), *datasets))
    try:
        yield
    finally:
        _open.reset(token)


def levels_up(dataset: Any) -> int | None:
    """Return how many others were begun since `dataset`, None if it is not being identified."""
    for level, held in enumerate(reversed(_open.get())):
        if held is dataset:
            return level
    return None


def refusal(
    dataset: Any, why: str, kind: type[FingerprintError] = FingerprintError
) -> FingerprintError:
    """Return the error that says what to write instead."""
    name = type(dataset).__name__.lower()
    if kind is RandomError:
        return kind(f"{name_of_dataset(dataset)} is random: {why}.\n{INSTEAD_OF_RANDOM}")
    return kind(
        f"cannot tell what {name_of_dataset(dataset)} contains: {why}.\n"
        f'  by name:     get_or_compute(loader, fn, dataset_id="{name}@1", row_ids=[...])'
        "  # one name a sample\n"
        f'  by content:  get_or_compute(loader, fn, dataset_id="{name}@1", '
        "row_ids=castore.file_ids(paths, root=...))\n"
        "  for good:    def __castore_row_ids__(self, indices): "
        "return [self.paths[i] for i in indices]\n"
        '  uncached:    castore.open(..., on_error="compute")'
    )


#: What to write where samples are random.
INSTEAD_OF_RANDOM = (
    "  better:      draw in fn, or in a transform applied after the features are cached\n"
    '  one draw:    get_or_compute(loader, fn, random="freeze")\n'
    '  uncached:    castore.open(..., on_error="compute")'
)
#: What every dataset is read by.
_READ = ("__getattr__", "__getattribute__", "__getitem__", "__getitems__", "__len__")
_open: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("open", default=())
