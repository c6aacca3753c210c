"""Redis pub/sub: channels, and patterns of channels. Its page is docs/redis.md.

A subscriber has a connection of its own, whose replies go into a bounded buffer as they come: the
server would cut off a reader that lets them pile up. Past the bound messages are dropped, counted,
and reported as a gap. A ping with a deadline finds links that died in silence.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from hiredis import ReplyError

from ..errors import MqcliError
from ..message import Message, Received, contents
from ..transport import Feed, Gap, Inspects, Outcome, Publishes, Span, Tails, Target, Traits
from ._redis import RedisLink, RedisOptions, key_of
from ._redis_packing import pack, pack_alike

__all__ = ["NoChannelOptions", "RedisChannel", "RedisPattern"]

_ANSWER = 10.0
_PING_EVERY = 10.0
"""Seconds of silence before a ping, and again before the link counts as dead."""

_MOST_BYTES, _MOST_MESSAGES = 32 << 20, 100_000
# What a buffered message costs beside its bytes: its list, three bytes objects, allocation.
_OVERHEAD = 200


class NoChannelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Channels have no options."""


_TRAITS = Traits(
    confirm="reached",
    durable="listeners: in memory, only for who listens at that moment",
    ack="none",
    nack=False,
    keeps="nothing",
    order="all",
    shares=False,
    fans_out=True,
    headers="none",
    keys=False,
    tombstones=False,
    missing="undetectable",
    starts=frozenset({"end"}),
)


class RedisPattern(Tails):
    summary = "pub/sub channels by pattern, read only"
    Connection = RedisOptions
    Options = NoChannelOptions
    subscribe = b"PSUBSCRIBE"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._name = key_of(target)
        # Not the owner of a slot: the cluster carries a message from any node to all.
        self._link = RedisLink(target)

    @classmethod
    def traits(cls, options: NoChannelOptions, group: str | None) -> Traits:
        return _TRAITS

    async def open(self) -> None:
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def tail(self, span: Span) -> Feed:
        """Subscribed when it returns: what is published from now on comes."""
        feed = ChannelFeed(self.target, self._link)
        try:
            await feed.begin(pack(self.subscribe, self._name))
        except BaseException:
            await feed.aclose()
            raise
        return feed


class RedisChannel(RedisPattern, Publishes, Inspects):
    summary = "pub/sub channel: whoever listens gets it, nothing is kept"
    subscribe = b"SUBSCRIBE"

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """``receivers`` are subscribers and matching patterns; on a cluster, those of one node."""
        values = contents(batch)
        lengths = set(map(len, values))
        refused = await self._link.too_long(values, lengths)
        if refused:
            values = [value for i, value in enumerate(values) if i not in refused]
            lengths = set(map(len, values))
        if not values:
            return Outcome(0, refused)
        packed = pack_alike((b"PUBLISH", self._name), values, lengths)
        got, cause = await self._link.exchange(packed, len(values), timeout)
        if cause is None and not refused:
            try:
                sum(got)  # fails for an error reply: they have no number
            except TypeError:
                pass
            else:
                return Outcome(len(got), receivers=got)
        sent = [i for i in range(len(batch)) if i not in refused]
        receivers, confirmed = [0] * len(batch), 0
        for i, reply in zip(sent, got, strict=False):
            if isinstance(reply, ReplyError):
                refused[i] = self._link.error(reply)
            else:
                receivers[i] = reply
                confirmed += 1
        return Outcome(confirmed, refused, sent[len(got) :], cause, receivers)

    async def exists(self) -> bool:
        """Whether anyone listens to it; a channel is nothing else."""
        return bool((await self._subscribers())[0])

    async def describe(self, group: str | None) -> dict[str, Any]:
        subscribers, patterns = await self._subscribers()
        return {"subscribers": subscribers, "patterns_on_server": patterns}

    async def _subscribers(self) -> tuple[int, int]:
        counts = [0, 0]
        nodes: list[tuple[str, int] | None] = [*self._link.masters] or [None]
        for node in nodes:
            link = self._link if node is None else await self._link.sibling(node)
            told = await link.call("PUBSUB", "NUMSUB", self._name, timeout=_ANSWER)
            counts[0] += told[1]
            counts[1] += await link.call("PUBSUB", "NUMPAT", timeout=_ANSWER)
        return counts[0], counts[1]


