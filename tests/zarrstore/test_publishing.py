"""From a folder in Zarr form to an entry: every kind of array, and what is refused."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pytest
import zarr

import castore
from castore.errors import DamagedError, NotFoundError, ResultError
from castore.table.manifest import MAX_KEYS
from castore.zarrstore import files

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")

BITS = np.random.default_rng(0).integers(0, 256, 60 * 32, np.uint8)
NUMBERS = (
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
    ">i4",
    ">f8",
)
ARRAYS = {
    **{name: BITS[: 60 * np.dtype(name).itemsize].view(name).reshape(12, 5) for name in NUMBERS},
    "bool": (BITS[:60] % 2 == 0).reshape(12, 5),
    "utf32": np.array(["", "ä", "long text"] * 4, "<U9"),
    "null-ended": np.array([b"", b"ab", b"abc"] * 4, "S4"),
    "raw": BITS[:60].view("V5"),
    "structured": BITS[: 12 * 12].view([("a", "<i4"), ("b", "<f8")]),
    "datetime": BITS[:96].view("<M8[ms]"),
    "timedelta": BITS[:96].view("<m8[ns]"),
    "0-d": np.array(2.5),
    "no rows": np.empty((0, 3), "f4"),
    "no columns": np.empty((3, 0), "f4"),
}
LAYOUTS = {
    "plain": {"compressors": None},
    "compressed": {},
    "v2 keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """Return an empty store of each kind."""
    return castore.open(
        tmp_path / "store" if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    )


def texts(folder):
    """Every file below a folder by its Zarr key."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def same(one, other):
    """Tell whether two arrays are equal in every bit."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_array_survives(store, tmp_path, layout):
    """Arrays of all types, staged, committed, exported, imported: bit-equal, texts as written."""
    stage = store.zarr_store()
    group = zarr.create_group(stage, attributes={"pi": 3.14, "big": 1e300, "text": "ä\u2028"})
    for name, array in ARRAYS.items():
        chunks = tuple(max(1, n // 2) for n in array.shape)
        made = group.create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=chunks, **LAYOUTS[layout]
        )
        made[...] = array
    written = texts(stage._folder.zarr)
    entry = store.entry(stage.commit("s").key)
    folder = entry.export(tmp_path / "out")
    assert texts(folder) == written
    again = store.entry(store.import_zarr(folder, "s").key)
    assert again.key == entry.key
    for found in (entry.zarr(), zarr.open_group(folder, mode="r"), again.zarr()):
        assert dict(found.attrs) == {"pi": 3.14, "big": 1e300, "text": "ä\u2028"}
        for name, array in ARRAYS.items():
            assert same(found[name][...].astype(array.dtype), array), name
    assert same(entry.arrays()["f8"], ARRAYS["f8"])


@pytest.mark.parametrize("dtype", ["string", "variable_length_bytes"])
def test_text_of_any_length_survives(store, dtype):
    """Strings and bytes of variable length come back as they were."""
    stage = store.zarr_store()
    words = ["", "ä", "x" * 1000, "\0"] if dtype == "string" else [b"", b"\0\0", b"x" * 1000, b"1"]
    array = zarr.create_array(stage, shape=(4,), chunks=(2,), dtype=dtype)
    array[...] = np.array(words, dtype=object)
    found = store.entry(stage.commit("s").key).zarr()
    assert found[...].tolist() == words


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, -0.0, 0.1], ids=str)
def test_fill_values_survive(store, fill):
    """Chunks never written are the fill value, in every bit, in sharded arrays too."""
    stage = store.zarr_store()
    group = zarr.create_group(stage)
    group.create_array("plain", shape=(6,), chunks=(2,), dtype="f8", fill_value=fill)[:2] = 1
    group.create_array(
        "sharded", shape=(8,), chunks=(2,), shards=(4,), dtype="f8", fill_value=fill
    )[:2] = 1
    found = store.entry(stage.commit("s").key).zarr()
    for name in ("plain", "sharded"):
        assert found[name][2:].tobytes() == np.full(found[name].shape[0] - 2, fill).tobytes()


def test_a_root_may_be_an_array(store):
    """A hierarchy of one array at its root is an entry, and opens as an array."""
    stage = store.zarr_store()
    zarr.create_array(stage, data=ARRAYS["f4"], chunks=(4, 4))
    info = stage.commit("s")
    assert info.columns == {"/": "float32 (12, 5)"}
    found = store.entry(info.key)
    assert isinstance(found.zarr(), zarr.Array)
    assert same(found.zarr()[...], ARRAYS["f4"])
    assert same(found.arrays()[""], ARRAYS["f4"])


def plain(folder, **options):
    """Write a hierarchy of one array that is large enough for blobs; return its folder."""
    group = zarr.open_group(folder, mode="w", **options)
    group.create_array(
        "x", data=np.arange(40_000.0).reshape(2, -1), chunks=(1, 20_000), compressors=None
    )
    return folder


def damaged_root(folder, text):
    """Write something else into the root's metadata."""
    (folder / "zarr.json").write_text(text)


