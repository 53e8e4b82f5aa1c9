"""``castore://`` URLs, by fsspec's own tests and by what reads through fsspec."""

from __future__ import annotations

import multiprocessing
import pickle
from datetime import UTC, datetime
from hashlib import md5
from importlib import metadata
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

import castore
from castore.blobs.blob import BlobRef
from castore.errors import DamagedError, ReadOnlyError
from castore.fsspec_fs import CastoreFileSystem

#: Larger than what a manifest keeps itself, and than one part of a blob.
VALUES = np.arange(3 * 1500 * 1000, dtype="f4").reshape(3, 1500, 1000)


@pytest.fixture
def store(tmp_path):
    """A store with one hierarchy: two chunks of `a`, the third left out; and `g/n`, a number."""
    store = castore.open(tmp_path / "store")
    stage = store.zarr_store()
    group = zarr.open_group(stage, mode="w")
    names = ("t", "y", "x")
    options = {"chunks": (1, 1500, 1000), "compressors": None, "fill_value": 7, "dtype": "f4"}
    array = group.create_array("a", shape=VALUES.shape, dimension_names=names, **options)
    array[:2] = VALUES[:2]
    group.create_array("g/n", shape=(), dtype="i2", dimension_names=())[...] = 5
    stage.commit("hierarchy")
    return store


@pytest.fixture
def key(store):
    """Key of the entry."""
    (info,) = store.entries()
    return info.key


@pytest.fixture
def fs(store):
    """The file system of the store."""
    return fsspec.filesystem("castore", store=store.url)


def options(store):
    """What readers hand on to fsspec."""
    return {"store": store.url}


def expected():
    """What `a` holds: the last chunk was left out."""
    return np.concatenate([VALUES[:2], np.full_like(VALUES[2:], 7)])


def blob_of(store, key, name="a/c/1/0/0"):
    """Return the file that has a chunk."""
    chunk = store.entry(key).manifest.chunks[name]
    assert isinstance(chunk, BlobRef)
    return Path(store.url) / chunk.name


