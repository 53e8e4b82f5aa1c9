"""Documents: one text for each, and a seal that no damage gets past."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.canonical import dumps, identify, seal, unseal
from castore.digest import hexdigest, identity
from castore.errors import DamagedError

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(st.text(max_size=8), documents, min_size=1, max_size=4)


def test_canonical_form_is_ascii_sorted_and_tight():
    """The canonical form has sorted keys, no spaces, and escapes for all beyond ASCII."""
    assert dumps({"b": [1, None], "a": "é \n"}) == b'{"a":"\\u00e9 \\n","b":[1,null]}'


@given(objects)
def test_canonical_form_does_not_depend_on_insertion(document):
    """Equal documents have equal bytes, in whatever order they were built."""
    assert dumps(dict(reversed(document.items()))) == dumps(document)


@given(documents, documents)
def test_canonical_form_tells_documents_apart(one, two):
    """Documents that JSON can tell apart have different bytes."""
    assert (dumps(one) == dumps(two)) == (repr_of(one) == repr_of(two))


def repr_of(document):
    """Write a document out with its types, without JSON."""
    if isinstance(document, dict):
        return {key: repr_of(value) for key, value in document.items()}
    if isinstance(document, list):
        return [repr_of(value) for value in document]
    return f"{type(document).__name__} {document!r}"


def test_numbers_outside_json_are_refused():
    """NaN and infinity, which are no JSON, never get into a document."""
    with pytest.raises(ValueError, match="JSON"):
        dumps([float("nan")])


def test_identify_takes_the_canonical_form():
    """A document is identified by its canonical form, in a domain."""
    assert identify("table", {"b": 1, "a": 2}) == identity("table", b'{"a":2,"b":1}')
    assert identify("table", []) != identify("key", [])


@given(objects)
def test_sealed_documents_come_back(document):
    """What is sealed is unsealed as it was, and the sealed bytes are one JSON object."""
    sealed = seal(document)
    assert unseal(sealed, "here") == json.loads(dumps(document))
    assert isinstance(json.loads(sealed), dict)


def test_the_seal_is_the_digest_of_the_body():
    """A sealed document ends with the digest of what stands before the seal."""
    body = b'{"rows":12'
    assert seal({"rows": 12}) == body + b',"digest":"%s"}' % hexdigest([body]).encode()


@given(objects, st.data())
def test_any_flipped_bit_is_found(document, data):
    """A sealed document with any one bit flipped is a DamagedError that names the object."""
    sealed = bytearray(seal(document))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedError, match="tables/x"):
        unseal(bytes(sealed), "tables/x")


def test_every_flipped_bit_and_every_cut_of_one_document_is_found():
    """Not one of all flips of a bit, cuts and appended bytes of a document gets past its seal."""
    sealed = seal({"format": 1, "name": "é", "rows": [1, 2, {"x": None}]})
    flips = [
        sealed[: i // 8] + bytes([sealed[i // 8] ^ 1 << i % 8]) + sealed[i // 8 + 1 :]
        for i in range(8 * len(sealed))
    ]
    cuts = [sealed[:i] for i in range(len(sealed))]
    for damaged in [*flips, *cuts, sealed + b"\n", sealed + sealed, b" " + sealed]:
        with pytest.raises(DamagedError):
            unseal(damaged, "here")


def sealed_by_hand(body: bytes) -> bytes:
    """Seal any bytes, as an enemy could."""
    return body + b',"digest":"%s"}' % hexdigest([body]).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{x", "is not JSON"),
        (b'{"a":1', None),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a":' + b"9" * 5000, "is not JSON"),
        (b'"text', "is not JSON"),
        (b'{"a":"' + b"{" * 10, "is not JSON"),
    ],
)
def test_a_crafted_body_under_a_true_seal_is_damage(body, message):
    """A body that is no JSON object is a DamagedError, though its digest fits."""
    if message is None:
        assert unseal(sealed_by_hand(body), "here") == {"a": 1}
        return
    with pytest.raises(DamagedError, match=message):
        unseal(sealed_by_hand(body), "here")
