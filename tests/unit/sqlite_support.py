"""What the tests of the embedded broker share: opening a topic, and other processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mqcli.address import Address, BrokerURL
from mqcli.message import Message, Received
from mqcli.position import Start
from mqcli.registry import target
from mqcli.transport import Feed, Span
from mqcli.transports.sqlite_topic import SqliteTopic

T = TypeVar("T")
END = Start("end")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(bounded())


def make(file: Path, topic: str = "t", **options: str) -> SqliteTopic:
    address = Address(topic, broker=BrokerURL("sqlite", path=tuple(str(file).split("/"))))
    cls, made = target(address, list(options.items()))
    assert cls is SqliteTopic
    return SqliteTopic(made)


@asynccontextmanager
async def opened(file: Path, topic: str = "t", **options: str) -> AsyncIterator[SqliteTopic]:
    transport = make(file, topic, **options)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.aclose()


async def publish(file: Path, *values: bytes | Message, topic: str = "t", **options: str) -> None:
    batch = [m if isinstance(m, Message) else Message(m) for m in values]
    async with opened(file, topic, **options) as transport:
        outcome = await transport.publish(batch, 10)
    assert outcome.confirmed == len(batch), outcome


def numbers(first: int, until: int) -> list[bytes]:
    return [b"%d" % i for i in range(first, until)]


async def drain(feed: Feed, count: int = 1000, size: int = 1 << 20) -> list[Received]:
    """Everything up to the feed's stop."""
    found: list[Received] = []
    while not feed.ended:
        found += await feed.receive(count, size, 5)
    return found


async def consume(
    file: Path, start: Start | None = None, stop: Start | None = END, **options: str
) -> list[Received]:
    async with opened(file, **options) as transport:
        feed = await transport.subscribe(Span(start, stop), None, None)
        try:
            return await drain(feed)
        finally:
            await feed.aclose()


async def read(file: Path, start: Start | None = None, stop: Start | None = END) -> list[bytes]:
    return values(await consume(file, start, stop))


def values(messages: Sequence[Received]) -> list[bytes]:
    assert all(m.value is not None for m in messages)
    return [m.value for m in messages if m.value is not None]


CHILDREN: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    """Whatever became of the test, its other processes are gone and their pipes closed."""
    yield
    while CHILDREN:
        process = CHILDREN.pop()
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process, with this module's names imported; its standard input is a pipe."""
    head = "import asyncio, sys, time, os\nfrom pathlib import Path\n"
    head += "from tests.unit.sqlite_support import *\nfrom mqcli.transport import Span\n"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    CHILDREN.append(process)
    return process


async def until(true: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        await asyncio.sleep(0.005)
