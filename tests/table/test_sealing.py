"""Rows are sealed as they come; what is left when a stream ends depends on how it ended."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from castore.backend.local import LocalBackend
from castore.canonical import identify
from castore.errors import CommitError, ResultError
from castore.once.owner import Owner
from castore.table import sealing
from castore.table.adoption import orphans
from castore.table.draft import RowStream, SpillingUpload
from castore.table.entry import find_entry
from castore.table.sealing import Sealing
from castore.table.segment import Segment

COUNT = 40


@pytest.fixture
def backend(tmp_path):
    """An empty store of files."""
    return LocalBackend(tmp_path / "store")


@pytest.fixture
def always(monkeypatch):
    """Rows are sealed after every batch."""
    monkeypatch.setattr(sealing, "SEAL_SECONDS", 0.0)


def left(backend):
    """Names of all that is left of segments, and of temporary files."""
    folder = Path(backend.url) / "tmp"
    files = sorted(f"tmp/{path.name}" for path in folder.iterdir())
    return [info.name for info in backend.list("segments/")] + files


def documents(interrupted, backend):
    """Every segment there is, whoever writes it."""
    names = [info.name for info in backend.list("segments/") if info.name.endswith(".json")]
    return [
        Segment.from_bytes(backend.get(name), interrupted.TABLE, Path(name).stem) for name in names
    ]


def columns(interrupted):
    """Two columns of 40 rows."""
    return {"x": interrupted.rows(COUNT), "y": interrupted.rows(COUNT, "<i8", (2,))}


FORM = {"dict": [["x", {"array": "x"}], ["y", {"array": "y"}]]}


@contextlib.contextmanager
def streamed(backend, made):
    """Streams for the columns of `made`, still without rows."""
    with backend.upload() as one, backend.upload() as two:
        uploads = {"x": one, "y": two}
        yield {n: RowStream(made[n], upload, "xxh3-128") for n, upload in uploads.items()}


@pytest.mark.usefixtures("always")
def test_rows_are_sealed_as_they_come(interrupted, backend):
    """When it is time rows are sealed, however few, by a process that says who it is."""
    seen = []

    def look(count):
        (segment,) = documents(interrupted, backend)
        seen.append((count, segment.rows, segment.closed, segment.owner))

    yielded = interrupted.batches(columns(interrupted), [1, 39])
    interrupted.compute(backend, yielded, COUNT, on_rows=look)
    assert seen == [(1, 1, False, Owner.here()), (40, 40, False, Owner.here())]


def test_rows_are_sealed_when_it_is_time(interrupted, backend, monkeypatch):
    """Between two seals rows come without one."""
    seen = []
    monkeypatch.setattr(sealing, "SEAL_SECONDS", float("inf"))  # put back when the test ends
    yielded = interrupted.batches(columns(interrupted), [4, 6, 9, 21])
    interrupted.compute(
        backend,
        interrupted.sealed_after(yielded, {1}),
        COUNT,
        on_rows=lambda _: seen.append([s.rows for s in documents(interrupted, backend)]),
    )
    assert seen == [[], [10], [10], [10]]


def test_quick_streams_seal_nothing(interrupted, backend, monkeypatch):
    """A stream that ends before it is time for a seal costs none."""
    seen = []
    monkeypatch.setattr(sealing, "SEAL_SECONDS", float("inf"))
    yielded = interrupted.batches(columns(interrupted), [20, 20])
    interrupted.compute(
        backend, yielded, COUNT, on_rows=lambda _: seen.extend(backend.list("segments/"))
    )
    assert seen == []


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("publish", [True, False])
def test_a_stream_that_ends_well_leaves_nothing(publish, interrupted, backend):
    """When the block ends neither documents nor temporary files are left, published or not."""
    made = columns(interrupted)
    interrupted.compute(backend, interrupted.batches(made, [20, 20]), COUNT, publish=publish)
    assert left(backend) == []
    key = identify("key", interrupted.identified(COUNT)[1]["entry"])
    entry = find_entry(backend, interrupted.TABLE, key)
    assert (entry is not None) == publish
    if entry is not None:
        assert all(np.array_equal(entry.arrays()[name], made[name]) for name in made)


@pytest.fixture(params=["sealed before", "never sealed before"])
def ever(request, monkeypatch):
    """Rows are sealed after every batch, or not before the end."""
    seconds = 0.0 if request.param == "sealed before" else float("inf")
    monkeypatch.setattr(sealing, "SEAL_SECONDS", seconds)


@pytest.mark.usefixtures("ever")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, GeneratorExit])
@pytest.mark.parametrize("where", ["generator", "consumer"])
def test_exceptions_close_the_stream(error, where, interrupted, backend):
    """Whatever ends a stream, in its generator or in who reads it: every row so far is sealed."""

    def fail(count=25):
        if count == 25:
            raise error

    sizes, watch = ([10, 15], lambda _: None) if where == "generator" else ([10, 15, 15], fail)
    yielded = interrupted.batches(columns(interrupted), sizes, fail)
    with pytest.raises(error):
        interrupted.compute(backend, yielded, COUNT, on_rows=watch)
    (segment,) = documents(interrupted, backend)
    assert (segment.closed, segment.rows) == (True, 25)
    assert left(backend) == sorted(segment.names) + sorted(segment.files)
    assert [orphan.segment for orphan in orphans(backend, interrupted.TABLE)] == [segment]


def test_a_stream_without_rows_leaves_nothing(interrupted, backend):
    """A stream that breaks before its first row leaves nothing."""

    def fail():
        raise ValueError

    for sizes in ([], [0]):
        with pytest.raises(ValueError):  # noqa: PT011  nothing of castore's
            interrupted.compute(
                backend, interrupted.batches(columns(interrupted), sizes, fail), COUNT
            )
        assert left(backend) == []


WRONG = {
    "another dtype": lambda made: {**made, "x": made["x"].astype("<f8")},
    "more rows than samples": lambda made: made,
    "no rows": lambda _: 3.5,
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_stream_that_is_refused_leaves_nothing(wrong, interrupted, backend):
    """What a function yields that castore refuses says nothing for the rows before."""
    made = columns(interrupted)
    with pytest.raises(ResultError) as caught:
        interrupted.compute(backend, iter([made, wrong(made)]), COUNT)
    assert caught.value.partial
    assert left(backend) == []


@pytest.mark.usefixtures("always")
def test_too_few_rows_leave_nothing(interrupted, backend):
    """A stream that ends before the last sample has rows of nobody knows which samples."""
    with pytest.raises(ResultError):
        interrupted.compute(backend, interrupted.batches(columns(interrupted), [20, 19]), COUNT)
    assert left(backend) == []


@pytest.mark.usefixtures("always")
def test_rows_of_too_many_are_sealed_no_more(interrupted, backend):
    """Once there are more rows than samples nothing stays sealed, even while the stream goes on."""
    seen = []
    with pytest.raises(ResultError):
        interrupted.compute(
            backend,
            interrupted.batches(columns(interrupted), [20, 10, 10, 0]),
            39,
            on_rows=lambda count: seen.append((count, len(documents(interrupted, backend)))),
        )
    assert seen == [(20, 1), (30, 1), (40, 0), (40, 0)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("error", "kept"), [(CommitError("full", None), 1), (KeyboardInterrupt(), 1), (ValueError(), 0)]
)
def test_rows_that_could_not_be_published_stay(error, kept, interrupted, backend):
    """Trouble of the store after the last row leaves them sealed; an objection to them does not."""
    row_ids, found = interrupted.identified(COUNT)
    key = identify("key", found["entry"])
    made = columns(interrupted)

    def stream():
        with (
            Sealing(backend, interrupted.TABLE, key, row_ids, lambda: found) as seals,
            streamed(backend, made) as streams,
        ):
            for name, stream in streams.items():
                stream.append(made[name])
            seals.saw(FORM, streams, COUNT)
            raise error

    with pytest.raises(type(error)):
        stream()
    assert [s.rows for s in documents(interrupted, backend)] == [COUNT] * kept
    assert bool(left(backend)) == bool(kept)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("half", ["a column of two", "a row", "a check"])
def test_only_whole_rows_are_sealed(half, interrupted, backend):
    """A batch that did not reach every column whole is not among what is sealed."""
    row_ids, found = interrupted.identified(COUNT)
    made = columns(interrupted)
    key = identify("key", found["entry"])
    with streamed(backend, made) as streams:
        seals = Sealing(backend, interrupted.TABLE, key, row_ids, lambda: found)
        for name, stream in streams.items():
            stream.append(made[name][:5])
        seals.saw(FORM, streams, 5)
        if half == "a column of two":
            streams["x"].append(made["x"][5:9])
        elif half == "a row":
            streams["x"]._upload.write(b"half")
        else:
            streams["x"]._checks = None  # what is updated last
            with pytest.raises(AttributeError):
                streams["x"].append(made["x"][5:9])
        seals.close()
    (orphan,) = orphans(backend, interrupted.TABLE)
    assert orphan.segment.closed
    rescued = orphan.rescue()
    assert len(rescued.row_ids) == 5
    for name, rows in rescued.take(np.arange(5)).items():
        assert rows.tobytes() == made[name][:5].tobytes()


@pytest.mark.usefixtures("always")
def test_a_stream_that_leaves_the_store_is_sealed_no_more(interrupted, backend):
    """Rows that go on in a file without a name cannot be found, so none stays sealed."""
    row_ids, found = interrupted.identified(COUNT)
    x = interrupted.rows(COUNT)
    key = identify("key", found["entry"])
    with (
        Sealing(backend, interrupted.TABLE, key, row_ids, lambda: found) as seals,
        backend.upload() as upload,
    ):
        stream = RowStream(x, SpillingUpload(lambda: upload), "xxh3-128")
        stream.append(x[:5])
        seals.saw({"array": "x"}, {"x": stream}, 5)
        assert len(documents(interrupted, backend)) == 1
        upload._file.close()
        upload._file = upload.path.open("rb", buffering=0)  # from here on a write is refused
        stream.append(x[5:9])
        seals.saw({"array": "x"}, {"x": stream}, 9)
        assert documents(interrupted, backend) == []
        seals.close()
        upload._file.close()
    assert left(backend) == []


@pytest.mark.usefixtures("always")
def test_trouble_with_a_seal_does_not_stop_the_stream(interrupted, backend):
    """Where a seal cannot be written the stream is published all the same."""
    Path(backend.url).mkdir()
    Path(backend.url, "segments").write_bytes(b"in the way")
    made = columns(interrupted)
    interrupted.compute(backend, interrupted.batches(made, [20, 20]), COUNT)
    key = identify("key", interrupted.identified(COUNT)[1]["entry"])
    entry = find_entry(backend, interrupted.TABLE, key)
    assert all(np.array_equal(entry.arrays()[name], made[name]) for name in made)
    assert not list(Path(backend.url, "tmp").iterdir())


def test_what_is_whole_supersedes_its_parts(interrupted, backend):
    """When a key is stored, segments that dead writers left of it go; those of others stay."""

    def fail():
        raise ValueError

    made = columns(interrupted)
    fewer = {name: column[:30] for name, column in made.items()}
    for some, count in ((made, COUNT), (made, COUNT), (fewer, 30)):
        with pytest.raises(ValueError):  # noqa: PT011  nothing of castore's
            interrupted.compute(backend, interrupted.batches(some, [10], fail), count)
    assert len(documents(interrupted, backend)) == 3
    interrupted.compute(backend, interrupted.batches(made, [40]), COUNT)
    (segment,) = documents(interrupted, backend)
    assert segment.key == identify("key", interrupted.identified(30)[1]["entry"])


@pytest.mark.usefixtures("always")
def test_row_ids_are_written_once(interrupted, backend):
    """A seal writes the document alone: the row ids of a million rows are not written again."""
    seen = set()

    def look(_):
        (name,) = (i.name for i in backend.list("segments/") if i.name.endswith(".rows"))
        seen.add(backend.stat(name).tag)
        assert backend.get(name) == interrupted.identified(COUNT)[0].tobytes()

    yielded = interrupted.batches(columns(interrupted), [10] * 4)
    interrupted.compute(backend, yielded, COUNT, on_rows=look)
    assert len(seen) == 1
