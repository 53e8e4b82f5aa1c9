"""Entries being written: streams of rows, and uploads that outlive trouble of the store."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from castore import arrays, digest
from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import shard
from castore.errors import BackendError, StoreError
from castore.table.column import Column
from castore.table.draft import Draft, RowStream, SpillingUpload

ROOT = Path(__file__).parents[2]
ROWS = np.arange(7 * 5000, dtype="<f8").reshape(7, 5000)


@pytest.fixture(params=["local", "memory"])
def backend(request, tmp_path):
    """Yield an empty backend of each kind."""
    if request.param == "local":
        return LocalBackend(tmp_path / "store")
    return MemoryBackend(uuid.uuid4().hex)


def streamed(upload, batches, algorithm="xxh3-128"):
    """A finished stream of `batches`."""
    stream = RowStream(batches[0], upload, algorithm)
    for batch in batches:
        assert stream.fits(batch)
        stream.append(batch)
    stream.finish()
    return stream


def whole(array, algorithm):
    """The entry to be of an array that came whole."""
    draft = Draft(algorithm)
    draft.add("x", array)
    draft.complete()
    return draft


def contents(draft):
    """What a draft would store, by Zarr key."""
    return {key: (p.digest, p.length, bytes(p.to_bytes())) for key, p in draft.payloads.items()}


@given(
    cuts=st.lists(st.integers(0, 7), max_size=5),
    array=st.sampled_from([ROWS, ROWS[:, :1], ROWS[:, :0], ROWS[:0], ROWS[:, 0], ROWS > 9]),
    algorithm=st.sampled_from(["xxh3-128", "sha256"]),
)
def test_streams_are_what_the_whole_would_be(cuts, array, algorithm):
    """Rows that come in any batches become the column, blob and checks of the whole array."""
    array = np.ascontiguousarray(array)
    ends = [0, *sorted(cuts), len(array)]
    batches = [array[a:b] for a, b in itertools.pairwise(ends)]
    with MemoryBackend(uuid.uuid4().hex).upload() as upload:
        stream = streamed(upload, batches, algorithm)
        draft = Draft(algorithm)
        draft.add_stream("x", stream)
        expected = whole(array, algorithm)
        assert draft.metadata == expected.metadata
        assert contents(draft) == contents(expected)
        assert stream.column("x") == Column.of("x", array)
        assert stream.array().tobytes() == array.tobytes()
        assert stream.array().shape == array.shape


def test_streams_show_the_rows_so_far(backend):
    """The rows of a stream under way can be read, as an array of their own."""
    with backend.upload() as upload:
        stream = RowStream(ROWS, upload, "xxh3-128")
        for count in (2, 5):
            stream.append(ROWS[stream.rows : count])
            found = stream.array()
            assert np.array_equal(found, ROWS[:count])
            found[...] = 0
        assert np.array_equal(stream.array(), ROWS[:5])


@pytest.mark.parametrize(
    ("batch", "fits"),
    [
        (ROWS[:1], True),
        (ROWS[:0], True),
        (ROWS.astype("<f4"), False),
        (ROWS[:, :4], False),
        (ROWS[:, :, None], False),
        (ROWS[0], False),
    ],
)
def test_streams_know_what_continues_them(batch, fits, backend):
    """A batch continues a stream if it has its dtype and row shape, however many rows."""
    with backend.upload() as upload:
        assert RowStream(ROWS[:2], upload, "xxh3-128").fits(batch) == fits


def test_drafts_hold_a_zarr_group():
    """A draft has metadata for its group and columns, and checks of every column with rows."""
    draft = whole(ROWS, "xxh3-128")
    draft.add("none", np.empty((0, 3)))
    draft.add("point", np.array(5))
    draft.add_rows(np.zeros((7, 16), np.uint8))
    draft.complete()
    assert sorted(draft.metadata) == [
        *("_checks/x/zarr.json", "_checks/zarr.json", "_rows/zarr.json"),
        *("none/zarr.json", "point/zarr.json", "x/zarr.json", "zarr.json"),
    ]
    assert sorted(draft.payloads) == ["_checks/x/c/0", "_rows/c/0/0", "point/c", "x/c/0/0"]
    stored = draft.payloads["_checks/x/c/0"].to_bytes()
    checks = shard.checks(arrays.raw(ROWS), 40_000).tobytes()
    assert stored.startswith(checks)
    assert draft.payloads["x/c/0/0"].digest == digest.hexdigest(
        [ROWS.tobytes(), Column.of("x", ROWS).tail()]
    )


def test_uploads_pass_through(backend):
    """While the store works, bytes are written, shown and named as by its own upload."""
    with backend.upload() as upload:
        spilling = SpillingUpload(lambda: upload)
        spilling.write(b"one")
        spilling.write(ROWS)
        assert spilling.contents(3).tobytes() == b"one"
        spilling.finish("name")
    assert backend.get("name") == b"one" + ROWS.tobytes()


def test_uploads_to_nowhere_keep_their_bytes():
    """Where nothing is to be stored the bytes are kept all the same, and can get no name."""
    spilling = SpillingUpload(lambda: None)
    assert spilling.contents(0).shape == (0,)
    spilling.write(ROWS)
    spilling.write(b"end")
    found = spilling.contents(ROWS.nbytes + 3)
    assert found.tobytes() == ROWS.tobytes() + b"end"
    found[...] = 0
    assert spilling.contents(3).tobytes() == ROWS.tobytes()[:3]
    with pytest.raises(StoreError, match="was not written to the store"):
        spilling.finish("name")


def test_uploads_outlive_the_store(tmp_path):
    """When the store fails midway the bytes go on elsewhere, and naming tells what went wrong."""
    backend = LocalBackend(tmp_path / "store")
    with backend.upload() as upload:
        spilling = SpillingUpload(lambda: upload)
        spilling.write(b"before ")
        upload._file.close()
        upload._file = upload.path.open("rb", buffering=0)  # from here on a write is refused
        spilling.write(b"after ")
        spilling.write(b"that")
        upload._file.close()
        assert spilling.contents(17).tobytes() == b"before after that"
        with pytest.raises(BackendError, match=f"cannot write {upload.path}"):
            spilling.finish("name")
    assert list(backend.list("")) == []


def test_uploads_that_cannot_begin_keep_their_bytes():
    """Where an upload cannot even begin the bytes are kept, and naming tells why it could not."""

    def begin():
        raise BackendError("no room for the first byte")

    spilling = SpillingUpload(begin)
    spilling.write(b"bytes")
    assert spilling.contents(5).tobytes() == b"bytes"
    with pytest.raises(BackendError, match="no room for the first byte"):
        spilling.finish("name")


NOWHERE = """
import os, sys, tempfile
from castore.errors import BackendError
from castore.table.draft import SpillingUpload
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
spilling = SpillingUpload(lambda: None)
spilling.write(bytes(90_000))
try:
    spilling.write(bytes(90_000))
