"""What the verbs that look at and prepare a broker share."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..broker import Broker
from ..client import Client
from ..errors import ExitCode, TimeLimitReached, UsageError
from ..operations.stop import Stop, Stopped
from ..registry import broker_target
from ..transport import Manages, Target
from .common import Common
from .env import Env
from .running import run

__all__ = ["agreed", "broker", "once"]

T = TypeVar("T")


def broker(env: Env, common: Common, text: str | None) -> tuple[type[Broker], Target]:
    """The broker that is meant. Opens nothing. Raises UsageError."""
    return broker_target(
        common.url(env, text),
        common.options,
        connect_timeout=common.connect_timeout,
        insecure=common.insecure,
        client_name=common.client_name,
    )


def once(
    env: Env,
    common: Common,
    action: Callable[[], Coroutine[Any, Any, T]],
    tell: Callable[[T], int | None],
) -> int:
    """Do it, unless a signal or the time limit ends it, and tell what came of it."""

    async def work(stop: Stop) -> int:
        try:
            found = await stop.guard(action())
        except Stopped:
            assert stop.reason is not None
            if stop.reason is ExitCode.TIME_LIMIT:
                raise TimeLimitReached(
                    "the time was over; whether it was done is not known"
                ) from None
            return stop.reason
        return tell(found) or 0

    return run(env, common.timeout, work)


def agreed(env: Env, client: Client, yes: bool, what: str) -> bool:
    """Whether the user wants it. Raises UsageError where nobody can be asked, Unsupported."""
    client.make(Manages)
    if yes:
        return True
    if not (env.stdin_tty and env.stderr_tty):
        raise UsageError(
            f"{what} cannot be undone, and there is no terminal to ask at",
            where=client.where,
            hint="--yes does it without asking",
        )
    env.raw(f"{what} of {client.where} cannot be undone. Do it? [y/N] ")
    answer = os.read(0, 1024).decode("utf-8", "replace").strip().lower()
    if answer in ("y", "yes"):
        return True
    env.error("mqcli: nothing was done")
    return False
