"""The bytes of one AMQP connection, shared between the driver and the batches.

aiormq takes a *transport factory* that makes its reader and writer: a public door, so that nothing
private is touched. What arrives is split here by the chunk. Content (deliveries, returns) and
confirms of a channel with a :class:`Tap` go to the tap, in batches; everything else goes on to
aiormq, which does login, heartbeats and topology with it. Both write to the same socket, whole
frames each, and content only on tapped channels, where aiormq writes none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from ._amqp_codec import FRAME, method_frame, read_short

__all__ = ["Tap", "Wire"]

_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_CHANNEL_CLOSE = b"\x00\x14\x00\x28"
_CONNECTION = b"\x00\x0a"
_CLOSE, _BLOCKED, _UNBLOCKED = b"\x00\x32", b"\x00\x3c", b"\x00\x3d"
_WRITE_AHEAD = 1 << 20
"""Bytes that may wait for the system to take them before ``writable`` is cleared."""
_SAY_ALIVE = 5.0
"""Seconds after which aiormq is told that the peer lives, though all frames went to taps."""


class Tap:
    """What belongs to one channel beside aiormq's methods."""

    number: int = 0

    def feed(self, data: bytes, at: int, end: int) -> int:
        """Take the frames from ``at`` on that are this tap's; where the first other one begins."""
        raise NotImplementedError

    def flush(self) -> None:
        """A chunk was fed: wake who waits."""

    def channel_closed(self, code: int, text: str) -> None:
        """The broker closed the channel."""

    def lost(self) -> None:
        """The connection is gone: see ``Wire.lost``."""


class Wire(asyncio.StreamReaderProtocol):
    """The protocol of the connection. aiormq gets ``reader`` and a writer around the transport."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.reader = reader
        self.transport: asyncio.Transport | None = None
        self.blocked: str | None = None
        """The broker's reason while it takes no publishes (an alarm)."""
        self.closed_by: tuple[int, str] | None = None
        """Code and text with which the broker closed the connection."""
        self.lost: str | None = None
        """Why the connection is gone, once it is."""
        self.on_blocked: Callable[[], None] | None = None
        self.writable = asyncio.Event()
        """The system keeps up with what is written."""
        self.writable.set()
        self.loop = loop
        """The running one: asking asyncio for it is a system call each time."""
        self._taps: dict[int, Tap] = {}
        self._rest = b""
        self._alive = self._told = loop.time()
        self._standing = False
        self._asking = 0
        self._watch: asyncio.TimerHandle | None = None
        self._silence = 0.0

    def tap(self, tap: Tap) -> None:
        self._taps[tap.number] = tap

    def untap(self, tap: Tap) -> None:
        if self._taps.get(tap.number) is tap:
            del self._taps[tap.number]

    def write(self, data: bytes) -> None:
        """To the socket, or its buffer. Only while not ``lost``."""
        assert self.transport is not None
        self.transport.write(data)

    def unsent(self) -> int:
        """Bytes that the system has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def watch(self, silence: float) -> None:
        """From now on give the connection up after ``silence`` seconds without a byte."""
        self._silence = silence
        self._watch = self.loop.call_later(silence / 2, self._look)

    def _look(self) -> None:
        if self.lost is not None or self.transport is None:
            return
        now = self.loop.time()
        if self._standing:
            # Silence is our own doing; aiormq must not take it for the broker's.
            self._alive = now
            self._tell_alive(now)
        elif now - self._alive > self._silence:
            self._lose(f"the broker was silent for {self._silence:g} s, without a heartbeat")
            self.transport.abort()
            return
        self._watch = self.loop.call_later(self._silence / 2, self._look)

    def _tell_alive(self, now: float) -> None:
        self._told = now
        self.reader.feed_data(_HEARTBEAT)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, ``pause`` does nothing: an answer is awaited that may be behind messages."""
        self._asking += 1
        self.resume()
        try:
            yield
        finally:
            self._asking -= 1

    def pause(self) -> None:
        """Read nothing more for now: the messages that came have no room."""
        if (
            not self._asking
            and not self._standing
            and self.transport is not None
            and self.lost is None
        ):
            self._standing = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._standing and self.transport is not None:
            self._standing = False
            self._alive = self.loop.time()
            if self.lost is None and not self.transport.is_closing():
                self.transport.resume_reading()

    # --- asyncio's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not asserted: uvloop's transports are no subclass.
        self.transport = made = cast(asyncio.Transport, transport)
        made.set_write_buffer_limits(_WRITE_AHEAD)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writable.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self.closed_by is not None:
            self._lose("the broker closed the connection: " + self.closed_by[1])
        else:
            self._lose(str(exc) if exc and str(exc) else "the connection was closed by the peer")
        super().connection_lost(exc)

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self.writable.set()
            for tap in list(self._taps.values()):
                tap.lost()

    def data_received(self, data: bytes) -> None:
        now = self._alive = self.loop.time()
        if self._rest:
            data = self._rest + data
        end, at = len(data), 0
        others: list[bytes] = []
        touched: Tap | None = None
        taps = self._taps
        while end - at >= 8:
            kind, number, size = FRAME.unpack_from(data, at)
            if kind not in (1, 2, 3, 8):  # not AMQP, or another version of it: aiormq says so
                others.append(data[at:])
                at = end
                break
            after = at + 8 + size
            if after > end:
                break
            tap = taps.get(number)
            if tap is not None:
                reached = tap.feed(data, at, end)
                if touched is not tap:
                    if touched is not None:
                        touched.flush()
                    touched = tap
                if reached != at:
                    at = reached
                    continue
                if kind == 1 and data[at + 7 : at + 11] == _CHANNEL_CLOSE:
                    tap.channel_closed(*_reply(data, at + 11))
            if number or kind != 1 or not self._control(data, at):
                others.append(data[at:after])
            at = after
        self._rest = data[at:]
        if others:
            self._told = now
            self.reader.feed_data(b"".join(others))
        elif now - self._told > _SAY_ALIVE:
            self._tell_alive(now)
        if touched is not None:
            touched.flush()

    def _control(self, data: bytes, at: int) -> bool:
        """True where the frame is not for aiormq: its writer would stand still while blocked, and
        with it heartbeats and the closing of channels."""
        if data[at + 7 : at + 9] != _CONNECTION:
            return False
        method = data[at + 9 : at + 11]
        if method == _CLOSE:
            self.closed_by = _reply(data, at + 11)
            return False
        if method not in (_BLOCKED, _UNBLOCKED):
            return False
        self.blocked = None
        if method == _BLOCKED:
            self.blocked = read_short(data, at + 11)[0].decode("utf-8", "replace")
        if self.on_blocked is not None:
            self.on_blocked()
        return True

    def send(self, channel: int, class_id: int, method_id: int, arguments: bytes) -> None:
        """One method that has no answer."""
        self.write(method_frame(channel, class_id, method_id, arguments))


def _reply(data: bytes, at: int) -> tuple[int, str]:
    text, _ = read_short(data, at + 2)
    return int.from_bytes(data[at : at + 2], "big"), text.decode("utf-8", "replace")


async def open_wire(
    host: str, port: int, loop: asyncio.AbstractEventLoop, **connecting: Any
) -> tuple[Wire, asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect. Raises OSError, of which those of TLS are kinds."""
    reader = asyncio.StreamReader(loop=loop)
    wire = Wire(reader, loop)
    transport, _ = await loop.create_connection(lambda: wire, host, port, **connecting)
    return wire, reader, asyncio.StreamWriter(transport, wire, reader, loop)
