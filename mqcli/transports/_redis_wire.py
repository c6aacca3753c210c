"""One socket to Redis: packed commands out, parsed replies in, in the same order.

redis-py's connection has resolved, connected, done TLS and logged in; its socket then gets this
protocol, which parses with hiredis by the chunk. redis-py's own way costs a task switch a reply.

A cancelled wait keeps its place in the queue: its replies are counted and dropped when they come,
so the answers of later commands cannot be mistaken (the trap of CVE-2023-28858).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from hiredis import ReplyError
from redis.exceptions import RedisError, ResponseError

from ..errors import ConnectionLost, MqcliError
from . import _redis_errors as errors

__all__ = ["PublicWire", "Replies", "Wire", "unasked"]

Replies = tuple[list[Any], MqcliError | None]
"""What came, error replies as ReplyError among it, and the cause if something did not come."""

_NOTHING = object()
# hiredis moves the rest of its buffer for each KiB that it has parsed: slices keep that cheap.
_SLICE = 32_768


async def unasked(reader: asyncio.StreamReader | None) -> bytes | None:
    """What a peer has said, and redis-py not read, before it was asked anything: a server that is
    full says so and hangs up. Empty when it only hung up, None when it waits for us."""
    if reader is None:
        return None
    reading = asyncio.ensure_future(reader.read(1 << 12))
    try:
        await asyncio.wait((reading,), timeout=0)
    finally:
        reading.cancel()
    await asyncio.wait((reading,))
    if reading.cancelled() or isinstance(reading.exception(), OSError):
        return None
    return reading.result()


class Pending:
    """Replies that are awaited: a place in the order of the wire."""

    __slots__ = ("future", "got", "need", "since", "timeout")

    def __init__(self, need: int, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self.need, self.timeout, self.since = need, timeout, loop.time()
        self.got: list[Any] = []
        self.future: asyncio.Future[Replies] = loop.create_future()

    def settle(self, cause: MqcliError | None) -> None:
        # Cancelled: nobody wants the replies, but they were counted, so that the next ones fit.
        if not self.future.done():
            self.future.set_result((self.got, cause))


class Wire(asyncio.Protocol):
    """One socket: commands out, replies in, in the same order."""

    def __init__(self, where: str, peer: str, connection: Any, transport: Any) -> None:
        """Takes over the socket of a redis-py connection that is logged in; ``transport`` is that
        of asyncio."""
        self.where, self.peer = where, peer
        self._connection, self._transport = connection, transport
        self.loop = asyncio.get_running_loop()
        self.broken: ConnectionLost | None = None
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.pushed: Callable[[list[Any]], None] | None = None
        """Takes all replies in place of the pending ones: pub/sub."""
        self.heard = self.loop.time()
        self._queue: deque[Pending] = deque()
        self._parser = hiredis.Reader(notEnoughData=_NOTHING)
        self._timer: asyncio.TimerHandle | None = None
        self._former: Any = None
        self._start()

    def _start(self) -> None:
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # the former was told, and we shall not be
            self._settle(f"closed by {self.peer}")
            self.closed.set_result(None)

    def send(self, packed: bytes, replies: int, timeout: float) -> asyncio.Future[Replies]:
        """Write now; the future gets the replies. Raises ConnectionLost if nothing was written."""
        if self.broken is not None:
            raise self.broken
        pending = Pending(replies, timeout, self.loop)
        if replies:
            self._queue.append(pending)
            self._watch(pending.since + timeout)
        else:
            pending.settle(None)
        self._write(packed)
        return pending.future

    def write(self, packed: bytes) -> None:
        """Write now, expecting no reply of its own (pub/sub). Raises ConnectionLost."""
        if self.broken is not None:
            raise self.broken
        self._write(packed)

    def _write(self, packed: bytes) -> None:
        self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        parser = self._parser
        for start in range(0, len(data), _SLICE):
            try:
                parser.feed(data, start, min(_SLICE, len(data) - start))
                replies = list(iter(parser.gets, _NOTHING))
            except hiredis.ProtocolError as exc:
                self.abort(f"{self.peer} does not speak the Redis protocol: {exc}")
                return
            if replies:
                self._deliver(replies)

    def _deliver(self, replies: list[Any]) -> None:
        if self.pushed is not None:
            self.pushed(replies)
            return
        queue, at = self._queue, 0
        while at < len(replies):
            if not queue:  # a farewell such as "ERR max number of clients reached"
                self.abort(f"{self.peer} said {replies[at]}")
                return
            pending = queue[0]
            part = replies[at : at + pending.need] if at or len(replies) > pending.need else replies
            at += len(part)
            pending.need -= len(part)
            if not pending.future.done():
                pending.got += part
            if not pending.need:
                queue.popleft().settle(None)

    def _watch(self, moment: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= moment:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(moment, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._queue:
            head = self._queue[0]
            due = max(self.heard, head.since) + head.timeout
            if due <= self.loop.time():
                self.abort(f"{self.peer} gave no answer for {head.timeout:g} s")
            else:
                self._watch(due)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._former is not None:
            self._former.connection_lost(exc)
        reason = f"by {self.peer}: {exc.strerror or exc}" if isinstance(exc, OSError) else ""
        self._settle(reason or f"closed by {self.peer}")
        if not self.closed.done():
            self.closed.set_result(None)

    def _settle(self, why: str) -> None:
        if self.broken is None:
            self.broken = errors.lost(self.where, why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            self._queue.popleft().settle(self.broken)

    def abort(self, why: str) -> None:
        self._settle(why)
        self._transport.abort()

    async def aclose(self) -> None:
        """Safe twice. Awaited replies get ConnectionLost."""
        self._settle("closed by us")
        self._transport.close()
        try:
            await asyncio.wait((self.closed,), timeout=0.5)
        finally:
            self._transport.abort()  # a peer that never answers TLS's close_notify
            await self._connection.disconnect(nowait=True)


class PublicWire(Wire):
    """The same over redis-py's public methods, a reply at a time: slow, but only theirs."""

    def _start(self) -> None:
        self._writes: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = [
            self.loop.create_task(self._drain(step)) for step in (self._write_one, self._read_one)
        ]

    def _write(self, packed: bytes) -> None:
        self._writes.put_nowait(packed)

    async def _write_one(self) -> None:
        await self._connection.send_packed_command(await self._writes.get(), check_health=False)

    async def _read_one(self) -> None:
        try:
            reply = await self._connection.read_response(
                disable_decoding=True, timeout=float("inf"), disconnect_on_error=False
            )
        except ResponseError as exc:
            reply = ReplyError(errors.reply_text(exc))
        self.heard = self.loop.time()
        self._deliver([reply])

    async def _drain(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            while self.broken is None:
                await step()
        except (RedisError, OSError) as exc:
            self.connection_lost(OSError(str(exc)))

    def abort(self, why: str) -> None:
        self._settle(why)
        for task in self._tasks:
            task.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    async def aclose(self) -> None:
        self.abort("closed by us")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)
