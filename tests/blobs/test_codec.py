"""Codecs: what they make of a row group, and that nothing else is decoded."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from castore.blobs import codec as module
from castore.blobs.codec import CODECS, codec_named
from castore.errors import DamagedError

ROOT = Path(__file__).parents[2]
NAMES = CODECS[1:]
by_name = pytest.mark.parametrize("name", NAMES)


def group(nbytes, kind="mixed", seed=0):
    """Bytes of a row group: noise, zeros, or something between."""
    rng = np.random.default_rng(seed)
    if kind == "zeros":
        return np.zeros(nbytes, np.uint8)
    found = rng.integers(0, 256, nbytes, np.uint8)
    return found if kind == "noise" else found * (rng.random(nbytes) < 0.3).astype(np.uint8)


kinds = st.sampled_from(["noise", "zeros", "mixed"])


@by_name
@given(
    items=st.sampled_from([1, 2, 4, 8, 16]),
    count=st.integers(1, 300) | st.sampled_from([4096, 70_000]),
    kind=kinds,
    seed=st.integers(0, 99),
)
def test_groups_are_decoded_as_they_were(name, items, count, kind, seed):
    """Any bytes come back as they were, and nothing beside their place is touched."""
    data, codec = group(items * count, kind, seed), codec_named(name)
    encoded = np.frombuffer(codec.encode(data, items), np.uint8)
    around = np.full(len(data) + 2, 7, np.uint8)
    codec.decode(encoded, around[1:-1])
    assert around[1:-1].tobytes() == data.tobytes()
    assert around[0] == around[-1] == 7


@by_name
@pytest.mark.parametrize("items", [1, 4, 16])
@pytest.mark.parametrize("nbytes", [65536, 3_000_000])
def test_equal_groups_become_equal_bytes(name, items, nbytes):
    """Whatever thread encodes, and however many blosc may use inside, the bytes are the same."""
    data, codec, found = group(nbytes // items * items), codec_named(name), set()
    before = blosc.set_nthreads(1)
    try:
        for threads in (1, 2, 8):
            blosc.set_nthreads(threads)
            blosc.use_threads = True
            found.add(codec.encode(data, items))
            other = threading.Thread(target=lambda: found.add(codec.encode(data, items)))
            other.start()
            other.join()
    finally:
        blosc.set_nthreads(before)
    assert len(found) == 1


@pytest.mark.parametrize("items", [1, 2, 4, 8, 16])
def test_numcodecs_decodes_what_the_metadata_say(items):
    """The metadata name the settings with which numcodecs itself makes the same bytes."""
    data = group(65536)
    (said,) = codec_named("zstd").metadata(items)
    theirs = numcodecs.Zstd(**said["configuration"])
    assert theirs.encode(data) == codec_named("zstd").encode(data, items)
    said, crc32c = codec_named("blosc").metadata(items)
    settings = {**said["configuration"]}
    assert settings.pop("typesize") == items
    settings["shuffle"] = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}[
        settings["shuffle"]
    ]
    theirs = numcodecs.Blosc(**settings)
    assert theirs.encode(data.view(f"V{items}")) == codec_named("blosc").encode(data, items)[:-4]
    assert crc32c == {"name": "crc32c"}


@pytest.mark.parametrize(
    ("items", "shuffle"), [(1, "bitshuffle"), (2, "shuffle"), (4, "shuffle"), (16, "shuffle")]
)
def test_settings_are_those_of_the_format(items, shuffle):
    """Levels, checksums and the order of bytes are what the format says, for each element size."""
    assert codec_named("zstd").metadata(items) == [
        {"configuration": {"checksum": True, "level": 3}, "name": "zstd"}
    ]
    settings = {"blocksize": 0, "clevel": 5, "cname": "lz4", "shuffle": shuffle, "typesize": items}
    assert codec_named("blosc").metadata(items) == [
        {"configuration": settings, "name": "blosc"},
        {"name": "crc32c"},
    ]


@by_name
@given(data=st.binary(max_size=200), nbytes=st.sampled_from([1, 2, 100, 65536]))
def test_noise_is_damage(name, data, nbytes):
    """Bytes that no codec wrote are damage."""
    with pytest.raises(DamagedError, match=f"not what {name} makes"):
        codec_named(name).decode(np.frombuffer(data, np.uint8), np.empty(nbytes, np.uint8))


@by_name
@given(kind=kinds, bit=st.integers(0, 2**32))
def test_a_flipped_bit_is_damage_or_nothing(name, kind, bit):
    """A flipped bit in an encoded group is damage, or the group is decoded as it was."""
    data, codec = group(5000, kind), codec_named(name)
    encoded = np.frombuffer(bytearray(codec.encode(data, 4)), np.uint8)
    encoded[bit // 8 % len(encoded)] ^= 1 << bit % 8
    into = np.empty(5000, np.uint8)
    try:
        codec.decode(encoded, into)
    except DamagedError:
        return
    assert into.tobytes() == data.tobytes()


@by_name
@pytest.mark.parametrize("change", [-1, 1, 60_000])
def test_a_group_of_another_length_is_damage(name, change):
    """What holds less than the group, or more, is damage though numcodecs would take it."""
    codec = codec_named(name)
    encoded = np.frombuffer(codec.encode(group(65536), 1), np.uint8)
    with pytest.raises(DamagedError, match="another length"):
        codec.decode(encoded, np.empty(65536 + change, np.uint8))


@by_name
def test_a_group_cut_short_or_continued_is_damage(name):
    """An encoded group from which bytes are missing, or that goes on, is damage."""
    codec, into = codec_named(name), np.empty(5000, np.uint8)
    encoded = codec.encode(group(5000), 1)
    for wrong in (encoded[:-1], encoded[:20], encoded[:5], b"", encoded + b"\0", encoded[:-4]):
        with pytest.raises(DamagedError):
            codec.decode(np.frombuffer(wrong, np.uint8), into)


LIES = {
    "zstd of 2**60": ("zstd", b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\1\0\0"),
    "zstd that does not say": ("zstd", b"\x28\xb5\x2f\xfd\0\x58\1\0\0" + bytes(9)),
    "zstd with a dictionary": ("zstd", b"\x28\xb5\x2f\xfd\xa1\7\0\0\1\0\1\0\0" + bytes(9)),
    "zstd that is skipped": ("zstd", b"\x50\x2a\x4d\x18\x10\0\0\0" + bytes(16)),
    "blosc of 2**31": ("blosc", b"\2\1\x21\4\xff\xff\xff\x7f\0\0\1\0\x20\0\0\0" + bytes(20)),
    "blosc beyond its end": ("blosc", b"\2\1\x21\4\0\0\1\0\0\0\1\0\xff\xff\xff\x7f" + bytes(20)),
    "blosc before its end": ("blosc", b"\2\1\x21\4\0\0\1\0\0\0\1\0\4\0\0\0" + bytes(20)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lengths_in_headers_are_not_believed(lie):
    """A header that claims another length than the group's is damage before a library sees it."""
    name, data = lie
    with pytest.raises(DamagedError, match="another length"):
        codec_named(name).decode(np.frombuffer(data, np.uint8), np.empty(65536, np.uint8))


