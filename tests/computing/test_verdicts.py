"""Where it is kept that a function computes row by row."""

from __future__ import annotations

import numpy as np
import pytest

from castore.backend.memory import MemoryBackend
from castore.canonical import seal, unseal
from castore.computing.verdicts import Verdict, Verdicts
from castore.identity.function import describe_function
from castore.identity.request import identify_loader

YES = Verdict(rowwise=True, by="probe", why="32 rows agreed")
NO = Verdict(rowwise=False, by="audit", why="an audit found that x differed")


def request_of(fn=np.copy, samples=None, **what):
    """Identify a call."""
    samples = np.arange(4) if samples is None else samples
    return identify_loader(describe_function(fn, "s", model=None, **what), samples)


@pytest.fixture
def backend():
    """Return an empty place."""
    backend = MemoryBackend("verdicts")
    backend.delete([info.name for info in backend.list("")])
    return backend


def test_a_verdict_is_found_for_the_table_and_code_it_was_made_for(backend):
    """Whatever rows are asked for; not for another version, nor for another code."""
    Verdicts(backend).keep(request_of(), YES, writing=True)
    assert Verdicts(backend).known(request_of(samples=np.arange(9)), "auto") == YES
    assert Verdicts(backend).known(request_of(version=2), "auto") is None
    assert Verdicts(backend).known(request_of(lambda x: x + 1), "auto") is None


def test_a_verdict_against_stays(backend):
    """One that found a difference replaces what is there, and is not replaced by one for it."""
    Verdicts(backend).keep(request_of(), YES, writing=True)
    Verdicts(backend).keep(request_of(), NO, writing=True)
    Verdicts(backend).keep(request_of(), YES, writing=True)
    assert Verdicts(backend).known(request_of(), "auto") == NO


def only(backend):
    """Return the name of the only verdict."""
    (name,) = [info.name for info in backend.list("tables/") if "/rowwise/" in info.name]
    return name


def resealed(backend, **changes):
    """Change a verdict, whole."""
    document = unseal(backend.get(only(backend)), "it")
    backend.put(only(backend), [seal({**document, **changes})])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda backend: backend.put(only(backend), [b""]),
        lambda backend: backend.put(only(backend), [backend.get(only(backend))[:-9]]),
        lambda backend: backend.put(only(backend), [seal({"format": 1})]),
        lambda backend: backend.put(only(backend), [seal({"by": 1, "rowwise": True, "x": 2})]),
        lambda backend: resealed(backend, format=2),
        lambda backend: resealed(backend, table="0" * 32),
        lambda backend: resealed(backend, functions={"other": "code"}),
    ],
    ids=["empty", "cut", "bare", "foreign", "newer", "of another table", "of other code"],
)
def test_a_verdict_that_is_none_is_made_again(backend, spoil):
    """What is damaged, foreign or of a newer format says nothing, and gives way to a new one."""
    Verdicts(backend).keep(request_of(), YES, writing=True)
    spoil(backend)
    assert Verdicts(backend).known(request_of(), "auto") is None
    Verdicts(backend).keep(request_of(), YES, writing=True)
    assert Verdicts(backend).known(request_of(), "auto") == YES


def test_the_caller_counts_more_than_a_probe_and_less_than_an_audit(backend):
    """``rowwise=True`` holds against a failed probe, but not once an audit saw a difference."""
    probed = Verdict(rowwise=False, by="probe", why="x differed")
    request = request_of()
    assert Verdicts(backend).known(request, "auto") is None
    Verdicts(backend).keep(request, probed, writing=True)
    assert Verdicts(backend).known(request, "auto") == probed
    assert Verdicts(backend).known(request, True).rowwise
    Verdicts(backend).keep(request, NO, writing=True)
    assert Verdicts(backend).known(request, True) == NO


def test_what_cannot_be_written_is_remembered(backend):
    """Where nothing can be stored a verdict holds for as long as the store is open here."""
    here = Verdicts(backend)
    here.keep(request_of(), NO, writing=False)
    assert here.known(request_of(), "auto") == NO
    assert Verdicts(backend).known(request_of(), "auto") is None
    assert list(backend.list("")) == []
