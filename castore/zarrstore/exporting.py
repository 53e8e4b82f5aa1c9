"""From an entry to a folder of plain Zarr files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from castore.backend.trouble import SystemErrors, sync_folder
from castore.errors import ConfigError
from castore.table.values import Values
from castore.threads import take_turns
from castore.zarrstore.folder import is_key

__all__ = ["export"]


def export(values: Values, folder: Path, update: Callable[[int], None]) -> Path:
    """Write all `values` below `folder`, which appears whole or not at all.

    Parameters
    ----------
    values : Values
        By Zarr key.
    folder : Path
        Must not exist, or be empty.
    update : callable
        Told how many files are written.

    Raises
    ------
    ConfigError
        If there is something already, or the entry has a key that is no way below a folder.
    DamagedError
        If any byte is missing or not what was stored.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  symlinks stay
    with SystemErrors("look at", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            msg = f"{folder} is there already: choose another place, or remove it"
            raise ConfigError(msg)
    if wrong := [key for key in values.keys if not is_key(key)]:
        msg = f"{values.entry.manifest.name} has the key {wrong[0]!r}, which is no file's"
        raise ConfigError(msg)
    part = folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}")
    done: list[int] = []

    def write(number: int) -> None:
        key = values.keys[number]
        path = part / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(values.read(key) or b"")
        done.append(number)
        update(len(done))

    with SystemErrors("write", folder):
        try:
            part.mkdir(parents=True)
            take_turns(write, len(values.keys))
            part.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
