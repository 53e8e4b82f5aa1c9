"""The lease protocol under every kind of interleaving: the code itself, step by step."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from castore.once.lease import TTL, Lease, acquire, collect

KEY = "0123456789abcdef" * 2
ENTRY = "entry"

# Shorter than others can be late, and longer than a file lives that is not renewed.
durations = st.sampled_from([5.0, TTL + 50.0])
schedules = st.lists(st.integers(0, 11), max_size=120)


def happening(*most):
    """Strategy for what happens to which processes at which steps; `most` is how often what."""
    lists = [
        st.lists(st.tuples(st.integers(0, 90), st.just(what), st.integers(0, 4)), max_size=count)
        for what, count in most
    ]
    return st.tuples(*lists).map(lambda found: [event for events in found for event in events])


class Requests:
    """Requesters of one key; what each of them computed."""

    def __init__(self, world, seconds, raising=()):
        self.world = world
        self.raising = raising
        self.seconds = seconds
        self.computations = self.raised = self.most_at_once = 0
        self.computing = set()
        self.without = []

    def look(self):
        """Look for the entry."""
        return self.world.backend.get(ENTRY)

    def ask(self, process):
        """Do what a request does."""
        if self.look() is not None:
            return
        found = acquire(self.world.backend, KEY, "a test", self.look)
        if not isinstance(found, Lease):
            self.without += [process] if found is None else []
            return
        with found:
            self.compute(process)

    def compute(self, process):
        """Compute for so many seconds, then fail or commit."""
        self.computations += 1
        self.computing.add(process)
        at_once = [p for p in self.computing if not p.killed]
        self.most_at_once = max(self.most_at_once, len(at_once))
        try:
            self.world.pause(self.seconds)
            if process.number in self.raising:
                self.raised += 1
                return
            self.world.backend.create(ENTRY, [b"value"])
        finally:
            self.computing.discard(process)


@pytest.mark.parametrize("collectors", [0, 1])
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    schedule=schedules,
    events=happening(("kill", 2), ("stall", 1), ("late", 2)),
    raising=st.sets(st.integers(0, 3), max_size=1),
    seconds=durations,
)
def test_one_computation_and_one_more_for_each_mishap(
    simulation, collectors, schedule, events, *, raising, seconds
):
    """Four requesters compute once, and once more at most for each death, stall or exception.

    Nobody waits for ever, none computes beside another unless one was stalled, the value is
    there in the end, and what the dead leave can be collected.
    """
    with pytest.MonkeyPatch.context() as patch:
        world = simulation.World(patch)
        requests = Requests(world, seconds, raising)
        for _ in range(4):
            world.start(requests.ask)
        for _ in range(collectors):
            world.start(lambda _: collect(world.backend))
        world.run(schedule, events)
        killed = sum(process.killed for process in world.processes)
        stalls = sum(what == "stall" for _, what, _ in events)
        mishaps = killed + stalls + requests.raised
        assert requests.computations <= 1 + mishaps
        assert requests.without == []
        if not stalls and not any(p.killed for p in world.processes[4:]):
            assert requests.most_at_once <= 1
        if killed + requests.raised < 4:
            assert world.backend.real.get(ENTRY) == b"value"
        world.here.acting = world.processes[0]
        collect(world.backend.real)
        assert [i.name for i in world.backend.real.list("")] in ([ENTRY], [])


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    schedule=schedules,
    kill=st.integers(0, 30),
    lates=happening(("late", 3)),
)
def test_collecting_does_not_let_two_in(simulation, schedule, kill, lates):
    """Beside collectors that live, a death costs one more computation, and none at once."""
    with pytest.MonkeyPatch.context() as patch:
        world = simulation.World(patch)
        requests = Requests(world, 10.0)
        for _ in range(3):
            world.start(requests.ask)
        for _ in range(2):
            world.start(lambda _: collect(world.backend))
        world.run(schedule, [(kill, "kill", 0), *lates])
        assert requests.computations <= 1 + world.processes[0].killed
        assert requests.most_at_once <= 1