WRONG = {
    "Zarr v2": (lambda f: plain(f, zarr_format=2), "v2"),
    "v2 node inside": (lambda f: (plain(f) / "x/.zarray").write_text("{}"), "Zarr v2"),
    "no folder": (lambda _: None, "cannot be listed"),
    "a file": (lambda f: f.write_text("x"), "cannot be listed"),
    "empty": (lambda f: f.mkdir(), "no zarr.json at its root"),
    "no root": (lambda f: (plain(f) / "zarr.json").unlink(), "no zarr.json at its root"),
    "no JSON": (lambda f: damaged_root(plain(f), "{"), "zarr.json is no Zarr metadata"),
    "a list": (lambda f: damaged_root(plain(f), "[]"), "zarr.json is no Zarr metadata"),
    "deep": (lambda f: damaged_root(plain(f), "[" * 100_000), "zarr.json is no Zarr metadata"),
    "no UTF-8": (lambda f: (plain(f) / "zarr.json").write_bytes(b"\xff"), "is no Zarr metadata"),
    "version 4": (
        lambda f: damaged_root(plain(f), '{"zarr_format":4,"node_type":"group"}'),
        "castore keeps",
    ),
    "FIFO": (lambda f: os.mkfifo(plain(f) / "x/pipe"), "'x/pipe' is no file and no folder"),
    "dangling": (lambda f: (plain(f) / "x/link").symlink_to("none"), "'x/link' cannot be read"),
    "linked folder": (lambda f: (plain(f) / "y").symlink_to("x"), "'y' is no file and no folder"),
    "name": (
        lambda f: (plain(f) / "x" / os.fsdecode(b"\xff")).touch(),
        "no name in Unicode",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_hierarchy_is_refused(store, tmp_path, name):
    """What is no hierarchy of Zarr v3 raises, naming the folder, and nothing is published."""
    folder = tmp_path / "in"
    make, message = WRONG[name]
    make(folder)
    with pytest.raises(ResultError, match=message) as raised:
        store.import_zarr(folder, "s")
    assert str(folder) in str(raised.value)
    assert list(store.entries()) == []
    assert store.usage().referenced == store.usage().unreferenced == 0


def test_leftovers_of_zarr_are_left_out(store, tmp_path):
    """What zarr leaves of a write that was killed is no part of the hierarchy."""
    folder = plain(tmp_path / "in")
    first = store.import_zarr(folder, "s").key
    (folder / f"x/c/0/0.{uuid.uuid4().hex}.partial").write_bytes(b"half")
    assert store.import_zarr(folder, "s").key == first
    assert not any("partial" in key for key in store.entry(first).manifest.chunks)


def test_links_to_files_count_as_files(store, tmp_path):
    """A link to a file is what it leads to."""
    folder = plain(tmp_path / "in")
    first = store.import_zarr(folder, "s").key
    (folder / "x/c/0/0").rename(tmp_path / "elsewhere")
    (folder / "x/c/0/0").symlink_to(tmp_path / "elsewhere")
    assert store.import_zarr(folder, "s").key == first


def test_a_file_that_changes_while_it_is_imported_is_refused(store, tmp_path, monkeypatch):
    """A file written to between its digest and its storing makes no blob of a wrong name."""
    folder = plain(tmp_path / "in")

    inner = files.FilePayload.store

    def stored(self, backend, name):
        with (folder / "x/c/0/0").open("r+b") as file:
            file.write(b"changed!")
        inner(self, backend, name)

    monkeypatch.setattr(files.FilePayload, "store", stored)
    with pytest.raises(ResultError, match=r"x/c/0/0 changed while it was stored"):
        store.import_zarr(folder, "s")
    assert list(store.entries()) == []
    monkeypatch.undo()
    assert store.entry(store.import_zarr(folder, "s").key).zarr()["x"][0, 1] == 1.0


def test_an_import_copies(store, tmp_path):
    """The folder stays as it is, and writing to it later does not reach the entry."""
    folder = plain(tmp_path / "in")
    before = texts(folder)
    key = store.import_zarr(folder, "s").key
    assert texts(folder) == before
    with (folder / "x/c/0/0").open("r+b") as file:
        file.write(b"changed!")
    assert dict(store.entry(key).values()) == before


def test_the_same_inputs_are_one_entry_and_the_first_stays(store, tmp_path):
    """Of two hierarchies under one key the first stays, unless forced; `find` goes by inputs."""
    folder = plain(tmp_path / "in")
    first = store.import_zarr(folder, "s", inputs={"a": 1})
    zarr.open_group(folder)["x"][0, 0] = -1.0
    second = store.import_zarr(folder, "s", inputs={"a": 1})
    assert second.key == first.key
    assert store.find("s", inputs={"a": 1}).zarr()["x"][0, 0] == 0.0
    assert store.stats().disagreements == 1
    store.import_zarr(folder, "s", inputs={"a": 1}, force=True)
    assert store.find("s", inputs={"a": 1}).zarr()["x"][0, 0] == -1.0
    assert store.find("s", inputs={"a": 2}) is None
    assert store.find("t", inputs={"a": 1}) is None


def test_shared_chunks_are_stored_once(store, tmp_path):
    """Two hierarchies that share half their chunks take 1.5 times one, across tables too."""
    data = np.arange(8 * 20_000.0).reshape(8, -1)
    sizes = []
    for suffix, first in {"one": 0, "two": 4}.items():
        changed = data.copy()
        changed[:first] += 1e6
        stage = store.zarr_store()
        zarr.create_array(stage, data=changed, chunks=(1, 20_000), compressors=None)
        stage.commit(suffix)
        sizes.append(store.usage().referenced)
    assert len(store.tables()) == 2
    assert sizes == [data.nbytes, data.nbytes * 3 // 2]
    assert store.usage().logical == 2 * data.nbytes
    assert store.stats().bytes_stored == sizes[1]


def test_equal_chunks_are_stored_once(store):
    """Equal chunks within one hierarchy are one blob, and each reads right."""
    stage = store.zarr_store()
    zarr.create_array(stage, data=np.ones((16, 20_000)), chunks=(1, 20_000), compressors=None)
    entry = store.entry(stage.commit("s").key)
    assert store.usage().referenced == 160_000
    assert store.stats().bytes_stored == 160_000
    assert np.array_equal(entry.zarr()[...], np.ones((16, 20_000)))


def test_a_map_of_many_keys_is_a_blob(tmp_path):
    """A hierarchy of more keys than a manifest lists keeps them in a blob; damage to it raises."""
    store = castore.open(tmp_path)
    stage = store.zarr_store()
    data = np.arange(MAX_KEYS + 10, dtype="i4")
    zarr.create_array(stage, data=data, chunks=(1,), compressors=None)
    key = stage.commit("s").key
    entry = store.entry(key)
    assert entry.manifest.map is not None
    assert same(entry.zarr()[...], data)
    path = tmp_path / entry.manifest.map.name
    whole = path.read_bytes()
    for wrong in (whole[:-1], whole.replace(b"c/17", b"c/18", 1), b""):
        path.unlink()
        path.write_bytes(wrong)
        with pytest.raises(DamagedError):
            store.entry(key)
    path.write_bytes(whole)
    assert same(store.entry(key).zarr()[...], data)
    store.delete(key)
    with pytest.raises(NotFoundError):
        store.entry(key)
