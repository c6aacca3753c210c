"""What enters a queue, seen through RabbitMQ's firehose: ``tail queue:NAME -O via=firehose``."""

from __future__ import annotations

from typing import Any

from ..errors import AccessDenied, BrokerUnavailable, NotFound, TryAgainLater, UsageError
from ..message import Received, Tagged
from ..transport import Feed, Inspects, Span, Tails, Target, Traits
from ._amqp import AmqpLink, AmqpOptions
from ._amqp_firehose import FIREHOSE, unwrapped
from ._amqp_management import Management
from ._amqp_methods import queue_there
from ._amqp_options import QueueOptions
from ._amqp_queues import queue_name
from ._amqp_watch import ExchangeFeed


class AmqpFirehose(Tails, Inspects):
    """A queue watched while the tracing of its virtual host is on. The queue is not touched; the
    broker copies every message of the virtual host, which costs it a good part of its speed."""

    summary = "queue, watched through the firehose"
    Connection = AmqpOptions
    Options = QueueOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._name = queue_name(target)
        self._link = AmqpLink(target)

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        return Traits(
            confirm="none",
            ack="none",
            nack=False,
            keeps="nothing",
            order="all",
            shares=False,
            fans_out=True,
            headers="typed",
            keys=True,
            tombstones=False,
            missing="refused",
            starts=frozenset({"end"}),
        )

    async def open(self) -> None:
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def exists(self) -> bool:
        try:
            await self.describe(None)
        except NotFound:
            return False
        return True

    async def describe(self, group: str | None) -> dict[str, Any]:
        found = await self._link.once(queue_there(self._name))
        return {"messages_ready": found.message_count, "consumers": found.consumer_count}

    async def tail(self, span: Span) -> Feed:
        await self.describe(None)
        notes = []
        try:
            if not await Management(self.target).tracing():
                raise UsageError(
                    "tracing is off, so there is nothing to watch",
                    where=self.target.where,
                    hint="rabbitmqctl trace_on turns it on for the virtual host",
                )
        except (AccessDenied, BrokerUnavailable, TryAgainLater) as exc:
            notes.append(f"whether tracing is on cannot be told: {exc}")
        feed = ExchangeFeed(self._link, FIREHOSE, [("publish.#", ())], self._entering)
        try:
            await feed.open()
        except BaseException:
            await feed.aclose()
            raise
        feed.notes += notes
        return feed

    def _entering(self, copy: Received) -> Received | None:
        """The message published, if it was routed to our queue."""
        queues = dict(copy.headers).get("routed_queues")
        if isinstance(queues, Tagged) and self._name in queues.v:
            return unwrapped(copy)
        return None
