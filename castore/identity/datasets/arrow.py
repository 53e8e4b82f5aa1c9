"""Rows of Arrow arrays as bytes that say what the values are, not how they are stored.

Chunks, slices, 32- or 64-bit offsets, and what lies below a null make no difference. An array of n
values becomes one row of equally many bytes a value, and streams: bytes that end, for each value,
somewhere else::

    type                  fixed bytes of a value        streams
    number, date, ...     its bytes, little-endian      none
    text, bytes           length                        the bytes
    struct                of each field: is it there?   of each field
                          its fixed bytes
    list                  length, number of nulls       places of the nulls; fixed bytes of the
                                                        items; of the items
    null                  zeros                         nothing

Lengths precede what they are of, so values of one type have equal bytes only if they are equal.

Source: https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castore.canonical import Json
from castore.errors import FingerprintError

__all__ = ["ITEM", "Bytes", "Swap", "Values", "batches", "document", "offsets_of", "read"]

Bytes: TypeAlias = NDArray[np.uint8]
Offsets: TypeAlias = NDArray[np.int64]

#: What takes the place of an array before it is read: a function of the array without its nulls,
#: or what is to be done to the fields of a struct, or to the items of a list under `ITEM`.
Swap: TypeAlias = "Callable[[Any], Any] | Mapping[str, Swap] | None"
ITEM = ""

#: About as many bytes are in memory at a time.
_BATCH = 2**24


class _Stream(NamedTuple):
    data: Bytes
    ends: Offsets  # (n + 1,): where the bytes of each value begin, and the last one's end


class Values(NamedTuple):
    """Values of one type.

    Attributes
    ----------
    there : ndarray
        bool (n,), False for nulls.
    fixed : ndarray
        uint8 (n, k).
    streams : list
        The bytes of different numbers.
    """

    there: NDArray[np.bool_]
    fixed: Bytes
    streams: list[_Stream]

    def pieces(self) -> Iterator[tuple[memoryview, ...]]:
        """Yield the bytes of each value, in pieces."""
        width, fixed = self.fixed.shape[1], memoryview(self.fixed.reshape(-1))
        streams = [(memoryview(s.data), s.ends.tolist()) for s in self.streams if s.data.size]
        for i in range(len(self.fixed)):
            parts = [data[ends[i] : ends[i + 1]] for data, ends in streams]
            yield (fixed[i * width : (i + 1) * width], *parts)


def document(kind: Any) -> Json:
    """Return what a type of Arrow says of its values; nothing of how wide their offsets are.

    Raises
    ------
    FingerprintError
        If castore cannot read values of it.
    """
    types: Any = sys.modules["pyarrow"].types
    if hasattr(kind, "storage_type"):
        shape = getattr(kind, "shape", None)
        name = [kind.extension_name, None if shape is None else list(shape)]
        return {"extension": name, "storage": document(kind.storage_type)}
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {"struct": [[field.name, document(field.type)] for field in fields]}
    if types.is_list(kind) or types.is_large_list(kind):
        return {"list": document(kind.value_type)}
    if types.is_fixed_size_list(kind):
        return {"list": document(kind.value_type), "length": kind.list_size}
    if _is_text(kind) or _is_bytes(kind):
        return "string" if _is_text(kind) else "binary"
    plain = (types.is_null, types.is_primitive, types.is_decimal, types.is_fixed_size_binary)
    if any(holds(kind) for holds in plain):
        return str(kind)
    msg = f"castore has no rule for Arrow's {kind}"
    raise FingerprintError(msg)


def batches(table: Any, positions: Offsets) -> Iterator[tuple[Offsets, Any]]:
    """Read rows of a table, a few MiB at a time and in the order in which they lie.

    Parameters
    ----------
    table : pyarrow.Table
        The table.
    positions : ndarray
        int64 (n,), in any order.

    Yields
    ------
    ndarray, pyarrow.RecordBatch
        Indices into `positions`, and the rows there.

    Raises
    ------
    FingerprintError
        If the table has too few rows, or no columns.
    """
    if not table.num_columns or positions.max(initial=-1) >= table.num_rows:
        msg = f"it holds {table.num_rows:,} rows of {table.num_columns} columns"
        raise FingerprintError(msg)
    take: Any = sys.modules["pyarrow"].array
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    begin = 0
    for batch in table.to_batches():
        first, last = np.searchsorted(ordered, [begin, begin + batch.num_rows]).tolist()
        step = max(1, _BATCH * batch.num_rows // max(1, batch.nbytes)) if last > first else 1
        for start in range(first, last, step):
            chosen = slice(start, min(start + step, last))
            local = ordered[chosen] - begin
            if (np.diff(local) == 1).all():
                yield order[chosen], batch.slice(local[0], len(local))
            else:
                yield order[chosen], batch.take(take(local))
        begin += batch.num_rows


def read(batch: Any, swap: Swap = None) -> Values:
    """Read the rows of a record batch.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        The rows.
    swap : mapping, optional
        What takes the place of columns, or of what they hold.
    """
    return _dense(batch.to_struct_array(), swap)


def _values(array: Any, swap: Swap) -> Values:
    array = getattr(array, "storage", array)  # of an extension type
    if not array.null_count:
        return _dense(array, swap)
    there = ~_numpy(array.is_null())
    dense = _dense(array.drop_null(), swap)
    fixed = np.zeros((len(there), dense.fixed.shape[1]), np.uint8)
    fixed[there] = dense.fixed
    # The bytes of a null are none: it ends where the value before it does.
    before = np.concatenate([[0], np.cumsum(there)])
    return Values(there, fixed, [_Stream(s.data, s.ends[before]) for s in dense.streams])


def _dense(array: Any, swap: Swap) -> Values:
    """Read an array without nulls."""
    if callable(swap):
        array, swap = swap(array), None
    types: Any = sys.modules["pyarrow"].types
    kind = array.type
    if types.is_struct(kind):
        fixed, streams = _struct(array, swap or {})
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        fixed, streams = _list(array, (swap or {}).get(ITEM))
    elif _is_text(kind) or _is_bytes(kind):
        data, ends = offsets_of(array)
        fixed, streams = _as_bytes(np.diff(ends)), [_Stream(data, ends)]
    elif types.is_null(kind):
        fixed, streams = np.zeros((len(array), 0), np.uint8), []
    else:
        fixed, streams = _numbers(array), []
    return Values(np.ones(len(array), np.bool_), fixed, streams)


def _struct(array: Any, swap: Mapping[str, Swap]) -> tuple[Bytes, list[_Stream]]:
    fields = [array.type.field(i).name for i in range(array.type.num_fields)]
    found = [_values(array.field(i), swap.get(name)) for i, name in enumerate(fields)]
    parts = [part for values in found for part in (_as_bytes(values.there), values.fixed)]
    fixed = np.concatenate(parts, axis=1) if parts else np.zeros((len(array), 0), np.uint8)
    return fixed, [stream for values in found for stream in values.streams]


def _list(array: Any, swap: Swap) -> tuple[Bytes, list[_Stream]]:
    if hasattr(array.type, "list_size"):
        ends = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
    else:
        ends = _numpy(array.offsets).astype(np.int64)
        ends -= ends[0]
    items = _values(array.flatten(), swap)
    nulls = np.flatnonzero(~items.there)
    owner = np.searchsorted(ends, nulls, side="right") - 1
    counts = np.bincount(owner, minlength=len(array))
    places = _Stream(
        _as_bytes(nulls - ends[owner]).reshape(-1), 8 * np.concatenate([[0], np.cumsum(counts)])
    )
    width = items.fixed.shape[1]
    streams = [places, _Stream(items.fixed.reshape(-1), ends * width)]
    streams += [_Stream(stream.data, stream.ends[ends]) for stream in items.streams]
    return np.concatenate([_as_bytes(np.diff(ends)), _as_bytes(counts)], axis=1), streams


def offsets_of(array: Any) -> tuple[Bytes, Offsets]:
    """Return the bytes of text or bytes one after another, and where each begins.

    Parameters
    ----------
    array : pyarrow.Array
        Of n values, none of them null.

    Returns
    -------
    ndarray, ndarray
        uint8 (m,), in the array's own memory where its offsets are wide; int64 (n + 1,), the
        last of which is m.
    """
    if not len(array):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    pa: Any = sys.modules["pyarrow"]
    if _is_text(array.type):
        array = array.cast(pa.large_string())
    array = array.cast(pa.large_binary())
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset :][: len(array) + 1]
    if data is None:
        return np.zeros(0, np.uint8), ends
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def _numbers(array: Any) -> Bytes:
    """Return values that are equally many bytes each, uint8 (n, k)."""
    pa: Any = sys.modules["pyarrow"]
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    width = array.type.bit_width // 8
    if not len(array):
        return np.zeros((0, width), np.uint8)
    kind = f"u{width}" if width in _WORDS else f"V{width}"
    values = np.frombuffer(array.buffers()[1], kind)[array.offset :][: len(array)]
    return _as_bytes(values)


def _as_bytes(values: NDArray[Any]) -> Bytes:
    """View numbers of shape (n,) as little-endian bytes, (n, k)."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(values), values.itemsize)


def _numpy(array: Any) -> NDArray[Any]:
    found: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found


def _is_text(kind: Any) -> bool:
    types: Any = sys.modules["pyarrow"].types
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_bytes(kind: Any) -> bool:
    types: Any = sys.modules["pyarrow"].types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


_WORDS = (1, 2, 4, 8)
