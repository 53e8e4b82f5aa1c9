"""Rows of entries, copied to where they are wanted at the speed of memory, and checked.

The copy is checked, not the source: a mapped page may be read anew after it was looked at. A
check is of a row group (`castore.blobs.shard`), so the rows are taken *window* by window: the
groups of a window that hold a wanted row are copied as they are into memory that stays in the
processor's cache, checked there, and the rows spread from there. Rows of whole groups are put in
place at once and checked there, if they are long or come to lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray
from castore.blobs.shard import rows_per_group
from castore.digest import check64
from castore.errors import DamagedError
from castore.identity.rows import RowIds
from castore.table.column import Column
from castore.table.entry import Entry, Schema
from castore.threads import take_turns

__all__ = ["allocate", "gather", "scatter"]

#: Bytes of a window, or one row group if that is larger. A copy of so many bytes need not read
#: the memory it writes to first, and two threads seldom wait for each other.
_WINDOW = 2 << 20
#: Row ids compared at a time.
_COMPARED = 1 << 15
#: From so many bytes on numpy copies rows of bytes quicker than items of an opaque type.
_LONG = 1024

_Numbers = NDArray[np.int64]


def allocate(
    schema: Schema, rows: int, room: Callable[[int], NDArray[np.uint8]] | None = None
) -> dict[str, AnyArray]:
    """Return an array of `rows` rows, filled with anything, for each column of `schema`.

    Parameters
    ----------
    schema : Schema
        Names, dtypes and row shapes.
    rows : int
        How many.
    room : callable, optional
        Gives the memory, as `castore.backend.base.Room` does.
    """
    found = {}
    for name, (dtype, row) in schema.columns.items():
        kind, shape = arrays.dtype_named(dtype), (rows, *row)
        nbytes = math.prod(shape) * kind.itemsize
        if room is None or not nbytes:
            found[name] = np.empty(shape, kind)
        else:
            found[name] = room(nbytes).view(kind).reshape(shape)
    return found


def scatter(
    columns: Mapping[str, AnyArray], rows: _Numbers, into: Mapping[str, AnyArray], places: _Numbers
) -> None:
    """Set ``into[column][places[i]]`` to ``columns[column][rows[i]]`` in every column of `into`.

    Parameters
    ----------
    columns : mapping
        C-contiguous arrays.
    rows : ndarray
        int64 (m,), each below their length.
    into : mapping
        C-contiguous arrays of the same dtypes and row shapes.
    places : ndarray
        int64 (m,), each below the length of those, and each once.
    """
    for name, target in into.items():
        if target.size and len(rows):
            _scatter(_rows_of(columns[name]), rows, _rows_of(target), places)


def gather(
    entry: Entry,
    positions: _Numbers,
    row_ids: RowIds,
    into: Mapping[str, AnyArray],
    places: _Numbers,
) -> None:
    """Set ``into[column][places[i]]`` to row ``positions[i]`` of each column of `into`, checked.

    Parameters
    ----------
    entry : Entry
        Where the rows are.
    positions : ndarray
        int64 (k,). They may be wrong: an index is a hint.
    row_ids : ndarray
        uint8 (k, 16), what these rows are.
    into : mapping
        C-contiguous arrays, by column of the entry.
    places : ndarray
        int64 (k,), each below the length of those, and each once.

    Raises
    ------
    DamagedError
        If a byte that was used is missing or is not what was stored; if the entry has other
        rows at these positions, or rows of another dtype or shape. What `into` then has at
        `places` is anything.
    """
    _check_row_ids(entry, positions, row_ids)
    for name, target in into.items():
        column = entry.columns.get(name)
        if column is None or not _alike(column, target):
            msg = f"{entry.manifest.name}: column {name!r} has not the rows that are wanted"
            raise DamagedError(msg)
        if not column.row_nbytes or not len(positions):
            continue
        data, checks = entry.unchecked(name)
        if checks is None:
            _scatter(_typed(data, column.row_nbytes), positions, _rows_of(target), places)
        elif not _Gathering(column.row_nbytes, data, checks, target).run(positions, places):
            raise entry.damaged(name)


def _check_row_ids(entry: Entry, positions: _Numbers, row_ids: RowIds) -> None:
    stored = entry.row_ids()
    if stored is None or not _are_at(stored, positions, row_ids):
        msg = f"{entry.manifest.name}: the entry has other rows than the index says"
        raise DamagedError(msg)
    if any(column.shape[:1] != stored.shape[:1] for column in entry.columns.values()):
        msg = f"{entry.manifest.name}: the entry has not one row a sample, though it says so"
        raise DamagedError(msg)


def _are_at(stored: RowIds, positions: _Numbers, row_ids: RowIds) -> bool:
    """Tell whether `stored` has `row_ids` at `positions`."""
    if not len(positions):
        return True
    if positions.min() < 0 or positions.max() >= len(stored):
        return False
    found, wanted = _rows_of(stored), _rows_of(np.ascontiguousarray(row_ids))
    same: list[bool] = []

    def compare(number: int) -> None:
        turn = slice(number * _COMPARED, (number + 1) * _COMPARED)
        same.append(found.take(positions[turn]).tobytes() == wanted[turn].tobytes())

    take_turns(compare, -(-len(positions) // _COMPARED))
    return all(same)


def _alike(column: Column, target: AnyArray) -> bool:
    wanted = (arrays.dtype_named(column.dtype), column.shape[1:])
    return wanted == (target.dtype, target.shape[1:])


def _rows_of(array: AnyArray) -> AnyArray:
    """View an array that has elements as its rows, whatever they are made of."""
    return _typed(arrays.raw(array), array.nbytes // len(array))


def _typed(data: NDArray[np.uint8], row_nbytes: int) -> AnyArray:
    if row_nbytes in (1, 2, 4, 8):
        return data.view(f"u{row_nbytes}")
    return data.view(f"V{row_nbytes}") if row_nbytes < _LONG else data.reshape(-1, row_nbytes)


def _scatter(source: AnyArray, rows: _Numbers, target: AnyArray, places: _Numbers) -> None:
    step = max(1, _WINDOW * len(source) // source.nbytes)

    def turn(number: int) -> None:
        some = slice(number * step, (number + 1) * step)
        _spread(source, rows[some], target, places[some])

    take_turns(turn, -(-len(rows) // step))


def _spread(source: AnyArray, rows: _Numbers, target: AnyArray, places: _Numbers) -> None:
    """Set ``target[places]`` to ``source[rows]``; what lies side by side is copied only once."""
    there, here = _run(places), _run(rows)
    if there is not None and here is None:
        np.take(source, rows, axis=0, out=target[there], mode="clip")  # other modes copy twice
    else:
        target[places if there is None else there] = source[rows if here is None else here]


def _run(numbers: _Numbers) -> slice | None:
    """Return `numbers` as a slice if they rise by one each."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first != len(numbers) - 1 or (numbers[1:] - numbers[:-1] != 1).any():
        return None
    return slice(first, last + 1)


