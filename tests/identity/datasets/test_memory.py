"""Samples in memory, by their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.errors import ConfigError, FingerprintError
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import length_of


def test_rows_of_an_array_go_by_their_bytes(ids):
    """Equal rows have one row id, different rows have different ones, in any order."""
    array = np.array([[1, 2], [3, 4], [1, 2]], np.float32)
    a, b, c = ids(array)
    assert a == c != b
    assert ids(array, [1, 0, 1]) == [b, a, b]
    assert ids(np.asfortranarray(array)) == ids(array.astype(">f4")) == [a, b, c]


def test_rows_of_an_array_keep_dtype_and_shape(ids):
    """Rows of equal bytes under another dtype or shape are other rows."""
    arrays = [
        np.zeros((2, 4), np.uint8),
        np.zeros((2, 4), np.int8),
        np.zeros((2, 1), np.float32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros(2, np.int32),
        np.zeros((2, 0)),
        np.zeros((2, 5, 0)),
    ]
    assert len({ids(array)[0] for array in arrays}) == len(arrays)


def test_a_row_does_not_depend_on_its_neighbours(ids):
    """Rows keep their ids when a dataset grows or is cut."""
    array = np.arange(12.0).reshape(6, 2)
    assert ids(array[2:4]) == ids(array)[2:4]


def test_arrays_of_nothing_have_no_rows(ids):
    """An empty array has no rows, whatever its shape."""
    assert ids(np.zeros((0, 3))) == ids(np.zeros(0)) == ids([]) == []


def test_arrays_without_rows_are_refused(ids):
    """An array without a first axis, or of a dtype without a rule, is refused."""
    with pytest.raises(FingerprintError, match="no length"):
        length_of(np.array(1.0))
    with pytest.raises(FingerprintError, match="dtype object cannot be kept"):
        ids(np.array([None, 1]))
    with pytest.raises(FingerprintError, match="has no length"):
        samples_of(np.array(1.0), np.arange(1))


def test_arrays_are_whole(ids):
    """Of the rows of an array nothing can be ignored."""
    with pytest.raises(ConfigError, match="'target': of these samples nothing can be ignored"):
        ids(np.zeros(2), ignored=["target"])


@given(st.lists(st.one_of(st.integers(0, 2), st.text(max_size=1), st.booleans()), max_size=6))
def test_items_of_a_sequence_go_by_their_values(ids, items):
    """Items of a list have one row id exactly where they are the same typed value."""
    found = ids(items)
    for one, a in zip(items, found, strict=True):
        for two, b in zip(items, found, strict=True):
            assert (a == b) == (type(one) is type(two) and one == two)


def test_lists_and_tuples_are_sequences_of_their_own(ids):
    """A list, a tuple and an array of equal items are different sources."""
    assert len({ids(kind)[0] for kind in ([1], (1,), np.array([1]))}) == 3


def test_items_without_a_rule_are_refused_by_their_place(ids):
    """A list with an item that cannot be encoded is refused, and the item named."""
    with pytest.raises(FingerprintError, match=r"item 1 is a builtins\.object"):
        ids([1, object()])


def test_items_that_contain_themselves_are_refused(ids):
    """A list within itself is refused by the place of the item."""
    items: list = [1]
    items.append(items)
    with pytest.raises(FingerprintError, match=r"item 1.* contains itself"):
        ids(items)


def test_subclasses_of_sequences_are_refused(ids):
    """A list of the user's own type may read its items in another way."""
    with pytest.raises(FingerprintError, match="no rule for its type"):
        ids(type("Items", (list,), {})([1]))


# Tensors


@pytest.fixture(scope="module")
def torch():
    """Torch, with what reads datasets."""
    pytest.importorskip("torch.utils.data")
    return pytest.importorskip("torch")


def test_tensors_and_arrays_are_sources_of_their_own(ids, torch):
    """Rows of a tensor are not rows of the array with the same values."""
    tensor = torch.arange(6.0).reshape(3, 2)
    assert ids(tensor) == ids(tensor.T.contiguous().T) == ids(tensor.requires_grad_())
    assert not set(ids(tensor)) & set(ids(tensor.detach().numpy()))


