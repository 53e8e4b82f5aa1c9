"""Codecs: how a result is stored is the caller's choice, and never what answers."""

from __future__ import annotations

import collections
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore

import castore
from castore import catalog
from castore.canonical import seal, unseal
from castore.errors import CastoreWarning, ConfigError, ResultError

ROOT = Path(__file__).parents[2]
ROWS = np.arange(3000)
FEATURES = np.maximum(np.sin(np.outer(ROWS, np.arange(64.0))), 0).astype("<f4")
CODECS = ["none", "zstd", "blosc"]
coded = pytest.mark.parametrize("codec", CODECS[1:])


def features(rows):
    """One row a sample."""
    return FEATURES[np.asarray(rows)]


def several(rows):
    """A result of several columns."""
    rows = np.asarray(rows)
    return {"features": FEATURES[rows], "label": rows % 7, "name": [str(row) for row in rows]}


def batches(rows):
    """Yield rows as they come."""
    for start in range(0, len(rows), 256):
        yield features(rows[start : start + 256])


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return castore.open(tmp_path / "store")


def ask(store, rows=ROWS, fn=features, **options):
    """Ask for the result of a function of rows."""
    return store.get_or_compute(rows, fn, "f", model=None, **{"rowwise": True, **options})


def codecs(store):
    """The codec of each column, entry by entry."""
    return [
        {name: column.codec for name, column in entry.columns.items()}
        for entry in catalog.scan(store._backend)
    ]


@pytest.mark.parametrize("fn", [features, batches])
@pytest.mark.parametrize("first", CODECS)
@pytest.mark.parametrize("second", CODECS)
def test_the_codec_is_no_part_of_the_key(store, fn, first, second):
    """What was stored with one codec answers a call with any other, bit by bit, as it is."""
    computed = ask(store, fn=fn, codec=first)
    found = ask(store, fn=fn, codec=second)
    assert computed.tobytes() == found.tobytes() == FEATURES.tobytes()
    assert (found.dtype, found.shape) == (FEATURES.dtype, FEATURES.shape)
    assert (store.stats().hits, store.stats().computations) == (1, 1)
    assert codecs(store) == [{"result": first}]
    found[...] = 7
    assert ask(store, fn=fn).tobytes() == FEATURES.tobytes()


@coded
@pytest.mark.parametrize("fn", [features, batches])
def test_zarr_reads_what_was_coded(store, fn, codec):
    """A coded result, returned or yielded, is smaller, and an array that zarr reads."""
    ask(store, fn=fn, codec=codec)
    (entry,) = catalog.scan(store._backend)
    values = {key: Buffer.from_bytes(value) for key, value in entry.values()}
    group = zarr.open_group(MemoryStore(values), mode="r")
    assert group["result"][...].tobytes() == FEATURES.tobytes()
    assert entry.manifest.chunks["result/c/0/0"].length < FEATURES.nbytes


@pytest.mark.parametrize("rows", [1, 3000])
@coded
def test_every_column_of_a_result_is_coded(store, codec, rows):
    """One codec is that of all columns, whatever they are part of."""
    expected = several(ROWS[:rows])
    for _ in range(2):
        found = ask(store, ROWS[:rows], several, rowwise=False, codec=codec)
        assert found["features"].tobytes() == expected["features"].tobytes()
        assert found["label"].tobytes() == expected["label"].tobytes()
        assert found["name"] == expected["name"]
    assert store.stats().hits == 1
    names = ["features", "label", "name.values", "name.offsets"]
    assert codecs(store) == [dict.fromkeys(names, codec)]


@coded
def test_what_has_no_rows_is_stored_without(store, codec):
    """Columns without elements, and numbers, have no codec, whatever is asked."""
    result = {"none": FEATURES[:0], "flat": FEATURES[:, :0], "mean": FEATURES.mean()}
    for _ in range(2):
        found = ask(store, fn=lambda _: result, rowwise=False, codec=codec)
        assert (found["none"].shape, found["flat"].shape) == ((0, 64), (3000, 0))
        assert found["mean"] == FEATURES.mean()
    assert codecs(store) == [{"none": "none", "flat": "none", "mean": "none"}]


