"""Row ids: sixteen bytes that name a sample, the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.digest import identity
from castore.identity.rows import digest_rows, from_integers, from_items, from_names

SOURCE = identity("source", b"one")
OTHER = identity("source", b"two")
names = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=50)
sources = st.binary(min_size=16, max_size=16).map(bytes.hex)


def unique(row_ids: np.ndarray) -> int:
    """Count the different row ids."""
    return len(np.unique(row_ids, axis=0))


@given(sources, names)
def test_integers_of_one_source_never_collide(source, integers):
    """Different integers have different row ids, and each 64-bit half alone is different too."""
    found = from_integers(source, np.array(integers, np.int64))
    assert found.shape == (len(integers), 16)
    assert found.dtype == np.uint8
    for half in (found[:, :8], found[:, 8:], found):
        assert unique(half) == len(integers)


def test_a_million_integers_do_not_collide():
    """The first million integers have a million different row ids in each half."""
    halves = from_integers(SOURCE, np.arange(1_000_000)).view("<u8")
    assert len(np.unique(halves[:, 0])) == len(np.unique(halves[:, 1])) == 1_000_000


def mixed(x: int) -> int:
    """The finaliser of splitmix64, in Python's own integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@given(sources, names)
def test_integers_are_mixed_as_the_format_says(source, integers):
    """A row id is, for each half, splitmix64 of the name xor that half of the source's digest."""
    found = from_integers(source, np.array(integers, np.int64))
    for row, name in zip(found, integers, strict=True):
        halves = [mixed(name % 2**64 ^ int(source[i : i + 16], 16)) for i in (0, 16)]
        assert row.tobytes() == b"".join(half.to_bytes(8, "little") for half in halves)


def test_integers_are_only_read():
    """The array of names is as it was, and may be read-only."""
    integers = np.arange(5)
    integers.flags.writeable = False
    from_integers(SOURCE, integers)
    assert integers.tolist() == [0, 1, 2, 3, 4]


def test_sources_keep_equal_names_apart():
    """The same names under another source are other rows."""
    integers = np.arange(100)
    both = np.concatenate([from_integers(SOURCE, integers), from_integers(OTHER, integers)])
    assert unique(both) == 200
    both = np.concatenate([from_names(SOURCE, ["a"]), from_names(OTHER, ["a"])])
    assert unique(both) == 2


def test_kinds_keep_equal_bytes_apart():
    """An item of one kind is never an item of another with the same bytes."""
    found = [from_items(SOURCE, kind, [(b"a",)]) for kind in ("name", "value", "digest")]
    assert unique(np.concatenate(found)) == 3


def test_items_are_digested_under_source_and_kind():
    """A row id of an item is the digest of its pieces in the domain of its source and kind."""
    expected = identity(f"row/file/{SOURCE}", b"abcdef")
    assert from_items(SOURCE, "file", [(b"ab", b"c", b"def")]).tobytes().hex() == expected


@given(st.lists(st.text(st.characters(exclude_categories=())), unique=True, max_size=20))
def test_names_are_text_of_any_kind(texts):
    """Different texts, invalid Unicode among them, have different row ids."""
    found = from_names(SOURCE, texts)
    assert found.shape == (len(texts), 16)
    assert unique(found) == len(texts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: from_integers(SOURCE, np.empty(0, np.int64)),
        lambda: from_names(SOURCE, []),
        lambda: from_items(SOURCE, "x", []),
    ],
)
def test_no_names_are_no_rows(build):
    """Nothing gives an array of no rows, which has a digest."""
    found = build()
    assert found.shape == (0, 16)
    assert digest_rows(found) == identity("rows", b"")


def test_digest_of_rows_depends_on_order():
    """The digest of a list of rows is of the rows in their order, and of how many there are."""
    found = from_names(SOURCE, ["a", "b"])
    assert digest_rows(found) == identity("rows", found.tobytes())
    assert len({digest_rows(rows) for rows in (found, found[::-1], found[:1])}) == 3
