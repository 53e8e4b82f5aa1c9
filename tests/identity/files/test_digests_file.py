"""Digests written beside the files: believed where size and time agree."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castore.canonical import seal
from castore.digest import hexdigest
from castore.errors import DamagedError, FingerprintError, FormatError
from castore.identity.files.contents import content_digests
from castore.identity.files.digests_file import (
    NAME,
    Listed,
    files_below,
    place,
    read,
    write,
)

WRONG = "f" * 32  # of no file: who gets it believed the document

NAMES = st.binary(max_size=5).map(os.fsdecode)
LISTED = st.builds(
    Listed,
    NAMES,
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with two files below it, one of them in a folder; memos lie elsewhere."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data" / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    return folder


def listed(name: str, path: Path, digest: str = WRONG) -> Listed:
    """List a file as it is now, with a digest."""
    found = path.stat()
    return Listed(name, found.st_size, found.st_mtime_ns, digest)


def believed(*paths: Path, root: Path | None = None) -> list[bool]:
    """Tell of which files a document with wrong digests is believed; others must be right."""
    found = [digest.tobytes().hex() for digest in content_digests(paths, root)]
    for digest, path in zip(found, paths, strict=True):
        assert digest in (WRONG, xxhash.xxh3_128_hexdigest(path.read_bytes()))
    return [digest == WRONG for digest in found]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LISTED, unique_by=lambda file: file.name))
def test_what_is_written_is_read(tmp_path, files):
    """A document gives back what it lists, sorted, and equal lists are equal bytes."""
    path = tmp_path / NAME
    write(path, files)
    assert read(path) == sorted(files)
    first = path.read_bytes()
    write(path, files[::-1])
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_document_is_as_the_manual_says(tmp_path):
    """A document is canonical JSON with its digest at the end."""
    path = tmp_path / NAME
    write(path, [Listed("caf\udce9", 1, 2, "0" * 32)])
    body = (
        b'{"algorithm":"xxh3-128","files":[["caf\\udce9",1,2,"00000000000000000000000000000000"]]'
        b',"format":1'
    )
    assert path.read_bytes() == body + b',"digest":"%s"}' % hexdigest([body]).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_damage(tmp_path, where, bit):
    """A document with any bit flipped is refused."""
    path = tmp_path / NAME
    write(path, [Listed("a", 1, 2, WRONG)])
    data = bytearray(path.read_bytes())
    data[where % len(data)] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=NAME):
        read(path)


@pytest.mark.parametrize(
    "files",
    [
        None,
        [["a", 1, 2]],
        [1],
        [["a", 1, 2, "zz"]],
        [["a", 1, 2, "00"]],
        [["a", 1, 2, "0" * 31], ["b", 1, 2, "0" * 33]],
        [["a", 1, 2, 3]],
        [[5, 1, 2, WRONG]],
        [["\ud800", 1, 2, WRONG]],
    ],
)
def test_a_document_of_another_shape_is_damage(tmp_path, files):
    """A document that lists anything but files is refused, however well it is sealed."""
    path = tmp_path / NAME
    path.write_bytes(seal({"algorithm": "xxh3-128", "files": files, "format": 1}))
    with pytest.raises(DamagedError, match="lists no files"):
        read(path)


@pytest.mark.parametrize("other", [{"format": 2}, {"algorithm": "sha256"}, {"format": None}])
def test_a_newer_document_is_of_another_format(tmp_path, other):
    """A document of a format to come is refused with what to do."""
    path = tmp_path / NAME
    path.write_bytes(seal({"algorithm": "xxh3-128", "files": [], "format": 1, **other}))
    with pytest.raises(FormatError, match="upgrade castore"):
        read(path)


def test_a_listed_file_is_not_read(root):
    """A digest beside the file is believed, by any spelling of paths below any root."""
    paths = [root / "train" / "a", root / "b"]
    write(root / NAME, [listed("train/a", paths[0]), listed("b", paths[1])])
    assert believed(*paths) == believed(*paths, root=root) == [True, True]
    assert believed(paths[0], root=root / "train") == [True]
    assert believed(paths[0]) == [True]


def test_a_file_with_another_size_or_time_is_read(root):
    """An entry is believed only of a file that has its size and modification time."""
    paths = [root / "train" / "a", root / "b"]
    right = [listed("train/a", paths[0]), listed("b", paths[1])]
    write(root / NAME, [right[0]._replace(size=2), right[1]._replace(mtime_ns=1)])
    assert believed(*paths) == [False, False]
    write(root / NAME, [right[0]])
    assert believed(*paths) == [True, False]


def test_what_was_believed_is_not_remembered(root):
    """When a document is corrected or removed, what it said before is forgotten."""
    write(root / NAME, [listed("b", root / "b")])
    assert believed(root / "b") == [True]
    (root / NAME).unlink()
    assert believed(root / "b") == [False]


def test_the_nearest_document_counts(root):
    """A document above the root is found, and one nearer to it wins."""
    path = root / "train" / "a"
    write(root.parent / NAME, [listed("set/train/a", path)])
    assert believed(path) == [True]
    write(root / NAME, [])
    assert believed(path) == [False]


@pytest.mark.parametrize("bad", [b"", b"{}", seal({"format": 2})])
def test_a_bad_document_is_ignored_and_said_once(root, caplog, bad):
    """A document that is damaged or of a newer format is passed over, and logged once."""
    (root / NAME).write_bytes(bad)
    write(root.parent / NAME, [listed("set/b", root / "b")])
    with caplog.at_level(logging.WARNING, "castore"):
        assert believed(root / "b") == believed(root / "b") == [True]
    (record,) = caplog.records
    assert str(root / NAME) in record.message


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_what_is_no_document_is_ignored(root, make):
    """A FIFO, a folder or a looping link in a document's place neither hangs nor fails."""
    make(root / NAME)
    assert believed(root / "b") == [False]


