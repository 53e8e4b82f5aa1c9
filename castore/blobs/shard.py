"""The bytes of a Zarr v3 shard whose inner chunks are whole rows, one after another.

::

    row 0 │ row 1 │ … │ row n-1 │ zeros │ (offset, length) of each chunk │ crc-32c
    └─ C-contiguous array, little-endian ─┘ └────────── the tail ───────────┘

An inner chunk is a *row group*: one row, or as many as fit 64 KiB. Only the last group can be
short, and Zarr wants it full, hence the zeros. So one mapping of the shard is the array, and
the tail is a function of the shape alone.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from castore.digest import check64

__all__ = ["GROUP_NBYTES", "Shard", "checks", "rows_per_group"]

#: Target size of a row group in bytes.
GROUP_NBYTES = 65536


def rows_per_group(row_nbytes: int) -> int:
    """Rows in a full row group."""
    return max(1, GROUP_NBYTES // row_nbytes)


@dataclass(frozen=True, slots=True)
class Shard:
    """Sizes of the shard that holds `rows` rows of `row_nbytes` bytes each, both positive."""

    rows: int
    row_nbytes: int

    @property
    def group_rows(self) -> int:
        """Rows in an inner chunk."""
        return min(self.rows, rows_per_group(self.row_nbytes))

    @property
    def groups(self) -> int:
        """Number of inner chunks."""
        return -(-self.rows // self.group_rows)

    @property
    def data_nbytes(self) -> int:
        """Length of the array itself."""
        return self.rows * self.row_nbytes

    @property
    def nbytes(self) -> int:
        """Length of the whole shard."""
        return self.groups * (self.group_rows * self.row_nbytes + 16) + 4

    def tail(self) -> bytes:
        """Return what follows the array: the zeros, the index and its CRC-32C."""
        return _tail(self)


@lru_cache(maxsize=8)
def _tail(shard: Shard) -> bytes:
    import google_crc32c

    group_nbytes = shard.group_rows * shard.row_nbytes
    zeros = bytes(shard.groups * group_nbytes - shard.data_nbytes)
    index = np.empty((shard.groups, 2), "<u8")
    index[:, 0] = np.arange(shard.groups, dtype="<u8") * np.uint64(group_nbytes)
    index[:, 1] = group_nbytes
    data = index.tobytes()
    crc: int = google_crc32c.value(data)
    return zeros + data + crc.to_bytes(4, "little")


def checks(data: NDArray[np.uint8], row_nbytes: int) -> NDArray[np.uint64]:
    """Row checks of `data`: xxh3-64 of each row group, shape (groups,)."""
    step = rows_per_group(row_nbytes) * row_nbytes
    view = memoryview(data)
    found = [check64(view[start : start + step]) for start in range(0, len(view), step)]
    return np.array(found, "<u8")
