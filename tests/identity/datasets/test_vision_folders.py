"""What is done to files in class folders, and the subclasses that find other files."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from castore.errors import FingerprintError, RandomError
from castore.identity.datasets.rules import samples_of

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")
tv = pytest.importorskip("torchvision.datasets")
from torchvision import transforms as T  # noqa: E402, N812


def folder(root, **options):
    """Read a folder of images."""
    return tv.ImageFolder(str(root), **options)


# Transforms, loaders and other attributes


def test_image_folders_count_their_transforms(images, ids):
    """Type and parameters of the transforms of image and target are part of every row."""
    options = [
        {},
        {"transform": T.Resize(8)},
        {"transform": T.Resize(9)},
        {"transform": T.Compose([T.Resize(8), T.ToTensor()])},
        {"target_transform": T.Resize(8)},
    ]
    found = [ids(folder(images, **chosen))[0] for chosen in options]
    assert len(set(found)) == len(options)
    for chosen, row in zip(options, found, strict=True):
        dataset = folder(images)
        vars(dataset).update(chosen)  # as `subset.dataset.transform = ...` does
        assert ids(data.Subset(dataset, [0])) == [row]


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "ColorJitter", "AutoAugment"])
def test_image_folders_with_random_transforms_are_refused(images, ids, name):
    """A random transform of image or target is refused by name, unless it is ignored with it."""
    random_transform = getattr(T, name)()
    for where in ("transform", "target_transform"):
        with pytest.raises(RandomError, match=f"{where} holds {name}, which is random"):
            ids(folder(images, **{where: random_transform}))
    assert ids(folder(images, target_transform=random_transform), ignored=["target"])


def test_the_users_code_in_an_image_folder_is_keyed(images, ids):
    """A loader or transform of the user's goes by its code and what it holds."""

    def load(path, size=1):
        return path, size

    def other(path, size=2):
        return path, size

    found = {
        tuple(ids(folder(images, **options)))
        for options in (
            {},
            {"loader": load},
            {"loader": other},
            {"transform": lambda x: x},
            {"transform": lambda x: (x,)},
        )
    }
    assert len(found) == 5
    again = ids(folder(images, transform=lambda image: image))
    assert again != ids(folder(images, transform=lambda x: x))  # names of arguments are code


def test_folders_of_any_files_go_by_their_loader(tmp_path, ids):
    """A DatasetFolder of arrays counts contents and loader, a library's by its name."""
    for name, value in (("a/1.npy", 1.0), ("b/1.npy", 2.0)):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, np.full(3, value))

    def load(path):
        return np.load(path)

    def read(loader):
        return tv.DatasetFolder(tmp_path, loader, extensions=(".npy",))

    found = ids(read(np.load))
    assert len(set(found)) == 2
    assert ids(read(np.load)) == found
    assert len({row for loader in (np.load, load, np.fromfile) for row in ids(read(loader))}) == 6
    np.save(tmp_path / "a/1.npy", np.full(3, 7.0))
    assert ids(read(np.load))[0] != found[0]
    assert ids(read(np.load))[1] == found[1]


def test_attributes_without_a_rule_are_refused_by_name(images, ids):
    """An attribute of an image folder that castore has no rule for is refused by its name."""
    dataset = folder(images)
    dataset.frame = object()
    with pytest.raises(FingerprintError, match=r"attribute 'frame' \(builtins\.object\) has no"):
        ids(dataset)


def test_attributes_of_image_folders_are_keyed(images, ids):
    """An attribute that the rule does not name is part of the source, but for paths."""
    plain, one, two, same_one, placed = (folder(images) for _ in range(5))
    one.split, two.split, same_one.split, placed.base = "train", "val", "train", images
    assert len({ids(dataset)[0] for dataset in (plain, one, two)}) == 3
    assert ids(one) == ids(same_one)
    assert ids(placed) == ids(plain)
    assert list(samples_of(placed, np.arange(4)).not_keyed) == ["dataset.base"]


def test_attributes_that_no_sample_reads_do_not_count(images, ids):
    """Names of classes, the list of targets and extensions do not count; samples do."""
    plain, other = folder(images), folder(images)
    other.classes, other.targets, other.extensions = ["x"], [9], (".jpg",)
    other.imgs, other.allow_empty, other.transforms = [], True, T.RandomCrop(2)
    assert ids(other) == ids(plain)
    other.samples = other.samples[:2]
    assert ids(other) == ids(plain)[:2]


