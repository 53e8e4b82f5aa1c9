"""Rows that somebody names, and what is done to them, which is keyed all the same."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from castore.canonical import identify
from castore.errors import ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.vouched import named_rows

SOURCE = identify("source", "test")


class Opaque:
    """A dataset castore knows nothing of, and may not read."""

    def __init__(self, size=4, **attributes):
        self.size = size
        self.__dict__.update(attributes)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        pytest.fail("a dataset vouched for was read")


def vouched(dataset, **options):
    """Identify the first samples of a dataset that is vouched for."""
    return samples_of(dataset, np.arange(2), dataset_id="x@1", **options)


# Names


def test_vouched_rows_go_by_their_names(ids):
    """Names the caller gives are the rows' identity, under the name of the dataset."""
    names = ["a", "b", "c", "d"]
    found = ids(Opaque(), dataset_id="x@1", names=names)
    assert len(set(found)) == 4
    assert ids(Opaque(), dataset_id="x@1", names=names) == found
    assert ids(Opaque(), [2, 0], dataset_id="x@1", names=["c", "a"]) == [found[2], found[0]]
    assert not set(found) & set(ids(Opaque(), dataset_id="x@2", names=names))


def test_vouched_rows_without_names_go_by_their_index(ids):
    """Without names the index within the dataset is the name, and that is said."""
    found = ids(Opaque(), dataset_id="x@1")
    assert found == ids(Opaque(), dataset_id="x@1", names=[0, 1, 2, 3])
    assert ids(Opaque(9), [2, 1], dataset_id="x@1") == [found[2], found[1]]
    assert ids(Opaque(), [-1], dataset_id="x@1") == found[3:]
    assert vouched(Opaque()).by_index
    assert not vouched(Opaque(), names=["a", "b"]).by_index


@pytest.mark.parametrize(
    "names",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        np.array([1, 2, 3]),
        np.array([1, 2, 3], np.int8),
        np.array([1, 2, 3], np.uint32),
        np.array([1, 2, 3], ">i4"),
        [np.int64(1), np.int32(2), 3],
        np.arange(1, 7)[::2] // 2 + 1,
    ],
    ids=repr,
)
def test_integers_of_every_kind_are_one_name(names):
    """An integer is one name, of whatever type, width and byte order."""
    expected = rows.from_integers(SOURCE, np.array([1, 2, 3]))
    assert np.array_equal(named_rows(SOURCE, names), expected)


def test_integers_beyond_63_bits_are_names():
    """An unsigned integer that fits 64 bits is taken or refused, never mistaken for another."""
    big = np.array([2**63, 1], np.uint64)
    try:
        found = named_rows(SOURCE, big)
    except FingerprintError:
        return
    assert not np.array_equal(found[0], named_rows(SOURCE, [-(2**63)])[0])


@pytest.mark.parametrize(
    "names",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object)],
    ids=lambda names: f"{type(names).__name__} {getattr(names, 'dtype', '')}",
)
def test_text_of_every_kind_is_one_name(names):
    """Text is one name, in a list, tuple or array."""
    assert np.array_equal(named_rows(SOURCE, names), rows.from_names(SOURCE, ["a", "b"]))


def test_text_and_integers_are_different_names():
    """The names 1 and "1" are two."""
    assert not np.array_equal(named_rows(SOURCE, ["1"]), named_rows(SOURCE, [1]))


def test_sixteen_bytes_are_names():
    """Digests of 16 bytes each, uint8 (n, 16), are names of a kind of their own."""
    digests = np.arange(32, dtype=np.uint8).reshape(2, 16)
    found = named_rows(SOURCE, digests)
    assert np.array_equal(found, named_rows(SOURCE, np.asfortranarray(digests)))
    assert len(np.unique(found, axis=0)) == 2
    assert not np.array_equal(found, named_rows(identify("source", "other"), digests))


@pytest.mark.parametrize(
    "names",
    [
        [1.0, 2.0],
        [True, False],
        [b"a", b"b"],
        [None, "a"],
        [[1, 2], [3, 4]],
        np.zeros((2, 15), np.uint8),
        np.zeros((2, 16), np.int8),
        [2**70, 1],
        ["a", 1],
        [1, "a"],
        ["a", 1.5],
        ["a", True],
    ],
    ids=repr,
)
def test_other_names_are_refused(names):
    """What is neither text nor integers nor 16 bytes a sample, all of one kind, is refused."""
    with pytest.raises(FingerprintError, match="one string or integer a sample"):
        named_rows(SOURCE, names)


def test_names_keep_their_last_characters():
    """Text that ends in NUL is not the text without it."""
    assert not np.array_equal(named_rows(SOURCE, ["a\0"]), named_rows(SOURCE, ["a"]))


def test_names_that_are_no_unicode_are_names():
    """A lone surrogate, which stands for a byte of a file's name, is a character like any other."""
    assert len(np.unique(named_rows(SOURCE, ["\udcff", "\udcfe", "?"]), axis=0)) == 3


def test_nothing_can_be_ignored_of_vouched_rows(ids, images):
    """The target is no part of a vouched row, so it cannot be left out of it."""
    for dataset in (Opaque(), pytest.importorskip("torchvision.datasets").ImageFolder(images)):
        with pytest.raises(ConfigError, match="of these samples nothing can be ignored"):
            ids(dataset, dataset_id="x@1", ignored=["target"])


def test_vouched_files_are_not_touched(ids, images):
    """A vouched image folder goes by relative paths, and its files need not exist."""
    dataset = pytest.importorskip("torchvision.datasets").ImageFolder(str(images))
    shutil.rmtree(images)
    found = ids(dataset, dataset_id="pets@1")
    names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]
    assert found == ids(dataset, dataset_id="pets@1", names=names)
    assert len(set(found)) == 4
    assert not vouched(dataset).by_index


def test_broken_datasets_are_refused_when_vouched_for(ids, images):
    """What goes wrong in reading names or attributes is a refusal, whatever it raises."""
    dataset = pytest.importorskip("torchvision.datasets").ImageFolder(str(images))
    dataset.samples[1] = None
    with pytest.raises(FingerprintError, match=r"ImageFolder .*reading it raised TypeError"):
        ids(dataset, dataset_id="x@1")
