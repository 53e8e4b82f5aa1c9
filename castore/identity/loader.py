"""Which rows a loader gives, in which order, without iterating it.

=============================================================  ==================================
the loader has                                                 rows and order
=============================================================  ==================================
SequentialSampler; a list, range, array or tensor of indices;  known: the loader's order
DistributedSampler
RandomSampler over everything without replacement;             rows known, order not promised:
SubsetRandomSampler                                            the function gets a sequential twin
``in_order=False``                                             a twin with ``in_order=True``
replacement, ``num_samples``, weights; another sampler         refused: which rows is not knowable
without ``__castore_indices__()``; an ``__iter__`` of its own
shuffle and ``drop_last`` with a remainder                     refused: the dropped rows are random
IterableDataset with ``dataset_id=``                           exact keys only
=============================================================  ==================================

A sampler is known by its exact type: a subclass may draw differently.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json
from castore.errors import FingerprintError, OrderError
from castore.identity import rows
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import Indices, Terms, as_indices, length_of
from castore.identity.describe import describe, document_of
from castore.identity.protocols import add_whole
from castore.identity.twin import Reading, pick, twin
from castore.identity.values import encode, type_name

__all__ = ["Plan", "indices", "plan"]


@dataclass(frozen=True)
class Plan:
    """What a loader gives.

    Attributes
    ----------
    dataset : Any
        The dataset it reads.
    indices : ndarray or None
        int64 (n,): indices into `dataset` in row order; None if they cannot be listed
        (IterableDataset).
    variant : dict
        What about the loader may change a result: batch size, custom collate.
    not_keyed : dict
        What a custom collate captures and castore has no rule for.
    random : dict
        Transforms known to be random that a custom collate uses.
    loader : Any
        What the function is given: the loader itself, or its twin.
    reading : Reading or None
        With a twin: tells how the function read it.
    batches : tuple of int or None
        Lengths of the batches, where the loader's batch sampler says which it gives.
    """

    dataset: Any
    indices: Indices | None
    variant: dict[str, Json]
    not_keyed: dict[str, str]
    random: dict[str, str]
    loader: Any
    reading: Reading | None = None
    batches: tuple[int, ...] | None = None

    def load(self, index: int) -> Any:
        """Load one sample, through the collate function where that is the user's own."""
        sample = self.dataset[index]
        return sample if self.variant["collate"] is None else self.loader.collate_fn([sample])

    @property
    def batch_size(self) -> int | None:
        """Samples in a batch, where that is one number."""
        size = self.variant["batch_size"]
        return size if isinstance(size, int) else None

    def over(self, positions: Indices, sizes: Sequence[int] | None = None) -> Plan:
        """Return the plan of a loader over some of the rows, with all else as it is.

        Parameters
        ----------
        positions : ndarray
            int64 (k,), into `indices`, in the order wanted.
        sizes : sequence of int, optional
            Lengths of the batches. By default the loader's batch size, or what is left of the
            batches its batch sampler gives. Of no account where it gives sample by sample.
        """
        assert self.indices is not None
        chosen = self.indices[positions]
        if self.is_whole:
            return replace(self, indices=chosen, loader=pick(self.dataset, chosen), reading=None)
        if sizes is None and self.batches is not None:
            batch_of = np.repeat(np.arange(len(self.batches)), self.batches)[positions]
            sizes = np.unique(batch_of, return_counts=True)[1].tolist()
        # A dataset of just these rows: many functions make room for len(loader.dataset).
        torch_data: Any = sys.modules["torch.utils.data"]
        rows = torch_data.Subset(self.dataset, chosen.tolist())
        places = np.arange(len(chosen))
        if sizes is None or self.variant["batch_size"] is None:
            made, reading = twin(self.loader, self.batch_size, places, None, rows)
            return replace(self, indices=chosen, loader=made, reading=reading)
        made, reading = twin(self.loader, None, places, sizes, rows)
        variant = {**self.variant, "batch_size": encode(np.array(sizes))}
        return replace(
            self, indices=chosen, variant=variant, loader=made, reading=reading,
            batches=tuple(sizes),
        )  # fmt: skip

    @property
    def is_whole(self) -> bool:
        """Whether the function is given all samples at once, as an array or a list."""
        return "whole" in self.variant


