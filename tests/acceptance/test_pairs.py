"""Thousands of pairs of requests: two keys where one component differs, one key where none does.

A request is drawn as a *choice*: one level of every component. What a choice means is built anew
for every request, and *spelled* at random: one subset can be written as a list, an array, a sampler
or a subset of a subset; the same images may lie elsewhere; arguments may come in another order.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from castore.identity.function import describe_function
from castore.identity.request import identify_loader

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402  comes with torchvision
from torch import nn  # noqa: E402
from torch.utils.data import (  # noqa: E402
    ConcatDataset,
    DataLoader,
    Dataset,
    StackDataset,
    Subset,
    TensorDataset,
)
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

PAIRS = 1000
SIZE = 9  # samples in every dataset


class Mode(enum.Enum):
    """A value of the user's own type."""

    FAST = 1
    EXACT = 2


@dataclasses.dataclass
class Settings:
    """Values of the user's own."""

    layer: int = 1
    pooling: str = "mean"


# Components: name, then levels that mean different things, each a function that builds it anew
# and may spell it as `draw` says.


def shuffled(draw, mapping):
    """Return a dict filled in another order."""
    items = list(mapping.items())
    draw.shuffle(items)
    return dict(items)


VALUES = [
    lambda draw: None,
    lambda draw: True,
    lambda draw: 1,
    lambda draw: 1.0,
    lambda draw: "1",
    lambda draw: b"1",
    lambda draw: 2,
    lambda draw: -1,
    lambda draw: -2,
    lambda draw: 0.0,
    lambda draw: -0.0,
    lambda draw: float("nan"),
    lambda draw: 1e-300,
    lambda draw: 2**70,
    lambda draw: 1j,
    lambda draw: "",
    lambda draw: "é",
    lambda draw: (1,),
    lambda draw: [1],
    lambda draw: [1, 2],
    lambda draw: [2, 1],
    lambda draw: [[1], 2],
    lambda draw: {1},
    lambda draw: frozenset({1}),
    lambda draw: set(draw.sample(["a", "b", "c", "d"], 4)),
    lambda draw: {"a": 1, "b": 2},
    lambda draw: {"b": 2, "a": 1},
    lambda draw: {1: "a"},
    lambda draw: {"1": "a"},
    lambda draw: range(3),
    lambda draw: range(0, 3, 2),
    lambda draw: slice(3),
    lambda draw: Mode.FAST,
    lambda draw: Mode.EXACT,
    lambda draw: Settings(),
    lambda draw: Settings(layer=2),
    lambda draw: Settings(pooling="max"),
    lambda draw: dt.date(2026, 1, 1),
    lambda draw: dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    lambda draw: decimal.Decimal(1),
    lambda draw: decimal.Decimal("1.0"),
    lambda draw: np.float32(1),
    lambda draw: np.float64(1),
    lambda draw: np.dtype("float32"),
    lambda draw: torch.float32,
    lambda draw: spelled_array(draw, np.arange(6.0).reshape(2, 3)),
    lambda draw: spelled_array(draw, np.arange(6.0).reshape(3, 2)),
    lambda draw: spelled_array(draw, np.arange(6, dtype=np.int64).reshape(2, 3)),
    lambda draw: torch.arange(6.0),
    lambda draw: np.arange(6, dtype=np.float32),
    lambda draw: np.array(["a", "b"]),
    lambda draw: transforms.Normalize((0.5,), (0.5,)),
    lambda draw: transforms.Normalize((0.5,), (0.25,)),
    lambda draw: transforms.Resize(4),
    lambda draw: transforms.Resize(4, transforms.InterpolationMode.NEAREST),
    lambda draw: max,
    lambda draw: np.mean,
    lambda draw: lambda x: x + 1,
    lambda draw: lambda x: x + 2,
    lambda draw: SimpleNamespace(layer=1),
    lambda draw: SimpleNamespace(layer=2),
    lambda draw: TensorDataset(torch.arange(4)),
    lambda draw: TensorDataset(torch.arange(1, 5)),
]


def spelled_array(draw, array):
    """Return an array of equal values that lies in memory in another way."""
    lay = draw.choice([np.copy, np.asfortranarray, strided, big_endian])
    return lay(array)


def strided(array):
    """Return every other row of an array with rows between."""
    return np.repeat(array, 2, axis=0)[::2]


def big_endian(array):
    """Return an array with its bytes in the other order."""
    return array.astype(array.dtype.newbyteorder(">"))


# How a function holds a value.


def in_closure(value, draw):
    """Return a function that closes over the value."""

    def features(loader):
        return loader, value

    return features


def in_default(value, draw):
    """Return a function with the value for a default."""

    def features(loader, value=value):
        return loader, value

    return features


