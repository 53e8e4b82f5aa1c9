"""Files under a folder: what the disk, its permissions and other processes do to them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from castore import points
from castore.backend.local import LocalBackend
from castore.errors import BackendError, CastoreError, ReadOnlyError, StoreURLError

ROOT = Path(__file__).parents[2]

CREATE = """
import sys
from pathlib import Path
from castore.backend.local import LocalBackend
backend = LocalBackend(Path(sys.argv[1]))
print("ready", flush=True)
for name in sys.stdin:
    print(backend.create(name.strip(), [sys.argv[2].encode()]), flush=True)
"""

REPLACE = """
import sys
from pathlib import Path
from castore.backend.local import LocalBackend
backend = LocalBackend(Path(sys.argv[1]))
for number in range(120):
    backend.put("value", [b"ab"[number % 2 :][:1] * (300_000 + number % 2)])
"""

# The child gives up what the superuser may do, after it has imported what it needs.
READ_ONLY = """
import os, sys
from pathlib import Path
from castore.backend.local import LocalBackend
from castore.errors import CastoreError
backend = LocalBackend(Path(sys.argv[1]))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
def upload():
    with backend.upload() as upload:
        upload.finish("a/name")
for act in (
    backend.check_writable,
    lambda: backend.put("a/name", [b"new"]),
    lambda: backend.create("a/new", [b"new"]),
    lambda: backend.delete(["a/name"]),
    upload,
):
    try:
        print("worked", act())
    except CastoreError as error:
        print(error.code, error)
print(backend.get("a/name").decode(), [info.name for info in backend.list("")])
"""

FULL = """
import os, subprocess, sys
from pathlib import Path
from castore.backend.local import LocalBackend
from castore.errors import CastoreError
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", sys.argv[2], "none", root], check=True)
backend = LocalBackend(root)
backend.put("small", [b"kept"])
def upload():
    with backend.upload() as upload:
        for _ in range(8):
            upload.write(bytes(100_000))
        upload.finish("large/upload")
for act in (
    lambda: backend.put("large/put", [bytes(100_000)] * 8),
    lambda: backend.create("large/create", [bytes(800_000)]),
    upload,
):
    try:
        print("worked", act())
    except CastoreError as error:
        print(error.code, error)
print(backend.get("small").decode(), [info.name for info in backend.list("")], end=" ")
print(os.listdir(root / "tmp"))
backend.put("after", [b"fits"])
"""

LIMITED = """
import os, resource, sys
from pathlib import Path
from castore.backend.local import LocalBackend
from castore.errors import CastoreError
root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
backend = LocalBackend(root)
try:
    backend.put("large", [bytes(250_000)])
except CastoreError as error:
    print(error.code, error)
print([info.name for info in backend.list("")], os.listdir(root / "tmp"))
"""


def child(script, *arguments, inside=()):
    """Run `script` in a process of its own; return the lines it prints."""
    run = subprocess.run(
        [*inside, sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def own_mounts():
    """Return the command under which a process may mount what only it sees, or skip."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*command, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of his own")
    return command


@pytest.fixture
def backend(tmp_path):
    """Open a store in a folder that does not exist yet."""
    return LocalBackend(tmp_path / "store")


@pytest.fixture
def open_folder():
    """A folder that other users can come to, as they cannot to `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def observed(act):
    """Have `act` told of every named point of a write."""
    points.observer = act
    try:
        yield
    finally:
        points.observer = None


def test_create_has_one_winner_among_processes(backend):
    """Of 8 processes that create the same names at once exactly one makes each, whole."""
    names = [f"race/{number}" for number in range(10)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, backend.url, f"process {number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # none has a name before all are ready for it
        process.stdin.write("\n".join(names) + "\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in processes]
    for name, told in zip(names, zip(*answers, strict=True), strict=True):
        assert sorted(told) == ["False"] * 7 + ["True"]
        assert backend.get(name) == f"process {told.index('True')}".encode()
    assert not list((Path(backend.url) / "tmp").iterdir())


def test_put_is_atomic_to_processes(backend):
    """Whoever reads while another process replaces sees one of the two values, whole."""
    values = [b"a" * 300_000, b"b" * 300_001]
    backend.put("value", [values[0]])
    seen = set()
    with subprocess.Popen([sys.executable, "-c", REPLACE, backend.url], cwd=ROOT) as process:
        while process.poll() is None:
            seen.add(backend.get("value"))
            if (opened := backend.open_private("value", 300_001)) is not None:
                seen.add(opened.tobytes())
    assert process.returncode == 0
    assert seen == set(values)


def test_opened_arrays_are_mappings(backend):
    """On a local disk a large object is mapped, not read: it takes none of the process's memory."""
    if not LocalBackend(Path(backend.url)).near or not Path("/proc/self/maps").exists():
        pytest.skip("mappings are listed on Linux only")
    backend.put("name", [bytes(1_000_000)])
    array = backend.open_private("name", 1_000_000)
    if backend._mapped:
        assert str(Path(backend.url) / "name") in Path("/proc/self/maps").read_text()
    assert array.size == 1_000_000