def flip(path):
    """Change one bit of a file, somewhere in its middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flip", "unlink"])


# Readers


def test_fsspec_knows_the_protocol():
    """The entry point is declared, and fsspec finds the class by it."""
    (point,) = metadata.entry_points(group="fsspec.specs", name="castore")
    assert point.value == "castore.fsspec_fs.CastoreFileSystem"
    assert fsspec.get_filesystem_class("castore") is CastoreFileSystem


@pytest.mark.parametrize("digits", [6, 32])
def test_zarr_opens_a_url(store, key, digits):
    """`zarr.open` takes a URL with the key or its first digits, chunks left out included."""
    url = f"castore://{key[:digits]}"
    group = zarr.open(url, storage_options=options(store), mode="r")
    assert sorted(path for path, _ in group.members(max_depth=None)) == ["a", "g", "g/n"]
    np.testing.assert_array_equal(group["a"][...], expected())
    assert group["g/n"][()] == 5
    array = zarr.open(f"{url}/a", storage_options=options(store), mode="r")
    np.testing.assert_array_equal(array[1, 3:5], VALUES[1, 3:5])


def test_xarray_opens_a_url(store, key):
    """`xarray.open_zarr` takes a URL."""
    xarray = pytest.importorskip("xarray")
    url = f"castore://{key[:6]}"
    dataset = xarray.open_zarr(url, storage_options=options(store), consolidated=False, chunks=None)
    np.testing.assert_array_equal(dataset["a"].isel(t=[1, 0]), VALUES[[1, 0]])


def test_dask_opens_a_url(store, key):
    """`dask.array.from_zarr` takes the URL of an array, also in other processes."""
    pytest.importorskip("dask.array")
    from dask.array import from_zarr

    array = from_zarr(f"castore://{key[:6]}/a", storage_options=options(store))
    assert array.chunks[0] == (1, 1, 1)
    again = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(again.compute(scheduler="threads"), expected())


def test_results_are_entries_too(tmp_path):
    """The result of a function is read through a URL as a hierarchy is."""
    store = castore.open(tmp_path / "store")
    rows = np.arange(6.0)
    info = store.put(rows, rows * 2, "twice", model=None)
    url = f"castore://{info.key}"
    found = zarr.open_group(url, storage_options=options(store), mode="r")["result"]
    np.testing.assert_array_equal(found[...], rows * 2)


def test_fsspec_opens_a_url(store, key):
    """`fsspec.open` takes a URL, of bytes or text, and `store=`."""
    wanted = store.entry(key).manifest.keys.text("a/zarr.json")
    with fsspec.open(f"castore://{key[:6]}/a/zarr.json", store=store.url) as file:
        assert file.read() == wanted
    with fsspec.open(f"castore://{key[:6]}/a/zarr.json", "r", store=store.url) as file:
        assert file.read() == wanted.decode()


def test_a_local_cache_of_fsspec_goes_in_front(store, key, tmp_path):
    """`simplecache::castore://` keeps a copy elsewhere."""
    url = f"simplecache::castore://{key[:6]}/a/c/0/0/0"
    cache = {"cache_storage": str(tmp_path / "cache")}
    with fsspec.open(url, castore=options(store), simplecache=cache) as file:
        assert file.read() == VALUES[0].tobytes()


def test_the_default_store_is_the_one_of_the_settings(store, key, monkeypatch):
    """Without `store=` it is what `castore.open()` opens; pickled, it stays that."""
    monkeypatch.setenv("CASTORE_URL", store.url)
    fs = fsspec.filesystem("castore")
    assert fs.ls("", detail=False) == [key]
    monkeypatch.setenv("CASTORE_URL", "memory://other")
    again = pickle.loads(pickle.dumps(fs))
    assert again.ls("", detail=False) == [key]
    assert again == fs
    assert hash(again) == hash(fs)
    assert again != fsspec.filesystem("castore")


# Names


def test_the_root_lists_entries(fs, key, store):
    """The root is a directory of the entries, by key, whether or not they can be read."""
    for root in ("", "/", "castore://"):
        (info,) = fs.ls(root)
        assert (info["name"], info["type"], info["size"]) == (key, "directory", 0)
        assert fs.isdir(root)
    store.put(np.arange(3.0), np.arange(3.0), "more", model=None)
    assert fs.ls(f"castore:///{key}") == fs.ls(key)
    assert len(fs.ls("")) == 2, "listings are not remembered"
    assert len(fs.glob("*")) == 2
    (Path(store.url) / store.entry(key).manifest.name).write_bytes(b"{}")
    assert key in fs.ls("", detail=False)
    with pytest.raises(DamagedError):
        fsspec.filesystem("castore", store=store.url).ls(key)


def test_a_store_that_is_not_there_is_empty(tmp_path):
    """Where there is no store there are no entries, and none is made."""
    fs = fsspec.filesystem("castore", store=tmp_path / "none")
    assert fs.ls("") == fs.find("") == []
    assert not fs.exists("ab")
    assert list(tmp_path.iterdir()) == []


def test_names_are_those_of_the_hierarchy(fs, key):
    """`ls`, `find`, `walk` and `glob` name what is below a path, spelled as it was asked for."""
    for head in (key, key[:5]):
        names = ["a/c/0/0/0", "a/c/1/0/0", "a/zarr.json", "g/n/c", "g/n/zarr.json", "g/zarr.json"]
        names = [f"{head}/{name}" for name in [*names, "zarr.json"]]
        assert fs.ls(head, detail=False) == [f"{head}/a", f"{head}/g", f"{head}/zarr.json"]
        assert fs.ls(f"castore://{head}/a/", detail=False) == [f"{head}/a/c", f"{head}/a/zarr.json"]
        assert fs.ls(f"{head}/zarr.json", detail=False) == [f"{head}/zarr.json"]
        assert fs.find(f"castore://{head}") == names
        assert fs.find(f"{head}/g/n/c") == [f"{head}/g/n/c"]
        walked = [(place, sorted(folders), files) for place, folders, files in fs.walk(head)]
        assert walked[0] == (head, ["a", "g"], ["zarr.json"])
        assert [f"{place}/{name}" for place, _, files in walked for name in files] == [
            names[-1], names[2], *names[:2], names[5], *names[3:5]
        ]  # fmt: skip
        assert fs.glob(f"castore://{head}/*/zarr.json") == [names[2], names[5]]
        assert fs.glob(f"{head}/**/c") == [f"{head}/a/c", f"{head}/g/n/c"]
    assert fs.glob(f"{key[:5]}*/*/n") == [f"{key}/g/n"]


def test_info_tells_size_type_and_time(fs, key, store):
    """`info`, `du`, `size`, `isdir`, `isfile` and `created` say what the manifest has."""
    manifest = store.entry(key).manifest
    (published,) = (datetime.fromtimestamp(info.created, UTC) for info in store.entries())
    file = f"{key}/a/c/0/0/0"
    wanted = {"name": file, "size": 6_000_000, "type": "file", "created": published}
    assert fs.info(file) == wanted
    assert fs.info(f"{key}/a/c")["type"] == fs.info(key)["type"] == "directory"
    assert fs.created(key) == fs.modified(file) == published == fs.ls("")[0]["created"]
    assert fs.du(key) == manifest.nbytes + sum(map(len, map(manifest.keys.text, manifest.metadata)))
    assert fs.du(f"{key}/g/n/c") == fs.size(f"{key}/g/n/c") == manifest.chunks["g/n/c"].__len__()
    assert fs.isfile(file)
    assert not fs.isdir(file)
    assert fs.isdir(f"{key}/a/c/0")
    assert not fs.isfile(f"{key}/a/c/0")
    assert fs.exists(file)


@pytest.mark.parametrize("path", ["ffffffff", "", "{}/no", "{}/zarr", "{}/g/no", "{}/a/c/2/0/0"])
def test_what_is_not_there_is_not_found(fs, key, store, path):
    """Unknown and ambiguous entries, unknown paths and chunks left out are FileNotFoundError."""
    if not path:  # all entries begin with one of 16 digits
        for number in range(17):
            store.put(np.arange(3.0), np.arange(3.0), f"more {number}", model=None)
        keys = [info.key for info in store.entries()]
        path = next(key[0] for key in keys if sum(one[0] == key[0] for one in keys) > 1)
    path = path.format(key[:6])
    for read in (fs.info, fs.ls, fs.cat_file, fs.open, fs.cat, fs.created):
        with pytest.raises(FileNotFoundError) as caught:
            read(path)
        assert path.split("/")[0] in str(caught.value)
    assert not fs.exists(path)
    assert not fs.isfile(path)
    assert not fs.isdir(path)
    assert fs.find(path) == fs.glob(f"{path}/*") == []


# Reading


SLICES = [
    (None, None),
    (0, 4),
    (None, 0),
    (5, None),
    (-8, None),
    (-8, -3),
    (None, -5),
    (3, 3),
    (9, 2),
]


@pytest.mark.parametrize(("start", "end"), [*SLICES, (10**9, None), (-(10**9), 10**9)])
def test_ranges_are_python_slices(fs, key, start, end):
    """`cat_file` takes start and end as a slice does, negative or beyond the end too."""
    for name in ("a/zarr.json", "a/c/1/0/0", "g/n/c"):
        data = fs.cat_file(f"{key}/{name}")
        assert fs.cat_file(f"{key}/{name}", start, end) == data[start:end]


def test_many_at_once(fs, key):
    """`cat` of several paths is a dict, of a directory all files; `cat_ranges` is a list."""
    chunks = [f"{key}/a/c/{number}/0/0" for number in range(2)]
    data = [VALUES[number].tobytes() for number in range(2)]
    assert fs.cat(chunks[0]) == data[0]
    assert fs.cat(chunks) == dict(zip(chunks, data, strict=True))
    assert fs.cat(f"{key}/a/c/*/0/0") == dict(zip(chunks, data, strict=True))
    assert set(fs.cat(f"{key}/a", recursive=True)) == {*chunks, f"{key}/a/zarr.json"}
    assert fs.cat_ranges(chunks, [0, -3], [2, None]) == [data[0][:2], data[1][-3:]]
    missing = fs.cat_ranges([f"{key}/none"], 0, 1)
    assert isinstance(missing[0], FileNotFoundError)


def test_directories_are_no_files(fs, key):
    """A directory cannot be read as a file."""
    for path in ("", key, f"{key}/a", f"{key}/a/c"):
        with pytest.raises(IsADirectoryError):
            fs.cat_file(path)


def test_an_open_file_seeks(fs, key):
    """An open file reads, seeks from both ends, and tells size and place; it can be pickled."""
    data = VALUES[1].tobytes()
    with fs.open(f"{key}/a/c/1/0/0", "rb") as file:
        assert (file.size, file.readable(), file.writable()) == (len(data), True, False)
        assert file.read(5) == data[:5]
        assert file.seek(-7, 2) == len(data) - 7
        again = pickle.loads(pickle.dumps(file))
        assert file.read() == data[-7:] == again.read()
        file.seek(2_000_000)
        target = bytearray(9)
        assert file.readinto(target) == 9
        assert (bytes(target), file.tell()) == (data[2_000_000:2_000_009], 2_000_009)
        file.seek(0)
        assert file.read() == data
    assert fs.head(f"{key}/a/zarr.json", 1) == b"{"
    assert fs.read_block(f"{key}/a/c/1/0/0", 4, 8) == data[4:12]


def test_a_part_is_read_without_the_rest(fs, key, store):
    """Only the parts of a blob are checked that are asked for: damage elsewhere is not seen."""
    path = blob_of(store, key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert fs.cat_file(f"{key}/a/c/1/0/0", 0, 100) == VALUES[1].tobytes()[:100]
    with pytest.raises(DamagedError):
        fs.cat_file(f"{key}/a/c/1/0/0", -100)


# Damage


@DAMAGES
def test_damage_is_no_absence(fs, store, key, damage):
    """A blob that is damaged or gone raises DamagedError wherever it is read through fsspec."""
    damage(blob_of(store, key))
    path = f"{key}/a/c/1/0/0"
    assert fs.cat_file(f"{key}/a/c/0/0/0") == VALUES[0].tobytes()
    for read in (fs.cat_file, fs.cat, fs.head, lambda path: fs.open(path).read()):
        with pytest.raises(DamagedError):
            read(path)
    (found,) = fs.cat_ranges([path], 0, None)
    assert isinstance(found, DamagedError)


@DAMAGES
def test_zarr_fills_in_nothing(store, key, damage):
    """Zarr raises on a damaged chunk, and still reads the others."""
    damage(blob_of(store, key))
    array = zarr.open(f"castore://{key[:6]}/a", storage_options=options(store), mode="r")
    np.testing.assert_array_equal(array[[0, 2]], expected()[[0, 2]])
    with pytest.raises(DamagedError):
        array[1]


@DAMAGES
def test_xarray_and_dask_fill_in_nothing(store, key, damage):
    """Xarray raises on a damaged chunk, and so does dask."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("dask.array")
    from dask.array import from_zarr

    damage(blob_of(store, key))
    url, given = f"castore://{key[:6]}", options(store)
    dataset = xarray.open_zarr(url, storage_options=given, consolidated=False, chunks=None)
    with pytest.raises(DamagedError):
        dataset["a"].load()
    with pytest.raises(DamagedError):
        from_zarr(f"{url}/a", storage_options=given).sum().compute()


