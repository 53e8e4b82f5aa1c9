"""HuggingFace's ``datasets.Dataset``, by content and format.

The item is the row as Arrow stores it, of the columns that a sample has. A picture, sound or film
is known by what its file contains, inside the table or beside it, and by its path only where a
sample shows that. The dataset's own fingerprint, its split, cache files and indices, and the names
of its classes do not count; a ``map`` or a ``filter`` counts by what came of it.

The source is what makes a sample of the row: columns and their types, how they are decoded, the
format, and the transform of ``set_transform``.

Source: https://github.com/huggingface/datasets/blob/main/src/datasets/arrow_dataset.py
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import numpy as np
import xxhash

from castore.canonical import Json, identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets import arrow
from castore.identity.datasets.arrow import ITEM, Swap
from castore.identity.datasets.samples import Indices, Rule, Samples, Terms, is_exactly
from castore.identity.describe import describe, document_of, refuse_random, refuse_unknown
from castore.identity.files import content_digests, stamps
from castore.identity.rows import RowIds
from castore.identity.values import encode, type_name

__all__ = ["rule_for"]

#: What the items are made of, what the source says in other words, and what no sample shows.
_ATTRIBUTES = frozenset(
    [
        "_data",
        "_fingerprint",
        "_format_columns",
        "_format_kwargs",
        "_format_type",
        "_indexes",
        "_indices",
        "_info",
        "_output_all_columns",
        "_split",
    ]
)
#: Features of which a sample is what Arrow's type says.
_PLAIN = frozenset(
    [
        "Array2D",
        "Array3D",
        "Array4D",
        "Array5D",
        "ClassLabel",
        "Translation",
        "TranslationVariableLanguages",
        "Value",
    ]
)
_FILES = frozenset(["Audio", "Image", "Video"])
#: Files whose path says what kind they are, or names the sample.
_NAMED_FILES = frozenset(["BioSequence", "BioStructure", "Mesh", "Nifti", "Pdf"])
_LISTS = frozenset(["LargeList", "List", "Sequence"])
#: Formats in which a sample shows Arrow's own types; the first decodes nothing.
_TABLES = ("arrow", "pandas", "polars")


def rule_for(dataset: Any) -> Rule | None:
    """Return the rule for a dataset of HuggingFace, None if it is none."""
    # By the module within: a package of the user's own may be called datasets.
    known = is_exactly(dataset, "datasets.arrow_dataset", "Dataset", ("_getitem",))
    return _samples if known else None


def _samples(dataset: Any, indices: Indices, terms: Terms) -> Samples:
    kwargs = {k: v for k, v in dataset._format_kwargs.items() if k != "device"}
    others = {k: v for k, v in vars(dataset).items() if k not in _ATTRIBUTES}
    found = describe({**others, **{f"format.{name}": value for name, value in kwargs.items()}})
    refuse_unknown(found)
    if not terms.freeze:
        refuse_random(found)
    table = dataset.data.table.select(_columns(dataset))
    raw = dataset._format_type == _TABLES[0]
    features = {name: dataset.features[name] for name in table.column_names}
    decoders = {name: _decoder(feature, name, raw) for name, feature in features.items()}
    ...


def _columns(dataset: Any) -> list[str]:
    """Return the columns that a sample has, as they lie in the table."""
    names: list[str] = dataset.data.table.column_names
    if dataset._format_columns is None or dataset._output_all_columns:
        return names
    return [name for name in names if name in dataset._format_columns]
