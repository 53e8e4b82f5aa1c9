"""What castore makes of one set of functions, values and datasets, as JSON on standard output.

Run by test_interpreters.py in one process after another, none of which may differ. With the
argument ``torch`` what needs torch is there too.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import re
import sys
import tempfile
from collections import defaultdict, namedtuple
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import castore
from castore.identity.datasets.rules import samples_of
from castore.identity.function import Function, describe_function
from castore.identity.request import Request, identify_inputs, identify_loader

LAYERS = {"conv", "norm", "head", "pool", "stem"}
NAMES = frozenset(["a", "b", "c", "d", "e", 1, 2.5, (3,)])


class Colour(enum.Flag):
    """An enum."""

    RED = 1
    BLUE = 2


Pair = namedtuple("Pair", "left right")  # noqa: PYI024


@dataclasses.dataclass(frozen=True)
class Settings:
    """A dataclass that holds sets."""

    layers: frozenset[str] = frozenset(LAYERS)
    colour: Colour = Colour.BLUE
    scale: float = 0.1


VALUES: dict[str, Any] = {
    "constants": [None, True, 1, "1", 1.0, -0.0, 1e-300, float("inf"), 2**70, 1j, "é", "\ud800"],
    "bytes": [b"a", bytearray(b"a")],
    "sets": [LAYERS, NAMES, {frozenset([name]) for name in LAYERS}],
    "dicts": {name: {name: len(name)} for name in sorted(LAYERS)},
    "default dict": defaultdict(list, {"a": [1]}),
    "tuples": [(1, (2,)), Pair("a", {"b"}), range(3), slice(None, 2)],
    "enums": [Colour.RED, Colour.RED | Colour.BLUE],
    "dataclass": Settings(),
    "times": [
        dt.date(2026, 1, 2),
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        dt.timedelta(days=1, microseconds=1),
    ],
    "numbers": [decimal.Decimal("1.10"), np.float32(0.1), np.int64(-1), np.datetime64(1, "s")],
    "pattern": re.compile("a+", re.IGNORECASE),
    "types": [int, Settings, np.ndarray],
    "dtypes": [np.dtype("float32"), np.dtype([("a", "<i4"), ("b", "u1", 2)])],
    "arrays": [
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["a", "bc"]),
        np.array([1.5, -2], ml_dtypes.bfloat16),
    ],
    "functions": [len, np.mean, functools.partial(np.sum, axis=0)],
}


class Base:
    """A class of the user's own."""

    names = NAMES

    def scaled(self, x: float) -> float:
        """Scale."""
        return x * len(self.names)


class Extractor(Base):
    """An object that a function is bound to."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.seen = LAYERS | {"flat"}

    @property
    def size(self) -> int:
        """A number."""
        return len(self.seen)

    def extract(self, loader: Any, *, layer: str = "head") -> Any:
        """Extract."""
        match layer:
            case "head" | "pool" if layer in LAYERS:
                return [self.scaled(x) for x in loader if (y := x) is not None and y]
            case _:
                return f"{self.size!r:>{len(NAMES)}}" + f"{layer}"


def helper(x: float, scale: float = 0.1) -> float:
    """Use sets of constants, which code keeps in an order that depends on the process."""
    return x * scale if x in {1, 2, "a", "b", "c"} else -x  # type: ignore[comparison-overlap]


def extract(loader: Any, *, layers: set[str] = LAYERS) -> Any:
    """Extract."""
    from math import prod

    try:
        rows = [helper(float(np.sum(batch))) for batch in loader]
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"{layers}: {error}") from error
    return np.array(rows) * prod(len(layer) for layer in layers)


def closing_over(value: Any) -> Any:
    """Return a function that closes over a value, and a lambda that calls it."""

    def inner(loader: Any) -> Any:
        return loader, value

    return lambda loader: (inner(loader), value, LAYERS)


class Rows:
    """A dataset that names its rows."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self.classes = LAYERS

    def __len__(self) -> int:
        """Return their number."""
        return 3

    def __getitem__(self, index: int) -> Any:
        """Return one."""
        return self.transform(index)

    def __castore_row_ids__(self, indices: list[int]) -> list[str]:
        """Name them."""
        return [f"row {index}" for index in indices]


