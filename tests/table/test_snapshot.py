"""Snapshots: a file says what was written, or is refused."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest

from castore.identity.rows import from_integers
from castore.table.entry import Schema
from castore.table.records import Records
from castore.table.snapshot import UNUSED, Indexed, Snapshot, read, write

FORM = {"dict": [["é\udc80", {"array": "a"}], [{"float": "0x1p+0"}, {"array": "b"}]]}
SCHEMA = Schema(FORM, {"a": ("float32", (3, 4)), "b": ("bfloat16", ())})
ENTRY = Indexed("0" * 32, "((1, 2), 3)", 1763655311.123456789, 5, False, SCHEMA, 2**60, "f" * 32)
OTHER = replace(
    ENTRY, key="1" * 32, square=True, schema=Schema({"array": "a"}, {"a": ("bool", ())})
)
IDS = from_integers("5a" * 16, np.arange(5))
WHOLE = Snapshot(
    (ENTRY,),
    (OTHER,),
    {"2" * 32: "refused"},
    {"3" * 32: "damaged"},
    Records().merged([IDS], 0, np.arange(1)),
)


@pytest.fixture
def path(tmp_path):
    """Yield the path of a file with a snapshot."""
    write(tmp_path / "rows" / "index", WHOLE)
    return tmp_path / "rows" / "index"


def test_a_file_says_what_was_written(path):
    """What was written is read again, but for what was damaged: that may be mended by then."""
    found = read(path)
    assert (found.entries, found.others) == (WHOLE.entries, WHOLE.others)
    assert (found.refused, found.damaged) == (WHOLE.refused, {})
    assert found.records.find(IDS)[1].tolist() == [0, 1, 2, 3, 4]
    assert found.extent == WHOLE.extent
    assert not found.records.data.flags.writeable


def test_an_empty_snapshot_is_kept(tmp_path):
    """A table none of whose entries lends rows has a file as well."""
    write(tmp_path / "index", Snapshot(refused={"2" * 32: "tag"}))
    assert read(tmp_path / "index").tags == {"2" * 32: "tag"}


def test_a_large_file_is_mapped(tmp_path):
    """Rows of a file that is mapped, not read, are found too."""
    many = from_integers("5a" * 16, np.arange(20_000))
    write(tmp_path / "index", replace(WHOLE, records=Records().merged([many], 0, np.arange(1))))
    assert read(tmp_path / "index").records.find(many)[1].tolist() == list(range(20_000))


def test_what_is_gone_or_changed_is_no_longer_known():
    """Tags that a listing does not show are dropped; rows stay while all their entries do."""
    tags = WHOLE.tags
    assert WHOLE.those(tags) == WHOLE
    for key in tags:
        for listed in ({**tags, key: "new"}, {k: tag for k, tag in tags.items() if k != key}):
            left = WHOLE.those(listed)
            assert left.tags == {k: tag for k, tag in tags.items() if k != key}
            assert len(left.records.data) == (0 if key == ENTRY.key else 5)
            assert left.entries == (() if key == ENTRY.key else WHOLE.entries)


def test_every_changed_byte_is_noticed(path):
    """A file with any one byte changed is refused."""
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            read(path)


def test_a_file_that_was_cut_is_refused(path):
    """A file that ends too soon, anywhere, is refused."""
    data = path.read_bytes()
    for length in [0, 1, 15, 16, 17, 32, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="damaged"):
            read(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    """There being no file is another thing than its being damaged."""
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_unused_files_are_forgotten(path):
    """Writing a file removes those unused for long, and reading one says that it was used."""
    old, used = path.with_name("old"), path.with_name("used")
    for other in (old, used):
        write(other, WHOLE)
    for other in (old, used):
        os.utime(other, (0, time.time() - UNUSED - 100))
    read(used)
    write(path, WHOLE)
    assert sorted(other.name for other in path.parent.iterdir()) == ["index", "used"]
