"""A place that was opened, and what it holds, whoever computed it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from castore import catalog, config, tally
from castore.backend.base import Backend
from castore.backend.open import open_backend
from castore.catalog import EntryInfo, TableInfo, Usage
from castore.errors import ConfigError, ReadOnlyError
from castore.identity.function import describe_function
from castore.identity.request import identify_hierarchy
from castore.once.holding import holding
from castore.progress import Progress
from castore.stats import Stats
from castore.table.entry import find_entry
from castore.table.writer import initialise, read_format
from castore.zarrstore.held import HeldEntry
from castore.zarrstore.publishing import Publishing

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

__all__ = ["Holdings"]


_CODE = ("warn", "miss", "raise")
_IDENTITY = ("content", "stat")
_ON_ERROR = ("raise", "compute")
_VERIFY = ("mapped", "always")
_OPTIONS = (
    "url", "mode", "on_error", "on_code_change", "identity", "verify", "_storage_options",
)  # fmt: skip


class Holdings:
    """The part of a store that needs no loader: how it was opened, its tables and entries."""

    #: A function may hold the store it is cached in; that says nothing about what it computes.
    castore_infrastructure = True

    def __init__(
        self, url: str, *, mode: str, on_error: str, on_code_change: str, identity: str,
        verify: str, storage_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        for name, value, known in (
            ("mode", mode, config.MODES),
            ("on_error", on_error, _ON_ERROR),
            ("on_code_change", on_code_change, _CODE),
            ("identity", identity, _IDENTITY),
            ("verify", verify, _VERIFY),
        ):
            if value not in known:
                msg = f"{name}={value!r}: choose one of {', '.join(known)}"
                raise ConfigError(msg)
        self.url = url
        self.mode = mode
        self.on_error = on_error
        self.on_code_change = on_code_change
        self.identity = identity
        self.verify = verify
        self._storage_options = dict(storage_options or {})
        self._inherited = False
        self._start()

    def _start(self) -> None:
        self._recorder = tally.recorder(self.url)
        self._backend: Backend = open_backend(self.url, self._storage_options)

    def __repr__(self) -> str:
        """Return how the store was opened."""
        return f"castore.open({self.url!r}, mode={self.mode!r}, on_error={self.on_error!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Return URL and options, and whether a computation is under way here."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        return {**options, "_inherited": self._inherited or holding()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the same place, with counters of its own."""
        vars(self).update(state)
        self._start()

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

    def entry(self, prefix: str) -> HeldEntry:
        """Return the entry whose key begins with `prefix`.

        Raises
        ------
        NotFoundError
            If there is none, or more than one.
        """
        found = catalog.find(self._backend, prefix)
        return HeldEntry(found.manifest, found.backend, self._copies)

    def find(
        self, suffix: str, *, inputs: Mapping[str, Any], model: Any = None,
        params: Mapping[str, Any] | None = None, version: str | int | None = None,
    ) -> HeldEntry | None:  # fmt: skip
        """Return the Zarr hierarchy that was committed with these arguments; None if none was.

        Parameters
        ----------
        suffix, inputs, model, params, version
            As `castore.zarrstore.stage.Stage.commit` had them.

        Raises
        ------
        FingerprintError
            If one of them cannot be encoded.
        DamagedError
            If its manifest is damaged.
        """
        function = describe_function(None, suffix, model=model, params=params, version=version)
        request = identify_hierarchy(function, inputs)
        found = find_entry(self._backend, function.table, request.key, copy=self._copies)
        return None if found is None else HeldEntry.of(found)

    def zarr_store(self, key: str | None = None) -> ZarrStore:
        """Return an entry as a Zarr store, or one to write into.

        Parameters
        ----------
        key : str, optional
            The first digits of an entry's key: the store is read-only then. Without it, it is
            a `castore.zarrstore.stage.Stage`, whose ``commit`` makes an entry of what was written.

        Raises
        ------
        NotFoundError
            If there is no such entry, or more than one.
        ReadOnlyError
            If it is to be written, and the store was opened read-only.
        """
        if key is not None:
            return self.entry(key).zarr_store()
        from castore.zarrstore.stage import Stage

        self._check_writable()
        place = self._backend.workplace()
        return Stage(place, Publishing(self._backend, self._recorder)).own()

    def import_zarr(
        self, folder: str | os.PathLike[str], suffix: str, *,
        inputs: Mapping[str, Any] | None = None, model: Any = None,
        params: Mapping[str, Any] | None = None, version: str | int | None = None,
        force: bool = False, progress: Progress = None,
    ) -> EntryInfo:  # fmt: skip
        """Publish the Zarr v3 hierarchy in `folder` as one entry; the folder stays as it is.

        Parameters
        ----------
        folder : str or path
            Any Zarr v3 group or array, sharded or not, compressed or not.
        suffix, inputs, model, params, version, force, progress
            As `castore.zarrstore.stage.Stage.commit` has them.

        Raises
        ------
        FingerprintError, ResultError, StoreError
            As `castore.zarrstore.stage.Stage.commit` does.
        """
        self._check_writable()
        function = describe_function(None, suffix, model=model, params=params, version=version)
        publishing = Publishing(self._backend, self._recorder)
        entry = publishing.publish(
            Path(folder), function, inputs, frozen=False, force=force, progress=progress
        )
        return catalog.entry_info(entry)

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

    def stats(self) -> Stats:
        """Return what this store did in this process; `castore stats` adds up this machine's."""
        return self._recorder.snapshot()

    def usage(self) -> Usage:
        """Add up the bytes the store takes."""
        return catalog.usage(self._backend)

    @property
    def _copies(self) -> bool:
        return self.verify == "always"

    def _check_writable(self) -> None:
        if self.mode in ("ro", "off"):
            msg = f'{self.url} was opened with mode="{self.mode}": open it with mode="rw" to write'
            raise ReadOnlyError(msg)
