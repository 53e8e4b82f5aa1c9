"""What simet's users rely on: the names they call, and what each call promises."""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
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
    Subset,
    TensorDataset,
)
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import Compose, Resize, ToTensor  # noqa: E402

from castore.adapters.simet import FeatureCacheService  # noqa: E402

LOGGER = "castore.adapters.simet"


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


def test_none_is_a_clear_error(tmp_path):
    """A function that returns None is an error at once, cached or not."""
    counted, loader = Counted(give, None), over(numbered())
    for data in (loader, over(Unknown())):
        with pytest.raises(ResultError, match="returned None"):
            FeatureCacheService(tmp_path / "castore").get_or_compute(data, counted, "features")