def test_tensor_datasets_go_by_their_values(ids, torch):
    """Two TensorDatasets of equal length differ by a single value of any of their tensors."""

    def build(label=0, value=0.0):
        x = torch.zeros(3, 2)
        x[1, 1] = value
        return torch.utils.data.TensorDataset(x, torch.tensor([label, 1, 2]))

    plain = ids(build())
    assert plain == ids(build())
    labelled, valued = ids(build(label=5)), ids(build(value=1.0))
    assert [a == b for a, b in zip(plain, labelled, strict=True)] == [False, True, True]
    assert [a == b for a, b in zip(plain, valued, strict=True)] == [True, False, True]
    assert ids(build(value=-0.0)) != plain
    one = torch.utils.data.TensorDataset(torch.zeros(3, 2))
    assert not set(ids(one)) & set(plain)


def test_columns_of_a_tensor_dataset_keep_their_borders(ids, torch):
    """The same bytes cut into columns in another way are other rows."""
    cuts = [
        torch.utils.data.TensorDataset(torch.zeros(2, a), torch.zeros(2, 4 - a)) for a in range(5)
    ]
    assert len({ids(dataset)[0] for dataset in cuts}) == 5


def test_tensors_without_values_are_refused(ids, torch):
    """A TensorDataset of tensors that have no plain values is refused."""
    dataset = torch.utils.data.TensorDataset(torch.zeros(2, device="meta"))
    with pytest.raises(FingerprintError, match=r"TensorDataset .*a meta tensor"):
        ids(dataset)


def test_tensor_datasets_that_lie_about_their_length_are_refused(ids, torch):
    """A tensor that has become shorter than the first is refused, not read over its end."""
    dataset = torch.utils.data.TensorDataset(torch.zeros(3), torch.zeros(3))
    dataset.tensors = (dataset.tensors[0], torch.zeros(2))
    assert len(ids(dataset, [0, 1])) == 2
    with pytest.raises(FingerprintError, match="an array of 2 rows, and is asked for row 2"):
        ids(dataset)


def test_attributes_of_a_tensor_dataset_are_keyed(ids, torch):
    """What else is set on a TensorDataset is part of its source, or refused by its name."""
    plain, one, two, same, odd = (torch.utils.data.TensorDataset(torch.zeros(2)) for _ in range(5))
    one.split, two.split, same.split, odd.frame = "train", "val", "train", object()
    assert len({ids(dataset)[0] for dataset in (plain, one, two)}) == 3
    assert ids(one) == ids(same)
    with pytest.raises(FingerprintError, match=r"attribute 'frame' \(builtins\.object\)"):
        ids(odd)


def test_subclasses_that_read_alike_keep_the_rule(ids, torch):
    """A subclass is known while it reads its samples the same way, and unknown once it does not."""
    plain = torch.utils.data.TensorDataset

    class Named(plain):
        """Says more of itself."""

        def describe(self):
            return "more"

    class Shifted(plain):
        """Reads in another way."""

        def __getitem__(self, index):
            return super().__getitem__(index + 1)

    class Batched(plain):
        """Reads whole batches in another way."""

        def __getitems__(self, indices):
            return [self[i] for i in reversed(indices)]

    class Shorter(plain):
        """Counts in another way."""

        def __len__(self):
            return 1

    class Computed(plain):
        """Makes up what is read."""

        tensors = property(lambda self: (self.first * 2,), lambda self, value: None)
        first = torch.arange(3.0)

    class Guarded(plain):
        """Looks its attributes up in another way."""

        def __getattribute__(self, name):
            return super().__getattribute__(name)

    x = torch.arange(3.0)
    assert ids(Named(x)) == ids(plain(x))
    for kind in (Shifted, Batched, Shorter, Computed, Guarded):
        with pytest.raises(FingerprintError, match=f"cannot tell what .*{kind.__name__} "):
            ids(kind(x))


def test_methods_set_on_an_instance_make_it_unknown(ids, torch):
    """Loaders look for ``__getitems__`` on the object, so one that is set there is no detail."""
    dataset = torch.utils.data.Subset(torch.arange(3.0), [0, 1])
    dataset.__getitems__ = lambda indices: [0.0 for _ in indices]
    with pytest.raises(FingerprintError, match=r"Subset .*no rule for its type"):
        ids(dataset)