def test_temporary_files_are_no_objects(backend):
    """What is being written is under no name, and in no listing."""
    with backend.upload() as upload:
        upload.write(b"under way")
        assert upload.path.read_bytes() == b"under way"
        assert list(backend.list("")) == []
        backend.put("name", [b""])
        assert [info.name for info in backend.list("")] == ["name"]
    assert not list((Path(backend.url) / "tmp").iterdir())


def test_folders_named_tmp_elsewhere_are_listed(backend):
    """Only the store's own folder for temporary files is passed over."""
    backend.put("a/tmp/b", [b""])
    assert [info.name for info in backend.list("")] == ["a/tmp/b"]


def test_what_is_no_file_is_no_object(backend):
    """Folders, and links to them, are no objects; a link to a file is one."""
    backend.put("a/b", [b"12345"])
    root = Path(backend.url)
    (root / "folder").symlink_to("a")
    (root / "file").symlink_to("a/b")
    (root / "nothing").symlink_to("gone")
    assert [info.name for info in backend.list("")] == ["a/b", "file"]
    assert backend.get("a") is None
    assert backend.stat("a") is None
    assert backend.get("nothing") is None
    for copy in (False, True):
        assert backend.open_private("a", (root / "a").stat().st_size, copy=copy) is None


def test_names_appear_only_when_durable(backend):
    """A file is synced before it has its name, and its folders are there before that."""
    seen = []
    root = Path(backend.url)
    with observed(lambda point: seen.append((point, (root / "a/b/c").exists()))):
        backend.put("a/b/c", [b"value"])
    assert seen == [
        ("local.temp-opened", False),
        ("local.temp-written", False),
        ("local.temp-synced", False),
        ("local.named", True),
        ("local.folders-synced", True),
    ]
    assert set(points.POINTS) >= {point for point, _ in seen}


@pytest.fixture
def synced(monkeypatch):
    """List the names of files and folders synced during a test."""
    found = []
    real = os.fsync

    def fsync(descriptor):
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("which file a descriptor is of is told on Linux only")
    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_advice_is_never_synced(backend, synced):
    """What need not outlive a power cut costs no sync; what must, the same as before."""
    backend.put("durable/1", [b""])
    assert "durable" in synced
    del synced[:]
    backend.create("advice/1", [b""], durable=False)
    backend.put("advice/1", [b""], durable=False)
    backend.delete(["advice/1"], durable=False)
    assert synced == []
    backend.create("advice/1", [b""])
    assert {"advice", "store"} <= set(synced)


def test_folders_of_advice_go_with_their_last_name(backend):
    """The folder of advice is removed with its last name; no other folder ever is."""
    root = Path(backend.url)
    backend.create("a/advice/1", [b""], durable=False)
    backend.create("a/advice/2", [b""], durable=False)
    backend.delete(["a/advice/1"], durable=False)
    assert (root / "a" / "advice").is_dir()
    backend.delete(["a/advice/2"], durable=False)
    assert not (root / "a" / "advice").exists()
    assert (root / "a").is_dir()
    backend.put("durable/1", [b""])
    backend.delete(["durable/1"])
    assert (root / "durable").is_dir()
    backend.create("top", [b""], durable=False)
    backend.delete(["top"], durable=False)
    assert root.is_dir()


def test_advice_comes_and_goes_in_many_processes(backend):
    """Processes that make and remove the only names of one folder never get in each other's way."""
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from castore.backend.local import LocalBackend\n"
        "backend = LocalBackend(Path(sys.argv[1]))\n"
        "name = f'advice/{os.getpid()}'\n"
        "for _ in range(400):\n"
        "    assert backend.create(name, [b''], durable=False)\n"
        "    assert backend.delete([name], durable=False) == 1\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, backend.url], cwd=ROOT) for _ in range(6)
    ]
    assert [process.wait() for process in processes] == [0] * 6
    assert not (Path(backend.url) / "advice").exists()


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_that_goes_at_the_last_moment_is_made_again(backend, durable):
    """A folder removed between its making and the naming of a file is made again."""
    import shutil

    root = Path(backend.url)
    removed = []

    def remove(point):
        if point in ("local.temp-synced", "local.temp-written") and (root / "a").exists():
            shutil.rmtree(root / "a")
            removed.append(point)

    with observed(remove):
        for number in range(3):
            assert backend.create(f"a/b/{number}", [b"%d" % number], durable=durable)
            backend.put(f"a/b/{number}", [b"%d" % number], durable=durable)
    assert removed
    assert backend.get("a/b/2") == b"2"