def test_columns_may_have_codecs_of_their_own(store):
    """A mapping has the codecs of the columns it names; the others have none."""
    chosen = {"features": "blosc", "name.values": "zstd"}
    ask(store, fn=several, rowwise=False, codec=chosen)
    assert codecs(store) == [
        {"features": "blosc", "label": "none", "name.offsets": "none"} | chosen
    ]
    assert store.info(ROWS, several, "f", model=None).columns == {
        "features": "float32 (3000, 64), blosc",
        "label": "int64 (3000,)",
        "name.values": f"uint8 ({sum(len(str(row)) for row in ROWS)},), zstd",
        "name.offsets": "int64 (3001,)",
    }


WRONG = ["gzip", "", 5, None, True, ["zstd"], {"result": "gzip"}, {"result": None}, {5: "zstd"}]


@pytest.mark.parametrize("codec", WRONG, ids=repr)
def test_other_codecs_are_refused_before_anything_runs(store, codec):
    """What is no codec is refused with the names of those there are, and nothing is computed."""

    def never(rows):
        raise AssertionError

    listed = "'none', 'zstd' or 'blosc'"
    with pytest.raises(ConfigError, match=listed):
        ask(store, fn=never, codec=codec)
    with pytest.raises(ConfigError, match=listed):
        store.compute(never, suffix="c", inputs={}, codec=codec)
    with pytest.raises(ConfigError, match=listed):
        store.put(ROWS, FEATURES, "f", codec=codec)


MISSING = r"codec= names \['embedding'\], and the columns of the result are \['result'\]"


@pytest.mark.parametrize("fn", [features, batches])
def test_a_column_that_is_not_there_is_told_with_the_result(store, fn):
    """A codec for no column of the result is an error that has the result, and names them."""
    with pytest.raises(ResultError, match=MISSING) as caught:
        ask(store, fn=fn, codec={"embedding": "zstd"})
    assert caught.value.result.tobytes() == FEATURES.tobytes()
    assert list(store.entries()) == []
    with pytest.raises(ResultError, match=MISSING):
        store.put(ROWS, FEATURES, "f", codec={"embedding": "zstd"})


def test_a_column_that_is_not_there_beside_reused_rows(store):
    """A codec for no column of the rows that were missing is told with the whole result."""
    ask(store, ROWS[:2000])
    with pytest.raises(ResultError, match=MISSING) as caught:
        ask(store, codec={"embedding": "zstd"})
    assert caught.value.result.tobytes() == FEATURES.tobytes()
    with pytest.raises(ResultError, match=MISSING) as caught:
        ask(store, ROWS[:1500], codec={"embedding": "zstd"}, materialize=True)
    assert caught.value.result.tobytes() == FEATURES[:1500].tobytes()


def test_a_column_that_is_not_there_may_be_survived(tmp_path):
    """Where trouble is to be survived, a codec for no column is a warning, and the result comes."""
    store = castore.open(tmp_path, on_error="compute")
    with pytest.warns(CastoreWarning, match="codec= names"):
        found = ask(store, codec={"embedding": "zstd"})
    assert found.tobytes() == FEATURES.tobytes()
    assert list(store.entries()) == []


