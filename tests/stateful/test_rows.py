"""Rows found again in any request: the function's own values, and no row computed twice."""

from __future__ import annotations

import collections
import itertools
import pickle
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

import castore
from castore.computing.probe import MOST
from castore.computing.rowwise import TOLERANCE

Pair = collections.namedtuple("Pair", "first second")  # noqa: PYI024  the user's may have no types

#: A sample is a number and a version: another version is another row under the same number.
SAMPLES = st.tuples(st.integers(0, 11), st.integers(0, 1))
FRESH = st.lists(SAMPLES, min_size=1, max_size=12)
_numbers = itertools.count()


@st.composite
def sequences(draw, fresh=FRESH, most=4):
    """Return lists of samples, one a request; most are made of those before."""
    listed = [draw(fresh)]
    for _ in range(draw(st.integers(1, most - 1))):
        before = draw(st.sampled_from(listed))
        listed.append(draw(st.one_of(edits(before, listed), fresh)))
    return listed


def edits(before, listed):
    """Return what becomes of a list of samples: another order, fewer, more, replaced, repeated."""
    return st.one_of(
        st.permutations(before),
        st.permutations(before).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n])),
        FRESH.map(lambda more: before + more),
        FRESH.map(lambda more: more + before),
        st.sampled_from(listed).map(lambda other: other + before),
        st.integers(0, 11).map(lambda i: [(n, 1 - v) if n == i else (n, v) for n, v in before]),
        st.just(before + before[:3]),
        st.just(before[:-1] or before),
    )


def rows_of(samples):
    """Return the rows of samples, int64 (n, 4): number, version and what is in them."""
    table = np.array(samples, np.int64).reshape(-1, 2)
    return np.concatenate([table, table[:, :1] * 7 + table[:, 1:] * 13 + [[0, 5]]], axis=1)


FORMS = {
    "array": lambda x: x * 3 - 1,
    "flat": lambda x: x[:, 2],
    "bytes": lambda x: {"b": (x % 251).astype(np.uint8), "odd": x[:, :3] % 2 == 1},
    "tuple": lambda x: (x[:, 2:] / 4, x.astype(np.int32)),
    "named": lambda x: Pair((x + 1j).astype(np.complex64), {"deep": [x.astype(np.float16)]}),
    "wide": lambda x: np.broadcast_to(x[:, :, None], (*x.shape, 3)).copy(),
    "nothing": lambda x: x[:, :0],
}


class Seen(list):
    """What a function was given; no part of what it computes."""

    castore_infrastructure = True


class Work:
    """A function of an array, row by row, that sees which rows it is given where no key sees it."""

    def __init__(self, form, *, streams=False):
        self.form = form
        self.streams = streams
        self.seen = Seen()

    def __call__(self, rows):
        """Return the rows in a form, or yield them in pieces."""
        self.seen.extend((number, version) for number, version in rows[:, :2].tolist())
        return self._pieces(rows) if self.streams else FORMS[self.form](rows)

    def _pieces(self, rows):
        for start in range(0, max(1, len(rows)), 5):
            yield FORMS[self.form](rows[start : start + 5])

    def of(self, samples):
        """Return what it must come to, computed elsewhere."""
        return FORMS[self.form](rows_of(samples))


def leaves(value):
    """Yield the arrays of a result, each behind what it lies in."""
    if isinstance(value, (tuple, list)):
        yield type(value).__name__, len(value)
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from leaves(item)
    else:
        value = np.asarray(value)
        yield str(value.dtype), value.shape, value.tobytes()


def same(found, expected):
    """Tell whether two results are the same to the last bit."""
    return list(leaves(found)) == list(leaves(expected))


class Known:
    """What a store must know: the rows of each scope."""

    def __init__(self):
        self.rows = collections.defaultdict(set)

    def missing(self, scope, samples):
        """Return the rows that must be computed, each once, in order."""
        return [row for row in dict.fromkeys(samples) if row not in self.rows[scope]]

    def learn(self, scope, samples):
        """Take note of rows that were stored."""
        self.rows[scope].update(samples)


def places():
    """Return stores at one new place, as several owners would hold them."""
    store = castore.open(f"memory://rows{next(_numbers)}")
    return [store, pickle.loads(pickle.dumps(store)), castore.open(store.url, mode="ro")]  # noqa: S301


@settings(max_examples=700, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=sequences(),
    form=st.sampled_from(sorted(FORMS)),
    streams=st.booleans(),
    choices=st.data(),
)
def test_arrays_are_put_together_from_known_rows(requests, form, streams, choices):
    """Any request is the direct result bit for bit, and computes the rows nobody stored."""
    stores, known = places(), Known()
    for samples in requests:
        number = choices.draw(st.integers(0, 2))
        materialize = choices.draw(st.booleans())
        work = Work(form, streams=streams)
        found = stores[number].get_or_compute(
            rows_of(samples), work, form, model=None, rowwise=True, materialize=materialize
        )
        assert same(found, work.of(samples))
        assert list(work.seen) == known.missing("", samples)
        if stores[number].mode == "rw":
            known.learn("", samples)


@settings(max_examples=150)
@given(requests=sequences(), streams=st.booleans())
def test_what_is_put_counts_as_computed(requests, streams):
    """Rows that were put are gathered like any other, and a look-up gives all or nothing."""
    store, known = castore.open(f"memory://rows{next(_numbers)}"), Known()
    first, *others = requests
    work = Work("tuple", streams=streams)
    store.put(rows_of(first), work.of(first), "t", fn=work, model=None, rowwise=True)
    known.learn("", first)
    for samples in others:
        found = store.get(rows_of(samples), work, "t", "none", model=None, rowwise=True)
        if known.missing("", samples):
            assert isinstance(found, str)
        else:
            assert same(found, work.of(samples))
        assert not work.seen
