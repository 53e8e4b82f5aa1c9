"""The row index: it says what the manifests of the table say, and costs a listing."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import layout
from castore.canonical import seal
from castore.identity.rows import from_integers
from castore.table.draft import Draft
from castore.table.index import Kin, RowIndex, folder
from castore.table.writer import Writer, initialise, origin

TABLE = "0123456789abcdef" * 2
KIN = Kin(TABLE, "ab" * 16, lambda manifest: manifest.origin["host"] != "strange")
KEYS = [f"{number:032x}" for number in range(6)]
NAMES = st.lists(st.integers(0, 25), max_size=12)
EVERY = np.arange(-1, 30)


def ids(names):
    """Row ids of integer names."""
    return from_integers("5a" * 16, np.array(names, np.int64))


def commit(backend, key, names, shape=(2,), dtype="<f4", *, aligned=True, host="here"):
    """Publish rows, replacing what was there."""
    initialise(backend)
    draft = Draft("xxh3-128")
    draft.add("result", np.zeros((len(names), *shape), dtype))
    if aligned:
        draft.add_rows(ids(names))
    header = {
        "table": TABLE,
        "key": key,
        "rows": len(names),
        "aligned": aligned,
        "form": {"array": "result"},
        "derivation": {"recorded": {"functions": {"fn": "code"}}},
        "origin": {**origin(7), "host": host},
    }
    Writer(backend, TABLE, {}).publish(draft, header, force=True)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Keep this machine's indexes in an empty folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def backend(tmp_path, state):
    """Yield an empty store."""
    return LocalBackend(tmp_path / "store")


def asked(index, names, **options):
    """Key and position of each of `names`; None where it is absent."""
    found = index.look_up(ids(names), **options)
    return [
        (found.entries[entry].key, position) if entry >= 0 else None
        for entry, position in zip(found.entry.tolist(), found.position.tolist(), strict=True)
    ]


class Counting:
    """A backend that counts what is asked of it."""

    def __init__(self, backend):
        self._backend, self.calls = backend, []

    def __getattr__(self, name):
        found = getattr(self._backend, name)
        if not callable(found):
            return found

        def counted(*args, **options):
            self.calls.append(name)
            return found(*args, **options)

        return counted


class Indexes(RuleBasedStateMachine):
    """Entries come, go, change and break; every index agrees with a dict."""

    @initialize()
    def begin(self):
        """Begin with an empty store."""
        self.backend = MemoryBackend(uuid.uuid4().hex)
        self.kept = RowIndex(self.backend, KIN)
        self.held = {}

    @rule(key=st.sampled_from(KEYS), names=NAMES, width=st.sampled_from([2, 2, 2, 3, 5]))
    def put(self, key, names, width):
        """Commit, or replace, an entry whose rows have one of a few shapes."""
        commit(self.backend, key, names, (width,))
        self.held[key] = (names, width)

    @rule(key=st.sampled_from(KEYS), names=NAMES)
    def put_strange(self, key, names):
        """Commit an entry that is not accepted."""
        commit(self.backend, key, names, host="strange")
        self.held.pop(key, None)

    @rule(key=st.sampled_from(KEYS), names=NAMES)
    def put_whole(self, key, names):
        """Commit an entry without a row a sample."""
        commit(self.backend, key, names, aligned=False)
        self.held.pop(key, None)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key):
        """Take an entry away."""
        self.backend.delete([layout.entry(TABLE, key)])
        self.held.pop(key, None)

    @rule(key=st.sampled_from(KEYS), data=st.binary(max_size=9))
    def damage(self, key, data):
        """Damage a manifest."""
        self.backend.put(layout.entry(TABLE, key), [data])
        self.held.pop(key, None)

    @rule(key=st.sampled_from(KEYS))
    def break_rows(self, key):
        """Write a manifest that is sound, and says what cannot be."""
        if key in self.held:
            name = layout.entry(TABLE, key)
            document = json.loads(self.backend.get(name))
            document["rows"] += 1
            del document["digest"]
            self.backend.put(name, [seal(document)])
            del self.held[key]

    @rule()
    def look_at_once(self):
        """Refresh before more changes come."""
        self.kept.refresh()

    @invariant()
    def agree(self):
        """Compare an old index, a new one, and one that begins with the file."""
        if not hasattr(self, "held") or len(self.held) % 2:  # not always: changes pile up
            return
        age = {
            key: (self.backend.stat(layout.entry(TABLE, key)).modified, key) for key in self.held
        }
        oldest_first = sorted(self.held, key=age.get)
        width = self.held[oldest_first[-1]][1] if oldest_first else None
        lending = [key for key in oldest_first if self.held[key][1] == width]
        expected = {}
        for key in lending:
            names = self.held[key][0]
            expected |= {name: (key, names.index(name)) for name in names}
        fresh = RowIndex(self.backend, KIN, kept=False)
        other = RowIndex(self.backend, KIN)
        for index in (self.kept, fresh, other):
            index.refresh()
            assert asked(index, EVERY) == [expected.get(name) for name in EVERY.tolist()]
            assert {entry.key for entry in index.entries} == set(lending)


TestIndexes = Indexes.TestCase
TestIndexes.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_an_entry_is_described(backend):
    """What a request wants to know of an entry that lends rows, the index says."""
    commit(backend, KEYS[0], [4, 5, 6], (2, 3), "<i8")
    commit(backend, KEYS[1], [7, 8], (2, 3), "<i8")
    index = RowIndex(backend, KIN)
    index.refresh()
    first, second = sorted(index.entries, key=lambda entry: entry.key)
    assert (first.key, first.rows, first.square, first.compute_ns) == (KEYS[0], 3, False, 7)
    assert (second.rows, second.square) == (2, True)
    assert first.schema.columns == {"result": ("int64", (2, 3))}
    assert first.schema.form == {"array": "result"}
    assert first.functions == second.functions
    assert RowIndex(backend, KIN).look_up(ids([4])).entries[0] == first


def test_square_entries_can_be_left_out(backend):
    """Without square entries a row counts as absent whose newest holder is square."""
    commit(backend, KEYS[0], [1, 2, 3])
    commit(backend, KEYS[1], [3, 4])
    index = RowIndex(backend, KIN)
    assert asked(index, [1, 3, 4, 9]) == [(KEYS[0], 0), (KEYS[1], 0), (KEYS[1], 1), None]
    assert asked(index, [1, 3, 4, 9], square=False) == [(KEYS[0], 0), None, None, None]


def test_an_unchanged_table_costs_a_listing(backend):
    """Refreshing what did not change lists the manifests and reads none; nor do other processes."""
    for number in range(4):
        commit(
            backend, KEYS[number], range(number, number + 5), host="here" if number else "strange"
        )
    commit(backend, KEYS[4], [50], aligned=False)
    RowIndex(backend, KIN).refresh()
    counting = Counting(backend)
    index = RowIndex(counting, KIN)
    for _ in range(3):
        index.refresh()
        assert asked(index, [6]) == [(KEYS[3], 3)]
    assert counting.calls == ["list"] * 3


def test_only_new_manifests_are_read(backend):
    """An addition costs a listing and the manifest that is new."""
    commit(backend, KEYS[0], range(10))
    counting = Counting(backend)
    index = RowIndex(counting, KIN)
    index.refresh()
    commit(backend, KEYS[1], [20])
    counting.calls.clear()
    index.refresh()
    assert sorted(counting.calls) == ["get", "list"]
    assert asked(index, [20, 3]) == [(KEYS[1], 0), (KEYS[0], 3)]


def test_damage_is_looked_at_once(backend):
    """A damaged manifest is left out, and not read again before it is written again."""
    commit(backend, KEYS[0], [1])
    backend.put(layout.entry(TABLE, KEYS[1]), [b"damage"])
    counting = Counting(backend)
    index = RowIndex(counting, KIN)
    index.refresh()
    index.refresh()
    assert counting.calls.count("get") == 2
    commit(backend, KEYS[1], [2])
    index.refresh()
    assert asked(index, [1, 2]) == [(KEYS[0], 0), (KEYS[1], 0)]


@pytest.mark.parametrize("newest", [False, True])
def test_damaged_row_ids_are_left_out(backend, newest):
    """An entry whose row ids were changed or are gone lends none; the others lend theirs."""
    keys = KEYS[:2] if newest else KEYS[1::-1]
    commit(backend, keys[0], range(5000))
    known = {info.name for info in backend.list(layout.BLOBS)}
    commit(backend, keys[1], range(4000, 10_000))
    (rows,) = (
        info for info in backend.list(layout.BLOBS) if info.name not in known and info.size > 96_000
    )
    data = bytearray(backend.get(rows.name))
    data[5000] ^= 1
    for change in ([data], None):
        backend.delete([rows.name]) if change is None else backend.put(rows.name, change)
        found = asked(RowIndex(backend, KIN, kept=False), [0, 4500, 9000])
        assert found == [(keys[0], 0), (keys[0], 4500), None]


def test_damage_met_while_building_anew(backend):
    """Row ids that break later are left out when a vanished entry has the index built anew."""
    commit(backend, KEYS[0], range(5000))
    (rows,) = (info for info in backend.list(layout.BLOBS) if info.size > 80_000)
    commit(backend, KEYS[1], [9000])
    commit(backend, KEYS[2], [9001])
    index = RowIndex(backend, KIN)
    index.refresh()
    backend.put(rows.name, [bytes(rows.size)])
    backend.delete([layout.entry(TABLE, KEYS[1])])
    index.refresh()
    assert asked(index, [0, 9000, 9001]) == [None, None, (KEYS[2], 0)]
    assert [entry.key for entry in index.entries] == [KEYS[2]]


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "folder", "foreign"])
def test_a_damaged_file_is_built_anew(backend, change, caplog):
    """Whatever happens to the file, the index says what the table has."""
    commit(backend, KEYS[0], range(10))
    RowIndex(backend, KIN).refresh()
    (path,) = folder().iterdir()
    data = bytearray(path.read_bytes())
    if change == "folder":
        path.unlink()
        path.mkdir()
    elif change == "foreign":
        path.write_bytes(b"something else, longer than a head and a seal" * 3)
    else:
        data[60] ^= 1
        path.write_bytes({"flip": data, "cut": data[:-20], "empty": b""}[change])
    with caplog.at_level(logging.DEBUG, "castore"):
        assert asked(RowIndex(backend, KIN), [3]) == [(KEYS[0], 3)]
    assert "built anew" in caplog.text
    if change != "folder":
        counting = Counting(backend)
        assert asked(RowIndex(counting, KIN), [3]) == [(KEYS[0], 3)]
        assert counting.calls == ["list"]  # the file was mended


def test_a_folder_that_cannot_be_had_is_done_without(backend, tmp_path, monkeypatch):
    """Where the index cannot be kept it is held in memory."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    commit(backend, KEYS[0], range(10))
    index = RowIndex(backend, KIN)
    for _ in range(2):
        index.refresh()
        assert asked(index, [3]) == [(KEYS[0], 3)]


