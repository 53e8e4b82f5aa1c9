"""Rows of interrupted streams are taken over as they were, or not at all."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from castore.backend.local import LocalBackend
from castore.backend.memory import MemoryBackend
from castore.blobs import layout, parts
from castore.once.owner import Owner
from castore.table import adoption
from castore.table.adoption import adopt, orphans
from castore.table.manifest import put_together
from castore.table.writer import Writer

COUNT = 40


class BrokenError(Exception):
    """What ends a stream."""


def fail():
    """Do as a broken sample does."""
    raise BrokenError


@pytest.fixture
def backend(tmp_path):
    """An empty store of files."""
    return LocalBackend(tmp_path / "store")


@pytest.fixture
def broken(interrupted, backend):
    """A store with a stream of 40 rows that broke after 25; its rows."""
    columns = {"x": interrupted.rows(COUNT), "y": interrupted.rows(COUNT, "<i8", ())}
    with pytest.raises(BrokenError):
        interrupted.compute(backend, interrupted.batches(columns, [10, 15], fail), COUNT)
    return columns


def taken(interrupted, backend, vouch=lambda _: True, functions=None):
    """What adoption publishes."""
    writer = Writer(backend, interrupted.TABLE, interrupted.DERIVATION)
    return adopt(backend, writer, interrupted.KIN, functions or interrupted.CODE, vouch)


def left(backend):
    """Names of all that is left of segments, and of temporary files."""
    folder = Path(backend.url) / "tmp"
    files = sorted(f"tmp/{path.name}" for path in folder.iterdir())
    return [info.name for info in backend.list("segments/")] + files


def the_orphan(interrupted, backend):
    """The only segment without a writer."""
    (orphan,) = orphans(backend, interrupted.TABLE)
    return orphan


def check(interrupted, entry, columns, count):
    """See that `entry` has the first `count` rows, bit for bit, under the key that is theirs."""
    found = entry.arrays()
    assert list(found) == list(columns)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype
        assert found[name].shape == (count, *column.shape[1:])
        assert found[name].tobytes() == column[:count].tobytes()
    row_ids, _ = interrupted.identified(COUNT)
    assert np.array_equal(entry.row_ids(), row_ids[:count])
    _, whole = interrupted.identified(count)
    assert entry.manifest.derivation == put_together(whole)
    assert (entry.manifest.rows, entry.manifest.aligned) == (count, True)


SHAPES = st.sampled_from([[], [1], [3], [2, 5], [0], [40]])
DTYPES = st.sampled_from(["|u1", "<f2", "<f4", "<f8", "<i8", "|b1", "<c16"])


@settings(max_examples=50)
@given(data=st.data())
def test_a_killed_stream_resumes_at_its_sealed_rows(data, interrupted, killed):
    """Whatever the batches, columns and times of sealing: exactly the sealed rows are taken."""
    columns = data.draw(st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=3))
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    seals = data.draw(st.sets(st.integers(0, len(sizes) - 1)).map(sorted))
    part = data.draw(st.sampled_from([16, 64, 4 << 20]))
    made = {f"c{i}": interrupted.rows(COUNT, d, tuple(s)) for i, (d, s) in enumerate(columns)}
    sealed = sum(sizes[: seals[-1] + 1]) if seals else 0
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_NBYTES", part)
        status = killed(
            root=root, count=COUNT, sizes=sizes, columns=columns, seals=seals, part=part
        )
        assert status == signal.SIGKILL
        backend = LocalBackend(Path(root))
        entries = taken(interrupted, backend)
        assert [entry.manifest.rows for entry in entries] == [sealed] * bool(sealed)
        for entry in entries:
            check(interrupted, entry, made, sealed)
        assert not list(backend.list("segments/"))
        if sealed:
            assert left(backend) == []
        assert taken(interrupted, backend) == []


def test_rows_of_many_parts_come_back(interrupted, killed, backend):
    """Rows that lie across parts of their real size come back bit for bit."""
    columns = [["<f4", [300_001]], ["|u1", [5]]]
    job = {"root": backend.url, "count": COUNT, "sizes": [7, 4], "columns": columns, "seals": [1]}
    assert killed(**job) == signal.SIGKILL
    (entry,) = taken(interrupted, backend)
    made = {
        "c0": interrupted.rows(COUNT, "<f4", (300_001,)),
        "c1": interrupted.rows(COUNT, "|u1", (5,)),
    }
    check(interrupted, entry, made, 11)


def test_a_living_writer_keeps_its_rows(interrupted, held, backend):
    """While a writer lives nobody takes its rows; when it was killed anybody may."""
    job = {"root": backend.url, "count": COUNT, "sizes": [9], "columns": [["<f4", [3]]]}
    writer = held(**job, seals=[0])
    assert [info.name for info in backend.list("segments/")]
    assert taken(interrupted, backend) == []
    assert left(backend)
    writer.kill()
    writer.communicate()
    (entry,) = taken(interrupted, backend)
    check(interrupted, entry, {"c0": interrupted.rows(COUNT)}, 9)
    assert left(backend) == []


def test_a_broken_stream_is_taken_in_the_same_process(interrupted, backend, broken):
    """What a stream that raised leaves may be taken at once, and says how long it had run."""
    (entry,) = taken(interrupted, backend)
    check(interrupted, entry, broken, 25)
    assert entry.manifest.compute_ns > 0
    assert left(backend) == []


def test_rows_taken_are_their_own_entry(interrupted, backend, broken):
    """Two streams that broke at the same row make one entry, and leave nothing."""
    with pytest.raises(BrokenError):
        interrupted.compute(backend, interrupted.batches(broken, [25], fail), COUNT)
    first, second = taken(interrupted, backend)
    assert first.key == second.key
    check(interrupted, first, broken, 25)
    assert left(backend) == []


def test_other_code_is_not_taken(interrupted, backend, broken):
    """Rows that other code computed are left, and so are rows that may not be lent."""
    before = left(backend)
    assert taken(interrupted, backend, functions={"fn": "11" * 16}) == []
    strict = replace(interrupted.KIN, accepts=lambda _: False)
    writer = Writer(backend, interrupted.TABLE, interrupted.DERIVATION)
    assert adopt(backend, writer, strict, interrupted.CODE) == []
    assert left(backend) == before


def test_rows_can_be_looked_at_before_they_are_taken(interrupted, backend, broken):
    """Whoever takes rows sees any of them first, and may leave them."""
    seen = []

    def vouch(rescued):
        seen.append(rescued.take(np.array([24, 3])))
        return False

    before = left(backend)
    assert taken(interrupted, backend, vouch) == []
    assert left(backend) == before
    for name, column in broken.items():
        assert seen[0][name].tobytes() == column[[24, 3]].tobytes()
        seen[0][name][...] = 0
    check(interrupted, *taken(interrupted, backend), broken, 25)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_rows_end_what_is_taken(data, interrupted):
    """Up to the part with a flipped bit or the end of a short file rows are taken, none beyond."""
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_NBYTES", 64)
        backend = LocalBackend(Path(root))
        columns = {"x": interrupted.rows(COUNT), "y": interrupted.rows(COUNT, "<i8", ())}
        with pytest.raises(BrokenError):
            interrupted.compute(backend, interrupted.batches(columns, [10, 15], fail), COUNT)
        orphan = the_orphan(interrupted, backend)
        written = data.draw(st.sampled_from(orphan.segment.columns))
        at = data.draw(st.integers(0, written.column.nbytes - 1))
        file = Path(root, written.file)
        content = bytearray(file.read_bytes())
        if data.draw(st.booleans()):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[at:]
        file.write_bytes(content)
        rows = at // 64 * 64 // written.column.row_nbytes
        entries = taken(interrupted, backend)
        assert len(entries) == bool(rows)
        for entry in entries:
            check(interrupted, entry, columns, rows)
        assert left(backend) == []


def test_what_follows_the_sealed_rows_is_ignored(interrupted, backend, broken):
    """A file may have more than was sealed: what a writer wrote before it was killed."""
    for file in the_orphan(interrupted, backend).segment.files:
        with Path(backend.url, file).open("ab") as written:
            written.write(b"more")
    check(interrupted, *taken(interrupted, backend), broken, 25)


@pytest.mark.parametrize("lost", ["row ids", "a column"])
def test_lost_files_leave_nothing_to_take(lost, interrupted, backend, broken):
    """Without its row ids, or without a column, a segment is worth nothing and goes."""
    segment = the_orphan(interrupted, backend).segment
    name = segment.names[1] if lost == "row ids" else segment.files[1]
    Path(backend.url, name).unlink()
    assert taken(interrupted, backend) == []
    assert left(backend) == []


def test_other_row_ids_are_not_believed(interrupted, backend, broken):
    """Row ids with a flipped bit name no rows."""
    path = Path(backend.url, the_orphan(interrupted, backend).segment.names[1])
    content = bytearray(path.read_bytes())
    content[17] ^= 4
    path.write_bytes(content)
    assert taken(interrupted, backend) == []


def test_a_damaged_document_is_passed_over(interrupted, backend, broken):
    """A document with any byte changed is nobody's, and stays for whoever collects."""
    path = Path(backend.url, the_orphan(interrupted, backend).segment.names[0])
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert list(orphans(backend, interrupted.TABLE)) == []
    path.write_bytes(b"")
    assert taken(interrupted, backend) == []
    assert path.exists()
    path.write_bytes(whole)
    check(interrupted, *taken(interrupted, backend), broken, 25)


