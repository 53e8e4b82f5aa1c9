"""Datasets made of datasets: whatever is cut, joined and stacked, samples keep their rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore.errors import ConfigError, FingerprintError
from castore.identity.datasets.combined import flatten
from castore.identity.datasets.rules import samples_of

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")


def numbers(*values):
    """Make a dataset of numbers."""
    return data.TensorDataset(torch.tensor(values))


class Items(data.Dataset):
    """A dataset that reads as its list does, and names its rows."""

    def __init__(self, *items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def __castore_row_ids__(self, indices):
        return [str(self.items[i]) for i in indices]


# Subsets


def test_subsets_are_their_rows(ids):
    """A subset, nested or not, is the rows it picks, whatever type its indices have."""
    whole = numbers(0, 1, 2, 3, 4, 5)
    every = ids(whole)
    chosen = [5, 1, 1, 3]
    expected = [every[i] for i in chosen]
    for indices in (
        chosen,
        tuple(chosen),
        np.array(chosen),
        np.array(chosen, np.uint8),
        torch.tensor(chosen),
        torch.tensor(chosen, dtype=torch.int32),
        [torch.tensor(i) for i in chosen],
        [np.int64(i) for i in chosen],
        [-1, -5, 1, -3],
    ):
        assert ids(data.Subset(whole, indices)) == expected
    assert ids(data.Subset(whole, range(1, 6, 2))) == every[1:6:2]
    assert ids(data.Subset(data.Subset(whole, range(5, -1, -1)), [0, 4, -2, 2])) == expected
    assert ids(data.Subset(data.Subset(whole, []), [])) == []
    first, second = data.random_split(whole, [4, 2], torch.Generator().manual_seed(0))
    assert sorted(ids(first) + ids(second)) == sorted(every)


class Table:
    """Indices that are looked up by label, as those of a pandas.Series are."""

    def __init__(self, by_label):
        self.by_label = by_label

    def __len__(self):
        return len(self.by_label)

    def __getitem__(self, label):
        return self.by_label[label]

    def __iter__(self):
        return iter(self.by_label.values())


@pytest.mark.parametrize("kind", [dict, Table])
def test_indices_are_looked_up_as_the_subset_does(ids, kind):
    """Indices by label, shuffled, are those the subset reads, not those it would iterate over."""
    whole = numbers(10, 11, 12)
    subset = data.Subset(whole, kind({2: 0, 0: 1, 1: 2}))
    read = [subset[i][0].item() - 10 for i in range(3)]
    assert read == [1, 2, 0]
    assert ids(subset) == [ids(whole)[i] for i in read]


def test_indices_of_a_pandas_series_are_its_labels(ids):
    """A shuffled pandas.Series of indices is in the order of its labels, which a subset reads."""
    pandas = pytest.importorskip("pandas")
    whole = numbers(10, 11, 12, 13)
    shuffled = pandas.Series(range(4)).sample(frac=1, random_state=0)
    assert list(shuffled) != [0, 1, 2, 3]
    assert ids(data.Subset(whole, shuffled)) == ids(whole)


def picks(size):
    """Draw indices into `size` samples: a list, range, array or tensor, from either end."""
    if not size:
        return st.just([])
    lists = st.lists(st.integers(-size, size - 1), max_size=6)
    return st.one_of(
        lists,
        lists.map(tuple),
        lists.map(lambda found: np.array(found, np.int64)),
        lists.map(lambda found: np.array(found, np.int16)),
        lists.map(lambda found: torch.tensor(found, dtype=torch.int64)),
        st.builds(range, st.integers(0, size), st.integers(0, size)),
    )


@st.composite
def trees(draw):
    """Draw subsets and concatenations of one another, and the list of what they read."""
    kind = draw(st.sampled_from(["leaf", "subset", "concat"]))
    if kind == "leaf":
        values = draw(st.lists(st.integers(0, 9), max_size=5))
        return numbers(*values), values
    if kind == "subset":
        dataset, values = draw(trees())
        indices = draw(picks(len(values)))
        return data.Subset(dataset, indices), [values[int(i)] for i in indices]
    parts = draw(st.lists(trees(), min_size=1, max_size=3))
    return data.ConcatDataset([d for d, _ in parts]), [v for _, held in parts for v in held]


@settings(max_examples=60)
@given(st.data())
def test_row_ids_are_cut_as_lists_are(ids, draw):
    """Row ids of subsets of concatenations of subsets are what indexing lists of them gives."""
    dataset, values = draw.draw(trees())
    every = dict(zip(range(10), ids(numbers(*range(10))), strict=True))
    assert ids(dataset) == [every[value] for value in values]
    asked = list(draw.draw(picks(len(values))))
    assert ids(dataset, asked) == [every[values[int(i)]] for i in asked]


@settings(max_examples=50)
@given(st.data())
def test_nested_subsets_agree_with_reading_them(draw):
    """Flattened indices, negative ones too, are of the samples that reading the subset gives."""
    dataset = numbers(*range(7))
    for _ in range(draw.draw(st.integers(0, 3))):
        dataset = data.Subset(dataset, draw.draw(picks(len(dataset))))
    asked = [int(i) for i in draw.draw(picks(len(dataset)))]
    _, indices = flatten(dataset, np.array(asked, np.int64))
    assert indices.tolist() == [dataset[i][0].item() for i in asked]


def test_subsets_as_deep_as_memory_are_gone_through(ids):
    """Subsets nested beyond what Python calls within calls are the rows they pick."""
    dataset = numbers(0, 1, 2)
    every = ids(dataset)
    for _ in range(3001):
        dataset = data.Subset(dataset, [2, 1, 0])
    assert ids(dataset) == every[::-1]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], "index 6 .*outside"),
        ([-7, 0], "index -7 .*outside"),
        ([0.0], "float64"),
        (["a"], "one list of integers"),
        ([True], "bool"),
        ([[0, 1]], "one list of integers"),
        ([2**70], "one list of integers"),
        (np.array(["a"], object), "indices"),
        ([[0], [0, 1]], "indices"),
        (np.array([2**64 - 1], np.uint64), "outside|uint64"),
        ({"a": 1}, "cannot be read .KeyError"),
        ({0: "a"}, "one list of integers"),
    ],
    ids=str,
)
def test_indices_that_are_none_are_refused(indices, message):
    """Indices out of range, or no integers, are a FingerprintError, not a guess."""
    subset = data.Subset(numbers(0, 1, 2, 3, 4, 5), indices)
    with pytest.raises(FingerprintError, match=message):
        flatten(subset, np.arange(len(indices)))


def test_subsets_that_contain_themselves_are_refused(ids):
    """A subset of itself, or of a subset of it, is refused, not followed for ever."""
    inner = data.Subset(numbers(0, 1), [0, 1])
    outer = data.Subset(inner, [0, 1])
    inner.dataset = outer
    with pytest.raises(FingerprintError, match="a Subset contains itself"):
        ids(outer)


def test_subsets_that_pick_in_another_way_are_refused(ids):
    """A subset of the user's own type is unknown, by its name, also within others."""

    class Half(data.Subset):
        """Picks in another way."""

        def __getitem__(self, index):
            return self.dataset[0]

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    half = Half(numbers(0, 1), [0])
    for dataset in (half, data.Subset(half, [0]), data.ConcatDataset([half, half])):
        with pytest.raises(FingerprintError, match=r"cannot tell what .*Half "):
            ids(dataset)


