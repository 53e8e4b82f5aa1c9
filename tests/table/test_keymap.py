"""The map of Zarr keys: what it holds, as a document, and what of a document it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.blobs.blob import BlobRef
from castore.canonical import dumps
from castore.errors import DamagedError
from castore.table.keymap import KeyMap, chunk_document, chunk_of, count, of_kind

counts = st.integers(0, 2**63 - 1)
refs = st.builds(
    BlobRef,
    st.text("0123456789abcdef", min_size=32, max_size=32),
    counts,
    counts,
    st.sampled_from(["", "0" * 16, "f" * 32]),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
documents = st.dictionaries(keys, st.integers() | keys, max_size=3)
maps = st.builds(
    KeyMap,
    st.dictionaries(keys, documents | keys, max_size=3),
    st.dictionaries(keys, st.binary(max_size=9) | refs, max_size=4),
    st.lists(keys, max_size=3).map(tuple),
)
REF = BlobRef("0" * 32, 0, 5)


@given(maps)
def test_a_map_survives_as_bytes(found):
    """Whatever keys there are, the map read from its bytes is the one that was written."""
    again = KeyMap.from_bytes(found.to_bytes(), "m")
    assert again == found
    assert again.same_content(found)
    for key, chunk in found.chunks.items():
        assert getattr(again.chunks[key], "parts", "") == getattr(chunk, "parts", "")
    assert again.to_bytes() == found.to_bytes()


def test_blobs_are_named_once():
    """Several keys of one blob name it once, and its bytes count for each of them."""
    found = KeyMap({"zarr.json": {}}, {"a": REF, "b": REF, "c": b"123"})
    assert found.blobs == [REF]
    assert (len(found), found.nbytes) == (4, 13)


def test_texts_are_as_they_were_written():
    """Metadata are the text itself, or the canonical form of the document."""
    found = KeyMap({"a/zarr.json": '{ "x": 1.0 }', "zarr.json": {"b": 1, "a": 2}})
    assert found.text("a/zarr.json") == b'{ "x": 1.0 }'
    assert found.text("zarr.json") == dumps({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("key", "absent"),
    [("x/c/1", True), ("x/c/12", False), ("x/c", False), ("y/c/0/5", True), ("yy/c", False)],
)
def test_absence_is_of_a_key_or_of_all_below(key, absent):
    """A name stands for itself, one with a slash behind for all below it, and for no others."""
    assert KeyMap(absent=("x/c/1", "y/")).is_absent(key) is absent


def test_content_is_compared_wherever_it_lies():
    """Equal bytes under another generation are the same content; other keys or bytes are not."""
    one = KeyMap({}, {"a": REF}, ("x", "y"))
    assert one.same_content(KeyMap({}, {"a": BlobRef("0" * 32, 3, 5, "0" * 16)}, ("y", "x")))
    for other in (
        KeyMap({}, {"b": REF}, ("x", "y")),
        KeyMap({}, {"a": BlobRef("1" * 32, 0, 5)}, ("x", "y")),
        KeyMap({}, {"a": b"12345"}, ("x", "y")),
        KeyMap({}, {"a": REF}, ("x",)),
        KeyMap({"zarr.json": {}}, {"a": REF}, ("x", "y")),
    ):
        assert not one.same_content(other)


REFUSED = {
    "no document": b"[]",
    "no JSON": b"{",
    "no UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "no chunks": b'{"absent":[],"metadata":{}}',
    "chunks as a list": b'{"absent":[],"chunks":[1],"metadata":{}}',
    "absent as text": b'{"absent":"ab","chunks":{},"metadata":{}}',
    "absent numbers": b'{"absent":[1],"chunks":{},"metadata":{}}',
    "a chunk as text": b'{"absent":[],"chunks":{"a":"inlined"},"metadata":{}}',
    "no base64": b'{"absent":[],"chunks":{"a":{"inline":"*"}},"metadata":{}}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_map_that_is_not_well_formed_is_damage(name):
    """Bytes that are no map raise, and name the blob."""
    with pytest.raises(DamagedError, match=r"the-blob: the map of Zarr keys is not well formed"):
        KeyMap.from_bytes(REFUSED[name], "the-blob")


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "../" * 10 + "ab"},
        {"digest": "0" * 33},
        {"digest": 5},
        {"length": -1},
        {"length": True},
        {"length": 2**63},
        {"generation": "0"},
        {"parts": 1},
    ],
    ids=str,
)
def test_a_blobs_document_is_checked(change):
    """A digest, a length, a generation or checks of another kind are refused."""
    assert chunk_of(chunk_document(REF)) == REF
    with pytest.raises((TypeError, ValueError)):
        chunk_of({**chunk_document(REF), **change})


def test_kinds_are_exact():
    """A truth value is no number, and a number no text."""
    assert (of_kind("a", str), count(0), count(2**63 - 1)) == ("a", 0, 2**63 - 1)
    for call in (lambda: of_kind(1, str), lambda: count(True), lambda: count(1.0)):
        with pytest.raises(TypeError):
            call()
