"""A fault-injecting HTTP/1.1 reverse proxy for tests of S3 clients. Standard library only.

    with FaultProxy("127.0.0.1", 9000) as proxy:         # upstream S3
        fs = s3fs.S3FileSystem(endpoint_url=proxy.url, ...)
        proxy.add("lost_reply", "PUT", r"/bucket/a$", times=1)
        ...
        assert proxy.hits("lost_reply") == 1

It runs in a thread of its own, so forked and spawned clients can use it too. The
Host header passes unchanged: the client signs the proxy's address, and the server
checks the signature against the same header.

fault           what the client and the server see
--------------  -----------------------------------------------------------------
delay           `seconds` (number or (lo, hi)) before the request is forwarded
status          `status`, `code` answered by the proxy (503 SlowDown); the server sees nothing
reset           connection reset after the request was read; the server sees nothing
refuse          connection reset at once, before the request body is read
lost_reply      the server does the request, the client gets a reset instead of the answer
cut_request     the server gets `keep` bytes of the body and then a closed connection; the
                client a reset
cut_reply       the client gets the full header but `keep` bytes of the body, then end of stream
stall           the client gets `keep` bytes of the body, then silence for `seconds`
flip_reply      one bit of the answer's body is wrong (at byte `keep`)
flip_request    one bit of the request's body is wrong on its way to the server
throttle        the answer's body flows at `rate` bytes/s
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

FAULTS = (
    "delay",
    "status",
    "reset",
    "refuse",
    "lost_reply",
    "cut_request",
    "cut_reply",
    "stall",
    "flip_reply",
    "flip_request",
    "throttle",
)

PIECE = 1 << 16
LONGEST_HEAD = 1 << 20


@dataclass
class Rule:
    """Which requests meet which fault; `method` is matched in full, `target` searched."""

    fault: str
    method: str = ".*"
    target: str = ""
    times: int | None = None  # fire so often, then never again
    skip: int = 0  # let so many matching requests pass first
    chance: float = 1.0  # probability, from this rule's seeded generator
    status: int = 503
    code: str = "SlowDown"
    seconds: float | tuple[float, float] = 1.0
    keep: int = 0
    rate: float = 1e6
    headers: dict[str, str] = field(default_factory=dict)
    rng: random.Random = field(default_factory=random.Random, repr=False)
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        """Refuse a name that would never fire."""
        if self.fault not in FAULTS:
            raise ValueError(f"no fault is called {self.fault!r}; there are {', '.join(FAULTS)}")

    def fires(self) -> bool:
        """Whether the next matching request meets the fault; counts it as seen."""
        self.seen += 1
        due = self.seen > self.skip and (self.times is None or self.fired < self.times)
        return due and self.rng.random() < self.chance

    def duration(self) -> float:
        """Seconds to wait."""
        return self.rng.uniform(*self.seconds) if isinstance(self.seconds, tuple) else self.seconds

    def answer(self, *, head: bool) -> bytes:
        """Return what the proxy says in place of the server."""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>injected</Message>"
            "<RequestId>faultproxy</RequestId></Error>"
        ).encode()
        lines = [
            f"HTTP/1.1 {self.status} Injected",
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            "Connection: close",
        ]
        return "\r\n".join((*lines, "", "")).encode() + (b"" if head else body)


class Request(NamedTuple):
    """One request that came by."""

    method: str
    target: str
    fault: str | None


class _Reset(Exception):  # noqa: N818 - an order to reset the connection, not an error
    pass


class _Head(NamedTuple):
    raw: bytes
    first: str
    fields: dict[str, str]

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


class _Upstream(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def _head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("latin1").split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return _Head(raw, first, fields)


async def _chunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield a chunked body in raw pieces, framing and trailers included."""
    while True:
        line = await reader.readuntil(b"\r\n")
        yield line
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        yield await reader.readexactly(size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        yield line


async def _body(
    reader: asyncio.StreamReader, head: _Head, *, until_end: bool = False
) -> AsyncIterator[bytes]:
    """Yield the body in raw pieces."""
    if "chunked" in head.fields.get("transfer-encoding", "").lower():
        async for piece in _chunked(reader):
            yield piece
        return
    if "content-length" not in head.fields:
        while until_end and (piece := await reader.read(PIECE)):
            yield piece
        return
    left = int(head.fields["content-length"])
    while left > 0:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def _flipped(piece: bytes, start: int, rule: Rule) -> bytes:
    """Damage `piece`, which begins at byte `start` of the body, if the rule's byte is in it."""
    place = rule.keep - start
    if not 0 <= place < len(piece):
        return piece
    return piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]