def test_samples_that_are_made_up_have_no_end(ids):
    """FakeData makes up another sample for index -1 than for its last, so that is refused."""
    fake = pytest.importorskip("torchvision.datasets").FakeData(3, (3, 2, 2))
    assert fake[-1][0].tobytes() != fake[2][0].tobytes()
    stack = data.StackDataset(numbers(0, 1, 2), fake)
    for dataset in (fake, data.Subset(fake, [0, -1]), stack):
        asked = [-1] if dataset is not fake else [0, -1]
        with pytest.raises(FingerprintError, match=r"index -1 of .* no sample from its end"):
            ids(dataset, asked)
    joined = data.ConcatDataset([fake, fake])  # itself counts from the end
    assert ids(joined, [-1, -4]) == ids(fake, [2, 2])


# Concatenations


def test_parts_keep_their_rows(ids):
    """A sample has the row id that it has in its part, in whatever it is joined."""
    a, b = numbers(0, 1, 2), numbers(3, 4)
    joined = data.ConcatDataset([a, b])
    assert ids(joined) == ids(a) + ids(b)
    assert ids(joined, [4, -5, 2]) == [ids(b)[1], ids(a)[0], ids(a)[2]]
    assert ids(data.ConcatDataset([b, joined, numbers()])) == ids(b) + ids(joined)
    subset = data.Subset(data.ConcatDataset([data.Subset(a, [2, 0]), b]), [3, 0])
    assert ids(subset) == [ids(b)[1], ids(a)[2]]
    assert ids(data.ConcatDataset([numbers(), numbers()])) == []


def test_parts_keep_their_sources():
    """A concatenation has the sources of the parts that are asked for, each once."""
    a, b, c = numbers(0), numbers(1), Items("x", "y")
    b.split = "train"
    joined = data.ConcatDataset([a, b, c, a])
    sources = [samples_of(part, np.arange(1)).sources[0] for part in (a, b, c)]
    assert samples_of(joined, np.arange(5)).sources == sources
    assert samples_of(joined, np.array([2, 3, 0])).sources == [sources[0], sources[2]]
    assert samples_of(joined, np.array([3])).probes == (0,)
    assert samples_of(joined, np.array([0, 3, 2])).probes == (1,)


