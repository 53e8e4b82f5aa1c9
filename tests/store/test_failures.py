"""When something is wrong: a clear error before the function runs, or its result all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import castore
from castore import points
from castore.canonical import seal
from castore.errors import (
    BackendError,
    CastoreWarning,
    CommitError,
    ConfigError,
    FingerprintError,
    FormatError,
    OrderError,
    ReadOnlyError,
    ResultError,
    StoreURLError,
)

ROWS = np.arange(12.0)


class Unknown:
    """A data set without a rule."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index


def only_entry(store):
    """Return the only entry of a store."""
    (info,) = store.entries()
    return store.entry(info.key)


def never(loader):
    """Fail the test if the function is run."""
    raise AssertionError


def test_a_url_of_an_unknown_scheme():
    """An unknown scheme is refused with those that are known."""
    with pytest.raises(StoreURLError, match=r"'ftp://host/x'.*memory://name"):
        castore.open("ftp://host/x")


def test_a_root_that_is_a_file(tmp_path):
    """A file cannot be a store; the error names it, and the file stays."""
    file = tmp_path / "features.npy"
    file.write_bytes(b"mine")
    with pytest.raises(StoreURLError, match=r"features\.npy is a file"):
        castore.open(file)
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"suffix": 3}, ConfigError, "suffix is 3"),
        ({"fn": "text"}, ConfigError, "fn is 'text'"),
        ({"params": [1]}, ConfigError, r"params is \[1\]"),
        ({"returns": "jax"}, ConfigError, "returns='jax'"),
        ({"row_ids": ["a"] * 12}, ConfigError, "dataset_id"),
        ({"dataset_id": 7}, ConfigError, "dataset_id is 7"),
        ({"model": 3.5}, ConfigError, "model=3.5"),
        ({"params": {"x": object()}}, FingerprintError, "builtins.object"),
        ({"loader": iter([1])}, OrderError, "list_iterator"),
        ({"loader": None}, OrderError, "NoneType"),
        ({"loader": [Unknown()]}, FingerprintError, "Unknown"),
        ({"loader": np.array(3.0)}, FingerprintError, "no length"),
    ],
)
def test_bad_arguments_are_named_before_the_function_runs(tmp_path, arguments, error, words):
    """A bad argument is refused by name, nothing is computed and nothing stored."""
    store = castore.open(tmp_path / "store")
    call = {"loader": ROWS, "fn": never, "suffix": "s", "model": None, **arguments}
    with pytest.raises(error, match=words):
        store.get_or_compute(**call)
    assert not (tmp_path / "store").exists()


def test_lenient_stores_run_what_cannot_be_identified(tmp_path):
    """Under ``on_error="compute"`` a refusal is warned of once, counted, and the function run."""
    store = castore.open(tmp_path, on_error="compute")
    loader = [Unknown()]
    with pytest.warns(CastoreWarning, match="cannot tell what"):
        assert store.get_or_compute(loader, lambda _: ROWS, "s", model=None) is not None
    for _ in range(2):  # warnings are errors here
        assert store.get_or_compute(loader, lambda _: ROWS, "s", model=None) is not None
    assert store.stats().uncached == {"fingerprint": 3}


@pytest.mark.parametrize("result", [None, [np.zeros(n) for n in range(12)]])
def test_lenient_stores_return_what_cannot_be_kept(tmp_path, result):
    """Under ``on_error="compute"`` an unstorable result is returned as it is, with a warning."""
    store = castore.open(tmp_path, on_error="compute")
    with pytest.warns(CastoreWarning, match="not stored"):
        assert store.get_or_compute(ROWS, lambda _: result, "s", model=None) is result
    assert store.stats().uncached == {"result": 1}


def test_a_store_of_a_newer_format(tmp_path):
    """A newer store is refused by name before the function runs, and not touched."""
    document = {"digest_algorithm": "xxh3-128", "flags": ["encrypted"], "format": 2}
    (tmp_path / "castore.json").write_bytes(seal(document))
    store = castore.open(tmp_path)
    with pytest.raises(FormatError, match=r"format 2 with the flags \['encrypted'\]"):
        store.get_or_compute(ROWS, never, "s", model=None)
    assert [path.name for path in tmp_path.iterdir() if path.name != "tmp"] == ["castore.json"]


def test_an_entry_of_a_newer_format(tmp_path):
    """An entry with an unknown mandatory flag is refused by the flag's name."""
    store = castore.open(tmp_path)
    store.put(ROWS, ROWS, "s")
    (manifest,) = tmp_path.glob("tables/*/entries/*.json")
    from castore.canonical import unseal

    document = unseal(manifest.read_bytes(), "m")
    manifest.write_bytes(seal({**document, "flags": ["delta"]}))
    with pytest.raises(FormatError, match="delta"):
        store.get_or_compute(ROWS, never, "s", model=None)