def test_an_index_in_memory_leaves_no_file(backend):
    """``kept=False`` writes nothing."""
    commit(backend, KEYS[0], range(10))
    RowIndex(backend, KIN, kept=False).refresh()
    assert not folder().exists()


def test_kin_and_stores_have_files_of_their_own(backend, tmp_path):
    """Neither another kin of a table nor another store is answered from this one's file."""
    commit(backend, KEYS[0], range(10))
    nobody = Kin(TABLE, "cd" * 16, lambda _: False)
    assert asked(RowIndex(backend, KIN), [3]) == [(KEYS[0], 3)]
    assert asked(RowIndex(backend, nobody), [3]) == [None]
    assert asked(RowIndex(LocalBackend(tmp_path / "other"), KIN), [3]) == [None]
    assert asked(RowIndex(backend, KIN), [3]) == [(KEYS[0], 3)]


def test_a_file_is_not_written_for_every_row(backend):
    """A small addition is kept in memory; a sixteenth more rows, or many manifests, in the file."""
    commit(backend, KEYS[0], range(1000))
    index = RowIndex(backend, KIN)
    index.refresh()
    (path,) = folder().iterdir()
    written = path.stat().st_ino
    commit(backend, KEYS[1], [2000])
    index.refresh()
    assert asked(index, [2000]) == [(KEYS[1], 0)]
    assert path.stat().st_ino == written
    commit(backend, KEYS[2], range(3000, 3100))
    index.refresh()
    assert path.stat().st_ino != written


