"""When each message is meant to be sent, in the open loop; and waiting for it precisely.

The load does not wait for the broker: message k of a phase has its time from the beginning, and a
stall makes every message late that was due in it. Producers share a schedule by turns.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["Pacer", "Phase", "Schedule", "make_pacer"]

_SECOND = 1_000_000_000


class Phase(msgspec.Struct, frozen=True):
    """A stretch of constant rate, in messages per second over all producers."""

    rate: float
    seconds: float

    @property
    def messages(self) -> int:
        return round(self.rate * self.seconds)


class Schedule:
    """The messages of one of ``producers``: each has the overall messages k, k + producers, …
    Times are nanoseconds from the start."""

    def __init__(self, phases: Sequence[Phase], producers: int, producer: int) -> None:
        self._step, self._offset = producers, producer
        self._phases: list[tuple[int, int, int, int]] = []
        number = begins = 0
        for phase in phases:
            lasts = round(phase.seconds * _SECOND)
            if phase.messages:
                self._phases.append((number, phase.messages, begins, lasts))
            number += phase.messages
            begins += lasts
        self.total = max(0, -((producer - number) // producers))
        """The messages of this producer."""

    def due(self, elapsed: int) -> int:
        """How many of this producer's messages are due after ``elapsed`` ns."""
        overall = 0
        for number, count, begins, lasts in self._phases:
            if elapsed < begins:
                break
            overall = number + min(count, (elapsed - begins) * count // lasts + 1)
        return max(0, -((self._offset - overall) // self._step))

    def times(self, first: int, count: int) -> list[int]:
        """The times of ``count`` messages of this producer from its ``first`` on."""
        found: list[int] = []
        at = self._offset + first * self._step
        end = min(at + count * self._step, self._offset + self.total * self._step)
        for number, messages, begins, lasts in self._phases:
            stop = min(end, number + messages)
            if at < stop:
                found += [
                    begins + ((k - number) * lasts + messages - 1) // messages
                    for k in range(at, stop, self._step)
                ]
                at += len(range(at, stop, self._step)) * self._step
        return found


class Pacer(Protocol):
    """Waits for a moment of ``time.monotonic_ns``."""

    async def until(self, moment: int) -> None: ...

    def close(self) -> None: ...


class LoopPacer:
    """The event loop's own timer: a millisecond exact at best."""

    async def until(self, moment: int) -> None:
        await asyncio.sleep(max(0, moment - time.monotonic_ns()) / _SECOND)

    def close(self) -> None:
        """Nothing is open."""


class TimerPacer:
    """A timer of the Linux kernel. The event loops' own have whole milliseconds (epoll_wait has),
    and at 20,000 messages/s that alone would be twenty messages late."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._set = libc.timerfd_settime
        clock = 1  # CLOCK_MONOTONIC
        self._fd = libc.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._loop.add_reader(self._fd, self._ring)

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def until(self, moment: int) -> None:
        if moment <= time.monotonic_ns():
            await asyncio.sleep(0)
            return
        seconds, rest = divmod(moment, _SECOND)
        absolute = 1  # TFD_TIMER_ABSTIME
        if self._set(self._fd, absolute, struct.pack("@4l", 0, 0, seconds, rest), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._waiting = self._loop.create_future()
        await self._waiting

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def make_pacer() -> Pacer:
    """The most precise that there is here, for the running loop."""
    if sys.platform == "linux":
        try:
            return TimerPacer()
        except (OSError, AttributeError):  # a libc without it
            pass
    return LoopPacer()