def test_folders_that_hold_themselves_have_one_key(images, ids):
    """A dataset among its own attributes is the same dataset at any depth of calls."""

    def build():
        dataset = folder(images)
        dataset.me = [dataset]
        return dataset

    def deeper(level):
        return ids(build()) if level == 0 else deeper(level - 1)

    assert ids(build()) == deeper(50) != ids(folder(images))


# Subclasses


@pytest.mark.parametrize(
    "own",
    [
        {"__getitem__": lambda self, index: self.samples[index]},
        {"__getitems__": lambda self, indices: indices},
        {"__len__": lambda self: 1},
        {"loader": property(lambda self: len, lambda self, value: None)},
    ],
    ids=lambda own: next(iter(own)),
)
def test_subclasses_of_image_folders_that_read_otherwise_are_refused(images, ids, own):
    """A subclass that reads samples in its own way may read its attributes: it is refused."""
    kind = type("Paths", (tv.ImageFolder,), own)
    with pytest.raises(FingerprintError, match=r"cannot tell what Paths .*no rule for its type"):
        ids(kind(str(images)), [0])


def test_subclasses_that_find_other_files_are_known(images, ids):
    """A subclass that chooses classes or files gives the rows of what it chose."""

    class Dogs(tv.ImageFolder):
        """Finds one class only."""

        def find_classes(self, directory):
            return ["dog"], {"dog": 1}

    assert ids(Dogs(str(images))) == ids(folder(images))[2:]


def test_eurosat_is_its_files(images, tmp_path, ids):
    """EuroSAT, which has a length of its own, is known; its base folders do not count."""
    found = []
    for name in ("a", "b"):
        shutil.copytree(images, tmp_path / name / "eurosat" / "2750")
        found.append(tv.EuroSAT(tmp_path / name))
    assert ids(found[0]) == ids(found[1])
    assert len(set(ids(found[0]))) == 4
    assert samples_of(found[0], np.arange(4)).not_keyed == {}


def test_imagenet_is_its_files(images, tmp_path, ids):
    """ImageNet is its files in the folder of its split, at any root."""
    found = []
    for name in ("a", "b"):
        shutil.copytree(images, tmp_path / name / "train")
        shutil.copytree(images, tmp_path / name / "val")
        words = {"cat": ("cat",), "dog": ("dog",)}, ["dog"]
        torch.save(words, tmp_path / name / "meta.bin")
        found += [tv.ImageNet(tmp_path / name, split) for split in ("train", "val")]
    assert ids(found[0]) == ids(found[2])
    assert not set(ids(found[0])) & set(ids(found[1]))
    before = ids(found[0], ignored=["target"])
    (tmp_path / "a" / "train" / "bee").mkdir()
    shutil.copy(images / "cat/1.png", tmp_path / "a" / "train" / "bee" / "1.png")
    torch.save(({**words[0], "bee": ("bee",)}, []), tmp_path / "a" / "meta.bin")
    assert ids(tv.ImageNet(tmp_path / "a", "train"), ignored=["target"])[1:] == before


def test_country211_is_its_files(images, tmp_path, ids):
    """Country211, which keeps the folder it was read from, is the same at any root."""
    for name in ("a", "b"):
        shutil.copytree(images, tmp_path / name / "country211" / "train")
    assert ids(tv.Country211(tmp_path / "a")) == ids(tv.Country211(tmp_path / "b"))


def test_other_file_datasets_are_refused(images, ids):
    """A dataset of torchvision's own base class is refused by its name."""

    class Pictures(tv.VisionDataset):
        """Reads what only it knows."""

        def __len__(self):
            return 1

    with pytest.raises(
        FingerprintError, match=r"cannot tell what .*Pictures .*no rule for its type"
    ):
        ids(Pictures(str(images)))


def test_datasets_of_torchvision_without_a_rule_are_refused(tmp_path, ids):
    """A dataset of torchvision's that castore has not read is refused by its name."""
    for kind in ("positive", "negative"):
        (tmp_path / "rendered-sst2" / "train" / kind).mkdir(parents=True)
        (tmp_path / "rendered-sst2" / "train" / kind / "1.png").touch()
    with pytest.raises(FingerprintError, match=r"cannot tell what RenderedSST2 .*no rule"):
        ids(tv.RenderedSST2(tmp_path))
