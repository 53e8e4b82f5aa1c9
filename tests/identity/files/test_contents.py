"""Content digests of files, paths from a root, row ids, and a file as a value."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import socket
import threading
import time
from pathlib import Path, PurePath

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from castore.digest import identity
from castore.errors import ConfigError, FingerprintError
from castore.identity.files.contents import (
    content_digests,
    contents,
    file,
    file_ids,
    relative,
    stamps,
)
from castore.identity.files.scan import read_file


def later() -> int:
    """Ten seconds from now, when the files made by a test have settled."""
    return time.time_ns() + 10_000_000_000


def expected(*data: bytes) -> list[str]:
    """Digests that files with these contents have."""
    return [xxhash.xxh3_128_hexdigest(one) for one in data]


def hexes(digests: np.ndarray) -> list[str]:
    """Rows as hex."""
    assert digests.dtype == np.uint8
    assert digests.shape[1:] == (16,)
    return [row.tobytes().hex() for row in digests]


def reads(paths, root=None, clock=later) -> int:
    """Find out what the files contain; count those that had to be read."""
    done: list[int] = []
    contents(paths, root, done.append, clock=clock)
    return len(done)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for data; memos lie in another."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def fill(folder: Path, **data: bytes) -> list[str]:
    """Write files; return their paths in the order given."""
    for name, content in data.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in data]


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_digests_are_of_the_bytes_in_the_order_asked(tmp_path_factory, data, draw):
    """Digests are of the files' bytes, in the order of the paths, however often one comes."""
    folder = tmp_path_factory.mktemp("data")
    paths = fill(folder, **{f"f{i}": content for i, content in enumerate(data)})
    chosen = draw.draw(
        st.lists(st.sampled_from(range(len(data))), max_size=12) if data else st.just([])
    )
    found = content_digests([paths[i] for i in chosen])
    assert hexes(found) == expected(*(data[i] for i in chosen))


def test_large_files_are_read_by_threads(folder):
    """Files of many blocks have the digests of their bytes, and each is counted once, in turn."""
    data = {f"f{i:02}": np.random.default_rng(i).bytes(600_000 + i) for i in range(20)}
    paths = fill(folder, **data)
    done: list[int] = []
    found = content_digests(paths, folder, done.append)
    assert hexes(found) == expected(*data.values())
    assert done == list(range(1, 21))


def test_files_are_read_in_sorted_order(folder):
    """Files are read in the order of their paths, whichever order they are asked for in."""
    paths = fill(folder, c=b"3", a=b"1", b=b"2")
    # Each file is removed after it was read, so another order would not find it.
    found = content_digests(paths, None, lambda done: Path(sorted(paths)[done - 1]).unlink())
    assert hexes(found) == expected(b"3", b"1", b"2")


def test_files_are_read_once(folder):
    """What was read is not read again, by any spelling of the root, alone or among others."""
    paths = fill(folder, a=b"1", b=b"2", c=b"3")
    assert reads([*paths, *paths], folder) == 3
    assert reads(paths, folder) == reads(paths[1:], f"{folder}/") == reads(paths, str(folder)) == 0
    assert reads(paths) == 0, "the common folder is the same one"


def test_relative_paths_share_what_absolute_ones_found(folder, monkeypatch):
    """A file is remembered by where it lies, not by how its path is written."""
    paths = fill(folder, a=b"1", b=b"2")
    assert reads(paths, folder) == 2
    monkeypatch.chdir(folder)
    assert reads(["a", "b"]) == reads(["a", "b"], ".") == reads(["./a", "./b"], ".") == 0
    monkeypatch.chdir(folder.parent)
    assert reads(["data/a", "data/b"], "data") == reads(["data/a", "data/b"]) == 0


def test_more_files_of_a_root_are_remembered_beside_the_others(folder):
    """A second request adds to what the first one remembered."""
    first, second = fill(folder, a=b"1", b=b"2")
    assert reads([first], folder) == reads([second], folder) == 1
    assert reads([first, second], folder) == 0


