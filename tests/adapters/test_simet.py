"""What simet's users rely on (R2.1-R2.8), and what its own cache got wrong (D1-D21).

Each defect is shown twice: castore passes the test, the pickle cache it replaces fails it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import pickle
import random
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from castore.errors import CommitError, ConfigError, FingerprintError, ResultError

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
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import Compose, Resize, ToTensor  # noqa: E402

from castore.adapters.simet import FeatureCacheService  # noqa: E402

LOGGER = "castore.adapters.simet"


def load_peer(name):
    """Import a file of tests/bench/peers, which is no package."""
    path = Path(__file__).parents[1] / "bench" / "peers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PickleCache = load_peer("pickle_cache").FeatureCacheService


def beats_the_original(test):
    """Have castore pass `test(service_type, folder)`, and the pickle cache fail it."""

    def both(tmp_path):
        test(FeatureCacheService, tmp_path / "castore")
        with pytest.raises((AssertionError, AttributeError, TypeError)):
            test(PickleCache, tmp_path / "original")

    both.__name__, both.__doc__ = test.__name__, test.__doc__
    return both


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
    """Give each sample 40,000 features, too many to be kept inside a manifest."""
    return np.repeat(extract(loader)[:, :1], 40_000, axis=1)


def embed(model, loader):
    """Run `model` over the loader."""
    with torch.no_grad():
        return torch.cat([model(batch) for (batch,) in loader]).numpy()


def give(array, _loader):
    """Return `array`, whatever the loader has."""
    return array


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


def images(root, size=8):
    """Return the ImageFolder of `root`."""
    return ImageFolder(root, transform=Compose([Resize(size), ToTensor()]))


class Unknown(Dataset):
    """A dataset of a user's own, for which castore has no rule."""

    def __init__(self, start=0, root="/data"):
        self.start = start
        self.root = root

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([float(self.start + index)])


class Stream(IterableDataset):
    """Samples that cannot be asked for by index."""

    def __iter__(self):
        return iter(torch.arange(4.0).view(4, 1))


def same_bits(found, expected):
    """Whether two arrays agree in dtype, shape and every bit."""
    return (found.dtype, found.shape) == (expected.dtype, expected.shape) and (
        found.tobytes() == expected.tobytes()
    )


def assert_as_live(cache, *loaders, fn=extract):
    """Assert that asking for one loader after another gives what computing each would."""
    for loader in loaders:
        assert same_bits(cache.get_or_compute(loader, fn, "features"), fn(loader))


def files(folder):
    """List every file below `folder`, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def files_limited(nbytes=65_536):
    """Have the system refuse to write files larger than `nbytes`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def levels(caplog):
    """List the levels of what the adapter logged."""
    return [record.levelname for record in caplog.records if record.name == LOGGER]


@pytest.fixture
def cache(tmp_path):
    """A service over an empty folder."""
    return FeatureCacheService(tmp_path / "cache")


@pytest.mark.parametrize("kind", [str, Path, "file://{}".format])
def test_the_folder_is_made(kind, tmp_path):
    """R2.1: a folder given as text, path or URL is made, with those above it."""
    folder = tmp_path / "cache" / "features"
    FeatureCacheService(kind(folder))
    assert folder.is_dir()


def test_the_folder_has_a_default(tmp_path, monkeypatch):
    """R2.1: without an argument features go to cache/features in the working folder."""
    monkeypatch.chdir(tmp_path)
    FeatureCacheService()
    assert (tmp_path / "cache" / "features").is_dir()


def test_any_store_url_will_do():
    """R2.1: what castore.open opens, the service opens; what it refuses, the service refuses."""
    cache, counted = FeatureCacheService("memory://simet-url"), Counted(extract)
    for _ in range(2):
        cache.get_or_compute(over(numbered()), counted)
    assert counted.calls == 1
    with pytest.raises(ConfigError, match="gopher://"):
        FeatureCacheService("gopher://host/cache")


def test_arguments_go_by_position_and_name(cache):
    """R2.2: the four arguments of the original are taken in its order and by its names."""
    counted, loader = Counted(extract), over(numbered())
    features = cache.get_or_compute(loader, counted, "features", True)
    assert isinstance(features, np.ndarray)
    cache.get_or_compute(
        loader=loader, compute_fn=counted, cache_key_suffix="features", force_recompute=False
    )
    assert counted.calls == 1


