"""What rules share: lengths, indices, names of datasets, and who reads samples alike."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

import castore
from castore.errors import FingerprintError
from castore.identity.datasets.samples import (
    as_indices,
    identifying,
    is_exactly,
    is_path,
    length_of,
    levels_up,
    name_of_dataset,
    refusal,
    within,
)


class Length:
    """A dataset that says its length by calling a function."""

    def __init__(self, says):
        self.says = says

    def __len__(self):
        return self.says()


def fail(error=ZeroDivisionError):
    """Raise an error."""
    raise error("no luck")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (lambda: -1, "ValueError"),
        (lambda: 2.0, "TypeError: 'float' object cannot be interpreted as an integer"),
        (lambda: "3", "TypeError"),
        (lambda: None, "TypeError"),
        (lambda: 2**70, "OverflowError"),
        (fail, "ZeroDivisionError: no luck"),
        (lambda: fail(TypeError), "TypeError: no luck"),
        (lambda: fail(NotImplementedError), "NotImplementedError"),
    ],
)
def test_lengths_that_cannot_be_told_are_refused(says, why):
    """A ``__len__`` that fails or returns no length is refused with the dataset's name and why."""
    with pytest.raises(
        FingerprintError, match=r"Length .*has no length that it can tell"
    ) as caught:
        length_of(Length(says))
    assert why in str(caught.value)
    assert "its rows cannot be named" in str(caught.value)


def test_datasets_without_a_length_are_refused():
    """A dataset that has no length cannot have its rows named."""
    with pytest.raises(FingerprintError, match="object has no length, so its rows cannot be named"):
        length_of(object())


def test_lengths_may_be_any_integer():
    """A length that is numpy's or a bool is an integer."""
    assert length_of(Length(lambda: np.int64(3))) == 3
    assert length_of(Length(lambda: True)) == 1


@pytest.mark.parametrize(
    "values",
    [
        [2, 0, 1],
        (2, 0, 1),
        np.array([2, 0, 1]),
        np.array([2, 0, 1], np.uint8),
        np.array([2, 0, 1], ">i4"),
        np.array([2, 0, 9, 1])[[0, 1, 3]],
        (index for index in [2, 0, 1]),
        [np.int16(2), 0, np.uint8(1)],
    ],
    ids=lambda values: type(values).__name__,
)
def test_indices_are_integers_of_any_kind(values):
    """Lists, tuples, arrays of every integer type and whatever iterates give int64 indices."""
    found = as_indices(values, "indices")
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 1]


def test_no_indices_are_indices():
    """Nothing is an empty list of indices, also where its type says float."""
    assert as_indices([], "indices").tolist() == as_indices(np.empty(0), "indices").tolist() == []


class Unreadable:
    """What raises when it is iterated."""

    def __iter__(self):
        return fail()


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        ["a"],
        "012",
        [True],
        [[0, 1]],
        [[0], [0, 1]],
        [2**70],
        [None],
        np.array(["a"], object),
        np.array(1),
        np.array([2**64 - 1], np.uint64),
        np.ma.masked_array([0, 1], [True, False]),
        3,
        Unreadable(),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_is_no_list_of_integers_is_refused(values):
    """Indices that are anything else are refused, under the name they were given."""
    with pytest.raises(FingerprintError, match=r"mine.* one list of integers"):
        as_indices(values, "mine")


def test_indices_are_counted_from_either_end():
    """An index within the dataset counts from its end if it is negative; others are refused."""
    dataset = [0] * 3
    assert within(np.array([-1, 0, 2, -3]), dataset).tolist() == [2, 0, 2, 0]
    assert within(np.empty(0, np.int64), []).tolist() == []
    for index in (3, -4):
        with pytest.raises(FingerprintError, match=f"index {index} is outside list, .* 3 samples"):
            within(np.array([0, index]), dataset)


def test_datasets_are_called_by_type_and_place():
    """Messages name the type and where it is written, if it is written anywhere."""
    assert name_of_dataset(Length(fail)).startswith("Length (test_samples.py:")
    assert name_of_dataset([]) == "list"
    made = type("Made", (), {"__module__": "nowhere"})
    assert name_of_dataset(made()) == "Made"


def test_datasets_of_a_file_that_was_edited_are_called_by_type(tmp_path, monkeypatch):
    """A file that no longer parses does not keep a refusal from being said."""
    path = tmp_path / "edited.py"
    path.write_text("class Edited:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import edited

    path.write_text("class Edited(:\n")
    os.utime(path, (0, 0))
    assert name_of_dataset(edited.Edited()) == "Edited"


def test_refusals_end_in_lines_to_paste():
    """A refusal says by type, file and line what is wrong, then what to write instead."""
    first, *lines = str(refusal(Length(fail), "it is odd")).splitlines()
    assert first.startswith("cannot tell what Length (test_samples.py:")
    assert first.endswith("contains: it is odd.")
    assert 'get_or_compute(loader, fn, dataset_id="length@1", row_ids=[...])' in lines[0]
    assert "row_ids=castore.file_ids(paths, root=...)" in lines[1]
    assert "def __castore_row_ids__(self, indices)" in lines[2]
    assert 'castore.open(..., on_error="compute")' in lines[3]


def test_paths_lie_on_one_machine():
    """Absolute text and path objects are paths; other text and files by content are not."""
    assert is_path("/data/x")
    assert is_path(pathlib.Path("data"))
    assert not is_path("train")
    assert not is_path(castore.file("/data/x"))
    assert not is_path(1)


class Base:
    """A type whose samples are read by way of a method, a property and an attribute."""

    def __init__(self):
        self.items = [1]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.load(index)

    def load(self, index):
        """Read a sample."""
        return self.shown[index]

    @property
    def shown(self):
        """What is read."""
        return self.items


@pytest.mark.parametrize(
    "name",
    [
        "__getattr__",
        "__getattribute__",
        "__getitem__",
        "__getitems__",
        "__len__",
        "items",
        "load",
        "shown",
    ],
)
def test_types_that_read_otherwise_are_others(name):
    """A subclass is unknown if it defines what reading a sample looks up, however far down."""
    other = type("Other", (Base,), {name: property(lambda self: 1, lambda self, value: None)})
    assert not is_exactly(other.__new__(other), __name__, "Base")


def test_types_that_read_alike_are_the_same():
    """A subclass that defines other names is the type, and so is one that adds none."""
    assert is_exactly(Base(), __name__, "Base")
    assert is_exactly(type("Same", (Base,), {"label": "a", "show": len})(), __name__, "Base")


def test_methods_set_on_an_object_make_it_another():
    """What a loader would find on the object before its type is not the type's."""
    one, two = Base(), Base()
    one.load = lambda index: 2
    two.label = lambda index: 2
    assert not is_exactly(one, __name__, "Base")
    assert is_exactly(two, __name__, "Base")


def test_types_that_are_not_imported_are_nobodys():
    """Nothing is of a type whose module the program has not imported, or that is no type."""
    assert not is_exactly([], "a_module_of_nobodys", "Dataset")
    assert not is_exactly([], "os", "path")
    assert not is_exactly([], "os", "nothing")


def test_what_is_being_identified_is_known():
    """While a dataset is identified its level is known, counted from the innermost."""
    outer, inner = [], []
    assert levels_up(outer) is None
    with identifying(outer), identifying(inner):
        assert (levels_up(inner), levels_up(outer), levels_up([])) == (0, 1, None)
    assert levels_up(outer) is None
