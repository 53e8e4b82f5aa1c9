"""Leases: one computation of a key, among all who ask at once.

::

    leases/<key>/<epoch>    {"format":1,"held_ms":40000,"label":…,"nonce":…,"owner":…,"digest":…}

A lease saves work; nothing rests on it. Whoever wants a key looks for its entry, then creates
epoch 0. Where that is refused he lists the epochs: if the highest is dead he creates the next
one, else he waits and starts again. Whoever created one looks for the entry once more, then
computes, renews his epoch, and at last deletes that one alone.

What the dead leave stays until `collect`. It takes the next epoch itself before it deletes
those below; and whoever takes over sees to it that the dead one is still there. Otherwise one
could take over from an epoch that is gone while another creates epoch 0.

Whoever holds a lease or a claim never waits for a lease, so nested calls cannot deadlock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

from castore.backend.base import Backend, ObjectInfo
from castore.blobs import layout
from castore.canonical import seal, unseal
from castore.errors import DamagedError
from castore.once import heartbeat
from castore.once.heartbeat import MAX_WAIT, RENEW, TTL, Keeper, Sign
from castore.once.holding import Holding, holding, nested
from castore.once.observer import Observer, Waiting, pauses, rest
from castore.once.owner import Owner

__all__ = [
    "MAX_WAIT",
    "RENEW",
    "TTL",
    "Lease",
    "Waiting",
    "acquire",
    "collect",
    "holding",
    "nested",
]

_LARGEST = 1 << 16

T = TypeVar("T")


class Lease:
    """A lease this process holds; a context manager that releases it.

    Made by `acquire`. All of it may be called from any thread.

    Attributes
    ----------
    key : str
        What is being computed.
    """

    def __init__(self, backend: Backend, key: str, epoch: int, sign: Sign) -> None:
        self.key = key
        self._backend = backend
        self._keeper = Keeper(
            backend,
            layout.lease(key, epoch),
            sign,
            lambda held: [seal(sign.document(held))],
            _read,
        )
        self._holding = Holding("lease")

    def is_held(self) -> bool:
        """Ask the store whether nobody took the lease over, nor could have and finished since.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        highest = _highest(self._backend, self.key)
        is_last = highest is not None and highest.name == self._keeper.name
        return is_last and self._keeper.is_own() and not self._keeper.has_lapsed()

    def release(self) -> None:
        """Let go of it, once, in the process that took it; elsewhere nothing happens.

        Trouble of the store is logged and survived: the lease then dies of age.
        """
        name = self._keeper.name
        if self._keeper.let_go(lambda: self._backend.delete([name], durable=False)):
            self._holding.over()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire(
    backend: Backend,
    key: str,
    label: str,
    look: Callable[[], T | None],
    *,
    wait: float = MAX_WAIT,
    on_wait: Callable[[Waiting], object] = lambda _: None,
) -> Lease | T | None:
    """Take the lease of `key`, or wait until what others compute is there.

    The caller has looked for the entry already.

    Parameters
    ----------
    backend : Backend
        The store's place.
    key : str
        What is to be computed.
    label : str
        The same for people.
    look : callable
        Looks for the entry once more; what it returns is the answer unless it is None.
    wait : float
        Seconds to wait for another at most; 0 never waits. Whoever holds a lease or a claim
        already never waits.
    on_wait : callable
        Told again and again whom the call waits for. An error of its own ends the call.

    Returns
    -------
    Lease or object or None
        A lease: compute, then release it. What `look` returned. Or None: compute without one.

    Raises
    ------
    StoreError
        If the store cannot be written or listed.
    """
    begun = heartbeat.clock.monotonic()
    patience = 0.0 if holding() else wait
    observer = Observer(backend, _content, _LARGEST)
    epoch, dead = 0, None
    for pause in pauses(near=backend.near):
        if (sign := _create(backend, key, epoch, label, dead)) is not None:
            return _look_again(Lease(backend, key, epoch, sign), look)
        highest = _highest(backend, key)
        if highest is not None and _epoch(highest) >= epoch:
            epoch = _epoch(highest)
            sight = observer.see(highest)
        else:  # released a moment ago, or no file
            sight = observer.see_nothing(layout.lease(key, epoch))
        if sight.is_dead():
            epoch, dead = epoch + 1, highest
            continue
        waited = heartbeat.clock.monotonic() - begun
        if waited >= patience:
            return None
        on_wait(sight.waiting(waited))
        rest(min(pause, patience - waited), sight.owner)
        if (found := look()) is not None:
            return found
        epoch, dead = 0, None
    raise AssertionError  # the pauses never end


def _create(
    backend: Backend, key: str, epoch: int, label: str, dead: ObjectInfo | None
) -> Sign | None:
    """Create an epoch, unless it exists; if it follows a dead one, that must still be there."""
    sign, name = Sign.begin(label), layout.lease(key, epoch)
    if not backend.create(name, [seal(sign.document())], durable=False):
        return None
    found = backend.stat(dead.name) if dead else None
    if dead is None or (found is not None and found.tag == dead.tag):
        return sign
    backend.delete([name], durable=False)
    return None


def _look_again(lease: Lease, look: Callable[[], T | None]) -> Lease | T:
    """Return what is there by now, or else `lease`: its last holder may just have finished."""
    try:
        found = look()
    except BaseException:
        lease.release()
        raise
    if found is None:
        return lease
    lease.release()
    return found


def owners(backend: Backend) -> Iterator[Owner]:
    """Yield the processes that the leases of all keys name, dead ones too.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    for info in backend.list(layout.LEASES):
        if layout.lease_of(info.name) and info.size <= _LARGEST:
            content = _content(backend.get(info.name) or b"")
            if content is not None and content.sign.owner is not None:
                yield content.sign.owner


def collect(backend: Backend) -> int:
    """Remove the leases that the dead left; return how many.

    The highest epoch of a key goes first, and none below a live one.

    Raises
    ------
    StoreError
        If the store cannot be listed or written.
    """
    observer = Observer(backend, _content, _LARGEST)
    keys: dict[str, list[ObjectInfo]] = {}
    for info in backend.list(layout.LEASES):
        if (lease := layout.lease_of(info.name)) is not None:
            keys.setdefault(lease[0], []).append(info)
    removed = 0
    for key, found in keys.items():
        found.sort(key=_epoch, reverse=True)
        dead = list(itertools.takewhile(lambda info: observer.see(info).is_dead(), found))
        if dead:
            removed += _clear(backend, key, [info.name for info in dead], dead[0])
    return removed


def _clear(backend: Backend, key: str, names: list[str], highest: ObjectInfo) -> int:
    epoch = _epoch(highest) + 1
    if _create(backend, key, epoch, "collecting leases", highest) is None:
        return 0  # somebody took over
    try:
        return sum(backend.delete([name], durable=False) for name in names)
    finally:
        backend.delete([layout.lease(key, epoch)], durable=False)


def _highest(backend: Backend, key: str) -> ObjectInfo | None:
    found = [info for info in backend.list(layout.leases(key)) if layout.lease_of(info.name)]
    return max(found, key=_epoch, default=None)


def _epoch(info: ObjectInfo) -> int:
    lease = layout.lease_of(info.name)
    assert lease is not None, info.name
    return lease[1]


@dataclass(frozen=True, slots=True)
class _Content:
    sign: Sign


def _content(data: bytes) -> _Content | None:
    sign = _read(data)
    return _Content(sign) if sign else None


def _read(data: bytes) -> Sign | None:
    """Return what a lease says, or None if it is damaged or of another format."""
    try:
        return Sign.of(unseal(data, "a lease"))
    except DamagedError:
        return None