def test_the_clock_is_the_file_systems(backend):
    """The time is that of a file written now, in a store whose folder is not there yet too."""
    before = backend.now()
    (Path(backend.url) / "file").write_bytes(b"")
    assert before <= (Path(backend.url) / "file").stat().st_mtime
    assert not list((Path(backend.url) / "tmp").iterdir())


def test_files_are_never_written_in_place(backend):
    """Replacing an object makes another file: who has the old one open keeps it."""
    backend.put("name", [b"old"])
    path = Path(backend.url) / "name"
    with path.open("rb") as old:
        inode = path.stat().st_ino
        backend.put("name", [b"new, and longer"])
        assert path.stat().st_ino != inode
        assert old.read() == b"old"


def test_a_store_whose_folder_was_removed_is_made_anew(backend):
    """A writer whose folder somebody removes makes it again with the next object."""
    import shutil

    backend.put("a/b/1", [b"1"])
    shutil.rmtree(Path(backend.url) / "a")
    backend.put("a/b/2", [b"2"])
    shutil.rmtree(backend.url)
    backend.put("a/b/3", [b"3"])
    assert [info.name for info in backend.list("")] == ["a/b/3"]


def test_a_root_is_made_with_all_folders_above(tmp_path):
    """The first write makes the root, however deep it lies; reading never does."""
    backend = LocalBackend(tmp_path / "a" / "b" / "store")
    assert backend.get("x") is None
    assert backend.delete(["x"]) == 0
    assert not (tmp_path / "a").exists()
    backend.put("x", [b""])
    assert backend.get("x") == b""


