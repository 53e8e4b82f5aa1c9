"""The publisher: data before pointer, then a look; on both backends."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore import points
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import blob, layout
from castore.canonical import seal, unseal
from castore.errors import BackendError, DamagedError, FormatError, ReadOnlyError, ResultError
from castore.table.draft import Draft
from castore.table.entry import find_entry
from castore.table.manifest import INLINE_ALL, INLINE_ONE, MAX_KEYS, MAX_NBYTES
from castore.table.writer import Writer, initialise, origin, read_format

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
LARGE = np.arange(100_000, dtype="<f4").reshape(1000, 100)
OTHER = LARGE + 1


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return MemoryBackend(uuid.uuid4().hex)


def writer(backend, table=TABLE):
    """A writer of the table."""
    return Writer(backend, table, {"function": "f"})


def draft(*arrays, algorithm="xxh3-128", **columns):
    """An entry to be, with a column for each array."""
    found = Draft(algorithm)
    for name, array in {**dict(zip("abcdefgh", arrays, strict=False)), **columns}.items():
        found.add(name, array)
    return found


def header(*names, key=KEY, table=TABLE):
    """What a manifest says besides its columns."""
    return {
        "table": table,
        "key": key,
        "rows": None,
        "aligned": False,
        "form": {"tuple": [{"array": name} for name in names or "a"]},
        "derivation": {"function": "f"},
        "origin": origin(12),
    }


def publish(backend, *arrays, force=False, key=KEY, **options):
    """Commit a tuple of `arrays`."""
    names = "abcdefgh"[: len(arrays)]
    made = draft(*arrays, **options)
    return writer(backend).publish(made, header(*names, key=key), force=force)


def value(backend, key=KEY):
    """What a reader gets, as lists by column; None where there is no entry."""
    entry = find_entry(backend, TABLE, key)
    return None if entry is None else {n: a.tolist() for n, a in entry.arrays().items()}


def blobs(backend):
    """Names of all blobs."""
    return [info.name for info in backend.list(layout.BLOBS)]


def condemn(backend, *names, run="run"):
    """Write a tombstone as a collector does."""
    bare = sorted(Path(name).name for name in names)
    backend.put(f"{layout.tombstones(bare[0])}{run}", [seal({"condemned": bare, "format": 1})])


@contextlib.contextmanager
def at(point, act):
    """Run `act` whenever a write reaches `point`."""

    def observe(reached):
        if reached == point:
            act()

    points.observer = observe
    try:
        yield
    finally:
        points.observer = None


def test_a_commit_is_read_back(backend):
    """What is published is what every reader finds from then on, bit by bit."""
    commit = publish(backend, LARGE, np.arange(3), np.float64(np.nan)[None])
    assert not commit.adopted
    assert commit.stored == 400_000 + len(commit.entry.columns["a"].tail())
    for entry in (commit.entry, find_entry(backend, TABLE, KEY)):
        found = entry.arrays()
        assert found["a"].tobytes() == LARGE.tobytes()
        assert found["b"].tolist() == [0, 1, 2]
        assert entry.nbytes == 400_000 + 24 + 8


def test_a_store_has_what_the_format_names(backend):
    """A store has its format, the table's derivation, the manifest and the blob."""
    commit = publish(backend, LARGE)
    (ref,) = commit.entry.manifest.blobs
    assert [info.name for info in backend.list("")] == [
        layout.blob(ref.digest, 0),
        "castore.json",
        layout.entry(TABLE, KEY),
        layout.table(TABLE),
    ]
    table = unseal(backend.get(layout.table(TABLE)), "table.json")
    assert table == {"derivation": {"function": "f"}, "format": 1, "table": TABLE}
    assert backend.get(layout.blob(ref.digest, 0))[:400_000] == LARGE.tobytes()


def test_an_identical_commit_adopts_without_disagreement(backend):
    """A second commit of the same bytes writes no blob, changes nothing, and agrees."""
    first = publish(backend, LARGE)
    second = publish(backend, LARGE.copy())
    assert (second.adopted, second.stored) == (False, 0)
    assert second.entry.manifest == first.entry.manifest
    assert find_entry(backend, TABLE, KEY).manifest.nonce == first.entry.manifest.nonce


def test_a_different_commit_adopts_the_winner(backend):
    """A later commit of other bytes leaves the first in place, returns it, and says so."""
    first = publish(backend, LARGE)
    second = publish(backend, OTHER)
    assert second.adopted
    assert second.entry.manifest == first.entry.manifest
    assert second.entry.arrays()["a"].tobytes() == LARGE.tobytes()
    assert value(backend) == {"a": LARGE.tolist()}


