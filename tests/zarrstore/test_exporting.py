"""Exported entries are plain Zarr: read bit-equal by others, and imported again as the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

import castore
from castore.canonical import seal, unseal
from castore.errors import BackendError, ConfigError, DamagedError


def bits(dtype):
    """An array (50, 3) of random bits."""
    return (
        np.random.default_rng(0)
        .integers(0, 256, (50, 3 * np.dtype(dtype).itemsize), "u1")
        .view(dtype)
    )


RESULT = {
    **{name: bits(name) for name in ("u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16")},
    "bool": np.arange(150).reshape(50, 3) % 2 == 0,
    "big": np.arange(200_000.0).reshape(50, 4000),
}


def features(store):
    """Store a result in columns; return its entry."""
    rows = np.arange(50)
    store.put(rows, RESULT, "s")
    return store.entry(store.info(rows, suffix="s").key)


def hierarchy(store):
    """Commit a Zarr hierarchy; return its entry."""
    stage = store.zarr_store()
    group = zarr.create_group(stage, attributes={"pi": 3.5, "of": "a hierarchy"})
    group.create_array("a/sharded", data=RESULT["big"], chunks=(10, 100), shards=(50, 2000))
    group.create_array("plain", data=RESULT["f4"], chunks=(20, 2), fill_value=np.nan)
    group.create_array("empty", shape=(20,), chunks=(5,), dtype="i4", fill_value=3)
    return store.entry(stage.commit("s").key)


MADE = {"features": features, "hierarchy": hierarchy}


@pytest.fixture(params=MADE)
def entry(request, tmp_path):
    """Return an entry of each kind."""
    return MADE[request.param](castore.open(tmp_path / "store"))


def arrays(entry):
    """Every array of an entry as zarr reads it there, by path."""
    nodes = {key: json.loads(entry.manifest.keys.text(key)) for key in entry.manifest.metadata}
    paths = [key.rpartition("/")[0] for key, node in nodes.items() if node["node_type"] == "array"]
    return {path: zarr.open_array(entry.zarr_store(), path=path)[...] for path in paths}


def same(one, other):
    """Tell whether two arrays are equal in every bit."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_zarr_reads_an_export(entry, tmp_path):
    """What is exported has every key of the entry, byte for byte, and zarr reads it bit-equal."""
    folder = entry.export(tmp_path / "out")
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert found == dict(entry.values())
    for path, expected in arrays(entry).items():
        assert same(zarr.open_array(folder, path=path, mode="r")[...], expected), path


def test_results_come_back_as_their_columns(tmp_path):
    """The columns of an exported result are the arrays that were stored, by their names."""
    folder = features(castore.open(tmp_path / "store")).export(tmp_path / "out")
    found = {
        path: array[...]
        for path, array in zarr.open_group(folder, mode="r").members(None)
        if isinstance(array, zarr.Array)
    }
    for name, expected in RESULT.items():
        assert any(
            path.endswith(name) and same(array, expected) for path, array in found.items()
        ), name


def test_carriers_come_back_as_their_bits(tmp_path):
    """An array of bfloat16 travels as integers of the same bits."""
    torch = pytest.importorskip("torch")
    store = castore.open(tmp_path / "store")
    value = torch.arange(600.0).reshape(50, 12).to(torch.bfloat16)
    store.put(np.arange(50), value, "s")
    folder = store.entry(store.info(np.arange(50), suffix="s").key).export(tmp_path / "out")
    carried = value.view(torch.int16).numpy()
    found = dict(zarr.open_group(folder, mode="r").arrays())
    assert any(array[...].tobytes() == carried.tobytes() for array in found.values())


def test_tensorstore_reads_an_export(entry, tmp_path):
    """TensorStore reads every array of an export bit-equal."""
    tensorstore = pytest.importorskip("tensorstore")
    folder = entry.export(tmp_path / "out")
    for path, expected in arrays(entry).items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / path}/"}}
        found = tensorstore.open(spec, read=True).result().read().result()
        assert same(np.asarray(found), expected), path


def test_zarrs_reads_an_export(entry, tmp_path):
    """The codecs of zarrs, in Rust, read every array of an export bit-equal."""
    pytest.importorskip("zarrs")
    folder = entry.export(tmp_path / "out")
    expected = arrays(entry)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        for path, array in expected.items():
            assert same(zarr.open_array(folder, path=path, mode="r")[...], array), path


def test_an_export_imported_is_the_same_entry(entry, tmp_path):
    """Exporting and importing gives the same content key each time, and no new bytes of blobs."""
    store = castore.open(tmp_path / "store")
    before = store.usage().referenced
    first = store.import_zarr(entry.export(tmp_path / "one"), "imported")
    assert store.usage().referenced == before
    assert store.stats().bytes_stored == 0
    again = store.import_zarr(store.entry(first.key).export(tmp_path / "two"), "imported")
    assert again.key == first.key
    assert store.stats().disagreements == 0
    elsewhere = castore.init(tmp_path / "else", digest="sha256") and castore.open(tmp_path / "else")
    assert elsewhere.import_zarr(tmp_path / "two", "imported").key == first.key


def test_an_imported_export_reads_the_same(entry, tmp_path):
    """Import, read: every array is bit-equal to the one that was exported."""
    store = castore.open(tmp_path / "other")
    found = store.entry(store.import_zarr(entry.export(tmp_path / "out"), "s").key)
    for path, expected in arrays(entry).items():
        assert same(found.zarr()[path][...], expected)
        assert same(found.arrays()[path], expected)
    assert dict(found.values()) == dict(entry.values())


@pytest.mark.parametrize("there", ["file", "full folder", "dangling link"])
def test_nothing_is_written_over(entry, tmp_path, there):
    """An export to where something is refused, and leaves that as it was."""
    place = tmp_path / "out"
    if there == "file":
        place.write_text("mine")
    elif there == "full folder":
        place.mkdir()
        (place / "mine").write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ConfigError, BackendError)):
        entry.export(place)
    assert sorted(tmp_path.rglob("*")) == before
    assert place.is_symlink() or place.exists()


def test_an_empty_folder_may_be_filled(entry, tmp_path):
    """An empty folder is taken; the folder is returned."""
    (tmp_path / "out").mkdir()
    assert entry.export(tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out/zarr.json").exists()


def test_a_damaged_entry_exports_nothing(entry, tmp_path):
    """If any blob is damaged the export raises and leaves nothing behind."""
    for file in (tmp_path / "store/blobs").glob("*/*"):
        whole = file.read_bytes()
        file.unlink()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DamagedError):
            castore.open(tmp_path / "store").entry(entry.key).export(tmp_path / "out")
        assert sorted(tmp_path.rglob("*")) == before
        file.unlink()
        file.write_bytes(whole)
    assert castore.open(tmp_path / "store").entry(entry.key).export(tmp_path / "out").is_dir()


def test_keys_that_lead_out_are_not_exported(tmp_path):
    """A manifest with a key that is a way out of a folder is refused before anything is written."""
    entry = hierarchy(castore.open(tmp_path / "store"))
    (path,) = (tmp_path / "store").glob("tables/*/entries/*.json")
    document = unseal(path.read_bytes(), "m")
    document["chunks"]["../../escaped"] = {"inline": "AAAA"}
    path.write_bytes(seal(document))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="which is no file's"):
        castore.open(tmp_path / "store").entry(entry.key).export(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
