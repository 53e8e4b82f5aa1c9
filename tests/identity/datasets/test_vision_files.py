"""Files in class folders: by what they contain, or by size and time, wherever they lie."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from castore.canonical import identify
from castore.digest import hexdigest
from castore.errors import ConfigError, FingerprintError
from castore.identity import rows
from castore.identity.datasets.rules import samples_of

data = pytest.importorskip("torch.utils.data")
tv = pytest.importorskip("torchvision.datasets")

NAMES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/sub/3.png"]


def folder(root, **options):
    """Read a folder of images."""
    return tv.ImageFolder(str(root), **options)


def same(one, two):
    """Tell of each row whether it is the same."""
    return [a == b for a, b in zip(one, two, strict=True)]


# Where they lie, and what they contain


def test_image_folders_agree_at_any_mount_point(images, tmp_path, monkeypatch, ids):
    """A copy elsewhere, with other times, by whatever spelling of its path, has the same rows."""
    found = ids(folder(images))
    assert len(set(found)) == 4
    copy = shutil.copytree(images, tmp_path / "elsewhere" / "deep")
    os.utime(copy / "cat/1.png", (0, 0))
    assert ids(folder(copy)) == ids(tv.ImageFolder(copy)) == found
    monkeypatch.chdir(images.parent)
    assert ids(folder("images")) == ids(folder("./images/")) == found
    (tmp_path / "link").symlink_to(images)
    assert ids(folder(tmp_path / "link")) == found


def test_image_folders_are_read_by_content(images, ids):
    """A file replaced under its name is another row, and the others stay."""
    before = ids(folder(images))
    shutil.copy(images / "dog/1.png", images / "cat/1.png")
    after = ids(folder(images))
    assert same(before, after) == [False, True, True, True]
    assert after[0] != after[2]


def test_image_folders_count_paths_and_targets(images, ids):
    """The same content under another path, or with another target, is another row."""
    before = ids(folder(images))
    (images / "cat/1.png").rename(images / "cat/0.png")
    assert ids(folder(images))[0] != before[0]
    assert ids(folder(images))[1:] == before[1:]
    (images / "bee").mkdir()
    shutil.copy(images / "cat/2.png", images / "bee/2.png")
    shifted = ids(folder(images))
    assert len(shifted) == 5
    assert not set(shifted) & set(before)


def test_a_class_in_front_keeps_rows_without_their_target(images, ids):
    """A class folder added in front renumbers the classes; without the target the rows stay."""
    before = ids(folder(images), ignored=["target"])
    (images / "bee").mkdir()
    shutil.copy(images / "cat/2.png", images / "bee/2.png")
    assert ids(folder(images), ignored=["target"])[1:] == before


def test_parts_of_the_items_can_be_ignored(images, ids):
    """Without the path or the target, alone or both, what is left tells the rows apart."""
    shutil.copy(images / "cat/1.png", images / "cat/2.png")
    shutil.copy(images / "cat/1.png", images / "dog/1.png")
    dataset = folder(images)
    assert len(set(ids(dataset))) == 4
    assert len(set(ids(dataset, ignored=["target"]))) == 4
    assert len(set(ids(dataset, ignored=["path"]))) == 3
    a, b, c, d = ids(dataset, ignored=["path", "target"])
    assert a == b == c != d
    others = [[], ["target"], ["path"], ["path", "target"]]
    assert len({ids(dataset, ignored=ignored)[0] for ignored in others}) == 4
    with pytest.raises(ConfigError, match="'labels': of these samples path, target can be ignored"):
        ids(dataset, ignored=["labels", "target"])


def test_image_folders_are_made_of_content_target_and_path(images):
    """A row of an image folder is what the format says, under its source."""
    samples = samples_of(folder(images), np.arange(4))
    items = [
        (
            bytes.fromhex(hexdigest([(images / name).read_bytes()])),
            target.to_bytes(8, "little"),
            name.encode(),
        )
        for name, target in zip(NAMES, (0, 0, 1, 1), strict=True)
    ]
    expected = rows.from_items(identify("source", samples.sources[0]), "file+class+path", items)
    assert np.array_equal(samples.row_ids, expected)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([0, 1, True, 1.0, "a", None, (0, 1), 2**80]), min_size=4, max_size=4)
)
def test_targets_of_every_kind_count(images, ids, targets):
    """A row has one id whatever is asked for beside it, and another for each typed target."""
    dataset = folder(images)
    dataset.samples = [(path, t) for (path, _), t in zip(dataset.samples, targets, strict=True)]
    every = ids(dataset)
    assert [ids(dataset, [index])[0] for index in range(4)] == every
    dataset.samples = [(dataset.samples[0][0], target) for target in targets]
    found = ids(dataset)
    for one, a in zip(targets, found, strict=True):
        for two, b in zip(targets, found, strict=True):
            assert (a == b) == (type(one) is type(two) and one == two)


def test_subsets_of_image_folders_read_their_own_files_only(images, ids):
    """A subset is the rows it picks, and files it does not pick need not exist."""
    dataset = folder(images)
    every = ids(dataset)
    (images / "dog/1.png").unlink()
    assert ids(data.Subset(dataset, [3, 0])) == [every[3], every[0]]
    with pytest.raises(FingerprintError, match=r"ImageFolder .*dog/1\.png cannot be read"):
        ids(dataset)


def test_files_are_counted_while_they_are_read(images, ids):
    """A watcher is told of every file that was read."""
    seen: list[int] = []
    ids(folder(images), on_file=seen.append)
    assert seen[-1] == 4


# By size and time


def test_files_may_be_known_by_size_and_time(images, tmp_path, ids):
    """``identity="stat"`` reads no file: a copy that keeps its times has the same rows."""
    found = ids(folder(images), by="stat")
    assert len({*found, *ids(folder(images))}) == 8
    copy = shutil.copytree(images, tmp_path / "copy", copy_function=shutil.copy2)
    assert ids(folder(copy), by="stat") == found
    stat = (images / "cat/1.png").stat()
    (images / "cat/1.png").write_bytes(bytes(stat.st_size))
    os.utime(images / "cat/1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert ids(folder(images), by="stat") == found


@pytest.mark.parametrize("change", ["touch", "replace", "grow", "rename", "target"])
def test_size_time_path_and_target_count(images, ids, change):
    """A file touched, replaced at its size, grown or renamed is another row, as is its target."""
    path = images / "cat/1.png"
    stat = path.stat()
    dataset = folder(images)
    before = ids(dataset, by="stat")
    if change == "target":
        dataset.samples[0] = (str(path), 1)
    if change == "rename":
        path.rename(images / "cat/0.png")
        dataset = folder(images)
    if change in ("replace", "grow"):
        path.write_bytes(bytes(stat.st_size + (change == "grow")))
        os.utime(path, ns=(0, stat.st_mtime_ns + (change == "replace")))
    if change == "touch":
        os.utime(path, ns=(0, stat.st_mtime_ns + 1))
    assert same(before, ids(dataset, by="stat")) == [False, True, True, True]


def test_paths_cannot_be_ignored_where_little_else_is_known(images, ids):
    """Files of one size and one time would be one without their paths, so that is refused."""
    with pytest.raises(ConfigError, match="'path': of these samples target can be ignored"):
        ids(folder(images), by="stat", ignored=["path"])
    assert len(set(ids(folder(images), by="stat", ignored=["target"]))) == 4


# Files that cannot be read


def test_files_outside_the_root_are_refused(images, ids):
    """A sample that does not lie below the dataset's folder has no relative path."""
    dataset = folder(images)
    dataset.samples[0] = ("/elsewhere/1.png", 0)
    with pytest.raises(FingerprintError, match="is not below"):
        ids(dataset)
    with pytest.raises(FingerprintError, match="is not below"):
        ids(dataset, dataset_id="x@1")


