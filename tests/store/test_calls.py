"""The calls of a store: what is computed, what is found, and what is left as it was."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import textwrap
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.errors import ConfigError, NotFoundError, ReadOnlyError

ROWS = np.arange(60.0).reshape(12, 5)


class Doubling:
    """A function of the loader that counts its calls where no key sees it."""

    def __init__(self, factor=2):
        self.factor = factor
        self.calls = deque()

    def __call__(self, loader):
        """Double."""
        self.calls.append(None)
        return np.asarray(loader) * self.factor


def only_entry(store):
    """Return the only entry of a store."""
    (info,) = store.entries()
    return store.entry(info.key)


@pytest.fixture
def store(tmp_path):
    """Return a new store."""
    return castore.open(tmp_path / "store")


def test_second_call_is_a_hit(store):
    """The function runs once; the second call returns the same bits without it."""
    fn = Doubling()
    first = store.get_or_compute(ROWS, fn, "double", model=None)
    second = store.get_or_compute(ROWS, fn, "double", model=None)
    assert len(fn.calls) == 1
    assert first.tobytes() == second.tobytes() == (ROWS * 2).tobytes()
    assert (store.stats().hits, store.stats().misses) == (1, {"absent": 1})


def test_another_process_hits(store):
    """What one process stored, another finds by a key it derives for itself."""
    store.put(ROWS, ROWS * 2, "double", model=None)
    script = f"""
        import castore, numpy as np
        def fail(loader): raise SystemExit("computed again")
        rows = np.arange(60.0).reshape(12, 5)
        store = castore.open({store.url!r})
        print(store.get_or_compute(rows, fail, "double", model=None).sum())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert float(run.stdout) == (ROWS * 2).sum()


def test_a_hit_is_mapped_writable_and_private(store):
    """Writing to a returned array changes nothing stored, and no other returned array."""
    big = np.arange(200_000.0).reshape(1000, 200)
    fn = Doubling()
    store.get_or_compute(big, fn, "double", model=None)
    one, other = (store.get_or_compute(big, fn, "double", model=None) for _ in range(2))
    one[:] = -1
    assert np.array_equal(other, big * 2)
    assert np.array_equal(store.get_or_compute(big, fn, "double", model=None), big * 2)
    assert len(fn.calls) == 1


@pytest.mark.parametrize("change", ["rows", "order", "suffix", "params", "version", "captured"])
def test_any_changed_component_misses(store, change):
    """Other rows, another order, suffix, parameter, version or captured value is another key."""
    call = {"loader": ROWS, "fn": Doubling(), "suffix": "s", "params": {"a": 1}, "version": 1}
    changed = {
        "rows": {"loader": ROWS + 1},
        "order": {"loader": ROWS[::-1]},
        "suffix": {"suffix": "t"},
        "params": {"params": {"a": 1.0}},
        "version": {"version": 2},
        "captured": {"fn": Doubling(3)},
    }[change]
    store.get_or_compute(**call, model=None)
    store.get_or_compute(**{**call, **changed}, model=None)
    assert store.stats().misses == {"absent": 2}


def test_without_suffix_the_code_is_the_key(store):
    """Two functions without a suffix never share an entry."""
    assert store.get_or_compute(ROWS, lambda rows: rows + 1, model=None)[0, 0] == 1
    assert store.get_or_compute(ROWS, lambda rows: rows + 2, model=None)[0, 0] == 2
    assert store.get_or_compute(ROWS, lambda rows: rows + 1, model=None)[0, 0] == 1
    assert store.stats().hits == 1


def test_force_and_refresh_replace(store):
    """``force`` and ``mode="refresh"`` compute again, and the later value stays."""
    values = deque([1.0, 2.0, 3.0])

    def draw(loader):
        return np.full(12, values.popleft())

    refreshing = castore.open(store.url, mode="refresh")
    assert store.get_or_compute(ROWS, draw, "draw", model=None)[0] == 1
    assert store.get_or_compute(ROWS, draw, "draw", model=None, force=True)[0] == 2
    assert store.get_or_compute(ROWS, draw, "draw", model=None)[0] == 2
    assert refreshing.get_or_compute(ROWS, draw, "draw", model=None)[0] == 3
    assert store.get_or_compute(ROWS, draw, "draw", model=None)[0] == 3


