"""Torchvision's datasets in memory one at a time: their targets, splits and parameters."""

from __future__ import annotations

import shutil
import sys
import types
import warnings

import numpy as np
import pytest

from castore.errors import ConfigError, FingerprintError
from castore.identity.datasets import vision

pytest.importorskip("torch")
tv = pytest.importorskip("torchvision.datasets")
from torchvision import transforms as T  # noqa: E402, N812

TARGETS = [2, 0, 1]


# Targets that are no class numbers


@pytest.mark.parametrize("name", ["CIFAR10", "USPS"])
def test_targets_count_by_type_and_value(name, ids, make):
    """Targets of other kinds are told apart as Python tells them apart, one by one."""
    dataset = make(name)
    kinds = [
        [1, 1, 1],
        [1.0, 1.0, 1.0],
        [1.5, 1.5, 1.5],
        ["1", "1", "1"],
        [True, True, True],
        [None, None, None],
        [2**70, 2**70, 2**70],
        [(1,), (1,), (1,)],
        np.array([[0.25, 0.75]] * 3),
        np.array([True] * 3),
        np.array([2**64 - 1] * 3, np.uint64),
        np.array([-1] * 3),
        [np.float32(1), np.float32(1), np.float32(1)],
    ]
    found = []
    for targets in kinds:
        dataset.targets = targets
        found.append(ids(dataset)[0])
        assert ids(dataset, [2, 0]) == [ids(dataset)[2], found[-1]]
    assert len(set(found)) == len(kinds)


def test_class_numbers_are_one_number_whatever_holds_them(ids, make):
    """A class number in a list, an array or a tensor, of any width, is one class."""
    torch = pytest.importorskip("torch")
    dataset = make("CIFAR10")
    expected = ids(dataset)
    for targets in (
        tuple(TARGETS),
        np.array(TARGETS, np.uint8),
        [np.int32(target) for target in TARGETS],
        torch.tensor(TARGETS),
    ):
        dataset.targets = targets
        assert ids(dataset) == expected


def test_targets_are_looked_up_as_the_dataset_does(ids, make):
    """Targets by label, as a shuffled pandas.Series has them, are those the dataset reads."""
    pandas = pytest.importorskip("pandas")
    dataset = make("CIFAR10")
    dataset.targets = dict(enumerate(TARGETS))
    by_label = ids(dataset)
    dataset.targets = pandas.Series({2: 1, 0: 2, 1: 0})
    assert [dataset[i][1] for i in range(3)] == TARGETS
    assert len(set(ids(dataset))) == 3
    dataset.targets = {0: 0, 1: 0, 2: 1}
    assert [a == b for a, b in zip(by_label, ids(dataset), strict=True)] == [False, True, True]


def test_targets_are_not_the_digests_they_are_known_by(ids, make):
    """An array of what stands for targets in the rows is other targets."""
    dataset = make("CIFAR10", targets=["a", "b", "c"])
    found = ids(dataset)
    dataset.targets = vision._encoded(dataset.targets)
    assert not set(found) & set(ids(dataset))


def test_targets_without_a_rule_are_refused(ids, make):
    """A target that castore has no rule for is refused by its type."""
    dataset = make("CIFAR10", targets=[object(), 0, 1])
    with pytest.raises(FingerprintError, match=r"CIFAR10 .*a target is a builtins\.object"):
        ids(dataset)
    dataset.targets = 3
    with pytest.raises(FingerprintError, match=r"CIFAR10 .*TypeError"):
        ids(dataset)


# One type at a time


def test_types_that_differ_in_name_only_are_one_source(ids, make):
    """CIFAR10 and CIFAR100, and the MNISTs, read alike: equal samples of them are one row."""
    assert ids(make("CIFAR10")) == ids(make("CIFAR100"))
    assert ids(make("MNIST")) == ids(make("FashionMNIST")) == ids(make("KMNIST"))
    assert ids(make("MNIST")) == ids(make("EMNIST"))
    others = ["CIFAR10", "MNIST", "QMNIST", "QMNIST whole", "STL10", "SVHN", "USPS"]
    assert len({ids(make(name))[0] for name in others}) == len(others)


def test_rows_of_stl10_are_those_of_its_splits(ids, make):
    """Pictures with and without a label keep their rows in the split that has both."""
    labelled = make("STL10")
    unlabelled, both, test, without = (
        tv.STL10(labelled.root, split)
        for split in ("unlabeled", "train+unlabeled", "test", "unlabeled")
    )
    assert ids(both) == ids(labelled) + ids(unlabelled)
    assert ids(test) == ids(labelled)
    assert not set(ids(unlabelled)) & set(ids(labelled))
    without.labels = None
    assert without[0][1] is None
    assert not set(ids(without)) & set(ids(unlabelled))


def test_folds_of_stl10_are_their_pictures(ids, make):
    """A fold is the rows it picks."""
    whole = make("STL10")
    (whole.root / "stl10_binary" / "fold_indices.txt").write_text("2 0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's own way to read it
        fold = tv.STL10(whole.root, "train", folds=0)
    assert ids(fold) == [ids(whole)[2], ids(whole)[0]]


def test_one_sample_without_an_axis_is_refused(ids, make):
    """An SVHN of one picture has a label without an axis, which no index finds."""
    dataset = make("SVHN", np.zeros((1, 3, 96, 96), np.uint8), [1])
    with pytest.raises(FingerprintError, match=r"SVHN .*TypeError"):
        ids(dataset)


def test_parts_of_mnist_under_one_root_differ(ids, make):
    """Training and test pictures under one root are different rows."""
    train, others = make("MNIST"), make("MNIST", np.zeros((3, 3, 96, 96), np.uint8))
    name = "MNIST/raw/t10k-images-idx3-ubyte"
    shutil.copy(others.root / name, train.root / name)
    test = tv.MNIST(train.root, train=False)
    assert not set(ids(train)) & set(ids(test))


def test_datasets_read_from_another_mount_point_agree(ids, tmp_path, make):
    """A copy of the files, read in another place, has the same rows."""
    one = make("MNIST")
    shutil.copytree(one.root, tmp_path / "elsewhere" / "deep")
    assert ids(tv.MNIST(tmp_path / "elsewhere" / "deep")) == ids(one)


def test_fake_data_is_its_parameters(ids):
    """A made-up sample is its index and what it is made of; how many there are does not count."""
    plain = tv.FakeData(3, (3, 4, 4), 10)
    expected = ids(plain)
    assert len(set(expected)) == 3
    assert ids(tv.FakeData(9, (3, 4, 4), 10), [2, 0]) == [expected[2], expected[0]]
    others = [
        tv.FakeData(3, (3, 4, 5), 10),
        tv.FakeData(3, (3, 4, 4), 11),
        tv.FakeData(3, (3, 4, 4), 10, random_offset=1),
        tv.FakeData(3, (3, 4, 4), 10, transform=T.Resize(2)),
        tv.FakeData(3, (3, 4, 4), 10, target_transform=lambda target: target),
    ]
    assert len({row for dataset in others for row in ids(dataset)} | set(expected)) == 18
    with pytest.raises(ConfigError, match="of these samples nothing can be ignored"):
        ids(plain, ignored=["target"])


def test_datasets_that_are_not_imported_are_nobodys(ids, monkeypatch):
    """Without torchvision among the imported modules nothing is one of its datasets."""
    dataset = tv.FakeData(3)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", types.ModuleType("torchvision"))
    with pytest.raises(FingerprintError, match=r"FakeData .*no rule for its type"):
        ids(dataset)
