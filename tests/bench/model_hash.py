"""The digest of a model, against reading its parameters from memory."""

from __future__ import annotations

import os
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
#: Width, layers, and rounds, of transformer encoders of 10 million to a billion parameters.
_SIZES = ((256, 13, 40), (768, 14, 15), (2048, 20, 5))
_BYTES_OF_PARAMETER = 4
_SPARE = 2 << 30  # memory to leave to everybody else


def measure(options: Options) -> Section:
    """Time `castore.hash_model`."""
    groups = [
        _group(_encoder(width, layers), options.rounds_of(usual, 5))
        for width, layers, usual in _SIZES[: 1 if options.quick else None]
        if _fits(width, layers)
    ]
    title = "The digest of a model"
    note = "The peers read the parameters only, in one thread; castore reads the structure too."
    return Section(NAME, title, "speed ÷ peer's", "higher", groups, note)


def _fits(width: int, layers: int) -> bool:
    """Tell whether there is memory for such an encoder."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 12 * width**2 * layers * _BYTES_OF_PARAMETER + _SPARE < free


def _encoder(width: int, layers: int) -> torch.nn.Module:
    with torch.device("meta"):  # random weights would take longer to draw than to hash
        layer = torch.nn.TransformerEncoderLayer(width, width // 64, 4 * width, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)  # touched: memory nobody wrote to is one page of zeros
    return model


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
