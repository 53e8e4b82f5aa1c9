"""Damage to stored bytes: a counted miss and a mended blob, never an error or a wrong value."""

from __future__ import annotations

import random
import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pytest

import castore
from castore.canonical import seal, unseal
from castore.errors import DamagedError

ROWS = np.arange(4200)  # enough for row ids in a file of their own


def compute(loader):
    """Return a result with a column, a small column, text and numbers."""
    rows = np.asarray(loader)
    return {"features": np.outer(rows, np.arange(7.0)), "names": ["a", "bc"], "scale": [1.5]}


def is_right(value):
    """Tell whether `value` is what `compute` returns."""
    expected = compute(ROWS)
    return (
        value["features"].tobytes() == expected["features"].tobytes()
        and value["features"].shape == expected["features"].shape
        and value["names"] == expected["names"]
        and value["scale"] == expected["scale"]
    )


def call(url):
    """Ask a store opened anew; return whether the value is right, and the counters."""
    store = castore.open(url)
    value = store.get_or_compute(ROWS, compute, "c", model=None, rowwise=False)
    return is_right(value), store.stats()


@pytest.fixture(params=["xxh3-128", "sha256"])
def entry_files(tmp_path, request):
    """Make an entry; return the store and every file that belongs to the entry."""
    root = tmp_path / "store"
    castore.init(root, digest=request.param)
    store = castore.open(root)
    store.get_or_compute(ROWS, compute, "c", model=None, rowwise=False)
    (manifest,) = root.glob("tables/*/entries/*.json")
    return root, [manifest, *sorted((root / "blobs").glob("*/*"))]


def test_single_bit_flips(entry_files):
    """400 flipped bits over every file of an entry: each a counted miss, each mended."""
    root, files = entry_files
    assert len(files) >= 2
    draw = random.Random(0)
    for turn in range(400):
        file = files[turn % len(files)]
        whole = file.read_bytes()
        position = draw.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        file.unlink()
        file.write_bytes(flipped)
        right, stats = call(root)
        assert right, (file, position)
        assert stats.misses == {"damaged": 1}, (file, position)
        right, stats = call(root)
        assert right, (file, position)
        assert (stats.hits, stats.misses) == (1, {}), (file, position)


def test_single_bit_flips_of_every_file_of_an_aligned_entry(tmp_path):
    """400 flipped bits over manifest, column, row ids and row checks are 400 counted misses."""
    rows = ROWS

    def column(loader):
        return np.repeat(np.asarray(loader)[:, None], 20, 1)

    store = castore.open(tmp_path)
    store.get_or_compute(rows, column, "c", model=None)
    (manifest,) = tmp_path.glob("tables/*/entries/*.json")
    files = [manifest, *sorted((tmp_path / "blobs").glob("*/*"))]
    assert len(files) == 3  # the manifest, the column, the row ids
    draw = random.Random(1)
    for turn in range(400):
        file = files[turn % 3]
        size = file.stat().st_size
        position = draw.randrange(size * 8)
        flip(file, position)
        store = castore.open(tmp_path, mode="ro")
        value = store.get_or_compute(rows, column, "c", model=None)
        assert np.array_equal(value[::997], column(rows[::997])), (file, position)
        assert store.stats().misses == {"damaged": 1}, (file, position)
        flip(file, position)
    store = castore.open(tmp_path, mode="ro")
    store.get_or_compute(rows, column, "c", model=None)
    assert store.stats().hits == 1


