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
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from castore.canonical import Json, identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets import arrow
from castore.identity.datasets.held_files import HeldFiles
from castore.identity.datasets.samples import Indices, Rule, Samples, Terms, is_exactly
from castore.identity.describe import describe, document_of, refuse_random, refuse_unknown
from castore.identity.libraries import top
from castore.identity.rows import RowIds
from castore.identity.values import encode, type_name

__all__ = ["format_of", "rule_for"]


def rule_for(dataset: Any) -> Rule | None:
    """Return the rule for a dataset of HuggingFace, None if it is none."""
    # By the module within: a package of the user's own may be called datasets.
    known = is_exactly(dataset, "datasets.arrow_dataset", "Dataset")
    return _samples if known else None


def format_of(dataset: Any) -> Json:
    """Return which columns a sample of a dataset of HuggingFace has, and as what; else None."""
    if rule_for(dataset) is None:
        return None
    style = dataset.format
    return [style["type"], list(style["columns"]), style["output_all_columns"]]


def _samples(dataset: Any, indices: Indices, terms: Terms) -> Samples:
    style = dataset.format
    found = describe(_described(dataset, style["format_kwargs"]))
    refuse_unknown(found)
    if not terms.freeze:
        refuse_random(found)
    table, rest = _shown(dataset.data.table, style)
    features = {name: dataset.features[name] for name in table.column_names}
    special = list(_special(features, (), decode=style["type"] != "arrow"))
    source = {
        "columns": [[field.name, arrow.document(field.type)] for field in table.schema],
        "dataset": "datasets.Dataset",
        "format": {"rest": rest, "type": style["type"]},
        "features": [[list(s.path), s.kind, s.options] for s in special],
        **document_of(found, ("PIL",) if any(s.decodes("Image") for s in special) else ()),
    }
    if style["type"] in _TABLES:
        source["format"]["types"] = [str(kind) for kind in table.schema.types]
    row_ids = _row_ids(source, table, _places(dataset, indices), special, terms)
    probes = (0,) if style["type"] == "custom" and len(indices) else ()
    parts = frozenset(["path"] if any(s.shows_path for s in special) else [])
    return Samples([source], row_ids, probes=probes, frozen=found.random, parts=parts)


#: What the rule reads itself, and what no sample depends on.
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
#: Formats of which a sample shows Arrow's own types.
_TABLES = ("arrow", "pandas", "polars")


def _described(dataset: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the format, such as a transform, and attributes without a rule."""
    parts = {f"format.{name}": value for name, value in arguments.items() if name != "device"}
    return {**parts, **{n: value for n, value in vars(dataset).items() if n not in _ATTRIBUTES}}


def _shown(table: Any, style: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the columns that a sample has, and which of them are not formatted."""
    formatted = [name for name in table.column_names if name in style["columns"]]
    if not style["output_all_columns"]:
        return table.select(formatted), []
    return table, [name for name in table.column_names if name not in formatted]


def _places(dataset: Any, indices: Indices) -> Indices:
    """Return where in the table the rows lie."""
    mapping = dataset._indices  # noqa: SLF001  it has no public name
    if mapping is None:
        return indices
    places: Indices = mapping.column(0).to_numpy()[indices].astype(np.int64)
    return places


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
_LISTS = frozenset(["LargeList", "List", "Sequence"])
_FILES = frozenset(["Audio", "Image", "Video"])
#: Files whose path says how they are decoded, or names the sample.
_NAMED_FILES = frozenset(["BioSequence", "BioStructure", "Mesh", "Nifti", "Pdf"])


class _Special(NamedTuple):
    """A feature that holds files or is decoded."""

    path: tuple[str, ...]
    kind: str
    options: dict[str, Json]  # empty if it is not decoded

    def decodes(self, kind: str) -> bool:
        return self.kind == kind and bool(self.options)

    @property
    def is_file(self) -> bool:
        return self.kind != "Json"

    @property
    def shows_path(self) -> bool:
        return self.is_file and (not self.options or self.kind in _NAMED_FILES)


def _special(feature: Any, path: tuple[str, ...], *, decode: bool) -> Iterator[_Special]:
    """Yield what is special in a feature: a struct, a list, or what either is made of."""
    kind = type(feature).__name__
    if isinstance(feature, dict):
        for name, below in feature.items():
            yield from _special(below, (*path, name), decode=decode)
    elif isinstance(feature, (list, tuple)):
        yield from _special(feature[0], (*path, arrow.ITEM), decode=decode)
    elif top(type(feature).__module__) != "datasets":
        raise _unknown(feature, path)
    elif kind in _LISTS:
        yield from _special(feature.feature, (*path, arrow.ITEM), decode=decode)
    elif kind in _FILES or kind in _NAMED_FILES or kind == "Json":
        yield _Special(path, kind, _options(feature, path) if decode and feature.decode else {})
    elif kind not in _PLAIN:
        raise _unknown(feature, path)


def _options(feature: Any, path: tuple[str, ...]) -> dict[str, Json]:
    names = [field.name for field in dataclasses.fields(feature)]
    column = f"the feature of column {path[0]!r}"
    return {n: encode(getattr(feature, n), column) for n in names if n not in ("id", "_type")}


def _unknown(feature: Any, path: tuple[str, ...]) -> FingerprintError:
    kind = type_name(type(feature))
    return FingerprintError(
        f"column {path[0]!r} holds a feature {kind}, which castore does not know"
    )


def _row_ids(
    source: Json, table: Any, places: Indices, special: list[_Special], terms: Terms
) -> RowIds:
    files = HeldFiles(terms)
    held = [s for s in special if s.is_file]
    if held:
        collect = _swap([(s.path, files.collect) for s in held])
        for _, batch in arrow.batches(table.select(sorted({s.path[0] for s in held})), places):
            arrow.read(batch, collect)
        files.read()
    swap = _swap([(s.path, files.shown if s.shows_path else files.contents) for s in held])
    digest = identify("source", source)
    kind = "-".join(["arrow", *(f"without-{part}" for part in sorted(terms.ignored))])
    row_ids = np.empty((len(places), 16), np.uint8)
    for positions, batch in arrow.batches(table, places):
        row_ids[positions] = rows.from_items(digest, kind, arrow.read(batch, swap).pieces())
    return row_ids


def _swap(leaves: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Return what takes the place of the arrays at some paths, as `arrow.read` wants it."""
    found: dict[str, Any] = {}
    for path, function in leaves:
        below = found
        for name in path[:-1]:
            below = below.setdefault(name, {})
        below[path[-1]] = function
    return found
