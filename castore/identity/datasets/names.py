"""Which of the names a caller gives belong to the rows asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from castore.errors import ConfigError, FingerprintError
from castore.identity.datasets.combined import flatten
from castore.identity.datasets.samples import Indices, length_of

__all__ = ["pick"]


def pick(row_ids: Any, dataset: Any, asked: Indices) -> Any:
    """Return the names of the rows asked for.

    Parameters
    ----------
    row_ids : sequence of str or int, or ndarray uint8 (n, 16)
        One a sample, of `dataset` or of the one below its subsets.
    dataset : Any
        What the loader reads.
    asked : ndarray
        int64 (n,), indices into `dataset`.

    Raises
    ------
    FingerprintError
        If there are too few or too many, one is there twice, or it cannot be told which dataset
        they belong to.
    """
    names = _listed(row_ids)
    outer = length_of(dataset)
    try:
        flat, indices = flatten(dataset, asked)
    except FingerprintError:  # a Subset by keys, say: names of its own samples are enough
        if len(names) != outer:
            raise
        flat, indices = dataset, asked % max(1, outer)
    inner = length_of(flat)
    if len(names) not in (outer, inner):
        msg = f"row_ids has {len(names):,} names for {outer:,} samples: give one a sample"
        raise FingerprintError(msg)
    repeated = _repeated(names)
    if repeated:
        msg = f"row_ids repeats {repeated:,} names: a name identifies one sample"
        raise FingerprintError(msg)
    positions = asked % max(1, outer) if len(names) == outer else indices
    if outer == inner and not np.array_equal(asked % max(1, outer), indices):
        msg = (
            "row_ids may follow the subset's order or that of the dataset below it, and both have "
            f"{outer:,} samples: pass the names through a loader without Subset"
        )
        raise FingerprintError(msg)
    if isinstance(names, np.ndarray):
        return names[positions]
    return [names[position] for position in positions.tolist()]


def _repeated(names: Any) -> int:
    """Return how many of `names` have come before."""
    if not isinstance(names, np.ndarray):
        try:
            return len(names) - len(set(names))
        except TypeError as error:
            msg = f"row_ids holds a {type(names[0]).__name__}: give one string or integer a sample"
            raise FingerprintError(msg) from error
    if names.ndim > 1:
        return len(names) - len(np.unique(names, axis=0))
    if not (names[1:] > names[:-1]).all():  # numpy's own unique is ten times dearer
        names = np.sort(names)
    return int((names[1:] == names[:-1]).sum())


def _listed(row_ids: Any) -> Any:
    """Return names as an array of integers or digests, or else as a list."""
    if isinstance(row_ids, np.ndarray) and row_ids.dtype.kind in "iu":
        return row_ids
    try:
        return list(row_ids)
    except TypeError as error:
        msg = f"row_ids is {row_ids!r:.80}: give one string or integer a sample"
        raise ConfigError(msg) from error