class ChannelFeed(Feed):
    """What a subscriber hears. The link belongs to it from the subscription on."""

    def __init__(self, target: Target, link: RedisLink) -> None:
        super().__init__()
        self._target, self._link, self._wire = target, link, link.wire
        self._chunks: deque[tuple[list[Any] | Gap, int]] = deque()
        """Messages and their size, or a gap that stands before what follows."""
        self._bytes = self._count = 0
        self._dropped, self._dropped_since = 0, 0
        self._sources: dict[bytes, str] = {}
        self._arrived = asyncio.Event()
        self._subscribed = self._wire.loop.create_future()
        self._failure: MqcliError | None = None
        self._closed = False
        self._wire.pushed = self._push
        self._pinging: asyncio.Task[None] | None = None

    async def begin(self, subscribe: bytes) -> None:
        """Raises AccessDenied, ConnectionLost."""
        self._wire.write(subscribe)
        await asyncio.wait(
            (self._subscribed, self._wire.closed),
            timeout=_ANSWER,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._failure is not None:
            raise self._failure
        if not self._subscribed.done():
            self._wire.abort(f"{self._wire.peer} did not confirm the subscription")
            assert self._wire.broken is not None
            raise self._wire.broken
        self._pinging = asyncio.create_task(self._ping())

    def _push(self, replies: list[Any]) -> None:
        """Called by the socket with whatever has come: message, pmessage, pong, subscribe."""
        try:
            if min(map(len, replies)) < 3:  # a pong has two parts
                replies = [reply for reply in replies if self._is_message(reply)]
            size = sum([len(reply[-1]) for reply in replies]) + _OVERHEAD * len(replies)
        except TypeError:  # an error, or the number in a subscription's confirmation
            replies = [reply for reply in replies if self._is_message(reply)]
            size = sum([len(reply[-1]) for reply in replies]) + _OVERHEAD * len(replies)
        if not replies:
            return
        full = self._bytes + size > _MOST_BYTES or self._count + len(replies) > _MOST_MESSAGES
        if full and self._count:
            if not self._dropped:
                self._dropped_since = _now_ms()
            self._dropped += len(replies)
            return
        if self._dropped:
            self._chunks.append((self._gap(), 0))
        self._chunks.append((replies, size))
        self._bytes += size
        self._count += len(replies)
        self._arrived.set()

    def _is_message(self, reply: Any) -> bool:
        if isinstance(reply, ReplyError):
            self._failure = self._link.error(reply)
            self._arrived.set()
        elif reply[0] in (b"message", b"pmessage"):
            return True
        if not self._subscribed.done():
            self._subscribed.set_result(None)
        return False

    def _gap(self) -> Gap:
        count, self._dropped = self._dropped, 0
        return Gap(
            self._target.where,
            "the output was slower than the channel and the buffer was full",
            self._dropped_since,
            _now_ms(),
            count=count,
        )

    async def _ping(self) -> None:
        """Any byte is a sign of life; a ping without one for a period means that the link is dead.
        A process that slept has to ask first."""
        wire = self._wire
        while True:
            quiet = wire.loop.time() - wire.heard
            await asyncio.wait((wire.closed,), timeout=max(_PING_EVERY - quiet, 0.1))
            if wire.broken is not None:
                break
            if wire.loop.time() - wire.heard < _PING_EVERY:
                continue
            asked = wire.loop.time()
            wire.write(pack(b"PING"))
            await asyncio.wait((wire.closed,), timeout=_PING_EVERY)
            if wire.broken is None and wire.heard < asked:
                wire.abort(f"{wire.peer} left a ping unanswered for {_PING_EVERY:g} s")
                break
        self._arrived.set()

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = self._wire.loop.time() + wait
        while not self._chunks:
            self._arrived.clear()
            if self._dropped:
                self.gaps.append(self._gap())
                return ()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return ()
            if self._wire.broken is not None:
                raise self._wire.broken
            try:
                async with asyncio.timeout_at(deadline):
                    await self._arrived.wait()
            except TimeoutError:
                return ()
        if isinstance(self._chunks[0][0], Gap):
            gap, _ = self._chunks.popleft()
            assert isinstance(gap, Gap)
            self.gaps.append(gap)
        replies = self._first(max_messages, max_bytes)
        self._count -= len(replies)
        sources = self._sources
        if len(sources) > 10_000:
            sources.clear()
        return [
            Received(
                reply[-1], None, (), None, None, False,
                sources.get(reply[-2]) or self._source(reply[-2]),
            )
            for reply in replies
        ]  # fmt: skip

    def _first(self, max_messages: int, max_bytes: int) -> list[Any]:
        """The oldest chunk, or what of it fits; the rest stays."""
        replies, size = self._chunks.popleft()
        assert isinstance(replies, list)
        self._bytes -= size
        if len(replies) <= max_messages and size - _OVERHEAD * len(replies) <= max_bytes:
            return replies
        taken = end = 0
        for reply in replies[:max_messages]:
            taken += len(reply[-1])
            if end and taken > max_bytes:
                break
            end += 1
        rest = replies[end:]
        if rest:
            left = sum([len(reply[-1]) for reply in rest]) + _OVERHEAD * len(rest)
            self._chunks.appendleft((rest, left))
            self._bytes += left
        return replies[:end]

    def _source(self, channel: bytes) -> str:
        name = channel.decode("utf-8", "surrogateescape")
        source = self._sources[channel] = str(self._target.address.with_name(name, "channel"))
        return source

    async def aclose(self) -> None:
        self._closed = True
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)
        self._chunks.clear()
        await self._link.aclose()
        self._arrived.set()


def _now_ms() -> int:
    return int(time.time() * 1000)
