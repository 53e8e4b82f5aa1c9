"""What a function returned, in columns: whole, or streamed to the store as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from castore import arrays
from castore.arrays import AnyArray
from castore.backend.base import Upload
from castore.blobs.codec import NONE
from castore.canonical import Json
from castore.errors import ResultError
from castore.identity.rows import RowIds
from castore.table.draft import Draft, RowStream, SpillingUpload
from castore.table.tree import Parts, Unstorable, assemble, take_apart

__all__ = ["LEAVES", "Codecs", "Result", "Seals", "Sink", "collect", "is_only_arrays"]


#: The codec of all columns, or codecs by column; those not named have none.
Codecs: TypeAlias = str | Mapping[str, str]


def _numpy_leaf(array: AnyArray) -> AnyArray:
    return array if array.flags.writeable else array.copy()


#: What turns a numpy array into what the caller asked for, by ``returns=``.
LEAVES: dict[str, Callable[[AnyArray], Any]] = {
    "numpy": _numpy_leaf,
    "torch": lambda array: arrays.to_torch(_numpy_leaf(array)),
}


class Seals(Protocol):
    """Who is told how far a stream is (`castore.table.sealing`)."""

    def saw(self, form: Json, streams: Mapping[str, RowStream], rows: int) -> None:
        """Take note that the first `rows` rows are whole in every stream."""

    def close(self) -> None:
        """Take note that no more rows come."""

    def discard(self) -> None:
        """Take note that the rows so far are worth nothing."""


@dataclass(frozen=True)
class Sink:
    """Where streamed rows go.

    Attributes
    ----------
    open : callable
        Begins an upload, or gives None where nothing is to be stored.
    algorithm : str
        Digest for blobs.
    on_rows : callable
        Told how many rows came, batch by batch.
    seals : Seals, optional
        Sees to it that rows outlive the process.
    """

    open: Callable[[], Upload | None]
    algorithm: str = "xxh3-128"
    on_rows: Callable[[int], None] = lambda _: None
    seals: Seals | None = None


@dataclass
class Result:
    """What a function returned.

    Attributes
    ----------
    form : Json
        How it is put together.
    columns : dict[str, ndarray]
        Its arrays, where it came whole.
    streams : dict[str, RowStream]
        Its columns, where it came in batches.
    """

    form: Json
    columns: dict[str, AnyArray]
    streams: dict[str, RowStream] = field(default_factory=dict)

    def value(self, returns: str) -> Any:
        """Put it together again, as a hit would."""
        return assemble(self.form, self.arrays(), LEAVES[returns])

    def arrays(self) -> dict[str, AnyArray]:
        """Return its arrays by column; those that came in batches mapped."""
        streamed = {name: stream.array() for name, stream in self.streams.items()}
        return {**self.columns, **streamed}

    def extents(self) -> dict[str, int | None]:
        """Return the length of each column's first axis; None where it has no axis."""
        whole = {name: len(a) if a.ndim else None for name, a in self.columns.items()}
        return {**whole, **{name: stream.rows for name, stream in self.streams.items()}}

    def is_aligned(self, rows: int | None) -> bool:
        """Tell whether it is made of arrays with one row a sample and nothing else.

        A number beside them may be of the whole: a mean, a count.
        """
        if rows is None or not is_only_arrays(self.form, ("array", "numbers")):
            return False
        return all(extent == rows for extent in self.extents().values())

    def draft(
        self,
        algorithm: str,
        row_ids: RowIds | None,
        codec: Codecs = NONE,
        begin: Callable[[], Upload] | None = None,
    ) -> Draft:
        """Return the entry to be: the columns, and the row ids where rows are aligned.

        Parameters
        ----------
        algorithm : str
            Digest for blobs.
        row_ids : ndarray or None
            uint8 (n, 16), of the samples.
        codec : str or mapping
            What encodes all columns, or those named.
        begin : callable, optional
            Begins an upload for a column that is encoded after it came in batches; by default
            it is encoded in memory.

        Raises
        ------
        ResultError
            If there is no such column, or its rows are too long for the codec.
        StoreError
            If what came in batches cannot be encoded.
        """
        codecs = self._codecs(codec)
        draft = Draft(algorithm)
        for name, array in self.columns.items():
            draft.add(name, array, codecs[name])
        for name, stream in self.streams.items():
            draft.add_stream(name, stream, codecs[name], begin)
        if row_ids is not None and self.is_aligned(len(row_ids)):
            draft.add_rows(row_ids)
        return draft

    def _codecs(self, codec: Codecs) -> dict[str, str]:
        """Return the codec of each column."""
        names = [*self.columns, *self.streams]
        if isinstance(codec, str):
            return dict.fromkeys(names, codec)
        if unknown := sorted(set(codec) - set(names)):
            msg = f"codec= names {unknown}, and the columns of the result are {names}"
            raise ResultError(msg)
        return {name: codec.get(name, NONE) for name in names}


