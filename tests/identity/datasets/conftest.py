"""Row ids as text, and real datasets: pictures in folders, and the files torchvision reads."""

from __future__ import annotations

import bz2
import pickle
import struct
from collections.abc import Callable

import numpy as np
import pytest

from castore.identity.datasets.rules import samples_of
from castore.identity.datasets.samples import Terms


@pytest.fixture(scope="session")
def ids() -> Callable[..., list[str]]:
    """Row ids of a dataset, or of some of its samples, as text."""

    def row_ids(dataset, indices=None, *, dataset_id=None, names=None, **terms):
        indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, np.int64)
        if "ignored" in terms:
            terms["ignored"] = frozenset(terms["ignored"])
        found = samples_of(dataset, indices, Terms(**terms), dataset_id, names)
        return [row.tobytes().hex() for row in found.row_ids]

    return row_ids


@pytest.fixture
def images(tmp_path):
    """Write real PNG files in two class folders; return the folder."""
    pytest.importorskip("torchvision.datasets")
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "images"
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)
    for index, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values[index]).save(path)
    return root


# Torchvision's datasets in memory


@pytest.fixture
def without_checksums(monkeypatch):
    """Let torchvision take files that are not those of the archives it knows."""
    tv = datasets()
    for kind in (tv.CIFAR10, tv.CIFAR100, tv.STL10):
        for name in ("train_list", "test_list"):
            files = [[file, None] for file, _ in getattr(kind, name)]
            monkeypatch.setattr(kind, name, files)
    for kind in (tv.CIFAR10, tv.CIFAR100):
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    splits = {name: [url, file, None] for name, (url, file, _) in tv.SVHN.split_list.items()}
    monkeypatch.setattr(tv.SVHN, "split_list", splits)


def datasets():
    """Torchvision's datasets, which not everybody has."""
    return pytest.importorskip("torchvision.datasets")


def cifar(name, labels):
    """Make a function that writes the pickles of a CIFAR and reads them."""

    def build(root, pixels, targets, **options):
        kind = getattr(datasets(), name)
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        data = pixels[:, :, :32, :32].reshape(len(pixels), -1)
        whole = {"data": data, labels: list(targets)}
        none = {"data": data[:0], labels: []}
        for index, (file, _) in enumerate(kind.train_list + kind.test_list):
            (folder / file).write_bytes(pickle.dumps(none if index else whole))
        names = {kind.meta["key"]: ["a", "b", "c"]}
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
        return kind(root, **options)

    return build


def write_idx(path, array, code):
    """Write an array in the format of MNIST: http://yann.lecun.com/exdb/mnist/."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">2xBB{array.ndim}i", code, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def mnist(name):
    """Make a function that writes the four files of an MNIST and reads two."""

    def build(root, pixels, targets, **options):
        raw = root / name / "raw"
        for part in ("train", "t10k"):
            write_idx(raw / f"{part}-images-idx3-ubyte", pixels[:, 0, :28, :28], 8)
            write_idx(raw / f"{part}-labels-idx1-ubyte", np.array(targets, np.uint8), 8)
        return getattr(datasets(), name)(root, **options)

    return build


def emnist(root, pixels, targets, **options):
    """Write two files of an EMNIST and read them."""
    raw = root / "EMNIST" / "raw"
    write_idx(raw / "emnist-digits-train-images-idx3-ubyte", pixels[:, 0, :28, :28], 8)
    write_idx(raw / "emnist-digits-train-labels-idx1-ubyte", np.array(targets, np.uint8), 8)
    return datasets().EMNIST(root, "digits", **options)


def qmnist(compat):
    """Make a function that writes two files of a QMNIST and reads them."""

    def build(root, pixels, targets, **options):
        raw = root / "QMNIST" / "raw"
        whole = np.array([[target, *range(7)] for target in targets], ">i4")
        write_idx(raw / "qmnist-train-images-idx3-ubyte", pixels[:, 0, :28, :28], 8)
        write_idx(raw / "qmnist-train-labels-idx2-int", whole, 12)
        return datasets().QMNIST(root, "train", compat=compat, **options)

    return build


def svhn(root, pixels, targets, **options):
    """Write the file of an SVHN, in which 0 is called 10, and read it."""
    matlab = pytest.importorskip("scipy.io")
    root.mkdir(parents=True)
    labels = np.array([[target or 10] for target in targets], np.uint8)
    images = {"X": pixels[:, :, :32, :32].transpose(2, 3, 1, 0), "y": labels}
    matlab.savemat(root / "train_32x32.mat", images)
    return datasets().SVHN(root, **options)


def stl10(root, pixels, targets, **options):
    """Write the files of an STL10, with one picture that has no label, and read them."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{name}_y.bin").write_bytes(np.array(targets, np.uint8).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(pixels[:1].transpose(0, 1, 3, 2).tobytes())
    (folder / "class_names.txt").write_text("a\nb\nc\n")
    return datasets().STL10(root, **options)


def usps(root, pixels, targets, **options):
    """Write the file of a USPS and read it."""
    root.mkdir(parents=True)
    values = pixels[:, 0, :16, :16].reshape(len(pixels), -1) / 127.5 - 1
    lines = [
        " ".join([str(target + 1), *(f"{i}:{v:.6f}" for i, v in enumerate(row, 1))])
        for target, row in zip(targets, values, strict=True)
    ]
    (root / "usps.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    return datasets().USPS(root, **options)


KINDS = {
    "CIFAR10": cifar("CIFAR10", "labels"),
    "CIFAR100": cifar("CIFAR100", "fine_labels"),
    "EMNIST": emnist,
    "FashionMNIST": mnist("FashionMNIST"),
    "KMNIST": mnist("KMNIST"),
    "MNIST": mnist("MNIST"),
    "QMNIST": qmnist(compat=True),
    "QMNIST whole": qmnist(compat=False),
    "STL10": stl10,
    "SVHN": svhn,
    "USPS": usps,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)
TARGETS = [2, 0, 1]


@pytest.fixture
def make(tmp_path, without_checksums):
    """Make a function that builds a dataset of a kind, each time under another root."""

    def make(kind, pixels=PIXELS, targets=TARGETS, **options):
        root = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        return KINDS[kind](root, pixels, targets, **options)

    return make
