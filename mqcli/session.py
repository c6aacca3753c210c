"""What a publisher and a reader share: one open transport that can be replaced by a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from .errors import BrokerUnavailable, MqcliError, TryAgainLater
from .transport import Transport

_FIRST_BACKOFF, _LAST_BACKOFF = 0.05, 5.0


class Limits(msgspec.Struct, frozen=True):
    """Seconds that waits may last; the time to connect is the target's."""

    confirm_timeout: float = 30.0
    """without any confirmation while some are awaited"""
    reconnect_for: float = 60.0
    """that a lost broker is tried again; 0 is never"""


class Session:
    """A transport that has not been opened, and another of its kind whenever it was lost."""

    def __init__(self, transport: Transport, limits: Limits) -> None:
        self._transport = transport
        self._limits = limits

    @property
    def where(self) -> str:
        """The masked address."""
        return self._transport.target.where

    async def _open(self) -> None:
        try:
            await self._transport.open()
        except BaseException:
            await self._transport.aclose()
            raise

    async def _again(
        self, since: float, cause: MqcliError, attempt: Callable[[], Awaitable[None]]
    ) -> None:
        """A new transport in place of the lost one, within ``reconnect_for`` of ``since``
        (monotonic). When time has run out, raises TryAgainLater if that is what the broker said,
        else BrokerUnavailable with the cause of the loss; other errors at once."""
        delay = _FIRST_BACKOFF
        limit = self._limits.reconnect_for
        refused: TryAgainLater | None = None
        while True:
            await self._transport.aclose()
            left = since + limit - time.monotonic()
            if left <= 0:
                if refused is not None:
                    raise refused from cause
                raise BrokerUnavailable(
                    f"the broker was lost and did not come back within {limit:g} s",
                    where=self.where,
                    why=cause.why or cause.what,
                    hint="--reconnect-for says how long to try",
                ) from cause
            try:
                async with asyncio.timeout(left):
                    self._transport = type(self._transport)(self._transport.target)
                    await self._transport.open()
                    await attempt()
                    return
            except (BrokerUnavailable, TryAgainLater, TimeoutError) as exc:
                if isinstance(exc, TryAgainLater):  # it is back, but loading its data
                    refused = exc
                await asyncio.sleep(min(delay, max(0.0, since + limit - time.monotonic())))
                delay = min(delay * 2, _LAST_BACKOFF)
