"""When a file that another keeps is dead: by what one sees, never by what it claims of itself."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from castore.backend.local import LocalBackend
from castore.canonical import seal, unseal
from castore.once.heartbeat import SLACK, TTL, Sign
from castore.once.observer import Observer, pauses, rest
from castore.once.owner import Owner

NAME = "folder/file"


@dataclass
class Content:
    """What the files here say: a sign and no more."""

    sign: Sign


def read(data):
    """Return what a file says."""
    sign = Sign.of(unseal(data, NAME)) if data.startswith(b"{") else None
    return Content(sign) if sign else None


def write(backend, owner=None, held=0.0):
    """Write a file as its keeper would."""
    sign = replace(Sign.begin("a test"), owner=owner or Owner.here())
    backend.put(NAME, [seal(sign.document(held))])


def see(observer, backend):
    """Look at the file as a listing shows it now."""
    (info,) = backend.list("folder/")
    return observer.see(info)


def test_a_file_unchanged_for_its_time_is_dead(backend, clock):
    """A file is dead once the observer saw it unchanged for one TTL, and not a moment earlier."""
    write(backend)
    observer = Observer(backend, read, 1000)
    assert not see(observer, backend).is_dead()
    clock.time += TTL - 0.01
    assert not see(observer, backend).is_dead()
    clock.time += 0.01
    assert see(observer, backend).is_dead()


def test_a_renewed_file_lives(backend, clock):
    """A file that is written again and again never dies, also if it says the same."""
    observer = Observer(backend, read, 1000)
    for _ in range(10):
        write(backend)
        assert not see(observer, backend).is_dead()
        clock.time += TTL / 2
        assert not see(observer, backend).is_dead()


@pytest.mark.parametrize(("age", "dead"), [(TTL + SLACK - 10, False), (TTL + SLACK + 10, True)])
def test_an_old_file_is_dead_at_first_sight(tmp_path, clock, age, dead):
    """A file older than one TTL and some slack, by the clock that dated it, is dead at once."""
    backend = LocalBackend(tmp_path)
    write(backend)
    written = time.time() - age
    os.utime(tmp_path / NAME, (written, written))
    sight = see(Observer(backend, read, 1000), backend)
    assert sight.is_dead() == dead
    clock.time += 20
    assert sight.is_dead()


def test_the_time_in_between_counts(tmp_path, clock):
    """What passes between asking the server's time and seeing a file is not taken for its age."""
    backend = LocalBackend(tmp_path)
    observer = Observer(backend, read, 1000)
    write(backend)
    see(observer, backend)
    clock.time += 1000.0
    write(backend)
    assert not see(observer, backend).is_dead()


def test_a_file_from_the_future_dies_like_any_other(tmp_path, clock):
    """A file dated a year ahead lives for one TTL of the observer's and no longer."""
    backend = LocalBackend(tmp_path)
    write(backend)
    ahead = time.time() + 365 * 86400
    os.utime(tmp_path / NAME, (ahead, ahead))
    observer = Observer(backend, read, 1000)
    assert not see(observer, backend).is_dead()
    clock.time += TTL
    assert see(observer, backend).is_dead()


def test_a_file_of_a_process_that_is_gone_is_dead_at_once(backend, clock, gone):
    """A file whose keeper is certainly gone is dead without any waiting."""
    write(backend, gone)
    assert see(Observer(backend, read, 1000), backend).is_dead()


BAD = {
    "empty": b"",
    "foreign": b"\x00\xffno lease of ours",
    "another document": seal({"hello": "world"}),
    "a later format": seal({**Sign.begin("x").document(), "format": 2}),
    "ill-typed": seal({**Sign.begin("x").document(), "held": "long", "label": 7}),
    "too large": b"{" + b"x" * 2000,
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_understood_dies_of_age(backend, clock, kind):
    """Whatever lies there, it is waited for one TTL and no longer, and names nobody."""
    backend.put(NAME, [BAD[kind]])
    observer = Observer(backend, lambda d: None if kind == "too large" else read(d), 1000)
    sight = see(observer, backend)
    assert (sight.owner, sight.content, sight.is_dead()) == (None, None, False)
    clock.time += TTL
    assert sight.is_dead()


def test_a_file_too_large_is_not_read(backend, clock):
    """A file that cannot be what is expected is judged without being read."""
    backend.put(NAME, [bytes(1001)])

    def refuse(data):
        raise AssertionError(len(data))

    assert see(Observer(backend, refuse, 1000), backend).content is None


def test_a_file_that_may_not_be_read_dies_of_age(tmp_path, clock, monkeypatch):
    """A file without permission to read it holds nobody up for longer than one TTL."""
    backend = LocalBackend(tmp_path)
    write(backend)
    if os.geteuid() == 0:  # who may read everything meets a failing disk instead
        from castore.errors import BackendError

        def fail(name):
            raise BackendError(name)

        monkeypatch.setattr(backend, "get", fail)
    else:
        Path(tmp_path / NAME).chmod(0)
    sight = see(Observer(backend, read, 1000), backend)
    assert (sight.content, sight.is_dead()) == (None, False)
    clock.time += TTL
    assert sight.is_dead()


def test_what_is_in_the_way_and_not_listed_dies_of_age(backend, clock):
    """Something that no listing shows is waited for one TTL, however often it is looked for."""
    observer = Observer(backend, read, 1000)
    assert not observer.see_nothing(NAME).is_dead()
    clock.time += TTL / 2
    assert not observer.see_nothing(NAME).is_dead()
    clock.time += TTL / 2
    assert observer.see_nothing(NAME).is_dead()


def test_what_is_forgotten_is_seen_anew(backend, clock):
    """A file is remembered until it is not among those still of interest."""
    write(backend)
    observer = Observer(backend, read, 1000)
    see(observer, backend)
    clock.time += TTL
    observer.forget_others([NAME, "another"])
    assert see(observer, backend).is_dead()
    observer.forget_others(["another"])
    assert not see(observer, backend).is_dead()


def test_waiting_says_whom_one_waits_for(tmp_path, clock):
    """Who waits is told who computes what, for how long, and how long he has waited himself."""
    backend = LocalBackend(tmp_path)
    write(backend, held=40.0)
    written = time.time() - 10
    os.utime(tmp_path / NAME, (written, written))
    sight = see(Observer(backend, read, 1000), backend)
    clock.time += 5
    told = sight.waiting(3.0)
    assert (told.owner, told.label, told.waited) == (Owner.here(), "a test", 3.0)
    assert 54.5 < told.held < 56


def test_pauses_grow_to_what_a_look_costs():
    """The first looks follow quickly; later ones every 0.2 seconds, or 2 where each costs more."""
    for near, longest in ((True, 0.2), (False, 2.0)):
        found = list(itertools.islice(pauses(near=near), 40))
        assert max(found[:2]) < 0.01
        assert longest / 2 < found[-1] <= longest
        assert len(set(found[-10:])) == 10  # not in step with others


def test_a_rest_ends_when_the_owner_is_gone(clock, gone):
    """A long rest is cut short within a fifth of a second of the owner's end; else it is whole."""
    rest(2.0, gone)
    assert sum(clock.paused) <= 0.2
    clock.paused.clear()
    rest(2.0, Owner.here())
    assert sum(clock.paused) == pytest.approx(2.0)