def test_a_chunk_that_ought_to_be_there_is_damage(fs, store, key):
    """A chunk that is neither in the manifest nor was left out is damage, not fill values."""
    path = f"{key}/a/c/3/0/0"
    assert not fs.exists(path)
    for read in (fs.cat_file, fs.open):
        with pytest.raises(DamagedError):
            read(path)


def test_a_damaged_manifest_is_no_absence(fs, store, key):
    """An entry whose manifest is damaged is not taken for one that is not there."""
    (Path(store.url) / store.entry(key).manifest.name).write_bytes(b"{}")
    for ask in (fs.exists, fs.isfile, fs.isdir, fs.info, fs.find):
        with pytest.raises(DamagedError):
            ask(f"{key}/zarr.json")
    with pytest.raises(DamagedError):
        zarr.open(f"castore://{key}", storage_options=options(store), mode="r")


# Writing


def writers():
    """Yield all that writes, as calls of a file system and a path."""
    yield "open", lambda fs, path: fs.open(path, "wb")
    yield "append", lambda fs, path: fs.open(path, "ab")
    yield "exclusive", lambda fs, path: fs.open(path, "xb")
    yield "text", lambda fs, path: fs.write_text(path, "text")
    yield "pipe", lambda fs, path: fs.pipe({path: b"data"})
    yield "pipe_file", lambda fs, path: fs.pipe_file(path, b"data", mode="create")
    yield "put", lambda fs, path: fs.put(__file__, path)
    yield "put_file", lambda fs, path: fs.put_file(__file__, path)
    yield "rm", lambda fs, path: fs.rm(path, recursive=True)
    yield "rm_file", lambda fs, path: fs.rm_file(path)
    yield "mv", lambda fs, path: fs.mv(path, "other")
    yield "cp", lambda fs, path: fs.cp(path, "other", recursive=True)
    yield "cp_file", lambda fs, path: fs.cp_file(path, "other")
    yield "mkdir", lambda fs, path: fs.mkdir(path)
    yield "makedirs", lambda fs, path: fs.makedirs(path, exist_ok=True)
    yield "rmdir", lambda fs, path: fs.rmdir(path)
    yield "touch", lambda fs, path: fs.touch(path, truncate=False)