def test_rows_that_change_meanwhile_are_not_published(interrupted, backend, broken, caplog):
    """The copy is checked: rows that change after they were seen intact are not taken."""
    before = left(backend)

    def vouch(rescued):
        rescued.data["x"][11] ^= 1
        return True

    with caplog.at_level(logging.WARNING, "castore"):
        assert taken(interrupted, backend, vouch) == []
    assert "changed while it was copied" in caplog.text
    assert left(backend) == before
    check(interrupted, *taken(interrupted, backend), broken, 25)


def rewritten(backend, segment, **changes):
    """Write the document of `segment` anew with `changes`."""
    backend.put(segment.names[0], [replace(segment, **changes).to_bytes()])


def age(backend, segment, seconds):
    """Make all there is of `segment` as old."""
    for name in (*segment.names, *segment.files):
        path = Path(backend.url, name)
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


@pytest.mark.parametrize("unsure", ["boot", "namespace", "start"])
def test_in_doubt_an_hour_decides(unsure, interrupted, backend, broken):
    """Of a writer that nobody here can see rows are taken after an hour; its files stay."""
    segment = the_orphan(interrupted, backend).segment
    owner = replace(Owner.here(), **{unsure: None})
    rewritten(backend, segment, closed=False, owner=owner)
    age(backend, segment, adoption.UNTOUCHED - 60)
    assert list(orphans(backend, interrupted.TABLE)) == []
    age(backend, segment, 120)
    check(interrupted, *taken(interrupted, backend), broken, 25)
    assert left(backend) == sorted(segment.files)


