"""Rows of bytes, copied between arrays in whatever order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.arrays import AnyArray

__all__ = ["LONG", "grouped", "rows_of", "run", "spread", "typed"]

#: From so many bytes on numpy copies rows of bytes quicker than items of an opaque type.
LONG = 1024

_Numbers = NDArray[np.int64]


def rows_of(array: AnyArray) -> AnyArray:
    """View an array that has elements as its rows, whatever they are made of."""
    return typed(arrays.raw(array), array.nbytes // len(array))


def typed(data: NDArray[np.uint8], row_nbytes: int) -> AnyArray:
    """View bytes as rows of so many."""
    if row_nbytes in (1, 2, 4, 8):
        return data.view(f"u{row_nbytes}")
    return data.view(f"V{row_nbytes}") if row_nbytes < LONG else data.reshape(-1, row_nbytes)


def spread(source: AnyArray, rows: _Numbers, target: AnyArray, places: _Numbers) -> None:
    """Set ``target[places]`` to ``source[rows]``; what lies side by side is copied only once."""
    there, here = run(places), run(rows)
    if there is not None and here is None:
        np.take(source, rows, axis=0, out=target[there], mode="clip")  # other modes copy twice
    else:
        target[places if there is None else there] = source[rows if here is None else here]


def run(numbers: _Numbers) -> slice | None:
    """Return `numbers` as a slice if they rise by one each."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first != len(numbers) - 1 or (numbers[1:] - numbers[:-1] != 1).any():
        return None
    return slice(first, last + 1)


def grouped(numbers: _Numbers, count: int) -> _Numbers:
    """Return where to find `numbers`, all below `count`, in their order; equal ones as they are."""
    # 16 bits are sorted by counting.
    return np.argsort(numbers.astype(np.uint16) if count < 2**16 else numbers, kind="stable")
