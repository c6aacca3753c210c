"""What became of each published message, as lines of JSON in the order of the input."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence

import msgspec

from ..errors import MqcliError, OutputError
from .stop import Stop
from .streams import ByteSink

__all__ = ["FateLines"]

_MUCH, _CHUNK = 4 << 20, 1 << 20
_json = msgspec.json.Encoder().encode


class FateLines:
    """``{"message":1,"fate":"confirmed","position":"0:42"}``, numbered from 1. ``sure`` is the word
    for what was confirmed. ``held``: nothing is written before ``finish``, and only if asked then.
    """

    def __init__(self, fd: int, *, sure: str = "confirmed", held: bool = False) -> None:
        self._held = tempfile.TemporaryFile(prefix="mqcli-") if held else None  # noqa: SIM115
        self._out = ByteSink(fd)
        self._sink = self._out if self._held is None else ByteSink(self._held.fileno(), "a spool")
        self._sure = sure
        self._next = 0
        self._early: dict[int, bytes] = {}
        """Lines that wait for those before them; as many as a window of batches holds."""
        self._lines: list[bytes] = []
        self._size = 0
        self._some, self._room = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    # -- mqcli.publisher.Fates

    def refused(self, number: int, error: MqcliError) -> None:
        self._put(number, {"message": number + 1, "fate": "refused", "why": str(error)})

    def confirmed(self, numbers: Sequence[int], positions: Sequence[str] | None) -> None:
        sure = self._sure
        if positions is None:
            for number in numbers:
                self._put(number, {"message": number + 1, "fate": sure})
            return
        for number, position in zip(numbers, positions, strict=True):
            line = {"message": number + 1, "fate": sure}
            self._put(number, {**line, "position": position} if position else line)

    def _put(self, number: int, fate: dict[str, object]) -> None:
        self._early[number] = _json(fate) + b"\n"
        while (line := self._early.pop(self._next, None)) is not None:
            self._lines.append(line)
            self._size += len(line)
            self._next += 1
        if self._lines:
            self._some.set()

    # -- writing

    def start(self, stop: Stop) -> None:
        """Write what comes, beside the publishing."""
        self._task = asyncio.create_task(self._follow(stop))

    async def _follow(self, stop: Stop) -> None:
        while self._lines or not self._over:
            await self._some.wait()
            self._some.clear()
            lines, self._lines, self._size = self._lines, [], 0
            if lines and not self.closed and self._sink.error is None:
                await self._sink.write([b"".join(lines)], stop)
            self._room.set()

    async def room(self) -> None:
        """Return when not too much waits to be written. Raises OutputError when it cannot be."""
        while self._size > _MUCH and self._sink.error is None:
            self._room.clear()
            await self._room.wait()
        if self._sink.error is not None:
            raise self._sink.error

    @property
    def closed(self) -> bool:
        """Nobody reads the output any more: no error, and nothing more is written."""
        return self._sink.closed or self._out.closed

    async def finish(self, total: int, stop: Stop, *, shown: bool = True) -> OutputError | None:
        """Write the rest: all up to ``total`` that were never named are unknown. ``shown`` says
        whether what was held is written. What went wrong with the output, if anything did."""
        for number in range(self._next, total):
            if number >= self._next and number not in self._early:
                self._put(number, {"message": number + 1, "fate": "unknown"})
        self._over = True
        self._some.set()
        if self._task is not None:
            await self._task
        if self._held is not None:
            with self._held:
                at = 0
                while shown and not self.closed and not (self._sink.error or self._out.error):
                    data = await asyncio.to_thread(os.pread, self._held.fileno(), _CHUNK, at)
                    if not data:
                        break
                    at += len(data)
                    await self._out.write([data], stop)
        return self._sink.error or self._out.error
