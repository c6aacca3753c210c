"""RabbitMQ streams, read as the logs they are. Over AMQP 0-9-1 they have no groups: the offsets of
consumers are kept by the stream protocol only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pamqp import commands

from ..errors import Refused, Unsupported, UsageError
from ..message import Header, Headers, HeaderValue, Received, Tagged
from ..position import Start
from ..transport import Consumes, Feed, Gap, Span, Tails, Traits
from ._amqp import AmqpLink
from ._amqp_codec import PROPERTY_NAMES
from ._amqp_feed import ChannelFeed, Deliveries, Raw, is_stream, without
from ._amqp_methods import method
from ._amqp_options import StreamOptions, stream_arguments
from ._amqp_queues import QueueLike

_OFFSET = b"\x0fx-stream-offsetl"
# Tried on 3.10: it stores messages of streams in AMQP 1.0, and translates not everything.
_LOST = {"table": "lost", "list": "lost", "decimal": "fatal", "u64": "another type"}
_KEEPS_ALL = (3, 13)
"""The first release that translates otherwise; what that one cannot carry it says itself."""
_ALONE = 0.25
"""Seconds after which a stream that shows no last message is taken for empty."""


class AmqpStream(QueueLike, Consumes, Tails):
    """A stream: a log that any number of readers read, each from where it likes."""

    summary = "stream, a log without groups"
    Options = StreamOptions
    kind = "stream"
    instead: ClassVar[Mapping[str, str]] = {
        "group": "AMQP 0-9-1 keeps no offsets for the consumers of a stream: say --from OFFSET, or"
        " share a queue: between readers"
    }

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        return Traits(
            confirm="stored",
            durable="replicated-memory: in the page cache of a majority of its nodes",
            ack="none",
            nack=False,
            keeps="log",
            order="all",
            shares=False,
            fans_out=True,
            headers="typed",
            keys=False,
            tombstones=False,
            missing="refused",
            properties=PROPERTY_NAMES,
            sorts_headers=True,
            starts=frozenset({"beginning", "end", "skip", "last", "at", "time", "after"}),
        )

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        start = span.start or Start("beginning")
        return await self._feed(Span(start, span.stop), limit)

    async def tail(self, span: Span) -> Feed:
        return await self._feed(Span(span.start or Start("end"), span.stop), None)

    async def _feed(self, span: Span, limit: int | None) -> Feed:
        feed = StreamFeed(self._link, self._name, self.target.options, span, limit)
        try:
            await feed.open()
        except Refused as exc:
            await feed.aclose()
            if await is_stream(self._link, self._name):
                raise
            raise self._wrong_kind() from exc
        except BaseException:
            await feed.aclose()
            raise
        return feed

    def _vet_headers(self, headers: Headers) -> None:
        lossy = [value.t for _, value in headers if isinstance(value, Tagged) and value.t in _LOST]
        if lossy and self._link.version < _KEEPS_ALL:
            raise ValueError(
                f"a header of type {lossy[0]} would be {_LOST[lossy[0]]} in a stream of"
                f" RabbitMQ {self._link.server.get('version')}"
            )

    def _arguments(self) -> tuple[Header, ...]:
        return stream_arguments(self.target.options)


class StreamFeed(ChannelFeed):
    """Reads from one offset to another. Acknowledging only gives the broker room to push: a stream
    forgets nothing by it. It pushes whole chunks, so that up to a chunk more than the limit may
    come; that takes nothing from anyone, and is not handed out."""

    def __init__(
        self, link: AmqpLink, name: str, options: StreamOptions, span: Span, limit: int | None
    ) -> None:
        super().__init__(link, keyed=False)
        assert span.start is not None
        self._name, self._limit, self._left = name, limit, limit
        self._start, self._stop_asked = span.start, span.stop
        self._prefetch = options.prefetch if limit is None else max(1, min(options.prefetch, limit))
        self._next: int | None = None
        self._stop: int | None = None
        self._exact = False
        self._acknowledged = 0
        for place in (span.start, span.stop):
            if place is not None and place.kind in ("at", "after"):
                _offset(place, link.where)

    async def open(self) -> None:
        """Raises NotFound, AccessDenied, Refused for what is not a stream."""
        await self._open_channel()
        end: int | None = None
        if self._start.kind in ("end", "last") or (
            self._stop_asked is not None and self._stop_asked.kind in ("end", "last", "time")
        ):
            end = await self._end()
        self._stop = await self._stop_offset(self._stop_asked, end)
        place = await self._start_place(self._start, end)
        if isinstance(place, int):
            self._next = place
            self.ended = self._stop is not None and place >= self._stop
        self.ended = self.ended or self._limit == 0 or place is None or self._stop == 0
        if place is not None and not self.ended:
            arguments = [("x-stream-offset", place)]
            await self._start_consumer(self._name, self._prefetch, arguments)

    async def _start_place(self, start: Start, end: int | None) -> HeaderValue | None:
        """Where to attach; None where nothing stands there and nothing more is wanted."""
        match start.kind:
            case "at" | "after":
                self._exact = True
                return _offset(start, self._link.where)
            case "end":
                return end
            case "last":
                assert end is not None
                return max(await self._find("first") or 0, end - start.count)
            case "skip":
                return (await self._find("first") or 0) + start.count
            case "time":
                moment = Tagged("time", start.ms // 1000)
                return moment if self._stop is None else await self._find(moment)
        return "first"

    async def _stop_offset(self, stop: Start | None, end: int | None) -> int | None:
        if stop is None:
            return None
        match stop.kind:
            case "beginning":
                return 0
            case "end":
                return end
            case "last":
                assert end is not None
                return max(0, end - stop.count)
            case "time":
                if stop.ms > time.time() * 1000:
                    raise Unsupported(
                        "a stream cannot be read up to a time in the future",
                        where=self._link.where,
                        why="AMQP 0-9-1 does not say when a message was stored",
                        hint="use --timeout",
                    )
                found = await self._find(Tagged("time", stop.ms // 1000))
                return end if found is None else found
        return _offset(stop, self._link.where)

    async def _end(self) -> int:
        """The offset behind the last message that stands now."""
        last = await self._find("last", whole=True)
        return 0 if last is None else last + 1

    async def _find(self, place: HeaderValue, whole: bool = False) -> int | None:
        """The offset of the first message from ``place`` on; with ``whole`` that of the last one,
        for ``last`` attaches at the last chunk. None when nothing is there."""
        link = self._link
        probe = _Offsets(link)
        channel = await link.channel(probe)
        arguments = [("x-stream-offset", place)]
        frame = method(
            commands.Basic.Consume, arguments, queue=self._name, consumer_tag="mqcli-probe"
        )
        try:
            await link.ask(lambda: channel.basic_qos(prefetch_count=65535 if whole else 1))
            await link.ask(lambda: link.rpc(channel, frame))
            # What is there has been pushed before the answer to the next method.
            await link.ask(lambda: channel.basic_qos(prefetch_count=1))
            if probe.first is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ALONE):
                        await probe.arrived.wait()
        finally:
            await link.close_channel(channel)
            link.wire.untap(probe)
        if probe.failure is not None:
            raise probe.failure
        return probe.last if whole else probe.first

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        if self._left is not None:
            max_messages = min(max_messages, self._left)
        return await super().receive(max_messages, max_bytes, wait)

    def _handed_out(self, messages: Sequence[Received]) -> None:
        if self._left is not None:
            self._left -= len(messages)
            self.ended = self.ended or self._left == 0

    def _made(self, taken: Sequence[Raw]) -> list[Received]:
        source, routes, contents = self._source, self._routes, self._contents
        made: list[Received] = []
        for _, path, raw, body in taken:
            at = raw.find(_OFFSET) + len(_OFFSET)
            offset = int.from_bytes(raw[at : at + 8], "big")
            if self._stop is not None and offset >= self._stop:
                self.ended = True
                break
            if self._exact:
                self._check_first(offset)
            self._next = offset + 1
            same = raw[:at] + raw[at + 8 :]
            content = contents.get(same)
            if content is None:
                content = self._content(raw, same)
                headers, _ = without(content.headers, "x-stream-offset")
                content = contents[same] = content._replace(headers=headers)
            route = routes.get(path) or self._route(path)
            made.append(
                Received(
                    body, None, content.headers, content.properties, content.timestamp, False,
                    source, str(offset), False, route.extra,
                )
            )  # fmt: skip
        self._tag += len(taken)
        self._acknowledge(self._tag)
        if self._stop is not None and self._next is not None and self._next >= self._stop:
            self.ended = True
        return made

    def _check_first(self, offset: int) -> None:
        """Is the first message the one that was asked for?"""
        self._exact = False
        if self._next is not None and offset > self._next:
            self.gaps.append(
                Gap(
                    self._source, "the stream begins later: retention removed messages",
                    after=str(self._next - 1) if self._next else None, before=str(offset),
                    count=offset - self._next,
                )
            )  # fmt: skip

    def _acknowledge(self, tag: int) -> None:
        """As far as the broker then still cannot push more than the limit in all."""
        if self._limit is not None:
            tag = min(tag, self._limit - self._prefetch)
        if tag > self._acknowledged and not self._tap.gone:
            self._acknowledged = tag
            self._link.wire.send(self._tap.number, 60, 80, tag.to_bytes(8, "big") + b"\x01")

    def resume(self) -> Span | None:
        stop = self._stop_asked if self._stop is None else Start("at", token=str(self._stop))
        start = self._start if self._next is None else Start("at", token=str(self._next))
        return Span(start, stop)


class _Offsets(Deliveries):
    """Of what is pushed, the offsets of the first and the last message only."""

    first: int | None = None
    last: int | None = None

    def flush(self) -> None:
        if self.ready:
            first, last = self.ready[0][2], self.ready[-1][2]
            self.first = _offset_in(first) if self.first is None else self.first
            self.last = _offset_in(last)
            self.ready.clear()
        self.arrived.set()


def _offset_in(properties: bytes) -> int:
    at = properties.find(_OFFSET) + len(_OFFSET)
    return int.from_bytes(properties[at : at + 8], "big")


def _offset(start: Start, where: str) -> int:
    """The offset that a position is; the one behind it for ``after``."""
    if not (start.token.isascii() and start.token.isdigit() and int(start.token) < 2**62):
        raise UsageError(
            f"{start.token!r} is not an offset", where=where, hint="write a number such as 42"
        )
    return int(start.token) + (start.kind == "after")
