"""Defects of the pickle cache that castore replaces (D1-D22), none of which it may repeat.

Each is a scenario that is played twice: castore passes it, and the original fails it, with the
error it is known for. Those about the call itself are played with the adapter, which has the
original's; D17 and D19 too, the first because it forces, the second because batches count there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.errors import FingerprintError, ResultError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402  comes with torchvision
from torch.utils.data import (  # noqa: E402
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder  # noqa: E402
from torchvision.transforms import Compose, Resize, ToTensor  # noqa: E402

from castore.adapters import simet  # noqa: E402

PEER = Path(__file__).parents[1] / "bench" / "peers" / "pickle_cache.py"


def original() -> type:
    """Import the original from the peers that castore is measured against, no package."""
    spec = importlib.util.spec_from_file_location(PEER.stem, PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FeatureCacheService


def defect(error: type[Exception] = AssertionError, ours: Callable = castore.open) -> Callable:
    """Have castore pass `scenario(opened, folder)`, and the original fail it with `error`."""

    def decorate(scenario):
        def test(tmp_path):
            folders = [tmp_path / "castore", tmp_path / "original"]
            for folder in folders:
                folder.mkdir()
            scenario(ours, folders[0])
            with pytest.raises(error):
                scenario(original(), folders[1])

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return decorate


class Counted(functools.partial):
    """A function that counts its calls; castore looks through a partial when it keys."""

    calls = 0

    def __call__(self, *args, **kwargs):
        """Count, and call."""
        self.calls += 1
        return super().__call__(*args, **kwargs)


def extract(loader):
    """Concatenate what the loader gives, one row a sample."""
    rows = [batch[0] if isinstance(batch, (list, tuple)) else batch for batch in loader]
    return torch.cat(rows).flatten(1).numpy()


def extract_wide(loader):
    """Give each sample 40,000 features, too many to be kept inside a document."""
    return np.repeat(extract(loader)[:, :1], 40_000, axis=1)


def embed(model, loader):
    """Run `model` over the loader."""
    with torch.no_grad():
        return torch.cat([model(batch) for (batch,) in loader]).numpy()


def numbered(rows=6, start=0):
    """Return a dataset of `rows` samples, each unlike any other."""
    return TensorDataset(torch.arange(start, start + 3 * rows, dtype=torch.float32).view(rows, 3))


def over(dataset, batch_size=2, **options):
    """Return a DataLoader that is sequential unless told otherwise."""
    return DataLoader(dataset, batch_size=batch_size, **options)


def write_images(root, seed=0):
    """Write three grey images in each of two class folders."""
    rng = np.random.default_rng(seed)
    for number in range(6):
        path = root / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    return root


def images(root, size=8, kind=ImageFolder):
    """Return the dataset of the images below `root`."""
    return kind(root, transform=Compose([Resize(size), ToTensor()]))


def files(folder):
    """List every file below `folder`, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def ask_alike(cache, *loaders, fn=extract):
    """Ask for one loader after another; see that each gets what computing it gives, bit for bit."""
    for loader in loaders:
        found, live = cache.get_or_compute(loader, fn, "features"), fn(loader)
        assert (found.dtype, found.shape) == (live.dtype, live.shape)
        same = found.tobytes() == live.tobytes()
        assert same  # of bytes pytest would write out all differences, which takes minutes in CI


@defect(AttributeError, simet.FeatureCacheService)
def test_d01_the_folder_may_be_text(opened, folder):
    """D1: the folder is given as text, as the original's documentation says."""
    ask_alike(opened(str(folder / "cache" / "features")), over(numbered()))


@defect()
def test_d02_rows_come_in_the_order_asked_for(opened, folder):
    """D2: the same subset in another order gives its rows in that order."""
    data = numbered(10)
    ask_alike(opened(folder), over(Subset(data, [5, 1, 9])), over(Subset(data, [1, 5, 9])))


