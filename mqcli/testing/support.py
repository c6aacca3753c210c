"""What the tests of the suite are written with."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal, TypeVar, get_args
from uuid import uuid4

import pytest

from ..errors import Unsupported
from ..message import Headers, Message, Received
from ..position import BEGINNING, END, Start
from ..reader import Reader
from ..transport import Consumes, Feed, Outcome, Publishes, Span, Tails, Traits, Transport
from .harness import Harness

T = TypeVar("T")
Role = TypeVar("Role", bound=Transport)
Way = Literal["consume", "group", "tail"]
"""The ways to read: alone, as a member of a group, watching."""

DEADLINE: Final = 20.0
"""Seconds that anything may take which is meant to happen."""
PUBLISH_TIMEOUT: Final = 10.0
NASTY: Final = (
    b"plain",
    b"",
    b"\x00",
    b"nul\x00inside",
    b"\xff\xfe not UTF-8 \x80",
    b"line\nline\r\n",
    b" \t leading and trailing \t ",
    b'{"json": "\\u0000", "t": "bytes"}',
    "€ ‮ \x1b]52;c;x\x07".encode(),
    bytes(range(256)) * 4,
    b"x" * 1_000_000,
)

each_way = pytest.mark.parametrize("way", get_args(Way))


def run(test: Coroutine[Any, Any, T]) -> T:
    """``test`` on a loop of its own, within a deadline, leaving no task behind."""

    async def bounded() -> T:
        async with asyncio.timeout(4 * DEADLINE):
            result = await test
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"tasks left behind: {others}"
        return result

    return asyncio.run(bounded())


_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("socket.__new__", "socket.connect", "sqlite3.connect"):
        _opened.append(f"{event}{arguments[1:]}")


@contextmanager
def nothing_opened() -> Iterator[None]:
    """Fails when a socket or a database was opened inside."""
    global _opened
    if _audit not in _audited:
        sys.addaudithook(_audit)
        _audited.append(_audit)
    opened: list[str] = []
    _opened = opened
    try:
        yield
    finally:
        _opened = None
    assert not opened, f"opened although refused: {opened}"


_audited: list[Callable[[str, tuple[Any, ...]], None]] = []


@contextmanager
def refused(error: type[Exception] = Unsupported) -> Iterator[None]:
    """The opposite of a test: the client refuses in one printable line, and opens nothing."""
    with nothing_opened(), pytest.raises(error) as caught:
        yield
    text = str(caught.value)
    assert text and "\n" not in text and text.isprintable(), text


class Spot:
    """One fresh destination: our client, the other client, and short cuts."""

    def __init__(self, harness: Harness, *options: tuple[str, str]) -> None:
        self.harness = harness
        self.address = harness.fresh()
        self.client = harness.client(self.address, *options)
        self.group = f"g-{uuid4().hex[:8]}"

    @property
    def traits(self) -> Traits:
        return self.client.traits()

    @property
    def kept(self) -> bool:
        return self.traits.keeps != "nothing"

    def can(self, way: Way) -> bool:
        """Whether the roles and traits have this way of reading."""
        match way:
            case "consume":
                return self.client.supports(Consumes)
            case "tail":
                return self.client.supports(Tails)
            case "group":
                # Asked with a group only where there is reading that could have one.
                return (
                    self.client.supports(Consumes)
                    and self.traits.keeps == "log"
                    and self.client.traits(self.group).shares
                )

    def at(self, way: Way, start: Start | None = None, stop: Start | None = None) -> Reader:
        """The client's reader, not opened."""
        if way == "tail":
            return self.client.tail(Span(start, stop))
        return self.client.consume(Span(start, stop), self.group if way == "group" else None)

    def refuses(self, way: Way) -> None:
        """The opposite of a way that is not there."""
        with refused():
            self.at(way)

    def way_traits(self, way: Way) -> Traits:
        if way == "tail":
            return self.traits.watched()
        return self.client.traits(self.group if way == "group" else None)

    def comes_again(self, way: Way) -> bool:
        """Whether what a reader got and did not acknowledge is there for the next one."""
        if way == "tail" or not self.kept:
            return False
        return self.traits.keeps == "log" or self.way_traits(way).ack != "none"

    async def prepare(self) -> None:
        """Make the destination exist where publishing would not."""
        if self.traits.missing == "refused":
            assert await self.client.create()

    async def send(self, messages: Iterable[Message | bytes]) -> None:
        """By the other client."""
        made = [m if isinstance(m, Message) else Message(m) for m in messages]
        await asyncio.to_thread(self.harness.foreign_send, self.address, made)

    async def standing(self) -> list[Message]:
        """What the other client finds there."""
        return await asyncio.to_thread(self.harness.foreign_read, self.address)

    async def disrupt(self) -> bool:
        return await asyncio.to_thread(self.harness.disrupt, self.address)

    @asynccontextmanager
    async def opened(self, role: type[Role]) -> AsyncIterator[Role]:
        transport = self.client.make(role)
        try:
            await transport.open()
            yield transport
        finally:
            async with asyncio.timeout(DEADLINE):
                await transport.aclose()

    @asynccontextmanager
    async def reading(
        self, way: Way, start: Start | None = None, stop: Start | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Feed]:  # fmt: skip
        """A feed of a connection of its own."""
        async with self.opened(Tails if way == "tail" else Consumes) as transport:
            feed = await self.feed(transport, way, Span(start, stop), limit)
            try:
                yield feed
            finally:
                async with asyncio.timeout(DEADLINE):
                    await feed.aclose()

    async def feed(
        self, transport: Transport, way: Way, span: Span, limit: int | None = None
    ) -> Feed:
        async with asyncio.timeout(DEADLINE):
            if way == "tail":
                assert isinstance(transport, Tails)
                return await transport.tail(span)
            assert isinstance(transport, Consumes)
            return await transport.subscribe(span, self.group if way == "group" else None, limit)

    @asynccontextmanager
    async def delivering(
        self, way: Way, messages: Sequence[Message | bytes]
    ) -> AsyncIterator[Feed]:
        """A feed that these messages come to: a tail is opened before they are sent, every other
        after."""
        await self.prepare()
        if way == "tail":
            # On a log that does not exist yet there would be nothing to watch.
            if self.traits.missing == "creates":
                await self.send([b"first"])
            async with self.reading("tail") as feed:
                await self.send(messages)
                yield feed
        else:
            await self.send(messages)
            async with self.reading(way) as feed:
                yield feed

    async def published(self, batch: Sequence[Message]) -> tuple[Outcome, list[Message]]:
        """What became of a batch of ours, and what the other client saw of it."""
        await self.prepare()
        async with self.opened(Publishes) as transport:
            if self.kept:
                outcome = await transport.publish(batch, PUBLISH_TIMEOUT)
                return outcome, await self.standing()
            with self.harness.foreign_listen(self.address) as listen:
                outcome = await transport.publish(batch, PUBLISH_TIMEOUT)
                return outcome, await asyncio.to_thread(listen, outcome.confirmed)