def test_a_hit_is_bit_equal_and_private(cache):
    """R2.3: a hit calls nothing, gives the same bits, and may be written to without effect."""
    counted, loader = Counted(extract_wide), over(numbered())
    for _ in range(3):
        features = cache.get_or_compute(loader, counted, "features")
        assert same_bits(features, extract_wide(loader))
        features[:] = -1
    assert counted.calls == 1


def linear(scale=1.0):
    """Return a model whose weights are all `scale`."""
    model = torch.nn.Linear(3, 2).eval()
    torch.nn.init.constant_(model.weight, scale)
    torch.nn.init.zeros_(model.bias)
    return model


@pytest.mark.parametrize(
    ("loader", "fn", "suffix"),
    [
        pytest.param(over(numbered(start=1)), extract, "features", id="dataset"),
        pytest.param(over(Subset(numbered(), [0, 1, 2])), extract, "features", id="subset"),
        pytest.param(over(numbered()), extract, "others", id="suffix"),
        pytest.param(over(numbered(), batch_size=3), extract, "features", id="batch size"),
        pytest.param(over(numbered(), 4, drop_last=True), extract, "features", id="drop_last"),
        pytest.param(over(numbered()), functools.partial(embed, linear()), "features", id="model"),
        pytest.param(
            over(numbered()), functools.partial(embed, linear(2.0)), "features", id="weights"
        ),
    ],
)
def test_one_change_is_a_miss(loader, fn, suffix, cache):
    """R2.4: another dataset, subset, suffix, batch size, drop_last or model is computed anew."""
    cache.get_or_compute(over(numbered()), extract, "features")
    cache.get_or_compute(over(numbered(), batch_size=4), extract, "features")
    cache.get_or_compute(over(numbered()), functools.partial(embed, linear(0.5)), "features")
    counted = Counted(fn)
    features = cache.get_or_compute(loader, counted, suffix)
    assert counted.calls == 1
    assert same_bits(features, fn(loader))


def test_another_transform_is_a_miss(cache, tmp_path):
    """R2.4: the same images through another transform are computed anew."""
    root, counted = write_images(tmp_path / "images"), Counted(extract)
    for size in (8, 4, 8):
        cache.get_or_compute(over(images(root, size)), counted, "features")
    assert counted.calls == 2


def test_each_outcome_is_logged(cache, caplog):
    """R2.5: a miss, a hit and a forced computation are each one INFO line that says which."""
    caplog.set_level(logging.INFO, LOGGER)
    for force in (False, False, True):
        cache.get_or_compute(over(numbered()), extract, "features", force)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == LOGGER]
    assert lines == [
        ("INFO", "miss: computing features"),
        ("INFO", "hit: features"),
        ("INFO", "forced: computing features"),
    ]


def test_debug_names_key_and_place(cache, caplog):
    """R2.5: at DEBUG the key and the place are told, on a miss and on a hit."""
    caplog.set_level(logging.DEBUG, LOGGER)
    for _ in range(2):
        cache.get_or_compute(over(numbered()), extract, "features")
    (entry,) = cache.store.entries()
    told = [r.getMessage() for r in caplog.records if r.name == LOGGER and r.levelname == "DEBUG"]
    assert len(told) == 2
    assert all(entry.key in line and cache.store.url in line for line in told)


def test_a_dataset_without_identity_is_computed(cache, caplog):
    """R2.5: a dataset without a rule is computed each time, and a WARNING says the way out."""
    counted, loader = Counted(extract), over(Unknown())
    for _ in range(2):
        assert same_bits(cache.get_or_compute(loader, counted, "features"), extract(loader))
    assert counted.calls == 2
    assert levels(caplog) == ["WARNING"] * 2
    assert "dataset_id=" in caplog.text
    assert not list(cache.store.entries())


def test_a_declared_dataset_is_cached(cache, caplog):
    """R2.5: the way out that the warning names works: with dataset_id= the second call is a hit."""
    counted, loader = Counted(extract), over(Unknown())
    for _ in range(2):
        cache.get_or_compute(loader, counted, "features", dataset_id="unknown@1")
    assert counted.calls == 1
    assert "WARNING" not in levels(caplog)