def change_in_place(path: Path) -> None:
    """Write other bytes, as many, and set the time back: only ctime tells."""
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file of that size and time in its place."""
    before = path.stat()
    new = path.with_name("new")
    new.write_bytes(b"other")
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)


@pytest.mark.parametrize("change", [change_in_place, replace, lambda path: path.write_bytes(b"x")])
def test_changed_files_are_read_again(folder, change):
    """A file is read again after any change, even one that keeps its size and modification time."""
    paths = fill(folder, a=b"first", b=b"2")
    assert reads(paths, folder) == 2
    change(folder / "a")
    assert reads(paths, folder) == 1
    assert reads(paths, folder) == 0
    assert hexes(content_digests(paths, folder)) == expected((folder / "a").read_bytes(), b"2")


@pytest.mark.parametrize(
    ("age", "again"), [(0, 1), (1_999_999_999, 1), (2_000_000_000, 0), (-5_000_000_000, 1)]
)
@pytest.mark.parametrize("time_of", ["mtime", "ctime"])
def test_young_files_are_not_remembered(folder, age, again, time_of):
    """A file whose newer time is less than two seconds old, or yet to come, is read each time."""
    (path,) = fill(folder, a=b"1")
    changed = Path(path).stat().st_ctime_ns
    os.utime(path, ns=(0, 0 if time_of == "ctime" else changed + 60_000_000_000))
    found = Path(path).stat()
    newest = max(found.st_mtime_ns, found.st_ctime_ns)
    assert reads([path], folder, lambda: newest + age) == 1
    assert reads([path], folder, lambda: newest + age) == again


def test_file_that_changes_while_it_is_read_is_not_remembered(folder):
    """A file that another process writes to while it is read is neither quiet nor remembered."""
    path = folder / "growing"
    path.touch()
    os.truncate(path, 1 << 27)  # a hole: long to read, nothing to store
    written, done = threading.Event(), threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as growing:
            while not done.is_set():
                growing.write(b"x")
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        written.wait()
        found = contents([str(path)], folder, clock=later)
    finally:
        done.set()
        writer.join()
    assert not found.quiet[0]
    assert reads([str(path)], folder) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a Linux /proc")
def test_file_that_has_more_than_its_size_is_not_intact():
    """A file with other than as many bytes as it says is never taken to be settled."""
    found = read_file("/proc/self/status", later)
    assert found.size == 0
    assert not found.intact
    assert not found.settled


def test_what_was_read_before_an_error_is_remembered(folder):
    """A file that vanishes during the scan is named, and those read before it are remembered."""
    paths = fill(folder, a=b"1", b=b"2", c=b"3")

    def vanish(done: int) -> None:
        if done == 2:
            Path(paths[2]).unlink()

    with pytest.raises(FingerprintError, match=r"/c cannot be read \(No such file or directory\)"):
        contents(paths, folder, vanish, clock=later)
    assert reads(paths[:2], folder) == 0


def test_an_error_among_many_files_ends_the_scan(folder):
    """An error in one of many threads is raised, and the files not begun are left alone."""
    paths = fill(folder, **{f"f{i:03}": b"" for i in range(400)})
    for path in paths:
        os.truncate(path, 300_000)
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if count == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        contents(paths, folder, stop, clock=later)
    assert len(done) < 400


def test_files_already_known_count_as_done(folder):
    """Progress counts every different file, those that need not be read from the beginning."""
    paths = fill(folder, a=b"1", b=b"2", c=b"3", d=b"4")
    reads(paths[:2], folder)
    done: list[int] = []
    contents([*paths, *paths], folder, done.append, clock=later)
    assert done == [3, 4]


def make_loop(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path)


def make_socket(path: Path) -> None:
    """Leave a socket there."""
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # its name may be longer than a socket's address
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


BAD = {
    "missing": (lambda path: None, "No such file"),
    "loop": (make_loop, "symbolic links"),
    "nowhere": (lambda path: path.symlink_to("nothing"), "No such file"),
    "folder": (Path.mkdir, "is a folder, not a file"),
    "fifo": (os.mkfifo, "is a FIFO, not a file"),
    "socket": (make_socket, "is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
}


@pytest.mark.parametrize("ask", [content_digests, stamps, file_ids])
@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_refused_by_name(folder, kind, ask):
    """What is no readable file is refused with its path and the reason, and nothing hangs."""
    make, reason = BAD[kind]
    paths = fill(folder, a=b"1", z=b"2")
    make(folder / kind)
    with pytest.raises(FingerprintError, match=reason) as refused:
        ask([*paths, str(folder / kind)])
    assert str(folder / kind) in str(refused.value)


@pytest.mark.parametrize("kind", BAD)
def test_what_takes_a_files_place_is_refused_by_name(folder, kind):
    """What was put in a file's place since it was looked at is refused, and nothing hangs."""
    make, _ = BAD[kind]
    make(folder / kind)
    with pytest.raises(FingerprintError, match=kind):
        read_file(str(folder / kind))


