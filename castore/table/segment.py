"""What is sealed of a stream that is being written: how far its rows may be relied on.

::

    segments/<table id>/<nonce>.json   how many rows lie in which temporary files, their checks
    segments/<table id>/<nonce>.rows   the row ids that the whole stream was to have
    tmp/…                              the rows, a file a column

`castore.table.sealing` writes these while rows come, `castore.table.adoption` takes the rows over
when the writer is gone. Nothing is synced: a segment is for killed processes. After a power cut
checks fail, and only the rows before the first that fails are of any use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.backend.base import Upload
from castore.blobs import layout, parts
from castore.blobs.parts import Checks
from castore.canonical import Json, identify, seal, unseal
from castore.digest import check64
from castore.errors import DamagedError
from castore.once.owner import Owner
from castore.table.column import Column
from castore.table.draft import RowStream
from castore.table.tree import columns_of

__all__ = ["Segment", "Written"]

_FORMAT = 1


@dataclass(frozen=True)
class Written:
    """The sealed rows of one column.

    Attributes
    ----------
    column : Column
        Their name, dtype and shape.
    file : str
        The temporary file that begins with them.
    checks : ndarray
        uint64, xxh3-64 of every 4 MiB of them, the last part as short as it is.
    """

    column: Column
    file: str
    checks: NDArray[np.uint64]

    def intact(self, data: NDArray[np.uint8]) -> int:
        """Return how many rows, from the first on, `data` holds as they were sealed."""
        row_nbytes, view, end = self.column.row_nbytes, memoryview(data), 0
        if not row_nbytes:
            return self.column.shape[0]
        for check in self.checks.tolist():
            part = view[end : min(end + parts.PART_NBYTES, self.column.nbytes)]
            if check64(part) != check:
                break
            end += len(part)
        return end // row_nbytes

    def copy(self, data: NDArray[np.uint8], rows: int, upload: Upload, algorithm: str) -> RowStream:
        """Write the first `rows` rows of `data`, which are intact, to `upload`.

        Raises
        ------
        DamagedError
            If what was copied is not what was sealed.
        """
        dtype, shape = arrays.dtype_named(self.column.dtype), self.column.shape[1:]
        row_nbytes = self.column.row_nbytes
        stream = RowStream(np.empty((0, *shape), dtype), upload, algorithm)
        copied = Checks(parts.PART_NBYTES)
        step = max(1, parts.PART_NBYTES // max(1, row_nbytes))
        for start in range(0, rows, step):
            count = min(step, rows - start)
            piece = data[start * row_nbytes : (start + count) * row_nbytes].copy()
            copied.update(piece)
            stream.append(piece.view(dtype).reshape(count, *shape))
        used = rows * row_nbytes
        copied.update(data[used : min(_parts(used) * parts.PART_NBYTES, self.column.nbytes)])
        found = copied.finish()
        if not np.array_equal(found, self.checks[: len(found)]):
            msg = f"{self.file} changed while it was copied"
            raise DamagedError(msg)
        return stream


@dataclass(frozen=True)
class Segment:
    """What is sealed of a stream, as its document says it.

    Attributes
    ----------
    table, key : str
        Of the entry that the stream was to become.
    nonce : str
        Another one for each stream.
    owner : Owner
        The process that writes it.
    closed : bool
        Whether that process gave up, and will add nothing.
    rows : int
        Rows sealed.
    form : Json
        How a result is put together from the columns.
    columns : tuple of Written
        Where the rows are.
    compute_ns : int
        How long the function had run, in nanoseconds.
    derivation : dict
        As `castore.table.manifest.Manifest` has it.
    """

    table: str
    key: str
    nonce: str
    owner: Owner
    closed: bool
    rows: int
    form: Json
    columns: tuple[Written, ...]
    compute_ns: int
    derivation: dict[str, Json]

    @property
    def names(self) -> tuple[str, str]:
        """Names of its document and of its row ids."""
        return (
            layout.segment(self.table, self.nonce),
            layout.segment_rows(self.table, self.nonce),
        )

    @property
    def files(self) -> list[str]:
        """The temporary files that hold the rows."""
        return [written.file for written in self.columns]

    def agrees(self) -> bool:
        """Tell whether the parts of it say the same."""
        entry = self.derivation["entry"]
        return (
            identify("key", entry) == self.key
            and entry["table"] == self.table
            and 0 < self.rows <= entry["rows"][0]
            and [written.column.name for written in self.columns] == list(columns_of(self.form))
        )

    def to_bytes(self) -> bytes:
        """Return the document."""
        return seal(
            {
                "closed": self.closed,
                "columns": [_column_document(written) for written in self.columns],
                "compute_ns": self.compute_ns,
                "derivation": self.derivation,
                "form": self.form,
                "format": _FORMAT,
                "key": self.key,
                "nonce": self.nonce,
                "owner": self.owner.document(),
                "rows": self.rows,
                "table": self.table,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, table: str, nonce: str) -> Segment:
        """Return the segment in `data`, read under the name of `table` and `nonce`.

        Raises
        ------
        DamagedError
            If it is not whole, not of this format, or not what its own name says.
        """
        name = layout.segment(table, nonce)
        document = unseal(data, name)
        try:
            segment = _segment(document)
            named = (document["format"], segment.table, segment.nonce)
            agrees = named == (_FORMAT, table, nonce) and segment.agrees()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            msg = f"{name}: the segment is not well formed ({error!r:.200})"
            raise DamagedError(msg) from error
        if not agrees:
            msg = f"{name}: the segment is of another format or stream"
            raise DamagedError(msg)
        return segment


def _segment(document: dict[str, Json]) -> Segment:
    owner, rows, compute_ns = Owner.of(document["owner"]), document["rows"], document["compute_ns"]
    if owner is None or type(compute_ns) is not int:
        msg = f"no owner or time: {document['owner']!r:.200}, {compute_ns!r:.80}"
        raise ValueError(msg)
    return Segment(
        table=document["table"],
        key=document["key"],
        nonce=document["nonce"],
        owner=owner,
        closed=document["closed"] is True,
        rows=rows,
        form=document["form"],
        columns=tuple(_written(column, rows) for column in document["columns"]),
        compute_ns=compute_ns,
        derivation=dict(document["derivation"]),
    )


def _column_document(written: Written) -> Json:
    return {
        "checks": written.checks.astype(">u8").tobytes().hex(),
        "dtype": written.column.dtype,
        "file": written.file,
        "name": written.column.name,
        "shape": list(written.column.shape[1:]),
    }


def _written(document: Json, rows: int) -> Written:
    """Return the sealed rows that `document` describes; columns like castore's own."""
    column = Column(document["name"], document["dtype"], (rows, *document["shape"]))
    column = Column.from_metadata(column.name, column.metadata())
    checks = np.frombuffer(bytes.fromhex(document["checks"]), ">u8").astype("<u8")
    if len(checks) != _parts(column.nbytes) or not layout.is_temporary(document["file"]):
        msg = f"no column: {document!r:.200}"
        raise ValueError(msg)
    return Written(column, document["file"], checks)


def _parts(nbytes: int) -> int:
    """Return how many parts so many bytes have."""
    return -(-nbytes // parts.PART_NBYTES)
