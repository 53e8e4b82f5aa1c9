"""Every digest is of the document that is shown, and of all of it.

What a digest should be is computed here with xxhash and json alone.
"""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest
import xxhash

import castore
from castore.identity.datasets.rules import samples_of
from castore.identity.function import describe_function
from castore.identity.models.snapshot import snapshot
from castore.identity.request import identify_inputs, identify_loader

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402  comes with torchvision
from torch import nn  # noqa: E402
from torch.utils.data import (  # noqa: E402
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
)
from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

LAYER = 3


def canonical(document):
    """Return the canonical form of a document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(domain, data):
    """Return the digest of bytes as a thing of some kind."""
    return xxhash.xxh3_128_hexdigest(f"castore/1/{domain}\n".encode() + data)


def identity_of(domain, document):
    """Return the digest of a document."""
    return digest_of(domain, canonical(document))


def mutations(document):
    """Yield documents that differ from a document in one place."""
    if isinstance(document, dict):
        yield from (without(document, key) for key in document)
        yield from ({**without(document, key), key + "_": document[key]} for key in document)
        yield {**document, "added": None}
        for one, two in itertools.pairwise(sorted(document)):
            yield {**document, one: document[two], two: document[one]}
        for key, value in document.items():
            yield from ({**document, key: other} for other in mutations(value))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            before, after = document[:index], document[index + 1 :]
            yield [*before, *after]
            yield [*before, value, value, *after]
            yield [*before, *after[:1], value, *after[1:]]
            yield from ([*before, other, *after] for other in mutations(value))
        yield [document]
        yield [*document, None]
    else:
        yield [document]
        yield {"value": document}
        yield from others(document)


def without(document, key):
    """Return a dict without one key."""
    return {name: value for name, value in document.items() if name != key}


def others(leaf):
    """Return other values in the place of one that has no parts."""
    if isinstance(leaf, str):
        return [f"{leaf} ", leaf[1:], leaf.swapcase(), None]
    if isinstance(leaf, bool) or leaf is None:
        return [True, False, None, 0, 1, str(leaf)]
    return [leaf + 1, -leaf, str(leaf), bool(leaf), None]


def see_every_field_count(domain, document, digest):
    """See that a digest is of its document, and that no place of it can be changed unnoticed."""
    assert identity_of(domain, document) == digest
    written = {canonical(other) for other in mutations(document)} - {canonical(document)}
    assert len(written) > 4
    digests = {digest_of(domain, other) for other in written}
    assert len(digests) == len(written)
    assert digest not in digests


# What is computed


class Net(nn.Module):
    """A model with everything that a digest sees."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Dropout())
        self.pooling = {"kind": "mean", "sizes": (1, 2)}
        self.register_buffer("bank", torch.arange(3.0))

    def forward(self, batch):
        """Pool."""
        return self.body(batch).mean((2, 3))


def doubled(_module, _inputs, output):
    """Double an output."""
    return output * 2


def net():
    """Build the model."""
    torch.manual_seed(0)
    model = Net().eval()
    model.body[0].register_forward_hook(doubled)
    return model


class Extractor:
    """An object that functions are bound to."""

    def __init__(self, **attributes):
        self.attributes = attributes
        self.first, self.second = net(), nn.Linear(2, 2)

    def features(self, loader, layer=2):
        """Return features."""
        return loader, self.attributes, self.first, self.second, layer, LAYER, helper(layer)


def helper(layer):
    """Help."""
    return layer + LAYER


def plain(loader):
    """Return features."""
    return loader


PLAIN = {
    "none": None,
    "text": ("a", b"a", "\ud800"),
    "numbers": [1, 1.0, True, 2**80, 1j, float("nan")],
    "set": {1, "a", (2,)},
    "dict": {"a": 1, 2: [None, {"b": range(3)}]},
    "array": np.arange(4.0).reshape(2, 2),
    "tensor": torch.arange(3),
    "dtype": [np.dtype("float32"), torch.float16, np.float32(1)],
}
HELD = {
    **PLAIN,
    "dataset": TensorDataset(torch.arange(3)),
    "transform": transforms.Compose([transforms.Resize(4), transforms.ToTensor()]),
    "function": lambda x: x + LAYER,
}