def test_a_failing_replacement_leaves_the_old_value(store):
    """An exception of the function propagates, stores nothing, and removes nothing."""

    def fail(loader):
        raise KeyError("mine")

    store.get_or_compute(ROWS, Doubling(), "double", model=None)
    with pytest.raises(KeyError, match="mine"):
        store.get_or_compute(ROWS, fail, "double", model=None, force=True)
    with pytest.raises(KeyError, match="mine"):
        store.get_or_compute(ROWS, fail, "other", model=None)
    assert [info.suffix for info in store.entries()] == ["double"]


def test_mode_ro_reads_and_never_writes(store, tmp_path):
    """A read-only store hits, computes what is missing, and leaves no trace."""
    store.get_or_compute(ROWS, Doubling(), "double", model=None)
    before = sorted(Path(store.url).rglob("*"))
    reading = castore.open(store.url, mode="ro")
    fn = Doubling()
    reading.get_or_compute(ROWS, fn, "double", model=None)
    assert not fn.calls
    assert np.array_equal(reading.get_or_compute(ROWS, fn, "missing", model=None), ROWS * 2)
    assert sorted(Path(store.url).rglob("*")) == before
    nowhere = castore.open(tmp_path / "nowhere", mode="ro")
    assert np.array_equal(nowhere.get_or_compute(ROWS, fn, "missing", model=None), ROWS * 2)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ReadOnlyError, match='mode="rw"'):
        reading.put(ROWS, ROWS, "double")
    with pytest.raises(ReadOnlyError):
        reading.delete("")


def test_mode_off_touches_nothing(tmp_path):
    """Switched off, the store computes every time and makes no folder."""
    off = castore.open(tmp_path / "store", mode="off")
    fn = Doubling()
    for _ in range(2):
        assert np.array_equal(off.get_or_compute(ROWS, fn, "double", model=None), ROWS * 2)
    assert len(fn.calls) == 2
    assert off.get(ROWS, fn, "double", model=None) is None
    assert off.stats().uncached == {"off": 2}
    assert not (tmp_path / "store").exists()


def test_get_put_info(store):
    """``put`` stores what ``get`` finds and ``info`` describes; before that, neither has it."""
    assert store.get(ROWS, suffix="mine", default="none") == "none"
    with pytest.raises(NotFoundError, match="mine"):
        store.info(ROWS, suffix="mine")
    info = store.put(ROWS, {"a": ROWS, "b": [1, 2]}, "mine", params={"k": 3})
    found = store.get(ROWS, suffix="mine", params={"k": 3})
    assert np.array_equal(found["a"], ROWS)
    assert found["b"] == [1, 2]
    assert info == store.info(ROWS, suffix="mine", params={"k": 3})
    assert info.columns == {"a": "float64 (12, 5)", "b": "int64 (2,)"}
    assert (info.suffix, info.rows) == ("mine", 12)


def test_put_replaces(store):
    """The later of two ``put`` stays."""
    for value in (1.0, 2.0):
        store.put(ROWS, np.full(12, value), "mine")
    assert store.get(ROWS, suffix="mine")[0] == 2


def test_compute_is_keyed_by_its_inputs(store):
    """A result of no loader is found by the content of its inputs."""
    fn = deque()

    def moments(features, scale):
        fn.append(None)
        return features.mean(0) * scale, np.cov(features, rowvar=False)

    for _ in range(2):
        mean, covariance = store.compute(
            moments, suffix="fid", inputs={"features": ROWS, "scale": 2.0}
        )
    assert len(fn) == 1
    assert np.array_equal(mean, ROWS.mean(0) * 2)
    assert covariance.shape == (5, 5)
    store.compute(moments, suffix="fid", inputs={"features": ROWS, "scale": 2})
    assert len(fn) == 2


