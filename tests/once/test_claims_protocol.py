"""The order of claims under every kind of interleaving: the code itself, step by step."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from castore.once import claims as claims_module
from castore.once.claims import Claims
from castore.once.lease import TTL, nested

ROWS = 5
SCOPE = "0123456789abcdef" * 2

# Shorter than others can be late, and longer than a file lives that is not renewed.
durations = st.sampled_from([5.0, TTL + 50.0])
schedules = st.lists(st.integers(0, 11), max_size=160)
needs = st.lists(
    st.sets(st.integers(0, ROWS - 1), min_size=1).map(frozenset), min_size=2, max_size=4
)


def happening(*most):
    """Strategy for what happens to which processes at which steps; `most` is how often what."""
    lists = [
        st.lists(st.tuples(st.integers(0, 120), st.just(what), st.integers(0, 3)), max_size=count)
        for what, count in most
    ]
    return st.tuples(*lists).map(lambda found: [event for events in found for event in events])


def ids(rows):
    """Row ids, uint8 (n, 16), of small numbers."""
    found = np.zeros((len(rows), 16), np.uint8)
    found[:, 0] = sorted(rows)
    return found


def rows_of(row_ids):
    """Return what `ids` was given."""
    return {int(row[0]) for row in row_ids}


class Requests:
    """Requests for rows of one table; who computed what."""

    def __init__(self, world, needs, raising, seconds):
        self.world = world
        self.needs = needs
        self.raising = raising
        self.seconds = seconds
        self.computed = Counter()
        self.in_vain = Counter()

    def committed(self):
        """Look which rows are there."""
        names = [info.name for info in self.world.backend.list("rows/")]
        return {int(name.removeprefix("rows/")) for name in names}

    def ask(self, process):
        """Do what a request does until all its rows are there."""
        needs = self.needs[process.number]
        while missing := needs - self.committed():
            with Claims(SCOPE).claim(ids(missing), "a test") as claim:
                lower = set().union(*(rows_of(one.row_ids) for one in claim.lower()))
                if not self.compute(process, missing - lower - self.committed()):
                    return
            claim.wait_for_any(ids(needs - self.committed()))

    def compute(self, process, rows):
        """Compute for so many seconds, then fail, or commit all."""
        self.computed.update(rows)
        self.in_vain.update(rows)
        if rows:
            self.world.pause(self.seconds)
            if process.number in self.raising:
                return False
        for row in rows:
            self.world.backend.create(f"rows/{row}", [])
        self.in_vain.subtract(rows)
        return True


def run(simulation, needs, schedule, events, *, raising=(), seconds=TTL + 50.0):
    """Run one request for each of `needs`."""
    with pytest.MonkeyPatch.context() as patch:
        world = simulation.World(patch)
        patch.setattr(claims_module, "LocalBackend", lambda _: world.backend)
        requests = Requests(world, needs, raising, seconds)
        for _ in needs:
            world.start(requests.ask)
        world.run(schedule, events)
    return world, requests


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(
    needs=needs,
    schedule=schedules,
    events=happening(("kill", 2), ("late", 3)),
    raising=st.sets(st.integers(0, 3), max_size=1),
    seconds=durations,
)
def test_no_row_is_computed_twice(simulation, needs, schedule, events, *, raising, seconds):
    """Of overlapping requests only rows whose owner was killed or failed are computed again.

    Nobody waits for ever, and who lives has all his rows in the end.
    """
    world, requests = run(simulation, needs, schedule, events, raising=raising, seconds=seconds)
    for row, count in requests.computed.items():
        assert count <= 1 + requests.in_vain[row]
    there = {int(i.name.removeprefix("rows/")) for i in world.backend.real.list("rows/")}
    for process, needed in zip(world.processes, needs, strict=True):
        if not process.killed and process.number not in raising:
            assert needed <= there


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(needs=needs, schedule=schedules, stalls=happening(("stall", 1)))
def test_a_stalled_claim_holds_nobody_up(simulation, needs, schedule, stalls):
    """A process that stands still for longer than a claim lives is overtaken, and gets on."""
    _, requests = run(simulation, needs, schedule, stalls)
    assert all(count <= 2 for count in requests.computed.values())
    assert set(requests.computed) == set().union(*needs)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(schedule=schedules)
def test_nested_claims_do_not_wait_in_a_circle(simulation, schedule):
    """Two calls that each claim, while computing, what the other claimed, both come to an end."""
    with pytest.MonkeyPatch.context() as patch:
        world = simulation.World(patch)
        patch.setattr(claims_module, "LocalBackend", lambda _: world.backend)
        ended = []

        def ask(process):
            outer, inner = (SCOPE, SCOPE[::-1])[:: 1 if process.number else -1]
            with Claims(outer).claim(ids({1}), "outer") as claim:
                claim.lower()
                with Claims(inner).claim(ids({1}), "inner") as below:
                    below.lower()
                    below.wait_for_all(ids({1}), wait=3600.0)
            claim.wait_for_any(ids({1}), wait=3600.0)
            ended.append(world.time)

        world.start(ask)
        world.start(ask)
        world.run(schedule, [])
        assert len(ended) == 2
        assert max(ended) < 1000.0


@settings(max_examples=50)
@given(schedule=schedules)
def test_spawned_helpers_wait_for_nobody(simulation, schedule):
    """A process that works for a holder takes claims, and waits for none."""
    with pytest.MonkeyPatch.context() as patch:
        world = simulation.World(patch)
        patch.setattr(claims_module, "LocalBackend", lambda _: world.backend)

        def hold(_):
            with Claims(SCOPE).claim(ids({1}), "held"):
                world.pause(1000.0)

        def help_out(process):
            with nested(), Claims(SCOPE).claim(ids({1}), "nested") as claim:
                assert claim.lower() == []
                assert claim.wait_for_all(ids({1}))
            process.ended = world.time

        world.start(hold)
        world.start(help_out)
        world.run(schedule, [])
        assert world.processes[1].ended < 1000.0
