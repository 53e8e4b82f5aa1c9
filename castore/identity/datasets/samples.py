"""What every rule for a dataset takes and returns."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError
from castore.identity.rows import RowIds

__all__ = [
    "Indices",
    "Rule",
    "Samples",
    "Terms",
    "as_indices",
    "is_exactly",
    "length_of",
    "name_of_dataset",
    "refusal",
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
    """

    sources: list[Json]
    row_ids: RowIds
    not_keyed: dict[str, str] = field(default_factory=dict)
    probes: tuple[int, ...] = ()
    frozen: dict[str, str] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    by_index: bool = False


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
    except (TypeError, ValueError, OverflowError) as error:
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
    try:
        return len(dataset)
    except TypeError as error:
        msg = f"{name_of_dataset(dataset)} has no length, so its rows cannot be named"
        raise FingerprintError(msg) from error
    except Exception as error:
        name = name_of_dataset(dataset)
        msg = f"{name} cannot say its length ({type(error).__name__}: {error})"
        raise FingerprintError(msg) from error


def is_exactly(dataset: Any, module: str, name: str, methods: tuple[str, ...] = ()) -> bool:
    """Tell whether `dataset` is of that type, or of a subclass that reads samples the same way.

    By `methods` in particular, beside those that every dataset has.
    """
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None or not isinstance(dataset, kind):
        return False
    methods = ("__getitem__", "__getitems__", "__len__", *methods)
    return all(getattr(type(dataset), m, None) is getattr(kind, m, None) for m in methods)


def name_of_dataset(dataset: Any) -> str:
    """Return how messages call a dataset: its type, and where that is written."""
    kind = type(dataset)
    try:
        file = Path(inspect.getfile(kind)).name
        line = inspect.getsourcelines(kind)[1]
    except (TypeError, OSError):
        return kind.__qualname__
    return f"{kind.__qualname__} ({file}:{line})"


def refusal(
    dataset: Any, why: str, kind: type[FingerprintError] = FingerprintError
) -> FingerprintError:
    """Return the error that says what to write instead."""
    name = type(dataset).__name__.lower()
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
