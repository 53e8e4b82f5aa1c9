"""What a store holds, whoever computed it."""

from __future__ import annotations

from collections.abc import Iterator

from castore import catalog
from castore.backend.base import Backend
from castore.catalog import EntryInfo, TableInfo, Usage
from castore.errors import ReadOnlyError
from castore.table.entry import Entry
from castore.table.writer import initialise, read_format

__all__ = ["Holdings"]


class Holdings:
    """The part of a store that needs no loader: its tables and entries.

    Parameters
    ----------
    url : str
        Where the store is.
    mode : str
        How it was opened.
    """

    url: str
    mode: str
    _backend: Backend

    def init(self, digest: str | None = None) -> str:
        """Make the store unless it exists; return the digest that names its blobs.

        Raises
        ------
        FormatError
            If it exists with another digest, or in a newer format.
        ReadOnlyError, BackendError
            If the place cannot be written.
        """
        self._check_writable()
        self._backend.check_writable()
        return initialise(self._backend, digest)

    def digest(self) -> str | None:
        """Return the digest that names the store's blobs, or None if there is no store yet.

        Raises
        ------
        DamagedError, FormatError
            If the store's own document is damaged, or of a newer format.
        """
        return read_format(self._backend)

    def tables(self) -> list[TableInfo]:
        """Describe every table, newest first."""
        return catalog.tables(self._backend)

    def entries(self, table: str | None = None) -> Iterator[EntryInfo]:
        """Describe every entry of the table whose id begins with `table`, or of the store."""
        for entry in catalog.scan(self._backend):
            if entry.manifest.table.startswith(table or ""):
                yield catalog.entry_info(entry)

    def entry(self, prefix: str) -> Entry:
        """Return the entry whose key begins with `prefix`.

        Raises
        ------
        NotFoundError
            If there is none, or more than one.
        """
        return catalog.find(self._backend, prefix)

    def delete(self, prefix: str) -> EntryInfo:
        """Remove the entry whose key begins with `prefix`; return what it was.

        Its manifest goes at once, its blobs with the next collection, so readers under way
        keep what they have. Of a damaged entry only table and key are known.

        Raises
        ------
        NotFoundError
            If there is none, or more than one.
        ReadOnlyError
            If the store was opened read-only.
        """
        self._check_writable()
        return catalog.remove(self._backend, prefix)

    def usage(self) -> Usage:
        """Add up the bytes the store takes."""
        return catalog.usage(self._backend)

    def _check_writable(self) -> None:
        if self.mode in ("ro", "off"):
            msg = f'{self.url} was opened with mode="{self.mode}": open it with mode="rw" to write'
            raise ReadOnlyError(msg)
