"""Damage to stored bytes never reads as fill values, nor as other values: every read raises."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import zarr

import castore
from castore.canonical import seal, unseal
from castore.errors import DamagedError

X = np.arange(300_000.0).reshape(600, 500)
Y = np.random.default_rng(0).integers(0, 1000, (400, 400))


def hierarchy(root):
    """Commit groups with plain, sharded and compressed arrays; return the entry's key."""
    stage = castore.open(root).zarr_store()
    group = zarr.create_group(stage)
    x = group.create_array(
        "x", data=X, chunks=(200, 250), compressors=None, dimension_names=("row", "column")
    )
    group.create_array("deep/y", data=Y, chunks=(100, 100), shards=(400, 400))
    assert x.nchunks_initialized == 6
    return stage.commit("s").key


def features(root):
    """Store a result in columns; return the entry's key."""
    store = castore.open(root)
    rows = np.arange(len(X))
    store.put(rows, X, "s")
    return store.info(rows, suffix="s").key


MADE = {"hierarchy": hierarchy, "features": features}


@pytest.fixture(params=MADE)
def damageable(request, tmp_path):
    """Return the store's folder, the key of an entry, and the files of its blobs."""
    key = MADE[request.param](tmp_path / "store")
    return tmp_path / "store", key, sorted((tmp_path / "store/blobs").glob("*/*"))


def replace(file, data):
    """Put another file in the place of one: a mapped one cannot be cut short with impunity."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def flip(file, position):
    """Flip one bit of a file."""
    whole = bytearray(file.read_bytes())
    whole[position // 8] ^= 1 << position % 8
    replace(file, whole)


def read_arrays(entry):
    """Read every array whole, through zarr's groups."""
    return {path: zarr.open_array(entry.zarr_store(), path=path)[...] for path in paths(entry)}


def paths(entry):
    """Paths of the arrays of an entry."""
    return [key.rpartition("/")[0] for key, node in metadata(entry) if node["node_type"] == "array"]


def metadata(entry):
    """Keys and documents of the metadata of an entry."""
    text = entry.manifest.keys.text
    return [(key, json.loads(text(key))) for key in entry.manifest.metadata]


def read_keys(entry):
    """Read every key of a chunk."""
    store = entry.zarr_store()
    for key in entry.manifest.chunks:
        store.get_sync(key)


