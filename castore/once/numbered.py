"""The files of claims, and their order.

::

    <state folder>/castore/claims/<boot id or "-">/<scope>/<number>

    {"after":…,"format":1,"held_ms":20000,"label":…,"nonce":…,"owner":…,"rows":…,"digest":…}
    row ids, 16 bytes each

A header, a newline, the rows. A new claim has the number above the highest, by
create-if-absent; one that is done is deleted, one whose owner died by somebody above. So a
number may come again, too late: lower than a claim that did not see it. Therefore each says, by
its nonce, whom it comes ``after``. A claim that finds itself below one that came after another
was late; it is withdrawn, and made again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from castore.backend.base import Backend, ObjectInfo
from castore.canonical import seal, unseal
from castore.digest import hexdigest
from castore.errors import BackendError, DamagedError, StoreError
from castore.once.heartbeat import Keeper, Sign
from castore.once.observer import Observer, Sight

__all__ = ["Content", "Folder", "RowIds"]

_LARGEST = 1 << 31  # bytes: 128 million rows
_TRIES = 1000  # others may be quicker
_OLD = 7 * 86400.0  # seconds
_NUMBER = re.compile(r".*/([0-9]{20})")

_log = logging.getLogger("castore")

RowIds = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Content:
    """What a claim says.

    Attributes
    ----------
    sign : Sign
        Who makes it.
    after : str
        Nonce of the highest claim there was before; empty if there was none.
    row_ids : ndarray
        uint8 (n, 16).
    """

    sign: Sign
    after: str
    row_ids: RowIds

    def pieces(self, held: float = 0.0) -> list[bytes | RowIds]:
        """Return the file as it is to be after `held` seconds, in pieces."""
        rows = self.row_ids.reshape(-1)
        header = {
            **self.sign.document(held),
            "after": self.after,
            "rows": hexdigest([rows]),
        }
        return [seal(header), b"\n", rows]

    @classmethod
    def read(cls, data: bytes) -> Self | None:
        """Return what a file says, or None if it is damaged or of another format."""
        header, _, rows = data.partition(b"\n")
        try:
            document = unseal(header, "a claim")
        except DamagedError:
            return None
        sign, after = Sign.of(document), document.get("after")
        if (
            sign is None
            or not isinstance(after, str)
            or len(rows) % 16
            or document.get("rows") != hexdigest([rows])
        ):
            return None
        return cls(sign, after, np.frombuffer(rows, np.uint8).reshape(-1, 16))


class Folder:
    """The claims of one scope, as one of them sees the others. For one thread at a time.

    Every method may raise `castore.errors.StoreError`.

    Parameters
    ----------
    backend : Backend
        Where the claims of all scopes lie.
    prefix : str
        The folder of this scope, with a slash at its end.
    """

    def __init__(self, backend: Backend, prefix: str) -> None:
        self._backend = backend
        self._prefix = prefix
        self._observer = Observer(backend, Content.read, _LARGEST)

    def add(self, row_ids: RowIds, label: str) -> tuple[int, Content]:
        """Make a claim above all others, and drop those of the dead.

        Raises
        ------
        StoreError
            If that cannot be, as when something that is no file has the next claim's name.
        """
        for _ in range(_TRIES):
            number, after = self._next()
            content = Content(Sign.begin(label), after, row_ids)
            if not self._backend.create(self._name(number), content.pieces(), durable=False):
                continue
            in_turn = False
            try:
                if in_turn := self._is_in_turn(number, content):
                    self._drop_dead(number)
                    return number, content
            finally:
                if not in_turn:
                    self._backend.delete([self._name(number)], durable=False)
        msg = f"{self._prefix}: no claim can be made; remove what is no file there"
        raise BackendError(msg)

    def keep(self, number: int, content: Content) -> Callable[[], bool]:
        """Renew a claim; return what ends it, as `Keeper.let_go` does."""
        name = self._name(number)
        keeper = Keeper(self._backend, name, content.sign, content.pieces, _sign)
        return lambda: keeper.let_go(lambda: self._backend.delete([name], durable=False))

    def live(self, below: int) -> list[tuple[int, Sight[Content]]]:
        """Return the claims with lower numbers that somebody still works on, by number."""
        found = [(number, info) for number, info in self._all() if number < below]
        self._observer.forget_others([info.name for _, info in found])
        seen = [(number, self._observer.see(info)) for number, info in found]
        return [(number, sight) for number, sight in seen if not sight.is_dead()]

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number:020}"

    def _all(self) -> list[tuple[int, ObjectInfo]]:
        named = ((_NUMBER.fullmatch(info.name), info) for info in self._backend.list(self._prefix))
        return [(int(match[1]), info) for match, info in named if match]

    def _next(self) -> tuple[int, str]:
        """Return the number of the next claim, and the nonce of the one it comes after."""
        found = self._all()
        if not found:
            return 0, ""
        number, info = found[-1]
        last = self._observer.see(info).content
        return number + 1, last.sign.nonce if last else ""

    def _is_in_turn(self, number: int, content: Content) -> bool:
        """Tell whether a claim just created came before all with higher numbers."""
        higher = [(other, info) for other, info in self._all() if other > number]
        if not higher:
            return True
        other, info = higher[0]
        follower = self._observer.see(info).content
        return other == number + 1 and follower is not None and follower.after == content.sign.nonce

    def _drop_dead(self, own: int) -> None:
        """Remove dead claims below one's own, whose numbers nobody can have again meanwhile."""
        try:
            lower = [info for number, info in self._all() if number < own]
            dead = [info.name for info in lower if self._observer.see(info).is_dead()]
            self._backend.delete(dead, durable=False)
            if self._backend.url not in _tidied:
                _tidied.add(self._backend.url)
                now = self._backend.now()
                old = [info.name for info in self._backend.list("") if now - info.modified > _OLD]
                self._backend.delete(old, durable=False)
        except StoreError as error:
            _log.debug("old claims are not dropped: %s", error)


#: Where this process has looked for what other scopes and boots left.
_tidied: set[str] = set()


def _sign(data: bytes) -> Sign | None:
    content = Content.read(data)
    return content.sign if content else None
