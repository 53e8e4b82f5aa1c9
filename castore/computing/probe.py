"""Seeing whether a function computes each row from its sample alone.

Some stored rows are computed again: together, in another order and in uneven batches, and a few
of them each alone. Fewer rows of an entry are taken than it has: a function of the whole, such
as whitening, gives the same values again for the same samples in any order. Alone, most
functions of the whole give every row the same: the first rank, the largest value, label 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from castore import arrays
from castore.arrays import AnyArray
from castore.computing.rows import Lent
from castore.identity.datasets.samples import Indices

__all__ = ["LEAST", "MOST", "alone", "choose", "sizes"]

#: Rows a probe computes again together, at least and at most.
LEAST, MOST = 8, 32

_SIZES = (5, 1, 2, 7, 3)
_ALONE = 4


def choose(lenders: Iterable[Lent]) -> Indices:
    """Return positions in the request of the rows to be computed again, in the order to do so.

    Of each entry at most half its rows, each once, spread evenly, those further back first.
    """
    chosen: list[Indices] = []
    for lent in lenders:
        positions, first = np.unique(lent.positions, return_index=True)
        most = min(lent.rows // 2, len(positions), MOST)
        backwards = lent.places[first][::-1]
        chosen.append(backwards[_spread(len(backwards), most)])
    listed = itertools.chain.from_iterable(itertools.zip_longest(*chosen))
    return np.array([place for place in listed if place is not None][:MOST], np.int64)


def alone(stored: Mapping[str, AnyArray]) -> list[int]:
    """Return which of the chosen rows to compute by themselves, some that differ in value.

    Nothing if the chosen rows can tell nothing: if they are fewer than `LEAST`, or fewer than
    `MOST` and the same in some column.

    Parameters
    ----------
    stored : mapping
        Columns of the chosen rows.
    """
    count = min((len(column) for column in stored.values()), default=0)
    columns = [column.reshape(count, -1) for column in stored.values() if column.size]
    pairs = [_unlike(rows) for rows in columns]
    enough = count == MOST or (count >= LEAST and all(pairs))
    found = list(dict.fromkeys(row for pair in pairs for row in pair))
    return found[:_ALONE] if enough else []


def _unlike(rows: AnyArray) -> list[int]:
    """Return two rows that differ, the least and the largest; nothing if all are the same.

    What is largest, or saturated, looks the same in any company: 1 after division by the largest.
    """
    raw = arrays.raw(rows).reshape(len(rows), -1)
    other = np.flatnonzero((raw != raw[0]).any(axis=1))
    if not len(other):
        return []
    if rows.dtype.kind not in "biuf":
        return [0, int(other[0])]
    with np.errstate(all="ignore"):
        size = np.abs(np.nan_to_num(rows.astype(np.float64))).mean(axis=1)
    least, largest = int(size.argmin()), int(size.argmax())
    return [least, largest] if least != largest else [0, int(other[0])]


def _spread(count: int, most: int) -> Indices:
    """Return `most` of ``range(count)``, evenly spaced, the first included."""
    return (np.arange(most, dtype=np.int64) * count) // max(1, most)


def sizes(count: int) -> Sequence[int]:
    """Return lengths of uneven batches for `count` rows."""
    found: list[int] = []
    left = count
    for size in itertools.cycle(_SIZES):
        if left <= 0:
            return found
        found.append(min(size, left))
        left -= size
    return found
