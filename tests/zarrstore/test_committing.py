"""From a stage to an entry: in one step, once, by whoever has it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.core.sync import sync

import castore
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.errors import (
    BackendError,
    ConfigError,
    FingerprintError,
    ReadOnlyError,
    ResultError,
    StoreError,
)
from castore.points import POINTS

SCRIPT = Path(__file__).with_name("staging.py")
_spec = importlib.util.spec_from_file_location("castore_staging", SCRIPT)
staging = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = staging  # children that are spawned find it by its path
_spec.loader.exec_module(staging)
NEW, OLD = staging.NEW, staging.OLD

VALUE = cpu.Buffer.from_bytes(b"value")


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch):
    """Return an empty store of each kind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return castore.open(
        tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    )


def filled(store, data=NEW):
    """Return a stage with one array of two chunks."""
    stage = store.zarr_store()
    zarr.create_array(stage, data=data, chunks=(1, 20_000), compressors=None)
    return stage


def left(folder):
    """Every temporary file and folder of a store, of either kind."""
    return [*folder.glob("temporary/*"), *folder.glob("store/tmp/*")]


def set_of(stage, key):
    """Write some bytes."""
    stage.set_sync(key, VALUE)


def test_nobody_sees_a_stage(store):
    """Before the commit a store has no entry, no blob and no table of what is written."""
    stage = filled(store)
    assert list(store.entries()) == []
    assert store.usage().physical == 0
    stage.commit("s")
    assert len(list(store.entries())) == 1


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_several_processes_write_one_array(tmp_path, method):
    """Parts written through pickled stages by other processes are in what the parent commits."""
    store = castore.open(tmp_path)
    stage = store.zarr_store()
    zarr.create_array(stage, shape=NEW.shape, dtype="f8", chunks=(1, 20_000), compressors=None)
    for part in (0, 1):
        call = f"import runpy; m = runpy.run_path({str(SCRIPT)!r});"
        call += f" m['write_part']({pickle.dumps(stage)!r}, {part})"
        if method == "spawn":
            subprocess.run([sys.executable, "-c", call], check=True)
        else:
            # zarr itself does not outlive a fork with its threads running: the child writes bytes.
            child = os.fork()
            if child == 0:
                stage.set_sync(f"c/{part}/0", cpu.Buffer.from_bytes(NEW[part].tobytes()))
                stage = None
                gc.collect()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(store.entry(stage.commit("s").key).zarr()[...], NEW)


def test_a_childs_end_does_not_end_the_stage(store):
    """A forked child that lets the stage go, or exits, leaves it to its parent."""
    script = f"import castore, os; s = castore.open({store.url!r}).zarr_store();"
    script += " b = type(s).get_sync.__globals__['default_buffer_prototype']().buffer;"
    script += " s.set_sync('a', b.from_bytes(b'value')); child = os.fork();"
    script += " exec('raise SystemExit' if not child else 'os.wait()');"
    script += " assert s.get_sync('a').to_bytes() == b'value'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    stage = filled(store)
    script = "import pickle,sys; s = pickle.loads(sys.stdin.buffer.read()); del s"
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(stage), check=True)
    assert np.array_equal(zarr.open_array(stage, mode="r")[...], NEW)


WRITES = {
    "set": lambda stage: set_of(stage, "zarr.json"),
    "set a new one": lambda stage: set_of(stage, "a/b/c"),
    "delete": lambda stage: stage.delete_sync("zarr.json"),
    "get": lambda stage: stage.get_sync("zarr.json"),
    "through zarr": lambda stage: zarr.create_group(stage, overwrite=True),
    "commit": lambda stage: stage.commit("s"),
}


@pytest.mark.parametrize("act", WRITES)
@pytest.mark.parametrize("end", ["committed", "gone"])
def test_what_is_over_is_over(store, act, end):
    """After the commit, or when it was discarded, every use of the stage or a copy says so."""
    stage = filled(store)
    copies = [pickle.loads(pickle.dumps(stage)), stage.with_read_only(read_only=False)]
    if end == "committed":
        key = stage.commit("s").key
    else:
        stage.discard()
    for each in (stage, *copies, pickle.loads(pickle.dumps(stage))):
        with pytest.raises(StoreError, match=end):
            WRITES[act](each)
    if end == "committed":
        assert np.array_equal(store.entry(key).zarr()[...], NEW)
        assert len(list(store.entries())) == 1


@pytest.mark.parametrize("end", ["committed", "gone"])
def test_another_process_is_told_too(tmp_path, end):
    """A process that has the stage since before is told what became of it."""
    stage = filled(castore.open(tmp_path))
    pickled = pickle.dumps(stage)
    stage.commit("s") if end == "committed" else stage.discard()
    call = (
        f"import runpy, queue; m = runpy.run_path({str(SCRIPT)!r}); q = queue.Queue();"
        f" m['try_to_write']({pickled!r}, q); print(q.get())"
    )
    told = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
    assert told.stdout.startswith("StoreError: ")
    assert end in told.stdout


def failing_backend(monkeypatch, store, method):
    """Let a method of the store's backend fail once."""
    kind = LocalBackend if isinstance(store._backend, LocalBackend) else MemoryBackend
    inner, calls = getattr(kind, method), []

    def once(self, *arguments, **options):
        if not calls:
            calls.append(1)
            msg = "the disk is full"
            raise BackendError(msg)
        return inner(self, *arguments, **options)

    monkeypatch.setattr(kind, method, once)


