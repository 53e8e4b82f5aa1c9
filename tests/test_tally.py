"""Counters summed over the processes of a machine: nothing lost, nothing twice, nothing broken."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore import tally
from castore.backend import mapping
from castore.stats import Stats

URL = "/a/store"
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@contextlib.contextmanager
def state_folder(folder):
    """Sums of their own in `folder`."""
    tally.flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield
        tally.flush()
        tally._process.counts.clear()
        tally._process.known.clear()
        tally._process.rested = 0.0


@pytest.fixture(autouse=True)
def _state(tmp_path):
    with state_folder(tmp_path / "state"):
        yield


@pytest.fixture
def at_once(monkeypatch):
    """Counts wait for no others."""
    monkeypatch.setattr(tally, "_PAUSE", 0.0)
    monkeypatch.setattr(tally, "_REST", 0)


def run(script, code=0):
    """Run a script in a process of its own; `count` adds to the store's counters there."""
    head = f"from castore import tally\ncount = tally.recorder({URL!r}).add\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr


def in_child(action):
    """Fork, do something, and end without further ado; return how that ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


@contextlib.contextmanager
def held():
    """The file, locked by somebody else."""
    connection = sqlite3.connect(tally.path(), isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN EXCLUSIVE")
        yield


COUNTS = st.dictionaries(
    st.sampled_from(["hits", "saved_ns", "misses.absent", "uncached.off"]), st.integers(1, 1 << 40)
)


@settings(max_examples=30)
@given(st.lists(st.lists(COUNTS, max_size=3), max_size=4))
def test_the_sum_is_of_what_all_processes_added(processes):
    """What a machine did is, counter by counter, the sum of what its processes added."""
    with tempfile.TemporaryDirectory() as folder, state_folder(folder):
        children = []
        for batches in processes:
            if child := os.fork():
                children.append(child)
                continue
            count = tally.recorder(URL).add
            for batch in batches:
                for name, amount in batch.items():
                    count(name, amount)
                while tally._process.counts:
                    tally.flush()
            os._exit(0)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
        expected = Counter()
        for batch in (batch for batches in processes for batch in batches):
            expected.update(batch)
        found = tally.machine(URL)
        assert found.stats == Stats.of(expected)
        assert found.processes == sum(any(batches) for batches in processes)
        assert math.isnan(found.since) == (not expected)


def test_processes_that_add_at_once_lose_nothing():
    """Eight processes, each adding a hundred times as fast as it can, lose no count."""
    script = f"""
        from castore import tally
        tally._PAUSE, tally._REST = 0.0, 0
        count = tally.recorder({URL!r}).add
        for _ in range(100):
            count("hits")
        while tally._process.counts:
            tally.flush()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    processes = [subprocess.Popen(command) for _ in range(8)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 8
    assert (tally.machine(URL).stats, tally.machine(URL).processes) == (Stats(hits=800), 8)


def test_threads_lose_nothing(at_once):
    """Counts of several threads are each added once, whichever thread adds them."""
    count = tally.recorder(URL).add
    threads = [
        threading.Thread(target=lambda: [count("hits") for _ in range(100)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.machine(URL).stats == Stats(hits=800)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1)],
    ids=["", "exit", "error"],
)
def test_what_waits_is_added_at_the_end(ending, code):
    """However a process comes to its end, what it counted is added then."""
    run(f"count('hits', 5)\n{ending}", code)
    assert tally.machine(URL).stats == Stats(hits=5)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_are_counted(method):
    """A child of multiprocessing adds what it counted, and nothing of what its parent had."""
    script = f"""
        import multiprocessing, sys

        def child():
            tally.recorder({URL!r}).add("hits", 3)

        if __name__ == "__main__":
            count("commits", 7)
            process = multiprocessing.get_context({method!r}).Process(target=child)
            process.start()
            process.join()
            sys.exit(process.exitcode)
    """
    head = f"from castore import tally\ncount = tally.recorder({URL!r}).add\n"
    with tempfile.TemporaryDirectory() as folder:  # spawned children import the main module
        path = Path(folder) / "script.py"
        path.write_text(head + textwrap.dedent(script))
        subprocess.run([sys.executable, path], check=True, timeout=120)
    found = tally.machine(URL)
    assert (found.stats, found.processes) == (Stats(hits=3, commits=7), 2)


def test_a_forked_child_leaves_its_parents_counts_alone():
    """What waits when a process forks is added once, by the parent; the child adds its own."""
    count = tally.recorder(URL).add
    count("hits", 3)

    def work():
        tally.flush()
        count("commits", 4)
        tally.flush()

    assert in_child(work) == 0
    with contextlib.closing(sqlite3.connect(tally.path())) as connection:
        found = dict(connection.execute("SELECT name, amount FROM counts"))
    assert (found.get("hits"), found["commits"]) == (None, 4)
    assert tally.machine(URL).stats == Stats(hits=3, commits=4)


def test_a_forked_child_may_count_while_its_parent_does():
    """A child counts although another thread of its parent was counting when it was forked."""
    inside, leave = threading.Event(), threading.Event()
    count = tally.recorder(URL).add

    class Slow(str):
        __slots__ = ()

        def __hash__(self):
            inside.set()
            leave.wait()
            return hash(str(self))

    thread = threading.Thread(target=tally._process.add, args=(URL, Slow("hits"), 1))
    thread.start()
    inside.wait()

    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        count("commits")
        os._exit(0)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_no_process_forks_in_the_middle_of_a_transaction():
    """A fork waits until the transaction of another thread has ended, so no child inherits one."""
    count = tally.recorder(URL).add
    count("hits")
    tally.flush()
    count("hits")
    with held():
        thread = threading.Thread(target=tally.flush)
        thread.start()
        while not tally._process.adding.locked():
            os.sched_yield()
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert not tally._process.adding.locked()
        os.waitpid(child, 0)
    thread.join()
    assert tally.machine(URL).stats == Stats(hits=2)


def test_a_killed_process_loses_only_what_waited():
    """Of a process that is killed, what had been added stays, and what waited is lost."""
    run(
        """
        import os, signal
        count("hits", 5)
        tally.flush()
        count("hits", 7)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        -signal.SIGKILL,
    )
    assert tally.machine(URL).stats == Stats(hits=5)


def test_a_process_killed_in_a_transaction_blocks_nobody():
    """The transaction of a process that is killed in its middle counts nothing, and is over."""
    count = tally.recorder(URL).add
    count("hits", 2)
    tally.flush()
    run(
        """
        import os, signal
        count("hits", 40)
        def work(connection, add=tally._add):
            connection.execute("UPDATE counts SET amount = amount + 1000")
            connection.execute("PRAGMA cache_spill = 1")
            os.kill(os.getpid(), signal.SIGKILL)
        tally._transact(tally.path(), work, 1)
        """,
        -signal.SIGKILL,
    )
    count("hits", 1)
    assert tally.machine(URL).stats == Stats(hits=3)


def added():
    """What has been added so far, without what waits."""
    if not tally.path().exists():
        return {}
    with contextlib.closing(sqlite3.connect(tally.path())) as connection:
        found = dict(connection.execute("SELECT name, amount FROM counts"))
    return {name: amount for name, amount in found.items() if name in ("hits", "commits")}


def test_counts_wait_for_a_pause(monkeypatch):
    """Counts wait in memory until the first has waited long enough; then all are added."""
    monkeypatch.setattr(tally, "_PAUSE", 1e6)
    count = tally.recorder(URL).add
    for _ in range(100):
        count("hits")
    assert added() == {}
    tally._process.due = time.monotonic()  # as if that long had passed
    count("commits")
    assert added() == {"hits": 100, "commits": 1}
    count("commits")
    assert added() == {"hits": 100, "commits": 1}


def test_who_was_kept_waiting_does_not_ask_again_soon(monkeypatch):
    """After an attempt that took long, the next one is due a hundred times later."""
    monkeypatch.setattr(tally, "_PAUSE", 0.0)
    count = tally.recorder(URL).add
    count("hits")
    with held():
        tally._process.rested = 0.0
        count("hits")
        assert tally._process.due - time.monotonic() > 90 * tally._BRIEFLY
        count("hits")
    assert added() == {"hits": 1}
    assert tally.machine(URL).stats == Stats(hits=3)


def test_a_locked_file_is_done_without(monkeypatch):
    """While somebody else locks the file nothing is raised, and what was counted waits."""
    monkeypatch.setattr(tally, "_PATIENTLY", 0.05)
    count = tally.recorder(URL).add
    count("hits", 2)
    tally.flush()
    with held():
        count("hits", 3)
        tally.flush()
        assert "locked" in tally.machine(URL).trouble
        assert "locked" in tally.forget(URL).trouble
    assert tally.machine(URL).stats == Stats(hits=5)


def test_a_place_that_cannot_be_written_is_done_without(tmp_path):
    """Where there can be no file nothing is raised, neither while a process runs nor at its end."""
    (tmp_path / "state").write_text("")
    tally.recorder(URL).add("hits")
    tally.flush()
    assert tally.machine(URL).stats == Stats()
    run("count('hits')")


def test_who_asks_is_told_what_is_in_the_way():
    """Where sums cannot be read, what is in the way is told with its place."""
    tally.path().mkdir(parents=True)
    assert tally.machine(URL).trouble.startswith(f"{tally.path()}: ")


def damaged(data, draw):
    """Draw what may have become of the bytes of a file."""
    kind = draw(st.sampled_from(["cut", "flipped", "other"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data) - 1))]
    if kind == "other":
        return draw(st.binary(max_size=2000))
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 20))):
        position = draw(st.integers(0, len(data) - 1) | st.integers(0, 100))
        data[position] ^= draw(st.integers(1, 255))
    return bytes(data)


@settings(max_examples=300)
@given(st.data())
def test_damage_is_done_without(data):
    """Whatever became of the file, counting and asking go on without an error."""
    with tempfile.TemporaryDirectory() as folder, state_folder(folder):
        count = tally.recorder(URL).add
        count("hits", 3)
        tally.flush()
        tally.path().write_bytes(damaged(tally.path().read_bytes(), data.draw))
        count("commits", 4)
        tally.flush()
        found = tally.machine(URL)
        assert isinstance(found.stats, Stats)
        tally.forget(URL)


@pytest.mark.parametrize("content", [b"no database" * 100, b"", "other tables"])
def test_what_is_no_such_database_is_begun_anew(content):
    """A file that is no database, an empty one or one with other tables gives way to a new one."""
    count = tally.recorder(URL).add
    count("hits", 3)
    tally.flush()
    if isinstance(content, bytes):
        tally.path().write_bytes(content)
    else:
        tally.path().unlink()
        with contextlib.closing(sqlite3.connect(tally.path())) as connection:
            connection.execute("CREATE TABLE counts (moon)")
    count("commits", 4)
    tally.flush()
    assert tally.machine(URL).stats == Stats(commits=4)


def test_what_is_no_count_is_skipped():
    """Amounts that are no integers and names that are no text are not told, and break nothing."""
    count = tally.recorder(URL).add
    count("hits", 3)
    tally.flush()
    with contextlib.closing(sqlite3.connect(tally.path(), isolation_level=None)) as connection:
        for name, amount in [
            ("'commits'", "'many'"),
            ("'waits'", "1.5"),
            ("CAST(x'ff' AS TEXT)", 1),
        ]:
            connection.execute(
                f"INSERT INTO counts VALUES (?, {name}, {amount})", [os.fsencode(URL)]
            )
    assert tally.machine(URL).stats == Stats(hits=3)


def test_a_file_begun_anew_is_left_alone():
    """Processes that find damage at once do not throw away what one of them began anew."""
    tally.path().parent.mkdir(parents=True)
    count = tally.recorder(URL).add
    for _ in range(15):
        tally.path().write_bytes(b"no database" * 1000)
        gate, opener = os.pipe()
        children = []
        for _ in range(6):
            if child := os.fork():
                children.append(child)
                continue
            os.close(opener)
            count("hits")
            os.read(gate, 1)  # until all are there
            while tally._process.counts:
                tally.flush()
            os._exit(0)
        os.close(opener)
        os.close(gate)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
        assert tally.forget(URL).stats == Stats(hits=6)


def test_a_file_begun_anew_with_the_same_inode_is_left_alone():
    """Who saw damage does not throw away a new file that was given the inode of the old one."""
    place = tally.path()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no database")
    seen = tally._which(place)
    while tally._which(place)[1] == seen[1]:  # the file system's clock ticks coarsely
        place.unlink()
        place.write_bytes(b"new")
    tally._discard(place, seen)
    assert place.read_bytes() == b"new"
    tally._discard(place, tally._which(place))
    assert not place.exists()


def test_nothing_is_summed_on_a_network_file_system(monkeypatch):
    """Where the state folder is on a network file system no file is made, and one is told why."""
    kind = mapping._file_system(tally.path().parent)
    monkeypatch.setattr(mapping, "_UNSAFE", frozenset([kind]))
    tally._is_near.cache_clear()
    try:
        tally.recorder(URL).add("hits")
        tally.flush()
        assert not tally.path().parent.exists()
        assert "network file system" in tally.machine(URL).trouble
    finally:
        tally._is_near.cache_clear()


def test_stores_in_memory_are_not_summed():
    """A store in memory is one process's own: its recorder counts for that process alone."""
    recorder = tally.recorder("memory://mine")
    recorder.add("hits")
    tally.flush()
    assert recorder.snapshot() == Stats(hits=1)
    assert not tally.path().exists()


def test_stores_are_summed_apart():
    """Each store has sums of its own, by URL, in whatever bytes its folder is named."""
    urls = [URL, "/another", "/not utf-8 \udcff"]
    for number, url in enumerate(urls):
        tally.recorder(url).add("hits", number + 1)
    assert [tally.machine(url).stats for url in urls] == [Stats(hits=n) for n in (1, 2, 3)]


def test_several_recorders_of_one_store_count_together():
    """Recorders of one URL each tell their own counts, and their sum is the machine's."""
    recorders = [tally.recorder(URL) for _ in range(3)]
    for recorder in recorders:
        recorder.add("hits")
    assert [recorder.snapshot().hits for recorder in recorders] == [1, 1, 1]
    assert (tally.machine(URL).stats.hits, tally.machine(URL).processes) == (3, 1)


def test_forgetting_begins_anew():
    """What is forgotten is told once more; then counts begin at nothing, of this store alone."""
    mine, other = tally.recorder(URL), tally.recorder("/another")
    mine.add("hits", 3)
    other.add("hits", 2)
    before = tally.machine(URL)
    assert tally.forget(URL) == before
    assert tally.machine(URL).stats == Stats()
    assert tally.machine("/another").stats == Stats(hits=2)
    mine.add("hits")
    after = tally.machine(URL)
    assert (after.stats, after.processes) == (Stats(hits=1), 1)
    assert after.since > before.since


def test_asking_makes_no_file():
    """Where nothing was counted, asking says so and leaves nothing behind."""
    found = tally.machine(URL)
    assert (found.stats, found.processes, found.trouble) == (Stats(), 0, "")
    assert math.isnan(found.since)
    assert not tally.path().parent.exists()


def test_since_is_when_counting_began():
    """`since` is the moment of the first addition, and stays."""
    before = time.time()
    tally.recorder(URL).add("hits")
    first = tally.machine(URL).since
    assert before <= first <= time.time()
    run("count('hits')")
    found = tally.machine(URL)
    assert (found.since, found.processes) == (first, 2)


def test_only_adding_loads_the_database():
    """A count alone loads neither SQLite nor what finds the folder."""
    run(
        """
        import sys
        count("hits")
        assert not {"sqlite3", "platformdirs"} & sys.modules.keys()
        """
    )


def test_an_interrupt_loses_nothing():
    """Ctrl-C while counts are added reaches the caller, and the counts are added later."""
    run(
        """
        import sys
        pending = [KeyboardInterrupt]
        def hook(event, arguments):
            if event == "sqlite3.connect" and pending:
                raise pending.pop()
        sys.addaudithook(hook)
        count("hits", 5)
        try:
            tally.flush()
        except KeyboardInterrupt:
            pass
        else:
            raise SystemExit(9)
        """
    )
    assert tally.machine(URL).stats == Stats(hits=5)


def test_a_signal_handler_may_count():
    """A count that interrupts an addition in its thread waits for nobody, and is added later."""
    run(
        """
        import sys
        tally._PAUSE = 0.0
        def hook(event, arguments):
            if event == "sqlite3.connect":
                count("commits")
        sys.addaudithook(hook)
        class Interrupted(str):
            def __hash__(self):  # asked for while the locks are held
                count("commits")
                return hash(str(self))
        count(Interrupted("hits"), 5)
        """
    )
    found = tally.machine(URL).stats
    assert found.hits == 5
    assert found.commits >= 1