@pytest.mark.parametrize("change", [[0, 1, 2, 3], [0]], ids=["longer", "shorter"])
def test_parts_of_another_length_than_when_joined_are_refused(ids, change):
    """A concatenation counts its parts once; one that changed since gives other samples."""
    part = Items(0, 1)
    joined = data.ConcatDataset([part, numbers(7, 8)])
    part.items = change
    with pytest.raises(FingerprintError, match=r"parts have \[.*together, and it says \[2, 4\]"):
        ids(joined)


def test_concatenations_within_themselves_are_refused(ids):
    """A concatenation that is its own part is refused, not followed for ever."""
    joined = data.ConcatDataset([numbers(0, 1)])
    joined.datasets[0] = joined
    with pytest.raises(FingerprintError, match="nested too deep, or contains itself"):
        ids(joined)


def test_parts_are_refused_by_their_name(ids):
    """Among known parts it is the unknown one that is named, once, with the lines to paste."""

    class Odd(data.Dataset):
        """Says nothing of itself."""

        def __len__(self):
            return 1

    joined = data.ConcatDataset([numbers(0), data.StackDataset(numbers(0), Odd())])
    with pytest.raises(FingerprintError, match=r"^cannot tell what .*Odd \(") as caught:
        ids(joined)
    assert str(caught.value).count("cannot tell what") == 1
    assert ids(joined, [0]) == ids(numbers(0))


# Stacks


def test_stacks_are_one_of_every_part(ids):
    """A row of a stack is its parts' rows in their order, and follows them."""
    a, b, c = numbers(0, 1), numbers(5, 6), numbers(5, 7)
    first, second = ids(data.StackDataset(a, b))
    assert first != second
    assert ids(data.StackDataset(a, c)) == [first, ids(data.StackDataset(a, c))[1]]
    assert ids(data.StackDataset(a, c))[1] != second
    assert ids(data.Subset(data.StackDataset(a, b), [-1])) == [second]
    assert ids(data.StackDataset(data.Subset(a, [1, 0]), data.Subset(b, [1, 0]))) == [second, first]
    others = [ids(data.StackDataset(*parts)) for parts in ((b, a), (a,), (a, b, b))]
    assert len({first, *(other[0] for other in others)}) == 4


def test_stacks_by_name_are_their_names_too(ids):
    """A stack of named parts differs from an unnamed one, and from one under other names."""
    a, b = numbers(0, 1), numbers(5, 6)
    found = [
        ids(stack)[0]
        for stack in (
            data.StackDataset(a, b),
            data.StackDataset(x=a, y=b),
            data.StackDataset(x=a, z=b),
            data.StackDataset(y=a, x=b),
        )
    ]
    assert len(set(found)) == len(found)
    assert ids(data.StackDataset(x=a, y=b))[0] == found[1]


def test_sources_of_a_stack_are_its_own_and_its_parts():
    """A stack has a source of its own before those of its parts."""
    samples = samples_of(data.StackDataset(numbers(0), Items("x")), np.arange(1))
    own, *parts = samples.sources
    assert own == {"dataset": "torch.utils.data.StackDataset", "parts": 2}
    assert [source["dataset"] for source in parts] == ["torch.utils.data.TensorDataset", "Items"]
    assert samples.left == {"dataset.items": "builtins.list"}
    assert samples.probes == (0,)


def test_stacks_whose_parts_became_shorter_are_refused(ids):
    """A stack counts its first part once; a part that is now shorter has no such sample."""
    part = Items(0, 1, 2)
    stack = data.StackDataset(numbers(0, 1, 2), part)
    part.items = [0, 1]
    assert len(ids(stack, [0, 1])) == 2
    with pytest.raises(FingerprintError, match="index 2 is outside Items"):
        ids(stack)


def test_what_a_part_has_can_be_ignored(ids, images):
    """A part of the items that one of several datasets has can be ignored; no other."""
    folders = pytest.importorskip("torchvision.datasets")
    joined = data.ConcatDataset([numbers(0), folders.ImageFolder(str(images))])
    assert ids(joined, ignored=["target"])[0] == ids(joined)[0]
    assert ids(joined, ignored=["target"])[1] != ids(joined)[1]
    with pytest.raises(ConfigError, match="of these samples path, target can be ignored"):
        ids(joined, ignored=["label"])
    with pytest.raises(ConfigError, match="of these samples nothing can be ignored"):
        ids(joined, [0], ignored=["target"])
