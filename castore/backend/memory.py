"""A store's objects in this process's memory, for tests and throw-away work."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from castore.backend.base import ObjectInfo

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MemoryBackend"]


class MemoryBackend:
    """Objects in a dict; one dict a name, shared by every store of this process that names it.

    Another process, a forked one included, has its own.
    """

    near = True
    _places: dict[str, dict[str, tuple[bytes, float, int]]] = {}  # noqa: RUF012  shared on purpose
    _lock = threading.Lock()
    _serials = itertools.count()

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        with self._lock:
            self._objects = self._places.setdefault(name, {})

    def __reduce__(self) -> tuple[type[MemoryBackend], tuple[str]]:
        """Return how to open the same place."""
        return MemoryBackend, (self.url.removeprefix("memory://"),)

    def get(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None if there is no such object."""
        found = self._objects.get(name)
        return found[0] if found else None

    def stat(self, name: str) -> ObjectInfo | None:
        """Return size and time of `name`, or None if there is no such object."""
        found = self._objects.get(name)
        return ObjectInfo(name, len(found[0]), found[1], found[2]) if found else None

    def take(self, path: Path, name: str) -> bool:  # noqa: ARG002  it has no files
        """Return False: there are no files here."""
        return False

    def workplace(self) -> Path:
        """Return a path in the system's temporary folder."""
        import tempfile

        return Path(tempfile.gettempdir(), f"castore-{os.getpid()}-{os.urandom(8).hex()}")

    def open_private(
        self,
        name: str,
        length: int,
        *,
        copy: bool = False,  # noqa: ARG002  always a copy
    ) -> NDArray[np.uint8] | None:
        """Return a copy of `name`, or None if it is missing or has another length."""
        data = self.get(name)
        if data is None or len(data) != length:
            return None
        return np.frombuffer(bytearray(data), np.uint8)

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Return `nbytes` bytes of memory."""
        return np.empty(nbytes, np.uint8)

    def put(
        self,
        name: str,
        pieces: Sequence[Buffer],
        *,
        durable: bool = True,  # noqa: ARG002  memory has nothing more durable to offer
    ) -> None:
        """Write `pieces` as `name`, replacing what was there."""
        self._objects[name] = (b"".join(pieces), time.time(), next(self._serials))

    def create(
        self,
        name: str,
        pieces: Sequence[Buffer],
        *,
        durable: bool = True,  # noqa: ARG002  as for `put`
    ) -> bool:
        """Write `pieces` as `name` unless it exists; return whether this call made it."""
        made = (b"".join(pieces), time.time(), next(self._serials))
        return self._objects.setdefault(name, made) is made

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name starts with the folder `prefix`, by name."""
        for name in sorted(self._objects):
            if name.startswith(prefix) and (info := self.stat(name)) is not None:
                yield info

    def delete(
        self,
        names: Iterable[str],
        *,
        durable: bool = True,  # noqa: ARG002  as for `put`
    ) -> int:
        """Remove `names` and return how many were there."""
        return sum(self._objects.pop(name, None) is not None for name in names)

    def now(self) -> float:
        """Return the clock of this machine."""
        return time.time()

    def settle(self, name: str) -> None:
        """Memory has nothing more durable to offer."""

    def check_writable(self) -> None:
        """Memory can always be written."""

    @contextlib.contextmanager
    def upload(self) -> Iterator[MemoryUpload]:
        """Begin an object in a buffer of its own."""
        yield MemoryUpload(self)


class MemoryUpload:
    """A growing buffer on its way to a name."""

    temporary = None

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._data = bytearray()

    def keep(self) -> None:
        """Memory goes with the process."""

    def write(self, data: Buffer, /) -> None:
        """Append `data`."""
        self._data += memoryview(data).cast("B")

    def sync(self) -> None:
        """Memory has nothing more durable to offer."""

    def finish(self, name: str) -> None:
        """Give what was written its name."""
        self._backend.put(name, [self._data])

    def finish_new(self, name: str) -> bool:
        """Give what was written its name unless that exists."""
        return self._backend.create(name, [self._data])

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return a copy of the first `length` bytes written."""
        return np.frombuffer(self._data[:length], np.uint8)
