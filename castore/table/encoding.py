"""Columns whose row groups are encoded, on their way into an entry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from castore import digest
from castore.backend.base import Upload
from castore.blobs import coded, parts, shard
from castore.blobs.blob import Bytes, Payload, Streamed
from castore.blobs.coded import CodedShard
from castore.blobs.parts import Checks
from castore.errors import BackendError

__all__ = ["Encoded", "encode", "encode_into"]

#: Bytes encoded before any are written, or one row group if that is larger.
_WINDOW = 8 << 20


@dataclass(frozen=True)
class Encoded:
    """What a column came to.

    Attributes
    ----------
    payload : Payload
        The shard.
    checks : ndarray
        uint64 (groups,), its row checks.
    """

    payload: Payload
    checks: NDArray[np.uint64]


def encode(data: NDArray[np.uint8], into: CodedShard, algorithm: str) -> Encoded:
    """Encode the rows in `data`, in memory."""
    groups = into.encode(data)
    index = into.index([len(group) for group in groups])
    # One piece: the disk is asked to begin early only where much is written at a time.
    return Encoded(Bytes((b"".join(groups), index), algorithm), coded.checks(groups))


def encode_into(
    upload: Upload, data: NDArray[np.uint8], known: NDArray[np.uint64], into: CodedShard,
    algorithm: str,
) -> Encoded:  # fmt: skip
    """Encode the rows in `data`, a window at a time, into `upload`.

    Parameters
    ----------
    upload : Upload
        Takes the bytes.
    data : ndarray
        uint8, the rows, mapped.
    known : ndarray
        uint64 (groups,), the checks of their groups as they were when they came.
    into : CodedShard
        What it becomes.
    algorithm : str
        Digest for the blob.

    Raises
    ------
    BackendError
        If the rows are not those that came; what is encoded wrong would pass all checks.
    """
    state, checked = digest.hasher(algorithm), Checks(parts.PART_NBYTES)
    lengths: list[int] = []
    found = [np.empty(0, "<u8")]

    def write(piece: bytes) -> None:
        upload.write(piece)
        state.update(piece)
        checked.update(piece)

    count = max(1, _WINDOW // into.group_nbytes)
    step = count * into.group_nbytes
    for start in range(0, len(data), step):
        window = data[start : start + step].copy()
        expected = known[len(lengths) : len(lengths) + count]
        if not np.array_equal(shard.checks(window, into.shard.row_nbytes), expected):
            raise BackendError("rows that were written to a temporary file came back changed")
        groups = into.encode(window)
        write(b"".join(groups))
        lengths += [len(group) for group in groups]
        found.append(coded.checks(groups))
    write(into.index(lengths))
    length = sum(lengths) + into.index_nbytes
    spelled = parts.spelled(checked.finish())
    return Encoded(Streamed(upload, state.hexdigest(), length, spelled), np.concatenate(found))