def cut(path):
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    """Replace every byte of a file."""
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("damage", [Path.unlink, cut, overwrite])
def test_damage_is_recomputed(damage, cache, tmp_path):
    """R2.6: whichever file is missing, truncated or corrupt, the right features come back."""
    loader = over(numbered())
    cache.get_or_compute(loader, extract_wide, "features")
    shutil.copytree(tmp_path / "cache", tmp_path / "whole")
    for whole in files(tmp_path / "whole"):
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        damage(tmp_path / "damaged" / whole.relative_to(tmp_path / "whole"))
        assert_as_live(FeatureCacheService(tmp_path / "damaged"), loader, fn=extract_wide)
        shutil.rmtree(tmp_path / "damaged")


def test_a_failed_save_returns_the_features(cache, caplog):
    """R2.6: features that cannot be stored come back, with a warning, after one computation."""
    counted, loader = Counted(extract_wide), over(numbered())
    with files_limited():
        features = cache.get_or_compute(loader, counted, "features")
    assert same_bits(features, extract_wide(loader))
    assert counted.calls == 1
    assert levels(caplog) == ["WARNING"]


def test_an_unwritable_store_computes(tmp_path, caplog):
    """R2.6: where nothing can be stored, features are computed, with a warning."""
    counted, loader = Counted(extract), over(numbered())
    with files_limited(0):
        cache = FeatureCacheService(tmp_path / "cache")
        features = cache.get_or_compute(loader, counted, "features")
    assert same_bits(features, extract(loader))
    assert counted.calls == 1
    assert levels(caplog) == ["WARNING", "WARNING"]


def fail(error, _loader):
    """Raise `error`."""
    raise error


@pytest.mark.parametrize(
    "error",
    [ValueError("own"), KeyboardInterrupt("own"), FingerprintError("own"), CommitError("own", 1)],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_the_function_propagates(error, cache):
    """R2.6: what compute_fn raises comes through, even one of castore's; nothing is stored."""
    counted = Counted(fail, error)
    with pytest.raises(type(error), match="own") as raised:
        cache.get_or_compute(over(numbered()), counted, "features")
    assert raised.value is error
    assert counted.calls == 1
    assert not list(cache.store.entries())


class FeatureExtractor:
    """The shape of simet's: it holds a cache, and subclasses say what is computed."""

    def __init__(self, model, cache_service):
        self.model = model
        self.cache_service = cache_service

    def extract(self, loader, force=False):
        """Return the features of `loader`."""
        name = type(self).__name__.lower()
        return self.cache_service.get_or_compute(loader, self._compute, name, force)

    def _compute(self, loader):
        raise NotImplementedError


class Doubled(FeatureExtractor):
    """One of its subclasses."""

    def _compute(self, loader):
        return 2 * embed(self.model, loader)


def test_extractors_work_unmodified(cache):
    """R2.7: an extractor that holds the service is keyed by its model, not by its service."""
    loader = over(numbered())
    features = Doubled(linear(), cache).extract(loader)
    assert same_bits(features, 2 * embed(linear(), loader))
    again = pickle.loads(pickle.dumps(Doubled(linear(), cache)))
    assert same_bits(again.extract(loader), features)
    assert again.cache_service.store.stats().hits == 1
    assert same_bits(Doubled(linear(3.0), cache).extract(loader), 3 * features)
    documents = [entry.derivation for entry in cache.store.entries()]
    assert len(documents) == 2
    assert "cache_service" not in str(documents)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.empty((0, 4), np.float32), id="0 rows"),
        pytest.param(np.arange(6.0), id="1-D"),
        pytest.param(np.linspace(0, 1, 12, dtype=np.float16).reshape(6, 2), id="float16"),
        pytest.param(torch.linspace(0, 1, 12).bfloat16().view(6, 2), id="bfloat16"),
        pytest.param(np.asfortranarray(np.arange(12.0).reshape(6, 2)), id="Fortran order"),
        pytest.param(np.arange(48.0).reshape(12, 4)[::2, 1::2], id="non-contiguous"),
        pytest.param(
            np.array([0x7FC0_0001, 0xFFC0_0002, 0x7F80_0003] * 2, "<u4").view("<f4"),
            id="NaN payloads",
        ),
    ],
)
def test_arrays_of_every_kind_are_kept(array, cache):
    """R2.8: dtype, shape and every bit survive, on the miss and on the hit."""
    counted, loader = Counted(give, array), over(numbered(len(array)))
    if isinstance(array, torch.Tensor):
        name, expected = "bfloat16", array.view(torch.int16).numpy()
    else:
        name, expected = array.dtype.name, np.ascontiguousarray(array)
    for _ in range(2):
        features = cache.get_or_compute(loader, counted, "features")
        assert features.dtype.name == name
        assert features.shape == expected.shape
        assert features.tobytes() == expected.tobytes()
    assert counted.calls == 1


