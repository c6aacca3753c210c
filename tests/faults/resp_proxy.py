"""A proxy in front of Redis that reads the commands, and lies about a benchmark's in a known way.

It knows the messages of the load by the stamp at the end of an XADD; probes, closing marks and all
other commands pass unharmed. What a stamp is made of stands here once more, on purpose: the
instrument is not to be measured with its own rule.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter, deque
from typing import NamedTuple

from .proxy import Pair, Proxy, Stream

_STAMP = struct.Struct("<2s8sHqQI")
"""magic, run, producer, intended time, sequence, checksum"""
_CONTROL = 0xFFFF
_STORED = b"$15\r\n1700000000000-0\r\n"
"""The answer to an XADD that never reached the server."""


class RespProxy(Proxy):
    """Each number N is a fault of every Nth message of a producer's load: 0 is none. ``drop``
    answers as if it were stored, ``repeat`` stores it twice, ``swap`` exchanges it with the one
    before, ``flip`` turns one bit of it, another one each time."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.drop = self.repeat = self.swap = self.flip = 0
        self.there = 0.0
        """Seconds that the load takes longer to the server, each message the same."""
        self.back = 0.0
        """Seconds that the server's answers to the load take longer."""
        self.silent_from: int | None = None
        """The server's answers to a producer's messages are lost from this one on."""
        self.load = 0
        """Messages of the load that came."""
        self.done: Counter[str] = Counter()
        """What was done to them, by the name of the fault."""

    def _pair(self, client: Stream, server: Stream) -> Pair:
        return _RespPair(self, client, server)


class _Stamped(NamedTuple):
    number: int
    size: int
    """Bytes of the value that ends with the stamp."""


class _RespPair(Pair):
    def __init__(self, proxy: RespProxy, client: Stream, server: Stream) -> None:
        super().__init__(proxy, client, server)
        self._faults = proxy
        self._loaded = False
        self._held: list[bytes] = []
        self._answers: deque[bytes | bool] = deque()
        """In the order of the wire: whether the client gets the server's next answer, and the
        answers that are made up between them."""

    def start(self) -> None:
        there, back = _Line(self._server[1]), _Line(self._client[1])
        work = (self._commands(there, back), self._replies(back), there.run(), back.run())
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def _commands(self, there: _Line, back: _Line) -> None:
        split = _Splitter()
        try:
            while data := await self._client[0].read(1 << 16):
                out = [part for command in split.feed(data) for part in self._passed(command)]
                there.put(b"".join(out), self._faults.there if self._loaded else 0)
                back.put(b"".join(self._made_up()), 0)
        except ConnectionError:
            pass
        finally:
            there.end()

    async def _replies(self, back: _Line) -> None:
        split = _Splitter()
        try:
            while data := await self._server[0].read(1 << 16):
                out = []
                for reply in split.feed(data):
                    if not self._answers or self._answers.popleft():
                        out.append(reply)
                    out += self._made_up()
                back.put(b"".join(out), self._faults.back if self._loaded else 0)
        except ConnectionError:
            pass
        finally:
            back.end()

    def _made_up(self) -> list[bytes]:
        """The answers that do not wait for the server any more."""
        found: list[bytes] = []
        while self._answers and isinstance(answer := self._answers[0], bytes):
            found.append(answer)
            self._answers.popleft()
        return found

    def _passed(self, command: bytes) -> list[bytes]:
        """What the server gets for a command."""
        faults, stamped = self._faults, _stamped(command)
        if stamped is None:
            self._answers.append(True)
            return [command]
        number = stamped.number
        self._loaded = True
        faults.load += 1
        if _hit(faults.drop, number):
            faults.done["drop"] += 1
            self._answers.append(_STORED)
            return []
        if _hit(faults.flip, number):
            faults.done["flip"] += 1
            bit = number * 7919 % (stamped.size * 8)
            damaged = bytearray(command)
            damaged[len(command) - 2 - stamped.size + (bit >> 3)] ^= 1 << (bit & 7)
            command = bytes(damaged)
        out = [command]
        silent = faults.silent_from is not None and number >= faults.silent_from
        self._answers.append(not silent)
        if _hit(faults.repeat, number):
            faults.done["repeat"] += 1
            out.append(command)
            self._answers.append(False)
        if _hit(faults.swap, number + 1):
            self._held = out
            return []
        if self._held:
            faults.done["swap"] += 1
            out += self._held
            self._held = []
        return out


class _Line:
    """Bytes that arrive later than they were sent, all by the same time and in order."""

    def __init__(self, sink: asyncio.StreamWriter) -> None:
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

    def put(self, data: bytes, delay: float) -> None:
        if data:
            self._due.put_nowait((self._loop.time() + delay, data))

    def end(self) -> None:
        self._due.put_nowait(None)

    async def run(self) -> None:
        try:
            while (item := await self._due.get()) is not None:
                await asyncio.sleep(item[0] - self._loop.time())
                self._sink.write(item[1])
                await self._sink.drain()
        except ConnectionError:
            pass


class _Splitter:
    """Commands or replies, whole and as they are on the wire, out of what comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at, self._need = 0, 1

    def feed(self, data: bytes) -> list[bytes]:
        found, buffer = [], self._buffer
        buffer += data
        while (end := buffer.find(b"\r\n", self._at)) >= 0:
            kind, text = buffer[self._at : self._at + 1], buffer[self._at + 1 : end]
            after, inner = end + 2, 0
            if kind in (b"$", b"=") and int(text) >= 0:
                after += int(text) + 2
                if len(buffer) < after:
                    break
            elif kind in (b"*", b"~", b">"):
                inner = max(0, int(text))
            elif kind == b"%":
                inner = 2 * int(text)
            self._at = after
            self._need += inner - 1
            if not self._need:
                found.append(bytes(buffer[:after]))
                del buffer[:after]
                self._at, self._need = 0, 1
        return found


def _stamped(command: bytes) -> _Stamped | None:
    """The stamp of a message of the load, or None of any other command."""
    _, name, *rest = command.split(b"\r\n", 2)
    if name != b"$4" or not rest[0].upper().startswith(b"XADD\r\n"):
        return None
    arguments, at = [], command.index(b"\r\n") + 2
    while at < len(command):
        end = command.index(b"\r\n", at)
        size = int(command[at + 1 : end])
        arguments.append(command[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    value = arguments[-1]
    if len(value) < _STAMP.size:
        return None
    magic, _, producer, _, number, _ = _STAMP.unpack(value[-_STAMP.size :])
    if magic != b"mq" or producer == _CONTROL:
        return None
    return _Stamped(number, len(value))


def _hit(every: int, number: int) -> bool:
    return every > 0 and number % every == every - 1
