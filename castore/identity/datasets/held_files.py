"""Files that a table of Arrow holds, or names: ``struct<bytes, path>``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from castore.errors import FingerprintError
from castore.identity.datasets import arrow
from castore.identity.datasets.samples import Terms
from castore.identity.files.contents import content_digests, stamps

__all__ = ["HeldFiles"]

#: What the 16 bytes say that a file is known by.
_NOTHING, _CONTENT, _STAMP = range(3)


class HeldFiles:
    """What the files in a table are known by.

    First `collect` sees all arrays of them, then `read` reads the files that lie beside the
    table, at once, then `contents` or `shown` says of each array what it stands for. A file is
    known by its content wherever it lies; under ``"stat"`` one beside the table is known by path,
    size and modification time.

    Parameters
    ----------
    terms : Terms
        How samples are to be identified.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._places: dict[str, int] = {}
        self._known = np.empty((0, 16), np.uint8)

    def collect(self, array: Any) -> Any:
        """Take in the paths of what is not inside; return an array that says nothing."""
        for path in _beside(array)[1]:
            self._places.setdefault(path, len(self._places))
        return sys.modules["pyarrow"].nulls(len(array))

    def read(self) -> None:
        """Find out what the files beside the table contain.

        Raises
        ------
        FingerprintError
            If one cannot be read, or is not on this machine.
        """
        paths = list(self._places)
        for path in paths:
            if "://" in path:
                msg = f"it names the file {path}, which is not on this machine: embed it"
                raise FingerprintError(msg)
        if self._terms.by == "content":
            self._known = content_digests(paths, None, self._terms.on_file)
        else:
            found = np.ascontiguousarray(stamps(paths), "<i8")
            self._known = found.view(np.uint8).reshape(-1, 16)

    def contents(self, array: Any) -> Any:
        """Return what files are known by that are decoded, whatever their paths."""
        beside, paths = _beside(array)
        named = paths if self._terms.by != "content" else [None] * len(paths)
        return self._items(array, {"path": _scattered(beside, named)})

    def shown(self, array: Any) -> Any:
        """Return what files are known by whose path, and whether they are inside, can be seen."""
        paths = array.field("path")
        if "path" in self._terms.ignored:
            paths = _scattered(np.zeros(len(array), np.bool_), [])
        return self._items(array, {"path": paths, "inside": array.field("bytes").is_valid()})

    def _items(self, array: Any, seen: dict[str, Any]) -> Any:
        pa: Any = sys.modules["pyarrow"]
        means = np.full(len(array), _NOTHING, np.uint8)
        known = np.zeros((len(array), 16), np.uint8)
        inside = ~_mask(array.field("bytes").is_null())
        means[inside] = _CONTENT
        known[inside] = _digests(array.field("bytes").drop_null())
        beside, paths = _beside(array)
        means[beside] = _CONTENT if self._terms.by == "content" else _STAMP
        known[beside] = self._known[[self._places[path] for path in paths]]
        buffers = [None, pa.py_buffer(known)]
        digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(array), buffers)
        parts = {"known": digests, "means": pa.array(means), **seen}
        return pa.StructArray.from_arrays(list(parts.values()), list(parts))


def _digests(array: Any) -> arrow.Bytes:
    """Return the digest of each value, as `castore.identity.files.contents` has those of files."""
    data, ends = arrow.offsets_of(array)
    view, places = memoryview(data), ends.tolist()
    found = [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(places)]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def _beside(array: Any) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which files lie beside the table, bool (n,), and their paths."""
    pa: Any = sys.modules["pyarrow"]
    beside = _mask(array.field("bytes").is_null()) & ~_mask(array.field("path").is_null())
    return beside, array.field("path").filter(pa.array(beside)).to_pylist()


def _scattered(mask: NDArray[np.bool_], values: Sequence[str | None]) -> Any:
    """Return text that is `values` where the mask is set, and null elsewhere."""
    pa: Any = sys.modules["pyarrow"]
    found = np.full(len(mask), None, object)
    found[mask] = values
    return pa.array(found, pa.string())


def _mask(array: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False)
    return found