@pytest.mark.parametrize("first", CODECS)
@pytest.mark.parametrize("second", CODECS)
@pytest.mark.parametrize("fn", [features, batches])
def test_rows_are_reused_whatever_their_codecs(store, fn, first, second):
    """Rows of entries with different codecs stand in one result; new ones have the call's own."""
    ask(store, ROWS[:1000], fn, codec=first)
    ask(store, ROWS[2000:], fn, codec=second)
    shuffled = np.random.default_rng(0).permutation(ROWS)
    found = ask(store, shuffled, fn, codec="blosc")
    assert found.tobytes() == FEATURES[shuffled].tobytes()
    assert (store.stats().rows_computed, store.stats().rows_reused) == (3000, 2000)
    held = collections.Counter(entry["result"] for entry in codecs(store))
    assert held == collections.Counter([first, second, "blosc"])
    again = ask(store, shuffled[::3], fn, codec="zstd", materialize=True)
    assert again.tobytes() == FEATURES[shuffled[::3]].tobytes()
    assert store.stats().rows_computed == 3000
    assert len(codecs(store)) == 4
    assert codecs(store).count({"result": "zstd"}) == 1 + [first, second].count("zstd")


@coded
def test_plain_inputs_and_values_are_coded_too(store, codec):
    """`compute`, `put` and `cache` take a codec as `get_or_compute` does."""
    total = store.compute(lambda x: x + 1, suffix="c", inputs={"x": FEATURES}, codec=codec)
    assert store.compute(lambda x: x + 1, suffix="c", inputs={"x": FEATURES}).tobytes() == (
        total.tobytes()
    )
    store.put(ROWS, iter([FEATURES[:5], FEATURES[5:]]), "p", codec=codec)
    assert store.get(ROWS, suffix="p").tobytes() == FEATURES.tobytes()
    cached = store.cache("d", model=None, codec=codec)(features)
    assert cached(ROWS).tobytes() == cached(ROWS).tobytes() == FEATURES.tobytes()
    assert codecs(store) == [{"result": codec}] * 3
    assert store.stats().hits == 3


@coded
def test_equal_results_are_one_blob(store, codec):
    """Equal arrays, returned or yielded, under any key, are one blob."""
    ask(store, fn=features, codec=codec, version=1)
    ask(store, fn=batches, codec=codec, version=2)
    (first,), (second,) = (
        [ref.name for key, ref in entry.manifest.chunks.items() if key == "result/c/0/0"]
        for entry in catalog.scan(store._backend)
    )
    assert first == second


