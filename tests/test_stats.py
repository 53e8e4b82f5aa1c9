"""Counters of a process."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import castore
from castore.stats import COUNTERS, GROUPS, Recorder, Stats

NAMES = sorted({*COUNTERS, *(f"{group}.{reason}" for group in GROUPS for reason in "ab")})


def told(stats):
    """What a snapshot says, by the names counters are added under."""
    found = {name: getattr(stats, name) for name in COUNTERS if not name.endswith("_ns")}
    found["compute_ns"] = round(stats.compute_seconds * 1e9)
    found["saved_ns"] = round(stats.seconds_saved * 1e9)
    found["wait_ns"] = round(stats.wait_seconds * 1e9)
    for group in GROUPS:
        found |= {f"{group}.{reason}": n for reason, n in getattr(stats, group).items()}
    return {name: amount for name, amount in found.items() if amount}


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 10**6))))
def test_a_snapshot_has_the_sum_of_what_was_added(adds):
    """Each counter of a snapshot is the sum of the amounts added under its name."""
    recorder = Recorder()
    expected = Counter()
    for name, amount in adds:
        recorder.add(name, amount)
        expected[name] += amount
    assert told(recorder.snapshot()) == expected


def test_one_is_added_unless_said_otherwise():
    """A count without an amount is one."""
    recorder = Recorder()
    recorder.add("hits")
    recorder.add("misses.absent")
    assert recorder.snapshot() == Stats(hits=1, misses={"absent": 1})


def test_a_snapshot_stays_as_it_is():
    """Counts that come later do not change a snapshot taken before."""
    recorder = Recorder()
    recorder.add("misses.absent")
    before = recorder.snapshot()
    recorder.add("misses.absent")
    recorder.add("misses.forced")
    assert before.misses == {"absent": 1}


def test_reasons_are_in_order():
    """Reasons are told alphabetically, whichever came first."""
    assert list(Stats.of({"misses.b": 1, "misses.a": 2}).misses) == ["a", "b"]


def test_names_of_another_castore_are_skipped():
    """Counters that this version does not know say nothing, and break nothing."""
    assert Stats.of({"hits": 1, "moons": 2, "moons.full": 3, "hits.x": 4, "misses.": 5}) == Stats(1)


def test_the_hit_rate_is_of_all_requests():
    """The hit rate is hits among hits, partial hits and misses, and nothing before the first."""
    assert Stats().hit_rate is None
    assert Stats(hits=6, partial_hits=1, misses={"absent": 2, "forced": 1}).hit_rate == 0.6


def test_threads_lose_no_count():
    """Counts that several threads add at once are all in the sum."""
    recorder = Recorder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [recorder.add("hits") for _ in range(3000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert recorder.snapshot().hits == 24_000


def test_each_count_is_told_on():
    """Whoever wants to be told hears every count, with its amount."""
    heard = []
    recorder = Recorder(lambda what, amount: heard.append((what, amount)))
    recorder.add("hits")
    recorder.add("bytes_served", 41)
    assert heard == [("hits", 1), ("bytes_served", 41)]


def test_a_message_is_new_once():
    """Only the first of equal messages is the first."""
    recorder = Recorder()
    assert [recorder.first(message) for message in "aba"] == [True, True, False]


def test_a_signal_handler_may_count():
    """A count that interrupts another one in its thread does not wait for it for ever."""
    script = (
        "from castore.stats import Recorder\n"
        "recorder = Recorder()\n"
        "class Interrupted(str):\n"
        "    def __hash__(self):\n"  # asked for while the lock is held
        "        recorder.add('commits')\n"
        "        return hash(str(self))\n"
        "recorder.add(Interrupted('hits'))\n"
        "assert recorder.snapshot().commits >= 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_may_count():
    """A child counts although another thread of its parent was counting when it was forked."""
    recorder, inside, leave = Recorder(), threading.Event(), threading.Event()

    class Slow(str):
        __slots__ = ()

        def __hash__(self):
            inside.set()
            leave.wait()
            return hash(str(self))

    thread = threading.Thread(target=recorder.add, args=(Slow("hits"),))
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for ever
        recorder.add("commits")
        os._exit(0)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def names(argument):
    """Yield the names that an argument may be, of computed ones how they begin."""
    if isinstance(argument, ast.IfExp):
        yield from (*names(argument.body), *names(argument.orelse))
    elif isinstance(argument, ast.JoinedStr):
        yield from names(argument.values[0])
    else:
        yield argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)


def added_names(path):
    """Yield (line, name) for each counter that a module adds to."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("recorder.add"):
            yield from ((node.lineno, name) for name in names(node.args[0]))


def test_the_source_adds_to_counters_that_are_told():
    """No module adds to a counter that `Stats` does not tell of."""
    sources = Path(castore.__file__).parent.rglob("*.py")
    found = [(path, *place) for path in sources for place in added_names(path)]
    unknown = [
        f"{path}:{line} adds to {name}"
        for path, line, name in found
        if name not in COUNTERS and name.partition(".")[0] not in GROUPS
    ]
    assert found
    assert not unknown, "\n".join(unknown)
