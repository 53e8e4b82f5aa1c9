"""Temporary files on their way to a name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping, writeback
from castore.backend.trouble import SystemErrors, sync_folder
from castore.points import reach
from castore.threads import together

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LocalUpload"]

_TRIES = 50  # at a name whose folder others remove


class Folders(Protocol):
    """Where named files lie."""

    def path(self, name: str) -> Path:
        """Return where `name` lies."""

    def place(self, name: str, *, durable: bool = True) -> None:
        """Make the folder of `name`, by default so that it outlives a power cut."""

    def temporary_name(self, path: Path) -> str | None:
        """Return the name of a temporary file, None where nobody else may look at it."""


class LocalUpload:
    """A temporary file on its way to a name."""

    def __init__(self, folders: Folders, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.kept = False
        self._folders = folders
        self._file = file
        self._written = 0
        self._synced = False

    @property
    def temporary(self) -> str | None:
        """Its name below the root; None on a network file system, where nobody may look."""
        return self._folders.temporary_name(self.path)

    def keep(self) -> None:
        """Leave the file there when the block ends."""
        self.kept = True

    def write(self, data: Buffer, /) -> None:
        """Append `data`; a short write is continued until all is written or the disk is full."""
        rest = memoryview(data).cast("B")
        self._synced = False
        with SystemErrors("write", self.path):
            while rest:
                count = self._file.write(rest[: writeback.PIECE])
                if count == writeback.PIECE:
                    writeback.begin(self._file.fileno(), self._written, count)
                self._written += count
                rest = rest[count:]

    def sync(self) -> None:
        """Sync the file."""
        if not self._synced:
            with SystemErrors("write", self.path):
                os.fsync(self._file.fileno())
            self._synced = True

    def finish(self, name: str, *, durable: bool = True) -> None:
        """Sync the file, rename it to `name`, and sync the folder."""
        self._finish(name, _rename, durable)

    def finish_new(self, name: str, *, durable: bool = True) -> bool:
        """Sync the file, link it to `name`, and sync the folder; return False if that exists."""
        return self._finish(name, _link, durable)

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Make the file `nbytes` long and return it as memory that is written back to it."""
        os.posix_fallocate(self._file.fileno(), 0, nbytes)  # a full disk fails here, not later
        return mapping.shared(self._file.fileno(), nbytes)

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""
        return mapping.private(self._file.fileno(), length)

    def _finish(self, name: str, give: Callable[[Path, Path], bool], durable: bool) -> bool:
        """Have `give` name the file, durably where that is asked for; return what it returns."""
        path = self._folders.path(name)
        reach("local.temp-written")
        if durable:
            together(self.sync, lambda: self._folders.place(name))
            reach("local.temp-synced")
        with SystemErrors("write", path):
            made = self._give(name, give, durable)
            reach("local.named")
            if durable:
                sync_folder(path.parent)
                reach("local.folders-synced")
        return made

    def _give(self, name: str, give: Callable[[Path, Path], bool], durable: bool) -> bool:
        path = self._folders.path(name)
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return give(self.path, path)
            self._folders.place(name, durable=durable)
        return give(self.path, path)


def _rename(source: Path, target: Path) -> bool:
    source.rename(target)
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True
