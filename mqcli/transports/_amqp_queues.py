"""What queues and streams, which are queues to AMQP, share: publishing, looking, managing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

from pamqp import commands

from ..errors import AccessDenied, BrokerUnavailable, NotFound, Refused, Unsupported, UsageError
from ..message import Header, Headers, Message
from ..roles import Binds
from ..transport import Inspects, Manages, Outcome, Publishes, Target
from ._amqp import AmqpLink, AmqpOptions, name_of
from ._amqp_feed import is_stream
from ._amqp_methods import method, named, queue_there
from ._amqp_options import PublishOptions, defaults_of
from ._amqp_publish import Sender

__all__ = ["QueueLike", "queue_name"]


def queue_name(target: Target) -> str:
    """Raises UsageError for a name that no queue can have."""
    name = name_of(target)
    if not name:
        raise UsageError("the name of the queue is missing", where=target.where)
    return named(name, "the name of the queue", target.where)


class QueueLike(Publishes, Inspects, Manages, Binds):
    """A queue as AMQP sees it: published to through the default exchange."""

    Connection = AmqpOptions
    kind: ClassVar[str]
    """"queue" or "stream"."""

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
        found = await self._link.once(queue_there(self._name))
        return found.message_count or 0, found.consumer_count or 0

    async def describe(self, group: str | None) -> dict[str, Any]:
        """From the management API where it answers, else the little that AMQP tells."""
        from ._amqp_management import Management

        ready, consumers = await self._count()
        try:
            found = await Management(self.target).queue(self._name)
        except (BrokerUnavailable, AccessDenied) as exc:
            return {"messages_ready": ready, "consumers": consumers, "note": str(exc)}
        if (found.get("type") == "stream") != (self.kind == "stream"):
            raise self._wrong_kind()
        return found

    def _wrong_kind(self) -> UsageError:
        other = "queue" if self.kind == "stream" else "stream"
        return UsageError(
            f"it is a {other}, not a {self.kind}",
            where=self.target.where,
            hint=f"write {other}:{self._name}",
        )

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
        frame = method(
            commands.Queue.Declare, self._arguments(),
            queue=self._name, durable=durable, auto_delete=auto_delete,
        )  # fmt: skip
        existed = await self.exists()
        try:
            await self._link.once(frame)
        except Refused as exc:
            what = "is there, and different" if existed else "cannot be created so"
            raise Refused(what, where=self.target.where, why=exc.why) from exc
        return not existed

    async def delete(self) -> None:
        await self._count()
        with contextlib.suppress(AccessDenied):  # who may not read cannot tell them apart
            if await is_stream(self._link, self._name) != (self.kind == "stream"):
                raise self._wrong_kind()
        await self._link.once(method(commands.Queue.Delete, queue=self._name))

    async def bind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """Route from the exchange to here. Raises NotFound when either is missing."""
        _check_default(exchange, self.target.where)
        names = {"queue": self._name, "exchange": exchange, "routing_key": key}
        await self._link.once(method(commands.Queue.Bind, arguments, **names))

    async def unbind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """The opposite; also done when there was no such binding, as AMQP has it."""
        _check_default(exchange, self.target.where)
        names = {"queue": self._name, "exchange": exchange, "routing_key": key}
        await self._link.once(method(commands.Queue.Unbind, arguments, **names))


def _check_default(exchange: str, where: str) -> None:
    if not exchange:
        raise Unsupported(
            "the default exchange cannot be bound: every queue is, by its name", where=where
        )
