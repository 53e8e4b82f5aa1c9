"""Where settings come from: argument, then environment, then file.

The file is ``castore.toml``, or ``[tool.castore]`` in ``pyproject.toml``, in the working
folder or the nearest one above it that has either.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castore.errors import ConfigError

__all__ = ["MODES", "Settings", "load"]

#: ``rw`` read and write; ``ro`` never write; ``off`` always compute, touch nothing;
#: ``refresh`` always compute, replace what is there.
MODES = ("rw", "ro", "off", "refresh")

_KNOWN = ("url", "mode")


@dataclass(frozen=True)
class Settings:
    """What is set outside the call; None where nothing is.

    Attributes
    ----------
    url : str or None
        ``$CASTORE_URL``, or ``url`` in the file.
    mode : str or None
        ``$CASTORE_MODE``, or ``mode`` in the file: one of `MODES`.
    """

    url: str | None = None
    mode: str | None = None


def load(folder: Path | None = None) -> Settings:
    """Return the settings that hold in `folder`, by default the working folder.

    Raises
    ------
    ConfigError
        If the file is no TOML, or has a setting castore does not know.
    """
    found = _from_file((folder or Path.cwd()).absolute())
    for name in _KNOWN:
        if value := os.environ.get(f"CASTORE_{name.upper()}"):
            found[name] = value
    return Settings(**found)


def _from_file(folder: Path) -> dict[str, Any]:
    for place in (folder, *folder.parents):
        own, shared = place / "castore.toml", place / "pyproject.toml"
        if own.is_file():
            return _checked(_read(own), own)
        if shared.is_file():
            settings = _table(_table(_read(shared), "tool", shared), "castore", shared)
            if settings:
                return _checked(settings, shared)
    return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        import tomllib

        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        msg = f"{path} cannot be read as TOML: {error}"
        raise ConfigError(msg) from error


def _table(settings: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return the table `name` of `settings`, empty where there is none."""
    found = settings.get(name, {})
    if not isinstance(found, dict):
        msg = f"{path}: {name} = {found!r} is no table"
        raise ConfigError(msg)
    return found


def _checked(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    for name, value in settings.items():
        if name not in _KNOWN or not isinstance(value, str):
            msg = f"{path}: castore has no setting {name} = {value!r}; it knows {', '.join(_KNOWN)}"
            raise ConfigError(msg)
    return settings
