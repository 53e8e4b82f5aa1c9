"""Leaving the process as a computation found it, so that warm and cold runs agree."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from castore import arrays
from castore.identity.model import training_flags

__all__ = ["undisturbed"]


@contextlib.contextmanager
def undisturbed(models: Sequence[Any], loader: Any) -> Iterator[None]:
    """Put back, on the way out, every generator's state and every module's training flag.

    Covers Python's, numpy's and torch's global generators (of every initialised CUDA device
    too) and the generators that `loader` and its sampler own.
    """
    with contextlib.ExitStack() as stack:
        _keep_python(stack)
        _keep_numpy(stack)
        _keep_torch(stack, loader)
        for model in models:
            stack.callback(_set_training, training_flags(model))
        yield


def _keep_python(stack: contextlib.ExitStack) -> None:
    module = sys.modules.get("random")
    if module is not None:
        stack.callback(module.setstate, module.getstate())


def _keep_numpy(stack: contextlib.ExitStack) -> None:
    module = sys.modules.get("numpy.random")
    if module is not None:
        stack.callback(module.set_state, module.get_state())


def _keep_torch(stack: contextlib.ExitStack, loader: Any) -> None:
    torch = arrays.torch()
    if torch is None:
        return
    stack.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():
        stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), getattr(batches, "sampler", None))
    generators = {id(g): g for o in owners if (g := getattr(o, "generator", None)) is not None}
    for generator in generators.values():
        if isinstance(generator, torch.Generator):
            stack.callback(generator.set_state, generator.get_state())


def _set_training(flags: Sequence[tuple[Any, bool]]) -> None:
    for module, training in flags:
        module.training = training