@pytest.mark.parametrize("write", [pytest.param(call, id=name) for name, call in writers()])
def test_nothing_is_written(fs, store, key, write):
    """Every call that writes raises ReadOnlyError with the way out, and changes nothing."""
    before = sorted(path for path in Path(store.url).rglob("*") if path.is_file())
    for path in (f"{key}/a/c/0/0/0", key, "new"):
        with pytest.raises(ReadOnlyError, match=r"store\.zarr_store\(\)"):
            write(fs, path)
    assert sorted(path for path in Path(store.url).rglob("*") if path.is_file()) == before
    assert fs.cat_file(f"{key}/a/c/0/0/0") == VALUES[0].tobytes()


def test_zarr_cannot_write(store, key):
    """Zarr's writes through a URL raise ReadOnlyError too."""
    group = zarr.open_group(f"castore://{key}", storage_options=options(store), mode="r+")
    with pytest.raises(ReadOnlyError):
        group["a"][0] = 1
    with pytest.raises(ReadOnlyError):
        del group["a"]


# Life


def test_what_was_looked_up_stays_until_it_is_forgotten(fs, store, key):
    """An instance keeps to the entry it found; others, and `invalidate_cache`, look again."""
    kept, gone = f"{key}/zarr.json", fsspec.filesystem("castore", store=store.url)
    assert fs.exists(kept)
    store.delete(key)
    assert fs.exists(kept)
    assert gone is not fs
    assert not gone.exists(kept)
    fs.invalidate_cache("other")
    assert fs.exists(kept)
    fs.invalidate_cache(f"castore://{kept}")
    assert not fs.exists(kept)


