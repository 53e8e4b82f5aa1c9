"""What a key is made of, as people read it."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import castore
from castore.cli.derivation import sections

SCALE = 1.5


def shown(store):
    """Sections of the only entry of a store, each a dict of texts by name."""
    (entry,) = store.entries()
    return {title: dict(lines) for title, lines in sections(entry.derivation)}


def named(word, found):
    """The only section whose title begins with `word`."""
    (title,) = [title for title in found if title.startswith(word)]
    return found[title]


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return castore.open(tmp_path / "store")


class Extractor:
    """A callable object with something of every kind."""

    def __init__(self, layer, bank):
        self.layer = layer
        self.bank = bank
        self.stream = np.random.default_rng(0)

    def __call__(self, samples):
        """Give the mean."""
        return samples.mean(1) * SCALE


def test_each_part_has_a_section(store):
    """Function, loader, samples, what is recorded and what is not keyed stand apart."""
    store.get_or_compute(np.zeros((3, 2)), Extractor(2, "pca"), "s", model=None, version=2)
    assert [title.partition(":")[0] for title in shown(store)] == [
        *["keyed"] * 3,
        "recorded, in no key",
        "not keyed",
    ]


def test_an_object_is_written_as_a_call(store):
    """An object is its class with its attributes, at the path where it was found."""
    store.get_or_compute(np.zeros((3, 2)), Extractor(2, "pca"), "s", model=None)
    found = shown(store)
    assert named("keyed: function", found)["fn"] == "Extractor(bank='pca', layer=2)"
    assert named("not keyed", found)["fn.stream"].endswith("Generator")


def test_a_large_object_has_a_line_for_each_attribute(store):
    """An object with more than a line of attributes shows each under its own path."""
    store.get_or_compute(np.zeros((3, 2)), Extractor(2, "pca" * 50), "s", model=None)
    found = named("keyed: function", shown(store))
    assert found["fn"] == "Extractor()"
    assert found["fn.layer"] == "2"
    assert found["fn.bank"] == repr("pca" * 50)


def test_long_values_are_cut(store):
    """A value of thousands of characters shows its beginning and how long it is."""
    store.get_or_compute(np.zeros((3, 2)), len, "s", model=None, params={"text": "x" * 5000})
    text = named("keyed: function", shown(store))["params.text"]
    assert len(text) < 250
    assert text.endswith("xxx… (5,002 characters)")


def test_code_is_keyed_or_recorded_and_shown_once(store):
    """Without a suffix code stands with what is keyed, with one with what is recorded."""
    for suffix, where in (("", "keyed: function"), ("s", "recorded")):
        store.get_or_compute(np.zeros((3, 2)), lambda x: x.sum(1), suffix, model=None)
        entries = [entry for entry in store.entries() if entry.suffix == suffix]
        found = {title: dict(lines) for title, lines in sections(entries[0].derivation)}
        holding = [title for title, lines in found.items() if "fn" in lines]
        assert [title.startswith(where) for title in holding] == [True]
        assert len(found[holding[0]]["fn"]) == len("code 01234567")


def test_what_was_ignored_is_recorded(store):
    """A captured value that `ignore=` left out is shown with the value it had."""
    fn = functools.partial(np.mean, axis=1)
    store.get_or_compute(np.zeros((3, 2)), fn, "s", model=None, ignore=("fn.axis",))
    found = shown(store)
    assert named("recorded", found)["ignored fn.axis"] == "1"
    assert "fn.axis" not in named("keyed: function", found)


def test_inputs_have_a_section_of_their_own(store):
    """What `compute` was given is shown by name."""
    store.compute(lambda x, n: x * n, suffix="s", inputs={"x": np.zeros((2, 3)), "n": 2})
    found = shown(store)
    assert named("keyed: inputs", found)["n"] == "2"
    assert not [title for title in found if title.startswith(("keyed: loader", "keyed: samples"))]


def test_no_digest_is_whole_but_the_models(store):
    """Digests are cut to what tells one from another; a model's can be pasted as ``model=``."""
    digest = hashlib.md5(b"model", usedforsecurity=False).hexdigest()
    store.get_or_compute(np.zeros((3, 2)), lambda x: x, "s", model=digest)
    texts = [text for lines in shown(store).values() for text in lines.values()]
    assert [text for text in texts if max(map(len, text.split())) >= 32] == [digest]


