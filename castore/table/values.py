"""The Zarr keys of an entry as bytes, whole or in part, checked before they are given out."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping
from castore.blobs import blob, parts
from castore.blobs.blob import BlobRef
from castore.errors import DamagedError
from castore.table.entry import Entry

__all__ = ["Values"]

#: Blobs kept open. A process may have some 65,000 mappings in all.
_OPEN = 1024
#: Those kept that are copies of more than so many bytes, and take memory.
_COPIES, _LARGE = 16, 256 << 10
#: Names that Zarr readers look for anywhere, though no entry has them.
_NO_CHUNKS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class Values:
    """What an entry holds, by Zarr key. May be used from several threads, and after a fork.

    Every byte is checked once before it is given out, by the part of the blob it lies in
    (`castore.blobs.parts`), and lies in memory that nobody else can change: a private mapping, or
    a copy. What is given out is read-only, so that one reader cannot change it for another.

    Parameters
    ----------
    entry : Entry
        The entry.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._open: dict[BlobRef, _Opened] = {}
        self._copies: dict[BlobRef, _Opened] = {}

    def __getstate__(self) -> Entry:
        """Return the entry: what is open stays here."""
        return self.entry

    def __setstate__(self, entry: Entry) -> None:
        """Begin with nothing open."""
        self.__init__(entry)  # type: ignore[misc]

    def __contains__(self, key: str) -> bool:
        """Tell whether there is something at `key`."""
        keys = self.entry.manifest.keys
        return key in keys.metadata or key in keys.chunks

    @cached_property
    def keys(self) -> list[str]:
        """All keys, sorted."""
        keys = self.entry.manifest.keys
        return sorted([*keys.metadata, *keys.chunks])

    def size(self, key: str) -> int | None:
        """Return the length of what is at `key`, None if there is nothing; reads nothing."""
        keys = self.entry.manifest.keys
        if key in keys.metadata:
            return len(keys.text(key))
        chunk = keys.chunks.get(key)
        return None if chunk is None else len(chunk) if isinstance(chunk, bytes) else chunk.length

    def read(self, key: str, start: int = 0, stop: int | None = None) -> memoryview | None:
        """Return bytes of what is at `key`, read-only; None if it was left out on purpose.

        Parameters
        ----------
        key : str
            A Zarr key.
        start, stop : int
            Half-open, from 0; what lies beyond the end is not there.

        Raises
        ------
        DamagedError
            If anything the entry holds there is missing or not what was stored, or if a chunk
            is neither there nor left out on purpose: absence must not read as fill values.
        """
        keys = self.entry.manifest.keys
        if key in keys.metadata:
            return memoryview(keys.text(key))[start:stop]
        chunk = keys.chunks.get(key)
        if chunk is None:
            if self._ought_to_be(key):
                msg = f"{self.entry.manifest.name}: the chunk {key!r} is neither there nor left out"
                raise DamagedError(msg)
            return None
        if isinstance(chunk, bytes):
            return memoryview(chunk)[start:stop]
        return self._opened(chunk).read(start, chunk.length if stop is None else stop)

    def is_ready(self, key: str, start: int = 0, stop: int | None = None) -> bool:
        """Tell whether `read` would neither open nor check anything."""
        chunk = self.entry.manifest.keys.chunks.get(key)
        if not isinstance(chunk, BlobRef):
            return True
        opened = self._open.get(chunk) or self._copies.get(chunk)
        return opened is not None and opened.is_checked(
            start, chunk.length if stop is None else stop
        )

    @cached_property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """The metadata of every array, by the path of its node.

        Raises
        ------
        DamagedError
            If some metadata are no JSON object.
        """
        keys, found = self.entry.manifest.keys, {}
        for key, value in keys.metadata.items():
            try:
                document = json.loads(value) if isinstance(value, str) else value
                if document.get("node_type") == "array":
                    found[key.removesuffix("zarr.json").rstrip("/")] = document
            except (AttributeError, ValueError, RecursionError) as error:
                msg = f"{self.entry.manifest.name}: {key} is no Zarr metadata"
                raise DamagedError(msg) from error
        return found

    def _ought_to_be(self, key: str) -> bool:
        """Tell whether `key` is that of a chunk that was not left out."""
        folder, _, name = key.rpartition("/")
        if name in _NO_CHUNKS or self.entry.manifest.keys.is_absent(key):
            return False
        while folder:
            if folder in self.arrays:
                return True
            folder = folder.rpartition("/")[0]
        return "" in self.arrays

    def _opened(self, ref: BlobRef) -> _Opened:
        found = self._open.get(ref) or self._copies.get(ref)
        if found is None:
            found = _Opened(self.entry, ref)
            kept, most = (self._copies, _COPIES) if found.is_large_copy else (self._open, _OPEN)
            for old in list(kept)[: max(0, len(kept) + 1 - most)]:
                kept.pop(old, None)  # the oldest; other threads may be here too
            kept[ref] = found
        return found


class _Opened:
    """An open blob, and which of its parts were checked."""

    def __init__(self, entry: Entry, ref: BlobRef) -> None:
        self._entry = entry
        self._ref = ref
        self._data: NDArray[np.uint8] = blob.map_blob(entry.backend, ref, copy=entry.copy)
        self._step = parts.PART_NBYTES if ref.parts else max(1, ref.length)
        self._left = set(range(-(-ref.length // self._step)))

    @property
    def is_large_copy(self) -> bool:
        """Whether it takes much memory."""
        return len(self._data) > _LARGE and not mapping.is_mapped(self._data)

    def read(self, start: int, stop: int) -> memoryview:
        """Return bytes, checked."""
        if not self.is_checked(start, stop):
            self._check(start, stop)
        view = memoryview(self._data).toreadonly()
        return view[start:stop]

    def is_checked(self, start: int, stop: int) -> bool:
        """Tell whether all parts were checked that have some of these bytes."""
        return not self._left or self._left.isdisjoint(self._parts(start, stop))

    def _parts(self, start: int, stop: int) -> range:
        stop = min(stop, self._ref.length)
        return range(start // self._step, -(-stop // self._step) if stop > start else 0)

    def _check(self, start: int, stop: int) -> None:
        wanted = sorted(self._left.intersection(self._parts(start, stop)))
        algorithm = self._entry.manifest.algorithm
        if not self._ref.parts:
            intact = blob.is_intact(self._data, self._ref, algorithm)
        else:
            intact = parts.are_intact(self._data, self._ref.parts, wanted)
        if not intact:
            raise blob.damaged(self._entry.backend, self._ref)
        self._left.difference_update(wanted)