def test_a_root_that_is_a_file_is_a_url_error(tmp_path):
    """A store cannot be where a file is, and the error says so before anything is written."""
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(StoreURLError, match="is a file"):
        LocalBackend(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_folder_replaced_by_a_file_is_a_castore_error(backend):
    """Where a file took a folder's place, reading finds nothing and writing names the path."""
    blobs = Path(backend.url) / "blobs"
    backend.put("castore.json", [b""])
    blobs.write_bytes(b"a file")
    name = "blobs/ab/abcd"
    assert (backend.get(name), backend.stat(name), backend.open_private(name, 1)) == (None,) * 3
    assert list(backend.list("blobs/")) == []
    assert backend.delete([name]) == 0
    for write in (
        lambda: backend.put(name, [b"x"]),
        lambda: backend.create(name, [b"x"]),
        lambda: backend.settle(name),
    ):
        with pytest.raises(BackendError, match="blobs/ab"):
            write()
    assert blobs.read_bytes() == b"a file"
    assert not list((Path(backend.url) / "tmp").iterdir())


def test_a_temporary_folder_that_is_a_file_is_a_castore_error(backend):
    """Where the folder for temporary files cannot be made, writing says where it tried."""
    Path(backend.url).mkdir()
    (Path(backend.url) / "tmp").write_bytes(b"a file")
    with pytest.raises(BackendError, match=r"cannot write in .*/store"):
        backend.put("name", [b"x"])


def test_a_folder_under_an_objects_name_is_a_castore_error(backend):
    """An object cannot replace a folder, and the error is castore's own."""
    backend.put("a/b", [b""])
    with pytest.raises(BackendError, match="cannot write"):
        backend.put("a", [b""])
    assert backend.create("a", [b""]) is False
    assert backend.get("a/b") == b""


def test_names_beyond_the_systems_length_are_no_objects(backend):
    """A name that no file can have is an error of castore's, or no object, never an OSError."""
    with pytest.raises(CastoreError):
        backend.put("x" * 300, [b""])
    with contextlib.suppress(CastoreError):
        assert backend.get("x" * 300) is None


def test_a_read_only_folder_is_told_before_it_is_needed(open_folder):
    """Without permission every write is a ReadOnlyError that says how to read; reading works."""
    store = open_folder / "store"
    LocalBackend(store).put("a/name", [b"old"])
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        *refused, last = child(READ_ONLY, store)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert len(refused) == 5
    for line in refused:
        assert line.startswith("read-only cannot")
        assert str(store) in line
        assert 'mode="ro"' in line
    assert last == "old ['a/name']"


def test_an_unreadable_file_is_a_castore_error(open_folder):
    """A file that may not be read is an error that names it, not a miss and not an OSError."""
    store = open_folder / "store"
    LocalBackend(store).put("a/name", [b"old"])
    (store / "a" / "name").chmod(0)
    script = READ_ONLY.split("def upload", maxsplit=1)[0] + (
        "for act in (lambda: backend.get('a/name'), lambda: backend.open_private('a/name', 3)):\n"
        "    try: print('worked', act())\n"
        "    except CastoreError as error: print(error.code, error)\n"
    )
    lines = child(script, store)
    assert [line.split()[0] for line in lines] == ["backend", "backend"]
    assert all(str(store / "a" / "name") in line for line in lines)


def test_a_full_disk_is_told_and_leaves_nothing(open_folder):
    """On a full disk a write names the place and the way out, and nothing of it stays."""
    *refused, last = child(FULL, open_folder, "size=400k", inside=own_mounts())
    assert len(refused) == 3
    for line in refused:
        assert line.startswith("backend cannot write")
        assert str(open_folder) in line
        assert "the disk is full; free some space, or choose another root" in line
    assert last == "kept ['small'] []"


def test_a_limit_on_file_sizes_is_told_and_leaves_nothing(tmp_path):
    """A file that may not grow is a BackendError that names the place; nothing of it stays."""
    refused, last = child(LIMITED, tmp_path)
    assert refused.startswith("backend cannot write")
    assert str(tmp_path) in refused
    assert last == "[] []"


def test_a_read_only_file_system_is_a_read_only_error(open_folder):
    """A file system mounted for reading refuses a write as missing permissions do."""
    script = (
        "import subprocess, sys\nfrom pathlib import Path\n"
        "from castore.backend.local import LocalBackend\n"
        "from castore.errors import ReadOnlyError\n"
        "root = Path(sys.argv[1])\n"
        "subprocess.run(['mount', '-t', 'tmpfs', 'none', root], check=True)\n"
        "LocalBackend(root).put('name', [b'value'])\n"
        "subprocess.run(['mount', '-o', 'remount,ro', root], check=True)\n"
        "backend = LocalBackend(root)\n"
        "for act in (backend.check_writable, lambda: backend.delete(['name'])):\n"
        "    try: print('worked', act())\n"
        "    except ReadOnlyError as error: print(error.code, error)\n"
        "print(backend.get('name').decode())\n"
    )
    *refused, last = child(script, open_folder, inside=own_mounts())
    assert [line.split()[0] for line in refused] == ["read-only", "read-only"]
    assert all('mode="ro"' in line for line in refused)
    assert last == "value"


def test_a_file_system_without_links_is_refused(backend):
    """Where a file cannot be linked a commit cannot be atomic, and the first check says so."""
    immutable = []

    def make_immutable(point):
        if point == "local.temp-opened":
            (path,) = {*(Path(backend.url) / "tmp").iterdir()} - {*immutable}
            done = subprocess.run(["chattr", "+i", path], check=False, capture_output=True)
            if done.returncode == 0:
                immutable.append(path)

    try:
        with observed(make_immutable):
            with contextlib.suppress(ReadOnlyError):
                backend.check_writable()
                pytest.skip("no file here can be kept from being linked")
            with pytest.raises(
                ReadOnlyError, match=r"/store.*: this file system has no hard links"
            ):
                backend.check_writable()
    finally:
        for path in immutable:
            subprocess.run(["chattr", "-i", path], check=True)


def test_much_room_is_a_nameless_file(tmp_path, monkeypatch):
    """Room beyond the limit lies on the disk, without a name, and goes with its last user."""
    monkeypatch.setattr("castore.backend.local._MUCH", 1 << 16)
    backend = LocalBackend(tmp_path / "store")
    room = backend.room(1 << 20)
    room[::4096] = 1
    maps = Path("/proc/self/maps").read_text() if sys.platform.startswith("linux") else ""
    assert not maps or str(tmp_path) in maps
    del room
    assert (
        not sys.platform.startswith("linux")
        or str(tmp_path) not in Path("/proc/self/maps").read_text()
    )
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_file_that_can_have_no_second_name_is_not_taken(tmp_path, monkeypatch, number):
    """Where the system makes no link, as from another file system, the caller is told to copy."""
    backend = LocalBackend(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"data")

    def refuse(*_):
        raise OSError(number, "no link")

    monkeypatch.setattr(os, "link", refuse)
    assert not backend.take(tmp_path / "file", "name")
    assert list(backend.list("")) == []
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_a_taken_file_is_not_copied(backend, tmp_path):
    """A taken file and its object are one file of the system's, and nothing temporary is left."""
    (tmp_path / "file").write_bytes(b"data")
    assert backend.take(tmp_path / "file", "a/b")
    assert backend.path("a/b").samefile(tmp_path / "file")
    assert list((backend.path("tmp")).iterdir()) == []


def test_a_file_that_is_not_there_is_a_castore_error(backend, tmp_path):
    """Taking nothing raises, and makes nothing."""
    with pytest.raises(BackendError, match="No such file"):
        backend.take(tmp_path / "none", "a/b")
    assert backend.get("a/b") is None
