"""A file is renewed while its keeper works, and never again after he let go of it."""

from __future__ import annotations

import os
import threading

import pytest

from castore.backend.local import LocalBackend
from castore.canonical import seal, unseal
from castore.errors import BackendError
from castore.once import heartbeat
from castore.once.heartbeat import RENEW, TTL, Clock, Keeper, Sign

NAME = "folder/file"


def read(data):
    """Return the sign in a file, or None where there is none."""
    return Sign.of(unseal(data, NAME)) if data.startswith(b"{") else None


def keep(backend, label="a test"):
    """Create the file and keep it."""
    sign = Sign.begin(label)
    backend.create(NAME, [seal(sign.document())])
    return Keeper(backend, NAME, sign, lambda held: [seal(sign.document(held))], read)


def test_a_file_outlives_five_lost_renewals():
    """A keeper may miss renewals, as when a function holds the interpreter, and keep its file."""
    assert TTL >= 5 * RENEW


def test_a_renewal_says_how_long(backend, clock):
    """A renewed file is another object, and says for how long it was kept."""
    keeper = keep(backend)
    before = backend.stat(NAME)
    clock.time += 33.0
    assert keeper.renew()
    assert backend.stat(NAME).tag != before.tag
    assert read(backend.get(NAME)).held == 33.0


def test_a_thread_renews(backend, monkeypatch):
    """A keeper renews its file by itself, while whoever made it is busy."""
    monkeypatch.setattr(heartbeat, "RENEW", 0.001)
    keeper = keep(backend)
    first = backend.stat(NAME).tag
    while backend.stat(NAME).tag == first:
        pass
    assert keeper.let_go(lambda: backend.delete([NAME]))
    assert backend.get(NAME) is None


def test_a_thread_ends_when_there_is_nothing_to_renew():
    """What is called every so often is called until it says no, or is told to stop."""
    called = threading.Semaphore(0)
    left = iter([True, True, False])

    def act():
        called.release()
        return next(left)

    before = threading.active_count()
    Clock().every(0.001, act)
    for _ in range(3):
        called.acquire()
    stop = Clock().every(3600.0, act)
    stop()
    while threading.active_count() > before:
        pass
    assert not called.acquire(blocking=False)


def test_nothing_is_written_after_letting_go(backend, clock):
    """A renewal that comes late writes nothing any more, and nobody lets go twice."""
    keeper = keep(backend)
    assert keeper.let_go(lambda: backend.delete([NAME]))
    assert not keeper.renew()
    assert backend.get(NAME) is None
    assert not keeper.let_go(lambda: backend.put(NAME, [b"again"]))
    assert backend.get(NAME) is None


@pytest.mark.parametrize("other", [None, b"foreign", seal(Sign.begin("another's").document())])
def test_what_became_another_file_is_left_alone(backend, clock, other):
    """A file that is gone, or another's by now, is neither renewed nor touched at the end."""
    keeper = keep(backend)
    if other is None:
        backend.delete([NAME])
    else:
        backend.put(NAME, [other])
    assert not keeper.is_own()
    assert not keeper.renew()
    assert keeper.let_go(lambda: backend.put(NAME, [b"touched"]))
    assert backend.get(NAME) == other


def test_trouble_is_survived(backend, clock, monkeypatch):
    """A renewal that fails is tried again the next time; a failing end leaves the file to age."""
    keeper = keep(backend)
    first = backend.stat(NAME)

    def fail(*_, **__):
        raise BackendError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "put", fail)
        assert keeper.renew()
        assert backend.stat(NAME) == first
    assert keeper.renew()
    assert backend.stat(NAME) != first
    monkeypatch.setattr(backend, "get", fail)
    assert keeper.let_go(fail)
    assert not keeper.renew()


def test_a_forked_child_neither_renews_nor_lets_go(tmp_path, monkeypatch):
    """A child has no renewing thread, and its letting go does nothing."""
    backend = LocalBackend(tmp_path)
    keeper = keep(backend)
    child = os.fork()
    if child == 0:
        acted = keeper.let_go(lambda: backend.delete([NAME]))
        os._exit(acted or threading.active_count() != 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keeper.is_own()
    assert keeper.let_go(lambda: backend.delete([NAME]))


def test_labels_are_cut():
    """However long the name of what is computed, the file stays small; nothing else is lost."""
    sign = Sign.begin("é" * 100_000)
    assert len(seal(sign.document())) < 4096
    assert Sign.of(sign.document(1.5)) == Sign(sign.nonce, sign.owner, sign.label, 1.5)
