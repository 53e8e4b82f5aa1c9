"""What Zarr asks of a store, in terms of bytes and names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

__all__ = ["below", "bounds", "children"]


def bounds(request: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return the half-open range of bytes that `request` means of a value of `size` bytes.

    Raises
    ------
    TypeError
        If it is none of Zarr's.
    """
    if request is None:
        return 0, size
    if isinstance(request, RangeByteRequest):
        return min(request.start, size), min(request.end, size)
    if isinstance(request, OffsetByteRequest):
        return min(request.offset, size), size
    if isinstance(request, SuffixByteRequest):
        return max(0, size - request.suffix), size
    msg = f"Unexpected byte_range, got {request!r}."  # type: ignore[unreachable]  # users may
    raise TypeError(msg)


def below(keys: Sequence[str], prefix: str) -> Sequence[str]:
    """Return those of sorted `keys` that lie below the node `prefix`, which may end in a slash."""
    folder = _folder(prefix)
    return keys[bisect_left(keys, folder) : bisect_left(keys, folder + "\U0010ffff")]


def children(keys: Sequence[str], prefix: str) -> Iterator[str]:
    """Yield the names right below the node `prefix`, each once."""
    start = len(_folder(prefix))
    yield from dict.fromkeys(key[start:].partition("/")[0] for key in below(keys, prefix))


def _folder(prefix: str) -> str:
    node = prefix.rstrip("/")
    return f"{node}/" if node else ""