def test_force_replaces(backend):
    """A forced commit takes the place of what is there, also where that is the same."""
    first = publish(backend, LARGE)
    second = publish(backend, OTHER, force=True)
    assert not second.adopted
    assert value(backend) == {"a": OTHER.tolist()}
    third = publish(backend, OTHER, force=True)
    nonces = {c.entry.manifest.nonce for c in (first, second, third)}
    assert len(nonces) == 3
    assert publish(backend, OTHER, force=True, key=TABLE).entry.key == TABLE


@pytest.mark.parametrize("harm", ["missing", "short", "damaged manifest", "empty manifest"])
def test_a_winner_that_leads_nowhere_is_replaced(backend, harm):
    """An entry whose blob or manifest is not whole gives way to the next commit of its key."""
    first = publish(backend, LARGE)
    (ref,) = first.entry.manifest.blobs
    name = layout.entry(TABLE, KEY)
    {
        "missing": lambda: backend.delete([ref.name]),
        "short": lambda: backend.put(ref.name, [b"short"]),
        "damaged manifest": lambda: backend.put(name, [backend.get(name)[:-1] + b" "]),
        "empty manifest": lambda: backend.put(name, []),
    }[harm]()
    second = publish(backend, OTHER)
    assert not second.adopted
    assert value(backend) == {"a": OTHER.tolist()}


def test_a_commit_mends_the_blob_of_every_entry(backend):
    """A blob that is gone is put again by the next commit of its bytes, for all who name it."""
    publish(backend, LARGE)
    publish(backend, LARGE, key=TABLE)
    (name,) = blobs(backend)
    backend.delete([name])
    for key in (KEY, TABLE):
        with pytest.raises(DamagedError):
            value(backend, key)
    assert publish(backend, LARGE).stored > 0
    assert value(backend) == value(backend, TABLE) == {"a": LARGE.tolist()}


def test_a_winner_that_is_removed_meanwhile_is_replaced(backend):
    """An entry that vanishes between the refusal and the look at it is made anew."""
    publish(backend, LARGE)
    path = layout.entry(TABLE, KEY)

    class Removing:
        """The backend, where the entry is removed once a commit has met it."""

        def __getattr__(self, name):
            return getattr(backend, name)

        def get(self, name):
            if name == path:
                backend.delete([path])
            return backend.get(name)

    assert not publish(Removing(), OTHER).adopted
    assert value(backend) == {"a": OTHER.tolist()}


def test_a_winner_of_a_newer_format_stays(backend):
    """What a newer castore wrote is not replaced: the commit is refused by the format's name."""
    publish(backend, LARGE)
    newer = seal({"format": 2, "flags": [], "key": KEY, "table": TABLE})
    backend.put(layout.entry(TABLE, KEY), [newer])
    with pytest.raises(FormatError, match="format 2 "):
        publish(backend, OTHER)
    assert backend.get(layout.entry(TABLE, KEY)) == newer


def test_blobs_are_durable_before_the_manifest_appears(backend):
    """At no point of a commit is there a manifest that names a blob which is not there, whole."""
    seen = []

    def look():
        entry = find_entry(backend, TABLE, KEY)
        refs = [] if entry is None else entry.manifest.blobs
        for ref in refs:
            assert backend.stat(ref.name).size == ref.length
        seen.append((entry is not None, len(blobs(backend))))

    with observing(look):
        publish(backend, LARGE, OTHER, np.arange(5))
    assert (False, 2) in seen
    assert seen == sorted(seen)
    assert seen[-1] == (True, 2)


@contextlib.contextmanager
def observing(act):
    """Run `act` at every point that any thread of this process reaches, one at a time."""
    lock = threading.Lock()

    def observe(point):
        with lock:
            act()

    points.observer = observe
    try:
        yield
    finally:
        points.observer = None


def test_a_commit_passes_its_points_in_order(backend):
    """A commit begins, stores its blobs, publishes and looks, and at each point has done so."""
    seen = []

    def observe(point):
        if point.startswith("commit."):
            there = backend.stat(layout.entry(TABLE, KEY)) is not None
            seen.append((point, bool(blobs(backend)), there))

    points.observer = observe
    try:
        publish(backend, LARGE)
    finally:
        points.observer = None
    assert seen == [
        ("commit.begun", False, False),
        ("commit.blobs-stored", True, False),
        ("commit.published", True, True),
        ("commit.looked", True, True),
    ]
    assert [point for point in points.POINTS if point.startswith("commit.")] == [
        p for p, *_ in seen
    ]


