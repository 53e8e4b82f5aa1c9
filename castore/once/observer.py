"""When a file that another keeps is dead, and waiting until it is.

An observer calls it dead when it

- stayed the same for one `TTL` of the observer's own monotonic clock, or
- is older than `TTL` and `SLACK` by the clock that dated it, or
- names a process that is certainly gone.

So a file that says nothing, or nothing true, is dead after one `TTL`, whatever it is.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from castore.backend.base import Get, Now, ObjectInfo
from castore.errors import StoreError
from castore.once import heartbeat
from castore.once.heartbeat import RENEW, SLACK, TTL, Sign
from castore.once.owner import Owner

__all__ = ["Observer", "Sight", "Waiting", "pauses", "rest"]

_FIRST_PAUSE, _GROWTH = 0.005, 1.5
_LONGEST_NEAR, _LONGEST_FAR = 0.2, 2.0

_log = logging.getLogger("castore")
_jitter = random.SystemRandom()  # the seeded generator is the user's


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom a call waits for.

    Attributes
    ----------
    owner : Owner or None
        Who computes; None where its file does not say.
    label : str
        What is computed.
    waited, held : float
        For how many seconds the call has waited, and the other has been at it.
    """

    owner: Owner | None
    label: str
    waited: float
    held: float


class Signed(Protocol):
    """What a file says, its keeper's sign included."""

    @property
    def sign(self) -> Sign:
        """Who keeps it."""


T = TypeVar("T", bound=Signed)


@dataclass(frozen=True, slots=True)
class Sight(Generic[T]):
    """A file as one observer saw it, unchanged since.

    Attributes
    ----------
    tag : object
        The file's, as `castore.backend.base.ObjectInfo` has it.
    since : float
        When it was first seen so, by the observer's monotonic clock.
    age : float
        How many seconds before that it was written, by the clock that dated it; negative in
        a file from the future.
    content : Signed or None
        What it says; None where it cannot be read.
    """

    tag: object
    since: float
    age: float
    content: T | None

    @property
    def owner(self) -> Owner | None:
        """The keeper, where the file names one."""
        return self.content.sign.owner if self.content else None

    def is_dead(self) -> bool:
        """Tell whether nobody keeps the file any more."""
        seen = heartbeat.clock.monotonic() - self.since
        if seen >= TTL or self.age + seen > TTL + SLACK:
            return True
        return self.owner is not None and self.owner.is_gone()

    def waiting(self, waited: float) -> Waiting:
        """Say whom one waits for who has waited for `waited` seconds."""
        seen = max(self.age, 0.0) + heartbeat.clock.monotonic() - self.since
        if self.content is None:
            return Waiting(None, "", waited, seen)
        sign = self.content.sign
        return Waiting(sign.owner, sign.label, waited, sign.held + seen)


class _Place(Get, Now, Protocol):
    pass


class Observer(Generic[T]):
    """Remembers what it saw of files that others keep. For one thread.

    Parameters
    ----------
    backend : Backend
        Where they lie.
    read : callable
        Makes what a file says from its bytes, or None where it says nothing.
    largest : int
        Bytes of the largest file worth reading.
    """

    def __init__(self, backend: _Place, read: Callable[[bytes], T | None], largest: int) -> None:
        self._backend = backend
        self._read = read
        self._largest = largest
        self._sights: dict[str, Sight[T]] = {}
        self._ahead = 0.0
        self._asked = -math.inf

    def see(self, info: ObjectInfo) -> Sight[T]:
        """Return what is known of a file that a listing shows as `info`."""
        sight = self._sights.get(info.name)
        if sight is None or sight.tag != info.tag:
            now = heartbeat.clock.monotonic()
            content = self._content(info) if info.size <= self._largest else None
            sight = Sight(info.tag, now, self._server_time(now) - info.modified, content)
            self._sights[info.name] = sight
        return sight

    def see_nothing(self, name: str) -> Sight[T]:
        """Return what is known of what is in the way under `name`, and in no listing."""
        return self.see(ObjectInfo(name, 0, math.inf))

    def forget_others(self, names: Collection[str]) -> None:
        """Forget all files but those called `names`."""
        self._sights = {name: self._sights[name] for name in names if name in self._sights}

    def _content(self, info: ObjectInfo) -> T | None:
        try:
            data = self._backend.get(info.name)
        except StoreError as error:
            _log.debug("%s cannot be read: %s", info.name, error)
            return None
        return self._read(data) if data is not None else None

    def _server_time(self, now: float) -> float:
        """Return the server's time at `now` of the monotonic clock; it is asked now and then."""
        if now - self._asked > RENEW:
            self._ahead = self._backend.now() - heartbeat.clock.monotonic()
            self._asked = now
        return now + self._ahead


def pauses(*, near: bool) -> Iterator[float]:
    """Yield, for ever, the seconds to wait before each next look; short ones at first."""
    longest = _LONGEST_NEAR if near else _LONGEST_FAR
    length = _FIRST_PAUSE
    while True:
        yield length * _jitter.uniform(0.7, 1.0)
        length = min(length * _GROWTH, longest)


def rest(seconds: float, owner: Owner | None) -> None:
    """Let `seconds` pass, or fewer where `owner` is seen to be gone."""
    end = heartbeat.clock.monotonic() + seconds
    while (left := end - heartbeat.clock.monotonic()) > 0:
        heartbeat.clock.pause(min(left, _LONGEST_NEAR))
        if owner is not None and owner.is_gone():
            return
