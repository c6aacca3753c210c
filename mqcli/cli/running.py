"""From a command line to an event loop and back: signals, time limits, and never hanging."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ..client import Client
from ..errors import ExitCode, NotFound
from ..operations.stop import Stop, Stopped
from .env import Env

__all__ = ["Work", "await_destination", "run"]

Work = Callable[[Stop], Coroutine[Any, Any, int]]

_LATEST = {ExitCode.TIME_LIMIT: 2.0}
"""Seconds after which a stop ends the process whatever it waits for; 5 after a signal."""
_BEGAN = time.monotonic()


def run(
    env: Env,
    timeout: float | None,
    work: Work,
    *,
    bulk: bool = False,
    last_words: Callable[[], str] | None = None,
) -> int:
    """Run ``work`` to its end; its exit code.

    SIGINT, SIGTERM and SIGHUP ask it to stop, a second one ends the process at once; ``timeout``
    (seconds since the process began) asks likewise. What has then not ended in time is cut off:
    ``last_words`` says what became of it. ``bulk`` is for streams of messages: it takes the
    faster event loop, which costs more to load than it saves on a few.
    """
    loop = _new_loop(bulk)
    stop = Stop()

    def ask(reason: ExitCode) -> None:
        if stop.reason is None:
            _watch(env, reason, last_words)
        stop.request(reason)

    def interrupt(number: int) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if stop.reason in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            _end(env, code, last_words)
        if stop.reason is not None:  # a time limit or a closed output is being dealt with
            stop.reason = code
            _watch(env, code, last_words)
            return
        ask(code)

    async def main() -> int:
        with contextlib.suppress(NotImplementedError):  # on Windows a signal just ends it
            for number in _signals():
                loop.add_signal_handler(number, interrupt, number)
        if timeout is not None:
            left = _BEGAN + timeout - time.monotonic()
            loop.call_later(max(0.0, left), ask, ExitCode.TIME_LIMIT)
        return await work(stop)

    if timeout is not None:
        # In a thread of its own: it must work when the loop itself is held up.
        left = max(0.0, _BEGAN + timeout - time.monotonic()) + _LATEST[ExitCode.TIME_LIMIT]
        _cut_off(env, ExitCode.TIME_LIMIT, left, last_words)
    # The loop is not closed, nor are its threads joined: the process ends with them.
    return loop.run_until_complete(main())


def _new_loop(bulk: bool) -> asyncio.AbstractEventLoop:
    if bulk:
        try:
            import uvloop
        except ImportError:  # where it does not install
            pass
        else:
            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return loop
    return asyncio.new_event_loop()


def _signals() -> list[signal.Signals]:
    found = [signal.SIGINT, signal.SIGTERM]
    # nohup ignores it, and means that.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def _watch(env: Env, reason: ExitCode, last_words: Callable[[], str] | None) -> None:
    if reason is not ExitCode.TIME_LIMIT:  # that one is watched from the beginning
        _cut_off(env, reason, 5.0, last_words)


def _cut_off(
    env: Env, reason: ExitCode, after: float, last_words: Callable[[], str] | None
) -> None:
    timer = threading.Timer(after, _end, (env, reason, last_words))
    timer.daemon = True
    timer.start()


def _end(env: Env, reason: ExitCode, last_words: Callable[[], str] | None) -> None:
    if last_words is not None:
        env.error(f"mqcli: {last_words()}")
    os._exit(reason)


async def await_destination(client: Client, stop: Stop) -> None:
    """Return when it exists. Raises NotFound at the time limit, Stopped, Unsupported."""
    try:
        await stop.guard(client.wait_until_there(None))
    except Stopped:
        if stop.reason is ExitCode.TIME_LIMIT:
            raise NotFound("did not appear in time", where=client.where) from None
        raise