def in_partial(value, draw):
    """Return a partial of a function; its arguments may come in any order."""

    def features(loader, value, other):
        return loader, value, other

    return functools.partial(features, **shuffled(draw, {"value": value, "other": 1}))


def in_global(value, draw):
    """Return a function that reads a global of its module."""
    space = {"__name__": __name__, "HELD": value}
    exec("def features(loader):\n    return loader, HELD", space)
    return space["features"]


class Extractor:
    """An object that a function is bound to."""

    def __init__(self, value):
        self.value = value

    def features(self, loader):
        """Return features."""
        return loader, self.value


def in_object(value, draw):
    """Return a method of an object with the value for an attribute."""
    return Extractor(value).features


class Callable:
    """An object that is called."""

    def __init__(self, value):
        self.values = {"value": value}

    def __call__(self, loader):
        """Return features."""
        return loader, self.values


def in_callable(value, draw):
    """Return an object that is called."""
    return Callable(value)


def in_inner(value, draw):
    """Return a function that calls another one, which holds the value."""

    def inner():
        return value

    return lambda loader: (loader, inner())


HOLDERS = [in_closure, in_default, in_partial, in_global, in_object, in_callable, in_inner]


# Models.


def network(*, stride=1, eps=1e-5, bias=0.0, act=nn.ReLU, train=None, hook=None, pool="mean"):
    """Build a small network with the same values every time."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=stride), nn.BatchNorm2d(2, eps=eps), act(), nn.Flatten()
    )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.fill_(number)
        model[0].bias.add_(bias)
    model.eval()
    model.pool = pool
    if train is not None:
        model[train].train()
    if hook is not None:
        model[1].register_forward_hook(hook)
    return model


def doubled(_module, _inputs, output):
    """Double an output."""
    return output * 2


MODELS = [
    None,
    *(
        functools.partial(network, **options)
        for options in (
            {},
            {"stride": 2},
            {"eps": 1e-3},
            {"bias": 1.0},
            {"act": nn.SiLU},
            {"train": 1},
            {"train": 2},
            {"hook": doubled},
            {"pool": "max"},
        )
    ),
]


def spelled_model(draw, make):
    """Build a model, in a wrapper or not."""
    if make is None:
        return None
    return draw.choice([lambda model: model, nn.DataParallel])(make())


# Datasets.


def write_images(root, changed=False):
    """Write small grey images into two class folders."""
    for number in range(SIZE):
        pixels = np.full((4, 4), 20 * number, np.uint8)
        pixels[0, 0] += changed
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two corpora that differ in one pixel of each image, each at two places."""
    found = {}
    for changed in (False, True):
        here = tmp_path_factory.mktemp("here")
        write_images(here, changed)
        there = tmp_path_factory.mktemp("mnt") / "there"
        found[changed] = [here, Path(shutil.copytree(here, there))]
    return found


def values(start=0.0, dtype=torch.float32):
    """Return SIZE rows."""
    return (torch.arange(SIZE * 3, dtype=torch.float64) + start).to(dtype).view(SIZE, 3)


def labels(start=0):
    """Return SIZE labels."""
    return torch.arange(SIZE) % 2 + start


class Own(Dataset):
    """A dataset that castore has no rule for."""

    def __init__(self, transform, **attributes):
        self.transform = transform
        self.attributes = attributes

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return self.transform(index)


class Named(Own):
    """A dataset that names its rows."""

    prefix = "a"

    def __castore_row_ids__(self, indices):
        """Name rows."""
        return [f"{self.prefix}{index}" for index in indices]


class Renamed(Named):
    """The same, of other rows."""

    prefix = "b"


def plus(number):
    """Return a transform that closes over a number."""
    return lambda sample: sample + number


def folder(root, steps=(), **options):
    """Return the images below `root`."""
    transform = transforms.Compose([*steps, transforms.ToTensor()])
    return ImageFolder(root, transform, **options)


def in_pieces(draw, data):
    """Return a dataset as it is, or cut into pieces and put together again."""
    one, two = sorted(draw.sample(range(1, SIZE), 2))
    parts = [Subset(data, range(*ends)) for ends in ((0, one), (one, two), (two, SIZE))]
    nested = ConcatDataset([ConcatDataset(parts[:2]), parts[2]])
    return draw.choice([data, ConcatDataset(parts), nested])


VERTICAL = transforms.Pad((0, 1))