def test_a_file_that_grows_is_a_sign_of_life(interrupted, backend, broken):
    """A writer whose rows still come lives, however old its document is."""
    segment = the_orphan(interrupted, backend).segment
    rewritten(backend, segment, closed=False, owner=replace(Owner.here(), boot="another"))
    age(backend, segment, 2 * adoption.UNTOUCHED)
    os.utime(Path(backend.url, segment.files[0]))
    assert list(orphans(backend, interrupted.TABLE)) == []


def test_a_process_known_to_live_is_never_gone(interrupted, backend, broken):
    """However old it is, the segment of a process that lives here is its own."""
    segment = the_orphan(interrupted, backend).segment
    rewritten(backend, segment, closed=False)
    age(backend, segment, 100 * adoption.UNTOUCHED)
    assert list(orphans(backend, interrupted.TABLE)) == []


def test_many_take_over_at_once(interrupted, tmp_path):
    """Any number of adopters at once: no wrong row, no error, nothing left, one entry."""
    columns = {"x": interrupted.rows(COUNT), "y": interrupted.rows(COUNT, "<i8", ())}
    for turn in range(10):
        backend = LocalBackend(tmp_path / str(turn))
        with pytest.raises(BrokenError):
            interrupted.compute(backend, interrupted.batches(columns, [10, 15], fail), COUNT)
        start, found, errors = threading.Barrier(4), [], []

        def work(url=backend.url, start=start, found=found, errors=errors):
            start.wait()
            try:
                found.extend(taken(interrupted, LocalBackend(Path(url))))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert found
        for entry in found:
            check(interrupted, entry, columns, 25)
        assert len(list(backend.list(layout.entries(interrupted.TABLE)))) == 1
        assert left(backend) == []


def test_memory_has_no_segments(interrupted):
    """A store in memory goes with its process, so nothing is sealed there."""
    backend = MemoryBackend("interrupted")
    columns = {"x": interrupted.rows(COUNT)}
    with pytest.raises(BrokenError):
        interrupted.compute(backend, interrupted.batches(columns, [10, 15], fail), COUNT)
    assert list(backend.list("segments/")) == []
    assert list(orphans(backend, interrupted.TABLE)) == []