class FaultProxy:
    """Stands before the server at `host`:`port`; `url` is where clients find it once started."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._upstream = (host, port)
        self._seed = seed
        self._rules: list[Rule] = []
        self._made = 0
        self._log: list[Request] = []
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task] = set()
        self.url = ""
        self.down = False  # True: every connection is reset

    # ---- control

    def add(self, fault: str, method: str = ".*", target: str = "", **how: object) -> Rule:
        """Add a rule. The first that fires decides; its chances are drawn by seed and number."""
        with self._lock:
            rng = random.Random(f"{self._seed} {self._made}")
            rule = Rule(fault, method, target, rng=rng, **how)
            self._made += 1
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules and requests; the next rule draws as the first did."""
        with self._lock:
            self._rules.clear()
            self._log.clear()
            self._made = 0

    def hits(self, fault: str | None = None) -> int:
        """How many requests met a fault, or this one."""
        with self._lock:
            return sum(
                entry.fault is not None and fault in (None, entry.fault) for entry in self._log
            )

    def requests(self, method: str = ".*", target: str = "") -> list[Request]:
        """Return the requests so far, in the order they came."""
        with self._lock:
            return [
                entry
                for entry in self._log
                if re.fullmatch(method, entry.method) and re.search(target, entry.target)
            ]

    def start(self) -> Self:
        """Listen on a free port of the loopback interface."""
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._client, "127.0.0.1", 0, limit=LONGEST_HEAD)
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close all connections and the port."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _close(self) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    # ---- proxying

    def _pick(self, method: str, target: str) -> Rule | None:
        with self._lock:
            hit = None
            for rule in self._rules:
                matches = re.fullmatch(rule.method, method) and re.search(rule.target, target)
                if matches and rule.fires() and hit is None:
                    rule.fired += 1
                    hit = rule
            self._log.append(Request(method, target, hit.fault if hit else None))
            return hit

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        opened = [writer]
        try:
            if self.down:
                raise _Reset  # noqa: TRY301 - as any request may order it
            await self._serve(reader, writer, opened)
        except _Reset:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for one in opened:
                one.close()
            for one in opened:
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await one.wait_closed()
            self._tasks.discard(task)

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opened: list[asyncio.StreamWriter],
    ) -> None:
        """Answer the requests of one connection."""
        upstream = None
        while True:
            head = await _head(reader)
            method, target, _ = head.first.split(" ", 2)
            rule = self._pick(method, target)
            if rule and not await self._pass(rule, head, reader, writer):
                return
            if upstream is None:
                upstream = _Upstream(
                    *await asyncio.open_connection(*self._upstream, limit=LONGEST_HEAD)
                )
                opened.append(upstream.writer)
            upstream.writer.write(head.raw)
            await upstream.writer.drain()
            if not await self._exchange(head, rule, reader, writer, upstream):
                return

    async def _pass(
        self,
        rule: Rule,
        head: _Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Do what comes before the server sees anything; whether it is to see the request."""
        if rule.fault == "refuse":
            raise _Reset
        if rule.fault == "delay":
            await asyncio.sleep(rule.duration())
        if rule.fault not in {"status", "reset"}:
            return True
        if "expect" not in head.fields:
            async for _ in _body(reader, head):
                pass
        if rule.fault == "reset":
            raise _Reset
        writer.write(rule.answer(head=head.first.startswith("HEAD ")))
        await writer.drain()
        return False

    async def _exchange(
        self,
        head: _Head,
        rule: Rule | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: _Upstream,
    ) -> bool:
        """Pass one request on and its answer back; whether the connection can take another."""
        sent = asyncio.ensure_future(self._forward(head, rule, reader, upstream.writer))
        try:
            reply = await self._final(sent, writer, upstream.reader)
            if not await self._answer(head, reply, rule, writer, upstream.reader):
                return False
            # an answer that came before the whole request was read leaves the connection unusable
            await asyncio.wait({sent}, timeout=0.5)
            return sent.done() and not (reply.closes or head.closes)
        finally:
            sent.cancel()
            await asyncio.gather(sent, return_exceptions=True)

    @staticmethod
    async def _forward(
        head: _Head,
        rule: Rule | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass the body of a request on."""
        seen = 0
        async for whole in _body(reader, head):
            piece = whole
            if rule and rule.fault == "cut_request" and seen + len(piece) > rule.keep:
                writer.write(piece[: rule.keep - seen])
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                raise _Reset
            if rule and rule.fault == "flip_request":
                piece = _flipped(piece, seen, rule)
            seen += len(piece)
            writer.write(piece)
            await writer.drain()

    @staticmethod
    async def _final(
        sent: asyncio.Future, writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> _Head:
        """Head of the answer; what comes before it ("100 Continue") is passed back."""
        while True:
            reply = asyncio.ensure_future(_head(reader))
            await asyncio.wait({sent, reply}, return_when=asyncio.FIRST_COMPLETED)
            if sent.done() and sent.exception():
                reply.cancel()
                await asyncio.gather(reply, return_exceptions=True)
                raise sent.exception()
            head = await reply
            if head.first.split(" ")[1] != "100":
                return head
            writer.write(head.raw)
            await writer.drain()

    @staticmethod
    async def _answer(
        head: _Head,
        reply: _Head,
        rule: Rule | None,
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
    ) -> bool:
        """Pass the answer back; whether it is whole."""
        fault = rule.fault if rule else None
        silent = fault == "lost_reply"
        if not silent:
            writer.write(reply.raw)
        empty = head.first.startswith("HEAD ") or reply.first.split(" ")[1] in {"204", "304"}
        seen = 0
        async for whole in _nothing() if empty else _body(reader, reply, until_end=True):
            piece = whole
            if fault in {"cut_reply", "stall"} and seen + len(piece) > rule.keep:
                writer.write(piece[: rule.keep - seen])
                await writer.drain()
                if fault == "stall":
                    await asyncio.sleep(rule.duration())
                return False
            if fault == "flip_reply":
                piece = _flipped(piece, seen, rule)
            seen += len(piece)
            if not silent:
                writer.write(piece)
                await writer.drain()
            if fault == "throttle":
                await asyncio.sleep(len(piece) / rule.rate)
        if silent:
            raise _Reset
        await writer.drain()
        return True


async def _nothing() -> AsyncIterator[bytes]:
    for piece in ():
        yield piece
