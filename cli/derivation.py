"""What a key is made of, part by part, as people read it: what `castore info` shows of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from castore.canonical import Json
from castore.cli.quantities import count
from castore.explain.comparing import inputs_of
from castore.readable import last, readable

__all__ = ["Line", "Lines", "sections"]

#: Name and text, or whatever cells a line has: equally many in all lines of a section.
Line: TypeAlias = tuple[str, ...]
Lines: TypeAlias = list[Line]

#: What a derivation says about its own form, or what stands elsewhere in it.
_PLUMBING = frozenset(["captured", "decoders", "format", "functions", "rows", "table"])
#: Characters of one value, and of an object with its parameters, before they are cut or parted.
_VALUE, _CALL = 200, 100
#: What it means that nothing is said.
_UNSET = {"batch_size": "none: sample by sample", "collate": "torch's own"}
_CLASS = ".__class__"
_NUMBER, _DIGITS = re.compile(r"[0-9]+"), 12
#: What stands between an object and what is in it, and what sorts before all else.
_SEPARATORS = ".[:"
_INSIDE = str.maketrans(_SEPARATORS, "\0\1\2")


def sections(documents: Mapping[str, Any]) -> Iterator[tuple[str, Lines]]:
    """Yield what is keyed, recorded and not keyed: titles with lines; no part that is empty.

    Parameters
    ----------
    documents : mapping
        The derivation of a manifest: ``table``, ``entry``, ``sources``, ``recorded``,
        ``not_keyed``.
    """
    entry, recorded = documents.get("entry", {}), documents.get("recorded", {})
    parts: list[tuple[str, Lines]] = [
        ("keyed: function", _function(documents.get("table", {}), recorded)),
        ("keyed: inputs", [(n, _value(v)) for n, v in sorted(inputs_of(entry).items())]),
        ("keyed: content", _content(entry.get("hierarchy", {}))),
        ("keyed: loader", list(_loader(entry.get("variant", {})))),
        *_samples(entry, documents.get("sources", [])),
        ("recorded, in no key", list(_recorded(recorded, documents.get("table", {})))),
        (
            "not keyed: castore has no rule for these; see its guide on keys",
            sorted(documents.get("not_keyed", {}).items()),
        ),
    ]
    yield from ((title, lines) for title, lines in parts if lines)


def _function(table: Mapping[str, Any], recorded: Mapping[str, Any]) -> Lines:
    """Return what is computed: names first, then what was found in the function."""
    lines: Lines = [("suffix", table["suffix"])] if table.get("suffix") else []
    if table.get("version") is not None:
        lines.append(("version", _value(table["version"])))
    lines += _models(table.get("model"), recorded.get("models", []))
    params = table.get("params", {}).get("dict", [])
    lines += [(f"params.{_plain(name)}", _value(value)) for name, value in params]
    lines += _found(table)
    lines += [(f"numeric.{name}", _plain(v)) for name, v in table.get("numeric", {}).items()]
    return [*lines, *_others(table, "suffix", "version", "model", "params", "numeric")]


def _content(hierarchy: Mapping[str, Any]) -> Lines:
    """Return what a hierarchy goes by that was committed without inputs."""
    digest = hierarchy.get("content")
    return [("all files", f"by name and bytes, digest {_short(digest)}")] if digest else []


def _models(model: Json, paths: list[str]) -> Lines:
    if isinstance(model, dict) and "file" not in model:
        return [(f"model {path}", _plain(digest)) for path, digest in sorted(model.items())]
    found = f" ({paths[0]})" if len(paths) == 1 and not paths[0].startswith("model[") else ""
    return [] if model is None else [("model", f"{_plain(model)}{found}")]


def _loader(variant: Mapping[str, Any]) -> Iterator[Line]:
    if variant.get("whole"):
        yield "batch_size", "none: all samples at once"
        variant = {n: v for n, v in variant.items() if n not in ("batch_size", "collate", "whole")}
    for name, value in variant.items():
        if isinstance(value, dict) and _PLUMBING & value.keys():
            yield from _nested(_found(value))
        else:
            yield name, _UNSET.get(name, "none") if value is None else _plain(value)


def _samples(
    entry: Mapping[str, Any], sources: list[dict[str, Any]]
) -> Iterator[tuple[str, Lines]]:
    """Yield the rows with their source; where there are several, a section a source."""
    rows = entry.get("rows")
    listed: Lines = (
        [] if rows is None else [("rows", f"{count(rows[0])}, digest {_short(rows[1])}")]
    )
    if len(sources) == 1:
        yield "keyed: samples", [*listed, *_source(sources[0])]
        return
    yield "keyed: samples", listed
    for number, source in enumerate(sources, 1):
        yield f"keyed: samples, source {number} of {len(sources)}", _source(source)


def _source(source: Mapping[str, Any]) -> Lines:
    names = [name for name in ("dataset_id", "dataset") if name in source]
    lines: Lines = [(name, _plain(source[name])) for name in names]
    lines += [*_others(source, *names), *_nested(_found(source))]
    for library, digest in source.get("decoders", {}).items():
        lines.append((f"decoder {library}", f"by what it makes of pictures, {_short(digest)}"))
    return lines


def _recorded(recorded: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Line]:
    if "functions" not in table:
        for path, digest in _ordered(recorded.get("functions", {})):
            yield path, _code(digest)
    for path, value in _ordered(recorded.get("ignored", {})):
        yield f"ignored {path}", _value(value)
    if len(recorded.get("models", [])) > 1:
        yield "models", ", ".join(recorded["models"])
    for name, value in recorded.items():
        if name not in ("functions", "ignored", "models"):
            yield name, _listed(value) if isinstance(value, dict) else _plain(value)


def _others(document: Mapping[str, Any], *shown: str) -> Lines:
    """Return what else a document says, written as it is."""
    rest = document.keys() - _PLUMBING - set(shown)
    return [(name, _plain(document[name])) for name in sorted(rest)]


def _found(document: Mapping[str, Any]) -> Lines:
    """Return code and values by their path; an object as a call, where that is short.

    An object stands in a document as its class and, each under its own path, its attributes.
    """
    values = document.get("captured", {})
    functions = {p: c for p, c in document.get("functions", {}).items() if p not in values}
    calls = _calls(values)
    inside = {path for members in calls.values() for path in members.values()}
    lines: dict[str, str] = {path: _code(digest) for path, digest in functions.items()}
    for path, value in values.items():
        owner = path.removesuffix(_CLASS)
        if owner in calls and owner != path:
            given = [f"{n}={_value(values[p])}" for n, p in calls[owner].items()]
            lines[owner] = f"{_type(value, values)}({', '.join(given)})"
        elif path not in inside and not _is_empty(path, value):
            lines[path] = _value(value)
    return list(_ordered(lines))


def _type(value: Json, values: Mapping[str, Any]) -> str:
    """Return the name of a class, which may have been met before."""
    if isinstance(value, dict) and "same" in value:
        value = values.get(value["same"])
    return last(readable(value))


def _calls(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return objects by path, each with the paths of its attributes by name.

    Of an object with many of them, none: they have lines of their own.
    """
    owners = [path.removesuffix(_CLASS) for path in values if path.endswith(_CLASS)]
    calls: dict[str, dict[str, str]] = {path: {} for path in owners}
    for path, value in values.items():
        owner, _, name = path.rpartition(".")
        is_attribute = name.isidentifier() and name != "__class__" and path not in calls
        if owner in calls and is_attribute and not _is_empty(path, value):
            calls[owner][name] = path
    for members in calls.values():
        if sum(len(name) + len(_value(values[path])) for name, path in members.items()) > _CALL:
            members.clear()
    return calls


