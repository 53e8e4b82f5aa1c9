"""An entry being written: arrays become columns, columns become payloads."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from castore import arrays, digest
from castore.arrays import AnyArray
from castore.backend import mapping
from castore.backend.base import Upload
from castore.blobs import parts, shard
from castore.blobs.blob import Bytes, Payload, Streamed
from castore.blobs.codec import NONE
from castore.blobs.parts import Checks
from castore.blobs.shard import rows_per_group
from castore.canonical import Json
from castore.errors import BackendError, StoreError
from castore.table.column import CHECKS, GROUP_METADATA, ROWS, Column
from castore.table.encoding import Encoded, encode, encode_into

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Draft", "RowStream", "SpillingUpload"]


@dataclass
class Draft:
    """The Zarr hierarchy of an entry before it has names in a store.

    Attributes
    ----------
    algorithm : str
        Digest for blobs.
    metadata : dict
        Every ``zarr.json`` by Zarr key.
    payloads : dict
        Every other Zarr key.
    absent : tuple of str
        Chunks that are left out on purpose (`castore.table.keymap`).
    """

    algorithm: str
    metadata: dict[str, Json] = field(default_factory=lambda: {"zarr.json": GROUP_METADATA})
    payloads: dict[str, Payload] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    _unchecked: list[tuple[Column, NDArray[np.uint8]]] = field(default_factory=list)

    def add(self, name: str, array: AnyArray, codec: str = NONE) -> None:
        """Add `array` as column `name`; its row checks wait until `complete`, unless encoded.

        Raises
        ------
        ResultError
            If its rows are too long for the codec.
        """
        column = Column.of(name, array).with_codec(codec)
        if column.coded:
            self._add_encoded(column, encode(arrays.raw(array), column.coded, self.algorithm))
            return
        self._add(column, array)
        if column.shard:
            self._unchecked.append((column, arrays.raw(array)))

    def complete(self) -> None:
        """Compute the row checks that are missing: the manifest needs them, the blobs do not."""
        while self._unchecked:
            column, data = self._unchecked.pop()
            self._add_checks(column.name, shard.checks(data, column.row_nbytes))

    def add_stream(
        self,
        name: str,
        stream: RowStream,
        codec: str = NONE,
        begin: Callable[[], Upload] | None = None,
    ) -> None:
        """Add the rows of a finished `stream` as column `name`.

        Parameters
        ----------
        name : str
            The column.
        stream : RowStream
            Its rows.
        codec : str
            What encodes them.
        begin : callable, optional
            Begins an upload that they are encoded into, a few at a time; by default they are
            encoded in memory.

        Raises
        ------
        ResultError
            If its rows are too long for the codec.
        StoreError
            If they cannot be encoded.
        """
        column = stream.column(name).with_codec(codec)
        coded = column.coded
        if coded:
            data = arrays.raw(stream.array())
            self._add_encoded(
                column,
                encode_into(begin(), data, stream.checks, coded, self.algorithm)
                if begin
                else encode(data, coded, self.algorithm),
            )
            return
        self.metadata[column.metadata_key] = column.metadata()
        if column.chunk_key is not None and stream.payload is not None:
            self.payloads[column.chunk_key] = stream.payload
        if column.shard:
            self._add_checks(name, stream.checks)

    def add_rows(self, row_ids: NDArray[np.uint8]) -> None:
        """Add the row ids, uint8 (n, 16)."""
        self._add(Column.of(ROWS, row_ids), row_ids)

    def _add(self, column: Column, array: AnyArray) -> None:
        self.metadata[column.metadata_key] = column.metadata()
        if column.chunk_key is not None:
            pieces = (arrays.raw(array), column.tail())
            self.payloads[column.chunk_key] = Bytes(pieces, self.algorithm)

    def _add_encoded(self, column: Column, encoded: Encoded) -> None:
        assert column.chunk_key is not None
        self.metadata[column.metadata_key] = column.metadata()
        self.payloads[column.chunk_key] = encoded.payload
        self._add_checks(column.name, encoded.checks)

    def _add_checks(self, name: str, checks: NDArray[np.uint64]) -> None:
        self.metadata[f"{CHECKS}/zarr.json"] = GROUP_METADATA
        self._add(Column.of(f"{CHECKS}/{name}", checks), checks)


class RowStream:
    """One column whose rows arrive in batches, written as they come.

    Parameters
    ----------
    first : ndarray
        The first batch; later ones have its dtype and row shape.
    upload : Upload
        Where the bytes go.
    algorithm : str
        Digest for the blob.
    """

    def __init__(self, first: AnyArray, upload: Upload, algorithm: str) -> None:
        self.rows = 0
        self.checks: NDArray[np.uint64] = np.empty(0, "<u8")
        self.payload: Payload | None = None
        self._like = Column.of("", first)
        self._upload = upload
        self._whole = True
        self._digest = digest.hasher(algorithm)
        self._parts = Checks(parts.PART_NBYTES)
        row_nbytes = max(1, self._like.row_nbytes)
        self._checks = Checks(rows_per_group(row_nbytes) * row_nbytes)

    def fits(self, batch: AnyArray) -> bool:
        """Tell whether `batch` continues the column."""
        other = Column.of("", batch)
        return (other.dtype, other.shape[1:]) == (self._like.dtype, self._like.shape[1:])

    def append(self, batch: AnyArray) -> None:
        """Write the rows of `batch`."""
        data = arrays.raw(batch)
        self._upload.write(data)
        self._whole = False
        self._digest.update(data)
        self._parts.update(data)
        self._checks.update(data)
        self.rows += len(batch)
        self._whole = True

    @property
    def temporary(self) -> str | None:
        """Where another process finds the rows so far, None if nowhere."""
        return self._upload.temporary

    def keep(self) -> None:
        """Leave the rows there when this process goes on without them."""
        self._upload.keep()

    def parts_so_far(self) -> NDArray[np.uint64] | None:
        """Return the checks of the parts (`castore.blobs.parts`) of the rows so far.

        None after an `append` that was interrupted: nobody knows what they are of.
        """
        return self._parts.so_far() if self._whole else None

    def finish(self) -> None:
        """Write what follows the rows; the stream takes no more."""
        column = self.column("")
        self._upload.write(column.tail())
        self._digest.update(column.tail())
        self._parts.update(column.tail())
        self.checks = self._checks.finish()
        checks = parts.spelled(self._parts.finish())
        found = self._digest.hexdigest()
        self.payload = Streamed(self._upload, found, column.chunk_nbytes, checks)

    def column(self, name: str) -> Column:
        """Describe the rows so far as column `name`."""
        return Column(name, self._like.dtype, (self.rows, *self._like.shape[1:]))

    def array(self) -> AnyArray:
        """Return the rows so far, private and writable, without reading them into memory."""
        column = self.column("")
        return column.view(self._upload.contents(column.nbytes))


class SpillingUpload:
    """An upload whose bytes survive trouble of the store, in a nameless temporary file.

    Parameters
    ----------
    begin : callable
        Begins the upload, or gives None where nothing is to be stored.
    """

    def __init__(self, begin: Callable[[], Upload | None]) -> None:
        self._upload: Upload | None = None
        self._failure = StoreError("what was computed was not written to the store")
        self._written = 0
        self._spill: IO[bytes] | None = None
        try:
            self._upload = begin()
        except StoreError as error:
            self._failure = error

    @property
    def temporary(self) -> str | None:
        """What to call the bytes so far; None where there is no upload, or there was one."""
        return self._upload.temporary if self._upload is not None else None

    def keep(self) -> None:
        """Leave the bytes there when the upload ends."""
        if self._upload is not None:
            self._upload.keep()

    def write(self, data: Buffer, /) -> None:
        """Append `data`; when the store fails, go on in the temporary folder.

        Raises
        ------
        BackendError
            If that fails too.
        """
        view = memoryview(data).cast("B")
        if self._upload is not None:
            try:
                self._upload.write(view)
            except StoreError as error:
                self._failure = error
                written = self._upload.contents(self._written)
                self._upload = None
                self._append(memoryview(written))
        if self._upload is None:
            self._append(view)
        self._written += len(view)

    def finish(self, name: str) -> None:
        """Finish the upload itself; what was spilled can get no name."""
        if self._upload is None:
            raise self._failure
        self._upload.finish(name)

    def contents(self, length: int) -> NDArray[np.uint8]:
        """Return the first `length` bytes written, as a private writable array."""
        if self._upload is not None:
            return self._upload.contents(length)
        return mapping.private(self._file().fileno(), length)

    def _file(self) -> IO[bytes]:
        if self._spill is None:
            import tempfile

            self._spill = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed below
            weakref.finalize(self, self._spill.close)
        return self._spill

    def _append(self, view: memoryview) -> None:
        try:
            while view:
                view = view[self._file().write(view) :]
        except OSError as error:
            import tempfile

            msg = (
                f"neither the store nor {tempfile.gettempdir()} takes what is yielded "
                f"({self._failure}; {error.strerror}): free some space"
            )
            raise BackendError(msg) from error