paths = st.lists(
    st.sampled_from(["a", "b1", "[2]", "[10]", ".c", ".d", ": global E"]), min_size=1, max_size=4
).map("".join)


@given(st.dictionaries(paths, st.integers(), max_size=8))
def test_every_captured_value_is_shown(values):
    """Whatever the paths, each value of a source has a line, in the order of the paths."""
    source = {"dataset": "array", "captured": values}
    ((_, lines),) = sections({"sources": [source]})
    assert sorted(text for _, text in lines[1:]) == sorted(map(str, values.values()))


def test_what_is_inside_stands_below():
    """Names are cut to what they add to the line above them, and numbers are counted."""
    values = {"t.parts[10]": 3, "t.parts[9]": 2, "t": 1, "t.parts[9]: global G": 4, "to": 5}
    ((_, lines),) = sections({"sources": [{"dataset": "array", "captured": values}]})
    assert lines[1:] == [
        ("t", "1"),
        ("  parts[9]", "2"),
        ("    global G", "4"),
        ("  parts[10]", "3"),
        ("to", "5"),
    ]


def test_an_object_met_again_keeps_its_class():
    """Of two objects of one class the second says its class by where the first is."""
    values = {
        "a.__class__": {"type": "mine.Crop"},
        "a.size": 2,
        "b.__class__": {"same": "a.__class__"},
        "b.size": 3,
    }
    ((_, lines),) = sections({"sources": [{"captured": values}]})
    assert lines == [("a", "Crop(size=2)"), ("b", "Crop(size=3)")]


def loader_of(dataset, **options):
    """A DataLoader."""
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(dataset, batch_size=2, **options)


def count_batches(loader):
    """Give a row a sample."""
    return np.zeros((sum(len(batch[0]) for batch in loader), 1))


def test_a_loader_shows_batch_size_and_collate(store):
    """A collate function of one's own is shown by code and values, else torch's is named."""
    torch = pytest.importorskip("torch")
    factor = 3
    dataset = torch.utils.data.TensorDataset(torch.zeros(4, 2))
    collate = lambda batch: [torch.stack([item[0] * factor for item in batch])]  # noqa: E731
    store.get_or_compute(loader_of(dataset, collate_fn=collate), count_batches, "a", model=None)
    found = named("keyed: loader", shown(store))
    assert found["batch_size"] == "2"
    assert found["collate_fn"].startswith("code ")
    assert found["  factor"] == "3"
    store.delete(next(store.entries()).key)
    store.get_or_compute(loader_of(dataset), count_batches, "a", model=None)
    assert named("keyed: loader", shown(store))["collate"] == "torch's own"


def test_each_source_has_a_section(store, tmp_path):
    """The parts of a ConcatDataset are shown one by one, transforms with their parameters."""
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("torchvision.datasets")
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    parts = []
    for size in (4, 6):
        folder = tmp_path / str(size) / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0.png")
        chain = [transforms.Resize(size), transforms.ToTensor(), lambda x: x * SCALE]
        parts.append(datasets.ImageFolder(folder.parent, transforms.Compose(chain)))
    both = torch.utils.data.ConcatDataset(parts)
    loader = torch.utils.data.DataLoader(both)
    store.get_or_compute(loader, count_batches, "s", model=None)
    found = shown(store)
    assert named("keyed: samples", {t: v for t, v in found.items() if "source" not in t})
    for number, size in enumerate((4, 6), 1):
        source = found[f"keyed: samples, source {number} of 2"]
        assert source["dataset"] == "torchvision.datasets.ImageFolder"
        assert source["transform"] == "Compose()"
        assert source["  transforms[0]"].startswith("Resize(")
        assert f"size={size}" in source["  transforms[0]"]
        assert source["  transforms[1]"] == "ToTensor()"
        assert source["    global SCALE"] == "1.5"
        assert source["decoder PIL"].startswith("by what it makes of pictures, ")