@dataclass(frozen=True)
class _Gathering:
    """Rows of one column on their way."""

    row_nbytes: int
    data: NDArray[np.uint8]
    checks: NDArray[np.uint64]
    target: AnyArray
    #: Windows' copies no thread uses at the moment.
    spare: list[NDArray[np.uint8]] = field(default_factory=list)

    @cached_property
    def group_rows(self) -> int:
        return rows_per_group(self.row_nbytes)

    @cached_property
    def group_nbytes(self) -> int:
        return self.group_rows * self.row_nbytes

    @cached_property
    def window_groups(self) -> int:
        return max(1, _WINDOW // self.group_nbytes)

    def run(self, positions: _Numbers, places: _Numbers) -> bool:
        """Copy the rows; return whether all row groups that were used are what was stored."""
        rows = self.window_groups * self.group_rows
        windows = -(-len(self.data) // (rows * self.row_nbytes))
        if (positions[1:] < positions[:-1]).any():
            order = self._order(positions, positions // rows, windows)
            positions, places = positions[order], places[order]
        bounds = np.searchsorted(positions // rows, np.arange(windows + 1))
        used = np.flatnonzero(bounds[1:] > bounds[:-1])
        intact = np.zeros(len(used), np.bool_)

        def turn(number: int) -> None:
            window = int(used[number])
            some = slice(bounds[window], bounds[window + 1])
            intact[number] = self._take(window, positions[some] - window * rows, places[some])

        take_turns(turn, len(used))
        return bool(intact.all())

    def _order(self, positions: _Numbers, window: _Numbers, windows: int) -> _Numbers:
        """Sort by window at least: long rows by themselves, to be copied once each."""
        if self.row_nbytes >= _LONG:
            return np.argsort(positions)
        # 16 bits are sorted by counting.
        return np.argsort(window.astype(np.uint16) if windows < 2**16 else window, kind="stable")

    def _take(self, window: int, rows: _Numbers, places: _Numbers) -> bool:
        """Copy rows, counted within `window`; return whether their groups are intact."""
        first = window * self.window_groups
        start = first * self.group_nbytes
        source = self.data[start : start + self.window_groups * self.group_nbytes]
        used = np.zeros(-(-len(source) // self.group_nbytes), np.bool_)
        used[rows // self.group_rows] = True
        groups = np.flatnonzero(used)
        if self._are_whole(groups, rows, len(source)) and self._can_check(places):
            _spread(_typed(source, self.row_nbytes), rows, _rows_of(self.target), places)
            found = self._found(places)
        else:
            found = self._copy(source, groups, rows, places)
        return bool(found == self.checks[first + groups].tolist())

    def _are_whole(self, groups: _Numbers, rows: _Numbers, nbytes: int) -> bool:
        """Tell whether `rows` are all rows of `groups` in order, in a window of `nbytes`."""
        short = max(0, (int(groups[-1]) + 1) * self.group_nbytes - nbytes)
        return len(rows) * self.row_nbytes == len(groups) * self.group_nbytes - short and bool(
            (rows[1:] > rows[:-1]).all()
        )

    def _can_check(self, places: _Numbers) -> bool:
        """Tell whether rows are checked quicker where they are to be than before."""
        return self.row_nbytes >= _LONG or _run(places) is not None

    def _found(self, places: _Numbers) -> list[int]:
        """Return the checks of whole groups of rows that stand at `places`."""
        view = memoryview(arrays.raw(self.target))
        run = _run(places)
        if run is not None:
            there = view[run.start * self.row_nbytes : run.stop * self.row_nbytes]
            step = self.group_nbytes
            return [check64(there[at : at + step]) for at in range(0, len(there), step)]
        found = []
        starts = (places * self.row_nbytes).tolist()
        for number in range(0, len(starts), self.group_rows):
            state = xxhash.xxh3_64()
            for start in starts[number : number + self.group_rows]:
                state.update(view[start : start + self.row_nbytes])
            found.append(state.intdigest())
        return found

    def _copy(
        self, source: NDArray[np.uint8], groups: _Numbers, rows: _Numbers, places: _Numbers
    ) -> list[int]:
        """Copy `rows` by way of a copy of `groups`; return the checks of these."""
        try:
            copy = self.spare.pop()
        except IndexError:
            copy = np.empty(self.window_groups * self.group_nbytes, np.uint8)
        step = self.group_nbytes
        pieces = [slice(at, min(at + step, len(source))) for at in (groups * step).tolist()]
        if len(pieces) * step >= len(source):
            copy[: len(source)] = source
        else:
            for piece in pieces:
                copy[piece] = source[piece]
        view = memoryview(copy)
        found = [check64(view[piece]) for piece in pieces]
        _spread(_typed(copy, self.row_nbytes), rows, _rows_of(self.target), places)
        self.spare.append(copy)
        return found
