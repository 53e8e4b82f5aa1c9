"""Files as private memory, and where that is not safe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from castore.backend import mapping
from castore.backend.local import LocalBackend

OVER_PROC = """
import sys
from pathlib import Path
from castore.backend.local import LocalBackend
backend = LocalBackend(Path(sys.argv[1]))
assert not Path("/proc/self").exists()
print(backend.open_private("name", 5).tobytes().decode())
"""


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "ceph", "fuse", "fuse.sshfs", "fuseblk"]
)
def test_network_file_systems_are_not_mapped(kind):
    """File systems where another client's unlink kills a mapping are known by their type."""
    assert mapping._is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", ""])
def test_local_file_systems_are_mapped(kind):
    """Disks, memory and container layers may be mapped, and so may what is unknown."""
    assert not mapping._is_network(kind)


def test_the_type_is_that_of_the_nearest_folder(tmp_path):
    """A folder that does not exist yet is judged by the one it would be made in."""
    there = mapping._file_system(tmp_path)
    assert mapping._file_system(tmp_path / "not" / "made" / "yet") == there
    assert mapping.is_safe(tmp_path / "not" / "made") == (not mapping._is_network(there))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="types are read on Linux only")
@pytest.mark.parametrize(("folder", "kind"), [("/proc", "proc"), ("/sys", "sysfs")])
def test_types_are_those_of_the_mount_table(folder, kind):
    """The type of a mounted file system is the one the system's own table names."""
    table = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    if not any(mount == folder and found == kind for _, mount, found, *_ in table):
        pytest.skip(f"{folder} is not mounted here")
    assert mapping._file_system(Path(folder)) == kind


def test_a_file_system_outside_the_mount_table_is_unknown(monkeypatch, tmp_path):
    """A device that the mount table does not list has no known type, and elsewhere none has."""
    monkeypatch.setattr(os, "major", lambda device: 4095)
    assert mapping._file_system(tmp_path) == ""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert mapping._file_system(tmp_path) == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_machine_without_proc_can_be_read(tmp_path):
    """Where the mount table cannot be read, objects still are, or fail with a castore error."""
    LocalBackend(tmp_path).put("name", [b"value"])
    inside = 'mount -t tmpfs none /proc && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine grants no namespaces")
    run = subprocess.run(
        [*command, sys.executable, "-c", OVER_PROC, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout == "value\n" or "castore.errors.BackendError" in run.stderr, run.stderr


def test_a_file_that_shrinks_while_it_is_read_is_not_opened(tmp_path):
    """A read that ends before the promised length gives nothing, never a part."""
    (tmp_path / "file").write_bytes(b"12345")
    with (tmp_path / "file").open("rb") as file:
        assert mapping._read(file.fileno(), 6) is None
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert mapping._read(file.fileno(), 5).tobytes() == b"12345"


def test_mappings_larger_than_memory_are_granted(tmp_path):
    """A sparse file far beyond the machine's memory can be mapped and touched."""
    length = 2**42
    with (tmp_path / "sparse").open("wb") as file:
        try:
            file.truncate(length)
        except OSError:
            pytest.skip("this file system has no file of 4 TiB")
    mapped = mapping.open_private(tmp_path / "sparse", length, copy=False)
    mapped[[0, length // 2, length - 1]] = 7
    assert mapped.shape == (length,)
    assert int(mapped[length // 2]) == 7
    del mapped
    with (tmp_path / "sparse").open("rb") as file:
        assert file.read(1) == b"\0"


def test_mapped_and_read_arrays_agree(tmp_path):
    """A copy and a mapping of a file have the same bytes, and neither keeps it open."""
    data = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
    (tmp_path / "file").write_bytes(data.tobytes())
    before = len(list(Path("/dev/fd").iterdir()))
    for copy in (False, True):
        found = mapping.open_private(tmp_path / "file", data.size, copy=copy)
        assert np.array_equal(found, data)
        assert found.flags.writeable
    assert mapping.open_private(tmp_path / "file", 1, copy=False) is None
    with pytest.raises(FileNotFoundError):
        mapping.open_private(tmp_path / "none", 1, copy=False)
    del found
    assert len(list(Path("/dev/fd").iterdir())) == before