#: Each returns (dataset, arguments of the request).
DATASETS = [
    lambda roots, draw: (TensorDataset(values(), labels()), {}),
    lambda roots, draw: (TensorDataset(values(1), labels()), {}),
    lambda roots, draw: (TensorDataset(values(), labels(1)), {}),
    lambda roots, draw: (TensorDataset(values(), labels().int()), {}),
    lambda roots, draw: (TensorDataset(values()), {}),
    lambda roots, draw: (TensorDataset(values(dtype=torch.float64)), {}),
    lambda roots, draw: (TensorDataset(values().bfloat16()), {}),
    lambda roots, draw: (TensorDataset(values().view(SIZE, 3, 1)), {}),
    lambda roots, draw: (TensorDataset(labels(), values()), {}),
    lambda roots, draw: (StackDataset(values(), labels()), {}),
    lambda roots, draw: (StackDataset(x=values(), y=labels()), {}),
    lambda roots, draw: (values(), {}),
    lambda roots, draw: (spelled_array(draw, values().numpy()), {}),
    lambda roots, draw: ([(float(i), i % 2) for i in range(SIZE)], {}),
    lambda roots, draw: (tuple((float(i), i % 2) for i in range(SIZE)), {}),
    lambda roots, draw: ([(i, i % 2) for i in range(SIZE)], {}),
    lambda roots, draw: ([{"x": i, "y": 0} for i in range(SIZE)], {}),
    lambda roots, draw: (in_pieces(draw, TensorDataset(values(2))), {}),
    lambda roots, draw: (in_pieces(draw, folder(draw.choice(roots[True]), [VERTICAL])), {}),
    lambda roots, draw: (folder(draw.choice(roots[False])), {}),
    lambda roots, draw: (folder(draw.choice(roots[True])), {}),
    lambda roots, draw: (folder(draw.choice(roots[False]), [transforms.Grayscale()]), {}),
    lambda roots, draw: (folder(draw.choice(roots[False]), [transforms.Resize(2)]), {}),
    lambda roots, draw: (folder(draw.choice(roots[False]), [transforms.Resize(3)]), {}),
    lambda roots, draw: (
        folder(draw.choice(roots[False]), [transforms.Lambda(lambda image: image)]),
        {},
    ),
    lambda roots, draw: (
        folder(draw.choice(roots[False]), [transforms.Lambda(lambda image: image.copy())]),
        {},
    ),
    lambda roots, draw: (folder(draw.choice(roots[False]), target_transform=plus(1)), {}),
    lambda roots, draw: (folder(draw.choice(roots[False]), target_transform=plus(2)), {}),
    lambda roots, draw: (folder(draw.choice(roots[False])), {"dataset_id": "images@1"}),
    lambda roots, draw: (Own(plus(1)), {"dataset_id": "own@1"}),
    lambda roots, draw: (Own(plus(1)), {"dataset_id": "own@2"}),
    lambda roots, draw: (Own(plus(2)), {"dataset_id": "own@1"}),
    lambda roots, draw: (
        Own(plus(1)),
        {"dataset_id": "own@1", "row_ids": [f"n{i}" for i in range(SIZE)]},
    ),
    lambda roots, draw: (
        Own(plus(1)),
        {"dataset_id": "own@1", "row_ids": [f"m{i}" for i in range(SIZE)]},
    ),
    lambda roots, draw: (Named(plus(1)), {}),
    lambda roots, draw: (Named(plus(2)), {}),
    lambda roots, draw: (Named(plus(1), size=3), {}),
    lambda roots, draw: (Renamed(plus(1)), {}),
]

ROWS = [
    list(range(SIZE)),
    list(range(SIZE - 1)),
    list(range(1, SIZE)),
    list(range(SIZE - 1, -1, -1)),
    [5, 1, 7],
    [1, 5, 7],
    [5, 1],
    [5, 1, 1],
    [0, 2, 4, 6, 8],
    [4],
]


def spelled_rows(draw, dataset, wanted, *, named):
    """Return a dataset, and options of its loader, that give the rows `wanted` in that order.

    With names for the dataset's rows it is not rearranged: whose names they are would be open.
    """
    positions = [row - SIZE if draw.random() < 0.3 else row for row in wanted]
    as_kind = draw.choice([list, tuple, np.array, torch.tensor])
    spelling = "sampler" if named else draw.choice(["subset", "sampler", "nested", "shuffle"])
    if spelling == "sampler":
        return dataset, {"sampler": draw.choice([list, np.array, torch.tensor])(wanted)}
    if spelling == "nested":
        order = draw.sample(range(SIZE), SIZE)
        return Subset(Subset(dataset, order), [order.index(row) for row in wanted]), {}
    if spelling == "shuffle" and wanted == list(range(SIZE)):
        return dataset, {"shuffle": True}
    return Subset(dataset, as_kind(positions)), {}


def pairs_of(batch):
    """Collate into a list."""
    return list(batch)


def reversed_pairs_of(batch):
    """Collate into a list, backwards."""
    return list(batch)[::-1]


def numbered(number):
    """Return a collate function that closes over a number."""
    return lambda batch: (number, batch)