@given(st.sampled_from([1, 2, 200, 255, 256, 257, 5000, 65_535, 65_536, 65_791, 65_792, 9_000_000]))
def test_zstd_says_how_much_it_holds(nbytes):
    """The length that a frame says it has is read as zstd wrote it, in each of its widths."""
    for level in (-5, 3):
        for data in (bytes(nbytes), group(nbytes, "noise").tobytes()):
            encoded = zstd.compress(data, level, True)
            assert module._zstd_nbytes(encoded[:14]) == nbytes


FORGED = """
import numpy as np
from castore.blobs.codec import _crc32c, codec_named
from castore.errors import DamagedError
rng, codec = np.random.default_rng(0), codec_named("blosc")
data = (np.arange(16384) % 1000).astype("<i4").view("u1")
into = np.empty(len(data), "u1")
outcomes = {"damage": 0, "rows": 0}
for items in (1, 4):
    sound = codec.encode(data, items)[:-4]
    for _ in range(3000):
        forged = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(0, 40 if rng.random() < 0.5 else len(forged))
            forged[at] = rng.integers(256)
        forged[4:8], forged[12:16] = sound[4:8], sound[12:16]
        whole = np.frombuffer(bytes(forged) + _crc32c(bytes(forged)), "u1")
        try:
            codec.decode(whole, into)
            outcomes["rows"] += 1
        except DamagedError:
            outcomes["damage"] += 1
print(*outcomes.values())
"""


def test_forged_groups_kill_nobody():
    """Groups forged with right lengths and checksums are damage or other rows, and no crash."""
    run = subprocess.run(
        [sys.executable, "-c", FORGED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr[-500:]
    assert all(int(count) > 0 for count in run.stdout.split())