def functions() -> dict[str, Function]:
    """Identify what is computed."""
    found = {
        "plain": describe_function(extract, ""),
        "plain, named": describe_function(extract, "features", version=1),
        "method": describe_function(Extractor(layers=LAYERS, deep=[NAMES]).extract, ""),
        "partial": describe_function(functools.partial(extract, layers={"a", "b", "c"}), ""),
        "parameters": describe_function(
            None, "features", params={name: VALUES[name] for name in ("sets", "dicts", "arrays")}
        ),
    }
    for name, value in VALUES.items():
        found[f"closure over {name}"] = describe_function(closing_over(value), "")
    return found


def requests(function: Function) -> dict[str, Request]:
    """Identify what it is computed over."""
    floats = np.arange(6, dtype=np.float32).reshape(3, 2)
    own = Rows(closing_over(NAMES))
    vouched: dict[str, Any] = {"dataset_id": "isic@3"}
    asked: list[tuple[Any, dict[str, Any]]] = [
        (floats, {}),
        (floats.astype(">f8"), {}),
        ([1, "a", {"b": LAYERS}], {}),
        ((Pair(1, NAMES), Colour.RED), {}),
        (floats, {**vouched}),
        (floats, {**vouched, "row_ids": ["a", "é", "\udcff"]}),
        (floats, {**vouched, "row_ids": np.array([5, -1, 2**40])}),
    ]
    found = {str(i): identify_loader(function, x, **o) for i, (x, o) in enumerate(asked)}
    found["inputs"] = identify_inputs(function, {"bank": floats, "names": NAMES})
    samples = samples_of(own, np.arange(3))
    found["own"] = Request(function, "", {}, samples.row_ids, samples.sources)
    return found


def of_files() -> list[str]:
    """Identify files by their content."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("b", "a")]
        for path in paths:
            path.write_text(path.name)
        names = castore.file_ids(paths, root=folder)
        return [castore.fingerprint(castore.file(paths[0])), np.asarray(names).tobytes().hex()]


def of_torch() -> dict[str, str]:
    """Identify a model, a dataset and a loader."""
    import torch
    from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
            self.kept = LAYERS
            self.settings = Settings()

        def forward(self, batch: Any) -> Any:
            return self.body(batch) if self.kept else batch

    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.body[0].weight.fill_(0.5)
        model.body[0].bias.fill_(-0.5)
    data = TensorDataset(torch.arange(12.0).view(6, 2), torch.arange(6))
    joined = ConcatDataset([Subset(data, [3, -1]), data])
    loader = DataLoader(joined, 2, collate_fn=closing_over(NAMES), shuffle=True)
    function = describe_function(functools.partial(extract, layers=NAMES), "f", model=model)
    return {
        "collated": identify_loader(function, loader).key,
        "dataset": castore.fingerprint(data),
        "held": describe_function(closing_over([model, data, torch.float16]), "").table,
        "model": castore.hash_model(model),
        "table": function.table,
    }


def main() -> None:
    """Print every document and digest."""
    made = functions()
    found: dict[str, Any] = {
        "files": of_files(),
        "tables": {name: [f.table, f.derivation, f.not_keyed] for name, f in made.items()},
        "values": {name: castore.fingerprint(value) for name, value in VALUES.items()},
        "requests": {
            name: [
                request.key,
                request.derivation,
                request.sources,
                "" if request.row_ids is None else request.row_ids.tobytes().hex(),
            ]
            for name, request in requests(made["plain"]).items()
        },
    }
    if "torch" in sys.argv[1:]:
        found["torch"] = of_torch()
    json.dump(found, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