DAMAGE = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: replace(file, b""),
    "shorter": lambda file: replace(file, file.read_bytes()[:-1]),
    "longer": lambda file: replace(file, file.read_bytes() + b"\0"),
    "zeros": lambda file: replace(file, bytes(file.stat().st_size)),
    "flipped": lambda file: flip(file, 8 * (file.stat().st_size // 2) + 3),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_no_blob_can_be_damaged_unseen(damageable, how):
    """Whichever blob is damaged in whatever way, reading all arrays raises, and so does a copy."""
    root, key, files = damageable
    for file in files:
        whole = file.read_bytes()
        DAMAGE[how](file)
        for verify in ("mapped", "always"):
            entry = castore.open(root, verify=verify).entry(key)
            reads = [read_arrays, read_keys, lambda held: list(held.values())]
            for read in (*reads, *([lambda held: held.arrays()] if entry.is_hierarchy else [])):
                with pytest.raises(DamagedError):
                    read(entry)
        replace(file, whole)
    entry = castore.open(root).entry(key)
    read_arrays(entry)


def test_200_flips(damageable):
    """Of 200 bits flipped anywhere in the blobs, each makes the read of all arrays raise."""
    root, key, files = damageable
    draw = random.Random(0)
    store = castore.open(root)
    for turn in range(200):
        file = files[turn % len(files)]
        position = draw.randrange(8 * file.stat().st_size)
        flip(file, position)
        with pytest.raises(DamagedError):
            read_arrays(store.entry(key))
        flip(file, position)


def flipped_hierarchy(root):
    """Make a hierarchy whose blobs are all damaged; return the entry."""
    key = hierarchy(root)
    for file in (root / "blobs").glob("*/*"):
        flip(file, 4 * file.stat().st_size)
    return castore.open(root).entry(key)


READS = {
    "whole": lambda group: group["x"][...],
    "part of a chunk": lambda group: group["x"][3:5, 7],
    "one value": lambda group: group["x"][599, 499],
    "orthogonal": lambda group: group["x"].oindex[[1, 599], [3]],
    "points": lambda group: group["x"].vindex[[1, 599], [3, 4]],
    "block": lambda group: group["x"].blocks[1, 1],
    "shard": lambda group: group["deep/y"][...],
    "part of a shard": lambda group: group["deep/y"][3:30, 100:150],
    "chunk of a shard": lambda group: group["deep"]["y"][20:40, 20:40],
    "members": lambda group: dict(group["deep"].arrays())["y"][0, 0],
}


@pytest.mark.parametrize("pipeline", ["BatchedCodecPipeline", "FusedCodecPipeline"])
@pytest.mark.parametrize("read", READS)
def test_every_way_to_read_raises(tmp_path, read, pipeline):
    """Any read that needs damaged bytes raises castore's own error through each of zarr's ways."""
    if not hasattr(zarr.core.codec_pipeline, pipeline):
        pytest.skip("a newer zarr has it")
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        group = flipped_hierarchy(tmp_path).zarr()
        for _ in range(2):
            with pytest.raises(DamagedError):
                READS[read](group)


@pytest.mark.parametrize("pipeline", ["BatchedCodecPipeline", "FusedCodecPipeline"])
def test_a_damaged_part_of_a_large_shard_raises(tmp_path, pipeline):
    """Behind an intact index damaged chunks raise castore's own error, and the others are read."""
    if not hasattr(zarr.core.codec_pipeline, pipeline):
        pytest.skip("a newer zarr has it")
    data = np.arange(1_200_000.0).reshape(1200, 1000)
    stage = castore.open(tmp_path).zarr_store()
    zarr.create_array(stage, data=data, chunks=(100, 500), shards=data.shape, compressors=None)
    key = stage.commit("s").key
    (file,) = (tmp_path / "blobs").glob("*/*")
    flip(file, 1000)
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        array = castore.open(tmp_path).entry(key).zarr()
        assert np.array_equal(array[1100:], data[1100:])
        for _ in range(2):
            with pytest.raises(DamagedError):
                array[:3, 100:700]


def test_dask_raises(tmp_path):
    """A graph that needs damaged bytes raises when it is computed."""
    pytest.importorskip("dask.array")
    entry = flipped_hierarchy(tmp_path)
    for array in ("x", "deep/y"):
        lazy = entry.to_dask(array)
        with pytest.raises(DamagedError):
            lazy[:3].sum().compute(scheduler="threads")


def test_xarray_raises(tmp_path):
    """A data set opens by its metadata and raises when damaged bytes are needed."""
    pytest.importorskip("xarray")
    entry = flipped_hierarchy(tmp_path)
    opened = entry.to_xarray(chunks=None)
    assert opened["x"].shape == X.shape
    with pytest.raises(DamagedError):
        opened["x"][:2].load()


def test_what_is_not_damaged_is_read(tmp_path):
    """Damage to one chunk leaves reads alone that need others."""
    key = hierarchy(tmp_path)
    entry = castore.open(tmp_path).entry(key)
    flip(tmp_path / entry.manifest.chunks["x/c/0/0"].name, 0)
    assert np.array_equal(entry.zarr()["x"][200:], X[200:])
    assert np.array_equal(entry.zarr()["deep/y"][...], Y)
    with pytest.raises(DamagedError):
        entry.zarr()["x"][:1, :1]


def test_a_chunk_never_written_reads_as_fill_value(tmp_path):
    """A chunk that was left out on purpose is the fill value, in every layout of keys."""
    stage = castore.open(tmp_path).zarr_store()
    group = zarr.create_group(stage)
    for name, options in {
        "plain": {"chunks": (5,)},
        "sharded": {"chunks": (5,), "shards": (10,)},
        "dots": {"chunks": (5,), "chunk_key_encoding": {"name": "v2", "separator": "."}},
        "many": {"chunks": (5,), "shape": (10_000,)},
        "scalar": {"chunks": (), "shape": ()},
    }.items():
        group.create_array(name, **{"shape": (20,), "dtype": "f8", "fill_value": 7.0, **options})
        if name != "scalar":
            group[name][:5] = 1.0
    entry = castore.open(tmp_path).entry(stage.commit("s").key)
    for name, array in entry.zarr().arrays():
        expected = np.full(array.shape, 7.0)
        if name != "scalar":
            expected[:5] = 1.0
        assert np.array_equal(array[...], expected), name


@pytest.mark.parametrize("key", ["x/c/0/0", "deep/y/c/0/0"])
def test_a_chunk_the_manifest_forgot_is_damage(tmp_path, key):
    """A chunk neither listed nor named absent raises, whatever its array's fill value."""
    found = hierarchy(tmp_path)
    (path,) = tmp_path.glob("tables/*/entries/*.json")
    document = unseal(path.read_bytes(), "m")
    del document["chunks"][key]
    path.write_bytes(seal(document))
    entry = castore.open(tmp_path).entry(found)
    with pytest.raises(DamagedError, match="neither there nor left out"):
        entry.zarr_store().get_sync(key)
    with pytest.raises(DamagedError, match="neither there nor left out"):
        entry.zarr()[key.partition("/c/")[0]][:3, :3]
