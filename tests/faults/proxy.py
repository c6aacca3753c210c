"""A TCP proxy that misbehaves as asked, in a thread of its own, for programs as subprocesses."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """From ``port`` to ``127.0.0.1:upstream``. Each fault is an attribute, and may be set at any
    time; those that hold for connections made later are marked so."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._pairs: list[Pair] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._server: asyncio.Server | None = None
        self.port = 0
        self.slicing = False
        """Segments of one byte in both directions."""
        self.latency = 0.0
        """Seconds before each chunk is passed on."""
        self.trigger: bytes | None = None
        """From the moment that a client's chunk contains this, that client gets no answers."""
        self.triggered = 0
        """How many connections have been made deaf so."""
        self.reset_after: int | None = None
        """Bytes of answers in a connection, then it is reset. For new connections."""
        self.accepted = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, action: Callable[[], object]) -> None:
        async def acting() -> None:
            done = action()
            if asyncio.iscoroutine(done):
                await done

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut()
        await asyncio.gather(*(pair.over for pair in self._pairs))
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            above = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pair = self._pair((reader, writer), above)
        self._pairs.append(pair)
        pair.start()

    def _pair(self, client: Stream, server: Stream) -> Pair:
        return Pair(self, client, server)

    def cut(self) -> None:
        """Reset all connections."""
        self._do(self._cut)

    def _cut(self) -> None:
        for pair in self._pairs:
            pair.reset()

    def swallow(self) -> None:
        """From now on the present connections are half-open: they stay, and nothing passes."""
        for pair in self._pairs:
            pair.swallowing = True


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: Stream, server: Stream) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._answered = 0
        self._limit = proxy.reset_after
        self._deaf = False
        self.swallowing = False
        self.over: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._copy(self._client[0], self._server[1], answers=False)),
            asyncio.create_task(self._copy(self._server[0], self._client[1], answers=True)),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.reset()
        if all(task.done() for task in self._tasks) and not self.over.done():
            self.over.set_result(None)

    def reset(self) -> None:
        for _, writer in (self._client, self._server):
            if not writer.transport.is_closing():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        proxy = self._proxy
        try:
            while data := await source.read(1 << 16):
                if proxy.latency:
                    await asyncio.sleep(proxy.latency)
                if self.swallowing or (answers and self._deaf):
                    continue
                if not answers and proxy.trigger is not None and proxy.trigger in data:
                    self._deaf = True
                    proxy.triggered += 1
                if answers and self._limit is not None:
                    left = self._limit - self._answered
                    self._answered += len(data)
                    if len(data) > left:
                        sink.write(data[:left])
                        await sink.drain()
                        return
                step = 1 if proxy.slicing else len(data)
                for at in range(0, len(data), step):
                    sink.write(data[at : at + step])
                    if proxy.slicing:
                        await sink.drain()
                        await asyncio.sleep(0)
                await sink.drain()
        except ConnectionError:
            pass
