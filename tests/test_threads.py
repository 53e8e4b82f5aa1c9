"""Work shared out among threads: all of it, each piece once, and no error lost."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from castore import threads
from castore.threads import take_turns


@pytest.mark.parametrize("processors", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_every_turn_is_taken_once(monkeypatch, processors, count):
    """Each turn is taken once, whatever the number of processors."""
    monkeypatch.setattr(threads, "_processors", lambda: processors)
    taken: deque[int] = deque()
    take_turns(taken.append, count)
    assert sorted(taken) == list(range(count))


def test_turns_are_taken_side_by_side(monkeypatch):
    """Two turns that wait for each other both end: they run in two threads."""
    monkeypatch.setattr(threads, "_processors", lambda: 2)
    met = threading.Barrier(2, timeout=60)
    take_turns(lambda number: met.wait() if number < 2 else None, 4)


def test_the_first_error_is_raised(monkeypatch):
    """An error reaches the caller, and no thread is left behind."""
    monkeypatch.setattr(threads, "_processors", lambda: 4)

    def turn(number):
        raise LookupError(number)

    before = threading.active_count()
    with pytest.raises(LookupError):
        take_turns(turn, 1000)
    assert threading.active_count() == before


def test_no_turn_is_begun_after_an_error(monkeypatch):
    """What one thread meets ends the work of the others."""
    monkeypatch.setattr(threads, "_processors", lambda: 2)
    met = threading.Barrier(2, timeout=60)
    failing: list[threading.Thread] = []
    taken: deque[int] = deque()

    def turn(number):
        taken.append(number)
        if threading.current_thread() is not threading.main_thread():
            failing.append(threading.current_thread())
            met.wait()
            raise LookupError(number)
        met.wait()
        failing[0].join()  # the other has met its error by now

    with pytest.raises(LookupError):
        take_turns(turn, 1000)
    assert len(taken) == 2