def test_a_pickled_service_finds_the_same(cache):
    """A service that went through pickle, as to a worker, finds what the first one stored."""
    loader = over(numbered())
    cache.get_or_compute(loader, extract, "features")
    counted = Counted(extract)
    pickle.loads(pickle.dumps(cache)).get_or_compute(loader, counted, "features")
    assert counted.calls == 0


def test_the_service_shares_with_the_store(cache):
    """What the service computed, the store behind it finds under the same arguments."""
    loader = over(numbered())
    features = cache.get_or_compute(loader, extract, "features")
    assert same_bits(cache.store.get(loader, extract, "features"), features)


@beats_the_original
def test_the_folder_may_be_text(new, folder):
    """D1: the folder is given as text, as the original's documentation says."""
    assert_as_live(new(str(folder)), over(numbered()))


@beats_the_original
def test_rows_come_in_the_order_asked_for(new, folder):
    """D2: the same subset in another order gives its rows in that order."""
    loaders = [over(Subset(numbered(10), indices)) for indices in ([5, 1, 9], [1, 5, 9])]
    assert_as_live(new(folder), *loaders)


@beats_the_original
def test_a_shuffled_loader_spoils_nothing(new, folder):
    """D3: after a shuffled loader a sequential one still gets its rows in order."""
    cache, data = new(folder), numbered(32)
    cache.get_or_compute(over(data, shuffle=True), extract, "features")
    assert_as_live(cache, over(data))


@beats_the_original
def test_negative_indices_are_told_apart(new, folder):
    """D4: [-1, 3] and [-2, 3] are two subsets, though Python hashes them alike."""
    assert_as_live(new(folder), *[over(Subset(numbered(), i)) for i in ([-1, 3], [-2, 3])])


@beats_the_original
def test_nested_subsets_reach_their_dataset(new, folder):
    """D5: a subset of a subset of one dataset is not that of another."""
    nested = [Subset(Subset(numbered(start=s), [0, 2, 4]), [0, 1]) for s in (0, 100)]
    assert_as_live(new(folder), *map(over, nested))


@beats_the_original
def test_datasets_of_one_length_are_told_apart(new, folder):
    """D6: two datasets of equal type and length are two."""
    assert_as_live(new(folder), over(numbered()), over(numbered(start=100)))


@beats_the_original
def test_datasets_under_one_root_are_told_apart(new, folder):
    """D7: two splits that share a root are never answered with each other's features."""
    assert_as_live(new(folder), over(Unknown(start=0)), over(Unknown(start=100)))


@beats_the_original
def test_another_transform_gives_its_own_values(new, folder):
    """D8: after the transform changed, the old values are not served."""
    root = write_images(folder / "images")
    assert_as_live(new(folder / "cache"), over(images(root, 8)), over(images(root, 4)))


@beats_the_original
def test_drop_last_drops(new, folder):
    """D8: of 7 samples in batches of 2, drop_last leaves 6."""
    data = numbered(7)
    assert_as_live(new(folder), over(data), over(data, drop_last=True))


@beats_the_original
def test_a_sampler_is_heeded(new, folder):
    """D9: a sampler over 4 of 6 samples gives 4 rows."""
    data = numbered()
    assert_as_live(new(folder), over(data), over(data, sampler=[0, 2, 3, 5]))


@beats_the_original
def test_a_batch_sampler_is_heeded(new, folder):
    """D9: a batch sampler over 4 of 6 samples gives 4 rows."""
    data = numbered()
    batches = [DataLoader(data, batch_sampler=b) for b in ([[0, 1, 2, 3, 4, 5]], [[0, 2], [3, 5]])]
    assert_as_live(new(folder), *batches)