def collect(returned: Any, rows: int | None, name: str, sink: Sink) -> Result:
    """Take what a function `name` returned into columns; read a generator to its end.

    Raises
    ------
    ResultError
        If castore has no form for it.
    """
    if returned is None:
        msg = f"{name} returned None: return the arrays that are to be kept"
        raise ResultError(msg)
    if isinstance(returned, Iterator):
        return _Stream(rows, name, sink).read(returned)
    try:
        parts = take_apart(returned, rows)
    except Unstorable as error:
        msg = f"{name} cannot be kept: {error}"
        raise ResultError(msg, returned) from error
    return Result(parts.form, parts.columns)


class _Stream:
    """Batches from a generator, on their way into columns."""

    def __init__(self, rows: int | None, name: str, sink: Sink) -> None:
        self._rows = rows
        self._name = name
        self._sink = sink
        self._form: Json = None
        self._streams: dict[str, RowStream] = {}

    def read(self, batches: Iterator[Any]) -> Result:
        seals = self._sink.seals
        try:
            self._read(batches)
        except BaseException as error:
            if seals is not None:
                seals.discard() if isinstance(error, ResultError) else seals.close()
            raise
        return Result(self._form, {}, self._streams)

    def _read(self, batches: Iterator[Any]) -> None:
        count = 0
        for number, batch in enumerate(batches):
            count += self._take(batch, number)
            if self._sink.seals is not None:
                self._sink.seals.saw(self._form, self._streams, count)
            self._sink.on_rows(count)
        if self._form is None:
            msg = f"{self._name} yielded nothing: yield arrays of rows"
            raise ResultError(msg, partial=True)
        for stream in self._streams.values():
            stream.finish()
        if self._rows is not None and count != self._rows:
            raise self._refuse(f"it yielded {count:,} rows for {self._rows:,} samples")

    def _take(self, batch: Any, number: int) -> int:
        """Append one batch; return its number of rows."""
        try:
            parts = take_apart(batch)
        except Unstorable as error:
            raise self._refuse(f"batch {number}: {error}") from error
        lengths = {len(array) if array.ndim else None for array in parts.columns.values()}
        if len(lengths) != 1 or None in lengths or not is_only_arrays(parts.form):
            raise self._refuse(f"batch {number} is no arrays of rows, equally many in each")
        if self._form is None:
            self._begin(parts)
        if parts.form != self._form or not all(
            self._streams[name].fits(array) for name, array in parts.columns.items()
        ):
            raise self._refuse(f"batch {number} has another form, dtype or row shape than batch 0")
        for name, array in parts.columns.items():
            self._streams[name].append(array)
        return int(next(iter(lengths)) or 0)

    def _begin(self, parts: Parts) -> None:
        self._form = parts.form
        for name, array in parts.columns.items():
            upload = SpillingUpload(self._sink.open)
            self._streams[name] = RowStream(array, upload, self._sink.algorithm)

    def _refuse(self, why: str) -> ResultError:
        """Return an error that has the rows so far."""
        so_far = Result(self._form, {}, self._streams).value("numpy") if self._form else None
        return ResultError(f"{self._name} cannot be kept: {why}", so_far, partial=True)


def is_only_arrays(form: Json, leaves: tuple[str, ...] = ("array",)) -> bool:
    """Tell whether every leaf of `form` is an array, or another of `leaves`."""
    if any(leaf in form for leaf in leaves):
        return True
    if "dict" in form:
        return all(is_only_arrays(item, leaves) for _, item in form["dict"])
    items = form.get("tuple", form.get("list", form.get("named", {}).get("items")))
    return bool(items) and all(is_only_arrays(item, leaves) for item in items)
