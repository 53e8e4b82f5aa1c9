"""Manifests: whole and of their own name, or damaged, or newer; nothing between."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.blobs import layout
from castore.blobs.blob import BlobRef
from castore.canonical import seal
from castore.errors import DamagedError, FormatError
from castore.table.keymap import KeyMap
from castore.table.manifest import Manifest

TABLE, KEY = "0123456789abcdef" * 2, "fedcba9876543210" * 2
hexes = st.sampled_from([32, 64]).flatmap(
    lambda length: st.text("0123456789abcdef", min_size=length, max_size=length)
)
texts = st.text(max_size=6)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, documents, max_size=3)
refs = st.builds(BlobRef, hexes, st.integers(0, 2**40), st.integers(0, 2**62))
manifests = st.builds(
    Manifest,
    table=st.just(TABLE),
    key=st.just(KEY),
    nonce=hexes,
    algorithm=st.sampled_from(["xxh3-128", "sha256", "blake3"]),
    rows=st.none() | st.integers(0, 2**40),
    aligned=st.booleans(),
    form=st.dictionaries(texts, documents, min_size=1, max_size=2),
    derivation=objects,
    origin=objects,
    keys=st.builds(
        KeyMap,
        metadata=st.dictionaries(texts, objects | texts, max_size=3),
        chunks=st.dictionaries(texts, refs | st.binary(max_size=20), max_size=4),
        absent=st.lists(texts, max_size=3).map(tuple),
    ),
)

EXAMPLE = Manifest(
    table=TABLE,
    key=KEY,
    nonce="0" * 32,
    algorithm="xxh3-128",
    rows=3,
    aligned=True,
    form={"array": "result"},
    derivation={"function": "f"},
    origin={"host": "here"},
    keys=KeyMap(
        metadata={"zarr.json": {}},
        chunks={
            "a/c/0": b"inline",
            "b/c/0": BlobRef("ab" * 16, 0, 7),
            "d/c/0": BlobRef("ab" * 16, 0, 7),
        },
    ),
)


def document():
    """The document of EXAMPLE, without its seal."""
    found = json.loads(EXAMPLE.to_bytes())
    del found["digest"]
    return found


def read(found):
    """Read a document that is properly sealed, whatever it says."""
    return Manifest.from_bytes(seal(found), TABLE, KEY)


@given(manifests)
def test_manifests_are_read_back(manifest):
    """What a manifest says is read back the same, and written again as the same bytes."""
    data = manifest.to_bytes()
    found = Manifest.from_bytes(data, TABLE, KEY)
    assert found == manifest
    assert found.to_bytes() == data
    assert found.name == layout.entry(TABLE, KEY)


@given(st.integers(0, 8 * len(EXAMPLE.to_bytes()) - 1))
def test_any_flipped_bit_is_damage(position):
    """A manifest with any one bit flipped is damaged, told by its name."""
    data = bytearray(EXAMPLE.to_bytes())
    data[position // 8] ^= 1 << position % 8
    with pytest.raises(DamagedError, match=KEY):
        Manifest.from_bytes(bytes(data), TABLE, KEY)


@given(st.integers(0, len(EXAMPLE.to_bytes()) - 1))
def test_any_missing_end_is_damage(length):
    """A manifest that is cut off anywhere is damaged."""
    with pytest.raises(DamagedError, match=KEY):
        Manifest.from_bytes(EXAMPLE.to_bytes()[:length], TABLE, KEY)


@pytest.mark.parametrize(("table", "key"), [(KEY, KEY), (TABLE, TABLE), (KEY, TABLE)])
def test_a_manifest_under_another_name_is_damaged(table, key):
    """A manifest moved to another table or key is damaged, told by the name it was read by."""
    with pytest.raises(DamagedError, match=f"{layout.entry(table, key)}: .* another entry"):
        Manifest.from_bytes(EXAMPLE.to_bytes(), table, key)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2 "),
        ({"format": "1"}, "format '1'"),
        ({"format": None}, "format None"),
        ({"flags": ["zstd", "parts"]}, r"flags \['zstd', 'parts'\]"),
        ({"flags": {}}, "flags {}"),
        ({"format": 2, "chunks": "another form", "form": 5}, "format 2 "),
    ],
)
def test_a_newer_manifest_is_refused_by_name(changes, words):
    """A newer format or an unknown flag is refused by name, before anything else is looked at."""
    with pytest.raises(FormatError, match=words) as caught:
        read({**document(), **changes})
    assert layout.entry(TABLE, KEY) in str(caught.value)
    assert "install a newer castore" in str(caught.value)


def test_blobs_are_named_once():
    """Chunks that share a blob name it once, and lengths count each chunk."""
    assert EXAMPLE.blobs == [BlobRef("ab" * 16, 0, 7)]
    assert EXAMPLE.nbytes == 6 + 7 + 7


@pytest.mark.parametrize(
    "chunk",
    [
        *(None, 5, "inline", ["inline"], [], {}, True),
        *({"inline": None}, {"inline": 5}, {"inline": ["AA=="]}, {"inline": {}}),
        *({"inline": "A"}, {"inline": "AA"}, {"inline": "A A="}, {"inline": "AA=="[::-1]}),
        *({"inline": "é"}, {"inline": "AAA=\n"}, {"inline": "../x"}, {"inline": "\ud800"}),
        *({"digest": "ab" * 16}, {"digest": "ab" * 16, "generation": 0}),
    ],
    ids=ascii,
)
def test_a_chunk_that_is_none_is_damage(chunk):
    """A chunk that is neither base64 text nor a whole reference to a blob is damage."""
    with pytest.raises(DamagedError, match="not well formed"):
        read({**document(), "chunks": {"a/c/0": chunk}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("digest", value) for value in ("../../../etc/passwd", "..", "", "ab", "AB" * 16)],
        *[("digest", value) for value in ("ab" * 15 + "/.", "ab" * 16 + "\n", "ab" * 24, "٣" * 32)],
        *[("digest", value) for value in ("ab/" + "c" * 29, None, 5, ["ab" * 16], b"".hex())],
        *[("length", value) for value in (-1, True, 1.0, "7", None, [7], 1e999, -(2**60))],
        *[("generation", value) for value in (-1, True, False, 0.0, "0", None, "0/../x")],
    ],
    ids=ascii,
)
def test_a_crafted_reference_is_damage(field, value):
    """A reference with a digest, length or generation of another kind never becomes a name."""
    chunk = {"digest": "ab" * 16, "generation": 0, "length": 7, field: value}
    data = json.dumps({**document(), "chunks": {"a/c/0": chunk}}, sort_keys=True)
    body = data[:-1].encode()
    from castore.digest import hexdigest

    sealed = body + b',"digest":"%s"}' % hexdigest([body]).encode()
    with pytest.raises(DamagedError, match=KEY):
        Manifest.from_bytes(sealed, TABLE, KEY)


def test_a_length_beyond_memory_is_only_a_number():
    """A length no blob can have is read as a number: nothing is reserved for it."""
    chunk = {"digest": "ab" * 16, "generation": 0, "length": 2**60}
    assert read({**document(), "chunks": {"x": chunk}}).nbytes == 2**60


@pytest.mark.parametrize("field", sorted(set(document()) - {"absent", "flags", "format"}))
def test_a_missing_field_is_damage(field):
    """A manifest that lacks a field is damaged."""
    found = document()
    del found[field]
    with pytest.raises(DamagedError, match=KEY):
        read(found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("table", value) for value in (None, 5, "../x", TABLE.upper(), [TABLE], KEY)],
        *[("key", value) for value in (None, "", KEY + "\n", {"key": KEY})],
        *[("digest_algorithm", value) for value in (None, "md5", 5, ["sha256"], {})],
        *[("chunks", value) for value in (None, 5, [], "chunks", [["a", {"inline": ""}]])],
        *[("metadata", value) for value in (None, 5, "metadata", [1], ["abc"])],
        *[("derivation", value) for value in (None, 5, "text", [1])],
        *[("origin", value) for value in (None, 5, "text", [1])],
        *[("rows", value) for value in (-1, True, "3", 1.5, [3], {})],
        *[("aligned", value) for value in (None, 1, "yes", [])],
        *[("nonce", value) for value in (None, 5, [])],
    ],
    ids=ascii,
)
def test_a_field_of_another_type_is_damage(field, value):
    """A manifest with a field of a type castore never writes is damaged."""
    with pytest.raises(DamagedError, match=KEY):
        read({**document(), field: value})


@given(st.data())
def test_any_sealed_document_is_a_manifest_or_damage(data):
    """Whatever a properly sealed document says, it is read, damaged, or newer: nothing else."""
    found = document()
    field = data.draw(st.sampled_from([*sorted(found), "unknown"]))
    found[field] = data.draw(documents)
    try:
        read(found)
    except (DamagedError, FormatError) as error:
        assert KEY in str(error)  # noqa: PT017


@pytest.mark.parametrize("depth", [200, 2_000, 50_000])
@pytest.mark.parametrize("field", ["form", "derivation", "metadata", "chunks"])
def test_deep_nesting_is_a_manifest_or_damage(field, depth):
    """A document nested deeper than Python can follow is damaged, and no crash."""
    from castore.digest import hexdigest

    marked = seal({**document(), field: {"x": "MARK"}}).decode()
    body = marked[: marked.rindex(',"digest"')].replace('"MARK"', "[" * depth + "]" * depth)
    sealed = f'{body},"digest":"{hexdigest([body.encode()])}"}}'.encode()
    try:
        Manifest.from_bytes(sealed, TABLE, KEY)
    except DamagedError as error:
        assert KEY in str(error)  # noqa: PT017
    else:
        assert field != "chunks"


def test_values_json_has_not_are_no_crash():
    """NaN and Infinity, which are no JSON, leave a manifest damaged or unread, not broken."""
    from castore.digest import hexdigest

    for word in ("NaN", "Infinity", "1e999", "9" * 5000):
        body = seal({**document(), "rows": "MARK"}).decode()
        body = body[: body.rindex(',"digest"')].replace('"MARK"', word)
        sealed = f'{body},"digest":"{hexdigest([body.encode()])}"}}'.encode()
        with pytest.raises(DamagedError):
            Manifest.from_bytes(sealed, TABLE, KEY)


def test_same_content_is_of_bytes_not_of_places():
    """Two manifests have the same content if the same bytes come out, wherever they lie."""
    rescued = {**EXAMPLE.chunks, "b/c/0": BlobRef("ab" * 16, 3, 7)}
    changes = {"nonce": "1" * 32, "origin": {"host": "there"}, "chunks": rescued}
    assert EXAMPLE.same_content(changed(**changes))
    assert not EXAMPLE.same_content(changed(form={"scalar": "result"}))
    assert not EXAMPLE.same_content(changed(metadata={}))
    assert not EXAMPLE.same_content(changed(absent=("e/c/0",)))
    assert not EXAMPLE.same_content(changed(chunks={**EXAMPLE.chunks, "a/c/0": b"other!"}))
    assert not EXAMPLE.same_content(changed(chunks={"a/c/0": b"inline"}))
    assert not EXAMPLE.same_content(
        changed(chunks={**EXAMPLE.chunks, "b/c/0": BlobRef("cd" * 16, 0, 7)})
    )


def changed(**changes):
    """EXAMPLE with other fields, or other keys."""
    keys = {name: changes.pop(name) for name in vars(EXAMPLE.keys).keys() & changes}
    return replace(EXAMPLE, **changes, keys=replace(EXAMPLE.keys, **keys))


def test_inline_values_are_base64():
    """An inline value is base64 in the document, and comes out as it went in."""
    found = document()["chunks"]["a/c/0"]
    assert base64.b64decode(found["inline"]) == b"inline"
