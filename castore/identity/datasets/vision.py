"""The datasets of torchvision that castore has read: what is an item, and what a source.

Every attribute that a rule does not name is part of the source: transforms, loader function,
whatever else was set on the object.

Source: https://github.com/pytorch/vision/tree/main/torchvision/datasets
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from castore import arrays
from castore.canonical import Json, dumps, identify
from castore.errors import FingerprintError
from castore.identity import rows
from castore.identity.datasets.memory import row_ids_of
from castore.identity.datasets.samples import (
    Indices,
    Rule,
    Samples,
    Terms,
    is_exactly,
    source_of,
)
from castore.identity.files.contents import content_digests, relative, stamps
from castore.identity.members import attributes
from castore.identity.rows import RowIds
from castore.identity.values import encode

__all__ = ["paths_of", "rule_for"]


@dataclass(frozen=True)
class Family:
    """Types that read samples the same way.

    Attributes
    ----------
    names : tuple of str
        Their names in ``torchvision.datasets``.
    attributes : frozenset of str
        What the items are made from, or what no sample depends on.
    row_ids : callable
        Makes the row ids from source, dataset, indices and terms.
    methods : tuple of str
        What reads a sample, beside ``__getitem__``: a subclass with its own is unknown.
    files : callable, optional
        Returns the path of the file that names each of the samples asked for.
    parts : frozenset of str
        Parts of an item that may be ignored.
    """

    names: tuple[str, ...]
    attributes: frozenset[str]
    row_ids: Callable[[Json, Any, Indices, Terms], RowIds]
    methods: tuple[str, ...] = ()
    files: Callable[[Any, Indices], list[str]] | None = None
    parts: frozenset[str] = frozenset(["target"])

    def samples(self, name: str, dataset: Any, indices: Indices, terms: Terms) -> Samples:
        """Identify samples of a dataset of the type `name`."""
        held = attributes(dataset).items()
        read = {attribute: value for attribute, value in held if attribute not in self.attributes}
        if "target" in terms.ignored:
            read = _without_targets(read)
        source, found = source_of(f"torchvision.datasets.{name}", read, terms, ("PIL",))
        row_ids = self.row_ids(source, dataset, indices, terms)
        probes = (0,) if len(indices) else ()
        # Without their paths, files of one size and one time would be one.
        parts = self.parts if terms.by == "content" else self.parts - {"path"}
        return Samples([source], row_ids, found.not_keyed, probes, found.random, parts)


def _without_targets(read: dict[str, Any]) -> dict[str, Any]:
    """Return attributes without what transforms the target alone."""
    joined: Any = read.get("transforms")
    standard = getattr(sys.modules.get("torchvision.datasets.vision"), "StandardTransform", None)
    if type(joined) is standard:
        read = {**read, "transforms": joined.transform}
    return {name: value for name, value in read.items() if name != "target_transform"}


def rule_for(dataset: Any) -> Rule | None:
    """Return the rule for a dataset of torchvision, None if it is not one of those known."""
    found = _family(dataset)
    if found is None:
        return None
    name, family = found
    return lambda dataset, indices, terms: family.samples(name, dataset, indices, terms)


def paths_of(dataset: Any, indices: Indices) -> list[str] | None:
    """Return paths below the root that name samples of a dataset of files, None if it is none."""
    found = _family(dataset)
    if found is None or found[1].files is None:
        return None
    paths = found[1].files(dataset, indices)
    return [path.decode("utf-8", "surrogateescape") for path in relative(paths, dataset.root)]


def _family(dataset: Any) -> tuple[str, Family] | None:
    for family in _FAMILIES:
        for name in family.names:
            if is_exactly(dataset, "torchvision.datasets", name, family.methods):
                return name, family
    return None


def _in_memory(data: str, targets: str) -> Callable[[Json, Any, Indices, Terms], RowIds]:
    """Return the rule of a dataset with its images in one array and its classes in another."""

    def row_ids(source: Json, dataset: Any, indices: Indices, terms: Terms) -> RowIds:
        images, classes = getattr(dataset, data), getattr(dataset, targets)
        if classes is None or "target" in terms.ignored:
            return row_ids_of(source, [images], indices)
        kind, column = _targets(classes, indices)
        return row_ids_of(source, [images, column], indices, kind)

    return row_ids


def _targets(targets: Any, indices: Indices) -> tuple[str, Any]:
    """Return what rows with such targets are, and an array with one for each sample.

    Class numbers are int64, whatever holds them.
    """
    most = int(indices.max()) if indices.size else -1
    if len(targets) <= most:
        msg = f"it has {len(targets):,} targets, and is asked for sample {most:,}"
        raise FingerprintError(msg)
    with contextlib.suppress(TypeError, OverflowError):
        if type(targets) in (list, tuple) and all(map(_is_integer, set(map(type, targets)))):
            return "rows", np.array(targets, np.int64)
        array = arrays.as_array(targets)
        if array is not None:
            fits = array.dtype.kind != "b" and np.can_cast(array.dtype, np.int64)
            return "rows", array.astype(np.int64) if fits else array
    found = np.zeros((most + 1, 16), np.uint8)
    asked = np.unique(indices)
    found[asked] = _encoded([targets[index] for index in asked.tolist()])
    return "rows+target", found


def _is_integer(kind: type) -> bool:
    return kind is int or issubclass(kind, np.integer)


def _file_rows(source: Json, dataset: Any, indices: Indices, terms: Terms) -> RowIds:
    paths, targets = _file_paths(dataset, indices), None
    if "target" not in terms.ignored:
        targets = [target for _, target in _picked(dataset.samples, indices)]
    return _rows_of_files(source, dataset, [paths], targets, terms)


def _file_paths(dataset: Any, indices: Indices) -> list[str]:
    return [os.fsdecode(path) for path, _ in _picked(dataset.samples, indices)]


def _annotated_rows(annotations: str) -> Callable[[Json, Any, Indices, Terms], RowIds]:
    """Return the rule of a dataset with a file of annotations, or a mask, for every image."""

    def row_ids(source: Json, dataset: Any, indices: Indices, terms: Terms) -> RowIds:
        columns = [_picked(dataset.images, indices)]
        if "target" not in terms.ignored:
            columns.append(_picked(getattr(dataset, annotations), indices))
        return _rows_of_files(source, dataset, columns, None, terms)

    return row_ids


def _coco_rows(source: Json, dataset: Any, indices: Indices, terms: Terms) -> RowIds:
    coco, keys = dataset.coco, _picked(dataset.ids, indices)
    targets = None
    if "target" not in terms.ignored:
        targets = [coco.loadAnns(coco.getAnnIds(key)) for key in keys]
    return _rows_of_files(source, dataset, [_coco_paths(dataset, indices)], targets, terms)


def _coco_paths(dataset: Any, indices: Indices) -> list[str]:
    images = dataset.coco.loadImgs(_picked(dataset.ids, indices))
    return [os.path.join(dataset.root, image["file_name"]) for image in images]  # noqa: PTH118  as read


def _rows_of_files(
    source: Json,
    dataset: Any,
    columns: list[list[str]],
    targets: list[Any] | None,
    terms: Terms,
) -> RowIds:
    """Return row ids of samples made of a file of each of `columns`, and a target."""
    fixed = np.concatenate([_known_by(paths, dataset.root, terms) for paths in columns], axis=1)
    kind = "file" if terms.by == "content" else terms.by
    if len(columns) > 1:
        kind += f"x{len(columns)}"
    names, path = [b""] * len(fixed), ""
    if "path" not in terms.ignored:
        # A content is itself wherever it lies; a size and a time say little without the path.
        path, named = "+path", columns if terms.by != "content" else columns[:1]
        relatives = [relative(paths, dataset.root) for paths in named]
        names = [b"\0".join(paths) for paths in zip(*relatives, strict=True)]
    digest = identify("source", source)
    row_ids = np.empty((len(fixed), 16), np.uint8)
    for tag, chosen, column in _columns(targets, len(fixed)):
        pieces = np.concatenate([fixed[chosen], column], axis=1)
        below = [names[i] for i in chosen.tolist()]
        row_ids[chosen] = rows.from_parts(digest, f"{kind}{tag}{path}", pieces, below)
    return row_ids


def _columns(targets: list[Any] | None, count: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield which samples have targets of a kind, and their targets as bytes, uint8 (m, k)."""
    if targets is None:
        yield "", np.arange(count), np.empty((count, 0), np.uint8)
        return
    numbers = np.array([type(t) is int and -(2**63) <= t < 2**63 for t in targets], np.bool_)
    for tag, where, encoded in (
        ("+class", numbers, _class_numbers),
        ("+target", ~numbers, _encoded),
    ):
        chosen = np.flatnonzero(where)
        if chosen.size:
            yield tag, chosen, encoded([targets[i] for i in chosen.tolist()])


