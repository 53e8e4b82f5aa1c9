"""What a dataset's samples are: a source and an item each.

*Source*: what turns an item into the sample: dataset class, decoder, transforms. *Item*: what
the sample is made of: a file's relative path, content and target; a row's dtype, shape and
bytes; or what the caller vouches for.

A rule holds for its exact type, and for a subclass only if ``__getitem__``, ``__getitems__``
and ``__len__`` are the type's own. Everything else is refused, with what to write instead.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castore import arrays
from castore.canonical import Json, dumps, identify
from castore.digest import hasher
from castore.errors import FingerprintError, RandomError
from castore.identity import rows
from castore.identity.rows import RowIds
from castore.identity.transforms import describe
from castore.identity.values import encode, type_name

__all__ = ["Samples", "flatten", "refusal", "samples_of"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """The identity of some samples of a dataset.

    Attributes
    ----------
    source : dict
        What turns an item into a sample.
    row_ids : ndarray
        uint8 (n, 16).
    not_keyed : dict
        Attributes of the dataset that a vouched identity leaves out, with their types.
    by_index : bool
        Whether a vouched dataset's rows are named by their index.
    """

    source: Json
    row_ids: RowIds
    not_keyed: dict[str, str] = field(default_factory=dict)
    by_index: bool = False


def flatten(dataset: Any, indices: Indices) -> tuple[Any, Indices]:
    """Go through ``Subset`` to the dataset below; return it and the indices into it.

    Negative indices are counted from the end, as sequences do.

    Raises
    ------
    FingerprintError
        If an index is out of range or no integer.
    """
    indices = _within(indices, dataset)
    while _is_exactly(dataset, "torch.utils.data", "Subset"):
        indices = as_indices(dataset.indices, "Subset.indices")[indices]
        dataset = dataset.dataset
        indices = _within(indices, dataset)
    return dataset, indices


def as_indices(values: Any, what: str) -> Indices:
    """Return a list, range, array or tensor of integers as int64 (n,)."""
    try:
        array = arrays.as_array(values)
        if array is None:
            array = np.array(list(values))
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{what}: {error}; indices are one list of integers"
        raise FingerprintError(msg) from error
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.max() > np.iinfo(np.int64).max:
        msg = f"{what} are {array.dtype} {array.shape}: indices are one list of integers"
        raise FingerprintError(msg)
    return array.astype(np.int64)


def _within(indices: Indices, dataset: Any) -> Indices:
    length = length_of(dataset)
    if not indices.size:
        return indices
    least, most = int(indices.min()), int(indices.max())
    if least >= 0 and most < length:
        return indices
    if not (-length <= least and most < length):
        worst = most if most >= length else least
        msg = f"index {worst} is outside {_call(dataset)}, which has {length:,} samples"
        raise FingerprintError(msg)
    return np.where(indices < 0, indices + length, indices)


def length_of(dataset: Any) -> int:
    """Return ``len(dataset)``.

    Raises
    ------
    FingerprintError
        If it has none.
    """
    try:
        return len(dataset)
    except TypeError as error:
        msg = f"{_call(dataset)} has no length, so its rows cannot be named"
        raise FingerprintError(msg) from error


def samples_of(
    dataset: Any, indices: Indices, dataset_id: str | None = None, names: Any = None
) -> Samples:
    """Identify the samples `indices` of a flat `dataset`.

    Parameters
    ----------
    dataset : Any
        A dataset that `flatten` returned.
    indices : ndarray
        int64 (n,), within the dataset.
    dataset_id : str, optional
        What the caller vouches the dataset to be; then nothing of its items is read.
    names : sequence of str or int, or ndarray uint8 (n, 16), optional
        With `dataset_id`: the name of each of the samples asked for, in order.

    Raises
    ------
    FingerprintError
        If there is no rule for it.
    """
    rule = _rule(dataset)
    if dataset_id is not None:
        return _vouched(dataset, indices, dataset_id, names, rule)
    if rule is None:
        raise refusal(dataset, "castore has no rule for its type")
    try:
        source, kind, items = rule(dataset, indices)
        return Samples(source, rows.from_items(identify("source", source), kind, items))
    except FingerprintError as error:
        raise refusal(dataset, str(error), type(error)) from error


def refusal(
    dataset: Any, why: str, kind: type[FingerprintError] = FingerprintError
) -> FingerprintError:
    """Return the error that says what to write instead."""
    name = type(dataset).__name__.lower()
    return kind(
        f"cannot tell what {_call(dataset)} contains: {why}.\n"
        f'  by name:     get_or_compute(loader, fn, dataset_id="{name}@1", row_ids=[...])'
        "  # one name a sample\n"
        '  uncached:    castore.open(..., on_error="compute")'
    )


def _call(dataset: Any) -> str:
    kind = type(dataset)
    try:
        file = Path(inspect.getfile(kind)).name
        line = inspect.getsourcelines(kind)[1]
    except (TypeError, OSError):
        return kind.__qualname__
    return f"{kind.__qualname__} ({file}:{line})"


_Items = Iterator[tuple[Any, ...]]
_Rule = Callable[[Any, Indices], tuple[Json, str, _Items]]


def _rule(dataset: Any) -> _Rule | None:
    if isinstance(dataset, np.ndarray) or arrays.is_tensor(dataset):
        return _array
    if type(dataset) in (list, tuple):
        return _sequence
    if _is_exactly(dataset, "torch.utils.data", "TensorDataset"):
        return _tensors
    if _is_exactly(dataset, "torchvision.datasets", "ImageFolder"):
        return _image_folder
    return None


def _is_exactly(dataset: Any, module: str, name: str) -> bool:
    """Tell whether `dataset` is of that type, or of a subclass that reads samples the same way."""
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None or not isinstance(dataset, kind):
        return False
    methods = ("__getitem__", "__getitems__", "__len__")
    return all(getattr(type(dataset), m, None) is getattr(kind, m, None) for m in methods)


def _array(dataset: Any, indices: Indices) -> tuple[Json, str, _Items]:
    source = {"dataset": "tensor" if arrays.is_tensor(dataset) else "array"}
    return source, *_rows_of([dataset], indices)


def _tensors(dataset: Any, indices: Indices) -> tuple[Json, str, _Items]:
    return {"dataset": "torch.utils.data.TensorDataset"}, *_rows_of(dataset.tensors, indices)


def _rows_of(values: Sequence[Any], indices: Indices) -> tuple[str, _Items]:
    """Rows by dtype, shape and bytes; the first two are equal for all, so they go in the kind."""
    found: list[arrays.AnyArray] = []
    for value in values:
        try:
            array = arrays.as_array(value)
        except TypeError as error:
            raise FingerprintError(str(error)) from error
        if array is None or array.ndim == 0:
            msg = "an array of samples needs a first axis"
            raise FingerprintError(msg)
        found.append(array)
    header = [[arrays.name_of(array.dtype), list(array.shape[1:])] for array in found]
    views = [(memoryview(arrays.raw(a)), a.nbytes // max(1, len(a))) for a in found]

    def items() -> _Items:
        for index in indices.tolist():
            yield tuple(view[index * step : (index + 1) * step] for view, step in views)

    return f"rows{dumps(header).decode()}", items()


def _sequence(dataset: Sequence[Any], indices: Indices) -> tuple[Json, str, _Items]:
    items = ((dumps(encode(dataset[i], f"item {i}")),) for i in indices.tolist())
    return {"dataset": type(dataset).__name__}, "value", items


_FOLDER_OWN = frozenset(
    [
        "root",
        "loader",
        "extensions",
        "classes",
        "class_to_idx",
        "samples",
        "imgs",
        "targets",
        "transform",
        "target_transform",
        "transforms",
    ]
)


def _image_folder(dataset: Any, indices: Indices) -> tuple[Json, str, _Items]:
    attributes = {
        name: encode(value, f"attribute {name!r}")
        for name, value in vars(dataset).items()
        if name not in _FOLDER_OWN
    }
    source = {
        "attributes": attributes,
        "dataset": "torchvision.datasets.ImageFolder",
        "decoder": _decoder(dataset.loader),
        "transforms": describe(dataset.transforms, "its transform"),
    }

    def items() -> _Items:
        for index in indices.tolist():
            path, target = dataset.samples[index]
            yield (
                _content(path),
                int(target).to_bytes(8, "little", signed=True),
                _relative(path, dataset),
            )

    return source, "file", items()


def _decoder(loader: Any) -> Json:
    """Describe the function that reads a file, and the library it reads with."""
    pillow = sys.modules.get("PIL")
    return [describe(loader, "its loader"), getattr(pillow, "__version__", None)]


def _content(path: str) -> bytes:
    state = hasher()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror})"
        raise FingerprintError(msg) from error
    return state.digest()


def _relative(path: str, dataset: Any) -> bytes:
    try:
        relative = PurePath(path).relative_to(dataset.root)
    except ValueError:
        msg = f"{path} is not below the dataset's root {dataset.root}"
        raise FingerprintError(msg) from None
    return os.fsencode(relative.as_posix())


def _vouched(
    dataset: Any, indices: Indices, dataset_id: str, names: Any, rule: _Rule | None
) -> Samples:
    """Names from the caller; of the dataset itself only what turns items into samples."""
    keyed: dict[str, Json] = {}
    not_keyed: dict[str, str] = {}
    for name, value in getattr(dataset, "__dict__", {}).items():
        if not callable(value):
            continue
        try:
            keyed[name] = describe(value, name)
        except RandomError:
            raise
        except FingerprintError:
            not_keyed[f"dataset.{name}"] = type_name(type(value))
    source = {"callables": keyed, "dataset_id": dataset_id}
    digest = identify("source", source)
    if names is None and rule is _image_folder:
        names = [os.fsdecode(_relative(dataset.samples[i][0], dataset)) for i in indices.tolist()]
    if names is None:
        return Samples(source, rows.from_integers(digest, indices), not_keyed, by_index=True)
    return Samples(source, named_rows(digest, names), not_keyed)


def named_rows(source: str, names: Any) -> RowIds:
    """Return the row ids of names the caller vouches for.

    Parameters
    ----------
    source : str
        Digest of the source.
    names : sequence of str or int, or ndarray uint8 (n, 16)
        The names, all of one kind.

    Raises
    ------
    FingerprintError
        If they are neither.
    """
    if isinstance(names, np.ndarray):
        if names.dtype == np.uint8 and names.shape[1:] == (16,):
            return rows.from_items(source, "digest", ((row.tobytes(),) for row in names))
        if names.ndim == 1 and names.dtype.kind in "iu" and names.dtype != np.uint64:
            return rows.from_integers(source, names.astype(np.int64))
        names = names.tolist()
    if all(isinstance(name, str) for name in names):
        return rows.from_names(source, names)
    if all(_is_integer(name) and -(2**63) <= name < 2**63 for name in names):
        return rows.from_integers(source, np.array(names, np.int64))
    kinds = ", ".join(sorted({type(name).__name__ for name in names}))
    msg = f"row_ids are of type {kinds}: give one string or integer a sample"
    raise FingerprintError(msg)


def _is_integer(name: Any) -> bool:
    return isinstance(name, (int, np.integer)) and not isinstance(name, bool)
