"""What simet's users rely on: the names they call, and what each call promises."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from castore.blobs import layout
from castore.errors import CommitError, ConfigError, FingerprintError, ResultError

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from PIL import Image  # noqa: E402  comes with torchvision
from torch.utils.data import (  # noqa: E402
    ConcatDataset,
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
        ("INFO", "miss: computing features (absent; nothing like it was found)"),
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


class Measured(functools.partial):
    """A function that notes how many rows each of its calls returned, apart from its key."""

    rows: tuple[int, ...] = ()

    def __call__(self, *args, **kwargs):
        """Call, and note."""
        found = super().__call__(*args, **kwargs)
        self.rows = (*self.rows, len(found))
        return found


def measured():
    """Return features of a model whose weights and inputs are whole numbers: exact in any batch."""
    return Measured(embed, linear())


def centred(model, loader):
    """Return features less their mean, which every row depends on."""
    found = embed(model, loader)
    return found - found.mean(0)


def values(dataset):
    """Return the features that `measured` gives over a whole dataset."""
    rows = torch.stack([dataset[i][0] for i in range(len(dataset))])
    return linear()(rows).detach().numpy()


def info_lines(caplog):
    """List what the adapter said at INFO."""
    records = [r for r in caplog.records if r.name == LOGGER and r.levelname == "INFO"]
    return [r.getMessage() for r in records]


GROWN = ConcatDataset([numbered(20), numbered(5, start=900)])


@pytest.mark.parametrize(
    ("loader", "missing"),
    [
        pytest.param(over(Subset(numbered(20), range(19, -1, -1)), 4), 0, id="permuted"),
        pytest.param(over(Subset(numbered(20), range(0, 20, 2)), 4), 0, id="subset"),
        pytest.param(over(GROWN, 4), 5, id="grown"),
        pytest.param(over(GROWN, 4, shuffle=True), 5, id="grown and shuffled"),
        pytest.param(over(Subset(GROWN, range(10, 23)), 4), 3, id="overlapping"),
        pytest.param(over(Subset(GROWN, [22, *range(9), 22, 7]), 4), 1, id="repeated"),
    ],
)
def test_only_missing_rows_are_computed(loader, missing, cache, caplog):
    """Rows that another request computed are reused once a probe saw that this may be."""
    cache.get_or_compute(over(numbered(20), 4), measured(), "features")
    caplog.set_level(logging.INFO, LOGGER)
    for again in (False, True):
        before, fn = cache.store.stats(), measured()
        features = cache.get_or_compute(loader, fn, "features")
        after = cache.store.stats()
        assert same_bits(features, values(loader.dataset))
        computed = after.rows_computed - before.rows_computed
        assert computed == (0 if again else missing)
        assert sum(fn.rows) == computed + after.rows_probed - before.rows_probed
    asked = len(loader.dataset)
    partial = f"partial hit: features: {missing} of {asked} rows computed, {asked - missing} reused"
    assert info_lines(caplog) == [partial if missing else "hit: features", "hit: features"]


def test_rows_of_other_batch_sizes_are_not_reused(cache):
    """R2.4: another batch size is a miss though every row is there; `ignore` lets it answer."""
    for size in (4, 5):
        fn = measured()
        cache.get_or_compute(over(numbered(20), size), fn, "features")
        assert fn.rows == (20,)
    fn = measured()
    cache.get_or_compute(over(numbered(20), 6), fn, "features", ignore=("batch_size",))
    assert fn.rows == ()


def test_features_of_the_whole_are_never_put_together(cache, caplog):
    """Features of which a row depends on the others are computed whole, and told as a miss."""
    caplog.set_level(logging.INFO, LOGGER)
    for rows in (20, 25):
        fn = functools.partial(centred, linear())
        assert same_bits(
            cache.get_or_compute(over(numbered(rows), 4), fn, "centred"),
            fn(over(numbered(rows), 4)),
        )
    assert cache.store.stats().partial_hits == 0
    first, second = info_lines(caplog)
    assert first == "miss: computing centred (absent; nothing like it was found)"
    assert second == "miss: computing centred (rows that are stored are not reused)"


def test_a_miss_names_what_differs(cache, caplog):
    """The INFO line of a miss says in what the nearest stored result differs."""
    cache.get_or_compute(over(numbered(), 2), extract, "features")
    caplog.set_level(logging.INFO, LOGGER)
    cache.get_or_compute(over(numbered(), 3), extract, "features")
    cache.get_or_compute(over(numbered(), 2, shuffle=True), extract, "others")
    batches, suffix = info_lines(caplog)
    assert batches.startswith("miss: computing features (absent; nearest ")
    assert batches.endswith("differs in batch_size 2 → 3)")
    assert suffix.endswith("differs in suffix features → others)")


def test_debug_names_the_entries_of_rows(cache, caplog):
    """At DEBUG a result put together is said to have no entry, and where its rows lie."""
    cache.get_or_compute(over(numbered(20), 4), measured(), "features")
    caplog.set_level(logging.DEBUG, LOGGER)
    cache.get_or_compute(over(numbered(25), 4), measured(), "features")
    *_, told = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    counts = {entry.key: entry.rows for entry in cache.store.entries()}
    assert sorted(counts.values()) == [5, 20]
    assert "has no entry of its own" in told
    assert all(f"{rows} in {key}" in told for key, rows in counts.items())


def test_how_rows_are_reused_can_be_said(cache):
    """`rowwise`, `audit` and `materialize` are heeded as the store heeds them."""
    cache.get_or_compute(over(numbered(20), 4), extract, "features")
    fn = Measured(extract)
    cache.get_or_compute(over(numbered(25), 4), fn, "features", rowwise=False)
    assert fn.rows == (25,)
    cache.store.delete(cache.store.info(over(numbered(25), 4), extract, "features").key)
    options = {"rowwise": True, "audit": 1.0, "materialize": True}
    fn = Measured(extract)
    found = cache.get_or_compute(over(numbered(25), 4), fn, "features", **options)
    assert fn.rows == (5, 20)
    assert same_bits(found, extract(over(numbered(25))))
    assert cache.store.info(over(numbered(25), 4), extract, "features").rows == 25


def test_progress_is_told(cache):
    """A function given as `progress` hears of the rows that are computed, and of no others."""
    cache.get_or_compute(over(numbered(20), 4), measured(), "features")
    heard = []
    cache.get_or_compute(
        over(numbered(23), 4), measured(), "features", progress=lambda *rows: heard.append(rows)
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


class Gated(functools.partial):
    """A function that says when it runs and then waits, both apart from its key."""

    arrived: threading.Event
    go: threading.Event

    def __call__(self, *args, **kwargs):
        """Say so, wait, and call."""
        self.arrived.set()
        assert self.go.wait(60)
        return super().__call__(*args, **kwargs)


def test_nobody_need_wait(cache):
    """Under `wait=False` one who asks for what another thread is computing computes it too."""
    gated, counted, loader = Gated(extract), Counted(extract), over(numbered())
    gated.arrived, gated.go = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get_or_compute, loader, gated, "features")
        assert gated.arrived.wait(60)
        second = cache.get_or_compute(loader, counted, "features", wait=False)
        gated.go.set()
        assert same_bits(first.result(), second)
    assert counted.calls == 1


def test_threads_compute_once(cache, caplog):
    """D18: of sixteen threads that ask at once one computes; each has its own line in the log."""
    caplog.set_level(logging.INFO, LOGGER)
    counted, start = Counted(extract), threading.Barrier(16)

    def ask(_):
        start.wait()
        return cache.get_or_compute(over(numbered()), counted, "features")

    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(ask, range(16)):
            assert same_bits(found, extract(over(numbered())))
    assert counted.calls == 1
    kinds = sorted(line.partition(":")[0] for line in info_lines(caplog))
    assert kinds == ["hit"] * 15 + ["miss"]


def test_threads_are_told_apart_in_the_log(cache, caplog):
    """Partial hits of several threads at once are logged with the rows of each."""
    for n in range(8):
        cache.get_or_compute(over(numbered(20), 4), measured(), f"features {n}")
    caplog.set_level(logging.INFO, LOGGER)
    start = threading.Barrier(8)

    def ask(n):
        start.wait()
        return cache.get_or_compute(over(numbered(21 + n), 4), measured(), f"features {n}")

    with ThreadPoolExecutor(8) as pool:
        for n, found in enumerate(pool.map(ask, range(8))):
            assert same_bits(found, values(numbered(21 + n)))
    assert sorted(info_lines(caplog)) == [
        f"partial hit: features {n}: {1 + n} of {21 + n} rows computed, 20 reused" for n in range(8)
    ]


def ask_in_child(cache, start, queue, dataset):
    """Ask once, with the others; tell whether the answer is right and how many rows were run."""
    start.wait()
    found = cache.get_or_compute(over(dataset, 4), measured(), "features")
    queue.put((same_bits(found, values(dataset)), cache.store.stats().rows_computed))


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        pytest.param([], [range(40)] * 6, id="one key"),
        pytest.param(range(20), [range(40)] * 6, id="one key, partly stored"),
        pytest.param(range(20), [range(n, 25 + 3 * n) for n in range(6)], id="overlapping"),
    ],
)
def test_processes_compute_each_row_once(stored, asked, tmp_path):
    """Of processes that ask at once for the same rows, one computes each row."""
    folder, data, context = tmp_path / "cache", numbered(40), multiprocessing.get_context("fork")
    cache = FeatureCacheService(folder)
    if stored:
        fresh = FeatureCacheService(folder)
        fresh.get_or_compute(over(Subset(data, stored), 4), measured(), "features")
        fresh.get_or_compute(over(Subset(data, stored[::-1]), 4), measured(), "features")  # probes
    start, queue = context.Barrier(len(asked)), context.SimpleQueue()
    children = [
        context.Process(target=ask_in_child, args=(cache, start, queue, Subset(data, rows)))
        for rows in asked
    ]
    for child in children:
        child.start()
    answers = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert all(right for right, _ in answers)
    missing = set().union(*asked) - set(stored)
    assert sum(computed for _, computed in answers) == len(missing)


def spoil_state(cache, _table, _key, monkeypatch):
    """Have a file stand where this machine's state folder would be made."""
    place = Path(cache.store.url.removeprefix("file://")).parent / "state"
    place.write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(place))