def _known_by(paths: list[str], root: Any, terms: Terms) -> Any:
    if terms.by == "content":
        return content_digests(paths, root, terms.on_file)
    return np.ascontiguousarray(stamps(paths), "<i8").view(np.uint8)


def _class_numbers(targets: list[int]) -> Any:
    return np.array(targets, "<i8").reshape(-1, 1).view(np.uint8)


def _encoded(targets: list[Any]) -> Any:
    documents = ((dumps(encode(target, "a target")),) for target in targets)
    return rows.from_items("", "target", documents)


def _picked(values: Sequence[Any], indices: Indices) -> list[Any]:
    try:
        return [values[index] for index in indices.tolist()]
    except (IndexError, KeyError) as error:
        msg = f"it says it has more samples than it holds ({type(error).__name__}: {error})"
        raise FingerprintError(msg) from error


def _fake_rows(source: Json, _dataset: Any, indices: Indices, _terms: Terms) -> RowIds:
    return rows.from_integers(identify("source", source), indices)


_CLASSES = frozenset(["root", "classes", "class_to_idx", "targets"])
#: Of a dataset that reads ``transform`` and ``target_transform``, and not ``transforms``.
_PARTED = _CLASSES | {"transforms"}
#: Of a dataset that reads ``transforms`` alone.
_JOINED = frozenset(["root", "images", "targets", "transform", "target_transform"])
_NAMED = frozenset(["data", "labels", "split", "train"])