def test_a_file_system_forgets_all(fs, store, key):
    """`invalidate_cache` without a path forgets every entry."""
    assert fs.exists(key)
    store.delete(key)
    fs.invalidate_cache()
    assert not fs.exists(key)


def child(fs, path, queue):
    """Read a chunk in another process."""
    queue.put(fs.cat_file(path, -4))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_goes_to_another_process(fs, key, method):
    """A file system in use goes to a child of either start method."""
    path = f"{key}/a/c/1/0/0"
    assert fs.cat_file(path, 0, 4) == VALUES[1].tobytes()[:4]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(fs, path, queue))
    process.start()
    assert queue.get() == VALUES[1].tobytes()[-4:]
    process.join()
    assert process.exitcode == 0


# fsspec's own tests. Those of get apply, with what they read committed as an entry. All others
# write by what they test: copy, mv, put and pipe; of open there is one test, of opening "xb" what
# was written before. `test_nothing_is_written` has the calls that they make.


class _Committed(AbstractFixtures):
    """fsspec's scenarios, written to a local folder and imported."""

    @pytest.fixture
    def fs(self, tmp_path):
        store = castore.open(tmp_path / "store")
        return fsspec.filesystem("castore", store=store.url)

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self):
        return ""

    @pytest.fixture
    def supports_empty_directories(self):
        return False

    def _commit(self, fs, tmp_path, write):
        folder = tmp_path / "scenario"
        zarr.open_group(folder, mode="w")
        local = LocalFileSystem(auto_mkdir=True)
        source = write(local, lambda *parts: "/".join(parts), str(folder))
        info = castore.open(fs.url).import_zarr(folder, "scenario")
        return f"{info.key}/{Path(source).name}"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, fs, tmp_path):
        return self._commit(fs, tmp_path, self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, fs, tmp_path):
        return self._commit(fs, tmp_path, self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, fs, tmp_path):
        return self._commit(fs, tmp_path, self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, fs, tmp_path):
        source = self._commit(fs, tmp_path, self._10_files_with_hashed_names)
        name = md5(b"3", usedforsecurity=False).hexdigest()
        assert fs.cat_file(f"{source}/{name}.txt") == b"3"
        return source


class TestGet(_Committed, AbstractGetTests):
    """fsspec's tests of `get`."""

    def test_get_directory_recursive(
        self, fs, fs_dir_and_file_with_same_name_prefix, local_fs, local_target
    ):
        """As fsspec's, which makes a folder: one goes to a target, again and with a slash."""
        source = f"{fs_dir_and_file_with_same_name_prefix}/subdir"
        for _ in range(2):  # the first makes the target, the second goes into it
            fs.get(source, local_target, recursive=True)
        names = ["subfile.txt", "subdir/subfile.txt"]
        assert all(local_fs.isfile(f"{local_target}/{name}") for name in names)
        local_fs.rm(local_target, recursive=True)
        for _ in range(2):
            fs.get(f"{source}/", local_target, recursive=True)
        assert local_fs.find(local_target) == [f"{local_target}/subfile.txt"]