except BackendError as error:
    print(error)
print(spilling.contents(90_000).any())
"""


def test_a_temporary_folder_that_fills_is_told():
    """Where the temporary folder takes no more either, a castore error says so."""
    run = subprocess.run(
        [sys.executable, "-c", NOWHERE], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    error, rows = run.stdout.splitlines()
    assert tempfile.gettempdir() in error
    assert "free some space" in error
    assert rows == "False"


FULL = """
import os, subprocess, sys
from pathlib import Path
import numpy as np
from castore.backend.local import LocalBackend
from castore.errors import BackendError
from castore.table.result import Sink, collect
from castore.table.writer import Writer
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", root], check=True)
backend = LocalBackend(root)
writer = Writer(backend, "ab" * 16, {})
rows = np.random.default_rng(0).integers(0, 256, (100, 64, 1000), np.uint8)
with backend.upload() as upload:
    result = collect(iter(rows), 6400, "rows", Sink(lambda: upload))
    print(np.array_equal(result.value("numpy"), rows.reshape(6400, 1000)))
    try:
        writer.publish(result.draft("xxh3-128", None), {
            "table": "ab" * 16, "key": "cd" * 16, "rows": 6400, "aligned": True,
            "form": result.form, "derivation": {}, "origin": {}})
    except BackendError as error:
        print(error)
    print(np.array_equal(result.value("numpy"), rows.reshape(6400, 1000)))
print([info.name for info in backend.list("")])
"""


def test_a_disk_that_fills_midway_costs_no_row(tmp_path):
    """When the store's disk fills under a stream its rows are whole, and no entry is made."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*command, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of his own")
    run = subprocess.run(
        [*command, sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    before, error, after, names = run.stdout.splitlines()
    assert (before, after) == ("True", "True")
    assert "the disk is full" in error
    assert names == str(["castore.json", f"tables/{'ab' * 16}/table.json"])