def plan(loader: Any) -> Plan:
    """Find out what `loader` gives.

    Parameters
    ----------
    loader : DataLoader, ndarray, tensor, list or tuple
        An array or a sequence is its own dataset: one sample an item, in order.

    Raises
    ------
    OrderError
        If its rows or their order cannot be known.
    """
    torch_data: Any = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(loader, torch_data.DataLoader):
        return _Loader(loader, torch_data).plan()
    if isinstance(loader, np.ndarray) or arrays.is_tensor(loader) or type(loader) in (list, tuple):
        indices = np.arange(length_of(loader), dtype=np.int64)
        variant = {"batch_size": None, "collate": None, "whole": True}
        return Plan(loader, indices, variant, {}, {}, loader)
    msg = (
        f"{type_name(type(loader))} is no loader castore knows: pass a torch DataLoader, or an "
        "array, tensor, list or tuple of samples"
    )
    raise OrderError(msg)


def indices(loader: Any) -> Indices:
    """Return the dataset indices in the order rows come back, int64 (n,).

    Labels, say, are then ``targets[castore.indices(loader)]``.

    Parameters
    ----------
    loader : DataLoader, ndarray, tensor, list or tuple
        As for `castore.Store.get_or_compute`; it is not iterated.

    Raises
    ------
    OrderError
        If they cannot be known.
    FingerprintError
        Of an IterableDataset, which has none.
    """
    found = plan(loader)
    if found.indices is None:
        msg = "an IterableDataset has no indices"
        raise FingerprintError(msg)
    return found.indices


@add_whole
def as_value(loader: Any) -> Json:
    """Return the document of a loader that a function or an object holds, None if it is none."""
    torch_data: Any = sys.modules.get("torch.utils.data")
    if torch_data is None or not isinstance(loader, torch_data.DataLoader):
        return None
    found = plan(loader)
    if found.indices is None:
        msg = "an IterableDataset cannot be asked for its rows"
        raise FingerprintError(msg)
    samples = samples_of(found.dataset, found.indices, Terms(freeze=True))
    ordered = found.reading is None
    listed = [len(found.indices), rows.digest_rows(samples.row_ids)]
    return {"loader": {"ordered": ordered, "rows": listed, "variant": found.variant}}


