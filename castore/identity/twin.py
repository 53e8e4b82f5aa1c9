"""Loaders over fixed rows, in the user's loader's place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from castore import arrays
from castore.identity.datasets.samples import Indices

__all__ = ["Reading", "pick", "twin"]


class Reading:
    """A sampler over fixed indices, or batches of them, that knows what was drawn from it.

    Attributes
    ----------
    drawn : int
        Rows drawn so far.
    passes : int
        How often drawing was begun.
    on_draw : callable, optional
        Told `drawn` as it grows.
    """

    def __init__(self, items: list[Any]) -> None:
        self.drawn = 0
        self.passes = 0
        self.on_draw: Callable[[int], None] | None = None
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        """Yield the indices, or the batches."""
        self.passes += 1
        for item in self._items:
            self.drawn += len(item) if isinstance(item, list) else 1
            if self.on_draw is not None:
                self.on_draw(self.drawn)
            yield item

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._items)


def twin(
    loader: Any,
    batch_size: int | None,
    indices: Indices,
    sizes: Sequence[int] | None = None,
    dataset: Any = None,
) -> tuple[Any, Reading]:
    """Return a plain DataLoader over fixed rows, and what tells how it is read.

    It has the collate, workers and pinning of `loader`, and a generator of its own. Workers
    that would get fewer than two batches each are not started.

    Parameters
    ----------
    loader : DataLoader
        The user's.
    batch_size : int or None
        Of the twin; None gives sample by sample.
    indices : ndarray
        int64 (n,), into the dataset, in order.
    sizes : sequence of int, optional
        Lengths of the batches, in the place of `batch_size`.
    dataset : Dataset, optional
        What `indices` are of, where it is not the loader's.
    """
    torch: Any = arrays.torch()
    if sizes is None:
        reading = Reading(indices.tolist())
        options: dict[str, Any] = {"batch_size": batch_size, "sampler": reading}
        count = -(-len(indices) // (batch_size or 1))
    else:
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        cut = [indices[end - size : end].tolist() for end, size in zip(ends, sizes, strict=True)]
        reading = Reading(cut)
        options = {"batch_sampler": reading}
        count = len(sizes)
    if loader.num_workers and count >= 2 * loader.num_workers:
        options["num_workers"] = loader.num_workers
        options["prefetch_factor"] = loader.prefetch_factor
        options["multiprocessing_context"] = loader.multiprocessing_context
        options["timeout"] = loader.timeout
        options["worker_init_fn"] = loader.worker_init_fn
    made = sys.modules["torch.utils.data"].DataLoader(
        loader.dataset if dataset is None else dataset,
        **options,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
    )
    return made, reading


def pick(samples: Any, indices: Indices) -> Any:
    """Return the items `indices` of an array, tensor, list or tuple, as one of the same type."""
    if isinstance(samples, (list, tuple)):
        return type(samples)(samples[index] for index in indices.tolist())
    return samples[indices]
