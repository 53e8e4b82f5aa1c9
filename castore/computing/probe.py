"""Seeing whether a function computes each row from its sample alone.

It is run over some stored rows by themselves, in another order and in uneven batches. Fewer
rows of an entry are taken than it has: a function of the whole, such as whitening, gives the
same values again for the same samples in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from castore.computing.rows import Lent
from castore.identity.datasets.samples import Indices

__all__ = ["MOST", "choose", "sizes"]

#: Rows a probe computes again, at most.
MOST = 32

_SIZES = (1, 5, 2, 7, 3)


def choose(lenders: Iterable[Lent]) -> Indices:
    """Return positions in the request of the rows to be computed again, in the order to do so.

    Of each entry at most half its rows, spread evenly, those further back first, so that no row
    keeps its place. None of an entry of one row: computed alone, it tells nothing.
    """
    chosen: list[Indices] = []
    for lent in lenders:
        order = np.argsort(lent.positions, kind="stable")[::-1]
        most = min(lent.rows // 2, len(order), MOST)
        chosen.append(lent.places[order[_spread(len(order), most)]])
    listed = list(itertools.chain.from_iterable(itertools.zip_longest(*chosen)))
    return np.array([place for place in listed if place is not None][:MOST], np.int64)


def _spread(count: int, most: int) -> Indices:
    """Return `most` of ``range(count)``, evenly spaced, the first included."""
    return (np.arange(most, dtype=np.int64) * count) // max(1, most)


def sizes(count: int) -> Sequence[int]:
    """Return lengths of uneven batches for `count` rows."""
    found, left = [], count
    for size in itertools.cycle(_SIZES):
        if left <= 0:
            return found
        found.append(min(size, left))
        left -= size
    return found