def test_condemned_blobs_are_put_under_the_next_generation(backend):
    """A name condemned before the commit is not used: bytes and manifest move to the next one."""
    (name,) = (publish(backend, LARGE), blobs(backend))[1]
    condemn(backend, name)
    backend.delete([name, layout.entry(TABLE, KEY)])
    commit = publish(backend, LARGE)
    (ref,) = commit.entry.manifest.blobs
    assert ref.generation == 1
    assert not commit.adopted
    backend.delete([name])  # as the collector does in the end
    assert value(backend) == {"a": LARGE.tolist()}


def test_a_tombstone_at_the_last_moment_is_seen(backend):
    """A collector that condemns a blob just when it is published does not take it with it."""
    turns = []

    def collect():
        turns.append(blobs(backend))
        condemn(backend, *blobs(backend), run="late")

    with at("commit.published", collect):
        commit = publish(backend, LARGE, np.arange(3))
    assert len(turns) == 1
    backend.delete(turns[0])
    (ref,) = commit.entry.manifest.blobs
    assert ref.name not in turns[0]
    assert find_entry(backend, TABLE, KEY).manifest == commit.entry.manifest
    assert value(backend) == {"a": LARGE.tolist(), "b": [0, 1, 2]}
    assert blob.condemned(backend, commit.entry.manifest.blobs) == set()


def test_every_column_that_shares_a_condemned_blob_moves(backend):
    """Columns of the same bytes move together, and others stay where they are."""
    at_first = publish(backend, LARGE, LARGE, OTHER)
    shared, alone = (ref.name for ref in at_first.entry.manifest.blobs)
    condemn(backend, shared)
    commit = publish(backend, LARGE, LARGE, OTHER)
    assert {ref.name for ref in commit.entry.manifest.blobs} == {f"{shared}~1", alone}
    backend.delete([shared])
    assert value(backend) == {"a": LARGE.tolist(), "b": LARGE.tolist(), "c": OTHER.tolist()}


def test_several_generations_may_be_condemned(backend):
    """A writer goes past every condemned generation until one is free."""
    (name,) = (publish(backend, LARGE), blobs(backend))[1]
    condemn(backend, *(f"{name}~{n}" if n else name for n in range(5)))
    commit = publish(backend, LARGE)
    assert [ref.generation for ref in commit.entry.manifest.blobs] == [5]
    assert value(backend) == {"a": LARGE.tolist()}


def test_the_winners_blobs_are_rescued_with_ones_own(backend):
    """Who adopts an entry whose blobs are condemned replaces it by what it computed itself."""
    first = publish(backend, LARGE)
    condemn(backend, *blobs(backend))
    second = publish(backend, OTHER)
    assert not second.adopted
    assert second.entry.manifest.nonce != first.entry.manifest.nonce
    assert value(backend) == {"a": OTHER.tolist()}


def test_endless_condemnation_is_told(backend):
    """Where a tombstone forbids every name the commit fails, naming the tombstones to look at."""
    (name,) = (publish(backend, LARGE), blobs(backend))[1]
    folder = layout.tombstones(Path(name).name)
    backend.put(f"{folder}broken", [b"not a tombstone"])
    with pytest.raises(BackendError, match=f"look at {folder}") as caught:
        publish(backend, LARGE)
    assert backend.url in str(caught.value)
    assert Path(name).name in str(caught.value)


def test_streams_are_rescued_too(backend):
    """A streamed column whose blob is condemned is copied from what was written."""
    from castore.table.result import Sink, collect

    def rows():
        yield LARGE
        yield OTHER

    made = writer(backend)
    with backend.upload() as upload:
        result = collect(rows(), 2000, "rows", Sink(lambda: upload))
        with at("commit.published", lambda: condemn(backend, *blobs(backend))):
            commit = made.publish(result.draft(made.algorithm, None), header("result"))
    (ref,) = commit.entry.manifest.blobs
    assert ref.generation == 1
    whole = np.concatenate([LARGE, OTHER])
    assert find_entry(backend, TABLE, KEY).arrays()["result"].tobytes() == whole.tobytes()


def large_draft():
    """A draft of more Zarr keys than a manifest lists itself."""
    columns = {f"c{n:04}": np.arange(n, n + 1) for n in range(1500)}
    made = Draft("xxh3-128")
    for name, array in columns.items():
        made.add(name, array)
    return made, header(*columns), {name: array.tolist() for name, array in columns.items()}