def test_a_damaged_format_document_is_mended(tmp_path):
    """The store's own document is written again, with the digest its entries name."""
    castore.init(tmp_path, digest="sha256")
    store = castore.open(tmp_path)
    store.put(ROWS, ROWS, "s")
    (tmp_path / "castore.json").write_bytes(b"{")
    castore.open(tmp_path).put(ROWS, ROWS, "t")
    assert castore.init(tmp_path).entry(store.info(ROWS, suffix="s").key).manifest.algorithm == (
        "sha256"
    )
    assert castore.open(tmp_path).info(ROWS, suffix="t").rows == 12
    with pytest.raises(FormatError, match="names its blobs by sha256, not xxh3-128"):
        castore.init(tmp_path, digest="xxh3-128")


def as_nobody(script, *arguments):
    """Run `script` as a user without rights; root passes every permission check.

    What it imports is imported while that user's Python can still be read.
    """
    start = """
        import os, sys, warnings
        import numpy as np, castore
        from castore.errors import ReadOnlyError
        castore.open("memory://warm").put(np.arange(9.0), np.zeros((9, 9000)), "s")
        if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)
    """
    code = textwrap.dedent(start) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def shared_tmp(tmp_path):
    """Return a temporary folder that other users can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith(("/tmp/", "/var/tmp/")):
            folder.chmod(0o755)
    return tmp_path


def test_a_read_only_folder(shared_tmp):
    """A folder that cannot be written is reported before the function runs; hits still work."""
    castore.open(shared_tmp / "store").put(ROWS, ROWS * 2, "s")
    run = as_nobody(
        """
        rows, store = np.arange(12.0), castore.open(sys.argv[1])
        def never(loader): raise AssertionError
        assert (store.get_or_compute(rows, never, "s", model=None) == rows * 2).all()
        try: store.get_or_compute(rows, never, "t", model=None)
        except ReadOnlyError as error: print(error)
        store = castore.open(sys.argv[1], on_error="compute")
        warnings.simplefilter("ignore")
        assert (store.get_or_compute(rows, lambda r: r + 1, "t", model=None) == rows + 1).all()
        print(store.stats().uncached)
        """,
        shared_tmp / "store",
    )
    assert run.returncode == 0, run.stderr
    assert 'no permission; open the store with mode="ro"' in run.stdout
    assert "'read-only': 1" in run.stdout


FULL = """
    import resource, signal, sys, warnings
    import numpy as np, castore
    from castore.errors import BackendError, CommitError
    rows = np.arange(12.0)
    store = castore.open(sys.argv[1], on_error=sys.argv[2])
    store.put(rows, rows, "small")
    big = np.arange(1_200_000.0).reshape(12, 100_000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    warnings.simplefilter("ignore")
    try:
        value = store.get_or_compute(rows, lambda _: big, "big", model=None)
    except CommitError as error:
        value = error.result
        assert isinstance(error.__cause__, BackendError), error
    assert (value == big).all()
    assert store.get(rows, suffix="big") is None
    assert (store.get(rows, suffix="small") == rows).all()
    print(store.stats().uncached, len(list(store.entries())))
"""


@pytest.mark.parametrize(("on_error", "said"), [("raise", "{} 1"), ("compute", "'backend': 1")])
def test_a_file_that_cannot_grow_loses_no_result(tmp_path, on_error, said):
    """A write that fails after the function ran leaves its result and every earlier entry."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), on_error],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert said in run.stdout
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 4 MB; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "castore", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_loses_no_result(small_disk):
    """On a full disk the result is in the error, the error says what to do, old entries stay."""
    store = castore.open(small_disk / "store")
    store.put(ROWS, ROWS, "small")
    big = np.arange(1_200_000.0).reshape(12, 100_000)
    with pytest.raises(CommitError, match="the disk is full; free some space") as raised:
        store.get_or_compute(ROWS, lambda _: big, "big", model=None)
    assert np.array_equal(raised.value.result, big)
    assert np.array_equal(store.get(ROWS, suffix="small"), ROWS)
    assert [info.suffix for info in store.entries()] == ["small"]


def test_a_disk_that_fills_under_a_generator_loses_no_row(small_disk):
    """Rows yielded before and after the disk filled are all in the error's result."""
    store = castore.open(small_disk / "store")
    rows = np.arange(3000.0)

    def batches(loader):
        for start in range(0, 3000, 100):
            yield np.repeat(loader[start : start + 100, None], 500, 1)

    with pytest.raises(CommitError, match="disk is full") as raised:
        store.get_or_compute(rows, batches, "big", model=None)
    assert np.array_equal(raised.value.result, np.repeat(rows[:, None], 500, 1))
    assert not list((small_disk / "store" / "tmp").iterdir())


def test_a_store_that_vanishes_under_a_generator_loses_no_row(tmp_path, monkeypatch):
    """Where not even the first byte can be written, the rows are in the error's result."""
    store = castore.open(tmp_path / "store")

    def batches(loader):
        monkeypatch.setattr(
            "castore.backend.local.LocalBackend.upload", lambda self: (_ for _ in ()).throw(failure)
        )
        yield loader[:6]
        yield loader[6:]

    failure = BackendError("the store is gone")
    with pytest.raises(CommitError, match="gone") as raised:
        store.get_or_compute(ROWS, batches, "s", model=None)
    assert np.array_equal(raised.value.result, ROWS)


def test_a_commit_that_fails_last_keeps_the_result(tmp_path):
    """Trouble at any point after the function ran is a ``CommitError`` with the result."""
    store = castore.open(tmp_path)
    store.put(ROWS, ROWS, "warm")

    def fail_at(point):
        def observe(reached):
            if reached == point:
                raise BackendError(point)

        return observe

    for point in ("commit.blobs-stored", "commit.published", "commit.looked"):
        points.observer = fail_at(point)
        try:
            with pytest.raises(CommitError, match=point) as raised:
                store.get_or_compute(ROWS, lambda _: ROWS + 1, point, model=None)
        finally:
            points.observer = None
        assert np.array_equal(raised.value.result, ROWS + 1)
        assert isinstance(raised.value.__cause__, BackendError)


def test_a_tombstone_that_cannot_be_read_stops_the_acknowledgement(tmp_path):
    """An unreadable tombstone condemns all under its prefix: never acknowledged, never lost."""
    store = castore.open(tmp_path)
    big = np.arange(120_000.0).reshape(12, 10_000)
    store.put(ROWS, big, "first")
    (ref,) = only_entry(store).manifest.blobs
    folder = tmp_path / "tombstones" / ref.digest[:2]
    folder.mkdir(parents=True)
    (folder / "run").write_bytes(b"not a document")
    with pytest.raises(CommitError, match="tombstones/") as raised:
        store.get_or_compute(ROWS, lambda _: big, "second", model=None)
    assert np.array_equal(raised.value.result, big)


def test_foreign_files_do_no_harm(tmp_path):
    """Files castore did not write are passed over by listings and left in place."""
    (tmp_path / "tables").mkdir()
    for name in ("notes.txt", "tables/readme", "blobs"):
        (tmp_path / name).write_text("mine")
    store = castore.open(tmp_path)
    assert store.tables() == []
    big = np.arange(120_000.0).reshape(12, 10_000)
    with pytest.raises(CommitError, match="blobs"):
        store.get_or_compute(ROWS, lambda _: big, "s", model=None)
    (tmp_path / "blobs").unlink()
    store.put(ROWS, big, "s")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert Path(tmp_path / "tables/readme").read_text() == "mine"


def test_a_vanished_store_is_made_again(tmp_path):
    """Removing the folder under an open store makes every key miss, and the next commit works."""
    import shutil

    store = castore.open(tmp_path / "store")
    big = np.arange(120_000.0).reshape(12, 10_000)
    calls = deque()

    def compute(loader):
        calls.append(None)
        return big

    for _ in range(2):
        assert np.array_equal(store.get_or_compute(ROWS, compute, "s", model=None), big)
        shutil.rmtree(tmp_path / "store")
    assert len(calls) == 2


def test_uncached_results_have_the_usual_form(tmp_path):
    """Whether stored or not, batches come back joined and a None is refused."""
    off = castore.open(tmp_path, mode="off")
    joined = off.get_or_compute(ROWS, lambda loader: iter([loader[:5], loader[5:]]), "s")
    assert np.array_equal(joined, ROWS)
    with pytest.raises(ResultError, match="returned None"):
        off.get_or_compute(ROWS, lambda loader: None, "s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        castore.open(tmp_path, mode="ro").get_or_compute(ROWS, lambda _: ROWS, "s", model=None)


def test_a_read_only_store_is_no_place_for_init(tmp_path):
    """``init`` on a store opened read-only is refused."""
    with pytest.raises(ReadOnlyError, match='mode="ro"'):
        castore.open(tmp_path, mode="ro").init()


@pytest.mark.parametrize("on_error", ["raise", "compute"])
def test_errors_of_a_nested_store_are_the_functions_own(tmp_path, on_error):
    """What another store raises within the function propagates, whatever this store forgives."""
    inner = castore.open(tmp_path / "inner")
    outer = castore.open(tmp_path / "outer", on_error=on_error)

    def nested(loader):
        return inner.get_or_compute(loader, lambda _: None, "inner", model=None)

    with pytest.raises(ResultError, match="returned None") as raised:
        outer.get_or_compute(ROWS, nested, "outer", model=None)
    assert raised.value.result is None
    assert outer.stats().uncached == {}