def test_documents_of_strangers_are_not_looked_at(root):
    """In a folder where anybody may put files, such as /tmp, and above it none is believed."""
    write(root.parent / NAME, [listed("set/b", root / "b")])
    root.chmod(0o1777)
    assert believed(root / "b") == [False]
    root.chmod(0o755)
    assert believed(root / "b") == [True]


def test_the_environment_names_documents(root, monkeypatch, tmp_path):
    """$CASTORE_DIGESTS says where the documents of folders lie that cannot be written."""
    apart = tmp_path / "apart"
    write(apart, [listed("b", root / "b")])
    monkeypatch.setenv("CASTORE_DIGESTS", f"/elsewhere=/none:{root}/={apart}")
    assert place(str(root)) == apart
    assert place(str(root.parent)) == root.parent / NAME
    assert believed(root / "b") == [True]
    monkeypatch.setenv("CASTORE_DIGESTS", "nonsense")
    assert believed(root / "b") == [False]


def test_files_below_follows_links_but_no_loops(root):
    """Linked files and folders are listed under their links; a folder within itself is not."""
    (root / "link").symlink_to("b")
    (root / "twin").symlink_to("train")
    (root / "train" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "nowhere").symlink_to("nothing")
    os.mkfifo(root / "fifo")
    (root / NAME).touch()
    files, others = files_below(str(root))
    assert files == [str(root / name) for name in ("b", "link", "train/a", "twin/a")]
    assert others == [str(root / name) for name in ("fifo", "nowhere", "self")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_refused(root):
    """A folder without permission is refused by name: its files would be missing silently."""
    (root / "train").chmod(0)
    with pytest.raises(FingerprintError, match="train cannot be listed"):
        files_below(str(root))


def test_a_folder_that_is_gone_is_refused(root):
    """A folder that does not exist is refused by name."""
    with pytest.raises(FingerprintError, match="gone cannot be listed"):
        files_below(str(root / "gone"))
