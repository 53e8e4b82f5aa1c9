"""A call, identified: table id, key, row ids, and the documents they are digests of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from castore.canonical import Json, dumps, identify
from castore.errors import ConfigError, FingerprintError, RandomError
from castore.identity import rows
from castore.identity.datasets.keeping import attributes_kept
from castore.identity.datasets.names import pick
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import INSTEAD_OF_RANDOM, Indices, Samples, Terms
from castore.identity.function import Function, encode_argument
from castore.identity.loader import Plan, plan
from castore.identity.randomness import moves_or_differs
from castore.identity.rows import RowIds

__all__ = ["Request", "identify_hierarchy", "identify_inputs", "identify_loader"]

_RANDOM = ("refuse", "freeze")
_OF_ITEMS = frozenset(["path", "target"])


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
    frozen : dict
        Random transforms that are part of the samples because the caller said so.
    probes : tuple of int
        Positions of samples, one a source, whose loading may turn out to be random.
    any_of : frozenset of str
        Parts of the variant in which an entry may differ and still answer.
    left : dict
        Attributes of the dataset that the names of its rows stand for.
    """

    function: Function
    key: str
    derivation: dict[str, Json]
    row_ids: RowIds | None = None
    sources: list[Json] = field(default_factory=list)
    plan: Plan | None = None
    not_keyed: dict[str, str] = field(default_factory=dict)
    by_index: bool = False
    frozen: dict[str, str] = field(default_factory=dict)
    probes: tuple[int, ...] = ()
    any_of: frozenset[str] = frozenset()
    left: dict[str, str] = field(default_factory=dict)

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
        if self.is_frozen:
            held = ", ".join(f"{path} ({kind})" for path, kind in sorted(self.frozen.items()))
            found.append(
                f"{name}: random='freeze': one draw of {held or 'whatever is random'} is kept for "
                "good"
            )
        return found

    def documents(self) -> dict[str, Json]:
        """Return all there is to say about where the key came from."""
        left = {"left to the names of rows": self.left} if self.left else {}
        return {
            "entry": self.derivation,
            "not_keyed": self.not_keyed,
            "recorded": {**self.function.recorded, **left},
            "sources": self.sources,
            "table": self.function.derivation,
        }

    def answers(self, entry: Json, key: str) -> bool:
        """Tell whether an entry of the same table differs in what may be ignored only.

        Parameters
        ----------
        entry : Json
            The entry's own derivation, as its manifest has it.
        key : str
            Its key, which must be the derivation's digest.
        """
        if not isinstance(entry, dict) or identify("key", entry) != key:
            return False
        kept, own = _without(entry, self.any_of), _without(self.derivation, self.any_of)
        return dumps(kept) == dumps(own)  # 1 and True are equal to Python

    def over(self, positions: Indices, sizes: Sequence[int] | None = None) -> Request:
        """Return the request for some of the rows, through a loader over exactly those.

        Parameters
        ----------
        positions : ndarray
            int64 (k,), into the rows asked for, in the order wanted.
        sizes : sequence of int, optional
            Lengths of the batches, where they are not to be the loader's.
        """
        assert self.row_ids is not None and self.plan is not None  # noqa: PT018
        chosen = self.plan.over(positions, sizes)
        row_ids = self.row_ids[positions]
        derivation = _derivation(self.function, row_ids, chosen.variant)
        return replace(
            self, key=identify("key", derivation), derivation=derivation, row_ids=row_ids,
            plan=chosen, probes=(),
        )  # fmt: skip

    def kinship(self, loose: frozenset[str]) -> dict[str, Json]:
        """Return in what an entry's variant must agree with this one to lend it rows.

        Parameters
        ----------
        loose : frozenset of str
            Parts of the variant in which rows may differ, beside those to be ignored.
        """
        variant = self.derivation.get("variant", {})
        return {n: value for n, value in variant.items() if n not in loose | self.any_of}

    def refuse_random(self) -> None:
        """Load a sample of each source twice, through a custom collate, and see that it stays.

        Raises
        ------
        RandomError
            If it is not, or loading it moves a global generator.
        """
        if self.plan is None or self.plan.indices is None:
            return
        for probe in self.probes:
            index = int(self.plan.indices[probe])
            with attributes_kept(self.plan.dataset):
                why = moves_or_differs(functools.partial(self.plan.load, index))
            if why is not None:
                name = type(self.plan.dataset).__qualname__
                raise RandomError(_IS_RANDOM.format(index, name, why))

    def tried(self) -> set[str]:
        """Return digests of what `refuse_random` tries: sources under the collate function."""
        collate = self.derivation.get("variant", {}).get("collate")
        return {identify("tried", [source, collate]) for source in self.sources}

    @property
    def is_frozen(self) -> bool:
        """Whether the caller said that one draw of what is random is to be kept."""
        return "random" in self.derivation.get("variant", {})