@beats_the_original
def test_a_replaced_file_is_seen(new, folder):
    """D10: another image under the same name is computed anew."""
    cache = new(folder / "cache")
    for seed in (0, 1):
        assert_as_live(cache, over(images(write_images(folder / "images", seed))))


@beats_the_original
def test_a_retrained_model_is_seen(new, folder):
    """D11: after another training step the old model's features are not served."""
    cache, model = new(folder), linear()
    for _ in range(2):
        assert_as_live(cache, over(numbered()), fn=functools.partial(embed, model))
        with torch.no_grad():
            model.weight.add_(1)


@beats_the_original
def test_equal_subsets_are_one(new, folder):
    """D12: twenty equal subsets, their indices tensors, are computed once."""
    cache, counted, data = new(folder), Counted(extract), numbered(10)
    for _ in range(20):
        subset = Subset(data, torch.tensor([5, 1, 9]))
        cache.get_or_compute(over(subset), counted, "features")
    assert counted.calls == 1


@beats_the_original
def test_the_mount_point_does_not_count(new, folder):
    """D14: the same images below another folder are found."""
    cache, counted = new(folder / "cache"), Counted(extract)
    here = write_images(folder / "here")
    there = Path(shutil.copytree(here, folder / "mnt" / "there"))
    for root in (here, there):
        cache.get_or_compute(over(images(root)), counted, "features")
    assert counted.calls == 1


@beats_the_original
def test_no_flipped_bit_is_served(new, folder):
    """D15: with any one bit of any file flipped, the right features come back, and no error."""
    loader, rng = over(numbered()), random.Random(15)
    assert_as_live(new(folder), loader)
    stored = {path: path.read_bytes() for path in files(folder)}
    for _ in range(60):
        path = rng.choice(list(stored))
        damaged = bytearray(stored[path])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert_as_live(new(folder), loader)
        except Exception as error:
            raise AssertionError(path) from error
        path.write_bytes(stored[path])


class Bomb:
    """An object that, unpickled, makes a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@beats_the_original
def test_a_crafted_file_is_not_executed(new, folder):
    """D16: code put in the place of any file is not run."""
    loader = over(numbered())
    assert_as_live(new(folder / "cache"), loader)
    for path in files(folder / "cache"):
        path.write_bytes(pickle.dumps(Bomb(folder / "executed")))
    new(folder / "cache").get_or_compute(loader, extract, "features")
    assert not (folder / "executed").exists()


@beats_the_original
def test_a_failed_overwrite_keeps_the_old(new, folder):
    """D17: where replacing an entry fails, the entry that was there is still found."""
    cache, counted, loader = new(folder), Counted(extract_wide), over(numbered())
    cache.get_or_compute(loader, counted, "features")
    with files_limited():
        cache.get_or_compute(loader, counted, "features", force_recompute=True)
    cache.get_or_compute(loader, counted, "features")
    assert counted.calls == 2


@beats_the_original
def test_equal_bytes_are_kept_once(new, folder):
    """D19: batch sizes 1, 2 and 3 are three keys, and their equal bytes take the room of one."""
    cache, counted, data = new(folder), Counted(extract_wide), numbered()
    for batch_size in (1, 2, 3):
        features = cache.get_or_compute(over(data, batch_size), counted, "features")
    assert counted.calls == 3
    assert sum(path.stat().st_size for path in files(folder)) < 1.1 * features.nbytes


@beats_the_original
def test_a_stream_is_computed(new, folder):
    """D20: an IterableDataset is computed, not a bare TypeError."""
    assert_as_live(new(folder), over(Stream()))


@beats_the_original
def test_a_list_of_roots_is_computed(new, folder):
    """D20: a dataset with a list of roots is computed, not a bare TypeError."""
    assert_as_live(new(folder), over(Unknown(root=["/data/a", "/data/b"])))


def test_none_is_a_clear_error(tmp_path):
    """D21: a function that returns None is an error at once; the original computes it for ever."""
    counted, loader = Counted(give, None), over(numbered())
    for data in (loader, over(Unknown())):
        with pytest.raises(ResultError, match="returned None"):
            FeatureCacheService(tmp_path / "castore").get_or_compute(data, counted, "features")
    for calls in (3, 4):
        PickleCache(tmp_path / "original").get_or_compute(loader, counted, "features")
        assert counted.calls == calls
