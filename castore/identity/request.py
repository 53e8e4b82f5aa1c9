"""A call, identified: table id, key, row ids, and the documents they are digests of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from castore.canonical import Json, identify
from castore.errors import ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.captures import Captures, capture
from castore.identity.code import name_of
from castore.identity.dataset import Indices, as_indices, flatten, length_of, samples_of
from castore.identity.loader import Plan, plan
from castore.identity.model import hash_model, is_module, structure, unwrap
from castore.identity.rows import RowIds
from castore.identity.values import encode

__all__ = [
    "Function",
    "Request",
    "as_row_indices",
    "describe_function",
    "identify_inputs",
    "identify_loader",
]

_log = logging.getLogger("castore")
_FORMAT = 1


@dataclass(frozen=True)
class Function:
    """What is computed: the half of a request that names its table.

    Attributes
    ----------
    name : str
        How messages call it.
    suffix : str
        The name the user gave it.
    table : str
        Table id: digest of `derivation`.
    derivation : dict
        Suffix, version, parameters, captured values, model digest; the code where there is
        no suffix.
    recorded : dict
        What is kept beside for people, and keyed by nobody.
    models : list
        The modules found or named, unwrapped.
    is_modelless : bool
        Whether a model was looked for and none found.
    not_keyed : dict
        Captured things castore has no rule for, with their types.
    """

    name: str
    suffix: str
    table: str
    derivation: dict[str, Json]
    recorded: dict[str, Json] = field(default_factory=dict)
    models: list[Any] = field(default_factory=list)
    is_modelless: bool = False
    not_keyed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One call, identified.

    Attributes
    ----------
    function : Function
        What is computed.
    key : str
        Digest of `derivation`.
    derivation : dict
        Table id, variant, and the digest of the ordered row ids or of the inputs.
    row_ids : ndarray or None
        uint8 (n, 16); None where the result belongs to no list of rows.
    sources : list
        The documents that the row ids are made from, beside the items.
    plan : Plan or None
        The loader, taken apart.
    not_keyed : dict
        What is in no key, of function, loader and dataset.
    by_index : bool
        Whether a vouched dataset's rows are named by their index.
    """

    function: Function
    key: str
    derivation: dict[str, Json]
    row_ids: RowIds | None = None
    sources: list[Json] = field(default_factory=list)
    plan: Plan | None = None
    not_keyed: dict[str, str] = field(default_factory=dict)
    by_index: bool = False

    @property
    def rows(self) -> int | None:
        """Number of samples asked for, where that is known."""
        return None if self.row_ids is None else len(self.row_ids)

    def notices(self) -> list[str]:
        """Say what the user should know once about how this was identified."""
        name, found = self.function.name, []
        if self.function.is_modelless:
            found.append(f"{name}: no model found; name it with model=, or say model=None")
        if self.not_keyed:
            listed = ", ".join(f"{path} ({kind})" for path, kind in sorted(self.not_keyed.items()))
            found.append(f"{name}: not part of the key: {listed}")
        if self.by_index:
            found.append(
                f"{name}: rows are named by their index: inserting or sorting samples renumbers "
                "them; row_ids= gives them names"
            )
        return found

    def documents(self) -> dict[str, Json]:
        """Return all there is to say about where the key came from."""
        return {
            "entry": self.derivation,
            "not_keyed": self.not_keyed,
            "recorded": self.function.recorded,
            "sources": self.sources,
            "table": self.function.derivation,
        }


def describe_function(
    fn: Any,
    suffix: Any,
    *,
    model: Any = "auto",
    params: Any = None,
    version: str | int | None = None,
    ignore: Sequence[str] = (),
    loader: object = None,
) -> Function:
    """Identify what `fn` computes.

    Raises
    ------
    ConfigError
        If `suffix` is no string, or `ignore` names nothing that `fn` captures.
    FingerprintError
        If a parameter or the model cannot be encoded.
    """
    if not isinstance(suffix, str):
        msg = f"suffix is {suffix!r}: give a string that names what is computed"
        raise ConfigError(msg)
    if fn is not None and not callable(fn):
        msg = f"fn is {fn!r:.80}: give a function of the loader"
        raise ConfigError(msg)
    if params is not None and not isinstance(params, Mapping):
        msg = f"params is {params!r:.80}: give a dict of values by name"
        raise ConfigError(msg)
    found = capture(fn, loader) if fn is not None else Captures()
    _ignore(found, ignore)
    models = _models(found, model)
    derivation: dict[str, Json] = {
        "captured": found.values,
        "format": _FORMAT,
        "model": _model_digests(models, model),
        "params": encode(dict(params or {}), "params"),
        "suffix": suffix,
        "version": encode(version, "version"),
    }
    if not suffix:
        if fn is None:
            msg = "without a function there must be a suffix: name what was computed"
            raise ConfigError(msg)
        derivation["functions"] = found.functions
    not_keyed = dict(found.not_keyed)
    for path, module in models.items():
        not_keyed.update({f"{path}.{name}": "attribute" for name in structure(unwrap(module))[1]})
    return Function(
        name=name_of(fn) if fn is not None else suffix,
        suffix=suffix,
        table=identify("table", derivation),
        derivation=derivation,
        recorded={"functions": found.functions, "models": sorted(models)},
        models=[unwrap(module) for module in models.values()],
        is_modelless=isinstance(model, str) and model == "auto" and fn is not None and not models,
        not_keyed=not_keyed,
    )


