"""What many small files contain, against a bare stat of each."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from harness import Case, Options, interleave
from results import Section, against

from castore.digest import identity
from castore.identity.files import digests_file, memo
from castore.identity.files.contents import contents, relative
from castore.identity.rows import RowIds, from_parts

__all__ = ["NAME", "measure"]

NAME = "fingerprints"
_GOALS = {"os.stat of each": 2.0}
#: Folders, and files of a kilobyte in each.
_FULL, _QUICK = (200, 500), (20, 50)
_SOURCE = identity("source", b"bench")
_STATE = "XDG_STATE_HOME"


def measure(options: Options) -> Section:
    """Time the row ids of files by content, target and path."""
    root = options.scratch / "files"
    paths = list(_make(root, *(_QUICK if options.quick else _FULL)))
    document = digests_file.place(str(root))
    before, os.environ[_STATE] = os.environ.get(_STATE), str(options.scratch / "state")
    try:
        time.sleep(2.5)  # a file that changed just now is not remembered
        fingerprint = partial(_fingerprint, paths, root, np.arange(len(paths)))
        forget = partial(shutil.rmtree, memo.folder(), ignore_errors=True)
        fingerprint()
        remembered = shutil.copytree(memo.folder(), options.scratch / "memo")
        castore = (sys.executable, "-m", "castore.cli")
        subprocess.run([*castore, "digests", root, "--json"], check=True, capture_output=True)
        listed = document.rename(options.scratch / "listed")

        def list_alone() -> None:
            forget()
            shutil.copyfile(listed, document)

        def forget_all() -> None:
            forget()
            document.unlink(missing_ok=True)

        def remember() -> None:
            forget_all()
            shutil.copytree(remembered, memo.folder())

        cases = [
            Case("castore", fingerprint, remember),
            Case("os.stat of each", partial(_stat, paths)),
            Case("castore, digests file alone", fingerprint, list_alone),
            Case("castore, every file read", fingerprint, forget_all),
            Case("Path.read_bytes of each", partial(_read, paths)),
        ]
        samples = interleave(cases, options.rounds_of(7, 3))
    finally:
        if before is None:
            del os.environ[_STATE]
        else:
            os.environ[_STATE] = before
        shutil.rmtree(root)
    beside = ("castore, digests file alone", "castore, every file read")
    title = f"{len(paths):,} files of a kilobyte"
    group = against(title, samples, _GOALS, better="lower", beside=beside)
    note = "Row ids by content, target and path. The page cache is warm; at first, the memo is."
    return Section(NAME, "What files contain", "time ÷ peer's", "lower", [group], note)


def _make(root: Path, folders: int, files: int) -> Iterator[str]:
    draw = random.Random(0)
    for folder in range(folders):
        place = root / f"class{folder:03}"
        place.mkdir(parents=True)
        for number in range(files):
            path = place / f"image_{number:05}.jpg"
            path.write_bytes(draw.randbytes(1000))
            yield str(path)


def _fingerprint(paths: list[str], root: Path, targets: np.ndarray) -> RowIds:
    digests = contents(paths, root).digests
    fixed = np.concatenate([digests, targets.astype("<i8")[:, None].view(np.uint8)], axis=1)
    return from_parts(_SOURCE, "file", fixed, relative(paths, root))


def _stat(paths: list[str]) -> None:
    for path in paths:
        os.stat(path)  # noqa: PTH116  what is timed


def _read(paths: list[str]) -> None:
    for path in paths:
        Path(path).read_bytes()
