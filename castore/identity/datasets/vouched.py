"""Datasets whose items somebody names: the caller by ``dataset_id=``, or the type itself.

Naming covers the items only. What turns them into samples is still keyed: under ``dataset_id=``
the callables and modules among the dataset's attributes, of a type that names its own rows its
code and attributes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from castore.canonical import Json, identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets import huggingface, vision
from castore.identity.datasets.acting import Search, has_rows
from castore.identity.datasets.samples import (
    Indices,
    Samples,
    Terms,
    identifying,
    is_path,
    length_of,
)
from castore.identity.describe import describe, document_of, refuse_random
from castore.identity.findings import Captures
from castore.identity.members import attributes
from castore.identity.protocols import UNSAID, said_by
from castore.identity.rows import RowIds
from castore.identity.values import encode, type_name

__all__ = ["named_rows", "names_itself", "self_named", "vouched"]


def vouched(
    dataset: Any, indices: Indices, terms: Terms, dataset_id: str, names: Any = None
) -> Samples:
    """Identify samples of a dataset that the caller says is `dataset_id`.

    Parameters
    ----------
    dataset, indices, terms
        As for every rule; nothing of the items is read.
    dataset_id : str
        What the dataset is.
    names : sequence of str or int, or ndarray uint8 (n, 16), optional
        The name of each of the samples asked for, in order. By default the relative path in
        datasets of files, or what ``__castore_row_ids__`` says, or else the index.
    """
    found, formats = _describe_code(dataset)
    if not terms.freeze:
        refuse_random(found)
    source = {"dataset_id": dataset_id, **formats, **document_of(found)}
    digest = identify("source", source)
    if names is None and _names_rows(dataset):
        names = _own_names(dataset, indices)
    if names is None:
        names = vision.paths_of(dataset, indices)
    by_index = names is None
    row_ids = rows.from_integers(digest, indices) if by_index else named_rows(digest, names)
    return _samples(source, row_ids, found, by_index=by_index)


def names_itself(dataset: Any) -> bool:
    """Tell whether the type of `dataset` says what identifies it or its rows."""
    return _names_rows(dataset) or said_by(dataset, "the dataset") is not UNSAID


def self_named(dataset: Any, indices: Indices, terms: Terms) -> Samples:
    """Identify samples of a dataset whose type says what they are.

    ``__castore_row_ids__(indices)`` returns a name for each of the samples asked for: strings,
    integers, or digests uint8 (n, 16). ``__castore_fingerprint__()`` says what the dataset is;
    without it, the class's code and every attribute count that is no list of one value a sample
    and no path. With it alone, rows go by their index.
    """
    said = said_by(dataset, "the dataset")
    kind = type(dataset)
    left: dict[str, str] = {}
    if said is UNSAID:
        parts, left = _attributes(dataset)
        found = describe(parts, kind=kind)
        source = {"dataset": kind.__qualname__, **document_of(found)}
    else:
        found, formats = _describe_code(dataset)
        fingerprint = encode(said, f"{kind.__qualname__}.__castore_fingerprint__()")
        source = {
            "dataset": kind.__qualname__,
            "fingerprint": fingerprint,
            **formats,
            **document_of(found),
        }
    if not terms.freeze:
        refuse_random(found)
    digest = identify("source", source)
    if not _names_rows(dataset):
        return _samples(source, rows.from_integers(digest, indices), found, left=left)
    row_ids = named_rows(digest, _own_names(dataset, indices))
    if _distinct(row_ids) != len(np.unique(indices)):
        what = f"{kind.__qualname__}.__castore_row_ids__()"
        msg = f"{what} must give one name to one sample: two have the same, or one has two"
        raise FingerprintError(msg)
    return _samples(source, row_ids, found, left=left)


def named_rows(source: str, names: Any) -> RowIds:
    """Return the row ids of names somebody vouches for.

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
            return rows.from_parts(source, "digest", names)
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


def _names_rows(dataset: Any) -> bool:
    return hasattr(type(dataset), "__castore_row_ids__")


def _own_names(dataset: Any, indices: Indices) -> Any:
    what = f"{type(dataset).__qualname__}.__castore_row_ids__()"
    try:
        names = dataset.__castore_row_ids__(indices.tolist())
        if not isinstance(names, (np.ndarray, str, bytes)):
            names = list(names)
    except Exception as error:
        msg = f"{what} raised {type(error).__name__}: {error}"
        raise FingerprintError(msg) from error
    if isinstance(names, (str, bytes)) or len(names) != len(indices):
        count = "one text" if isinstance(names, (str, bytes)) else f"{len(names):,} names"
        msg = f"{what} returned {count} for {len(indices):,} samples"
        raise FingerprintError(msg)
    return names


def _distinct(row_ids: RowIds) -> int:
    return len(set(map(bytes, row_ids)))


def _samples(
    source: Any,
    row_ids: RowIds,
    found: Captures,
    *,
    by_index: bool = False,
    left: Mapping[str, str] = MappingProxyType({}),
) -> Samples:
    not_keyed = {f"dataset.{path}": kind for path, kind in found.not_keyed.items()}
    probes = (0,) if len(row_ids) else ()
    left = {f"dataset.{path}": kind for path, kind in left.items()}
    return Samples([source], row_ids, not_keyed, probes, found.random, by_index=by_index, left=left)


def _describe_code(dataset: Any) -> tuple[Captures, dict[str, Json]]:
    """Describe what acts among what a dataset holds, and in which formats, whatever its items."""
    search = Search(dataset)
    code = dict(search.within(dataset))
    formats = [shown for held in search.datasets if (shown := huggingface.format_of(held))]
    with identifying(*search.datasets):
        return describe(code), {"formats": formats} if formats else {}


def _attributes(dataset: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the attributes that tell samples apart, and those left to the names of rows."""
    length = length_of(dataset)
    read: dict[str, Any] = {}
    left: dict[str, str] = {}
    search = Search(dataset)
    for name, value in attributes(dataset).items():
        if callable(value) or not (is_path(value) or has_rows(value, length)):
            read[name] = value
            continue
        left[name] = type_name(type(value))
        if search.reaches(value):
            read.update(search.within(value, name))
    return read, left
