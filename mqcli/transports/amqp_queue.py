"""RabbitMQ queues, classic and quorum. What consuming does to them is in docs/rabbitmq.md."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pamqp import commands

from ..errors import NotFound, Refused, UsageError
from ..message import Header, Received, Tagged
from ..roles import Drops
from ..transport import Consumes, Feed, Span, Traits, Transport
from ._amqp import AmqpLink
from ._amqp_codec import PROPERTY_NAMES
from ._amqp_feed import ChannelFeed, Raw, is_stream, without
from ._amqp_methods import method, queue_there
from ._amqp_options import QueueOptions, queue_arguments
from ._amqp_queues import QueueLike


def _durable(options: QueueOptions) -> str:
    """Of a queue made with these options; of one that exists, the least it may be."""
    if options.queue_type == "quorum":
        return "replicated: flushed to disk by a majority of the queue's nodes"
    if not (options.persistent and options.durable):
        return "server-memory: in one node's memory (not persistent)"
    return "disk: written to one node's disk (persistent; a classic queue)"


class AmqpQueue(QueueLike, Consumes):
    """A queue: each message goes to one consumer, and comes again until it is acknowledged.

    Stored means in a durable queue, with ``persistent``; a queue that was declared otherwise keeps
    its messages as long as the broker runs.
    """

    summary = "queue, classic or quorum"
    Options = QueueOptions
    kind = "queue"
    instead: ClassVar[Mapping[str, str]] = {
        "Tails": "tail the exchange: it is bound to; -O via=firehose, while tracing is on; or look"
        " at what stands there with consume --peek"
    }

    @classmethod
    def variant(cls, options: Any) -> type[Transport]:
        if options.via == "firehose":
            from .amqp_firehose import AmqpFirehose

            return AmqpFirehose
        return cls

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        if options.peek and options.nack == "drop":
            raise UsageError("peek gives back what nack=drop would drop", hint="leave out one")
        return Traits(
            confirm="stored" if options.persistent else "reached",
            durable=_durable(options),
            ack="none" if options.peek else "each",
            nack=not options.peek,
            keeps="until-taken",
            order="all",
            shares=True,
            fans_out=False,
            headers="typed",
            keys=False,
            tombstones=False,
            missing="refused",
            properties=PROPERTY_NAMES,
        )

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        feed = QueueFeed(self._link, self._name, self.target.options)
        try:
            await feed.open(limit, to_end=span.stop is not None)
        except BaseException:
            await feed.aclose()
            raise
        return feed

    async def purge(self) -> int | None:
        done = await self._link.once(method(commands.Queue.Purge, queue=self._name))
        count: int = done.message_count
        return count

    def _arguments(self) -> tuple[Header, ...]:
        return queue_arguments(self.target.options)


_ACK_WITHIN = 0.1
"""Seconds that an acknowledgement may wait for others (``ack_every``)."""


class QueueFeed(ChannelFeed, Drops):
    """Takes messages. So that the broker never pushes more than ``limit`` in all, near the limit
    the consumer is ended before an acknowledgement would give it room, and begun anew for what is
    still wanted."""

    def __init__(self, link: AmqpLink, name: str, options: QueueOptions) -> None:
        super().__init__(link, keyed=False)
        self._name, self._options = name, options
        self._limit: int | None = None
        self._to_end = False
        self._standing = 0
        self._handed = self._last_handed = 0
        self._settled_upto = 0
        self._settled_ahead: set[int] = set()
        self._told_upto = 0
        """Acknowledgements up to here were sent; those up to ``_settled_upto`` may wait."""
        self._telling: asyncio.TimerHandle | None = None
        self._first_tag = 1
        self._prefetch = 0
        self._wanted: int | None = None
        self._acked = 0
        self._changing = asyncio.Lock()
        self._suspect = True
        self._quiet = 0
        self._drops = options.nack == "drop"

    async def open(self, limit: int | None, to_end: bool) -> None:
        """Raises NotFound, AccessDenied, TryAgainLater (another consumer is exclusive)."""
        await self._open_channel()
        self._standing = await self._ready()
        self._to_end = to_end or self._options.peek
        if self._to_end:
            limit = self._standing if limit is None else min(limit, self._standing)
        self._limit = limit
        if self._options.peek and limit:
            self.notes.append(
                "looking marks these messages as redelivered for who takes them later"
            )
        if limit == 0:
            self.ended = True
        else:
            await self._consume()

    async def _consume(self) -> None:
        limit, options = self._limit, self._options
        self._first_tag = self._tap.count + 1
        self._wanted = None if limit is None else limit - self._tap.count
        self._prefetch = options.prefetch
        if self._wanted is not None:
            self._prefetch = min(self._prefetch, self._wanted)
        if options.peek:  # nothing is acknowledged, so all must fit
            assert self._wanted is not None
            self._prefetch = self._wanted if self._wanted < 1 << 16 else 0
        self._acked = 0
        # Queues take 0 as the default that it is; a stream has no priorities, and refuses to begin.
        priority: Header = ("x-priority", Tagged("i32", options.consumer_priority or 0))
        try:
            await self._start_consumer(self._name, self._prefetch, (priority,), options.exclusive)
        except Refused as exc:
            if await is_stream(self._link, self._name):
                raise self._wrong_kind() from exc
            raise

    def _made(self, taken: Sequence[Raw]) -> list[Received]:
        source, routes, contents = self._source, self._routes, self._contents
        made: list[Received] = []
        tag = self._tag
        for redelivered, path, raw, body in taken:
            tag += 1
            route = routes.get(path) or self._route(path)
            content = contents.get(raw) or self._content(raw, raw)
            headers, extra = content.headers, route.extra
            if headers:
                headers, count = without(headers, "x-delivery-count")
                if count is not None:
                    extra = {**extra, "delivery_count": count}
                if self._suspect and without(headers, "x-stream-offset")[1] is not None:
                    raise self._wrong_kind()
            made.append(
                Received(
                    body, None, headers, content.properties, content.timestamp, False,
                    source, str(tag), redelivered == 1, extra, tag,
                )
            )  # fmt: skip
        self._tag = tag
        return made

    def _handed_out(self, messages: Sequence[Received]) -> None:
        self._suspect = False
        self._handed += len(messages)
        if messages:
            self._last_handed = messages[-1].token
        if self._limit is not None and self._handed >= self._limit:
            self.ended = True

    async def _idle(self) -> None:
        if self._suspect:
            await self._check_type()
        if self._to_end and not self._tap.ready:
            # Others may have taken what stood; a delivery can still be on its way behind the
            # first answer, but not behind a second one.
            for _ in range(2):
                count = await self._count()
            if not count and not self._tap.ready:
                self.ended = True

    async def _check_type(self) -> None:
        """Do messages stand here and none comes? Others may have priority, or it is a stream, whose
        messages the broker counts every few seconds only. So it is looked at less and less."""
        self._quiet += 1
        if self._quiet & (self._quiet - 1):
            return
        if not self._standing:
            self._standing = await self._count()
        if self._standing and not self._tap.ready:
            self._suspect = False
            if await is_stream(self._link, self._name):
                raise self._wrong_kind()

    async def _count(self) -> int:
        """Messages that are ready now."""
        try:
            return await self._ready()
        except NotFound as exc:  # it was there; what tells so has not arrived yet
            raise NotFound(
                "the broker ended the reading", where=self._link.where, why="the queue was deleted"
            ) from exc

    async def _ready(self) -> int:
        link, frame = self._link, queue_there(self._name)
        found = await link.ask(lambda: link.rpc(self.channel, frame))
        return found.message_count or 0

    def _wrong_kind(self) -> UsageError:
        return UsageError(
            "it is a stream, not a queue",
            where=self._link.where,
            hint=f"write stream:{self._name}",
        )

    # --- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Received]) -> int:
        if self._options.peek:
            return await super().ack(messages)
        return await self._settle([message.token for message in messages], _ACK)

    async def nack(self, messages: Sequence[Received]) -> None:
        if self._options.peek:
            await super().nack(messages)
        await self._settle([message.token for message in messages], _REQUEUE)

    async def drop(self, messages: Sequence[Received]) -> None:
        """Reject these for good: they are dead-lettered where the queue says so."""
        await self._settle([message.token for message in messages], _DROP)

    def spare(self) -> None:
        self._drops = False

    async def _settle(self, tags: Sequence[int], how: _How) -> int:
        """How many of these were still ours. The broker answers nothing."""
        async with self._changing:
            if self._tap.gone and self._tap.failure is not None:
                raise self._tap.failure
            upto, ahead = self._settled_upto, self._settled_ahead
            if ahead or (tags and tags[0] <= upto):
                tags = [tag for tag in tags if tag > upto and tag not in ahead]
            if not tags:
                return 0
            fresh = len([tag for tag in tags if tag >= self._first_tag])
            full = (
                self._wanted is not None
                and self._consumer is not None
                and self._acked + fresh > self._wanted - self._prefetch
            )
            if full:
                await self._stop_consumer()
            self._send(tags, how)
            self._acked += fresh
            if full:
                self._tell()
            if full and self._limit is not None and self._tap.count < self._limit:
                await self._consume()
            return len(tags)

    def _send(self, tags: Sequence[int], how: _How) -> None:
        """One method for all of them where they are the oldest, as they are as a rule."""
        first, last = tags[0], tags[-1]
        oldest = first == self._settled_upto + 1 and last - first + 1 == len(tags)
        if oldest and how is _ACK:
            self._settled_upto = last
            self._tell_soon()
        else:
            self._tell()  # else this would mean those that wait as well
            if oldest:
                self._settled_upto = self._told_upto = last
                self._method(last, how, multiple=True)
            else:
                self._settled_ahead.update(tags)
                for tag in tags:
                    self._method(tag, how, multiple=False)
        if self._settled_upto + 1 in self._settled_ahead:
            self._tell()  # of the last one that the broker still counts: another tag is an error
        while self._settled_upto + 1 in self._settled_ahead:
            self._settled_upto += 1
            self._told_upto = self._settled_upto
            self._settled_ahead.remove(self._settled_upto)

    def _tell_soon(self) -> None:
        # Not so late that the broker has nothing left that it may push.
        every = min(self._options.ack_every, max(1, self._prefetch // 2))
        if self._settled_upto - self._told_upto >= every:
            self._tell()
        elif self._telling is None:
            self._telling = self._link.wire.loop.call_later(_ACK_WITHIN, self._tell)

    def _tell(self) -> None:
        """Acknowledge what is settled and waits for more."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        if self._told_upto < self._settled_upto and not self._tap.gone:
            self._told_upto = self._settled_upto
            self._method(self._told_upto, _ACK, multiple=True)

    def _method(self, tag: int, how: _How, multiple: bool) -> None:
        bits = how.bits | multiple
        wire = self._link.wire
        wire.send(self._tap.number, 60, how.method, tag.to_bytes(8, "big") + bytes((bits,)))

    async def aclose(self) -> None:
        self._tell()
        held = [
            tag
            for tag in range(self._settled_upto + 1, self._last_handed + 1)
            if tag not in self._settled_ahead
        ]
        if self._drops and held and not self._closed and not self._tap.gone:
            for tag in held:
                self._method(tag, _DROP, multiple=False)
        await super().aclose()


class _How(NamedTuple):
    """A method of class basic that settles, and its bits beside ``multiple``."""

    method: int
    bits: int


_ACK, _REQUEUE, _DROP = _How(80, 0), _How(120, 2), _How(120, 0)
