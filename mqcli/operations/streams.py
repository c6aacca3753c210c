"""Bytes in and out of the process, off the event loop.

A reader of our output that stands still must not cost a heartbeat, so writing has its own thread.
Pipes are read on the loop when they are ready, because a reading thread would wait for the
interpreter lock behind every 64 kB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import stat
import sys
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ..errors import InputError, OutputError
from .stop import Stop

__all__ = ["ByteSink", "ByteSource"]

_CHUNK = 1 << 20
_PIECE = 1 << 18


class ByteSource:
    """The bytes of a file descriptor, in order, at most about 1 MiB at a time.

    Only one ``read`` may be awaited at a time. The descriptor stays the caller's to close.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd, self._name = fd, name
        mode = os.fstat(fd).st_mode
        self._polled = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._blocking = not (self._polled or stat.S_ISREG(mode))
        self._error: OSError | None = None
        if stat.S_ISFIFO(mode) and sys.platform == "linux":
            import fcntl

            # A bigger pipe means fewer wake-ups of both sides; it may be refused.
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _CHUNK)

    async def read(self) -> bytes:
        """The next bytes, as soon as there are any; empty at the end. Raises InputError."""
        try:
            if self._polled:
                await self._ready()
                return os.read(self._fd, _CHUNK)
            if self._blocking:
                return await self._in_thread()
            return await asyncio.to_thread(os.read, self._fd, _CHUNK)
        except OSError as exc:
            raise InputError("cannot read", where=self._name, why=exc.strerror or "") from exc

    async def _ready(self) -> None:
        if select.select([self._fd], [], [], 0)[0]:
            return
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _finish, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)

    async def _in_thread(self) -> bytes:
        """A terminal or device: its own daemon thread, which a stop can leave behind."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()

        def deliver(data: bytes, error: OSError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(data)
            else:
                done.set_exception(error)

        def work() -> None:
            data, error = b"", None
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError as exc:
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(deliver, data, error)

        threading.Thread(target=work, name="mqcli-input", daemon=True).start()
        return await done


class ByteSink:
    """A file descriptor that is written by a thread of its own, in order."""

    def __init__(self, fd: int, name: str = "standard output") -> None:
        self._fd, self._name = fd, name
        self._jobs: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offset = 0
        self.error: OutputError | None = None
        self.closed = False
        """Nobody reads any more (EPIPE): not an error."""

    def abandoned(self) -> bool:
        """Whether the reader of a pipe has gone away, for a look while there is nothing to write:
        who waits for the next message would else never know."""
        if not self.closed and hasattr(select, "poll"):
            poller = select.poll()
            poller.register(self._fd, 0)
            self.closed = any(event & select.POLLERR for _, event in poller.poll(0))
        return self.closed

    async def write(self, chunks: Sequence[bytes], stop: Stop, ending: bytes = b"") -> int:
        """Write all, each with ``ending`` behind it; how many went out whole.

        Less than all when the output broke (``error`` or ``closed`` says so), or when it stood
        still for the grace of ``stop`` after that was asked for; the sink cannot be used then.
        """
        if self.error is not None or self.closed:
            return 0
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            threading.Thread(target=self._work, name="mqcli-output", daemon=True).start()
        data = chunks[0] + ending if len(chunks) == 1 else ending.join([*chunks, b""])
        done = loop.create_future()
        self._offset = 0
        self._jobs.put((data, done))
        if not await self._finished(done, stop):
            self.error = OutputError("standard output stood still", where=self._name)
        if self._offset == len(data) and self.error is None:
            return len(chunks)
        ends = accumulate(len(chunk) + len(ending) for chunk in chunks)
        return bisect_right(list(ends), self._offset)

    async def _finished(self, done: asyncio.Future[None], stop: Stop) -> bool:
        if not stop.requested.is_set():
            stopping = asyncio.ensure_future(stop.requested.wait())
            try:
                await asyncio.wait((done, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
        if not done.done():
            await asyncio.wait((done,), timeout=stop.grace)
        return done.done()

    def close(self) -> None:
        """Let the thread end once it has written what it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        assert self._loop is not None
        while (job := self._jobs.get()) is not None:
            data, done = job
            try:
                self._write(data)
            except BrokenPipeError:
                self.closed = True
            except OSError as exc:
                self.error = OutputError(
                    "cannot write", where=self._name, why=exc.strerror or str(exc)
                )
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_finish, done)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while self._offset < len(data):
            try:
                self._offset += os.write(self._fd, view[self._offset : self._offset + _PIECE])
            except BlockingIOError:  # somebody made the descriptor non-blocking
                select.select([], [self._fd], [])


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
