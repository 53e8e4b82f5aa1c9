"""Functions, objects and datasets whose descriptions are golden: each shows one rule."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import re
import uuid
from typing import Any

import numpy as np

from castore.canonical import dumps, identify
from castore.digest import identity
from castore.identity import rows
from castore.identity.datasets.rules import samples_of
from castore.identity.describe import describe, document_of

LAYER = 3
BANK = np.arange(3, dtype=np.float32)
SOURCE = "0123456789abcdeffedcba9876543210"


class Mode(enum.Enum):
    """A choice with a method."""

    FAST = 1

    def speed(self):
        """Use a global."""
        return LAYER


@dataclasses.dataclass
class Settings:
    """A data class with a method."""

    layer: int = 2

    def twice(self):
        """Use an attribute."""
        return self.layer * 2


class Scale:
    """An object that is called."""

    unit = "px"

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, value):
        """Scale."""
        return value * self.by


class Said:
    """An object that says what identifies it."""

    def __castore_fingerprint__(self):
        return {"version": 1}


def helper(x):
    """Use a global."""
    return x * LAYER


def uses_globals(loader):
    """Use a global, a function, an array, and a library."""
    return [helper(x) + LAYER + np.linalg.norm(BANK) for x in loader]


def enclosing(k):
    """Make a function with `k` in its closure."""

    def fn(loader):
        return loader, k

    return fn


def defaulted(loader, layer=3, *, scale=0.5):
    """Use default arguments."""
    return loader, layer, scale


def recursive(loader):
    """Call itself."""
    return recursive(loader[1:]) if loader else 0


def looped() -> list[Any]:
    """Make a list that contains itself."""
    held: list[Any] = [helper]
    held.append(held)
    return held


ONE = Scale(1.0)

OBJECTS: dict[str, Any] = {
    "closure": enclosing(3),
    "closure over text": enclosing("3"),
    "default arguments": defaulted,
    "partial": functools.partial(defaulted, layer=4),
    "globals": uses_globals,
    "recursion": recursive,
    "callable object": Scale(2.0),
    "bound method": Settings(3).twice,
    "class": Scale,
    "own enum": enclosing(Mode.FAST),
    "own data class": enclosing(Settings()),
    "list of objects": enclosing([Scale(1.0), Scale(2.0)]),
    "the same twice": enclosing([ONE, ONE]),
    "a list in itself": enclosing(looped()),
    "ordered dict": enclosing(collections.OrderedDict(a=helper)),
    "namespace": enclosing(argparse.Namespace(layer=3, fn=helper)),
    "what says itself": enclosing([Said()]),
    "library function": np.linalg.norm,
    "array": enclosing(BANK),
}

VALUES: dict[str, Any] = {
    "date": dt.date(2026, 11, 20),
    "time of day": dt.time(12, 30, fold=1),
    "date and time": dt.datetime(2026, 11, 20, 12, 30, tzinfo=dt.UTC),
    "duration": dt.timedelta(days=1, microseconds=5),
    "time zone": dt.timezone(dt.timedelta(hours=2)),
    "decimal": decimal.Decimal("1.50"),
    "fraction": fractions.Fraction(2, 4),
    "pattern": re.compile(r"\d+", re.IGNORECASE),
    "uuid": uuid.UUID(int=5),
    "library function": np.mean,
    "universal function": np.add,
    "what says itself": Said(),
}
# They go by their types' modules, which are called the same however this file is run.
Said.__module__ = "golden"


class Named:
    """A dataset that names its rows."""

    def __init__(self) -> None:
        self.paths = ["/data/a.png", "/data/b.png"]
        self.root = "/data"
        self.size = 224
        self.transform = Scale(0.5)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.size + index)

    def __castore_row_ids__(self, indices):
        return [self.paths[index].removeprefix("/data/") for index in indices]


class Fingerprinted:
    """A dataset that says what it is."""

    def __init__(self) -> None:
        self.transform = Scale(0.5)

    def __len__(self) -> int:
        return 2

    def __castore_fingerprint__(self):
        return "isic-2020@3"


DATASETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "array": (BANK, {}),
    "list": ([(1, "a")], {}),
    "tuple": (((1, "a"),), {}),
    "names its rows": (Named(), {}),
    "says what it is": (Fingerprinted(), {}),
    "vouched by index": (Named.__new__(Fingerprinted), {"dataset_id": "isic-2020@3"}),
    "vouched with names": (Fingerprinted(), {"dataset_id": "x@1", "names": ["a"]}),
    "vouched with its own names": (Named(), {"dataset_id": "x@1"}),
}


def objects() -> dict[str, Any]:
    """Describe every object: the document of what was found, and its digest."""
    return {name: _document("object", _described(value)) for name, value in OBJECTS.items()}


def sources() -> dict[str, Any]:
    """Describe the source of every dataset; and its first row id, beside."""
    found = {}
    for name, (dataset, options) in DATASETS.items():
        samples = samples_of(dataset, np.arange(1), **options)
        found[name] = _document("source", samples.sources[0])
        found[f"row of {name}"] = {"row": samples.row_ids.tobytes().hex()}
    return found


def items() -> dict[str, Any]:
    """Compute a row id of every kind of item that a file makes."""
    content, other = bytes(range(16)), bytes(range(16, 32))
    target = (5).to_bytes(8, "little")
    encoded = identity("row/target/", dumps([{"label": 5}]))
    times = (20).to_bytes(8, "little") + (10**18).to_bytes(8, "little")
    kinds = {
        "file+class+path": (content + target, b"cat/1.png"),
        "file+class": (content + target, b""),
        "file+path": (content, b"cat/1.png"),
        "file": (content, b""),
        "file+target+path": (content + bytes.fromhex(encoded), b"cat/1.png"),
        "filex2+path": (content + other, b"cat/1.jpg"),
        "stat+class+path": (times + target, b"cat/1.png"),
        "stack": (content + other, b""),
        "digest": (content, b""),
    }
    return {
        kind: {
            "preimage_hex": (f"castore/1/row/{kind}/{SOURCE}\n".encode() + fixed + name).hex(),
            "digest": rows.from_parts(SOURCE, kind, np.frombuffer(fixed, "u1")[None], [name])
            .tobytes()
            .hex(),
        }
        for kind, (fixed, name) in kinds.items()
    }


def _described(value: Any) -> Any:
    return document_of(describe({"value": value}))


def _document(domain: str, document: Any) -> dict[str, str]:
    preimage = f"castore/1/{domain}\n{dumps(document).decode()}"
    return {"preimage": preimage, "digest": identify(domain, document)}
