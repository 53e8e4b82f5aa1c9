"""Object names: spelt in one place, and read back only as they were spelt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.blobs import layout

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
identities = st.text("0123456789abcdef", min_size=32, max_size=32)
digests = identities | st.text("0123456789abcdef", min_size=64, max_size=64)


def test_names_are_those_of_format_1():
    """The names that stores on disk have are these, letter by letter."""
    assert layout.FORMAT == "castore.json"
    assert layout.table(TABLE) == f"tables/{TABLE}/table.json"
    assert layout.entries(TABLE) == f"tables/{TABLE}/entries/"
    assert layout.entry(TABLE, KEY) == f"tables/{TABLE}/entries/{KEY}.json"
    assert layout.blob(KEY, 0) == f"blobs/fe/{KEY}"
    assert layout.blob(KEY, 12) == f"blobs/fe/{KEY}~12"
    assert layout.tombstones(KEY) == "tombstones/fe/"


@given(table=identities, key=identities)
def test_manifest_names_are_read_back(table, key):
    """The name of a manifest tells its table and key, and lies in the folder of its table."""
    name = layout.entry(table, key)
    assert (layout.table_of(name), layout.key_of(name)) == (table, key)
    assert name.startswith(layout.entries(table))
    assert name.startswith(layout.TABLES)


@given(digest=digests, generation=st.integers(0, 2**40))
def test_blobs_lie_with_their_tombstones(digest, generation):
    """A blob of any generation has a name of its own, under the prefix its tombstones have."""
    name = layout.blob(digest, generation)
    assert name.startswith(layout.BLOBS)
    assert name != layout.blob(digest, generation + 1)
    assert layout.tombstones(digest) == f"tombstones/{name.split('/')[1]}/"
    assert ".." not in name


@pytest.mark.parametrize(
    "name",
    [
        *("", "castore.json", "tables/", f"tables/{TABLE}/table.json"),
        f"tables/{TABLE}/entries/{KEY}",
        f"tables/{TABLE}/entries/{KEY}.json\n",
        f"tables/{TABLE}/entries/{KEY}.json~",
        f"tables/{TABLE}/entries/../entries/{KEY}.json",
        f"tables/{TABLE.upper()}/entries/{KEY}.json",
        f"/tables/{TABLE}/entries/{KEY}.json",
        f"tables/{TABLE}/erased/{KEY}.json",
        f"tables/{TABLE}/entries/{KEY[1:]}٣.json",
    ],
)
def test_other_names_are_no_manifests(name):
    """What is not letter by letter the name of a manifest is none."""
    assert layout.table_of(name) is None
    assert layout.key_of(name) is None


@given(st.text(max_size=40) | st.none() | st.integers() | identities)
def test_identities_are_32_hex_digits(text):
    """A table id or key is 32 lowercase hex digits and nothing else."""
    expected = isinstance(text, str) and len(text) == 32 and set(text) <= set("0123456789abcdef")
    assert layout.is_identity(text) == expected


@pytest.mark.parametrize(
    "text", [TABLE + "\n", TABLE.upper(), " " + TABLE[1:], TABLE * 2, b"a" * 32]
)
def test_what_nearly_is_an_identity_is_none(text):
    """Capitals, white space, other lengths and other types are no identity."""
    assert not layout.is_identity(text)
