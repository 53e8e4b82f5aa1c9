"""What castore asks of a place that keeps named bytes.

Names are relative, ``/``-separated and made by `castore.blobs.layout` alone. Each capability
is a small protocol; a function asks for the smallest it needs.

All methods may be called from several threads at once. System errors surface as
`castore.errors.BackendError` or `castore.errors.ReadOnlyError`, never as ``OSError``.

What is written is durable: it outlives a power cut. With ``durable=False`` it need not, which
is quicker and for what is only advice, in folders of its own: those go with their last name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Backend",
    "Create",
    "Delete",
    "Get",
    "List",
    "Now",
    "ObjectInfo",
    "OpenPrivate",
    "Put",
    "Room",
    "Staged",
    "Take",
    "Upload",
]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing shows it.

    Attributes
    ----------
    name : str
        Its whole name.
    size : int
        Length in bytes.
    modified : float
        When it was written, in seconds since the epoch by the server's clock (locally the
        file system's).
    tag : object
        Another one where the object was written again; compare it, and nothing else.
    """

    name: str
    size: int
    modified: float
    tag: object = None


class Get(Protocol):
    """Read whole objects."""

    def get(self, name: str) -> bytes | None:
        """Return the bytes of `name`, or None if there is no such object."""

    def stat(self, name: str) -> ObjectInfo | None:
        """Return size and time of `name`, or None if there is no such object."""


class OpenPrivate(Protocol):
    """Read large objects without copying them where that can be."""

    def open_private(
        self, name: str, length: int, *, copy: bool = False
    ) -> NDArray[np.uint8] | None:
        """Return `name` as a writable uint8 array (length,) that nobody else sees change.

        Parameters
        ----------
        name : str
            The object.
        length : int
            The length the caller was promised; a mapping takes it from here, never from the
            file, after the file was seen to be exactly that long.
        copy : bool
            Read into memory of the process's own even where mapping is possible.

        Returns
        -------
        ndarray or None
            None if there is no such object or it has another length.
        """


class Room(Protocol):
    """Give memory for results."""

    def room(self, nbytes: int) -> NDArray[np.uint8]:
        """Return writable memory of `nbytes` bytes, filled with anything, for this process alone.

        Much of it lies in a nameless file beside the objects, so that a result may be larger
        than the machine's memory.
        """


class Put(Protocol):
    """Write objects unconditionally."""

    def put(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> None:
        """Write `pieces`, one after another, as `name`, replacing what was there.

        Atomic: a reader sees the old object or the new one, whole. Durable when it returns,
        unless told otherwise.
        """


class Create(Protocol):
    """Write objects only where there is none."""

    def create(self, name: str, pieces: Sequence[Buffer], *, durable: bool = True) -> bool:
        """Write `pieces` as `name` unless it exists; return whether this call made it.

        Atomic among any number of callers: exactly one gets True. Durable when it returns,
        unless told otherwise.
        """


class List(Protocol):
    """Find objects."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name starts with the folder `prefix` (``"a/b/"``), by name."""


class Delete(Protocol):
    """Remove objects."""

    def delete(self, names: Iterable[str], *, durable: bool = True) -> int:
        """Remove `names`, in order; a missing one is no error.

        Returns how many were there; far away, where that would cost requests, how many names
        were given.
        """


class Now(Protocol):
    """Tell the time of `ObjectInfo.modified`."""

    def now(self) -> float:
        """Return what an object written now would have as its time: the server's clock.

        May write, and raise as writing does.
        """


class Upload(Protocol):
    """An object being written whose name is not known yet."""

    @property
    def temporary(self) -> str | None:
        """What to call the bytes so far, until it is finished; None where nobody else has them."""

    def keep(self) -> None:
        """Leave the bytes there when the block ends, finished or not; whoever asks removes them."""

    def write(self, data: Buffer, /) -> None:
        """Append `data`."""

    def finish(self, name: str) -> None:
        """Give what was written its name, as `Put.put` would: atomic and durable."""

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""


class Staged(Upload, Protocol):
    """An upload that can be made durable first and named later, or not at all."""

    def sync(self) -> None:
        """Make what was written durable, nameless as it is; `finish` then is quicker."""

    def finish_new(self, name: str) -> bool:
        """Give what was written its name unless that exists, as `Create.create` would."""


class Take(Protocol):
    """Make files of this machine objects without copying them."""

    def take(self, path: Path, name: str) -> bool:
        """Make the file at `path` the object `name` too, as `Put.put` would; False if it cannot.

        The file keeps its own name. Nobody may write to it any more; it may be replaced.
        """

    def workplace(self) -> Path:
        """Return a path for a folder of this machine from which files are taken at no cost.

        It does not exist yet; whoever makes it removes it.
        """


class Backend(Get, OpenPrivate, Room, Put, Create, List, Delete, Now, Take, Protocol):
    """Everything a store needs of its place."""

    url: str
    #: Whether opening an object costs microseconds rather than a request.
    near: bool

    def settle(self, name: str) -> None:
        """Make `name` durable, which somebody else may have written a moment ago."""

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` or `BackendError` now if a write would be refused."""

    def upload(self) -> contextlib.AbstractContextManager[Staged]:
        """Begin an object; what is not finished when the block ends leaves no trace."""
