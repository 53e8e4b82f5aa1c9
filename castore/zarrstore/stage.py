"""A Zarr hierarchy being written, to become an entry."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from castore.catalog import EntryInfo, entry_info
from castore.identity.function import describe_function
from castore.progress import Progress
from castore.zarrstore.folder import Folder
from castore.zarrstore.publishing import Publishing
from castore.zarrstore.requests import bounds, children

__all__ = ["Stage"]


class Stage(Store):
    """A writable Zarr store in a private folder. Made by `castore.Store.zarr_store`.

    What is written is in plain Zarr form, seen by every process of this machine that has the
    stage (it can be pickled, and used after a fork), and by nobody who looks into the castore
    store, until `commit` makes all of it an entry in one step. A value is replaced in one step.

    The values go when the stage is committed or discarded, when nobody refers any more to the
    one that they were made for, and when its process ends; copies in other processes do not own
    them. Whoever uses any of these stages then is told so.

    Parameters
    ----------
    folder : Path or str
        Where the values are until then; `own` makes it.
    destination : Publishing
        What publishes them.
    read_only : bool
        Refuse to write.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(
        self, folder: Path | str, destination: Publishing, *, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        self._folder = Folder(Path(folder))
        self._destination = destination
        self._begun = time.time_ns()

    def own(self) -> Self:
        """Make the folder, and let it go when nobody refers to this stage any more.

        Returns
        -------
        Stage
            This one.

        Raises
        ------
        ReadOnlyError, BackendError
            If there can be no folder.
        """
        self._folder.make()
        weakref.finalize(self, _remove, self._folder, os.getpid())
        return self

    def __repr__(self) -> str:
        """Return the folder and the store."""
        return f"Stage({str(self._folder.place)!r}, {self._destination.backend.url!r})"

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` has the same folder."""
        return isinstance(other, Stage) and self._folder.place == other._folder.place

    __hash__ = None  # type: ignore[assignment]  # as Zarr's own stores

    def commit(
        self,
        suffix: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        model: Any = None,
        params: Mapping[str, Any] | None = None,
        version: str | int | None = None,
        force: bool = False,
        progress: Progress = None,
    ) -> EntryInfo:
        """Publish all that was written as one entry; the stage is over then.

        Chunks become blobs, equal ones once in the whole store; the manifest is the commit. If
        anything fails before that, nothing was published and the stage goes on.

        Parameters
        ----------
        suffix : str
            Names what this is.
        inputs : mapping, optional
            What it was made from: `castore.Store.find` finds it by the same. By default it goes
            by its own content, so that committing equal hierarchies is one entry.
        model, params, version
            As for `castore.Store.get_or_compute`.
        force : bool
            Replace what is there; otherwise what was there first stays.
        progress : bool or callable, optional
            None: a bar on a terminal, for work beyond a second. Counts files.

        Returns
        -------
        EntryInfo
            The entry; `castore.Store.zarr_store` of its key reads it.

        Raises
        ------
        FingerprintError
            If `inputs`, `params` or the model cannot be encoded.
        ResultError
            If what was written is no Zarr v3 hierarchy.
        StoreError
            If the store cannot be written, or the stage was committed before.
        """
        self._check_writable()
        function = describe_function(None, suffix, model=model, params=params, version=version)
        with self._folder.frozen() as folder:
            entry = self._destination.publish(
                folder, function, inputs, frozen=True, force=force,
                elapsed=time.time_ns() - self._begun, progress=progress,
            )  # fmt: skip
        self._folder.clear()
        self.close()
        return entry_info(entry)

    def discard(self) -> None:
        """Remove all that was written; the stage is over then."""
        self._folder.remove()
        self.close()

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return another stage of the same folder, which does not own it."""
        return type(self)(self._folder.place, self._destination, read_only=read_only)

    async def _open(self) -> None:
        self._folder.check()
        await super()._open()

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return what is at `key`, in part where a range is asked for; None if nothing is."""
        if byte_range is None:
            data = self._folder.get(key)
        else:
            size = None
            if not isinstance(byte_range, RangeByteRequest):
                size = self._folder.size(key)
            start, stop = bounds(byte_range, 2**63 if size is None else size)
            data = self._folder.get(key, start, stop)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write `value` at `key`, in one step."""
        self._set(key, value)

    def delete_sync(self, key: str) -> None:
        """Remove what is at `key`; nothing there is no error."""
        self._check_writable()
        self._folder.delete(key)

    def _set(self, key: str, value: Buffer, *, new: bool = False) -> None:
        self._check_writable()
        if not isinstance(value, Buffer):
            msg = f"Stage.set(): `value` must be a Buffer instance, not {type(value)}."  # type: ignore[unreachable]
            raise TypeError(msg)
        self._folder.put(key, value.as_buffer_like(), new=new)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:  # fmt: skip
        """Return what `get_sync` does."""
        if not self._is_open:
            await self._open()
        return await asyncio.to_thread(
            self.get_sync, key, prototype=prototype, byte_range=byte_range
        )

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return what `get` does, for several keys."""
        wanted = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*wanted))

    async def set(self, key: str, value: Buffer) -> None:
        """Write `value` at `key`, in one step."""
        if not self._is_open:
            await self._open()
        await asyncio.to_thread(self._set, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write `value` at `key` unless there is one: of several writers one succeeds."""
        if not self._is_open:
            await self._open()
        await asyncio.to_thread(self._set, key, value, new=True)

    async def delete(self, key: str) -> None:
        """Remove what is at `key`; nothing there is no error."""
        await asyncio.to_thread(self.delete_sync, key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all that is below the node `prefix`."""
        self._check_writable()
        await asyncio.to_thread(self._folder.delete_below, prefix)

    async def clear(self) -> None:
        """Remove all that was written."""
        await self.delete_dir("")

    async def is_empty(self, prefix: str) -> bool:
        """Tell whether nothing is below the node `prefix`."""
        return not await asyncio.to_thread(self._folder.keys, prefix)

    async def exists(self, key: str) -> bool:
        """Tell whether there is something at `key`."""
        return await asyncio.to_thread(self._folder.size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return the length of what is at `key`, in bytes.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        """
        size = await asyncio.to_thread(self._folder.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in await asyncio.to_thread(self._folder.keys):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys below the node `prefix`."""
        for key in await asyncio.to_thread(self._folder.keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names right below the node `prefix`."""
        for name in children(await asyncio.to_thread(self._folder.keys, prefix), prefix):
            yield name


def _remove(folder: Folder, process: int) -> None:
    if os.getpid() == process:  # a forked child does not own what its parent made
        folder.remove()
