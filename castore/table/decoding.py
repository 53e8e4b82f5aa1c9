"""Rows of a column whose row groups are encoded, copied to where they are wanted, and checked.

Only groups that hold a wanted row are looked at. Of each a copy is checked and then decoded:
at once to where its rows are to be, if they come to lie there as they are, else by way of memory
that stays in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.blobs.coded import CodedShard
from castore.digest import check64
from castore.errors import DamagedError
from castore.table.spread import grouped, rows_of, run, spread, typed
from castore.threads import take_turns

__all__ = ["Decoding"]

_Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Decoding:
    """Rows of one column on their way.

    Attributes
    ----------
    coded : CodedShard
        What they are stored as.
    data : ndarray
        uint8, the shard, not yet checked.
    checks : ndarray or None
        uint64 (groups,), its row checks; None if `data` is checked already.
    target : ndarray
        Where the rows go.
    """

    coded: CodedShard
    data: NDArray[np.uint8]
    checks: NDArray[np.uint64] | None
    target: AnyArray
    #: Groups' memory that no thread uses at the moment.
    spare: list[NDArray[np.uint8]] = field(default_factory=list)

    def run(self, positions: _Numbers, places: _Numbers) -> None:
        """Set ``target[places[i]]`` to row ``positions[i]``.

        Raises
        ------
        DamagedError
            If a group that was used is not what was stored.
        """
        # An index that is wrong, and has its CRC-32C all the same, leads to bytes that have not
        # the check of their group.
        bounds = self.coded.bounds(self.data)
        rows, groups = self.coded.shard.group_rows, self.coded.shard.groups
        if (positions[1:] < positions[:-1]).any():
            order = grouped(positions // rows, groups)
            positions, places = positions[order], places[order]
        used, starts = np.unique(positions // rows, return_index=True)
        ends = np.append(starts[1:], len(positions))

        def turn(number: int) -> None:
            group, some = int(used[number]), slice(starts[number], ends[number])
            encoded = self.data[bounds[group] : bounds[group + 1]].copy()
            if self.checks is not None and check64(encoded) != int(self.checks[group]):
                raise DamagedError(f"row group {group} changed")
            self._take(encoded, positions[some] - group * rows, places[some])

        take_turns(turn, len(used))

    def _take(self, encoded: NDArray[np.uint8], rows: _Numbers, places: _Numbers) -> None:
        """Put rows, counted within a group, in their places."""
        row_nbytes, there = self.coded.shard.row_nbytes, run(places)
        if there is not None and run(rows) == slice(0, self.coded.shard.group_rows):
            into = arrays.raw(self.target)[there.start * row_nbytes : there.stop * row_nbytes]
            self.coded.decode_group(encoded, into)
            return
        try:
            group = self.spare.pop()
        except IndexError:
            group = np.empty(self.coded.group_nbytes, np.uint8)
        self.coded.decode_group(encoded, group)
        spread(typed(group, row_nbytes), rows, rows_of(self.target), places)
        self.spare.append(group)
