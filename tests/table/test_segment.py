"""Documents of segments: whole, of this format, consistent, or damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from castore.backend.local import LocalBackend
from castore.canonical import identify, seal, unseal
from castore.errors import DamagedError
from castore.table.adoption import orphans
from castore.table.segment import Segment

COUNT = 40


class BrokenError(Exception):
    """What ends a stream."""


@pytest.fixture
def document(interrupted, tmp_path):
    """The document of a stream of two columns that broke after 25 of 40 rows, and its name."""

    def fail():
        raise BrokenError

    backend = LocalBackend(tmp_path / "store")
    columns = {"x": interrupted.rows(COUNT), "y": interrupted.rows(COUNT, "<i8", ())}
    with pytest.raises(BrokenError):
        interrupted.compute(backend, interrupted.batches(columns, [10, 15], fail), COUNT)
    (orphan,) = orphans(backend, interrupted.TABLE)
    name = orphan.segment.names[0]
    return unseal(backend.get(name), name), Path(name).stem


def parsed(interrupted, document, nonce):
    """What is read from a document, sealed as it should be."""
    data = seal({name: value for name, value in document.items() if name != "digest"})
    return Segment.from_bytes(data, interrupted.TABLE, nonce)


def test_documents_say_what_they_are_made_of(interrupted, document):
    """A document read and written again is the same bytes."""
    segment = parsed(interrupted, *document)
    assert Segment.from_bytes(segment.to_bytes(), segment.table, segment.nonce).to_bytes() == (
        segment.to_bytes()
    )
    assert (segment.rows, segment.closed, segment.owner.pid) == (25, True, os.getpid())
    assert [written.column.name for written in segment.columns] == ["x", "y"]
    assert segment.derivation == interrupted.identified(COUNT)[1]


def test_checks_are_spelled_as_in_manifests(interrupted, document):
    """Checks are 16 hex digits a part, the most significant first."""
    import xxhash

    column = document[0]["columns"][0]
    assert column["checks"] == xxhash.xxh3_64_hexdigest(interrupted.rows(COUNT)[:25].tobytes())


def changed(*path, to):
    """Return what sets a field deep within a document."""

    def change(document):
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


WRONG = {
    "another format": changed("format", to=2),
    "another table": changed("table", to="00" * 16),
    "another key": changed("key", to="00" * 16),
    "another nonce": changed("nonce", to="00" * 16),
    "no owner": changed("owner", to=None),
    "half an owner": changed("owner", "pid", to="1"),
    "no rows": changed("rows", to=0),
    "fewer rows than none": changed("rows", to=-1),
    "more rows than there are": changed("rows", to=41),
    "rows that are no number": changed("rows", to=True),
    "a time that is no number": changed("compute_ns", to="1"),
    "no columns": changed("columns", to=[]),
    "columns that are none": changed("columns", to=[3]),
    "a dtype that is none": changed("columns", 0, "dtype", to="object"),
    "a dtype as a small program": changed("columns", 0, "dtype", to="f4,f4"),
    "another dtype": changed("columns", 0, "dtype", to="float64x"),
    "a shape below none": changed("columns", 0, "shape", to=[-3]),
    "a shape beyond all": changed("columns", 0, "shape", to=[2**60]),
    "a shape that is none": changed("columns", 0, "shape", to="3"),
    "a column by another name": changed("columns", 0, "name", to="z"),
    "a check too many": changed("columns", 0, "checks", to="00" * 16),
    "a check too few": changed("columns", 0, "checks", to=""),
    "half a check": changed("columns", 0, "checks", to="00"),
    "checks that are none": changed("columns", 0, "checks", to="x" * 16),
    "a file elsewhere": changed("columns", 0, "file", to="../../etc/passwd"),
    "a file above": changed("columns", 0, "file", to="tmp/../castore.json"),
    "an object": changed("columns", 0, "file", to="blobs/00/" + "00" * 16),
    "no file": changed("columns", 0, "file", to=None),
    "a form of other columns": changed("form", to={"array": "x"}),
    "a form that is none": changed("form", to=[]),
    "no derivation": changed("derivation", to=None),
    "a derivation without rows": changed("derivation", "entry", to={}),
    "rows of something else": changed("derivation", "entry", "rows", to=[40, "00" * 16]),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_does_not_agree_is_damaged(change, interrupted, document):
    """A document that is sealed and says what cannot be is damaged, whatever it says."""
    found, nonce = document
    change(found)
    with pytest.raises(DamagedError):
        parsed(interrupted, found, nonce)


def test_every_field_is_needed(interrupted, document):
    """A document without one of its fields is damaged; one with another is not."""
    found, nonce = document
    for name in found.keys() - {"digest", "closed"}:
        with pytest.raises(DamagedError):
            parsed(interrupted, {n: v for n, v in found.items() if n != name}, nonce)
    with pytest.raises(DamagedError):
        parsed(interrupted, {n: v for n, v in found.items() if n != "closed"}, nonce)
    assert parsed(interrupted, {**found, "later": 1}, nonce).rows == 25


def test_an_entry_of_another_table_is_damaged(interrupted, document):
    """The entry must be one of the table in whose folder the segment lies."""
    found, nonce = document
    found["derivation"]["entry"]["table"] = "00" * 16
    found["key"] = identify("key", found["derivation"]["entry"])
    with pytest.raises(DamagedError):
        parsed(interrupted, found, nonce)


def test_intact_rows_are_counted_from_the_first(interrupted, document):
    """Rows count up to the first part that is not as it was; without a byte they are all there."""
    segment = parsed(interrupted, *document)
    written = segment.columns[0]
    data = np.frombuffer(interrupted.rows(COUNT)[:25].tobytes(), np.uint8).copy()
    assert written.intact(data) == 25
    data[-1] ^= 1
    assert written.intact(data) == 0
    assert written.intact(data[:0]) == 0
