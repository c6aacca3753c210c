"""What queues and streams, which are queues to AMQP, share: publishing, looking, managing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiormq.abc import AbstractChannel
from pamqp import commands

from ..errors import BrokerUnavailable, NotFound, Refused, Unsupported, UsageError
from ..message import Header, Headers, Message
from ..roles import Binds
from ..transport import Inspects, Manages, Outcome, Publishes, Target
from ._amqp import AmqpLink, AmqpOptions, name_of
from ._amqp_codec import short
from ._amqp_feed import typed
from ._amqp_options import PublishOptions, defaults_of
from ._amqp_publish import Sender

__all__ = ["QueueLike", "queue_name"]


def queue_name(target: Target) -> str:
    """Raises UsageError for a name that no queue can have."""
    name = name_of(target)
    if not name:
        raise UsageError("the name of the queue is missing", where=target.where)
    try:
        short(name, "the name of the queue")
    except ValueError as exc:
        raise UsageError(str(exc), where=target.where) from exc
    return name


class QueueLike(Publishes, Inspects, Manages, Binds):
    """A queue as AMQP sees it: published to through the default exchange."""

    Connection = AmqpOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._name = queue_name(target)
        self._link = AmqpLink(target)
        options: PublishOptions = target.options
        self._sender = Sender(
            self._link, "", self._name, defaults_of(options), vet=self._vet_headers
        )

    def _vet_headers(self, headers: Headers) -> None:
        """Raises ValueError for what would not be kept."""

    async def open(self) -> None:
        self.traits(self.target.options, None)
        await self._link.open()

    async def aclose(self) -> None:
        await self._sender.aclose()
        await self._link.aclose()

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        return await self._sender.publish(batch, timeout)

    async def exists(self) -> bool:
        try:
            await self._count()
        except NotFound:
            return False
        return True

    async def _count(self) -> tuple[int, int]:
        """Messages ready and consumers. Raises NotFound."""
        found = await self._link.once(lambda ch: ch.queue_declare(self._name, passive=True))
        return found.message_count or 0, found.consumer_count or 0

    async def describe(self, group: str | None) -> dict[str, Any]:
        """From the management API where it answers, else the little that AMQP tells."""
        from ._amqp_management import Management

        ready, consumers = await self._count()
        try:
            return await Management(self.target).queue(self._name)
        except BrokerUnavailable as exc:
            return {"messages_ready": ready, "consumers": consumers, "note": str(exc)}

    def _arguments(self) -> tuple[Header, ...]:
        raise NotImplementedError

    async def create(self) -> bool:
        options = self.target.options
        durable = getattr(options, "durable", True)
        auto_delete = getattr(options, "auto_delete", False)
        if options.type is not None:
            raise UsageError(
                f"type={options.type} is a property of messages",
                where=self.target.where,
                hint="-O queue_type=quorum chooses the type of a queue, kind stream: is a stream",
            )
        frame = commands.Queue.Declare(queue=self._name, durable=durable, auto_delete=auto_delete)
        existed = await self.exists()
        link = self._link

        async def declare(channel: AbstractChannel) -> Any:
            return await link.rpc(channel, typed(frame, self._arguments()))

        try:
            await link.once(declare)
        except Refused as exc:
            what = "is there, and different" if existed else "cannot be created so"
            raise Refused(what, where=self.target.where, why=exc.why) from exc
        return not existed

    async def delete(self) -> None:
        await self._count()
        await self._link.once(lambda channel: channel.queue_delete(self._name))

    async def bind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """Route from the exchange to here. Raises NotFound when either is missing."""
        _check_default(exchange, self.target.where)
        frame = commands.Queue.Bind(queue=self._name, exchange=exchange, routing_key=key)
        await self._link.once(lambda ch: self._link.rpc(ch, typed(frame, arguments)))

    async def unbind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """The opposite; also done when there was no such binding, as AMQP has it."""
        _check_default(exchange, self.target.where)
        frame = commands.Queue.Unbind(queue=self._name, exchange=exchange, routing_key=key)
        await self._link.once(lambda ch: self._link.rpc(ch, typed(frame, arguments)))


def _check_default(exchange: str, where: str) -> None:
    if not exchange:
        raise Unsupported(
            "the default exchange cannot be bound: every queue is, by its name", where=where
        )
