"""Reading an entry: pointer before data, backwards, and nothing unchecked comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from castore.arrays import AnyArray
from castore.backend.base import Backend
from castore.blobs import blob, layout
from castore.blobs.blob import BlobRef
from castore.canonical import Json
from castore.digest import hexdigest
from castore.errors import DamagedError
from castore.table.column import CHECKS, ROWS, Column
from castore.table.keymap import KeyMap
from castore.table.manifest import Manifest
from castore.table.tree import columns_of

__all__ = ["Entry", "Schema", "find_entry", "manifests"]


@dataclass(frozen=True)
class Schema:
    """What entries have in common whose rows can stand in one result.

    Attributes
    ----------
    form : Json
        How the result is put together from the columns.
    columns : dict
        Name of the dtype, and shape of a row, of each column.
    """

    form: Json
    columns: dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Entry:
    """One committed, immutable batch of rows.

    Attributes
    ----------
    manifest : Manifest
        What it holds and where.
    backend : Backend
        Where its blobs are.
    copy : bool
        Read blobs into memory of the process's own instead of mapping them.
    """

    manifest: Manifest
    backend: Backend
    copy: bool = False

    @property
    def key(self) -> str:
        """The key, 32 hex digits."""
        return self.manifest.key

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns of the result, by name.

        Raises
        ------
        DamagedError
            If the manifest does not describe them.
        """
        return {name: self._column(name) for name in columns_of(self.manifest.form)}

    @property
    def schema(self) -> Schema:
        """What its rows are like, whatever their number.

        Raises
        ------
        DamagedError
            If the manifest does not describe its columns.
        """
        columns = {name: (c.dtype, c.shape[1:]) for name, c in self.columns.items()}
        return Schema(self.manifest.form, columns)

    @property
    def is_hierarchy(self) -> bool:
        """Whether it is a Zarr hierarchy of the user's own, not a result in columns."""
        return isinstance(self.manifest.form, dict) and "zarr" in self.manifest.form

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(column.nbytes for column in self.columns.values())

    def arrays(self) -> dict[str, AnyArray]:
        """Return every column of the result, checked, private and writable.

        Raises
        ------
        DamagedError
            If any byte is missing or not what was stored.
        """
        return {name: self._array(column) for name, column in self.columns.items()}

    def row_ids(self) -> NDArray[np.uint8] | None:
        """Return the row ids, uint8 (n, 16), or None if the result has no row a sample.

        Raises
        ------
        DamagedError
            If they are missing or not what was stored.
        """
        if not self.manifest.aligned:
            return None
        return self._array(self._column(ROWS))

    def unchecked(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint64] | None]:
        """Return the bytes of column `name`, or its shard if encoded, and its row checks.

        Whoever uses some of the rows checks a copy of their groups. None in place of the checks:
        the bytes were checked with the manifest, or there are none.

        Raises
        ------
        DamagedError
            If anything is missing, or the checks are not those that were stored.
        """
        column = self.columns[name]
        data = self._unchecked(column)[: None if column.coded else column.nbytes]
        if not isinstance(self.manifest.chunks.get(column.chunk_key or ""), BlobRef):
            return data, None
        checks = self._column(f"{CHECKS}/{name}")
        if column.shard is None or (checks.dtype, checks.shape) != (
            "uint64",
            (column.shard.groups,),
        ):
            msg = f"{self.manifest.name}: column {name!r} has no checks of its row groups"
            raise DamagedError(msg)
        return data, self._array(checks)

    def damaged(self, name: str) -> DamagedError:
        """Remember that the bytes of column `name` were seen changed; return what to raise."""
        chunk = self.manifest.chunks[self.columns[name].chunk_key or ""]
        return (
            blob.damaged(self.backend, chunk) if isinstance(chunk, BlobRef) else DamagedError(name)
        )

    def has_rows(self, row_ids: NDArray[np.uint8] | None) -> bool:
        """Tell whether the entry holds exactly these rows, every byte of them intact.

        Digests are compared, of the rows given and of the bytes stored: that is quicker than
        comparing the bytes.

        Raises
        ------
        DamagedError
            If the row ids are missing.
        """
        if row_ids is None:
            return False
        column = Column.of(ROWS, row_ids)
        chunk = self.manifest.chunks.get(column.chunk_key) if column.chunk_key else b""
        pieces = (row_ids.reshape(-1), column.tail())
        if not isinstance(chunk, BlobRef):
            return chunk == b"".join(pieces)
        algorithm = self.manifest.algorithm
        return (
            hexdigest(pieces, algorithm) == chunk.digest
            and hexdigest([self._opened(chunk)], algorithm) == chunk.digest
        )

    def values(self) -> Iterator[tuple[str, bytes]]:
        """Yield every Zarr key of the entry and its value, checked.

        What `zarr` needs to read the entry without castore.
        """
        for key in self.manifest.metadata:
            yield key, self.manifest.keys.text(key)
        for key, chunk in self.manifest.chunks.items():
            data = self._opened(chunk)
            if isinstance(chunk, BlobRef):
                self._check(data, chunk)
            yield key, data.tobytes()

    def _column(self, name: str) -> Column:
        return Column.from_metadata(name, self.manifest.metadata.get(f"{name}/zarr.json"))

    def _array(self, column: Column) -> AnyArray:
        """Return the array, checked and decoded."""
        data = self._value(column)
        if column.coded:
            try:
                data = column.coded.decode(data, self.backend.room)
            except DamagedError as error:
                msg = f"{self.manifest.name}: column {column.name!r} cannot be decoded: {error}"
                raise DamagedError(msg) from error
        return column.view(data)

    def _value(self, column: Column) -> NDArray[np.uint8]:
        """Return the value under the column's only chunk key, checked."""
        data = self._unchecked(column)
        chunk = self.manifest.chunks.get(column.chunk_key or "")
        if isinstance(chunk, BlobRef):
            self._check(data, chunk)
        return data

    def _unchecked(self, column: Column) -> NDArray[np.uint8]:
        """Return the value under the column's only chunk key, of the right length."""
        if column.chunk_key is None:
            return np.empty(0, np.uint8)
        chunk = self.manifest.chunks.get(column.chunk_key)
        found = len(chunk) if isinstance(chunk, bytes) else chunk.length if chunk else None
        if chunk is None or found is None or not column.may_take(found):
            least = "at least " if column.coded else ""
            msg = (
                f"{self.manifest.name}: column {column.name!r} takes {least}"
                f"{column.chunk_nbytes:,} bytes, the manifest has {found}"
            )
            raise DamagedError(msg)
        return self._opened(chunk)

    def _opened(self, chunk: bytes | BlobRef) -> NDArray[np.uint8]:
        """Return the bytes of `chunk`, writable; inline ones were checked with the manifest."""
        if isinstance(chunk, bytes):
            return np.frombuffer(bytearray(chunk), np.uint8)
        return blob.map_blob(self.backend, chunk, copy=self.copy)

    def _check(self, data: NDArray[np.uint8], ref: BlobRef) -> None:
        if not blob.is_intact(data, ref, self.manifest.algorithm):
            raise blob.damaged(self.backend, ref)


def find_entry(backend: Backend, table: str, key: str, *, copy: bool = False) -> Entry | None:
    """Return the entry `key` of `table`, or None if there is none.

    Reads one manifest, and the map of its keys where that is a blob.

    Raises
    ------
    DamagedError
        If one of them is damaged.
    FormatError
        If it was written by a newer castore.
    """
    data = backend.get(layout.entry(table, key))
    if data is None:
        return None
    manifest = Manifest.from_bytes(data, table, key)
    if manifest.map is not None:
        keys = blob.read(backend, manifest.map, manifest.algorithm)
        manifest = replace(manifest, keys=KeyMap.from_bytes(keys, manifest.map.name))
    return Entry(manifest, backend, copy)


def manifests(backend: Backend, table: str | None = None) -> Iterator[str]:
    """Yield the object names of all manifests, or of those of `table`, by name."""
    folder = layout.TABLES if table is None else layout.entries(table)
    for info in backend.list(folder):
        if layout.key_of(info.name):
            yield info.name