def spoil_index(_cache, _table, _key, _monkeypatch):
    """Write over every file of this machine's state folder."""
    spoiled = files(Path(os.environ["XDG_STATE_HOME"]) / "castore")
    assert spoiled
    for path in spoiled:
        path.write_bytes(b"\xff" * 200)


def spoil_leases(cache, _table, _key, _monkeypatch):
    """Have a file stand where leases are."""
    leases = Path(cache.store.url.removeprefix("file://")) / "leases"
    shutil.rmtree(leases, ignore_errors=True)
    leases.write_text("no folder")


def spoil_lease(cache, _table, key, _monkeypatch):
    """Have a lease of nobody stand for the key."""
    lease = Path(cache.store.url.removeprefix("file://")) / "leases" / key / "0"
    lease.parent.mkdir(parents=True)
    lease.write_text("")


def spoil_verdict(cache, table, _key, _monkeypatch):
    """Have a file stand where what a probe found would be kept."""
    place = Path(cache.store.url.removeprefix("file://")) / layout.verdict(table, "0" * 32)
    place.parent.write_text("no folder")


@pytest.mark.parametrize(
    "spoil", [spoil_state, spoil_index, spoil_leases, spoil_lease, spoil_verdict]
)
def test_trouble_beside_the_entries_breaks_nothing(spoil, cache, monkeypatch):
    """Whatever is wrong with leases, claims, index or verdicts, the right features come back."""
    grown = over(numbered(25), 4)
    cache.get_or_compute(over(numbered(20), 4), measured(), "features")
    why = cache.store.explain(grown, measured(), "features", compare=("batch_size",))
    assert why.kind == "partial"
    spoil(cache, why.table, why.key, monkeypatch)
    again = pickle.loads(pickle.dumps(cache))
    for service in (cache, again, cache):
        found = service.get_or_compute(grown, measured(), "features", wait=0.2)
        assert same_bits(found, values(numbered(25)))


def test_damage_is_told_as_a_miss(cache, caplog):
    """What is computed again because it was damaged is a miss, in one line that says so."""
    cache.get_or_compute(over(numbered()), extract_wide, "features")
    largest = max(files(Path(cache.store.url.removeprefix("file://"))), key=os.path.getsize)
    overwrite(largest)
    caplog.set_level(logging.INFO, LOGGER)
    cache.get_or_compute(over(numbered()), extract_wide, "features")
    cache.get_or_compute(over(numbered()), extract_wide, "features")
    assert info_lines(caplog) == [
        "miss: computing features (the entry of these rows is damaged)",
        "hit: features",
    ]