#: Of the subclasses of ``ImageFolder``: where they lie, and other names of their classes.
_SUBCLASSES = frozenset(["_base_folder", "_data_folder", "wnid_to_idx", "wnids"])
_VOC = frozenset(["filename", "image_set", "md5", "url", "year"])
_BOTH = frozenset(["path", "target"])

_FAMILIES = (
    Family(("CIFAR10", "CIFAR100", "USPS"), _PARTED | _NAMED, _in_memory("data", "targets")),
    Family(
        ("MNIST", "QMNIST"),
        _PARTED | _NAMED | {"data_file", "test_file", "training_file", "what"},
        _in_memory("data", "targets"),
    ),
    Family(
        ("SVHN",),
        _PARTED | _NAMED | {"file_md5", "filename", "url"},
        _in_memory("data", "labels"),
    ),
    Family(("STL10",), _PARTED | _NAMED | {"folds"}, _in_memory("data", "labels")),
    Family(("FakeData",), _PARTED | {"size"}, _fake_rows, parts=frozenset()),
    Family(
        ("ImageFolder", "DatasetFolder", "EuroSAT"),
        _PARTED | {"allow_empty", "extensions", "imgs", "samples"} | _SUBCLASSES,
        _file_rows,
        files=_file_paths,
        parts=_BOTH,
    ),
    Family(
        ("VOCDetection",),
        _JOINED | _VOC,
        _annotated_rows("annotations"),
        methods=("annotations", "parse_voc_xml"),
        files=lambda dataset, indices: _picked(dataset.images, indices),
        parts=_BOTH,
    ),
    Family(
        ("VOCSegmentation",),
        _JOINED | _VOC,
        _annotated_rows("masks"),
        methods=("masks",),
        files=lambda dataset, indices: _picked(dataset.images, indices),
        parts=_BOTH,
    ),
    Family(
        ("CocoDetection", "CocoCaptions"),
        _JOINED | {"coco", "ids"},
        _coco_rows,
        methods=("_load_image", "_load_target"),
        files=_coco_paths,
        parts=_BOTH,
    ),
)