@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
@coded
def test_single_bit_flips(tmp_path, algorithm, codec):
    """100 flipped bits over a coded shard are 100 counted misses, and the right values."""
    root = tmp_path / "store"
    castore.init(root, digest=algorithm)
    ask(castore.open(root), codec=codec)
    (entry,) = catalog.scan(castore.open(root)._backend)
    file = root / entry.manifest.chunks["result/c/0/0"].name
    draw = random.Random(0)
    for _ in range(100):
        flipped = bytearray(file.read_bytes())
        position = draw.randrange(len(flipped) * 8)
        flipped[position // 8] ^= 1 << position % 8
        file.unlink()
        file.write_bytes(flipped)
        store = castore.open(root)
        assert ask(store, codec=codec).tobytes() == FEATURES.tobytes()
        assert store.stats().misses == {"damaged": 1}, position
        store = castore.open(root)
        assert ask(store).tobytes() == FEATURES.tobytes()
        assert store.stats().hits == 1


@coded
def test_flips_under_reused_rows(tmp_path, codec):
    """100 flipped bits under a request for some of the rows never give wrong ones, nor an error."""
    root = tmp_path / "store"
    store = castore.open(root)
    ask(store, codec=codec)
    (entry,) = catalog.scan(store._backend)
    file = root / entry.manifest.chunks["result/c/0/0"].name
    sound, draw, noticed = file.read_bytes(), random.Random(0), 0
    some = ROWS[100:400][::-1]
    for _ in range(100):
        flipped = bytearray(sound)
        position = draw.randrange(len(flipped) * 8)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        for left in root.glob("tables/*/entries/*.json"):
            if left.stem != entry.key:
                left.unlink()
        store = castore.open(root)
        assert ask(store, some).tobytes() == FEATURES[some].tobytes()
        assert store.stats().rows_computed in (0, 300)
        noticed += store.stats().rows_computed == 300
    assert 5 < noticed < 95


def race(store, theirs, mine):
    """Compute, while somebody else commits the same rows under another codec."""

    def overtaken(rows):
        ask(castore.open(store.url), fn=theirs, codec="zstd", wait=False, force=True)
        return mine(rows)

    return ask(store, fn=overtaken, codec="blosc", rowwise=False)


def test_another_codec_is_no_disagreement(store):
    """Who finds his values stored meanwhile by another codec has them, and nobody disagreed."""
    assert race(store, features, features).tobytes() == FEATURES.tobytes()
    assert store.stats().disagreements == 0
    assert codecs(store) == [{"result": "zstd"}]


def test_other_values_are_a_disagreement_by_any_codec(tmp_path):
    """Who finds other values stored meanwhile, by whatever codec, has those, and it is counted."""
    store = castore.open(tmp_path)
    found = race(store, lambda rows: features(rows) + 1, features)
    assert found.tobytes() == (FEATURES + 1).tobytes()
    assert store.stats().disagreements == 1


def test_what_castore_would_not_write_is_a_miss(store):
    """A coded entry whose metadata are another writer's is a counted miss, and is mended."""
    ask(store, codec="zstd")
    (entry,) = catalog.scan(store._backend)
    document = unseal(store._backend.get(entry.manifest.name), "the manifest")
    document.pop("digest", None)
    inner = document["metadata"]["result/zarr.json"]["codecs"][0]["configuration"]["codecs"]
    inner[1]["configuration"]["level"] = 9
    store._backend.put(entry.manifest.name, [seal(document)])
    assert ask(store).tobytes() == FEATURES.tobytes()
    assert store.stats().misses == {"absent": 1, "damaged": 1}
    assert codecs(store) == [{"result": "none"}]


LAZY = """
import sys, tempfile
import numpy as np
import castore
store = castore.open(tempfile.mkdtemp())
store.put(np.arange(3), np.zeros((3, 2)), "f")
assert store.get(np.arange(3), suffix="f").shape == (3, 2)
assert "numcodecs" not in sys.modules
store.put(np.arange(3), np.zeros((3, 2)), "f", codec="zstd")
assert "numcodecs" in sys.modules
"""


def test_numcodecs_is_loaded_for_codecs_alone():
    """Who uses no codec does not wait for the library of codecs."""
    run = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr


BOUNDED = """
import sys, tracemalloc
import numpy as np
import castore
store = castore.open(sys.argv[1])
batch = np.random.default_rng(0).integers(0, 256, (512, 8192), np.uint8)

def batches(rows):
    for _ in range(24):
        yield batch

tracemalloc.start()
store.get_or_compute(np.arange(24 * 512), batches, "f", model=None, codec="zstd")
print(tracemalloc.get_traced_memory()[1])
"""


def test_what_is_yielded_is_encoded_in_bounded_memory(tmp_path):
    """A generator of 100 MB takes the memory of a few batches, with a codec too."""
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr[-800:]
    assert int(run.stdout) < 60_000_000


FULL = """
import subprocess, sys
import numpy as np
import castore
from castore.errors import CommitError
root = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", root], check=True)
store = castore.open(root)
rows = np.random.default_rng(0).integers(0, 256, (2000, 1000), np.uint8)
try:
    store.get_or_compute(
        np.arange(2000), lambda _: iter([rows[:900], rows[900:]]), "f", model=None, codec="zstd"
    )
except CommitError as error:
    print(np.array_equal(error.result, rows))
print(len(list(store.entries())))
"""


def test_a_disk_that_fills_while_rows_are_encoded_costs_no_row(tmp_path):
    """Where there is room for the rows and not for their encoding too, the error has the rows."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*command, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of his own")
    run = subprocess.run(
        [*command, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (run.returncode, run.stdout) == (0, "True\n0\n"), run.stderr[-800:]