def identify_loader(
    function: Function,
    loader: Any,
    *,
    dataset_id: Any = None,
    row_ids: Any = None,
    random: str = "refuse",
    by: str = "content",
    on_file: Callable[[int], object] | None = None,
) -> Request:
    """Identify `function` over `loader`.

    Parameters
    ----------
    function : Function
        What is computed.
    loader, dataset_id, row_ids, random
        As `castore.Store.get_or_compute` has them.
    by : {"content", "stat"}
        What files are known by.
    on_file : callable, optional
        Called with the number of files read so far.

    Raises
    ------
    FingerprintError
        If the samples or their order cannot be known.
    """
    _check(dataset_id, row_ids, random)
    found = plan(loader)
    variant = {**found.variant, "random": "freeze"} if random == "freeze" else found.variant
    found = replace(found, variant=variant)
    _refuse_random_collate(found, random)
    any_of = function.ignored & found.variant.keys()
    rest = function.ignored - any_of
    function.refuse_ignored(rest - _OF_ITEMS, [*found.variant, *_OF_ITEMS])
    if found.indices is None:
        function.refuse_ignored(rest, [*found.variant])
        if row_ids is not None:
            msg = "row_ids cannot name the samples of an IterableDataset: dataset_id= alone does"
            raise ConfigError(msg)
        return _iterable(function, found, dataset_id, any_of)
    names = None if row_ids is None else pick(row_ids, found.dataset, found.indices)
    terms = Terms(by, rest, random == "freeze", on_file)
    samples = samples_of(found.dataset, found.indices, terms, dataset_id, names)
    return _request(function, found, samples, any_of)


def identify_inputs(function: Function, inputs: Mapping[str, Any]) -> Request:
    """Identify `function` of `inputs`, which belong to no loader."""
    function.refuse_ignored(function.ignored)
    encoded = {n: encode_argument(value, f"inputs[{n!r}]") for n, value in inputs.items()}
    derivation = {"inputs": encoded, "table": function.table}
    key = identify("key", derivation)
    return Request(function, key, derivation, not_keyed=function.not_keyed)


def identify_hierarchy(
    function: Function, inputs: Mapping[str, Any] | None, content: str = ""
) -> Request:
    """Identify a Zarr hierarchy by the `inputs` it was made from, else by the digest of itself."""
    if inputs is None:
        what: Json = {"content": content}
    else:
        what = {"inputs": {n: encode_argument(v, f"inputs[{n!r}]") for n, v in inputs.items()}}
    derivation = {"hierarchy": what, "table": function.table}
    key = identify("key", derivation)
    return Request(function, key, derivation, not_keyed=function.not_keyed)


def _check(dataset_id: Any, row_ids: Any, random: Any) -> None:
    if row_ids is not None and dataset_id is None:
        msg = "row_ids name rows within a dataset: give dataset_id= too"
        raise ConfigError(msg)
    if dataset_id is not None and not (isinstance(dataset_id, str) and dataset_id):
        msg = f"dataset_id is {dataset_id!r}: give a string such as 'isic-2020@3'"
        raise ConfigError(msg)
    if random not in _RANDOM:
        msg = f"random={random!r}: choose {' or '.join(_RANDOM)}"
        raise ConfigError(msg)


def _refuse_random_collate(found: Plan, random: str) -> None:
    for path, kind in found.random.items():
        if random == "refuse":
            msg = f"{path} holds {kind.rpartition('.')[2]}, which is random: {_FREEZES}"
            raise RandomError(f"{msg}.\n{INSTEAD_OF_RANDOM}")


def _request(function: Function, found: Plan, samples: Samples, any_of: frozenset[str]) -> Request:
    derivation = _derivation(function, samples.row_ids, found.variant)
    return Request(
        function,
        identify("key", derivation),
        derivation,
        samples.row_ids,
        samples.sources,
        found,
        {**function.not_keyed, **found.not_keyed, **samples.not_keyed},
        samples.by_index,
        {**found.random, **samples.frozen},
        samples.probes,
        any_of,
        samples.left,
    )


def _derivation(
    function: Function, row_ids: RowIds, variant: Mapping[str, Json]
) -> dict[str, Json]:
    listed = [len(row_ids), rows.digest_rows(row_ids)]
    return {"rows": listed, "table": function.table, "variant": dict(variant)}


def _iterable(
    function: Function, found: Plan, dataset_id: str | None, any_of: frozenset[str]
) -> Request:
    if dataset_id is None:
        msg = (
            f"an IterableDataset ({type(found.dataset).__name__}) cannot be asked for its rows:\n"
            '  by name:     get_or_compute(loader, fn, dataset_id="stream@1")\n'
            '  uncached:    castore.open(..., on_error="compute")'
        )
        raise FingerprintError(msg)
    source = {"dataset_id": dataset_id, "iterable": True}
    derivation = {"iterable": source, "table": function.table, "variant": found.variant}
    not_keyed = {**function.not_keyed, **found.not_keyed}
    key = identify("key", derivation)
    return Request(
        function, key, derivation, None, [source], found, not_keyed, frozen=found.random,
        any_of=any_of,
    )  # fmt: skip


def _without(derivation: Mapping[str, Json], ignored: frozenset[str]) -> dict[str, Json]:
    variant = derivation.get("variant", {})
    kept = {name: value for name, value in variant.items() if name not in ignored}
    return {**derivation, "variant": kept}


_FREEZES = "a stored result would freeze one draw of it"
_IS_RANDOM = (
    "sample {} of {} is random: {}. A stored result would freeze one draw of it.\n"
    + INSTEAD_OF_RANDOM
)
