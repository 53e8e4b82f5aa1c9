"""Records: sorted rows answer as a dict would, whatever the ids are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.identity.rows import from_integers
from castore.table.records import RECORD, Records

NAMES = st.lists(st.integers(0, 40), max_size=60)


def digests(names):
    """Ids as they are: uniform."""
    return from_integers("5a" * 16, np.array(names, np.int64))


def halves(names, high, low):
    """Ids with the halves that two functions of the name give."""
    pairs = [(high(name), low(name)) for name in names]
    return np.array(pairs, "<u8").reshape(-1, 2).view(np.uint8)


IDS = {
    "digests": digests,
    "equal first halves": lambda names: halves(names, lambda _: 7, lambda n: n * n),
    "equal second halves": lambda names: halves(names, lambda n: n << 58, lambda _: 7),
    "equal prefixes": lambda names: halves(names, lambda n: n // 2, lambda n: n % 2),
    "all ones and zeros": lambda names: halves(
        names, lambda n: -(n % 2) % 2**64, lambda n: (2**64 - n) % 2**64
    ),
}


@pytest.mark.parametrize("kind", IDS)
@given(batches=st.lists(st.lists(NAMES, max_size=3), max_size=4), seed=st.integers(0, 99))
def test_rows_are_found_as_in_a_dict(kind, batches, seed):
    """After any merges the newest entry with a row is found, at the row's first position."""
    count = sum(map(len, batches))
    ages = np.random.default_rng(seed).permutation(count)
    records, entries = Records(), []
    for batch in batches:
        records = records.merged([IDS[kind](names) for names in batch], len(entries), ages)
        entries += batch
        expected = {}
        for number in sorted(range(len(entries)), key=lambda n: ages[n]):
            expected |= {name: (number, entries[number].index(name)) for name in entries[number]}
        entry, position = records.find(IDS[kind](list(range(45))))
        assert entry.tolist() == [expected.get(name, (-1,))[0] for name in range(45)]
        found = {name: position[name] for name in range(45) if entry[name] >= 0}
        assert found == {name: place for name, (_, place) in expected.items()}
        assert len(records.data) == len(expected)


def test_a_zero_id_is_no_empty_record():
    """An id of zeros is a row like any other: found where it is, and only there."""
    zeros = np.zeros((1, 16), np.uint8)
    other = Records().merged([digests([1, 2, 3])], 0, np.arange(1))
    assert other.find(zeros)[0].tolist() == [-1]
    assert other.merged([zeros], 1, np.arange(2)).find(zeros)[0].tolist() == [1]


@pytest.mark.parametrize("rows", [70_000, 200_001])
def test_many_rows_are_found_in_any_order(rows):
    """More rows than one batch of a look-up, in random order, half of them absent."""
    names = np.random.default_rng(rows).permutation(2 * rows)
    records = Records().merged([digests(range(rows))], 0, np.arange(1))
    entry, position = records.find(digests(names))
    assert np.array_equal(entry >= 0, names < rows)
    assert np.array_equal(position[entry >= 0], names[names < rows])


def test_merging_leaves_what_was_there():
    """Records others may be reading, mapped read-only even, are not written to by a merge."""
    before = Records().merged([digests([1, 2, 3])], 0, np.arange(1))
    before.data.flags.writeable = False
    copy = before.data.copy()
    after = before.merged([digests([2, 3, 4])], 1, np.arange(2))
    assert np.array_equal(before.data, copy)
    assert after.find(digests([1, 2, 3, 4]))[0].tolist() == [0, 1, 1, 1]


def test_no_rows_are_found_among_none():
    """Neither an empty index nor an empty question is an error."""
    assert Records().find(digests([1, 2]))[0].tolist() == [-1, -1]
    assert len(Records().find(digests([]))[0]) == 0
    assert len(Records(np.zeros(3, RECORD)).find(digests([]))[0]) == 0
