"""Leaving the process as a computation found it, so that warm and cold runs agree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from castore import arrays
from castore.identity.models.snapshot import training_flags
from castore.identity.randomness import generators_kept

__all__ = ["undisturbed"]


@contextlib.contextmanager
def undisturbed(models: Iterable[Any], loader: Any) -> Iterator[None]:
    """Put back, on the way out, every generator's state and every module's training flag.

    Covers Python's, numpy's and torch's global generators (of every initialised CUDA device
    too) and the generators that `loader` and its sampler own.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(generators_kept())
        for generator in _owned_generators(loader):
            stack.callback(generator.set_state, generator.get_state())
        for model in models:
            stack.callback(_set_training, training_flags(model))
        yield


def _owned_generators(loader: Any) -> Iterator[Any]:
    """Yield the torch generators that a loader and its samplers own, each once."""
    torch = arrays.torch()
    if torch is None:
        return
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), getattr(batches, "sampler", None))
    generators = {id(g): g for o in owners if (g := getattr(o, "generator", None)) is not None}
    for generator in generators.values():
        if isinstance(generator, torch.Generator):
            yield generator


def _set_training(flags: Sequence[tuple[Any, bool]]) -> None:
    for module, training in flags:
        module.training = training
