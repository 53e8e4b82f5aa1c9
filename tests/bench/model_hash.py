"""The digest of a model, against reading its parameters from memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import xxhash
from harness import Case, Options, interleave
from results import Group, Section, against

import castore

__all__ = ["NAME", "measure"]

NAME = "models"
_GOALS = {"memory read (numpy sum)": 0.6}
#: Width, layers, and rounds, of transformer encoders of 10 and 99 million parameters.
_SIZES = ((256, 13, 40), (768, 14, 15))


def measure(options: Options) -> Section:
    """Time `castore.hash_model`."""
    groups = [
        _group(_encoder(width, layers), options.rounds_of(usual, 5))
        for width, layers, usual in _SIZES[: 1 if options.quick else None]
    ]
    title = "The digest of a model"
    note = "One thread each. The peers read the parameters only, not the structure."
    return Section(NAME, title, "speed ÷ peer's", "higher", groups, note)


def _encoder(width: int, layers: int) -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
    return torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


def _group(model: torch.nn.Module, rounds: int) -> Group:
    arrays = [parameter.detach().numpy() for parameter in model.parameters()]
    target = np.empty(max(array.size for array in arrays), np.float32)
    cases = [
        Case("castore", partial(castore.hash_model, model)),
        Case("memory read (numpy sum)", partial(_sum, arrays)),
        Case("memory copy (np.copyto)", partial(_copy, arrays, target)),
        Case("xxh3-128 of the raw bytes", partial(_digest, arrays)),
    ]
    samples = interleave(cases, rounds)
    count, nbytes = sum(a.size for a in arrays), sum(a.nbytes for a in arrays)
    title = (
        f"{count / 1e6:,.0f} million parameters in {len(arrays)} tensors, {nbytes / 1e6:,.0f} MB"
    )
    return against(title, samples, _GOALS, better="higher")


def _sum(arrays: list[Any]) -> None:
    for array in arrays:
        array.reshape(-1).view(np.uint64).sum()


def _copy(arrays: list[Any], target: Any) -> None:
    for array in arrays:
        np.copyto(target[: array.size], array.reshape(-1))


def _digest(arrays: list[Any]) -> str:
    state = xxhash.xxh3_128()
    for array in arrays:
        state.update(array)
    return state.hexdigest()
