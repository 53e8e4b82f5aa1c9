"""What tells two derivations apart, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from castore.canonical import Json, dumps
from castore.explain.difference import NOTHING, Difference
from castore.readable import readable

__all__ = [
    "changed_code",
    "code_of",
    "differences",
    "inputs_of",
    "recorded",
    "table_differences",
    "weight",
]

#: Documents by path.
_Parts: TypeAlias = Mapping[str, Json]

#: Beyond these the members of a value are not told apart: the whole is shown.
_MEMBERS = 3
#: What a part stands for that does not say it.
_STANDS_FOR = {
    "model": "other weights, structure or mode",
    "whole": "an array in place of a loader",
}
#: How far a part that differs takes two entries apart, where it is not 1.
_WEIGHTS = {"rows": 0, "suffix": 100, "hierarchy": 50}
#: What code and objects are described by, under paths of their own.
_FOUND = ("captured", "decoders", "functions")
_NAMED = ("suffix", "version", "model")
_NO_RESULT = "a Zarr hierarchy is no function's result"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what is keyed and differs, in the order function, inputs, loader, samples.

    Rows made by other sources are other rows: those are named only where their number differs.

    Parameters
    ----------
    before, after : mapping
        Derivations as manifests have them: ``table``, ``entry``, ``sources``.
    """
    one, two = before.get("entry", {}), after.get("entry", {})
    hierarchies = list(_hierarchies(one.get("hierarchy"), two.get("hierarchy")))
    if hierarchies:  # what else differs follows from that
        return [*table_differences(before.get("table", {}), after.get("table", {})), *hierarchies]
    sources = list(_sources(before.get("sources", []), after.get("sources", [])))
    return [
        *table_differences(before.get("table", {}), after.get("table", {})),
        *_compare("inputs.", inputs_of(one), inputs_of(two)),
        *_variants(one.get("variant", {}), two.get("variant", {})),
        *sources,
        *_rows(one.get("rows", NOTHING), two.get("rows", NOTHING), others=bool(sources)),
    ]


def table_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two functions, by the derivations of their tables."""
    one, two = _function(before), _function(after)
    if bool(before.get("suffix")) != bool(after.get("suffix")):
        one, two = _without_code(one), _without_code(two)  # only what has no suffix has code
    return list(_compare("", one, two))


def recorded(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what is in no key and differs: versions, device, code under a suffix, not keyed."""
    one, two = _recorded(before), _recorded(after)
    if all("functions" in side.get("table", {}) for side in (before, after)):
        one, two = _without_code(one), _without_code(two)
    return list(_compare("", one, two))