@pytest.mark.parametrize("method", ["check_writable", "stat", "upload"])
def test_a_failed_commit_leaves_the_stage(store, monkeypatch, method):
    """If anything fails nothing is published, the stage can be written, and a second one works."""
    stage = filled(store)
    failing_backend(monkeypatch, store, method)
    with pytest.raises(BackendError, match="the disk is full"):
        stage.commit("s")
    assert list(store.entries()) == []
    zarr.open_array(stage, mode="r+")[0] = 7.0
    found = store.entry(stage.commit("s").key).zarr()
    assert np.array_equal(found[1], NEW[1])
    assert set(found[0]) == {7.0}


def test_a_stage_that_is_no_hierarchy_can_be_mended(store):
    """A commit of no hierarchy, or with inputs that have no identity, leaves the stage writable."""
    stage = store.zarr_store()
    with pytest.raises(ResultError, match=r"no zarr\.json at its root"):
        stage.commit("s")
    zarr.create_array(stage, data=NEW, chunks=(1, 20_000))
    with pytest.raises(FingerprintError):
        stage.commit("s", inputs={"a": iter(())})
    assert np.array_equal(store.entry(stage.commit("s").key).zarr()[...], NEW)


def test_a_write_after_a_failed_commit_does_not_reach_the_blobs(tmp_path, monkeypatch):
    """Files that became blobs in a commit that failed later are replaced, never written to."""
    store = castore.open(tmp_path)
    stage = filled(store)
    failing_backend(monkeypatch, store, "list")  # the look for tombstones, after the commit
    with pytest.raises(BackendError):
        stage.commit("s", inputs={"a": 1})
    zarr.open_array(stage, mode="r+")[...] = 7.0
    assert np.array_equal(store.find("s", inputs={"a": 1}).zarr()[...], NEW)
    stage.commit("s", inputs={"a": 1}, force=True)
    assert set(store.find("s", inputs={"a": 1}).zarr()[...].flat) == {7.0}


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/../b", "", ".", "a/", "a\0b"], ids=ascii)
def test_keys_that_are_no_names_are_refused(store, key, tmp_path):
    """A key that is a way out of the folder, or no path of names, is no key: nothing is written."""
    stage = filled(store)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="is no Zarr key"):
        set_of(stage, key)
    assert stage.get_sync(key) is None
    stage.delete_sync(key)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_key_lies_below_another(store):
    """A value above or below another is refused, and the other stays."""
    stage = store.zarr_store()
    set_of(stage, "a/b")
    for key in ("a/b/c", "a/b/c/d", "a"):
        with pytest.raises(ConfigError, match="above or below"):
            set_of(stage, key)
    assert stage.get_sync("a/b").to_bytes() == b"value"
    assert stage.get_sync("a") is None


@pytest.mark.parametrize("end", ["commit", "discard", "collected"])
def test_nothing_is_left(store, end, tmp_path):
    """When a stage is over no temporary file is left, and none of its folders once it is let go."""
    stage = filled(store)
    assert left(tmp_path)
    if end == "commit":
        stage.commit("s")
    elif end == "discard":
        stage.discard()
    if end != "collected":
        assert [path for top in left(tmp_path) for path in top.rglob("*") if path.is_file()] == []
    del stage
    sync(asyncio.sleep(0))  # zarr's loop lets go of its last task when the next one comes
    gc.collect()
    assert left(tmp_path) == []


def test_nothing_is_left_when_a_process_ends(tmp_path):
    """A process that ends with a stage open removes it."""
    script = f"import castore, zarr; s = castore.open({str(tmp_path)!r}).zarr_store();"
    script += " zarr.create_group(s)"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert list(tmp_path.glob("tmp/*")) == []


def test_the_first_of_two_stays(store):
    """Of two stages under one key the first stays, and the second is counted as a disagreement."""
    one, two = filled(store, OLD), filled(store, NEW)
    first = one.commit("s", inputs={"a": 1})
    assert two.commit("s", inputs={"a": 1}).key == first.key
    assert store.stats().disagreements == 1
    assert np.array_equal(store.find("s", inputs={"a": 1}).zarr()[...], OLD)
    filled(store, NEW).commit("s", inputs={"a": 1}, force=True)
    assert np.array_equal(store.find("s", inputs={"a": 1}).zarr()[...], NEW)
    assert len(list(store.entries())) == 1


def test_equal_content_is_one_entry(store):
    """Without inputs a hierarchy goes by its content: equal ones are one entry, others are not."""
    first = filled(store).commit("s")
    before = store.usage().physical
    assert filled(store).commit("s").key == first.key
    assert store.usage().physical == before
    assert store.stats().disagreements == 0
    assert filled(store, OLD).commit("s").key != first.key


def test_a_read_only_store_has_no_stage(tmp_path):
    """A store opened to be read begins no stage."""
    castore.init(tmp_path)
    with pytest.raises(ReadOnlyError):
        castore.open(tmp_path, mode="ro").zarr_store()


@pytest.mark.crash
def test_a_killed_commit_leaves_old_or_new(tmp_path):
    """Killed at any named point, first or last pass, a commit leaves the old entry or the new."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert {point for _, _, point, _ in lines} == set(POINTS)
    for root, force, point, status in lines:
        assert status == signal.SIGKILL, (root, "was not killed")
        found = castore.open(root).find("s", inputs={"a": 1})
        assert found is not None or not force, (root, "neither old nor new")
        if found is not None:
            value = found.zarr()[...]
            assert np.array_equal(value, NEW) or (force and np.array_equal(value, OLD)), root
        if point in ("commit.published", "commit.looked"):
            assert np.array_equal(found.zarr()[...], NEW), root
        staging.commit(root, NEW)
        expected = NEW if found is None else value
        assert np.array_equal(castore.open(root).find("s", inputs={"a": 1}).zarr()[...], expected)
