"""Looking at brokers and destinations, and preparing them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ..broker import Broker, Entry
from ..client import Client
from ..errors import BrokerUnavailable
from ..transport import Inspects, Manages, Target

__all__ = ["answered", "create", "delete", "describe", "ls", "ping", "purge"]

T = TypeVar("T")

ANSWER = 30.0
"""Seconds that a broker may take to answer, once it is connected."""


async def answered(asked: Awaitable[T], target: Target) -> T:
    """What was asked for. Raises BrokerUnavailable when no answer comes in time."""
    limit = target.connect_timeout + ANSWER
    try:
        async with asyncio.timeout(limit):
            return await asked
    except TimeoutError as exc:
        raise BrokerUnavailable(
            f"no answer within {limit:g} s; whether it was done is not known", where=target.where
        ) from exc


async def _with_broker(
    cls: type[Broker], target: Target, action: Callable[[Broker], Awaitable[T]]
) -> T:
    broker = cls(target)

    async def act() -> T:
        try:
            await broker.open()
            return await action(broker)
        finally:
            await broker.aclose()

    return await answered(act(), target)


async def ping(cls: type[Broker], target: Target) -> dict[str, Any]:
    """What the broker says it is, and ``milliseconds``, those of one round trip.
    Raises BrokerUnavailable, AccessDenied, TryAgainLater."""

    async def act(broker: Broker) -> dict[str, Any]:
        began = time.perf_counter()
        said = await broker.ping()
        return {**said, "milliseconds": round((time.perf_counter() - began) * 1000, 3)}

    return await _with_broker(cls, target, act)


async def ls(cls: type[Broker], target: Target, kind: str | None) -> Sequence[Entry]:
    """The destinations that the broker can list, of one kind or of all."""
    return await _with_broker(cls, target, lambda broker: broker.ls(kind))


async def describe(client: Client, group: str | None) -> dict[str, Any]:
    """What is known of a destination, or of a group on it. Raises NotFound, Unsupported."""
    asked = client.once(Inspects, lambda transport: transport.describe(group))
    return await answered(asked, client.target)


async def create(client: Client) -> bool:
    """True when made now, False when it was there. Raises Unsupported, Refused."""
    return await answered(client.create(), client.target)


async def purge(client: Client) -> int | None:
    """Remove all messages: how many, if the broker tells. Raises NotFound, Unsupported."""
    asked = client.once(Manages, lambda transport: transport.purge())
    return await answered(asked, client.target)


async def delete(client: Client) -> None:
    """Remove the destination. Raises NotFound, Unsupported."""
    await answered(client.once(Manages, lambda transport: transport.delete()), client.target)
