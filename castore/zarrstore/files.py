"""Files on their way to blobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from castore.backend import mapping
from castore.backend.base import Backend
from castore.blobs import parts
from castore.blobs.blob import Bytes, Payload
from castore.blobs.parts import Checks
from castore.digest import hasher, hexdigest
from castore.errors import ResultError

__all__ = ["FilePayload", "payload_of"]

_PIECE = 1 << 20


class FilePayload:
    """A file that is to become a blob.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : str
        Digest for blobs.
    frozen : bool
        Whether it is never written to again, so that the blob may be another name of it.
    """

    def __init__(self, path: Path, algorithm: str, *, frozen: bool) -> None:
        self._path = path
        self._algorithm = algorithm
        self._frozen = frozen
        data, checks = self._data(), Checks(parts.PART_NBYTES)
        state, plain = hasher(algorithm), hasher()
        for piece in _pieces(data):
            state.update(piece)
            plain.update(piece)
            checks.update(piece)
        self.length = len(data)
        self.digest = state.hexdigest()
        self.identity = plain.hexdigest()
        #: Checks of its parts: of the very bytes that have the digest, whatever the file is now.
        self.parts = parts.spelled(checks.finish())

    def store(self, backend: Backend, name: str) -> None:
        """Put the file as `name`: as it is where that can be, else copied.

        Raises
        ------
        ResultError
            If somebody wrote to it since it was looked at: no blob may have another's digest.
        """
        if self._frozen and backend.take(self._path, name):
            return
        data, state = self._data(), hasher(self._algorithm)
        with backend.upload() as upload:
            for piece in _pieces(data):
                state.update(piece)
                upload.write(piece)
            if state.hexdigest() != self.digest:
                msg = f"{self._path} changed while it was stored: let nobody write there, and again"
                raise ResultError(msg)
            upload.finish(name)

    def to_bytes(self) -> bytes:
        """Return the bytes."""
        return self._data().tobytes()

    def _data(self) -> NDArray[np.uint8]:
        try:
            return mapping.open_whole(str(self._path))
        except OSError as error:
            msg = f"{self._path} cannot be read: {error.strerror}"
            raise ResultError(msg) from error


def _pieces(data: NDArray[np.uint8]) -> Iterator[bytes]:
    """Yield copies, piece by piece: a mapped file may change under a view."""
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE].tobytes()


def payload_of(path: Path, algorithm: str, small: int, *, frozen: bool) -> tuple[Payload, str]:
    """Return what is in the file at `path` as a payload, and its identity digest.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : str
        Digest for blobs.
    small : int
        Up to so many bytes are read into memory.
    frozen : bool
        As for `FilePayload`.

    Raises
    ------
    ResultError
        If it cannot be read.
    """
    try:
        if path.stat().st_size <= small:
            data = path.read_bytes()
            return Bytes([data], algorithm), hexdigest([data])
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ResultError(msg) from error
    payload = FilePayload(path, algorithm, frozen=frozen)
    return payload, payload.identity
