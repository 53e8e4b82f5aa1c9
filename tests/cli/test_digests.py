"""``castore digests``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import xxhash

from castore.canonical import seal, unseal
from castore.identity.files.digests_file import NAME


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with two files that have been there for long."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    for name, content in [("train/a", b"1"), ("b", b"22")]:
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(0, 1_700_000_000_000_000_001))
    return folder


def digest(content: bytes) -> str:
    """What castore says a file with that content contains."""
    return xxhash.xxh3_128_hexdigest(content)


def files(path: Path) -> list:
    """What the document at `path` lists."""
    return unseal(path.read_bytes(), path.name)["files"]


def test_digests_are_written_beside_the_files(run, root):
    """`castore digests ROOT` lists every file below ROOT, except the document, twice the same."""
    result = run("digests", root)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"wrote {root / NAME} (2 files, 3 B)\n"
    expected = [
        ["b", 2, 1_700_000_000_000_000_001, digest(b"22")],
        ["train/a", 1, 1_700_000_000_000_000_001, digest(b"1")],
    ]
    assert files(root / NAME) == expected
    assert run("digests", root).exit_code == 0
    assert files(root / NAME) == expected


def test_json_names_the_document_and_what_is_left_out(run, root):
    """`--json` says where the document is, what it adds up to, and what it leaves out."""
    os.mkfifo(root / "fifo")
    (root / "young").write_bytes(b"3")
    result = run("digests", root, "--json")
    assert json.loads(result.stdout) == {
        "document": str(root / NAME),
        "files": 2,
        "bytes": 3,
        "left_out": {"changing": ["young"], "others": ["fifo"]},
    }
    assert "left out 1 file that changed less than two seconds ago" in result.stderr
    assert "left out 1 link or device" in result.stderr


def test_an_earlier_document_is_not_believed(run, root):
    """A document is made from the files alone: what was wrong in the last one does not survive."""
    wrong = [["b", 2, 1_700_000_000_000_000_001, "f" * 32]]
    (root / NAME).write_bytes(seal({"algorithm": "xxh3-128", "files": wrong, "format": 1}))
    run("digests", root)
    assert files(root / NAME)[0][3] == digest(b"22")


def test_check_agrees(run, root):
    """`--check` of what was just written reads all and ends with 0."""
    run("digests", root)
    result = run("digests", root, "--check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"2 files are as in {root / NAME}\n"
    found = json.loads(run("digests", root, "--check", "--json").stdout)
    assert found == {
        "document": str(root / NAME),
        "files": 2,
        "differing": [],
        "missing": [],
        "extra": [],
        "touched": [],
    }


def test_check_finds_what_size_and_time_hide(run, root):
    """`--check` reads files whatever their stamps say, and lists every disagreement, with 3."""
    (root / "gone").write_bytes(b"3")
    os.utime(root / "gone", ns=(0, 0))
    run("digests", root)
    (root / "gone").unlink()
    (root / "new\n").write_bytes(b"4")
    (root / "b").write_bytes(b"33")
    os.utime(root / "b", ns=(0, 1_700_000_000_000_000_001))
    before = (root / NAME).read_bytes()
    result = run("digests", root, "--check")
    assert result.exit_code == 3
    assert result.stdout.split() == ["differing", "b", "missing", "gone", "extra", r"new\n"]
    assert result.stderr == f"castore: 3 files disagree with {root / NAME}\n"
    found = run("digests", root, "--check", "--json")
    assert found.exit_code == 3
    document = json.loads(found.stdout)
    assert (document["differing"], document["missing"]) == (["b"], ["gone"])
    assert (document["extra"], document["touched"]) == (["new\n"], [])
    assert (root / NAME).read_bytes() == before, "nothing is written"


def test_check_reports_other_times_without_failing(run, root):
    """A file with the same contents at another time agrees, but the document no longer helps."""
    run("digests", root)
    os.utime(root / "b", ns=(0, 5))
    result = run("digests", root, "--check")
    assert result.exit_code == 0
    assert "1 file has another time" in result.stderr
    assert json.loads(run("digests", root, "--check", "--json").stdout)["touched"] == ["b"]


def test_a_damaged_document_is_damage(run, root):
    """`--check` of a damaged document ends with 3; without --check it is replaced."""
    (root / NAME).write_bytes(b"{}")
    result = run("digests", root, "--check")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "is damaged" in result.stderr
    assert run("digests", root).exit_code == 0
    assert run("digests", root, "--check").exit_code == 0


@pytest.mark.parametrize(
    ("document", "message"),
    [(None, "No such file"), (seal({"format": 2}), "upgrade castore")],
)
def test_a_document_that_cannot_be_read_is_an_error(run, root, document, message):
    """`--check` without a document, or with one of a newer format, fails."""
    if document is not None:
        (root / NAME).write_bytes(document)
    result = run("digests", root, "--check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert str(root / NAME) in result.stderr


def test_out_names_another_place(run, root, tmp_path):
    """`--out` writes and checks a document elsewhere, which is not listed in itself."""
    inside, apart = root / "list.json", tmp_path / "list.json"
    for place in (inside, apart, inside):
        assert run("digests", root, "--out", place).exit_code == 0
        assert [file[0] for file in files(place)] == ["b", "train/a"]
        assert run("digests", root, "--check", "--out", place).exit_code == 0
        assert not (root / NAME).exists()
        if place == inside:
            inside.unlink()


def test_the_environment_names_the_place(run, root, tmp_path, monkeypatch):
    """Without `--out` the document lies where those who read will look for it."""
    monkeypatch.setenv("CASTORE_DIGESTS", f"{root}={tmp_path / 'apart'}")
    assert run("digests", root).exit_code == 0
    assert [file[0] for file in files(tmp_path / "apart")] == ["b", "train/a"]
    assert not (root / NAME).exists()


def test_an_unwritable_place_is_an_error(run, root, tmp_path):
    """Where the document cannot be written, the command says what to do instead."""
    result = run("digests", root, "--out", tmp_path / "none" / "list.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "say --out FILE" in result.stderr


def test_only_a_folder_has_digests(spawn, root):
    """A root that is no folder is a usage error, and nothing is written."""
    assert spawn("digests", root / "b").returncode == 2
    assert spawn("digests", root / "none").returncode == 2
    assert not (root / NAME).exists()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a Linux /proc")
@pytest.mark.parametrize("words", [[], ["--check"]])
def test_a_file_that_cannot_be_read_is_an_error(run, root, words):
    """A file that cannot be read is named, and no document is written without it."""
    listed = [["mem", 0, 0, "0" * 32]]
    (root / NAME).write_bytes(seal({"algorithm": "xxh3-128", "files": listed, "format": 1}))
    before = (root / NAME).read_bytes()
    (root / "mem").symlink_to("/proc/self/mem")
    result = run("digests", root, *words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"castore: {root / 'mem'} cannot be read (Input/output error)" in result.stderr
    assert (root / NAME).read_bytes() == before


def test_names_need_not_be_unicode(spawn, root):
    """A name that is no UTF-8 is listed, checked and printed without a crash."""
    odd = os.fsdecode(os.fsencode(root) + b"/caf\xe9")
    Path(odd).write_bytes(b"4")
    os.utime(odd, ns=(0, 5))
    assert spawn("digests", root).returncode == 0
    assert [file[0] for file in files(root / NAME)] == ["b", "caf\udce9", "train/a"]
    Path(odd).unlink()
    result = spawn("digests", root, "--check")
    assert (result.returncode, result.stdout) == (3, "missing  caf\\udce9\n")
    result = spawn("digests", root, "--check", "--json")
    assert json.loads(result.stdout)["missing"] == ["caf\udce9"]