def vanish(path):
    """Remove a file."""
    path.unlink()


def loop(path):
    """Put links that lead to each other in a file's place."""
    path.unlink()
    path.symlink_to(path.name + "~")
    path.with_name(path.name + "~").symlink_to(path.name)


def put_a_folder(path):
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()


def put_a_pipe(path):
    """Put a pipe that nobody writes to in a file's place."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("by", ["content", "stat"])
@pytest.mark.parametrize("spoil", [vanish, loop, put_a_folder, put_a_pipe])
def test_files_that_cannot_be_read_are_refused_by_name(images, ids, spoil, by):
    """A file that vanished, a loop of links, a folder or a pipe in its place: refused by name."""
    dataset = folder(images)
    spoil(images / "dog/1.png")
    with pytest.raises(FingerprintError, match=r"ImageFolder .*dog/1\.png (cannot be read|is a)"):
        ids(dataset, by=by)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_files_that_may_not_be_read_are_refused_by_name(images, ids):
    """A file without permission is refused by its name."""
    (images / "dog/1.png").chmod(0)
    with pytest.raises(FingerprintError, match=r"dog/1\.png cannot be read .Permission denied"):
        ids(folder(images))


def test_names_that_are_no_unicode_are_paths(images, ids):
    """A file whose name is no text in the file system's encoding has a row like any other."""
    for byte in (b"\xff", b"\xfe"):
        try:
            shutil.copy(images / "cat/1.png", os.fsencode(images / "cat") + b"/" + byte + b".png")
        except OSError:
            pytest.skip("this file system takes Unicode only")
    for options in ({}, {"by": "stat"}, {"dataset_id": "x@1"}):
        assert len(set(ids(folder(images), **options))) == 6


@pytest.mark.parametrize("samples", [[("only",)], [None], {"a": 1}, 3, [(3, 0)], [("a\0b", 0)]])
def test_damaged_lists_of_samples_are_refused(images, ids, samples):
    """Samples that are no pairs of a path and a target are refused by the dataset's name."""
    dataset = folder(images)
    dataset.samples = samples
    with pytest.raises(FingerprintError, match="ImageFolder"):
        samples_of(dataset, np.arange(1))
    with pytest.raises(FingerprintError, match="ImageFolder"):
        samples_of(dataset, np.arange(1), dataset_id="x@1")


def test_identity_draws_from_no_generator(images, ids):
    """To identify samples moves neither Python's nor numpy's generator."""
    before = (random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    ids(folder(images))
    assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002