def changed_code(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the paths of functions whose code differs, is new or is gone, sorted.

    Parameters
    ----------
    before, after : mapping
        Code digests by path, as ``recorded["functions"]`` of a derivation has them.
    """
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def inputs_of(entry: Mapping[str, Any]) -> Mapping[str, Json]:
    """Return the inputs, by name, of the derivation of an entry: a result or a Zarr hierarchy."""
    found: Mapping[str, Json] = entry.get("hierarchy", entry).get("inputs", {})
    return found


def code_of(documents: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the code digests of a derivation by path, whether keyed or recorded."""
    keyed: Mapping[str, str] | None = documents.get("table", {}).get("functions")
    return documents.get("recorded", {}).get("functions", {}) if keyed is None else keyed


def weight(found: Iterable[Difference]) -> int:
    """Return how far these differences take two entries apart, rows not counted."""
    return sum(_WEIGHTS.get(difference.path, 1) for difference in found)


def _compare(prefix: str, before: _Parts, after: _Parts) -> Iterator[Difference]:
    for name, (one, two) in _paired(before, after).items():
        yield from _differing(prefix + name, one, two)


def _differing(path: str, before: Json, after: Json) -> Iterator[Difference]:
    """Yield the members that differ of a value, or the whole where that says more."""
    if before == after and dumps(before) == dumps(after):  # True == 1 in Python, not in a key
        return
    members = _members(before, after).items()
    found = [d for name, (one, two) in members for d in _differing(path + name, one, two)]
    note = _STANDS_FOR.get(path, "")
    yield from found if 0 < len(found) <= _MEMBERS else [Difference(path, before, after, note)]


def _members(before: Json, after: Json) -> dict[str, tuple[Json, Json]]:
    """Return the members of two values of one kind by their place, none of other values."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return {f"[{index}]": pair for index, pair in enumerate(zip(before, after, strict=True))}
    if isinstance(before, dict) and isinstance(after, dict):
        if len(before) == len(after) == 1 and before.keys() == after.keys():
            ((kind, one),) = before.items()
            return _content(kind, one, after[kind])
        if len(before) > 1 and len(after) > 1:
            return _paired(_under("", before), _under("", after))
    return {}


def _content(kind: str, one: Json, two: Json) -> dict[str, tuple[Json, Json]]:
    """Return the members of two values that `castore.identity.values` writes alike."""
    if kind == "tuple":
        return _members(one, two)
    if kind == "dict":
        return _paired(*({f"[{readable(key)}]": item for key, item in v} for v in (one, two)))
    if kind in ("dataclass", "named") and one[0] == two[0]:
        return _paired(*({f".{name}": item for name, item in fields} for _, fields in (one, two)))
    return {}


def _paired(one: _Parts, two: _Parts) -> dict[str, tuple[Json, Json]]:
    return {name: (one.get(name, NOTHING), two.get(name, NOTHING)) for name in {**one, **two}}


def _under(path: str, parts: _Parts) -> dict[str, Json]:
    return {f"{path}.{name}": value for name, value in parts.items()}


def _function(table: Mapping[str, Any]) -> dict[str, Json]:
    """Return the parts of a table's derivation, names first."""
    rest = dict(table)
    named: dict[str, Json] = {name: rest.pop(name) for name in _NAMED if name in rest}
    params, numeric = rest.pop("params", {}).get("dict", []), rest.pop("numeric", {})
    by_name = {n if isinstance(n, str) else readable(n): value for n, value in params}
    return {**named, **_under("params", by_name), **_found(rest), **_under("numeric", numeric)}


def _found(document: Mapping[str, Any]) -> dict[str, Json]:
    """Return what describes code and objects: values by the path at which they were found."""
    values = document.get("captured", {})
    code = _under("functions", document.get("functions", {}))
    decoders = _under("decoders", document.get("decoders", {}))
    others = {name: value for name, value in document.items() if name not in _FOUND}
    return {**others, **values, **code, **decoders}


def _without_code(parts: _Parts) -> dict[str, Json]:
    return {path: value for path, value in parts.items() if not path.startswith("functions.")}


def _variants(before: _Parts, after: _Parts) -> Iterator[Difference]:
    for name, (one, two) in _paired(before, after).items():
        if _is_found(one) and _is_found(two):
            yield from _compare(f"{name}.", _found(one), _found(two))
        else:
            yield from _differing(name, one, two)


def _is_found(document: Json) -> bool:
    return isinstance(document, dict) and bool(document) and document.keys() <= set(_FOUND)


def _hierarchies(
    before: Mapping[str, Json] | None, after: Mapping[str, Json] | None
) -> Iterator[Difference]:
    """Yield in what a Zarr hierarchy differs from a result, or from one that goes by other things.

    Of two that go by their inputs nothing: those are compared one by one.
    """
    if before is None or after is None:
        if before is not after:
            yield Difference("hierarchy", before or NOTHING, after or NOTHING, _NO_RESULT)
    elif before.keys() != after.keys():
        yield Difference("hierarchy", dict(before), dict(after))
    elif before.get("content") != after.get("content"):
        yield Difference("content", before["content"], after["content"])


def _sources(before: list[Json], after: list[Json]) -> Iterator[Difference]:
    """Yield the differences of those sources that only one side has, pair by pair."""
    known, asked = ({dumps(source): source for source in side} for side in (before, after))
    gone = [source for name, source in known.items() if name not in asked]
    new = [source for name, source in asked.items() if name not in known]
    for index in range(max(len(gone), len(new))):
        path = "source" if len(known) == len(asked) == 1 else f"source[{index}]"
        one, two = (side[index] if index < len(side) else NOTHING for side in (gone, new))
        if one.get("dataset") == two.get("dataset"):
            yield from _compare(f"{path}.", _found(one), _found(two))
        else:  # of another kind, or vouched for: what else differs follows from that
            yield Difference(path, one, two)


def _rows(before: Json, after: Json, *, others: bool) -> Iterator[Difference]:
    if before != after and not (others and before and after and before[0] == after[0]):
        yield Difference("rows", before, after)


def _recorded(documents: Mapping[str, Any]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, value in documents.get("recorded", {}).items():
        found |= _under(name, value) if isinstance(value, dict) else {name: value}
    code = _under("functions", code_of(documents))
    return {**found, **code, **_under("not keyed", documents.get("not_keyed", {}))}
