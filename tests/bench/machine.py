"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "file_system", "versions"]

_PACKAGES = ("castore", "numpy", "torch", "xxhash", "zarr")


def describe(folder: Path) -> dict[str, str | int]:
    """Return processor, cores, memory and system, and the file system of `folder`."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "file_system": file_system(folder),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of what was compared."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system of `folder`; empty where ``df`` cannot tell."""
    command = ["df", "--output=fstype", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "".join(done.stdout.split()[1:])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