def test_decorator_keys_further_arguments(store):
    """A decorated function of a loader is cached, its other arguments being part of the key."""
    calls = deque()

    @store.cache(suffix="scaled", model=None)
    def scaled(loader, factor=1, *, shift=0):
        """Scale."""
        calls.append(None)
        return np.asarray(loader) * factor + shift

    assert np.array_equal(scaled(ROWS, 3), ROWS * 3)
    assert np.array_equal(scaled(ROWS, factor=3), ROWS * 3)
    assert np.array_equal(scaled(ROWS, 3, shift=1), ROWS * 3 + 1)
    assert len(calls) == 2
    assert scaled.__name__ == "scaled"


def test_delete_removes_one_entry(store):
    """``delete`` takes a key's prefix, makes the key miss, and says what it was."""
    fn = Doubling()
    for suffix in ("a", "b"):
        store.get_or_compute(ROWS, fn, suffix, model=None)
    info = store.info(ROWS, fn, "a", model=None)
    assert store.delete(info.key[:12]) == info
    assert [entry.suffix for entry in store.entries()] == ["b"]
    with pytest.raises(NotFoundError, match="no entry"):
        store.delete(info.key)


def test_a_prefix_must_name_one_entry(store):
    """An ambiguous prefix is refused and says how many it names."""
    keys = {}
    while len(keys) < 2:  # until two keys begin with the same digit
        info = store.put(ROWS, ROWS, f"suffix {len(list(store.entries()))}")
        keys = {e.key for e in store.entries() if e.key[0] == info.key[0]}
    with pytest.raises(NotFoundError, match="entries whose key"):
        store.entry(info.key[0])
    with pytest.raises(NotFoundError, match="entries whose key"):
        store.entry("")


def test_tables_and_usage_add_up(store):
    """Tables group entries of one function; equal payloads are stored once."""
    big = np.arange(40_000.0).reshape(400, 100)
    for suffix in ("a", "b"):
        store.get_or_compute(big, Doubling(), suffix, model=None)
    store.get_or_compute(big[:200], Doubling(), "a", model=None)
    tables = {table.suffix: table for table in store.tables()}
    assert (tables["a"].entries, tables["a"].rows) == (2, 600)
    assert (tables["b"].entries, tables["b"].rows) == (1, 400)
    usage = store.usage()
    assert usage.referenced < usage.logical * 0.7
    assert usage.unreferenced == 0
    store.delete(store.info(big[:200], Doubling(), "a", model=None).key)
    assert store.usage().unreferenced > 0


def test_ignore_leaves_a_captured_value_out(store):
    """``ignore`` names a captured value; two calls that differ in it alone share the key."""
    store.get_or_compute(ROWS, Doubling(2), "d", model=None, ignore=("fn.factor",))
    again = store.get_or_compute(ROWS, Doubling(3), "d", model=None, ignore=("fn.factor",))
    assert np.array_equal(again, ROWS * 2)
    with pytest.raises(ConfigError, match=r"fn\.factor"):
        store.get_or_compute(ROWS, Doubling(), "d", model=None, ignore=("nothing",))


def test_global_generators_are_left_as_found(store):
    """A miss that draws leaves Python's and numpy's generators where a hit would."""

    def draw(loader):
        return np.random.rand(12) + random.random()  # noqa: NPY002

    states = []
    for _ in range(2):
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        store.get_or_compute(ROWS, draw, "draw", model=None)
        states.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert states[0] == states[1]
    assert store.stats().hits == 1


