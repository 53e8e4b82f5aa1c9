"""Signs of life: files that their keeper writes again and again while it is at work.

The numbers here are part of the format: all who share a store must agree on them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from castore.backend.base import Backend
from castore.canonical import Json
from castore.errors import StoreError
from castore.once.owner import Owner

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MAX_WAIT", "RENEW", "SLACK", "TTL", "Clock", "Keeper", "Sign", "clock"]

#: Seconds without a renewal after which a file is dead.
TTL = 120.0
#: Seconds between renewals.
RENEW = 20.0
#: Seconds more, where the ages of files are told by another clock.
SLACK = 5.0
#: Seconds after which whoever waits computes for himself: six hours.
MAX_WAIT = 6 * 3600.0

_FORMAT = 1
_LONGEST_LABEL = 200

_log = logging.getLogger("castore")


class Clock:
    """Time as it passes here; tests put another in place of `clock`."""

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let `seconds` pass."""
        time.sleep(seconds)

    def every(self, seconds: float, act: Callable[[], bool]) -> Callable[[], None]:
        """Call `act` every so many seconds until it returns False, in a thread of its own.

        Returns
        -------
        callable
            Ends it, without waiting for an `act` under way.
        """
        over = threading.Event()

        def work() -> None:
            while not over.wait(seconds) and act():
                pass

        threading.Thread(target=work, name="castore-renewal", daemon=True).start()
        return over.set


clock = Clock()


@dataclass(frozen=True, slots=True)
class Sign:
    """What a file says of its keeper.

    Attributes
    ----------
    nonce : str
        Another one for each file that is begun.
    owner : Owner or None
        The keeper; None where the file names none.
    label : str
        What is being computed, for people.
    held : float
        For how many seconds the file had been kept when it was written.
    """

    nonce: str
    owner: Owner | None
    label: str
    held: float = 0.0

    @classmethod
    def begin(cls, label: str) -> Sign:
        """Return the sign of this process, with a new nonce."""
        return cls(os.urandom(16).hex(), Owner.here(), label[:_LONGEST_LABEL])

    def document(self, held: float = 0.0) -> dict[str, Json]:
        """Return a document that `of` reads, as it is to be after `held` seconds."""
        return {
            "format": _FORMAT,
            "held_ms": round(held * 1000),
            "label": self.label,
            "nonce": self.nonce,
            "owner": self.owner.document() if self.owner else None,
        }

    @classmethod
    def of(cls, document: dict[str, Json]) -> Sign | None:
        """Return the sign in `document`, or None if there is none of this format."""
        nonce, label, held = (document.get(name) for name in ("nonce", "label", "held_ms"))
        if (
            document.get("format") == _FORMAT
            and isinstance(nonce, str)
            and isinstance(label, str)
            and type(held) is int
        ):
            return cls(nonce, Owner.of(document.get("owner")), label, held / 1000)
        return None


class Keeper:
    """Renews a file that this process has created, until it lets go of it.

    All of it may be called from any thread.

    Parameters
    ----------
    backend : Backend
        Where the file lies.
    name : str
        What it is called.
    sign : Sign
        What it says.
    write : callable
        Makes the pieces of the file as it is to be after so many seconds.
    read : callable
        Makes the sign from the bytes of a file, or None where it has none.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        sign: Sign,
        write: Callable[[float], Sequence[Buffer]],
        read: Callable[[bytes], Sign | None],
    ) -> None:
        self.name = name
        self._backend = backend
        self._sign = sign
        self._write = write
        self._read = read
        self._begun = self._kept = clock.monotonic()
        self._lapsed = False
        self._lock = threading.Lock()  # a renewal under way would undo what follows the end
        self._over = False
        self._stop = clock.every(RENEW, self.renew)

    def has_lapsed(self) -> bool:
        """Tell whether the file was left alone for so long that others may have called it dead."""
        return self._lapsed or clock.monotonic() - self._kept >= TTL

    def is_own(self) -> bool:
        """Ask the backend whether the file is still the one that was created."""
        data = self._backend.get(self.name)
        sign = self._read(data) if data is not None else None
        return sign is not None and sign.nonce == self._sign.nonce

    def renew(self) -> bool:
        """Write the file again; return False when it is not to be renewed any more.

        Trouble of the backend is logged and survived.
        """
        with self._lock:
            if self._over:
                return False
            try:
                if not self.is_own():
                    return False
                now = clock.monotonic()
                self._backend.put(self.name, self._write(now - self._begun), durable=False)
                self._kept, self._lapsed = now, self.has_lapsed()
            except StoreError as error:
                _log.debug("%s is not renewed: %s", self.name, error)
        return True

    def let_go(self, act: Callable[[], object]) -> bool:
        """Stop renewing, then call `act` if the file is still the one that was created.

        Only once, and only in the process that created it: in a forked child, and a second
        time, nothing happens and False is returned. Trouble of the backend is logged and
        survived: the file then dies of age.
        """
        if Owner.here() != self._sign.owner:
            return False
        self._stop()
        with self._lock:
            if self._over:
                return False
            self._over = True
        try:
            if self.is_own():
                act()
        except StoreError as error:
            _log.debug("%s is left to die of age: %s", self.name, error)
        return True
