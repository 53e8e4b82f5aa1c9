"""What is ignored of a request: parts of the variant, of items, captured values."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import castore
from castore.errors import ConfigError
from castore.identity.function import describe_function
from castore.identity.request import identify_loader

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

DATA = TensorDataset(torch.arange(12.0).reshape(6, 2))


def rows(loader):
    """Return every sample as a row."""
    return torch.cat([x for (x,) in loader])


def with_batches(size, **options):
    """Return a loader of a batch size."""
    return DataLoader(DATA, batch_size=size, **options)


def pair(samples):
    """Collate as the user wants."""
    return [torch.stack([x for (x,) in samples])]


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path)


def ask(store, loader, **options):
    """Ask for the rows of a loader."""
    return store.get_or_compute(loader, rows, "x", model=None, **options)


def test_an_ignored_batch_size_answers_from_any(store):
    """A request that ignores the batch size is answered by an entry with another, as stored."""
    ask(store, with_batches(2))
    ask(store, with_batches(3))
    assert store.stats().commits == 2
    found = ask(store, with_batches(4), ignore=("batch_size",))
    assert np.array_equal(found, DATA.tensors[0])
    assert store.stats().hits == 1
    assert store.stats().commits == 2


def test_what_is_stored_while_ignoring_keeps_its_own_key(store):
    """An entry stored by a request that ignores answers those that do not, under its own value."""
    ask(store, with_batches(4), ignore=("batch_size",))
    ask(store, with_batches(4))
    assert store.stats().hits == 1
    ask(store, with_batches(5))
    assert store.stats().commits == 2


def test_only_what_is_ignored_may_differ(store):
    """Another collate is no answer where the batch size is ignored, unless it is ignored too."""
    ask(store, with_batches(2, collate_fn=pair))
    ask(store, with_batches(3), ignore=("batch_size",))
    assert store.stats().hits == 0
    ask(store, with_batches(6, collate_fn=pair), ignore=("batch_size", "collate"))
    assert store.stats().hits == 1


def test_the_newest_of_several_answers(store):
    """Of several entries that would do, the one published last answers."""

    def numbered(number):
        return store.put(with_batches(number), np.full((6, 1), number), "x", model=None)

    for size in (2, 3, 5):
        numbered(size)
    infos = {info.derivation["entry"]["variant"]["batch_size"]: info for info in store.entries()}
    newest = max(infos.values(), key=lambda info: info.created)
    found = store.get(with_batches(4), None, "x", model=None, ignore=("batch_size",))
    assert found[0, 0] == newest.derivation["entry"]["variant"]["batch_size"]


def test_what_is_not_there_cannot_be_ignored(store):
    """A name that is no part of the key is refused, with those that are."""
    for name in ("batch-size", "target", "fn.k"):
        with pytest.raises(ConfigError, match="can be ignored"):
            ask(store, with_batches(2), ignore=(name,))
    with pytest.raises(ConfigError, match="give a tuple"):
        ask(store, with_batches(2), ignore="batch_size")


def test_ignored_items_are_left_out_of_row_ids(store, tmp_path):
    """Files with other targets have the same rows where targets are ignored."""
    pytest.importorskip("torchvision")
    pictures = pytest.importorskip("PIL.Image")
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    for name in ("cat/1.png", "dog/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.fromarray(np.full((4, 4, 3), len(name), np.uint8)).save(path)

    def means(loader):
        return torch.cat([images.mean((1, 2, 3)) for images, _ in loader])

    def look(indices=None):
        dataset = ImageFolder(str(tmp_path / "images"), transform=ToTensor())
        dataset = torch.utils.data.Subset(dataset, indices or range(len(dataset)))
        return store.get_or_compute(
            DataLoader(dataset), means, "means", model=None, ignore=("target",)
        )

    first = look()
    (tmp_path / "images/ant").mkdir()
    pictures.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images/ant/0.png")
    assert np.array_equal(look([1, 2]), first)
    assert store.stats().hits == 1


def test_an_entry_that_is_not_what_its_key_says_answers_nobody():
    """Where a key is not asked for itself, the derivation beside it must be its preimage."""
    loader = with_batches(4)
    function = describe_function(rows, "x", model=None, ignore=("batch_size",))
    request = identify_loader(function, loader)
    other = identify_loader(function, with_batches(2))
    assert request.answers(other.derivation, other.key)
    assert not request.answers(other.derivation, request.key)
    for forged in (None, [], {**other.derivation, "rows": [6, "0" * 32]}):
        assert not request.answers(forged, other.key)


def test_true_is_not_one_in_a_variant(tmp_path):
    """A part of the variant that is True does not answer where 1 is asked for."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(6.0))

    def named(samples, k):
        return [str(k)] * len(samples)

    def lists(loader):
        return [text for batch in loader for text in batch]

    store = castore.open(tmp_path)
    found = [
        store.get_or_compute(
            torch.utils.data.DataLoader(data, batch_size=size, collate_fn=partial(named, k=k)),
            lists, "names", model=None, ignore=("batch_size",),
        )[0]
        for size, k in ((2, True), (3, 1))
    ]  # fmt: skip
    assert found == ["True", "1"]