@defect()
def test_d03_a_shuffled_loader_spoils_nothing(opened, folder):
    """D3: after a shuffled loader a sequential one still gets its rows in order."""
    cache, data = opened(folder), numbered(32)
    cache.get_or_compute(over(data, shuffle=True), extract, "features")
    ask_alike(cache, over(data))


@defect()
def test_d04_negative_indices_are_told_apart(opened, folder):
    """D4: [-1, 3] and [-2, 3] are two subsets, though Python hashes them alike."""
    ask_alike(opened(folder), *(over(Subset(numbered(), [last, 3])) for last in (-1, -2)))


@defect()
def test_d05_nested_subsets_reach_their_dataset(opened, folder):
    """D5: a subset of a subset of one dataset is not that of another."""
    nested = (Subset(Subset(numbered(start=s), [0, 2, 4]), [0, 1]) for s in (0, 100))
    ask_alike(opened(folder), *map(over, nested))


@defect()
def test_d06_datasets_of_one_length_are_told_apart(opened, folder):
    """D6: two datasets of equal type and length are two."""
    ask_alike(opened(folder), over(numbered()), over(numbered(start=100)))


def write_cifar(root, kind, seed):
    """Write the training and test batches of a CIFAR of four images each; return its type."""
    rng = np.random.default_rng(seed)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        batch = {"data": rng.integers(0, 256, (4, 3072), np.uint8), "labels": [0, 1, 0, 1]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = pickle.dumps({kind.meta["key"]: ["cat", "dog"]})
    (folder / kind.meta["filename"]).write_bytes(names)
    lists = {"train_list": [("train", None)], "test_list": [("test", None)]}
    return type(kind.__name__, (kind,), {**lists, "meta": {**kind.meta, "md5": None}})


@defect()
def test_d07_datasets_under_one_root_are_told_apart(opened, folder):
    """D7: CIFAR10 and CIFAR100 share a root, not features."""
    root = folder / "data"
    kinds = [write_cifar(root, kind, seed) for seed, kind in enumerate((CIFAR10, CIFAR100))]
    ask_alike(opened(folder / "cache"), *(over(kind(root, True, ToTensor())) for kind in kinds))


@defect()
def test_d07_splits_under_one_root_are_told_apart(opened, folder):
    """D7: the training and the test images of a CIFAR share a root, not features."""
    root = folder / "data"
    kind = write_cifar(root, CIFAR10, 0)
    splits = (kind(root, train, ToTensor()) for train in (True, False))
    ask_alike(opened(folder / "cache"), *map(over, splits))


@defect()
def test_d08_another_transform_gives_its_own_values(opened, folder):
    """D8: after the transform changed, the old values are not served."""
    root = write_images(folder / "images")
    ask_alike(opened(folder / "cache"), over(images(root, 8)), over(images(root, 4)))


@defect()
def test_d08_drop_last_drops(opened, folder):
    """D8: of 7 samples in batches of 2, drop_last leaves 6."""
    ask_alike(opened(folder), over(numbered(7)), over(numbered(7), drop_last=True))


@defect()
def test_d09_a_sampler_is_heeded(opened, folder):
    """D9: a sampler over 4 of 6 samples gives 4 rows."""
    ask_alike(opened(folder), over(numbered()), over(numbered(), sampler=[0, 2, 3, 5]))


class Pairs:
    """A batch sampler that says which batches it gives."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)

    def __castore_indices__(self):
        """Return the batches."""
        return self.batches


@defect()
def test_d09_a_batch_sampler_is_heeded(opened, folder):
    """D9: a batch sampler over 4 of 6 samples gives 4 rows."""
    batches = ([[0, 1], [2, 3], [4, 5]], [[0, 2], [3, 5]])
    loaders = (DataLoader(numbered(), batch_sampler=Pairs(listed)) for listed in batches)
    ask_alike(opened(folder), *loaders)


@defect()
def test_d10_a_replaced_file_is_seen(opened, folder):
    """D10: another image under the same name is computed anew."""
    cache = opened(folder / "cache")
    for seed in (0, 1):
        ask_alike(cache, over(images(write_images(folder / "images", seed))))


@defect()
def test_d11_a_retrained_model_is_seen(opened, folder):
    """D11: after another training step the old model's features are not served."""
    cache, model = opened(folder), torch.nn.Linear(3, 2).eval()
    for _ in range(2):
        ask_alike(cache, over(numbered()), fn=functools.partial(embed, model))
        with torch.no_grad():
            model.weight.add_(1)


@defect()
def test_d12_equal_subsets_are_one(opened, folder):
    """D12: twenty equal subsets, their indices tensors, are computed once."""
    cache, counted, data = opened(folder), Counted(extract), numbered(10)
    for _ in range(20):
        subset = Subset(data, torch.tensor([5, 1, 9]))
        cache.get_or_compute(over(subset), counted, "features")
    assert counted.calls == 1


STRINGS = """
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, Subset

import castore


class Letters(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, name):
        return torch.tensor([float(ord(name))])


def extract(loader):
    return torch.cat(list(loader)).numpy()


folder, peer = sys.argv[1:]
if peer:
    sys.path.insert(0, peer)
    from pickle_cache import FeatureCacheService

    cache = FeatureCacheService(Path(folder))
else:
    cache = castore.open(folder)
try:
    cache.get_or_compute(DataLoader(Subset(Letters(), ["a", "c"])), extract, "features")
    print(*(path.name for path in Path(folder).glob("*.pkl")))
except castore.errors.FingerprintError as error:
    print("refused:", error)
"""


@defect()
def test_d13_string_indices_are_alike_in_every_process(opened, folder):
    """D13: what comes of string indices is the same in every process: one key, or a refusal."""
    peer = "" if opened is castore.open else str(PEER.parent)
    told = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", STRINGS, folder / seed, peer],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        )
        told.add(done.stdout)
    assert len(told) == 1, told
    assert told.pop().strip()


@defect()
def test_d14_the_mount_point_does_not_count(opened, folder):
    """D14: the same images below another folder are found."""
    cache, counted = opened(folder / "cache"), Counted(extract)
    here = write_images(folder / "here")
    there = Path(shutil.copytree(here, folder / "mnt" / "there"))
    for root in (here, there):
        cache.get_or_compute(over(images(root)), counted, "features")
    assert counted.calls == 1


@defect()
def test_d15_no_flipped_bit_is_served(opened, folder):
    """D15: with any one bit of any stored file flipped, the right features come back."""
    loader, draw = over(numbered()), random.Random(15)
    ask_alike(opened(folder), loader)
    stored = {path: path.read_bytes() for path in files(folder)}
    for _ in range(100):
        path = draw.choice(list(stored))
        damaged = bytearray(stored[path])
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            ask_alike(opened(folder), loader)
        except Exception as error:
            raise AssertionError(path) from error
        path.write_bytes(stored[path])


class Bomb:
    """An object that, unpickled, makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@defect()
def test_d16_a_crafted_file_is_not_executed(opened, folder):
    """D16: code put in the place of any stored file is not run."""
    loader = over(numbered())
    ask_alike(opened(folder / "cache"), loader)
    for path in files(folder / "cache"):
        if path.name != "castore.json":  # the store's own document, which is no result
            path.write_bytes(pickle.dumps(Bomb(folder / "executed")))
    opened(folder / "cache").get_or_compute(loader, extract, "features")
    assert not (folder / "executed").exists()


@contextlib.contextmanager
def files_limited(nbytes=65_536):
    """Have the system refuse to write files larger than `nbytes`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@defect(ours=simet.FeatureCacheService)
def test_d17_a_failed_overwrite_keeps_the_old(opened, folder):
    """D17: where replacing an entry fails, the entry that was there is still found."""
    cache, counted, loader = opened(folder), Counted(extract_wide), over(numbered())
    cache.get_or_compute(loader, counted, "features")
    with files_limited():
        cache.get_or_compute(loader, counted, "features", force_recompute=True)
    cache.get_or_compute(loader, counted, "features")
    assert counted.calls == 2


@defect(ours=simet.FeatureCacheService)
def test_d19_equal_bytes_are_kept_once(opened, folder):
    """D19: batch sizes 1, 2 and 3 are three keys, and their equal bytes take the room of one."""
    cache, counted, data = opened(folder), Counted(extract_wide), numbered()
    for batch_size in (1, 2, 3):
        features = cache.get_or_compute(over(data, batch_size), counted, "features")
    assert counted.calls == 3
    assert sum(path.stat().st_size for path in files(folder)) < 1.1 * features.nbytes


class Stream(IterableDataset):
    """Samples that cannot be asked for by index."""

    def __iter__(self):
        return iter(torch.arange(4.0).view(4, 1))


class Rooted(Dataset):
    """A dataset with two roots."""

    root = ("/data/a", "/data/b")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([float(index)])


def refusal(cache, loader):
    """Return how the refusal of `loader` reads."""
    with pytest.raises(FingerprintError) as refused:
        cache.get_or_compute(loader, extract, "features")
    return str(refused.value)


@defect(TypeError)
def test_d20_a_stream_is_refused_in_words(opened, folder):
    """D20: an IterableDataset is refused with the line to write instead, not a bare TypeError."""
    assert 'dataset_id="stream@1"' in refusal(opened(folder), over(Stream()))


@defect(TypeError)
def test_d20_several_roots_are_refused_in_words(opened, folder):
    """D20: a dataset of roots is refused with the line to write instead, not a bare TypeError."""
    assert 'dataset_id="rooted@1"' in refusal(opened(folder), over(Rooted()))


@defect(TypeError, simet.FeatureCacheService)
def test_d20_both_are_computed_by_the_adapter(opened, folder):
    """D20: where the original's users get a bare TypeError, the adapter's get their features."""
    ask_alike(opened(folder), over(Stream()), over(Rooted()))


@defect(ours=simet.FeatureCacheService)
def test_d21_none_is_a_clear_error(opened, folder):
    """D21: a function that returns None is told so, not called again for ever in silence."""
    told = ""
    try:
        opened(folder).get_or_compute(over(numbered()), lambda _loader: None, "features")
    except ResultError as error:
        told = str(error)
    assert "returned None" in told


class Unsorted(ImageFolder):
    """Images in whatever order the disk lists them, here one that is drawn."""

    seed = 0

    def make_dataset(self, *args, **kwargs):
        """List the images, shuffled."""
        found = ImageFolder.make_dataset(*args, **kwargs)
        random.Random(self.seed).shuffle(found)
        return found


class NamedImages(Dataset):
    """A dataset of the user's own that shuffles its files, and says which each sample is."""

    def __init__(self, root, seed):
        self.root = root
        self.paths = [str(path.relative_to(root)) for path in files(root)]
        random.Random(seed).shuffle(self.paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(Image.open(self.root / self.paths[index])))

    def __castore_row_ids__(self, indices):
        """Name samples by their files."""
        return [self.paths[index] for index in indices]


@defect()
def test_d22_the_order_of_listing_is_heeded(opened, folder):
    """D22: a dataset that lists its files in another order gets its rows in that order."""
    root, orders = write_images(folder / "images"), []
    for seed in (0, 1):
        kind = type("Unsorted", (Unsorted,), {"seed": seed})
        orders.append(over(images(root, kind=kind)))
    assert orders[0].dataset.samples != orders[1].dataset.samples
    ask_alike(opened(folder / "cache"), *orders)


@defect()
def test_d22_a_shuffle_in_the_constructor_is_heeded(opened, folder):
    """D22: a dataset of the user's own that shuffles when made gets the rows that it then has."""
    root = write_images(folder / "images")
    ask_alike(opened(folder / "cache"), *(over(NamedImages(root, seed)) for seed in (0, 1)))
