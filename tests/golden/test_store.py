"""Stores written by format 1, read for ever: by castore, by zarr, and by the page's own reader."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

import castore
from castore.canonical import seal, unseal
from castore.errors import DamagedError, FormatError

FOLDER = Path(__file__).parent
STORES = ("v1", "v1-sha256")


def module(path):
    """Return the module in a file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


stored = module(FOLDER / "stored.py")
reader = module(FOLDER.parents[1] / "docs" / "format" / "read_v1.py")


@pytest.fixture(params=STORES)
def folder(request):
    """Return the folder of each golden store."""
    return FOLDER / request.param


@pytest.fixture
def store(folder):
    """Open each golden store."""
    return castore.open(folder, mode="ro")


def asked(suffix):
    """Return the identity of a golden result, as it was given when it was stored."""
    rows, _, _ = stored.RESULTS[suffix]
    return list(range(rows)), {"dataset_id": "golden@1", "row_ids": stored.row_ids(rows)}


def same(found, expected):
    """Tell whether two results are the same, containers, types and bits."""
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[k], expected[k]) for k in expected)
    if isinstance(expected, (tuple, list)):
        pairs = zip(found, expected, strict=True)
        return type(found) is type(expected) and all(same(one, two) for one, two in pairs)
    if isinstance(expected, np.ndarray):
        kinds = (found.dtype, found.shape) == (expected.dtype, expected.shape)
        return kinds and found.tobytes() == expected.tobytes()
    return type(found) is type(expected) and repr(found) == repr(expected)


def key_of(store, suffix):
    """Return the key of the entry with a suffix."""
    (found,) = (entry.key for entry in store.entries() if entry.suffix == suffix)
    return found


@pytest.mark.parametrize("suffix", stored.RESULTS)
def test_golden_results_are_hits(store, suffix):
    """What format 1 stored is found under the same identity, with the same values and types."""
    rows, identity = asked(suffix)
    assert same(store.get(rows, None, suffix, **identity), stored.RESULTS[suffix][2])


def test_golden_rows_are_found_one_by_one(store):
    """Rows of golden entries, coded or not, are gathered in any order."""
    for suffix in ("features", "features-zstd", "features-blosc"):
        order = [299, 0, 17, 150]
        names = [stored.row_ids(300)[row] for row in order]
        found = store.get(
            order, None, suffix, dataset_id="golden@1", row_ids=names, rowwise=True, model=None
        )
        assert np.array_equal(found, stored.RESULTS[suffix][2][order])


@pytest.mark.parametrize("suffix", stored.HIERARCHIES)
def test_golden_hierarchies_are_read(store, suffix):
    """A golden hierarchy is found by its inputs and has the arrays and attributes it had."""
    expected = zarr.create_group(MemoryStore())
    stored.fill(suffix, expected)
    found = store.find(suffix, inputs={"slide": "golden@1"})
    assert found.key == key_of(store, suffix)
    group = found.zarr()
    assert group.attrs.asdict() == expected.attrs.asdict()
    members = dict(expected.members(max_depth=None))
    assert dict(group.members(max_depth=None)).keys() == members.keys()
    for path, node in members.items():
        assert group[path].metadata == node.metadata
        if isinstance(node, zarr.Array):
            assert np.array_equal(group[path][...], node[...])


def test_zarr_reads_golden_results(store):
    """Zarr reads each column of a golden entry, coded or not, as the array it is."""
    for suffix in ("features", "features-zstd", "features-blosc", "long"):
        group = store.entry(key_of(store, suffix)).zarr()
        assert np.array_equal(group["result"][...], stored.RESULTS[suffix][2])


def test_the_reader_of_the_page_reads_golden_results(folder, store):
    """A program that knows the page alone reads the columns that are not coded."""
    for suffix in ("features", "long"):
        found = reader.arrays(folder, key_of(store, suffix))
        assert same(found, {"result": stored.RESULTS[suffix][2]})
    found = reader.arrays(folder, key_of(store, "dtypes"))
    for name, array in stored.RESULTS["dtypes"][2].items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    assert len(reader.manifest(folder, key_of(store, "many"))["chunks"]) == 2100


def test_the_reader_of_the_page_refuses_what_is_damaged(tmp_path):
    """A flipped bit in a blob or a manifest stops it, and so does a coded column."""
    shutil.copytree(FOLDER / "v1", tmp_path / "v1")
    store = castore.open(tmp_path / "v1", mode="ro")
    with pytest.raises(ValueError, match="is coded"):
        reader.arrays(tmp_path / "v1", key_of(store, "features-zstd"))
    key = key_of(store, "features")
    (ref,) = store.entry(key).manifest.blobs
    for path in (tmp_path / "v1" / ref.name, next((tmp_path / "v1").rglob(f"{key}.json"))):
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"damaged|seal"):
            reader.arrays(tmp_path / "v1", key)


def test_a_golden_entry_is_written_again_byte_for_byte(folder, tmp_path):
    """Storing the same values today makes the blobs that were made then."""
    store = castore.init(tmp_path / "store", digest=castore.open(folder).digest())
    for suffix, (_, codec, value) in stored.RESULTS.items():
        if codec == "none":  # what a codec makes may depend on its library
            rows, identity = asked(suffix)
            store.put(rows, value, suffix, codec=codec, **identity)
    golden = castore.open(folder, mode="ro")
    for entry in store.entries():
        kept = golden.entry(entry.key).manifest
        assert store.entry(entry.key).manifest.same_content(kept)


def test_unknown_mandatory_flags_are_refused_by_name(tmp_path):
    """A manifest, or a store, with a flag of a later castore is refused, and the flag is named."""
    shutil.copytree(FOLDER / "v1", tmp_path / "v1")
    store = castore.open(tmp_path / "v1")
    key = key_of(store, "features")
    path = next((tmp_path / "v1").rglob(f"{key}.json"))
    document = unseal(path.read_bytes(), path.name)
    path.write_bytes(seal({**document, "flags": ["ragged"]}))
    with pytest.raises(FormatError, match="ragged"):
        store.entry(key)
    (tmp_path / "v1" / "castore.json").write_bytes(
        seal({"digest_algorithm": "xxh3-128", "flags": ["encrypted"], "format": 1})
    )
    with pytest.raises(FormatError, match="encrypted"):
        store.put(np.zeros(3), np.zeros(3), "x")


def test_golden_manifests_are_not_the_less_checked(tmp_path):
    """A golden entry with a flipped bit in its blob is damaged, not returned."""
    shutil.copytree(FOLDER / "v1", tmp_path / "v1")
    store = castore.open(tmp_path / "v1")
    entry = store.entry(key_of(store, "long"))
    (ref,) = entry.manifest.blobs
    path = tmp_path / "v1" / ref.name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedError):
        entry.arrays()
