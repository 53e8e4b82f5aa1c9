"""Digests: the algorithms that blobs may be named by, and the one that identifies."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from castore.digest import (
    ALGORITHMS,
    check64,
    hasher,
    hexdigest,
    identity,
    identity_hasher,
)
from castore.errors import ConfigError

# Of the empty input, as published by the makers of each algorithm.
EMPTY = {
    "xxh3-128": "99aa06d3014798d86001c324468d497f",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digests_are_those_of_the_named_algorithm(algorithm):
    """Each name stands for the algorithm the world knows by it."""
    if algorithm == "blake3":
        pytest.importorskip("blake3")
    assert hexdigest([], algorithm) == EMPTY[algorithm]
    assert hasher(algorithm).digest().hex() == EMPTY[algorithm]


def test_default_is_xxh3_128():
    """Without a name a digest is xxh3-128, 32 lowercase hex digits."""
    assert (
        hexdigest([b"abc"]) == hexdigest([b"abc"], "xxh3-128") == xxhash.xxh3_128_hexdigest(b"abc")
    )


@given(st.lists(st.binary()), st.sampled_from(["xxh3-128", "sha256"]))
def test_pieces_count_as_one(pieces, algorithm):
    """A digest is of the pieces' bytes one after another, wherever they are cut."""
    assert hexdigest(pieces, algorithm) == hexdigest([b"".join(pieces)], algorithm)


def test_sha256_is_the_standard_librarys():
    """Blobs named by sha256 can be checked with any tool."""
    assert hexdigest([b"ab", b"c"], "sha256") == hashlib.sha256(b"abc").hexdigest()


def test_unknown_algorithms_are_refused():
    """An unknown digest is a ConfigError that lists the known ones."""
    with pytest.raises(ConfigError, match="'md5': choose one of xxh3-128, sha256, blake3"):
        hasher("md5")


def test_blake3_without_its_extra_says_what_to_install():
    """Where blake3 is not installed, a store that needs it says how to get it."""
    code = (
        "import sys; sys.modules['blake3'] = None\n"
        "from castore.digest import hasher\n"
        "from castore.errors import ConfigError\n"
        "try: hasher('blake3')\n"
        "except ConfigError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'castore[blake3]'" in run.stdout


def test_identity_is_of_domain_and_bytes():
    """An identity is xxh3-128 of the domain's line and the bytes, as the format says."""
    expected = xxhash.xxh3_128_hexdigest(b"castore/1/rows\nabc")
    assert identity("rows", b"abc") == expected
    state = identity_hasher("rows")
    state.update(b"a")
    state.update(b"bc")
    assert state.hexdigest() == expected


@given(st.binary(), st.text(st.characters(categories=["L"]), max_size=5))
def test_domains_keep_equal_bytes_apart(data, domain):
    """The same bytes are identified differently in different domains."""
    assert identity(domain, data) != identity(domain + "x", data)


def test_row_checks_are_xxh3_64():
    """A row group's check is xxh3-64 as an integer."""
    assert check64(b"abc") == xxhash.xxh3_64_intdigest(b"abc")