def _is_empty(path: str, value: Json) -> bool:
    """Tell whether it is what every module of torch has, whatever it does."""
    return path.endswith("._modules") and value == {"dict": []}


def _ordered(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield by path: what is inside comes next, and ``[10]`` after ``[9]``."""

    def place(item: tuple[str, Any]) -> str:
        path = item[0].translate(_INSIDE)
        return _NUMBER.sub(lambda found: found[0].zfill(_DIGITS), path)

    return iter(sorted(named.items(), key=place))


def _nested(lines: Lines) -> Iterator[Line]:
    """Yield lines by the rest of their path, below and to the right of what they are in."""
    above: list[str] = []
    for path, text in lines:
        while above and not _is_inside(path, above[-1]):
            above.pop()
        rest = path.removeprefix(above[-1]).lstrip(".: ") if above else path
        yield f"{'  ' * len(above)}{rest}", text
        above.append(path)


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith(tuple(outer + separator for separator in _SEPARATORS))


def _code(digest: str) -> str:
    return f"code {digest}" if digest.startswith("as ") else f"code {_short(digest)}"


def _short(digest: str) -> str:
    return digest[:8]


def _plain(value: Json) -> str:
    """Write castore's own words without quotes."""
    return value if isinstance(value, str) else _value(value)


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())


def _value(value: Json) -> str:
    text = readable(value)
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}… ({len(text):,} characters)"