def identify_loader(
    function: Function, loader: Any, *, dataset_id: Any = None, row_ids: Any = None
) -> Request:
    """Identify `function` over `loader`.

    Raises
    ------
    FingerprintError
        If the samples or their order cannot be known.
    """
    if row_ids is not None and dataset_id is None:
        msg = "row_ids name rows within a dataset: give dataset_id= too"
        raise ConfigError(msg)
    if dataset_id is not None and not (isinstance(dataset_id, str) and dataset_id):
        msg = f"dataset_id is {dataset_id!r}: give a string such as 'isic-2020@3'"
        raise ConfigError(msg)
    found = plan(loader)
    if found.indices is None:
        if row_ids is not None:
            msg = "row_ids cannot name the samples of an IterableDataset: dataset_id= alone does"
            raise ConfigError(msg)
        return _iterable(function, found, dataset_id)
    flat, indices = flatten(found.dataset, found.indices)
    names = None if row_ids is None else _picked(row_ids, found, flat, indices)
    samples = samples_of(flat, indices, dataset_id, names)
    derivation = {
        "rows": [len(samples.row_ids), rows.digest_rows(samples.row_ids)],
        "table": function.table,
        "variant": found.variant,
    }
    return Request(
        function,
        identify("key", derivation),
        derivation,
        samples.row_ids,
        [samples.source],
        found,
        {**function.not_keyed, **found.not_keyed, **samples.not_keyed},
        samples.by_index,
    )


def identify_inputs(function: Function, inputs: Mapping[str, Any]) -> Request:
    """Identify `function` of `inputs`, which belong to no loader."""
    encoded = {name: encode(value, f"inputs[{name!r}]") for name, value in inputs.items()}
    derivation = {"inputs": encoded, "table": function.table}
    key = identify("key", derivation)
    return Request(function, key, derivation, not_keyed=function.not_keyed)


def _iterable(function: Function, found: Plan, dataset_id: str | None) -> Request:
    if dataset_id is None:
        msg = (
            f"an IterableDataset ({type(found.dataset).__name__}) cannot be asked for its rows:\n"
            '  by name:     get_or_compute(loader, fn, dataset_id="stream@1")'
        )
        raise FingerprintError(msg)
    source = {"dataset_id": dataset_id, "iterable": True}
    derivation = {"iterable": source, "table": function.table, "variant": found.variant}
    not_keyed = {**function.not_keyed, **found.not_keyed}
    key = identify("key", derivation)
    return Request(function, key, derivation, None, [source], found, not_keyed)


def _picked(row_ids: Any, found: Plan, flat: Any, indices: Indices) -> Any:
    """Return the names of the rows asked for.

    Names are given one a sample, of the loader's dataset or of the one below its subsets.
    """
    assert found.indices is not None  # the caller saw to it
    names = _listed(row_ids)
    outer, inner = length_of(found.dataset), length_of(flat)
    if len(names) not in (outer, inner):
        msg = f"row_ids has {len(names):,} names for {outer:,} samples: give one a sample"
        raise FingerprintError(msg)
    distinct = len(np.unique(names, axis=0) if isinstance(names, np.ndarray) else set(names))
    if distinct != len(names):
        msg = f"row_ids repeats {len(names) - distinct:,} names: a name identifies one sample"
        raise FingerprintError(msg)
    positions = found.indices % max(1, outer) if len(names) == outer else indices
    if outer == inner and not np.array_equal(found.indices % max(1, outer), indices):
        msg = (
            "row_ids may follow the subset's order or that of the dataset below it, and both have "
            f"{outer:,} samples: pass the names through a loader without Subset"
        )
        raise FingerprintError(msg)
    if isinstance(names, np.ndarray):
        return names[positions]
    return [names[position] for position in positions.tolist()]


def _listed(row_ids: Any) -> Any:
    """Return names as an array of integers or digests, or else as a list."""
    if isinstance(row_ids, np.ndarray) and row_ids.dtype.kind in "iu":
        return row_ids
    try:
        return list(row_ids)
    except TypeError as error:
        msg = f"row_ids is {row_ids!r:.80}: give one string or integer a sample"
        raise ConfigError(msg) from error


def _ignore(found: Captures, ignore: Sequence[str]) -> None:
    for name in ignore:
        if name not in found.values:
            known = ", ".join(sorted(found.values)) or "nothing"
            msg = f"ignore={name!r}: the function captures {known}"
            raise ConfigError(msg)
        del found.values[name]


def _models(found: Captures, model: Any) -> dict[str, Any]:
    if isinstance(model, str) and model == "auto":
        return found.models
    if model is None or isinstance(model, str):
        return {}
    listed = list(model) if isinstance(model, (list, tuple)) else [model]
    for item in listed:
        if not is_module(item):
            msg = f"model={item!r:.80}: pass a torch module, a list of them, a digest or None"
            raise ConfigError(msg)
    return {f"model[{index}]": item for index, item in enumerate(listed)}


def _model_digests(models: dict[str, Any], model: Any) -> Json:
    """Return the digest of one model; of several, by path where found, in order where named."""
    if isinstance(model, str) and model != "auto":
        return model
    digests = {path: hash_model(module) for path, module in sorted(models.items())}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return digests or None


def as_row_indices(loader: Any) -> Indices:
    """Return the dataset indices in the order rows come back, int64 (n,).

    Raises
    ------
    OrderError
        If they cannot be known.
    """
    found = plan(loader)
    if found.indices is None:
        msg = "an IterableDataset has no indices"
        raise FingerprintError(msg)
    return as_indices(found.indices, "indices")
