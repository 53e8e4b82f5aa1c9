"""Samples in memory: arrays, tensors, sequences, and datasets of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from castore import arrays
from castore.canonical import Json, dumps, identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets.samples import Indices, Samples, Terms, source_of
from castore.identity.members import attributes
from castore.identity.rows import RowIds
from castore.identity.values import encode

__all__ = ["array", "row_ids_of", "sequence", "tensors"]


def array(dataset: Any, indices: Indices, _terms: Terms) -> Samples:
    """Identify rows of an array or a tensor."""
    source = {"dataset": "tensor" if arrays.is_tensor(dataset) else "array"}
    return _plain(source, row_ids_of(source, [dataset], indices))


def tensors(dataset: Any, indices: Indices, terms: Terms) -> Samples:
    """Identify samples of a ``TensorDataset``."""
    read = {name: value for name, value in attributes(dataset).items() if name != "tensors"}
    source, found = source_of("torch.utils.data.TensorDataset", read, terms)
    row_ids = row_ids_of(source, dataset.tensors, indices)
    return Samples([source], row_ids, found.not_keyed, frozen=found.random)


def sequence(dataset: Sequence[Any], indices: Indices, _terms: Terms) -> Samples:
    """Identify items of a list or a tuple."""
    source = {"dataset": type(dataset).__name__}
    items = ((dumps(encode(dataset[i], f"item {i}")),) for i in indices.tolist())
    return _plain(source, rows.from_items(identify("source", source), "value", items))


def row_ids_of(source: Json, values: Sequence[Any], indices: Indices, kind: str = "rows") -> RowIds:
    """Return row ids of samples that are a row of each of `values`.

    Parameters
    ----------
    source : Json
        What turns the rows into a sample.
    values : sequence of arrays or tensors
        Of equal length. dtype and shape are equal for all rows, so they go into the kind.
    indices : ndarray
        int64 (n,), within them.
    kind : str
        What the values are.

    Raises
    ------
    FingerprintError
        If one has no plain values, or too few rows.
    """
    found = [_checked(value, indices) for value in values]
    header = [[arrays.name_of(array.dtype), list(array.shape[1:])] for array in found]
    views = [(memoryview(arrays.raw(a)), a.nbytes // max(1, len(a))) for a in found]

    def items() -> Iterator[tuple[Any, ...]]:
        for index in indices.tolist():
            yield tuple(view[index * step : (index + 1) * step] for view, step in views)

    return rows.from_items(identify("source", source), f"{kind}{dumps(header).decode()}", items())


def _checked(value: Any, indices: Indices) -> arrays.AnyArray:
    try:
        array = arrays.as_array(value)
    except TypeError as error:
        raise FingerprintError(str(error)) from error
    if array is None or array.ndim == 0:
        msg = "an array of samples needs a first axis"
        raise FingerprintError(msg)
    if indices.size and indices.max() >= len(array):
        msg = f"it holds an array of {len(array):,} rows, and is asked for row {indices.max():,}"
        raise FingerprintError(msg)
    return array


def _plain(source: Json, row_ids: RowIds) -> Samples:
    return Samples([source], row_ids)
