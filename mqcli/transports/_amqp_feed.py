"""Deliveries of one channel, parsed in batches, and the reading that all kinds share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiormq.abc import AbstractChannel
from pamqp import commands

from ..errors import ConnectionLost, MqcliError, NotFound, Refused, TryAgainLater
from ..message import Header, Headers, Received, Tagged
from ..transport import Feed
from . import _amqp_errors as errors
from ._amqp import AmqpLink
from ._amqp_codec import FRAME, Content, decode_content, read_short
from ._amqp_methods import method
from ._amqp_wire import Tap

__all__ = ["ChannelFeed", "Deliveries"]

_DELIVER, _CANCEL = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x1e"
PREFETCH = 2000
"""Messages that the broker may push ahead."""
_FULL, _ROOM = 24 << 20, 12 << 20
_OVERHEAD = 300
_CACHED = 1000
_BURST, _ENOUGH, _GATHERING = 16, 500, 0.005
"""So many at once are a stream of them: then it pays, the broker above all, to wait these seconds
for enough, which one acknowledgement covers. A trickle is handed out as it comes."""

Raw = tuple[int, bytes, bytes, bytes]
"""Redelivered, exchange with routing key, properties, body. Delivery tags count from 1."""


class Deliveries(Tap):
    """What the broker pushed on one channel and nobody has taken yet."""

    def __init__(self, link: AmqpLink) -> None:
        self.link = link
        self.ready: deque[Raw] = deque()
        self.count = 0
        """Deliveries since the channel was opened, and so the tag of the latest."""
        self.gone = False
        """The channel is closed, or the connection lost: nothing can be settled."""
        self.failure: MqcliError | None = None
        self.arrived = asyncio.Event()
        self.closed = False
        """What still comes is not wanted; it goes back to the broker with the channel."""
        self._size = 0
        self._redelivered = 0
        self._route = b""
        self._content = b""
        self._left = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes, at: int, end: int) -> int:
        number, unpack = self.number, FRAME.unpack_from
        append, taken = self.ready.append, 0
        before = at
        while end - at >= 8:
            kind, channel, size = unpack(data, at)
            after = at + 8 + size
            if after > end or channel != number:
                break
            if kind == 1:
                method = data[at + 7 : at + 11]
                if method == _DELIVER:
                    place = at + 20 + data[at + 11]
                    self._redelivered = data[place]
                    self._route = data[place + 1 : after - 1]
                    # As a rule the content follows in two frames that are here as well.
                    if end - after > 20:
                        size = unpack(data, after)[2]
                        body, left = after + 8 + size, data[after + 11 : after + 19]
                        if end - body > 8 and data[body] == 3:
                            size = unpack(data, body)[2]
                            last = body + 8 + size
                            if last <= end and int.from_bytes(left, "big") == size:
                                append(
                                    (
                                        self._redelivered,
                                        self._route,
                                        data[after + 19 : body - 1],
                                        data[body + 7 : last - 1],
                                    )
                                )
                                taken += 1
                                at = last
                                continue
                elif method == _CANCEL:
                    self._cancelled()
                else:
                    break
            elif kind == 2:
                self._left = int.from_bytes(data[at + 11 : at + 19], "big")
                self._content = data[at + 19 : after - 1]
                self._pieces = []
                if not self._left:
                    append((self._redelivered, self._route, self._content, b""))
                    taken += 1
            elif kind == 3:
                self._left -= size
                self._pieces.append(data[at + 7 : after - 1])
                if self._left <= 0:
                    body_ = b"".join(self._pieces)
                    self._pieces = []
                    append((self._redelivered, self._route, self._content, body_))
                    taken += 1
            else:
                break
            at = after
        self.count += taken
        self._size += at - before + _OVERHEAD * taken
        return at

    def _cancelled(self) -> None:
        self._fail(
            NotFound(
                "the broker ended the reading",
                where=self.link.where,
                why="the queue was deleted, or its node is gone",
            )
        )

    def flush(self) -> None:
        if self.closed:
            self.ready.clear()
            return
        if self._size > _FULL:
            self.link.wire.pause()
        self.arrived.set()

    def take(self, most: int, most_bytes: int) -> list[Raw]:
        """The oldest, as many as fit, but at least one."""
        ready = self.ready
        if len(ready) <= most and self._size <= most_bytes:
            taken = list(ready)
            ready.clear()
            self._size = 0
        else:
            taken, size = [], 0
            while ready and len(taken) < most:
                size += len(ready[0][3])
                if size > most_bytes and taken:
                    break
                taken.append(ready.popleft())
            self._size = max(0, self._size - sum([len(raw[3]) + _OVERHEAD for raw in taken]))
            if not ready:
                self._size = 0
        if self._size < _ROOM:
            self.link.wire.resume()
        return taken

    def _fail(self, failure: MqcliError) -> None:
        self.failure = self.failure or failure
        self.arrived.set()

    def close(self) -> None:
        self.closed = True
        self.arrived.set()
        self.ready.clear()
        self._size = 0
        self.link.wire.resume()

    def lost(self) -> None:
        self.gone = True
        self.ready.clear()  # the broker gives them to somebody else
        self._fail(errors.lost(self.link.wire.lost, self.link.where))

    def channel_closed(self, code: int, text: str) -> None:
        error = errors.from_reply(code, text, self.link.where)
        if code == 406 and "timed out" in text:  # held for longer than consumer_timeout
            error = errors.lost(text, self.link.where)
        self.gone = True
        self.link.wire.untap(self)
        if isinstance(error, ConnectionLost):
            self.ready.clear()
        self._fail(error)


class Route(NamedTuple):
    """What exchange and routing key mean for a message."""

    key: bytes | None
    extra: dict[str, Any]


class ChannelFeed(Feed):
    """A reading on a channel of its own. The kinds say what to consume, and what an idle moment
    and a batch handed out are used for."""

    idle_after = 0.25
    """Seconds of silence before ``_idle`` is asked."""

    def __init__(self, link: AmqpLink, keyed: bool) -> None:
        super().__init__()
        self._link, self._keyed = link, keyed
        self._tap = Deliveries(link)
        self._source = link.where
        self._channel: AbstractChannel | None = None
        self._consumer: str | None = None
        self._routes: dict[bytes, Route] = {}
        self._contents: dict[bytes, Content] = {}
        self._tag = 0
        """Of the latest message that was taken; the broker counts from 1."""
        self._closed = False
        self._quiet_at = 0.0
        self._enough = 0

    @property
    def channel(self) -> AbstractChannel:
        assert self._channel is not None
        return self._channel

    async def _open_channel(self) -> None:
        self._channel = await self._link.channel(self._tap)

    async def _start_consumer(
        self, queue: str, prefetch: int, arguments: Sequence[Header] = (), exclusive: bool = False
    ) -> None:
        link, channel = self._link, self.channel
        # The broker stops at the prefetch, long before which it must hear of us.
        self._enough = min(_ENOUGH, (prefetch or _ENOUGH * 4) // 4)
        self._consumer = f"mqcli-{channel.number}-{self._tap.count}"
        await link.ask(lambda: channel.basic_qos(prefetch_count=prefetch))
        frame = method(
            commands.Basic.Consume, arguments,
            queue=queue, consumer_tag=self._consumer, exclusive=exclusive,
        )  # fmt: skip
        await link.ask(lambda: link.rpc(channel, frame))

    async def _stop_consumer(self) -> None:
        """Nothing more is pushed; what came before is still there."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._link.ask(lambda: self.channel.basic_cancel(consumer))

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        tap, loop = self._tap, self._link.wire.loop
        deadline = loop.time() + wait
        self._quiet_at = self._quiet_at or loop.time() + self.idle_after
        while not self.ended and not self._closed:
            if tap.ready:
                if _BURST <= len(tap.ready) < self._enough:
                    await asyncio.sleep(_GATHERING)
                self._quiet_at = loop.time() + self.idle_after
                messages = self._made(tap.take(max_messages, max_bytes))
                self._handed_out(messages)
                if messages:
                    return messages
                continue
            if tap.failure is not None:
                raise tap.failure
            left = deadline - loop.time()
            if left <= 0:
                break
            if loop.time() >= self._quiet_at:
                await self._idle()
                self._quiet_at = loop.time() + self.idle_after
                continue
            tap.arrived.clear()
            timer = loop.call_later(min(left, self._quiet_at - loop.time()), tap.arrived.set)
            try:
                await tap.arrived.wait()
            finally:
                timer.cancel()
        return ()

    @abstractmethod
    def _made(self, taken: Sequence[Raw]) -> list[Received]:
        """The messages of what was taken, without those behind the stop."""

    def _handed_out(self, messages: Sequence[Received]) -> None:
        """These are returned next; must not wait."""

    async def _idle(self) -> None:
        """Nothing came for a while."""

    def _route(self, raw: bytes) -> Route:
        exchange, at = read_short(raw, 0)
        key, _ = read_short(raw, at)
        made = Route(
            (key or None) if self._keyed else None,
            {
                "exchange": exchange.decode("utf-8", "backslashreplace"),
                "routing_key": key.decode("utf-8", "backslashreplace"),
            },
        )
        if len(self._routes) > _CACHED:
            self._routes.clear()
        self._routes[raw] = made
        return made

    def _content(self, raw: bytes, cached_as: bytes) -> Content:
        """Decoded; what is damaged is shown as far as it can be."""
        try:
            made = decode_content(raw)
        except ValueError as exc:
            made = Content((), {"undecoded": raw, "why": str(exc)}, None)
        if len(self._contents) > _CACHED:
            self._contents.clear()
        self._contents[cached_as] = made
        return made

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._tap.close()
        if self._channel is not None:
            await self._link.close_channel(self._channel)
            self._link.wire.untap(self._tap)


def without(headers: Headers, name: str) -> tuple[Headers, int | None]:
    """The headers without one that the broker added, and its number."""
    kept = tuple(pair for pair in headers if pair[0] != name)
    if len(kept) == len(headers):
        return headers, None
    value = next(pair[1] for pair in headers if pair[0] == name)
    number = value.v if isinstance(value, Tagged) else value
    return kept, number if isinstance(number, int) else None


async def is_stream(link: AmqpLink, name: str) -> bool:
    """Whether a queue that exists is a stream: only those can be consumed from an offset. On
    another one the broker logs the refusal, so this is asked in case of doubt only."""
    tap = Deliveries(link)
    tap.close()
    channel = await link.channel(tap)
    place = [("x-stream-offset", "next")]
    frame = method(commands.Basic.Consume, place, queue=name, consumer_tag="mqcli-probe")
    try:
        await link.ask(lambda: channel.basic_qos(prefetch_count=1))
        await link.ask(lambda: link.rpc(channel, frame))
    except (Refused, TryAgainLater):
        return False
    finally:
        await link.close_channel(channel)
        link.wire.untap(tap)
    return True