COLLATES = [None, pairs_of, reversed_pairs_of, numbered(1), numbered(2), max]
BATCHES = [1, 2, 3, 4]
SUFFIXES = ["", "features", "Features"]
PARAMS = [
    None,
    {"layer": 1},
    {"layer": 2},
    {"layer": "1"},
    {"Layer": 1},
    {"layer": 1, "pool": "mean"},
    {"layer": [1, {"a": (2.0,)}]},
]
VERSIONS = [None, 1, 2, "1"]

COMPONENTS = {
    "batch_size": len(BATCHES),
    "collate": len(COLLATES),
    "dataset": len(DATASETS),
    "drop_last": 2,
    "holder": len(HOLDERS),
    "model": len(MODELS),
    "params": len(PARAMS),
    "rows": len(ROWS),
    "suffix": len(SUFFIXES),
    "value": len(VALUES),
    "version": len(VERSIONS),
}


def drawn(draw):
    """Draw a choice: a level of every component; half of them are without a model."""
    choice = {name: draw.randrange(levels) for name, levels in COMPONENTS.items()}
    return {**choice, "model": draw.choice([0, choice["model"]])}


def changed(draw, choice):
    """Return the name of a component, and the choice with another level of it alone."""
    while True:
        name = draw.choice([*COMPONENTS, "value", "dataset", "model"])
        other = {**choice, name: draw.randrange(COMPONENTS[name])}
        if means_another(name, choice, other):
            return name, other


def means_another(name, one, two):
    """Tell whether two choices that differ in one component mean two things."""
    if name in ("drop_last", "rows"):
        return rows_left(one) != rows_left(two)
    if name == "dataset" and not rows_left(one):
        return False
    if name == "holder" and SUFFIXES[one["suffix"]]:
        return False  # a suffix names what is computed: then only what the code holds counts
    return one[name] != two[name]


def rows_left(choice):
    """Return the rows that are left when the last batch may be dropped."""
    rows = ROWS[choice["rows"]]
    remainder = len(rows) % BATCHES[choice["batch_size"]] if choice["drop_last"] else 0
    return rows[: len(rows) - remainder]


def keyed(choice, roots, draw):
    """Identify what a choice means, spelled at random; return the key."""
    dataset, vouched = DATASETS[choice["dataset"]](roots, draw)
    subset, options = spelled_rows(draw, dataset, ROWS[choice["rows"]], named="row_ids" in vouched)
    batch_size, drop_last = BATCHES[choice["batch_size"]], bool(choice["drop_last"])
    if drop_last and options.get("shuffle") and SIZE % batch_size:
        options = {}  # which rows are dropped would be drawn
    workers = {"num_workers": 1, "prefetch_factor": draw.randrange(1, 4)}
    loader = DataLoader(
        subset,
        batch_size=batch_size,
        drop_last=drop_last,
        collate_fn=COLLATES[choice["collate"]],
        **options,
        **(workers if draw.random() < 0.3 else {}),
    )
    value, model = VALUES[choice["value"]](draw), spelled_model(draw, MODELS[choice["model"]])
    held = value if model is None else [value, model]
    function = describe_function(
        HOLDERS[choice["holder"]](held, draw),
        SUFFIXES[choice["suffix"]],
        params=PARAMS[choice["params"]],
        version=VERSIONS[choice["version"]],
        loader=loader,
    )
    return identify_loader(function, loader, **vouched).key


def told(choice):
    """Say what a choice is, for whoever reads a failure."""
    holder = HOLDERS[choice["holder"]].__name__
    return {**choice, "holder": holder, "rows": ROWS[choice["rows"]]}


def test_one_difference_is_another_key(roots):
    """Of 1,000 pairs of requests that differ in one component, none has one key."""
    draw, found = random.Random(1), set()
    for _ in range(PAIRS):
        choice = drawn(draw)
        name, other = changed(draw, choice)
        found.add(name)
        keys = [keyed(chosen, roots, draw) for chosen in (choice, other)]
        assert keys[0] != keys[1], (name, other[name], told(choice))
    assert found == set(COMPONENTS)


def test_no_difference_is_one_key(roots):
    """Of 1,000 pairs of requests that mean the same, spelled in two ways, all have one key."""
    draw = random.Random(2)
    for _ in range(PAIRS):
        choice = drawn(draw)
        keys = [keyed(choice, roots, draw) for _ in range(2)]
        assert keys[0] == keys[1], told(choice)


def test_every_level_is_told_from_every_other(roots):
    """Every two levels of a component, all others being equal, have two keys."""
    draw = random.Random(3)
    base = {**dict.fromkeys(COMPONENTS, 0), "batch_size": 1, "model": 1}
    for name, levels in COMPONENTS.items():
        keys = {}
        for level in range(levels):
            key = keyed({**base, name: level}, roots, draw)
            assert key not in keys, (name, keys[key], level)
            keys[key] = level
