"""Looking at brokers and destinations, and preparing them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ..broker import Broker, Entry
from ..client import Client
from ..errors import BrokerUnavailable, NotFound
from ..message import Headers
from ..position import Start
from ..roles import Binds, ListsGroups, Seeks
from ..transport import Inspects, Manages, Target, Transport

__all__ = [
    "answered", "bind", "create", "delete", "describe", "groups", "ls", "ping", "purge", "seek",
    "unbind",
]  # fmt: skip

T = TypeVar("T")
Role = TypeVar("Role", bound=Transport)

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


async def groups(cls: type[Broker], target: Target) -> Sequence[Entry]:
    """The groups that the broker can list; ``cls`` is one that ListsGroups."""

    async def act(broker: Broker) -> Sequence[Entry]:
        assert isinstance(broker, ListsGroups)
        return await broker.groups()

    return await _with_broker(cls, target, act)


async def _on(client: Client, role: type[Role], action: Callable[[Role], Awaitable[T]]) -> T:
    """Open, act, close, in time. A NotFound names the nearest destination."""
    try:
        return await answered(client.once(role, action), client.target)
    except NotFound as exc:
        from .near import point_out

        await point_out(client, exc)
        raise


async def describe(client: Client, group: str | None) -> dict[str, Any]:
    """What is known of a destination, or of a group on it. Raises NotFound, Unsupported."""
    return await _on(client, Inspects, lambda transport: transport.describe(group))


async def create(client: Client) -> bool:
    """True when made now, False when it was there. Raises Unsupported, Refused."""
    return await answered(client.create(), client.target)


async def purge(client: Client) -> int | None:
    """Remove all messages: how many, if the broker tells. Raises NotFound, Unsupported."""
    return await _on(client, Manages, lambda transport: transport.purge())


async def delete(client: Client) -> None:
    """Remove the destination. Raises NotFound, Unsupported."""
    await _on(client, Manages, lambda transport: transport.delete())


async def bind(client: Client, source: str, key: str, arguments: Headers) -> None:
    """Route from ``source`` to the client's destination. Raises NotFound, Refused, Unsupported."""
    await _on(client, Binds, lambda transport: transport.bind(source, key, arguments))


async def unbind(client: Client, source: str, key: str, arguments: Headers) -> None:
    """The opposite."""
    await _on(client, Binds, lambda transport: transport.unbind(source, key, arguments))


async def seek(client: Client, group: str, start: Start, *, commit: bool) -> list[dict[str, Any]]:
    """Where ``start`` is for the group, by partition; committed if asked. Raises NotFound, Refused
    while the group has members, Unsupported."""
    found = await _on(client, Seeks, lambda transport: transport.seek(group, start, commit=commit))
    return list(found)