class _Loader:
    """One DataLoader, taken apart."""

    def __init__(self, loader: Any, torch_data: Any) -> None:
        self.loader = loader
        self.torch_data = torch_data
        self.batch_size = loader.batch_size
        self.drop_last = loader.drop_last
        self.batches: tuple[int, ...] | None = None
        self.not_keyed: dict[str, str] = {}
        self.random: dict[str, str] = {}

    def plan(self) -> Plan:
        own = [m for m in ("__iter__", "_get_iterator") if self._overrides(m)]
        if own:
            raise self._refuse(f"{type(self.loader).__name__} has its own {own[0]}")
        if isinstance(self.loader.dataset, self.torch_data.IterableDataset):
            return self._iterable()
        indices, ordered = self._indices()
        indices = self._drop(indices, ordered=ordered)
        variant = self._variant()
        if ordered and getattr(self.loader, "in_order", True):
            return self._planned(indices, variant, self.loader)
        made, reading = twin(self.loader, self.batch_size, indices, self.batches)
        return self._planned(indices, variant, made, reading)

    def _planned(
        self, indices: Indices | None, variant: dict[str, Json], loader: Any,
        reading: Reading | None = None,
    ) -> Plan:  # fmt: skip
        dataset = self.loader.dataset
        return Plan(
            dataset, indices, variant, self.not_keyed, self.random, loader, reading, self.batches
        )

    def _overrides(self, method: str) -> bool:
        base = self.torch_data.DataLoader
        return getattr(type(self.loader), method, None) is not getattr(base, method, None)

    def _iterable(self) -> Plan:
        variant = self._variant()
        variant["num_workers"] = self.loader.num_workers
        variant["worker_init_fn"] = self._function(self.loader.worker_init_fn, "worker_init_fn")
        variant["drop_last"] = self.drop_last
        return self._planned(None, variant, self.loader)

    def _indices(self) -> tuple[Indices, bool]:
        """Return the indices, and whether the loader gives them in that order."""
        batches = self.loader.batch_sampler
        if batches is None:
            return self._sampled(self.loader.sampler)
        if type(batches) is self.torch_data.BatchSampler:
            self.batch_size = batches.batch_size
            self.drop_last = batches.drop_last
            return self._sampled(batches.sampler)
        if hasattr(batches, "__castore_indices__"):
            return self._batched(batches), True
        raise self._refuse(f"its batch sampler is a {type_name(type(batches))}")

    def _batched(self, sampler: Any) -> Indices:
        """Return the indices of a batch sampler that says which batches it gives."""
        what = "the batches of __castore_indices__()"
        cut = [as_indices(batch, what) for batch in sampler.__castore_indices__()]
        self.drop_last = False
        self.batches = tuple(map(len, cut))
        return np.concatenate([np.empty(0, np.int64), *cut])

    def _sampled(self, sampler: Any) -> tuple[Indices, bool]:
        data = self.torch_data
        kind = type(sampler)
        if kind is data.SequentialSampler:
            return np.arange(len(sampler.data_source), dtype=np.int64), True
        if kind is data.RandomSampler:
            if sampler.replacement or sampler.num_samples != len(sampler.data_source):
                raise self._refuse("RandomSampler draws with replacement, or only some samples")
            return np.arange(len(sampler.data_source), dtype=np.int64), False
        if kind is data.SubsetRandomSampler:
            return as_indices(sampler.indices, "SubsetRandomSampler.indices"), False
        if kind is data.distributed.DistributedSampler:
            return np.fromiter(sampler, np.int64), True
        if kind in (list, tuple, range, np.ndarray) or arrays.is_tensor(sampler):
            return as_indices(sampler, "the sampler's indices"), True
        if hasattr(sampler, "__castore_indices__"):
            return as_indices(sampler.__castore_indices__(), "__castore_indices__()"), True
        raise self._refuse(f"its sampler is a {type_name(kind)}")

    def _drop(self, indices: Indices, *, ordered: bool) -> Indices:
        """Resolve ``drop_last`` into rows."""
        remainder = len(indices) % self.batch_size if self.drop_last and self.batch_size else 0
        if not remainder:
            return indices
        if not ordered:
            raise self._refuse(f"shuffle and drop_last leave out {remainder} random rows")
        return indices[:-remainder]

    def _variant(self) -> dict[str, Json]:
        utils = self.torch_data._utils.collate  # noqa: SLF001  torch exports no other name
        collate = self.loader.collate_fn
        plain = (utils.default_collate, utils.default_convert)
        custom = None if collate in plain else self._function(collate, "collate_fn")
        size: Json = self.batch_size
        if self.batches is not None:
            size = encode(np.array(self.batches))
        return {"batch_size": size, "collate": custom}

    def _function(self, fn: Any, what: str) -> Json:
        if fn is None:
            return None
        found = describe({what: fn})
        self.not_keyed.update(found.not_keyed)
        self.random.update(found.random)
        return document_of(found)

    def _refuse(self, why: str) -> OrderError:
        return OrderError(
            f"which rows the loader gives cannot be known: {why}.\n"
            "  in order:    DataLoader(dataset, batch_size=..., shuffle=False)\n"
            "  some rows:   DataLoader(Subset(dataset, indices), ...), or sampler=indices\n"
            "  your own:    def __castore_indices__(self): return [...]  # indices, or batches\n"
            '  uncached:    castore.open(..., on_error="compute")'
        )
