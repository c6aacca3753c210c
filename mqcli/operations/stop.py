"""Ending early: one place that a signal, a time limit or a closed output asks to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import ExitCode

__all__ = ["Stop", "Stopped"]

_GRACE = 4.0
_TIME_LIMIT_GRACE = 1.5

T = TypeVar("T")


class Stopped(Exception):
    """The guarded wait was cut short by a stop."""


class Stop:
    """Asks an operation to end. Waits that take something new are guarded, and end at once; what
    has been taken is then finished within ``grace``."""

    def __init__(self) -> None:
        self.reason: ExitCode | None = None
        """The code of the one that asked first, OK when the reader of our output went away."""
        self.requested = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def grace(self) -> float:
        """Seconds for what was taken to be written, acknowledged or given back after a stop: the
        process ends within 5 s of a signal and 2 s of a time limit, closing included."""
        return _TIME_LIMIT_GRACE if self.reason is ExitCode.TIME_LIMIT else _GRACE

    def request(self, reason: ExitCode) -> None:
        """Ask to stop; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            self.requested.set()
            for task in self._tasks:
                task.cancel()

    async def guard(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; it is cancelled by a stop. Raises Stopped."""
        if self.reason is not None:
            coroutine.close()
            raise Stopped
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            outer = asyncio.current_task()
            if self.reason is None or (outer is not None and outer.cancelling()):
                raise
            raise Stopped from None
        finally:
            self._tasks.discard(task)
