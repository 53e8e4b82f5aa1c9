"""A store's objects in a bucket.

Each call is one request wherever one is enough. What is put under a blob's name is put without a
condition, since that is idempotent; what commits is created by one conditional PUT, and an answer
that got lost is made up for by reading back.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping
from castore.backend.base import ObjectInfo
from castore.backend.remote_trouble import Outcome
from castore.backend.s3 import S3Client
from castore.backend.trouble import SystemErrors
from castore.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["RemoteBackend"]

#: Objects above this length are read in parallel ranges.
_LARGE = 16 << 20
#: How often a create is tried that a conflict or a lost answer left undone, and the first pause.
_TRIES, _PAUSE = 8, 0.05


class RemoteBackend:
    """Objects below ``s3://bucket/prefix``.

    Parameters
    ----------
    url : str
        Without a slash at its end.
    options : mapping
        Of ``s3fs.S3FileSystem``.
    """

    near = False

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self._options = dict(options)
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._client = S3Client(bucket, f"{prefix}/" if prefix else "", options)

    def __reduce__(self) -> tuple[type[RemoteBackend], tuple[str, dict[str, Any]]]:
        """Return how to open the same place: a connection stays where it was made."""
        return RemoteBackend, (self.url, self._options)

    def get(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None if there is no such object."""
        return self._client.get(name)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return size and time of `name`, or None if there is no such object."""
        return self._client.head(name)

    def open_private(
        self,
        name: str,
        length: int,
        *,
        copy: bool = False,  # noqa: ARG002  always a copy
    ) -> NDArray[np.uint8] | None:
        """Return a copy of `name`, or None if it is missing or has another length."""
        if length <= _LARGE:
            data = self._client.get(name)
            pieces = None if data is None else [data]
        else:
            pieces = self._client.get_ranges(name, length)
        if pieces is None or sum(map(len, pieces)) != length:
            return None
        found = np.empty(length, np.uint8)
        start = 0
        for piece in pieces:
            found[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
            start += len(piece)
        return found

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Return memory of `nbytes` bytes."""
        return np.empty(nbytes, np.uint8)

    def put(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> None:  # noqa: ARG002
        """Write `pieces` as `name`; a bucket is always durable."""
        self._client.put(name, _joined(pieces))

    def create(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> bool:  # noqa: ARG002
        """Write `pieces` as `name` unless it exists.

        Where an answer was lost, or the server says that there is something, what is there is
        read: equal bytes are this call's own, or as good.
        """
        data = _joined(pieces)
        for attempt in range(_TRIES):
            outcome = self._client.put_new(name, data)
            if outcome is Outcome.DONE:
                return True
            if outcome is not Outcome.CONFLICT:
                found = self._client.get(name)
                if found is not None:
                    return found == data
            time.sleep(_PAUSE * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311  so that racers part
        msg = f"{self.url}: {name} could not be created in {_TRIES} attempts: the server is busy"
        raise BackendError(msg)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name starts with the folder `prefix`, by name."""
        return self._client.list(prefix)

    def delete(self, names: Iterable[str], *, durable: bool = True) -> int:  # noqa: ARG002
        """Remove `names`, in order of 1,000 a request; return how many are gone."""
        listed = list(names)
        self._client.delete(listed)
        return len(listed)

    def now(self) -> float:
        """Return the server's time, in whole seconds."""
        return self._client.now()

    def settle(self, name: str) -> None:
        """Do nothing: what a bucket shows is durable."""

    def check_writable(self) -> None:
        """Do nothing: whether a write is refused costs a write to know."""

    def take(self, path: Path, name: str) -> bool:
        """Upload the file at `path` as `name`."""
        self._client.put_file(name, path)
        return True

    def workplace(self) -> Path:
        """Return a path in the system's temporary folder."""
        return Path(tempfile.gettempdir(), f"castore-{os.getpid()}-{os.urandom(8).hex()}")

    @contextlib.contextmanager
    def upload(self) -> Iterator[RemoteUpload]:
        """Begin an object in a temporary file of this machine."""
        with (
            SystemErrors("write in", tempfile.gettempdir()),
            tempfile.NamedTemporaryFile(prefix="castore-", buffering=0) as file,
        ):
            yield RemoteUpload(self._client, self, file)


class RemoteUpload:
    """A temporary file of this machine on its way to a name in the bucket."""

    #: Nobody else has the bytes.
    temporary: str | None = None

    def __init__(self, client: S3Client, backend: RemoteBackend, file: IO[bytes]) -> None:
        self._client = client
        self._backend = backend
        self._file = file

    def keep(self) -> None:
        """Do nothing: nobody else could have the bytes."""

    def write(self, data: Buffer, /) -> None:
        """Append `data`."""
        rest = memoryview(data).cast("B")
        with SystemErrors("write", self._file.name):
            while rest:
                rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Do nothing: what has no name in the bucket is lost with the machine."""

    def finish(self, name: str) -> None:
        """Upload what was written as `name`, replacing what is there."""
        self._client.put_file(name, Path(self._file.name))

    def finish_new(self, name: str) -> bool:
        """Create `name` with what was written, in one PUT."""
        return self._backend.create(name, [Path(self._file.name).read_bytes()])

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""
        return mapping.private(self._file.fileno(), length)


def _joined(pieces: Sequence[Buffer]) -> bytes:
    return b"".join(memoryview(piece).cast("B") for piece in pieces)