def test_the_map_of_many_keys_is_a_blob(backend):
    """An entry of 3,000 Zarr keys has a small manifest, and reads back from the blob it names."""
    made, head, expected = large_draft()
    manifest = writer(backend).publish(made, head).entry.manifest
    assert len(manifest.keys) > MAX_KEYS
    assert len(manifest.to_bytes()) < 150_000
    assert manifest.map == manifest.blobs[0]
    found = find_entry(backend, TABLE, KEY)
    assert found.manifest == manifest
    assert value(backend) == expected


def test_a_damaged_map_of_keys_is_damage(backend):
    """Where the blob of the keys is changed or gone, the entry is damaged, not empty."""
    made, head, expected = large_draft()
    ref = writer(backend).publish(made, head).entry.manifest.map
    data = bytearray(backend.get(ref.name))
    data[len(data) // 2] ^= 1
    backend.put(ref.name, [data])
    with pytest.raises(DamagedError, match=ref.digest):
        find_entry(backend, TABLE, KEY)
    backend.delete([ref.name])
    with pytest.raises(DamagedError, match=ref.digest):
        find_entry(backend, TABLE, KEY)
    writer(backend).publish(made, head)
    assert value(backend) == expected


def test_a_condemned_map_of_keys_is_put_under_another_name(backend):
    """When a collector condemns the map of the keys, the manifest names its next generation."""
    made, head, expected = large_draft()
    with at("commit.published", lambda: condemn(backend, *blobs(backend))):
        manifest = writer(backend).publish(made, head).entry.manifest
    assert manifest.map.generation == 1
    assert value(backend) == expected


def test_a_long_derivation_is_refused(backend):
    """Parameters that alone fill the manifest are refused: they are better passed as arrays."""
    long = {**header("a"), "derivation": {"params": "x" * MAX_NBYTES}}
    with pytest.raises(ResultError, match="pass long parameters as arrays"):
        writer(backend).publish(draft(np.arange(3)), long)
    assert value(backend) is None


@pytest.mark.parametrize(
    ("sizes", "inlined"),
    [
        ([INLINE_ONE - 20 - 256], 1),
        ([INLINE_ONE + 1], 0),
        ([2 * INLINE_ONE], 0),
        ([60_000] * 8, 4),
        ([1000] * 8, 8),
    ],
)
def test_small_values_are_inline(backend, sizes, inlined):
    """Values up to 64 KiB lie in the manifest, the smallest first, up to 256 KiB in all."""
    arrays = [np.full(size, number, "u1") for number, size in enumerate(sizes)]
    manifest = publish(backend, *arrays).entry.manifest
    inside = [chunk for chunk in manifest.chunks.values() if isinstance(chunk, bytes)]
    columns = [
        key for key, chunk in manifest.chunks.items() if isinstance(chunk, bytes) and key[0] != "_"
    ]
    assert len(columns) == inlined
    assert len(manifest.blobs) == len(sizes) - inlined
    assert sum(map(len, inside)) <= INLINE_ALL
    assert max(map(len, inside), default=0) <= INLINE_ONE
    assert value(backend) == {
        name: array.tolist() for name, array in zip("abcdefgh", arrays, strict=False)
    }


@given(st.lists(st.integers(0, 90_000), max_size=8))
def test_inline_values_keep_to_their_room(sizes):
    """Whatever the sizes, inline values are small, fit together, and none smaller is left out."""
    backend = MemoryBackend(uuid.uuid4().hex)
    arrays = [np.full(size, number, "u1") for number, size in enumerate(sizes)]
    manifest = publish(backend, *arrays).entry.manifest
    inside = [len(chunk) for chunk in manifest.chunks.values() if isinstance(chunk, bytes)]
    outside = [ref.length for ref in manifest.blobs]
    assert sum(inside) <= INLINE_ALL
    assert max(inside, default=0) <= INLINE_ONE
    assert not outside or min(outside) > min(INLINE_ONE, INLINE_ALL - sum(inside))
    assert len(manifest.to_bytes()) <= MAX_NBYTES


def test_many_writers_of_one_key_agree(backend):
    """Of writers that commit different values at once one wins, and all return what it wrote."""
    start = threading.Barrier(6)
    commits = {}

    def run(number):
        start.wait()
        commits[number] = publish(backend, np.full((1000, 30), number, "<f8"))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, commit in commits.items() if not commit.adopted]
    assert len(winners) == 1
    for commit in commits.values():
        assert (commit.entry.arrays()["a"] == winners[0]).all()


