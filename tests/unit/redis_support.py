"""What the tests of the Redis transports share: opened transports, and a proxy that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mqcli.address import parse_address
from mqcli.message import Received
from mqcli.registry import target
from mqcli.transport import Feed, Target

T = TypeVar("T")
Started = Callable[[Callable[[], Any]], Any]
DEADLINE = 20.0
REST = 1 << 26


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within a minute, and see that no task is left."""

    async def bounded() -> T:
        async with asyncio.timeout(60):
            result = await test
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(bounded())


def targeted(address: str, **settings: Any) -> Target:
    """The target of an address with its options in the query."""
    return target(parse_address(address), **settings)[1]


@asynccontextmanager
async def opened(address: str, **settings: Any) -> AsyncIterator[Any]:
    cls, where = target(parse_address(address), **settings)
    transport = cls(where)
    try:
        await transport.open()
        yield transport
    finally:
        await transport.aclose()


@asynccontextmanager
async def closing(feed: Awaitable[Feed]) -> AsyncIterator[Feed]:
    made = await feed
    try:
        yield made
    finally:
        await made.aclose()


async def some(feed: Feed, count: int) -> list[Received]:
    """Exactly ``count`` messages, within the deadline."""
    found: list[Received] = []
    async with asyncio.timeout(DEADLINE):
        while len(found) < count:
            found += await feed.receive(count - len(found), REST, 1.0)
    return found


async def to_end(feed: Feed) -> list[Received]:
    """All messages until the feed says that it has ended."""
    found: list[Received] = []
    async with asyncio.timeout(DEADLINE):
        while not feed.ended:
            found += await feed.receive(1000, REST, 1.0)
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is polled lies in another process
            await asyncio.sleep(0.01)


def values(messages: Sequence[Received]) -> list[bytes | None]:
    return [message.value for message in messages]


class Proxy:
    """A TCP proxy to 127.0.0.1:``port``. ``mute`` swallows what the server answers from then on;
    ``cut`` breaks all connections."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.mute = False

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._writers += [writer, below]
        self._tasks += [
            asyncio.create_task(self._copy(reader, below, False)),
            asyncio.create_task(self._copy(above, writer, True)),
        ]

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool
    ) -> None:
        try:
            while data := await source.read(1 << 16):
                if not (answers and self.mute):
                    sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.transport.abort()
