"""Which rule holds for a dataset."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json
from castore.errors import CastoreError, ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.datasets import combined, huggingface, memory, vision, vouched
from castore.identity.datasets.samples import (
    Indices,
    Rule,
    Samples,
    Terms,
    identifying,
    is_exactly,
    length_of,
    levels_up,
    refusal,
)
from castore.identity.libraries import is_library, top
from castore.identity.protocols import add_whole

__all__ = ["as_value", "samples_of"]

_DATA = "torch.utils.data"
_NO_RULE = "castore has no rule for its type"


def samples_of(
    dataset: Any,
    indices: Indices,
    terms: Terms | None = None,
    dataset_id: str | None = None,
    names: Any = None,
) -> Samples:
    """Identify the samples `indices` of `dataset`.

    Parameters
    ----------
    dataset : Any
        The dataset.
    indices : ndarray
        int64 (n,); negative ones are counted from the end.
    terms : Terms, optional
        How samples are to be identified.
    dataset_id : str, optional
        What the caller vouches the dataset to be; then nothing of its items is read.
    names : sequence of str or int, or ndarray uint8 (n, 16), optional
        With `dataset_id`: the name of each of the samples asked for, in order.

    Raises
    ------
    FingerprintError
        If there is no rule for it.
    RandomError
        If a transform of it is known to be random.
    ConfigError
        If a part of the items is to be ignored that they do not have.
    """
    terms = terms or Terms()
    with _refusing(dataset):
        if dataset_id is None:
            samples = _identified(dataset, indices, terms)
        else:
            if names is None:  # names stand for items, whatever the indices below are
                dataset, indices = combined.flatten(dataset, indices)
            samples = vouched.vouched(dataset, indices, terms, dataset_id, names)
    if missing := terms.ignored - samples.parts:
        known = ", ".join(sorted(samples.parts)) or "nothing"
        msg = f"ignore={min(missing)!r}: of these samples {known} can be ignored"
        raise ConfigError(msg)
    return samples


@add_whole
def as_value(dataset: Any) -> Json:
    """Return the document of a dataset that a function or an object holds, None if it is none."""
    level = levels_up(dataset)
    if level is not None:  # it holds itself, or what holds it
        return {"dataset": {"same": level}}
    kind = getattr(sys.modules.get(_DATA), "Dataset", None)
    known = kind is not None and issubclass(type(dataset), kind)
    if not known and not huggingface.rule_for(dataset):
        return None
    if not is_exactly(dataset, _DATA, "Subset") and _rule(dataset) is None:
        if is_library(top(type(dataset).__module__)):
            raise refusal(dataset, _NO_RULE)
        return None  # the user's own: its code and attributes say more than a refusal
    indices = np.arange(length_of(dataset), dtype=np.int64)
    samples = samples_of(dataset, indices, Terms(freeze=True))
    return {"dataset": [len(indices), rows.digest_rows(samples.row_ids)]}


def _identified(dataset: Any, indices: Indices, terms: Terms) -> Samples:
    flat, indices = combined.flatten(dataset, indices)
    with _refusing(flat), identifying(flat):
        rule = _rule(flat)
        if rule is None:
            raise FingerprintError(_NO_RULE)
        return rule(flat, indices, terms)


@contextlib.contextmanager
def _refusing(dataset: Any) -> Iterator[None]:
    """Turn what goes wrong with a dataset, whatever it raises, into its refusal."""
    try:
        yield
    except FingerprintError as error:
        if "\n" in str(error):  # a part's own refusal, with its lines to paste
            raise
        raise refusal(dataset, str(error), type(error)) from error
    except (CastoreError, MemoryError):
        raise
    except RecursionError as error:
        raise refusal(dataset, "it is nested too deep, or contains itself") from error
    except Exception as error:
        why = f"reading it raised {type(error).__name__}: {error}"
        raise refusal(dataset, why) from error


def _rule(dataset: Any) -> Rule | None:
    if isinstance(dataset, np.ndarray) or arrays.is_tensor(dataset):
        return memory.array
    if type(dataset) in (list, tuple):
        return memory.sequence
    if vouched.names_itself(dataset):
        return vouched.self_named
    if is_exactly(dataset, _DATA, "TensorDataset"):
        return memory.tensors
    if is_exactly(dataset, _DATA, "ConcatDataset"):
        return functools.partial(combined.concatenated, identify_part=_identified)
    if is_exactly(dataset, _DATA, "StackDataset"):
        return functools.partial(combined.stacked, identify_part=_identified)
    return vision.rule_for(dataset) or huggingface.rule_for(dataset)
