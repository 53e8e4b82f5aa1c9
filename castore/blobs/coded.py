"""The bytes of a Zarr v3 shard whose inner chunks are encoded row groups.

::

    group 0 │ group 1 │ … │ group m-1 │ (offset, length) of each group │ crc-32c

The groups are those of `castore.blobs.shard`; the last one is filled up with zeros before it is
encoded. They lie one after another, in order, with nothing between. Nothing about the index is
believed: whatever is outside the shard or out of order is damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from castore.blobs.codec import codec_named
from castore.blobs.shard import Shard
from castore.digest import check64
from castore.errors import DamagedError
from castore.threads import take_turns

__all__ = ["CodedShard", "checks"]

#: No codec makes less of a group than this share: zstd writes four bytes for 128 KiB of zeros.
_DENSEST = 1 << 16


@dataclass(frozen=True, slots=True)
class CodedShard:
    """The shard that holds the rows of `shard` encoded.

    Attributes
    ----------
    shard : Shard
        Its rows and row groups.
    codec : str
        What encodes them.
    itemsize : int
        Bytes of an element.
    """

    shard: Shard
    codec: str
    itemsize: int

    @property
    def group_nbytes(self) -> int:
        """Length of a group before it is encoded."""
        return self.shard.group_rows * self.shard.row_nbytes

    @property
    def index_nbytes(self) -> int:
        """Length of the index and its CRC-32C."""
        return 16 * self.shard.groups + 4

    @property
    def least_nbytes(self) -> int:
        """Length that the shard has at least."""
        return self.index_nbytes + self.shard.groups * self._least_group

    @property
    def _least_group(self) -> int:
        return -(-self.group_nbytes // _DENSEST)

    def encode(self, data: NDArray[np.uint8]) -> list[bytes]:
        """Encode whole groups of rows, the last of all filled up, in threads."""
        step, codec = self.group_nbytes, codec_named(self.codec)
        encoded = [b""] * -(-len(data) // step)

        def turn(number: int) -> None:
            group = data[number * step : (number + 1) * step]
            if len(group) < step:
                group = np.concatenate([group, np.zeros(step - len(group), np.uint8)])
            encoded[number] = codec.encode(group, self.itemsize)

        take_turns(turn, len(encoded))
        return encoded

    def index(self, lengths: Sequence[int]) -> bytes:
        """Return what follows the groups, of these lengths: the index and its CRC-32C."""
        import google_crc32c

        index = np.empty((len(lengths), 2), "<u8")
        index[:, 1] = lengths
        index[:, 0] = np.cumsum(index[:, 1]) - index[:, 1]
        data = index.tobytes()
        crc: int = google_crc32c.value(data)
        return data + crc.to_bytes(4, "little")

    def bounds(self, data: NDArray[np.uint8]) -> list[int]:
        """Return where each group of the shard `data` begins, and where the last one ends.

        Raises
        ------
        DamagedError
            If its index is not one that `index` returns, for groups that fill the shard.
        """
        end = len(data) - self.index_nbytes
        if end < 0:
            raise DamagedError("the shard is shorter than its index")
        index = data[end:].tobytes()
        pairs = np.frombuffer(index, "<u8", 2 * self.shard.groups).reshape(-1, 2)
        if pairs.max() > end or int(pairs[:, 1].min()) < self._least_group:
            raise DamagedError("the index of the shard has groups that are outside or too short")
        lengths = pairs[:, 1].tolist()
        found = [*pairs[:, 0].tolist(), end]
        if self.index(lengths) != index or found[-2] + lengths[-1] != end:
            raise DamagedError("the index of the shard is not one of groups that fill it in order")
        return found

    def decode(
        self, data: NDArray[np.uint8], room: Callable[[int], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Return the rows of the shard `data`, decoded in threads.

        Parameters
        ----------
        data : ndarray
            uint8, the whole shard; its bytes are checked.
        room : callable
            Gives the memory, as `castore.backend.base.Room` does.

        Raises
        ------
        DamagedError
            If it is no such shard.
        """
        bounds, step = self.bounds(data), self.group_nbytes
        rows = room(self.shard.data_nbytes)

        def turn(number: int) -> None:
            group = data[bounds[number] : bounds[number + 1]]
            self.decode_group(group, rows[number * step : (number + 1) * step])

        take_turns(turn, self.shard.groups)
        return rows

    def decode_group(self, group: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        """Decode one group into as many bytes as its rows have, or fewer: those of the last.

        Raises
        ------
        DamagedError
            If it is no such group.
        """
        codec = codec_named(self.codec)
        if len(into) == self.group_nbytes:
            codec.decode(group, into)
        else:
            whole = np.empty(self.group_nbytes, np.uint8)
            codec.decode(group, whole)
            into[:] = whole[: len(into)]


def checks(groups: Sequence[bytes]) -> NDArray[np.uint64]:
    """Row checks of encoded groups: xxh3-64 of each as it is in the shard, shape (groups,)."""
    return np.array([check64(group) for group in groups], "<u8")
