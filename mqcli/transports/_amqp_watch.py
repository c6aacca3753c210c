"""Watching an exchange through a temporary queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from pamqp import commands

from ..errors import NotFound
from ..message import Header, Headers, Received
from ..transport import Gap
from ._amqp import AmqpLink
from ._amqp_feed import PREFETCH, ChannelFeed, Raw
from ._amqp_methods import exchange_there, method, queue_there

__all__ = ["ExchangeFeed"]

_KEPT, _KEPT_BYTES = 100_000, 256 << 20
_LOOK_AFTER = 1.0
"""Seconds between looks whether the temporary queue had to drop something, and the exchange is
there: when it is deleted, its bindings go, and nobody tells who is behind them."""

Unwrap = Callable[[Received], Received | None]
"""The message to show for one that came; None for one that is not wanted."""


class ExchangeFeed(ChannelFeed):
    """Watches through a queue that goes with the connection. What that queue has to drop, because
    we read too slowly, falls into a second one, of one message: so a gap cannot pass unseen."""

    def __init__(
        self, link: AmqpLink, name: str, bindings: Sequence[tuple[str, Headers]],
        unwrap: Unwrap | None = None,
    ) -> None:  # fmt: skip
        super().__init__(link, keyed=True)
        self._name, self._bindings = name, bindings
        self._unwrap = unwrap
        self._spill = ""
        self._looked_ms = 0
        self._look_at = 0.0

    async def open(self) -> None:
        await self._open_channel()
        self._spill = await self._temporary([("x-max-length", 1)])
        queue = await self._temporary(
            [
                ("x-max-length", _KEPT),
                ("x-max-length-bytes", _KEPT_BYTES),
                ("x-dead-letter-exchange", ""),
                ("x-dead-letter-routing-key", self._spill),
            ]
        )
        for key, arguments in self._bindings:
            await self._rpc(
                method(
                    commands.Queue.Bind, arguments,
                    queue=queue, exchange=self._name, routing_key=key,
                )
            )  # fmt: skip
        await self._start_consumer(queue, PREFETCH, exclusive=True)
        self._looked()

    async def _temporary(self, arguments: Sequence[Header]) -> str:
        frame = method(commands.Queue.Declare, arguments, exclusive=True)
        return str((await self._rpc(frame)).queue)

    async def _rpc(self, frame: Any) -> Any:
        return await self._link.ask(lambda: self._link.rpc(self.channel, frame))

    def _looked(self) -> None:
        self._look_at = asyncio.get_running_loop().time() + _LOOK_AFTER
        self._looked_ms = int(time.time() * 1000)

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        if not self._closed and asyncio.get_running_loop().time() >= self._look_at:
            await self._look()
        return await super().receive(max_messages, max_bytes, wait)

    async def _look(self) -> None:
        since = self._looked_ms
        try:
            await self._rpc(exchange_there(self._name))
        except NotFound as exc:
            raise NotFound(
                "the watching is over", where=self._link.where, why="the exchange was deleted"
            ) from exc
        found = await self._rpc(queue_there(self._spill))
        self._looked()
        if found.message_count:
            await self._rpc(method(commands.Queue.Purge, queue=self._spill))
            reason = "read too slowly: the temporary queue was full and dropped its oldest"
            self.gaps.append(Gap(self._source, reason, since, self._looked_ms))

    def _made(self, taken: Sequence[Raw]) -> list[Received]:
        source, routes, contents = self._source, self._routes, self._contents
        made: list[Received] = []
        tag = self._tag
        for _, path, raw, body in taken:
            tag += 1
            route = routes.get(path) or self._route(path)
            content = contents.get(raw) or self._content(raw, raw)
            made.append(
                Received(
                    body, route.key, content.headers, content.properties, content.timestamp,
                    False, source, str(tag), False, route.extra,
                )
            )  # fmt: skip
        self._tag = tag
        if not self._tap.gone:
            self._link.wire.send(self._tap.number, 60, 80, tag.to_bytes(8, "big") + b"\x01")
        if self._unwrap is None:
            return made
        return [found for message in made if (found := self._unwrap(message)) is not None]
