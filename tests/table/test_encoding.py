"""Columns being encoded: a stream becomes what the whole array becomes, a window at a time."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import coded
from castore.blobs.codec import CODECS
from castore.digest import hexdigest
from castore.errors import BackendError, ResultError
from castore.table import encoding as module
from castore.table.column import CHECKS, Column
from castore.table.draft import Draft, RowStream

ROOT = Path(__file__).parents[2]
ROWS = (np.arange(7 * 50_000) // 3 % 1000).astype("<f8").reshape(7, 50_000)
NAMES = CODECS[1:]
by_codec = pytest.mark.parametrize("codec", NAMES)


def streamed(backend, uploads, batches):
    """A finished stream of `batches`."""
    stream = RowStream(batches[0], uploads.enter_context(backend.upload()), "xxh3-128")
    for batch in batches:
        stream.append(batch)
    stream.finish()
    return stream


def whole(array, codec, algorithm="xxh3-128"):
    """The entry to be of an array that came whole."""
    draft = Draft(algorithm)
    draft.add("x", array, codec)
    draft.complete()
    return draft


def contents(draft):
    """What a draft would store, by Zarr key."""
    return {
        k: (p.digest, p.length, p.parts, bytes(p.to_bytes())) for k, p in draft.payloads.items()
    }


@given(
    cuts=st.lists(st.integers(0, 7), max_size=4),
    array=st.sampled_from([ROWS, ROWS[:, :1], ROWS[:, :0], ROWS[:0], ROWS[:, 0], ROWS > 9]),
    codec=st.sampled_from(CODECS),
    window=st.sampled_from([1, 500_000, 8 << 20]),
    in_memory=st.booleans(),
)
def test_streams_are_what_the_whole_would_be(cuts, array, codec, window, in_memory):
    """Rows that come in any batches are encoded to the blob and the checks of the whole array."""
    array = np.ascontiguousarray(array)
    batches = [array[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(array)])]
    backend = MemoryBackend(uuid.uuid4().hex)
    with contextlib.ExitStack() as uploads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW", window)
        stream = streamed(backend, uploads, batches)
        draft = Draft("xxh3-128")
        begin = None if in_memory else lambda: uploads.enter_context(backend.upload())
        draft.add_stream("x", stream, codec, begin)
        expected = whole(array, codec)
        assert draft.metadata == expected.metadata
        assert contents(draft) == contents(expected)
        assert stream.array().tobytes() == array.tobytes()


def test_large_streams_have_parts(tmp_path):
    """A shard beyond 4 MiB that was encoded a window at a time has the checks of its parts."""
    rows = np.random.default_rng(0).integers(0, 256, (1500, 8192), np.uint8)
    with contextlib.ExitStack() as uploads:
        backend = LocalBackend(tmp_path)
        stream = streamed(backend, uploads, [rows[:700], rows[700:]])
        draft = Draft("sha256")
        draft.add_stream("x", stream, "zstd", lambda: uploads.enter_context(backend.upload()))
        expected = whole(rows, "zstd", "sha256")
        assert contents(draft) == contents(expected)
        assert len(draft.payloads["x/c/0/0"].parts) == 3 * 16


@by_codec
def test_checks_are_of_what_is_stored(codec):
    """Row checks of a coded column are those of its encoded groups, and wait for nothing."""
    draft = Draft("xxh3-128")
    draft.add("x", ROWS, codec)
    column = Column.of("x", ROWS).with_codec(codec)
    groups = column.coded.encode(ROWS.reshape(-1).view(np.uint8))
    stored = draft.payloads[f"{CHECKS}/x/c/0"].to_bytes()
    assert stored.startswith(coded.checks(groups).tobytes())
    assert draft.metadata[f"{CHECKS}/x/zarr.json"]["shape"] == [len(groups)]
    index = column.coded.index(list(map(len, groups)))
    assert draft.payloads["x/c/0/0"].digest == hexdigest([*groups, index])


@pytest.mark.parametrize("array", [np.array(5), np.empty((0, 3)), np.empty((4, 0))], ids=repr)
@by_codec
def test_what_has_no_shard_is_never_coded(codec, array):
    """Arrays without an axis or without elements are stored as they are, whatever is asked."""
    assert contents(whole(array, codec)) == contents(whole(array, "none"))
    assert whole(array, codec).metadata == whole(array, "none").metadata


def test_rows_too_long_for_a_codec_are_refused():
    """A row that blosc cannot take is refused with its length and column, before it is read."""
    with pytest.raises(ResultError, match=r"'x' has 2,147,483,648 bytes, and blosc takes"):
        Column("x", "uint8", (3, 2**31)).with_codec("blosc")
    assert Column("x", "uint8", (3, 2**31)).with_codec("zstd").coded


def test_rows_that_come_back_changed_are_not_encoded(tmp_path):
    """A temporary file that changed under a stream is noticed before a shard is made of it."""
    backend = LocalBackend(tmp_path)
    with contextlib.ExitStack() as uploads:
        upload = uploads.enter_context(backend.upload())
        stream = RowStream(ROWS, upload, "xxh3-128")
        stream.append(ROWS)
        stream.finish()
        with upload.path.open("r+b") as file:
            file.seek(ROWS.nbytes - 1)
            file.write(b"\xff")
        with pytest.raises(BackendError, match="came back changed"):
            Draft("xxh3-128").add_stream(
                "x", stream, "zstd", lambda: uploads.enter_context(backend.upload())
            )


BOUNDED = """
import contextlib, sys, tracemalloc
from pathlib import Path
import numpy as np
from castore.backend.local import LocalBackend
from castore.table.draft import Draft, RowStream
backend = LocalBackend(Path(sys.argv[1]))
batch = np.random.default_rng(0).integers(0, 256, (512, 8192), np.uint8)
with contextlib.ExitStack() as uploads:
    stream = RowStream(batch, uploads.enter_context(backend.upload()), "xxh3-128")
    for _ in range(24):
        stream.append(batch)
    stream.finish()
    draft = Draft("xxh3-128")
    tracemalloc.start()
    draft.add_stream("x", stream, "zstd", lambda: uploads.enter_context(backend.upload()))
    print(draft.payloads["x/c/0/0"].length, tracemalloc.get_traced_memory()[1])
"""


def test_streams_are_encoded_in_bounded_memory(tmp_path):
    """Encoding a stream of 100 MB takes the memory of a few windows."""
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    length, peak = map(int, run.stdout.split())
    assert length > 100_000_000
    assert peak < 40_000_000