FUNCTIONS = {
    "a plain function": lambda: describe_function(plain, ""),
    "a name": lambda: describe_function(
        None, "features", model="0" * 32, params={"a": [1]}, version=1
    ),
    "a model": lambda: describe_function(plain, "features", model=net(), version="2"),
    "an object": lambda: describe_function(Extractor(size=(4, 4), mode="a").features, ""),
    "values": lambda: describe_function(functools.partial(plain, **HELD), "features"),
    "parameters": lambda: describe_function(plain, "features", params=PLAIN),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_field_of_a_table_counts(name):
    """A table id is the digest of its derivation, and every place of that counts."""
    function = FUNCTIONS[name]()
    assert not function.not_keyed
    see_every_field_count("table", function.derivation, function.table)


def test_the_numeric_context_is_in_the_table():
    """What is set of the numeric context stands in the derivation, and counts."""
    with torch.autocast("cpu", torch.bfloat16):
        function = describe_function(plain, "features")
    assert function.derivation["numeric"]
    see_every_field_count("table", function.derivation, function.table)


def test_every_field_of_a_model_counts():
    """A model hash is the digest of the model's derivation, and every place of that counts."""
    found = snapshot(net())
    assert found.digest == castore.hash_model(net())
    see_every_field_count("model", found.derivation, found.digest)
    assert describe_function(plain, "x", model=net()).derivation["model"] == found.digest


# What it is computed over


def write_images(root):
    """Write two small images into each of two class folders; return the dataset."""
    for number in range(4):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(path)
    steps = [transforms.Resize(2), transforms.Lambda(lambda image: image), transforms.ToTensor()]
    return ImageFolder(root, transforms.Compose(steps), target_transform=lambda t: t + LAYER)


class Own(Dataset):
    """A dataset of the user's own."""

    def __init__(self):
        self.transform = transforms.Compose([lambda sample: sample + LAYER])
        self.scale = {"mean": 0.5, "size": (2, 2)}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform(index)


class Named(Own):
    """A dataset that names its rows."""

    def __castore_row_ids__(self, indices):
        """Name rows."""
        return [f"row {index}" for index in indices]


def of_arrow():
    """Return a HuggingFace dataset with a transform."""
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_dict({"x": [1.0, 2.0], "y": ["a", "b"]})
    return found.with_transform(lambda rows: {"x": torch.tensor(rows["x"]) * LAYER})


class Stream(IterableDataset):
    """Samples that cannot be asked for."""

    def __iter__(self):
        return iter([1, 2])


def collate(batch):
    """Collate."""
    return torch.stack(batch) * LAYER


ROWS = torch.arange(12.0).view(4, 3)

#: (loader, arguments) by name; a loader of images is made of the folder they are written to.
REQUESTS = {
    "an array": lambda root: (ROWS.numpy(), {}),
    "a tensor": lambda root: (ROWS, {}),
    "a list": lambda root: ([1, "a", (2.0, None)], {}),
    "tensors": lambda root: (DataLoader(TensorDataset(ROWS, ROWS.int()), 2), {}),
    "a subset": lambda root: (DataLoader(Subset(TensorDataset(ROWS), [2, -4, 2]), 2), {}),
    "parts": lambda root: (
        DataLoader(ConcatDataset([TensorDataset(ROWS), write_images(root)])), {}
    ),
    "a stack": lambda root: (DataLoader(StackDataset(x=ROWS, y=TensorDataset(ROWS))), {}),
    "images": lambda root: (DataLoader(write_images(root), 3, drop_last=True), {}),
    "batches": lambda root: (DataLoader(ROWS, 2, collate_fn=collate), {}),
    "vouched": lambda root: (DataLoader(Own()), {"dataset_id": "own@1"}),
    "vouched by name": lambda root: (
        DataLoader(Own()), {"dataset_id": "own@1", "row_ids": list("abcd")}
    ),
    "rows that name themselves": lambda root: (DataLoader(Named()), {}),
    "rows of Arrow": lambda root: (DataLoader(of_arrow(), 2), {}),
    "a stream": lambda root: (DataLoader(Stream(), 2), {"dataset_id": "stream@1"}),
    "one draw": lambda root: (
        DataLoader(Own(), shuffle=True), {"dataset_id": "own@1", "random": "freeze"}
    ),
}  # fmt: skip


def requested(name, root):
    """Identify one of the requests."""
    loader, options = REQUESTS[name](root)
    return identify_loader(describe_function(plain, "features"), loader, **options)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_field_of_a_key_counts(name, tmp_path):
    """A key is the digest of its derivation, which holds table id, variant and rows."""
    request = requested(name, tmp_path)
    see_every_field_count("key", request.derivation, request.key)
    assert request.derivation["table"] == request.function.table
    if request.row_ids is not None:
        rows = digest_of("rows", request.row_ids.tobytes())
        assert request.derivation["rows"] == [len(request.row_ids), rows]


def test_every_field_of_inputs_counts():
    """The key of a result that belongs to no loader is the digest of its inputs."""
    request = identify_inputs(describe_function(plain, "features"), {"a": PLAIN["dict"], "b": ROWS})
    see_every_field_count("key", request.derivation, request.key)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_field_of_a_source_counts(name, tmp_path):
    """A source's digest, which is in every row id, changes with every place of the source."""
    for source in requested(name, tmp_path).sources:
        see_every_field_count("source", source, identity_of("source", source))


def items_of(name, root):
    """Return what makes the rows of a request: the kind of the items, then each one's bytes."""
    if name in ("an array", "a tensor"):
        return 'rows[["float32",[3]]]', [row.tobytes() for row in ROWS.numpy()]
    if name == "a list":
        texts = ["1", '"a"', '{"tuple":[{"float":"2.0"},null]}']
        return "value", [text.encode() for text in texts]
    if name == "tensors":
        pairs = zip(ROWS.numpy(), ROWS.int().numpy(), strict=True)
        return 'rows[["float32",[3]],["int32",[3]]]', [a.tobytes() + b.tobytes() for a, b in pairs]
    if name == "images":
        paths = sorted(root.rglob("*.png"))[:3]
        return "file+class+path", [image_item(path, root) for path in paths]
    if name == "vouched by name":
        return "name", [letter.encode() for letter in "abcd"]
    if name == "rows that name themselves":
        return "name", [f"row {index}".encode() for index in range(4)]
    raise AssertionError(name)


def image_item(path, root):
    """Return the bytes of an image's item: content digest, class number, relative path."""
    target = "ab".index(path.parent.name)
    content = xxhash.xxh3_128_digest(path.read_bytes())
    return content + target.to_bytes(8, "little") + str(path.relative_to(root)).encode()


@pytest.mark.parametrize(
    "name",
    [
        "an array",
        "a tensor",
        "a list",
        "tensors",
        "images",
        "vouched by name",
        "rows that name themselves",
    ],
)
def test_a_row_id_is_of_its_source_and_item(name, tmp_path):
    """A row id is the digest of the source that is shown and of every bit of the item."""
    request = requested(name, tmp_path)
    (source,) = request.sources
    kind, items = items_of(name, tmp_path)
    domain = f"row/{kind}/{identity_of('source', source)}"
    found = [row.tobytes().hex() for row in request.row_ids]
    assert found == [digest_of(domain, item) for item in items]
    for item, row_id in zip(items, found, strict=True):
        flipped = {digest_of(domain, flip(item, bit)) for bit in range(8 * len(item))}
        assert len(flipped | {row_id}) == 8 * len(item) + 1


def flip(data, bit):
    """Return bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_parts_keep_their_rows(tmp_path):
    """Rows of a concatenation are those of its parts, whose sources are all shown."""
    data = [TensorDataset(ROWS), write_images(tmp_path)]
    parts = [samples_of(part, np.arange(4)) for part in data]
    joined = samples_of(ConcatDataset(data), np.arange(8))
    assert joined.sources == [source for part in parts for source in part.sources]
    assert np.array_equal(joined.row_ids, np.concatenate([part.row_ids for part in parts]))


# What a store keeps of it


@pytest.mark.parametrize("name", REQUESTS)
def test_a_store_keeps_the_preimages(name, tmp_path):
    """What an entry says it was derived from has its table id and its key for digests."""
    loader, options = REQUESTS[name](tmp_path)
    store = castore.open(f"memory://preimages-{name.replace(' ', '-')}")

    def count(loader, model=net()):  # noqa: B008  a default is captured
        assert not model.training
        return {"batches": sum(1 for _ in loader)}

    store.get_or_compute(loader, count, "features", **options)
    (info,) = store.entries()
    assert identity_of("table", info.derivation["table"]) == info.table
    assert identity_of("key", info.derivation["entry"]) == info.key
    assert info.derivation["table"]["model"] == castore.hash_model(net())
    assert info.derivation["sources"] == requested(name, tmp_path).sources
