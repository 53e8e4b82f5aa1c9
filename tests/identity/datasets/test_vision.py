"""Torchvision's datasets in memory: read from real files by their own constructors."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest

from castore.errors import ConfigError, FingerprintError, RandomError
from castore.identity.datasets.rules import samples_of

pytest.importorskip("torch")
pytest.importorskip("torchvision.datasets")
from torchvision import transforms as T  # noqa: N812

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)
TARGETS = [2, 0, 1]


@pytest.fixture(
    params=[
        "CIFAR10",
        "CIFAR100",
        "EMNIST",
        "FashionMNIST",
        "KMNIST",
        "MNIST",
        "QMNIST",
        "QMNIST whole",
        "STL10",
        "SVHN",
        "USPS",
    ]
)
def build(request, make):
    """Make a function that builds a dataset of one kind, each time under another root."""
    return functools.partial(make, request.param)


def labels_of(dataset):
    """Name the attribute with the classes of a dataset."""
    return "targets" if hasattr(dataset, "targets") else "labels"


def differences(one, two):
    """Tell of each row whether it differs."""
    return [a != b for a, b in zip(one, two, strict=True)]


def test_equal_builds_agree_wherever_they_lie(build, ids):
    """Two datasets of equal pictures and classes have the same rows, at any root."""
    one, two = build(), build()
    assert one.root != two.root
    assert len(set(ids(one))) == 3
    assert ids(one) == ids(two)
    assert samples_of(one, np.arange(3)).not_keyed == {}


def test_one_pixel_is_another_row(build, ids):
    """A picture that differs in one pixel is another row; the others stay."""
    changed = PIXELS.copy()
    changed[1, :, 3, 3] ^= 0xFF
    assert differences(ids(build()), ids(build(changed))) == [False, True, False]


def test_one_class_is_another_row(build, ids):
    """A picture of another class is another row; the others stay, and so do those of no class."""
    changed = [*TARGETS[:2], 2]
    assert differences(ids(build()), ids(build(targets=changed))) == [False, False, True]
    plain, other = (ids(build(targets=t), ignored=["target"]) for t in (TARGETS, changed))
    assert plain == other
    assert not set(plain) & set(ids(build()))


def test_transforms_are_part_of_every_row(build, ids):
    """What is done to picture and class counts, also if it is put there after construction."""
    options = [
        {},
        {"transform": T.Resize(8)},
        {"transform": T.Resize(9)},
        {"transform": lambda picture: picture},
        {"target_transform": lambda target: target},
        {"target_transform": operator.index},
    ]
    found = [ids(build(**chosen)) for chosen in options]
    assert len({row for rows in found for row in rows}) == 3 * len(options)
    for chosen, rows in zip(options, found, strict=True):
        dataset = build()
        vars(dataset).update(chosen)
        assert ids(dataset) == rows


def test_only_target_transforms_go_with_the_target(build, ids):
    """Without the target its transform does not count, and that of the picture does."""

    def found(**options):
        return ids(build(**options), ignored=["target"])

    assert found(target_transform=lambda target: -target) == found()
    assert found(transform=T.Resize(8)) != found()


def test_attributes_that_no_sample_reads_do_not_count(build, ids):
    """Root, split, names of classes and torchvision's unused ``transforms`` do not count."""
    plain, other = build(), build()
    other.root, other.train, other.split = "/elsewhere", False, "test"
    other.classes = ["x", "y"]
    other.transforms = T.RandomCrop(2)
    assert ids(other) == ids(plain)


def test_other_attributes_count(build, ids):
    """An attribute that the rule does not name is keyed, or refused by its name."""
    one, two, odd = build(), build(), build()
    one.mode, two.mode, odd.frame = "a", "b", iter([])
    assert len({ids(build())[0], ids(one)[0], ids(two)[0]}) == 3
    with pytest.raises(FingerprintError, match=r"attribute 'frame' \(builtins\.list_iterator\)"):
        ids(odd)


def test_paths_among_the_attributes_are_listed(build, ids):
    """An attribute that lies elsewhere on another machine is listed as not keyed."""
    plain, other = build(), build()
    other.cache = "/mnt/cache"
    assert ids(other) == ids(plain)
    assert samples_of(other, np.arange(3)).not_keyed == {"dataset.cache": "builtins.str"}


@pytest.mark.parametrize(
    "own",
    [
        {"__getitem__": lambda self, index: (0, 0)},
        {"__getitems__": lambda self, indices: [(0, 0) for _ in indices]},
        {"__len__": lambda self: 2},
        {"transform": property(lambda self: T.Resize(8), lambda self, value: None)},
        {"__getattr__": lambda self, name: None},
    ],
    ids=lambda own: next(iter(own)),
)
def test_subclasses_that_read_otherwise_are_refused(build, ids, own):
    """A subclass with what reads samples of its own is refused by its name."""
    dataset = build()
    dataset.__class__ = type("Own", (type(dataset),), own)
    with pytest.raises(FingerprintError, match=r"cannot tell what Own .*no rule for its type"):
        ids(dataset, [0])


def test_subclasses_that_read_alike_are_known(build, ids):
    """A subclass that says more of itself, and no more, has the rows of its type."""
    dataset = build()
    before = ids(dataset)
    dataset.__class__ = type("Own", (type(dataset),), {"authors": ["a"], "show": lambda self: 1})
    assert ids(dataset) == before


def test_lists_of_classes_that_are_too_short_are_refused(build, ids):
    """A dataset with fewer classes than pictures has samples that cannot be read."""
    dataset = build()
    name = labels_of(dataset)
    setattr(dataset, name, getattr(dataset, name)[:2])
    assert len(ids(dataset, [0, 1])) == 2
    with pytest.raises(FingerprintError, match="has 2 targets, and is asked for sample 2"):
        ids(dataset)


def test_rows_are_those_of_the_samples_asked_for(build, ids):
    """Samples keep their rows when the dataset is cut, and there may be none."""
    every, dataset = ids(build()), build(PIXELS[1:], TARGETS[1:])
    assert ids(dataset) == every[1:]
    assert ids(dataset, []) == []
    assert ids(dataset, [-1, 0, 0]) == [every[2], every[1], every[1]]


def test_parts_that_pictures_in_memory_do_not_have(build, ids):
    """Only the target can be ignored, and that is said."""
    with pytest.raises(ConfigError, match="ignore='path': of these samples target can be ignored"):
        ids(build(), ignored=["path", "target"])


def test_random_transforms_are_refused_by_name(build, ids):
    """A random transform is refused by its name, or kept where one draw is wanted."""
    dataset = build(transform=T.Compose([T.RandomCrop(2)]))
    with pytest.raises(RandomError, match="holds RandomCrop, which is random"):
        ids(dataset)
    assert len(set(ids(dataset, freeze=True))) == 3


def test_damaged_datasets_are_refused(build, ids):
    """A dataset whose pictures are gone, or no array, is refused by its name."""
    for broken in (None, [], [[0]], np.float32(1), "pictures"):
        dataset = build()
        dataset.data = broken
        with pytest.raises(FingerprintError, match=f"cannot tell what {type(dataset).__name__} "):
            samples_of(dataset, np.arange(1))
    dataset = build()
    del dataset.data
    with pytest.raises(FingerprintError, match=type(dataset).__name__):
        samples_of(dataset, np.arange(1))