def test_a_path_through_a_file_is_refused(folder):
    """A path whose parent is a file is refused with the reason."""
    (path,) = fill(folder, a=b"1")
    with pytest.raises(FingerprintError, match=r"/a/b cannot be read \(Not a directory\)"):
        content_digests([f"{path}/b"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(folder):
    """A file that may not be read is refused with the reason."""
    (path,) = fill(folder, a=b"1")
    Path(path).chmod(0)
    with pytest.raises(FingerprintError, match="Permission denied"):
        content_digests([path])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a Linux /proc")
def test_error_while_reading_is_a_refusal():
    """An error of the disk in the middle of a file is a refusal that names it."""
    with pytest.raises(FingerprintError, match=r"/proc/self/mem cannot be read \(Input/output"):
        content_digests(["/proc/self/mem"])


def test_names_need_not_be_unicode(folder):
    """A file whose name is no UTF-8 has a digest, a path in bytes, and messages one can print."""
    name = b"caf\xe9\n.jpg"
    path = os.fsdecode(os.fsencode(folder) + b"/" + name)
    with pytest.raises(FingerprintError) as refused:
        content_digests([path])
    assert str(refused.value).isprintable()
    assert r"caf\udce9\n.jpg" in str(refused.value)
    Path(path).write_bytes(b"1")
    assert hexes(content_digests([path], folder)) == expected(b"1")
    assert relative([path], folder) == [name]
    assert reads([path], folder) == 1
    assert reads([path], folder) == 0


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("ask", [content_digests, stamps, file_ids])
def test_paths_that_no_file_can_have_are_refused(folder, path, ask):
    """A path with a NUL, or a character that stands for no byte, is refused in printable words."""
    paths = fill(folder, a=b"1")
    with pytest.raises(FingerprintError) as refused:
        ask([*paths, str(folder / path)])
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "root", ["data", "data/", ".", "./", "", "data//", "./data", "data/../data"]
)
def test_relative_to_a_root_however_written(root):
    """A root may end in slashes, be empty or climb, as pathlib reads it."""
    start = root if root.endswith("/") or not root else f"{root}/"
    paths = [start + rest for rest in ["a.jpg", "b/c.jpg", "d e/é.jpg"]]
    assert relative(paths, root) == [b"a.jpg", b"b/c.jpg", "d e/é.jpg".encode()]
    assert relative(paths, Path(root)) == relative(map(Path, paths), root) == relative(paths, root)


COMPONENTS = st.lists(st.sampled_from(["a", "b", "a.b", ".", "..", "", "é", "\udce9"]), max_size=5)


@given(COMPONENTS, st.lists(COMPONENTS, max_size=4), st.booleans(), st.booleans())
def test_relative_answers_as_pathlib_does(root, ends, from_top, slash):
    """The path from a root is what pathlib says, for all paths at once as for each alone."""
    start = "/" if from_top else ""
    root = start + "/".join(root) + ("/" if slash else "")
    below = root if root in ("", "/") else f"{root}/"
    paths = [start + "/".join(end) for end in ends] + [below + "/".join(end) for end in ends]
    answers = {}
    for path in paths:
        with contextlib.suppress(ValueError):
            answers[path] = os.fsencode(PurePath(path).relative_to(root).as_posix())
    if any(os.path.normpath(answer).split(b"/")[0] == b".." for answer in answers.values()):
        with pytest.raises(FingerprintError, match="not below"):
            relative(answers, root)
    else:
        assert relative(answers, root) == list(answers.values())
        assert [relative([path], root)[0] for path in answers] == list(answers.values())


def test_a_nul_is_part_of_one_path():
    """A path with a NUL, which a list of names may hold, stays one path."""
    assert relative(["data/a\0b", "data/c"], "data") == [b"a\0b", b"c"]


def test_relative_where_only_one_is_absolute(folder, monkeypatch):
    """Where one of path and root is absolute, the working folder says how they lie."""
    monkeypatch.chdir(folder)
    assert relative([str(folder / "x/a")], "x") == relative(["x/a"], folder / "x") == [b"a"]


@pytest.mark.parametrize(
    "path", ["/other/a", "/data", "/database/a", "/data/../a", "a", "/data/x/../../a"]
)
def test_paths_outside_the_root_are_refused(path):
    """A path that is not below the root is refused, also one that only begins like it."""
    if path == "/data":
        assert relative([path], "/data") == [b"."]
        return
    with pytest.raises(FingerprintError, match="is not below /data"):
        relative(["/data/fine", path], "/data")


def test_stamps_are_size_and_time(folder):
    """A stamp is size and modification time in nanoseconds, which wraps beyond 64 bits."""
    paths = fill(folder, a=b"123", b=b"")
    os.utime(paths[0], ns=(0, 1_700_000_000_123_456_789))
    os.utime(paths[1], ns=(0, 10**19))
    found = stamps(paths)
    assert found.dtype == np.int64
    assert found.flags.c_contiguous
    assert found[0].tolist() == [3, 1_700_000_000_123_456_789]
    actual = Path(paths[1]).stat().st_mtime_ns  # some file systems end before the year 2286
    assert found[1].tolist() == [0, actual - 2**64 if actual >= 2**63 else actual]
    assert stamps([]).shape == (0, 2)


def test_file_ids_go_by_content(folder):
    """Row ids of files depend on what they contain, and on nothing else."""
    paths = fill(folder, a=b"1", b=b"2", c=b"1")
    found = file_ids(paths)
    assert hexes(found)[0] == hexes(found)[2] != hexes(found)[1]
    moved = shutil.copytree(folder, folder.parent / "moved")
    assert hexes(file_ids([moved / "b", moved / "c", moved / "a"])) == hexes(found[[1, 2, 0]])
    source = identity("source", b'{"files":["content"]}')
    digest = bytes.fromhex(expected(b"1")[0])
    assert hexes(found)[0] == identity(f"row/file/{source}", digest)


def test_file_ids_below_a_root_go_by_path_too(folder):
    """Below a root the relative path joins, so that moving the root changes nothing."""
    paths = fill(folder, a=b"1", b=b"2", c=b"1")
    found = hexes(file_ids(paths, root=folder))
    assert len({*found, *hexes(file_ids(paths))}) == 5
    moved = shutil.copytree(folder, folder.parent / "moved")
    assert hexes(file_ids([moved / "a", moved / "b", moved / "c"], root=str(moved))) == found
    source = identity("source", b'{"files":["content","path"]}')
    digest = bytes.fromhex(expected(b"1")[0])
    assert found[0] == identity(f"row/file/{source}", digest + b"a")
    with pytest.raises(FingerprintError, match="is not below"):
        file_ids(paths, root=moved)


def test_no_files_are_no_rows():
    """No paths give no row ids, with a root or without."""
    assert file_ids([]).shape == file_ids((), root="/data").shape == (0, 16)


@pytest.mark.parametrize("path", ["a.jpg", b"a.jpg", Path("a.jpg")])
def test_one_path_is_no_list_of_paths(path):
    """One path in place of a list is a mistake with a message, not a list of letters."""
    with pytest.raises(ConfigError, match="give a list of paths"):
        file_ids(path)


def test_what_is_no_path_is_refused(folder):
    """Something else among the paths is refused with its place."""
    paths = fill(folder, a=b"1")
    with pytest.raises(FingerprintError, match=r"path 1 is None \(NoneType\), not a path"):
        file_ids([*paths, None])
    with pytest.raises(FingerprintError, match="is 3"):
        file(3)


def test_file_is_a_path_with_a_digest(folder):
    """A file opens like its path and tells what it contains now; nothing is read before."""
    found = file(folder / "a")
    with pytest.raises(FingerprintError, match="No such file"):
        found.digest()
    (folder / "a").write_bytes(b"1")
    assert Path(found).read_bytes() == b"1"
    assert found.path == str(folder / "a")
    assert found.digest() == expected(b"1")[0]
    (folder / "a").write_bytes(b"2")
    assert found.digest() == expected(b"2")[0]


def test_file_is_a_value(folder):
    """Files are equal by path, can be pickled and kept in sets, and show how they are made."""
    found = file(folder / "a")
    assert pickle.loads(pickle.dumps(found)) == found
    assert {found, file(str(folder / "a"))} == {found}
    assert found != file(folder / "b")
    assert repr(found) == f"File(path={str(folder / 'a')!r})"
