"""The files of claims: what they say, and that none is lower than one that did not see it."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from castore.backend.local import LocalBackend
from castore.canonical import seal
from castore.errors import BackendError
from castore.once import numbered
from castore.once.heartbeat import TTL, Sign
from castore.once.numbered import Content, Folder

PREFIX = "boot/scope/"
ROWS = np.arange(48, dtype=np.uint8).reshape(3, 16)


def names(backend):
    """Names of all objects there are."""
    return [info.name for info in backend.list("")]


def claim(backend, rows=ROWS):
    """Make a claim; return its folder, its number, and what ends it."""
    folder = Folder(backend, PREFIX)
    number, content = folder.add(rows, "a test")
    return folder, number, folder.keep(number, content)


@given(rows=st.binary(max_size=160).map(lambda data: data[: len(data) // 16 * 16]), after=st.text())
def test_what_a_claim_says_is_read_back(rows, after):
    """A file says who claims which rows, after whom; newlines in row ids do no harm."""
    row_ids = np.frombuffer(rows, np.uint8).reshape(-1, 16)
    content = Content(Sign.begin("a\ntest"), after, row_ids)
    found = Content.read(b"".join(bytes(piece) for piece in content.pieces(7.0)))
    assert np.array_equal(found.row_ids, row_ids)
    assert (found.after, found.sign.nonce, found.sign.held) == (after, content.sign.nonce, 7.0)


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_flipped_byte_makes_it_unreadable(place, flip):
    """A damaged claim says nothing: no row is left to somebody who did not claim it."""
    data = bytearray(b"".join(bytes(p) for p in Content(Sign.begin("x"), "", ROWS).pieces()))
    data[place % len(data)] ^= flip
    assert Content.read(bytes(data)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"foreign",
        seal({"format": 1}) + b"\n",
        b"".join(bytes(p) for p in Content(Sign.begin("x"), "", ROWS).pieces())[:-16],
    ],
)
def test_what_is_no_claim_says_nothing(data):
    """An empty, foreign or cut file is no claim, and no error."""
    assert Content.read(data) is None


def test_numbers_go_up_and_files_go(backend):
    """Claims are numbered in their order; each file goes with its claim, at last the folder."""
    ends = []
    for expected in range(3):
        _, number, end = claim(backend)
        assert number == expected
        ends.append(end)
    assert names(backend) == [f"{PREFIX}{n:020}" for n in range(3)]
    for end in ends:
        assert end()
    assert names(backend) == []


def test_numbers_are_sorted_as_numbers(backend):
    """The eleventh claim is above the tenth."""
    for _ in range(11):
        _, number, _ = claim(backend)
    assert number == 10
    assert claim(backend)[1] == 11


def test_a_claim_sees_the_live_ones_below_it(backend):
    """A claim sees those made before it while they are kept, and none made after it."""
    first, low, end = claim(backend)
    second, high, _ = claim(backend, ROWS[:1])
    assert first.live(low) == []
    ((number, sight),) = second.live(high)
    assert number == low
    assert np.array_equal(sight.content.row_ids, ROWS)
    end()
    assert second.live(high) == []


def test_a_late_claim_is_made_again_above_the_others(backend, monkeypatch):
    """A number found free, and used and freed by another meanwhile, is not taken after all.

    Otherwise both would compute: the one above does not see the late one, nor it the one above.
    """
    real = backend.create
    between = []

    def others_first(name, *arguments, **options):
        if not between:
            between.append(None)
            _, _, end = claim(backend, ROWS[:1])
            between.append(claim(backend, ROWS[1:]))
            end()
        return real(name, *arguments, **options)

    monkeypatch.setattr(backend, "create", others_first)
    folder, number, _ = claim(backend)
    assert number > between[1][1]
    assert [n for n, _ in folder.live(number)] == [between[1][1]]
    assert len(names(backend)) == 2


def test_a_claim_keeps_its_number_when_others_follow_at_once(backend, monkeypatch):
    """Who sees others above that came after himself was in time."""
    real = backend.create

    def another_after(name, *arguments, **options):
        made = real(name, *arguments, **options)
        if name == f"{PREFIX}{0:020}":
            claim(backend)
        return made

    monkeypatch.setattr(backend, "create", another_after)
    assert claim(backend)[1] == 0
    assert len(names(backend)) == 2


def test_a_dead_claim_above_is_left_to_those_above_it(backend, monkeypatch, gone):
    """Only below one's own claim nobody can have the number of a dead one meanwhile."""
    real = backend.create

    def dead_after(name, pieces, **options):
        made = real(name, pieces, **options)
        first = Content.read(b"".join(bytes(piece) for piece in pieces))
        dead = Content(replace(Sign.begin("dead"), owner=gone), first.sign.nonce, ROWS)
        return made and real(f"{PREFIX}{1:020}", dead.pieces(), **options)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "create", dead_after)
        assert claim(backend)[1] == 0
    assert len(names(backend)) == 2
    assert claim(backend)[1] == 2
    assert names(backend) == [f"{PREFIX}{0:020}", f"{PREFIX}{2:020}"]


def test_a_claim_that_was_outrun_tries_the_next_number(backend, monkeypatch):
    """Of two that want one number the second gets the next, and sees the first."""
    real = backend.create
    first = []

    def another_first(name, *arguments, **options):
        if not first:
            first.append(None)
            first.append(claim(backend))
        return real(name, *arguments, **options)

    monkeypatch.setattr(backend, "create", another_first)
    folder, number, _ = claim(backend)
    assert number == 1
    assert [n for n, _ in folder.live(1)] == [0]


def test_a_failing_look_leaves_no_claim(backend, monkeypatch):
    """Where it cannot be told whether a claim is in turn, its file does not stay."""
    real = backend.list
    listed = []

    def fail_then(prefix):
        listed.append(prefix)
        if len(listed) == 2:
            raise BackendError("the disk is gone")
        return real(prefix)

    monkeypatch.setattr(backend, "list", fail_then)
    with pytest.raises(BackendError):
        claim(backend)
    assert names(backend) == []


@pytest.mark.parametrize("data", [b"", b"foreign", seal({"format": 1}) + b"\n"])
def test_bad_files_are_dropped_when_they_are_old(backend, clock, data):
    """A file that is no claim blocks nobody, is claimed above, and dies of age."""
    backend.put(f"{PREFIX}{7:020}", [data])
    folder, number, _ = claim(backend)
    assert number == 8
    assert [sight.content for _, sight in folder.live(number)] == [None]
    clock.time += TTL
    assert folder.live(number) == []


def test_other_names_are_left_alone(backend):
    """What has no number for a name is no claim, and stays."""
    backend.put(f"{PREFIX}README", [b"hello"])
    assert claim(backend)[1] == 0
    assert f"{PREFIX}README" in names(backend)


def test_what_was_left_long_ago_is_removed_once(tmp_path, monkeypatch):
    """The first claim of a process removes what other boots left more than a week ago."""
    monkeypatch.setattr(numbered, "_tidied", set())
    backend = LocalBackend(tmp_path)
    for name, days in (("old boot/scope/0", 8), ("other boot/scope/0", 6)):
        backend.put(name, [b"left"])
        then = time.time() - days * 86400
        os.utime(tmp_path / name, (then, then))
    _, _, end = claim(backend)
    end()
    assert names(backend) == ["other boot/scope/0"]
    assert not (tmp_path / "old boot" / "scope").exists()