async def take(feed: Feed, count: int, *, at_once: int = 1000) -> list[Received]:
    """``count`` messages. Fails when they do not come, or a call gives more than asked for."""
    got: list[Received] = []
    deadline = time.monotonic() + DEADLINE
    while len(got) < count:
        assert time.monotonic() < deadline, f"{len(got)} of {count} messages in {DEADLINE:g} s"
        assert not feed.ended, f"ended after {len(got)} of {count} messages"
        wanted = min(at_once, count - len(got))
        messages = await feed.receive(wanted, 64 << 20, 1.0)
        assert len(messages) <= wanted
        got += messages
    return got


async def take_all(feed: Feed) -> list[Received]:
    """Everything until the feed has ended."""
    got: list[Received] = []
    deadline = time.monotonic() + DEADLINE
    while not feed.ended:
        assert time.monotonic() < deadline, f"no end in {DEADLINE:g} s, got {len(got)}"
        got += await feed.receive(1000, 64 << 20, 1.0)
    return got


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll. Fails when ``what`` has not come true within the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not await true():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        await asyncio.sleep(0.02)


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel, and wait until it is over."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def values(messages: Iterable[Message]) -> list[bytes | None]:
    return [message.value for message in messages]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%06d" % n for n in range(first, first + count)]


def check_sum(outcome: Outcome, size: int) -> None:
    """Every message of a batch has one fate."""
    refused_, unknown = set(outcome.refused), set(outcome.unknown)
    assert len(unknown) == len(outcome.unknown) and not refused_ & unknown
    assert outcome.confirmed + len(refused_) + len(unknown) == size
    assert (refused_ | unknown) <= set(range(size))
    assert not unknown or outcome.cause is not None


async def sent_log(spot: Spot, count: int) -> list[Received]:
    """Messages in two waves, of which the second is at least some milliseconds younger, as a
    reader finds them."""
    await spot.prepare()
    first = count // 2
    await spot.send(numbered(first))
    now = time.time()

    async def later() -> bool:
        return time.time() > now + 0.005

    await until(later, "the clock goes on")
    await spot.send(numbered(count - first, first))
    if spot.traits.keeps != "log":
        return [Received(message.value) for message in await spot.standing()]
    async with spot.reading("consume", BEGINNING, END) as feed:
        got = await take_all(feed)
    assert values(got) == numbered(count)
    return got


def expected_headers(traits: Traits, sent: Message) -> Headers:
    """The headers as they must come out: those of one name keep their order everywhere."""
    if not traits.sorts_headers:
        return sent.headers
    return tuple(sorted(sent.headers, key=lambda pair: str(pair[0])))
