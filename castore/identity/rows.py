"""Row ids: 16 bytes that identify a sample, not its position.

A row id is the digest of {source, item}. Integer names are mixed by arithmetic instead, a
million of them in milliseconds: each 64-bit half is a bijection of the name, so no two names
of one source collide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from castore.digest import digest128, identity, identity_hasher

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "RowIds",
    "among",
    "digest_rows",
    "distinct",
    "from_integers",
    "from_items",
    "from_names",
    "from_parts",
]

RowIds = NDArray[np.uint8]
"""Row ids, uint8 (n, 16)."""


def from_integers(source: str, names: NDArray[np.int64]) -> RowIds:
    """Return the row ids of integer `names`, int64 (n,), under the digest `source`."""
    keys = np.array([[int(source[:16], 16)], [int(source[16:], 16)]], np.uint64)
    halves = np.bitwise_xor(names.view(np.uint64), keys)
    _mix(halves)
    return np.ascontiguousarray(halves.T, "<u8").view(np.uint8)


def _mix(x: NDArray[np.uint64]) -> None:
    """Mix each number in place; the finaliser of splitmix64, which is invertible.

    Source: https://prng.di.unimi.it/splitmix64.c
    """
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= np.right_shift(x, np.uint64(27), out=shifted)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= np.right_shift(x, np.uint64(31), out=shifted)


def from_names(source: str, names: Sequence[str]) -> RowIds:
    """Return the row ids of text `names` under the digest `source`."""
    return from_items(source, "name", ((name.encode("utf-8", "surrogatepass"),) for name in names))


def from_items(source: str, kind: str, items: Iterable[tuple[Buffer, ...]]) -> RowIds:
    """Return the row ids of `items` under the digest `source`.

    Parameters
    ----------
    source : str
        Digest of what turns an item into a sample.
    kind : str
        What the items are; `source` and `kind` together must fix how many pieces an item has
        and all their lengths but the last one's.
    items : iterable of tuple of bytes
        The pieces of each item.
    """
    prefix = identity_hasher(f"row/{kind}/{source}")
    found = bytearray()
    for pieces in items:
        state = prefix.copy()  # type: ignore[attr-defined]
        for piece in pieces:
            state.update(piece)
        found += state.digest()
    return np.frombuffer(found, np.uint8).reshape(-1, 16)


def digest_rows(row_ids: RowIds) -> str:
    """Digest of an ordered list of row ids."""
    return identity("rows", row_ids.reshape(-1))


def from_parts(
    source: str, kind: str, fixed: NDArray[np.uint8], names: Sequence[bytes] | None = None
) -> RowIds:
    """Return the row ids of items made of a row of `fixed` and a name.

    Parameters
    ----------
    source, kind : str
        As for `from_items`.
    fixed : ndarray
        uint8 (n, k): the pieces of each item that are equally long in all.
    names : sequence of bytes, optional
        The piece of each item that follows them, of any length.
    """
    prefix = f"castore/1/row/{kind}/{source}\n".encode()
    data, width = fixed.tobytes(), fixed.shape[1]
    found = [
        digest128(prefix + data[start : start + width] + name)
        for start, name in zip(range(0, len(data), width), names or [b""] * len(fixed), strict=True)
    ]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def distinct(row_ids: RowIds) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where each different row id comes first, and which of those each one is.

    Parameters
    ----------
    row_ids : ndarray
        uint8 (n, 16).

    Returns
    -------
    first : ndarray
        intp (k,), ascending positions: ``row_ids[first]`` has every row id once.
    number : ndarray
        intp (n,): ``row_ids[first][number]`` is `row_ids`.
    """
    halves = np.ascontiguousarray(row_ids).view("<u8")
    lower = np.sort(halves[:, 0])
    if (lower[1:] != lower[:-1]).all():  # the common case, at a third of the price
        every = np.arange(len(row_ids))
        return every, every
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ones the first leads
    ordered = halves[order]
    leads = np.ones(len(order), np.bool_)
    leads[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    leaders = order[leads]
    group = np.empty(len(order), np.intp)
    group[order] = np.cumsum(leads) - 1
    ranks = np.argsort(np.argsort(leaders))
    return np.sort(leaders), ranks[group]


def among(row_ids: RowIds, others: RowIds) -> NDArray[np.bool_]:
    """Tell of each row id, uint8 (n, 16), whether it is one of `others`; bool (n,)."""
    _, number = distinct(np.concatenate([row_ids, others]))
    return np.isin(number[: len(row_ids)], number[len(row_ids) :])
