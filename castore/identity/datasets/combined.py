"""Datasets made of datasets: the parts keep their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from castore import arrays
from castore.canonical import identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets.samples import (
    Indices,
    Samples,
    Terms,
    as_indices,
    is_exactly,
    length_of,
    name_of_dataset,
    within,
)
from castore.identity.values import encode

__all__ = ["concatenated", "flatten", "parts_of", "stacked"]

#: Identifies samples of a dataset, whatever it is: what a part is asked for again.
Identify: TypeAlias = Callable[[Any, Indices, Terms], Samples]

_DATA = "torch.utils.data"


def flatten(dataset: Any, indices: Indices) -> tuple[Any, Indices]:
    """Go through ``Subset`` to the dataset below; return it and the indices into it.

    Negative indices are counted from the end, as sequences do.

    Raises
    ------
    FingerprintError
        If an index is out of range or no integer, or a subset contains itself.
    """
    seen: set[int] = set()
    while is_exactly(dataset, _DATA, "Subset"):
        if id(dataset) in seen:
            msg = "a Subset contains itself"
            raise FingerprintError(msg)
        seen.add(id(dataset))
        indices = _picked(dataset.indices, within(indices, dataset))
        dataset = dataset.dataset
    if indices.size and indices.min() < 0 and not _counts_from_the_end(dataset):
        msg = f"index {indices.min()} of {name_of_dataset(dataset)} is no sample from its end"
        raise FingerprintError(msg)
    return dataset, within(indices, dataset)


def _picked(values: Any, positions: Indices) -> Indices:
    """Return the indices at `positions` of a subset's, read as the subset reads them."""
    if type(values) in (list, tuple, range, np.ndarray) or arrays.is_tensor(values):
        return as_indices(values, "Subset.indices")[positions]
    try:  # a dict or a pandas.Series looks up a key, not a place
        picked = [values[position] for position in positions.tolist()]
    except Exception as error:
        msg = f"Subset.indices cannot be read ({type(error).__name__}: {error})"
        raise FingerprintError(msg) from error
    return as_indices(picked, "Subset.indices")


def _counts_from_the_end(dataset: Any) -> bool:
    """Tell whether index -1 is the last sample: ``FakeData`` makes up another one."""
    if is_exactly(dataset, _DATA, "StackDataset"):
        return all(map(_counts_from_the_end, (parts_of(dataset) or {}).values()))
    return not is_exactly(dataset, "torchvision.datasets", "FakeData")


def parts_of(dataset: Any) -> dict[str, Any] | None:
    """Return the datasets that a concatenation, stack or subset is made of, by name."""
    if is_exactly(dataset, _DATA, "Subset"):
        return {"dataset": dataset.dataset}
    if is_exactly(dataset, _DATA, "ConcatDataset") or is_exactly(dataset, _DATA, "StackDataset"):
        parts = dataset.datasets
        named = parts.items() if isinstance(parts, Mapping) else enumerate(parts)
        return {f"datasets[{name!r}]": part for name, part in named}
    return None


def concatenated(dataset: Any, indices: Indices, terms: Terms, identify_part: Identify) -> Samples:
    """Identify samples of a ``ConcatDataset``: each has the row id that it has in its part."""
    parts = list(dataset.datasets)
    ends = np.cumsum([length_of(part) for part in parts])
    if list(ends) != list(dataset.cumulative_sizes):
        msg = (
            f"its parts have {list(ends)} samples together, and it says {dataset.cumulative_sizes}"
        )
        raise FingerprintError(msg)
    owner = np.searchsorted(ends, indices, side="right")
    row_ids = np.empty((len(indices), 16), np.uint8)
    found: list[Samples] = []
    probes: list[int] = []
    for number, part in enumerate(parts):
        positions = np.flatnonzero(owner == number)
        if positions.size:
            first = int(ends[number - 1]) if number else 0
            samples = identify_part(part, indices[positions] - first, terms)
            row_ids[positions] = samples.row_ids
            probes += [int(positions[probe]) for probe in samples.probes]
            found.append(samples)
    return _joined(found, row_ids, probes)


def stacked(dataset: Any, indices: Indices, terms: Terms, identify_part: Identify) -> Samples:
    """Identify samples of a ``StackDataset``: each is one of every part's."""
    found = [identify_part(part, indices, terms) for part in (parts_of(dataset) or {}).values()]
    named = isinstance(dataset.datasets, Mapping)
    names = encode(list(dataset.datasets), "StackDataset.datasets") if named else len(found)
    source = {"dataset": "torch.utils.data.StackDataset", "parts": names}
    pieces = np.concatenate([samples.row_ids for samples in found], axis=1)
    row_ids = rows.from_parts(identify("source", source), "stack", pieces)
    probes = sorted({probe for samples in found for probe in samples.probes})
    joined = _joined(found, row_ids, probes)
    return replace(joined, sources=[source, *joined.sources])


def _joined(found: list[Samples], row_ids: rows.RowIds, probes: list[int]) -> Samples:
    sources = []
    for samples in found:
        sources += [source for source in samples.sources if source not in sources]
    return Samples(
        sources,
        row_ids,
        {path: kind for samples in found for path, kind in samples.not_keyed.items()},
        tuple(probes),
        {path: kind for samples in found for path, kind in samples.frozen.items()},
        frozenset().union(*(samples.parts for samples in found)),
        left={path: kind for samples in found for path, kind in samples.left.items()},
    )