def test_hazards_are_logged_once(store, caplog):
    """A missing model, rows named by index and what is not keyed are each said once."""
    fn = Doubling()
    with caplog.at_level(logging.WARNING, "castore"):
        for _ in range(3):
            store.get_or_compute(ROWS, fn, "d", dataset_id="rows@1")
    text = [record.getMessage() for record in caplog.records]
    assert len(text) == 3
    assert "no model found" in text[0]
    assert "fn.calls (collections.deque)" in text[1]
    assert "named by their index" in text[2]


def test_progress_is_called_with_rows(store):
    """A progress function hears of every batch a generator yields, and of the total."""
    heard = []

    def batches(loader):
        for start in range(0, 12, 5):
            yield loader[start : start + 5]

    store.get_or_compute(
        ROWS, batches, "g", model=None, progress=lambda done, total: heard.append((done, total))
    )
    assert heard == [(5, 12), (10, 12), (12, 12)]


def test_opening_reads_and_writes_nothing(tmp_path):
    """Opening a store makes no folder; bad options are refused by name."""
    castore.open(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    for option in ({"mode": "rx"}, {"on_error": "ignore"}, {"verify": "never"}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            castore.open(tmp_path, **option)


def test_memory_stores_share_a_name():
    """``memory://name`` is one store within a process, with nothing on disk."""
    one, two = castore.open("memory://calls"), castore.open("memory://calls")
    one.get_or_compute(ROWS, Doubling(), "double", model=None)
    fn = Doubling()
    found = two.get_or_compute(ROWS, fn, "double", model=None)
    found[:] = 0
    assert np.array_equal(two.get_or_compute(ROWS, fn, "double", model=None), ROWS * 2)
    assert not fn.calls


@pytest.mark.parametrize("digest", ["xxh3-128", "sha256", "blake3"])
@pytest.mark.parametrize("verify", ["mapped", "always"])
def test_every_digest_and_verification_hits(tmp_path, digest, verify):
    """A store keeps the digest it was made with, and hits under either verification."""
    if digest == "blake3":
        pytest.importorskip("blake3")
    castore.init(tmp_path / "store", digest=digest)
    store = castore.open(tmp_path / "store", verify=verify)
    big = np.arange(100_000.0).reshape(500, 200)
    fn = Doubling()
    for _ in range(2):
        found = store.get_or_compute(big, fn, "double", model=None)
        assert np.array_equal(found, big * 2)
    assert len(fn.calls) == 1
    assert only_entry(store).manifest.algorithm == digest


def test_a_damaged_entry_can_be_deleted(store, tmp_path):
    """``delete`` removes an entry whose manifest cannot be read, which listings pass over."""
    info = store.put(ROWS, ROWS, "s")
    (manifest,) = (tmp_path / "store").glob("tables/*/entries/*.json")
    manifest.write_bytes(b"{}")
    assert list(store.entries()) == []
    removed = store.delete(info.key[:8])
    assert (removed.key, removed.table, removed.suffix) == (info.key, info.table, "")
    assert not manifest.exists()


def test_a_function_that_changes_what_it_captures_is_told(store, caplog):
    """A counter among the captured values makes each call a new key; the log says so."""
    calls = []

    def count(loader):
        calls.append(1)
        return np.asarray(loader)

    with caplog.at_level(logging.WARNING, "castore"):
        store.get_or_compute(ROWS, count, "n", model=None)
    assert "ignore=('fn.calls',)" in caplog.text
    for _ in range(2):
        store.get_or_compute(ROWS, count, "n", model=None, ignore=("fn.calls",))
    assert len(calls) == 2


def test_a_store_remembers_a_bounded_number_of_manifests(store):
    """However many entries are read, few manifests stay in memory, and each still hits."""
    for n in range(300):
        store.put(ROWS, ROWS + n, f"s{n}")
    for n in (*range(300), 299, 0):
        assert store.get(ROWS, suffix=f"s{n}")[0, 0] == n
    assert len(store._resolver.finder._known) == 256
    store.put(ROWS, -ROWS, "s299")
    assert np.array_equal(store.get(ROWS, suffix="s299"), -ROWS)
