"""What a context holds is known to all code called from it, and to forked processes."""

from __future__ import annotations

import contextvars
import os
import threading

import hypothesis.strategies as st
from hypothesis import given

from castore.once.holding import Holding, holding, nested


def fresh(act):
    """Call `act` in a context that holds nothing; return what it returns."""
    return contextvars.Context().run(act)


def test_nothing_is_held_at_first():
    """A context holds nothing until something says so."""
    assert not fresh(holding)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_a_context_holds_until_all_is_over(turns):
    """However often, and in whatever order, things begin and end: what is not over is held."""

    def act():
        held = []
        for turn in turns:
            if turn < 2:
                held.append(Holding("lease" if turn else "claim"))
            elif held:
                held.pop(0 if turn == 2 else -1).over()
            assert holding() == bool(held)
            assert holding(claim=True) == any(one.kind == "claim" for one in held)

    fresh(act)


def test_another_thread_may_end_it():
    """What one thread began, another may end; it is no longer held in the first."""

    def act():
        held = Holding("lease")
        thread = threading.Thread(target=held.over)
        thread.start()
        thread.join()
        return holding()

    assert not fresh(act)


def test_threads_hold_nothing():
    """A thread that was started holds nothing of what its starter does."""
    found = []

    def act():
        Holding("lease")
        thread = threading.Thread(target=lambda: found.append(holding()))
        thread.start()
        thread.join()

    fresh(act)
    assert found == [False]


def test_forked_children_hold_what_their_parent_did():
    """A forked worker is in its parent's context, so it waits for nobody."""

    def act():
        Holding("lease")
        child = os.fork()
        if child == 0:
            os._exit(0 if holding() else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert fresh(act) == 0


def test_nested_work_counts_as_holding_anything():
    """Within `nested` a context counts as holding a lease and a claim; afterwards it does not."""

    def act():
        with nested():
            assert holding()
            assert holding(claim=True)
        return holding()

    assert not fresh(act)
