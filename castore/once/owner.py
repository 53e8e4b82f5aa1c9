"""Who keeps a file: one process of one machine, and whether it is certainly gone.

A process id alone says nothing: ids are used again, and another machine or container has
others. A process is the one meant where the boot, the namespace and the start time agree.
Linux tells all three; elsewhere nothing is certain, and expiry decides.
"""

from __future__ import annotations

import functools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Owner"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SELF = Path("/proc/self")
#: Start times are shifted in a time namespace, so it is part of where a process is.
_NAMESPACES = ("pid", "time")
_LARGEST_PID = 2**31 - 1
_DEAD = "ZXx"


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes
    ----------
    host : str
        Name of the machine, for people.
    boot : str or None
        Id of the machine's run since it was started.
    namespace : str or None
        In which process ids and start times mean what they say.
    pid : int
        The process id.
    start : int or None
        When it was started, in clock ticks since the boot.
        Source: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """

    host: str
    boot: str | None
    namespace: str | None
    pid: int
    start: int | None

    @classmethod
    def here(cls) -> Owner:
        """Return this process; in a forked child, the child."""
        return _here(os.getpid())

    def document(self) -> dict[str, Any]:
        """Return a document that `of` reads."""
        return asdict(self)

    @classmethod
    def of(cls, document: object) -> Owner | None:
        """Return the process that `document` names, or None if it names none."""
        if not isinstance(document, dict):
            return None
        host, boot, namespace, pid, start = (document.get(name) for name in cls.__slots__)
        if (
            isinstance(host, str)
            and isinstance(boot, str | None)
            and isinstance(namespace, str | None)
            and type(pid) is int
            and type(start) in (int, type(None))
            and 0 < pid <= _LARGEST_PID
        ):
            return cls(host, boot, namespace, pid, start)
        return None

    def is_gone(self) -> bool:
        """Tell whether this process certainly computes nothing any more.

        True only to an observer in the same boot and namespace: there is no process with this
        id, or it was started at another time, or it is a zombie.
        """
        here = Owner.here()
        if self.start is None or (self.boot, self.namespace) != (here.boot, here.namespace):
            return False
        if here.start is None:
            return False
        found = _status(Path("/proc") / str(self.pid))
        if found is None:  # hidden from other users, perhaps
            return not _exists(self.pid)
        _, state, threads, start = found
        return start != self.start or (state in _DEAD and threads <= 1)


@functools.lru_cache(maxsize=1)
def _here(pid: int) -> Owner:
    host, status = os.uname().nodename, _status(_SELF)
    if status is None or status[0] != pid:  # no /proc, or that of another namespace
        return Owner(host, None, None, pid, None)
    try:
        boot = _BOOT.read_text().strip()
        namespace = " ".join(
            str((_SELF / "ns" / name).readlink())
            for name in _NAMESPACES
            if (_SELF / "ns" / name).is_symlink()
        )
    except OSError:
        return Owner(host, None, None, pid, None)
    return Owner(host, boot, namespace, pid, status[3])


os.register_at_fork(after_in_child=_here.cache_clear)  # an id may return in a new namespace


def _status(folder: Path) -> tuple[int, str, int, int] | None:
    """Return process id, state, number of threads and start time, or None if not to be had."""
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        before, _, after = (folder / "stat").read_bytes().rpartition(b")")
        fields = after.split()
        pid = int(before.partition(b"(")[0])
        return pid, fields[0].decode("ascii"), int(fields[17]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
