"""Checks of a blob's parts: every byte counts, in any number of threads."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings

from castore import threads
from castore.blobs import parts
from castore.blobs.parts import MOST, PART_NBYTES, Checks


def blob(length):
    """Return `length` bytes that do not repeat."""
    return np.random.default_rng(length).integers(0, 256, length, np.uint8)


@pytest.mark.parametrize("length", [0, 1, PART_NBYTES - 1, PART_NBYTES])
def test_a_blob_of_one_part_has_none(length):
    """The digest of a blob of one part is check enough."""
    assert parts.of([blob(length)]) == ""


@pytest.mark.parametrize("length", [PART_NBYTES + 1, 2 * PART_NBYTES, 5 * PART_NBYTES + 17])
def test_parts_are_xxh3_of_every_4_mib(length):
    """A part's check is the xxh3-64 of its bytes as 16 hex digits, the last part's too."""
    data = blob(length)
    steps = range(0, length, PART_NBYTES)
    expected = "".join(xxhash.xxh3_64_hexdigest(data[at : at + PART_NBYTES]) for at in steps)
    assert parts.of([data]) == expected
    assert parts.of([data[:3], data[3 : PART_NBYTES + 5], data[PART_NBYTES + 5 :]]) == expected
    assert parts.are_intact(data, expected)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_seen(data):
    """One flipped bit anywhere is seen, whichever thread looks at its part."""
    content = blob(3 * PART_NBYTES + 100)
    checks = parts.of([content])
    position = data.draw(st.integers(0, content.size - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    assert not parts.are_intact(content, checks)


@pytest.mark.parametrize("processors", [1, 2, 3, 64])
def test_any_number_of_processors_sees_every_part(monkeypatch, processors):
    """However the parts are shared out, each is looked at."""
    monkeypatch.setattr(threads, "_processors", lambda: processors)
    content = blob(9 * PART_NBYTES + 1)
    checks = parts.of([content])
    assert parts.are_intact(content, checks)
    for part in range(10):
        content[part * PART_NBYTES] ^= 1
        assert not parts.are_intact(content, checks), part
        content[part * PART_NBYTES] ^= 1


def test_other_lengths_are_not_intact():
    """Too few or too many checks for the length are no checks."""
    content = blob(2 * PART_NBYTES)
    checks = parts.of([content])
    assert not parts.are_intact(content, checks[:16])
    assert not parts.are_intact(content, checks + checks[:16])
    assert not parts.are_intact(content[:-PART_NBYTES], checks)


def test_a_manifest_keeps_no_more_than_it_can_hold():
    """Beyond the most parts there are none, and the digest is compared."""
    assert len(parts.spelled(np.zeros(MOST, "<u8"))) == 16 * MOST
    assert parts.spelled(np.zeros(MOST + 1, "<u8")) == ""


def test_nothing_is_no_step():
    """Of no bytes there are no checks."""
    assert Checks(8).finish().shape == (0,)


@settings(max_examples=60)
@given(
    pieces=st.lists(st.binary(max_size=30), max_size=8),
    later=st.binary(max_size=40),
    step=st.integers(1, 16),
)
def test_checks_so_far_are_of_what_came(pieces, later, step):
    """At any time the checks are those of what has come, and more may come."""
    checks, same = Checks(step), Checks(step)
    for piece in pieces:
        checks.update(piece)
        same.update(piece)
    assert np.array_equal(checks.so_far(), same.finish())
    checks.update(later)
    whole = Checks(step)
    whole.update(b"".join(pieces) + later)
    assert np.array_equal(checks.finish(), whole.finish())
