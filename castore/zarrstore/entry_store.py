"""An entry as a Zarr store: read-only, every byte checked, nothing filled in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NoReturn, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from castore.errors import ReadOnlyError
from castore.table.entry import Entry
from castore.table.values import Values
from castore.zarrstore.requests import below, bounds, children

__all__ = ["EntryStore"]


class EntryStore(Store):
    """The Zarr hierarchy of one entry.

    Reads come from mapped blobs, in the calling thread where their bytes were checked before.
    What the entry holds and cannot be read right raises `castore.errors.DamagedError`, which Zarr
    does not take for an absent chunk. Picklable; usable from several threads, event loops and
    forked processes; holds no lock, no connection and no loop.

    Parameters
    ----------
    entry : Entry
        The entry.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, entry: Entry) -> None:
        super().__init__(read_only=True)
        self._values = Values(entry)

    @property
    def entry(self) -> Entry:
        """The entry."""
        return self._values.entry

    def __repr__(self) -> str:
        """Return the entry's URL."""
        return f"EntryStore({self})"

    def __str__(self) -> str:
        return f"{self.entry.backend.url}#{self.entry.key}"

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` reads the same manifest of the same store."""
        return isinstance(other, EntryStore) and self._identity() == other._identity()

    __hash__ = None  # type: ignore[assignment]  # as Zarr's own stores

    def _identity(self) -> tuple[str, ...]:
        manifest = self.entry.manifest
        return self.entry.backend.url, manifest.table, manifest.key, manifest.nonce

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return another store of the same entry, which can be read only.

        Raises
        ------
        ReadOnlyError
            If it is to be written.
        """
        if not read_only:
            self._refuse()
        return type(self)(self.entry)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return what is at `key`, in part where a range is asked for; None where it is absent.

        Raises
        ------
        DamagedError
            If it is missing or not what was stored.
        """
        start, stop = bounds(byte_range, self._values.size(key) or 0)
        data = self._values.read(key, start, stop)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:  # fmt: skip
        """Return what `get_sync` does; the event loop waits for no disk and no check."""
        if self._values.is_ready(key, *bounds(byte_range, self._values.size(key) or 0)):
            return self.get_sync(key, prototype=prototype, byte_range=byte_range)
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return what `get` does, for several keys."""
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], *, prototype: BufferPrototype,
        **_tuning: int,
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:  # fmt: skip
        """Yield each range of what is at `key`, with its place among `byte_ranges`.

        Nothing is gained by reading neighbours together: what is mapped is cut without a copy.

        Raises
        ------
        DamagedError
            As `get_sync` does, and not in a group as zarr's own would.
        BaseExceptionGroup
            Of a ``FileNotFoundError``, if there is nothing, as zarr has it.
        """
        for place, wanted in enumerate(byte_ranges):
            found = await self.get(key, prototype, wanted)
            if found is None:
                msg = "no such key"
                raise BaseExceptionGroup(msg, [FileNotFoundError(key)])
            yield [(place, found)]

    async def exists(self, key: str) -> bool:
        """Tell whether there is something at `key`."""
        return key in self._values

    async def getsize(self, key: str) -> int:
        """Return the length of what is at `key`, in bytes, as the manifest has it.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        """
        size = self._values.size(key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the length of all that is below `prefix`, in bytes, as the manifest has it."""
        return sum(self._values.size(key) or 0 for key in below(self._values.keys, prefix))

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in self._values.keys:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys below `prefix`."""
        for key in below(self._values.keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names right below `prefix`."""
        for name in children(self._values.keys, prefix):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse to write.

        Raises
        ------
        ValueError
            As Zarr's own stores do.
        """
        del key, value
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse to delete.

        Raises
        ------
        ValueError
            As Zarr's own stores do.
        """
        del key
        self._check_writable()

    def set_sync(self, key: str, value: Buffer) -> None:
        """Refuse to write; zarr reads in step only from stores that have this method.

        Raises
        ------
        ValueError
            As Zarr's own stores do.
        """
        del key, value
        self._check_writable()

    def delete_sync(self, key: str) -> None:
        """Refuse to delete, as `set_sync` does.

        Raises
        ------
        ValueError
            As Zarr's own stores do.
        """
        del key
        self._check_writable()

    def _refuse(self) -> NoReturn:
        msg = (
            f"entry {self.entry.key[:8]} is immutable: write into store.zarr_store() and commit "
            "that as another entry"
        )
        raise ReadOnlyError(msg)