def test_origin_says_who_computed():
    """Who computed, on what, with which castore, and for how long, is recorded for people."""
    found = origin(1_500)
    assert found["compute_ns"] == 1_500
    assert set(found) == {"compute_ns", "host", "python", "system", "writer"}
    assert found["writer"].startswith("castore ")


def test_a_new_place_becomes_a_store(backend):
    """The first writer makes the format document, and everybody after it finds it."""
    assert read_format(backend) is None
    assert initialise(backend) == "xxh3-128"
    assert read_format(backend) == "xxh3-128"
    assert json.loads(backend.get("castore.json"))["flags"] == []
    before = backend.get("castore.json")
    assert initialise(backend) == initialise(backend, "xxh3-128") == "xxh3-128"
    assert backend.get("castore.json") == before


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
def test_the_blob_digest_is_chosen_once(backend, algorithm):
    """The digest a store was made with is every writer's, and another is refused by name."""
    assert initialise(backend, algorithm) == algorithm
    assert writer(backend).algorithm == algorithm
    with pytest.raises(FormatError, match=f"by {algorithm}, not xxh3-128: choose another place"):
        initialise(backend, "xxh3-128")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2 "),
        ({"flags": ["parts"]}, r"\['parts'\]"),
        ({"flags": None}, "flags None"),
        ({"digest_algorithm": "sha3"}, "'sha3'"),
        ({"digest_algorithm": ["sha256"]}, "sha256"),
    ],
)
def test_a_newer_store_is_refused(backend, changes, words):
    """A store of a newer format, flag or digest is refused by name, for reading and for writing."""
    document = {"digest_algorithm": "xxh3-128", "flags": [], "format": 1, **changes}
    backend.put("castore.json", [seal(document)])
    for act in (read_format, initialise, writer):
        with pytest.raises(FormatError, match=words) as caught:
            act(backend)
        assert "install a newer castore" in str(caught.value)
    assert [info.name for info in backend.list("")] == ["castore.json"]


@pytest.mark.parametrize("algorithm", ["xxh3-128", "sha256"])
@pytest.mark.parametrize("data", [b"", b"{}", b"not a document"])
def test_a_damaged_format_document_is_written_again(backend, algorithm, data, caplog):
    """A damaged castore.json is written again with the digest the manifests name, and told."""
    initialise(backend, algorithm)
    publish(backend, LARGE, algorithm=algorithm)
    before = backend.get("castore.json")
    backend.put("castore.json", [data])
    with pytest.raises(DamagedError, match=r"castore\.json"):
        read_format(backend)
    with caplog.at_level(logging.WARNING, "castore"):
        assert writer(backend).algorithm == algorithm
    assert backend.get("castore.json") == before
    assert algorithm in caplog.text


def test_a_damaged_format_document_of_an_empty_store_is_made_new(backend):
    """Where no manifest remembers a digest, the one asked for is taken, or else the usual one."""
    for asked, found in ((None, "xxh3-128"), ("sha256", "sha256")):
        backend.put("castore.json", [b"damaged"])
        assert initialise(backend, asked) == found
        backend.delete(["castore.json"])


def test_a_damaged_manifest_remembers_nothing(backend):
    """The digest is remembered by any manifest that is whole; damaged ones are passed over."""
    initialise(backend, "sha256")
    for key in (KEY, TABLE):
        publish(backend, LARGE, key=key, algorithm="sha256")
    first = min(layout.entry(TABLE, key) for key in (KEY, TABLE))
    backend.put(first, [b"damaged"])
    backend.put("castore.json", [b"damaged"])
    assert initialise(backend) == "sha256"


def test_a_damaged_format_document_of_a_newer_store_stays(backend):
    """Where a manifest is of a newer format the store is refused, not written as an old one."""
    backend.put(layout.entry(TABLE, KEY), [seal({"format": 2, "flags": []})])
    backend.put("castore.json", [b"damaged"])
    with pytest.raises(FormatError, match="format 2 "):
        initialise(backend)
    assert backend.get("castore.json") == b"damaged"


def test_a_writer_tells_trouble_before_the_work(tmp_path):
    """A place that cannot be written is told when the writer is made, not when it publishes."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tmp").write_bytes(b"a file where a folder should be")
    with pytest.raises((BackendError, ReadOnlyError), match="store"):
        writer(LocalBackend(tmp_path / "store"))


def test_a_table_document_is_written_once(backend):
    """The derivation of a table is written by its first writer and left alone by later ones."""
    writer(backend)
    before = backend.stat(layout.table(TABLE))
    Writer(backend, TABLE, {"function": "another"})
    assert backend.stat(layout.table(TABLE)) == before