def test_answers_name_the_entries_they_are_of(backend):
    """What a look-up said still holds after a refresh that numbers entries anew."""
    commit(backend, KEYS[0], [1])
    commit(backend, KEYS[1], [2])
    index = RowIndex(backend, KIN)
    before = index.look_up(ids([2]))
    backend.delete([layout.entry(TABLE, KEYS[0])])
    index.refresh()
    assert before.entries[before.entry[0]].key == KEYS[1]
    assert asked(index, [1, 2]) == [None, (KEYS[1], 0)]


def grow(root, start, count):
    """In a process of its own: commit entries, and find each at once."""
    backend = LocalBackend(root)
    index = RowIndex(backend, KIN)
    for number in range(start, start + count):
        commit(backend, f"{number:032x}", [number, number + 1000])
        index.refresh()
        assert asked(index, [number]) == [(f"{number:032x}", 0)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_write_at_once_lose_nothing_of_the_store(backend, tmp_path, method):
    """Processes commit and keep the index at once; each, and a later one, finds every row."""
    context = multiprocessing.get_context(method)
    initialise(backend)
    processes = [
        context.Process(target=grow, args=(tmp_path / "store", start, 12))
        for start in (0, 100, 200)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    index = RowIndex(backend, KIN)
    index.refresh()
    names = [start + number for start in (0, 100, 200) for number in range(12)]
    assert asked(index, names) == [(f"{name:032x}", 0) for name in names]


def test_threads_share_an_index(backend):
    """Threads that commit, refresh and look up at once each find what they committed."""
    index = RowIndex(backend, KIN)
    failures = []
    initialise(backend)

    def work(start):
        try:
            for number in range(start, start + 10):
                commit(backend, f"{number:032x}", [number])
                index.refresh()
                if asked(index, [number]) != [(f"{number:032x}", 0)]:
                    failures.append(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_child_forked_during_a_refresh_can_refresh(backend):
    """A lock that was held when the process forked does not stop the child."""
    commit(backend, KEYS[0], [1])
    index = RowIndex(backend, KIN)
    with index._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)  # rather than wait for ever
            index.refresh()
            os._exit(0 if asked(index, [1]) == [(KEYS[0], 0)] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@given(names=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30))
def test_rows_come_from_their_first_position(names):
    """Of a row an entry has several times the first counts."""
    backend = MemoryBackend(uuid.uuid4().hex)
    commit(backend, KEYS[0], names + names[::-1])
    index = RowIndex(backend, KIN, kept=False)
    assert asked(index, names) == [(KEYS[0], names.index(name)) for name in names]
