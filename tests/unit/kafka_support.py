"""Short cuts for the tests of Kafka: clients of one topic, and reading all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mqcli.client import Client
from mqcli.message import Message, Received
from mqcli.position import END
from mqcli.session import Limits
from mqcli.transport import Feed, Outcome, Span
from mqcli.transports.kafka_topic import KafkaTopic

T = TypeVar("T")
DEADLINE = 30.0


def run(test: Coroutine[Any, Any, T]) -> T:
    """On a loop of its own; nothing may be left running."""

    async def bounded() -> T:
        async with asyncio.timeout(120):
            result = await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(bounded())


def options(**given: object) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in given.items():
        if isinstance(value, tuple):
            pairs += [(name, str(each)) for each in value]
        else:
            pairs.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
    return pairs


def client(address: str, limits: Limits | None = None, **given: object) -> Client:
    return Client.at(address, options(**given), limits)


@asynccontextmanager
async def topic(address: str, **given: object) -> AsyncIterator[KafkaTopic]:
    """An open transport."""
    transport = client(address, **given).make(KafkaTopic)
    try:
        await transport.open()
        yield transport
    finally:
        await transport.aclose()


async def make(address: str, partitions: int = 1, **given: object) -> None:
    async with topic(address, num_partitions=partitions, **given) as transport:
        assert await transport.create()


async def publish(address: str, messages: Sequence[Message], **given: object) -> Outcome:
    async with topic(address, **given) as transport:
        return await transport.publish(messages, 10)


async def everything(feed: Feed) -> list[Received]:
    """Until the feed has ended."""
    got: list[Received] = []
    deadline = time.monotonic() + DEADLINE
    while not feed.ended:
        assert time.monotonic() < deadline, f"no end, {len(got)} messages"
        got += await feed.receive(1000, 1 << 20, 1.0)
    return got


async def read(address: str, span: Span | None = None, **given: object) -> list[Received]:
    """All that stands there, without a group."""
    async with topic(address, **given) as transport:
        feed = await transport.subscribe(span or Span(None, END), None, None)
        try:
            return await everything(feed)
        finally:
            await feed.aclose()


def numbered(count: int, first: int = 0) -> list[Message]:
    return [Message(b"%07d" % n) for n in range(first, first + count)]


def values(messages: Sequence[Message]) -> list[bytes | None]:
    return [message.value for message in messages]


def spread(count: int, partitions: int, stamp: int = 1_700_000_000_000) -> list[Message]:
    """Messages over all partitions, a millisecond apart."""
    return [
        Message(b"%07d" % n, None, (), {"partition": n * 7 % partitions}, stamp + n)
        for n in range(count)
    ]