def flip(file, position):
    """Flip one bit of a file in place."""
    with file.open("r+b") as opened:
        opened.seek(position // 8)
        byte = opened.read(1)[0] ^ (1 << position % 8)
        opened.seek(position // 8)
        opened.write(bytes([byte]))


def test_truncation_at_every_64th_byte(entry_files):
    """A small file cut short anywhere is a counted miss, and mended."""
    root, files = entry_files
    for file in files:
        whole = file.read_bytes()
        if len(whole) > 100_000:
            cuts = [0, 1, 64, len(whole) // 2, len(whole) - 1]
        else:
            cuts = range(0, len(whole), 64)
        for cut in cuts:
            file.unlink()
            file.write_bytes(whole[:cut])
            right, stats = call(root)
            assert right, (file, cut)
            assert stats.misses == {"damaged": 1}, (file, cut)
        assert call(root)[1].hits == 1


def test_missing_files(entry_files):
    """A blob that vanished is a counted miss, a manifest that vanished an absent one."""
    root, files = entry_files
    for file in files:
        file.unlink()
        right, stats = call(root)
        assert right
        assert sum(stats.misses.values()) == 1
        assert call(root)[1].hits == 1


def test_longer_files(entry_files):
    """Bytes appended to a file are damage too."""
    root, files = entry_files
    for file in files:
        file.write_bytes(file.read_bytes() + b"\0")
        right, stats = call(root)
        assert right
        assert stats.misses == {"damaged": 1}


def test_a_recomputation_mends_every_entry_with_the_blob(tmp_path):
    """Two entries share a blob; computing one again makes the other a hit."""
    store = castore.open(tmp_path)
    big = np.arange(50_000.0)
    calls = deque()

    def features(loader):
        calls.append(None)
        return big * 2

    for suffix in ("one", "two"):
        store.get_or_compute(big, features, suffix, model=None)
    shared = set(store.entry(store.info(big, features, "one", model=None).key).manifest.blobs)
    (ref,) = (r for r in shared if r.length > 300_000 and r.length < 500_000)
    path = tmp_path / ref.name
    flip(path, 12_345)
    calls.clear()
    for suffix in ("one", "two"):
        found = store.get_or_compute(big, features, suffix, model=None)
        assert np.array_equal(found, big * 2)
    assert len(calls) == 1


def test_a_mended_blob_leaves_mapped_readers_alone(tmp_path):
    """An array returned before its file was damaged and replaced keeps its values."""
    store = castore.open(tmp_path)
    big = np.arange(50_000.0)
    store.put(big, big * 3, "s")
    held = store.get(big, suffix="s")
    for blob in (tmp_path / "blobs").glob("*/*"):
        blob.unlink()
    assert store.get(big, suffix="s") is None
    store.put(big, big * 3, "s")
    assert np.array_equal(held, big * 3)


def crafted(root: Path, change):
    """Replace the only manifest by a changed one whose own digest is right."""
    (manifest,) = root.glob("tables/*/entries/*.json")
    document = unseal(manifest.read_bytes(), "m")
    change(document)
    manifest.write_bytes(seal(document))


def set_chunk(**fields):
    """Return a change of every blob's fields."""

    def change(document):
        for chunk in document["chunks"].values():
            if "digest" in chunk:
                chunk.update(fields)

    return change


def set_shape(*shape):
    """Return a change of the column's shape."""

    def change(document):
        document["metadata"]["result/zarr.json"]["shape"] = list(shape)

    return change


CRAFTED = {
    "path in a digest": set_chunk(digest="../../../../etc/passwd"),
    "absolute path": set_chunk(digest="/etc/passwd"),
    "dots as long as a digest": set_chunk(digest="../" * 10 + "ab"),
    "huge length": set_chunk(length=2**60),
    "negative length": set_chunk(length=-1),
    "boolean length": set_chunk(length=True),
    "generation as text": set_chunk(generation="~1/../.."),
    "huge shape": set_shape(2**40, 2**20),
    "negative shape": set_shape(-1),
    "fractional shape": set_shape(1.5),
    "other shape": set_shape(3),
    "no columns": lambda d: d.update(form={"array": "missing"}),
    "form of nothing": lambda d: d.update(form={}),
    "form as text": lambda d: d.update(form="array"),
    "deep form": lambda d: d.update(form=_deep(400)),
    "column path": lambda d: d.update(form={"array": "../../result"}),
    "chunks as a list": lambda d: d.update(chunks=[1]),
    "other key": lambda d: d.update(key="0" * 32),
    "other algorithm": lambda d: d.update(digest_algorithm="crc32"),
    "object dtype": lambda d: d["metadata"]["result/zarr.json"].update(data_type="object"),
    "other dtype": lambda d: d["metadata"]["result/zarr.json"].update(data_type="float32"),
    "pickle codec": lambda d: d["metadata"]["result/zarr.json"].update(
        codecs=[{"name": "pickle", "configuration": {}}]
    ),
    "named tuple of a function": lambda d: d.update(
        form={"named": {"type": "os:system", "fields": ["command"], "items": [{"value": "true"}]}}
    ),
    "inline that is no base64": lambda d: d["chunks"].update({"x/c/0": {"inline": "*"}}),
}


def _deep(levels):
    form = {"array": "result"}
    for _ in range(levels):
        form = {"list": [form]}
    return form


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_manifests(tmp_path, name):
    """A manifest made up by somebody is a miss or harmless data; nothing outside is touched."""
    store = castore.open(tmp_path / "store")
    big = np.arange(50_000.0)
    store.put(big, big, "s")
    crafted(tmp_path / "store", CRAFTED[name])
    harmless = name in ("named tuple of a function", "inline that is no base64", "deep form")
    value = castore.open(tmp_path / "store").get(big, suffix="s")
    if value is not None:
        assert harmless, value
        assert not isinstance(value, np.ndarray)
    found = castore.open(tmp_path / "store").get_or_compute(
        big, lambda _: big, "s", model=None, force=True
    )
    assert np.array_equal(found, big)
    assert np.array_equal(castore.open(tmp_path / "store").get(big, suffix="s"), big)


def test_an_entry_moved_to_another_key_is_not_served(tmp_path):
    """A manifest under a name that is not its own is damaged, whoever put it there."""
    store = castore.open(tmp_path)
    big = np.arange(50_000.0)
    for suffix in ("one", "two"):
        store.put(big, big if suffix == "one" else -big, suffix)
    one, two = (
        tmp_path / f"tables/{info.table}/entries/{info.key}.json"
        for info in (store.info(big, suffix=s) for s in ("one", "two"))
    )
    shutil.copyfile(two, one)
    assert store.get(big, suffix="one") is None
    with pytest.raises(DamagedError, match="another entry"):
        store.info(big, suffix="one")
