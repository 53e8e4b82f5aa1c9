"""One store, many users: threads, processes under every start method, racing writers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import castore

ROWS = np.arange(5000.0)


def only_entry(store):
    """Return the only entry of a store."""
    (info,) = store.entries()
    return store.entry(info.key)


def child(store, queue):
    """Read through a store handed over from another process, and write through it."""
    found = store.get(ROWS, suffix="given")
    store.put(ROWS, ROWS + os.getpid(), f"from a child {os.getpid()}")
    queue.put((float(found.sum()), store.stats().hits))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_store_goes_to_another_process(tmp_path, method):
    """A store works in a child of every start method, with counters of its own."""
    context = multiprocessing.get_context(method)
    store = castore.open(tmp_path)
    store.put(ROWS, ROWS * 2, "given")
    assert store.get(ROWS, suffix="given") is not None
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(store, queue))
    process.start()
    total, hits = queue.get()
    process.join()
    assert (total, process.exitcode) == ((ROWS * 2).sum(), 0)
    assert hits == (2 if method == "fork" else 1)
    assert len(list(store.entries())) == 2


def test_a_store_pickles_as_url_and_options(tmp_path):
    """A pickled store holds where it is and how it was opened, nothing else."""
    store = castore.open(tmp_path, mode="ro", on_error="compute", verify="always")
    again = pickle.loads(pickle.dumps(store))
    assert repr(again) == repr(store)
    assert len(pickle.dumps(store)) < 400
    assert again.stats() == castore.stats.Stats()


RACE = """
    import sys, os
    import numpy as np, castore
    store = castore.open(sys.argv[1])
    def compute(loader):
        print("ready", flush=True)
        sys.stdin.readline()
        return np.full((5000, 4), float(os.getpid()))
    value = store.get_or_compute(np.arange(5000.0), compute, "race", model=None,
                                 wait=False)
    print(value[0, 0], (value == value[0, 0]).all(), store.stats().disagreements, flush=True)
"""


def test_racing_writers_leave_one_value(tmp_path):
    """Eight processes that computed different values at once all return the one that stands."""
    script = textwrap.dedent(RACE)
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(8)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.communicate()[0].split() for racer in racers]
    assert len({value for value, _, _ in ends}) == 1
    assert all(uniform == "True" for _, uniform, _ in ends)
    assert sum(int(disagreed) for _, _, disagreed in ends) == 7
    stands = only_entry(castore.open(tmp_path)).arrays()["result"]
    assert stands[0, 0] == float(ends[0][0])


def test_threads_share_a_store(tmp_path):
    """Sixteen threads on one store each get the right value of each key."""
    store = castore.open(tmp_path)
    start = threading.Barrier(16)

    def work(n):
        start.wait()
        return [
            store.get_or_compute(ROWS, lambda rows, k=k: rows * k, "t", model=None, params={"k": k})
            for k in range(n % 4, n % 4 + 4)
        ]

    with ThreadPoolExecutor(16) as pool:
        for n, values in enumerate(pool.map(work, range(16))):
            for k, value in zip(range(n % 4, n % 4 + 4), values, strict=True):
                assert np.array_equal(value, ROWS * k)
    assert len(list(store.entries())) == 7
    assert store.stats().disagreements == 0


def test_a_reader_sees_old_or_new_while_a_writer_replaces(tmp_path):
    """While one thread replaces an entry over and over, every read is one value, whole."""
    store = castore.open(tmp_path)
    store.put(ROWS, np.zeros((5000, 8)), "s")
    stop = threading.Event()

    def replace():
        for value in range(1, 40):
            store.put(ROWS, np.full((5000, 8), float(value)), "s")
        stop.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = []
    while not stop.is_set():
        found = castore.open(tmp_path).get(ROWS, suffix="s")
        assert found is not None
        assert (found == found[0, 0]).all()
        seen.append(found[0, 0])
    writer.join()
    assert seen == sorted(seen)
