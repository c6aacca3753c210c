"""RabbitMQ exchanges: published to, and watched through a temporary queue of our own.

A watcher is one more binding: while it is there, messages that nobody wanted before are routable
(``mandatory`` is content, an alternate exchange does not get them). See docs/rabbitmq.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pamqp import commands

from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    NotFound,
    Refused,
    Unsupported,
    UsageError,
)
from ..message import Header, Headers, HeaderValue, Message, Tagged
from ..roles import Binds
from ..transport import (
    Feed,
    Inspects,
    Manages,
    Outcome,
    Publishes,
    Span,
    Tails,
    Target,
    Traits,
)
from ._amqp import AmqpLink, AmqpOptions, name_of
from ._amqp_codec import PROPERTY_NAMES
from ._amqp_firehose import FIREHOSE, unwrapped
from ._amqp_methods import exchange_there, method, named
from ._amqp_options import ExchangeOptions, arguments_of, defaults_of, parse_argument
from ._amqp_publish import Sender
from ._amqp_watch import ExchangeFeed

_CURRENT = "but current is '"


def _delay_ms(seconds: float) -> int:
    if (made := round(seconds * 1000)) >= 2**31:
        raise UsageError("the option delay does not fit: it is at most 2147483647 ms, 24 days")
    return made


class AmqpExchange(Publishes, Tails, Inspects, Manages, Binds):
    """An exchange: what is published to it goes to every queue that is bound for it.

    Confirmed means that every queue it was routed to has it. The key of a message is its routing
    key.
    """

    summary = "exchange, routes to queues"
    Connection = AmqpOptions
    Options = ExchangeOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._name = named(name_of(target), "the name of the exchange", target.where)
        self._link = AmqpLink(target)
        options: ExchangeOptions = target.options
        extra: Headers = ()
        if options.delay is not None:
            extra = (("x-delay", Tagged("i32", _delay_ms(options.delay))),)
        # The plugin keeps a delayed message outside of queues, so it always counts as unroutable.
        mandatory = options.mandatory and options.delay is None
        self._sender = Sender(self._link, self._name, None, defaults_of(options), extra, mandatory)

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        return Traits(
            confirm="stored" if options.persistent else "reached",
            durable="routed: taken over by every queue that it was routed to",
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
            properties=PROPERTY_NAMES,
            starts=frozenset({"end"}),
        )

    async def open(self) -> None:
        await self._link.open()
        if self.target.options.delay is not None:
            try:
                await self._check_delayed()
            except BaseException:
                await self._link.aclose()
                raise

    async def aclose(self) -> None:
        await self._sender.aclose()
        await self._link.aclose()

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        return await self._sender.publish(batch, timeout)

    async def tail(self, span: Span) -> Feed:
        if not self._name:
            raise Unsupported(
                "the default exchange cannot be watched: nothing can be bound to it",
                where=self.target.where,
                hint=f"watch {FIREHOSE} while tracing is on",
            )
        unwrap = unwrapped if self.target.options.via == "firehose" else None
        feed = ExchangeFeed(self._link, self._name, await self._bindings(), unwrap)
        try:
            await feed.open()
        except BaseException:
            await feed.aclose()
            raise
        return feed

    # --- what kind of exchange it is --------------------------------------------------------------

    async def _bindings(self) -> Sequence[tuple[str, Headers]]:
        """Routing keys and arguments to bind with. Raises NotFound, UsageError."""
        patterns: Sequence[str] = self.target.options.bind
        kind = await self._type()
        if kind == "headers" and patterns:
            return [
                ("", (("x-match", "all"), *map(parse_argument, pattern.split(","))))
                for pattern in patterns
            ]
        if patterns:
            for pattern in patterns:
                if len(pattern.encode("utf-8", "surrogateescape")) > 255:
                    raise UsageError(f"the pattern {pattern[:40]!r}… is longer than 255 bytes")
            return [(pattern, ()) for pattern in patterns]
        if kind in ("direct", "x-consistent-hash", "x-modulus-hash", "x-random"):
            raise Unsupported(
                f"a {kind} exchange cannot be watched as a whole",
                where=self.target.where,
                hint="name the routing keys to watch: --bind KEY, repeatable (or ?bind=KEY)",
            )
        # Matches everything: of a topic by its pattern, of headers by asking for none.
        return [("#", (("x-match", "all"),))]

    async def _type(self) -> str | None:
        """What AMQP does not tell by itself: declared as something else, the broker contradicts.
        The exchange is there, so nothing is created. None where the user may not declare."""
        name = self._name
        await self._link.once(exchange_there(name))
        if name.startswith("amq."):
            known = {"amq.match": "headers", FIREHOSE: "topic", "amq.rabbitmq.log": "topic"}
            return known.get(name, name[4:])
        try:
            await self._link.once(
                method(
                    commands.Exchange.Declare, exchange=name, exchange_type="fanout", durable=True
                )
            )
        except Refused as exc:
            if _CURRENT in exc.why and "'type'" in exc.why:
                return exc.why.partition(_CURRENT)[2].rstrip("'")
            return "fanout"  # only something else was different
        except AccessDenied:
            return await self._type_told()
        return "fanout"

    async def _type_told(self) -> str | None:
        from ._amqp_management import Management

        try:
            return str((await Management(self.target).exchange(self._name))["type"])
        except (BrokerUnavailable, AccessDenied):
            return None

    async def _check_delayed(self) -> None:
        """Raises Unsupported unless this is an exchange of the plugin."""
        where = self.target.where
        if not self._name or await self._type() != "x-delayed-message":
            raise Unsupported(
                "messages cannot be delayed here",
                where=where,
                why="this needs an exchange of the type x-delayed-message",
                hint="the plugin rabbitmq_delayed_message_exchange brings that type; without it,"
                " a queue with ttl and dead_letter_exchange delays messages",
            )

    # --- looking and managing ---------------------------------------------------------------------

    async def exists(self) -> bool:
        if not self._name:
            return True
        try:
            await self._link.once(exchange_there(self._name))
        except NotFound:
            return False
        return True

    async def describe(self, group: str | None) -> dict[str, Any]:
        """From the management API where it answers, else the little that AMQP tells."""
        from ._amqp_management import Management

        if not await self.exists():
            raise NotFound("does not exist", where=self.target.where)
        try:
            return await Management(self.target).exchange(self._name)
        except (BrokerUnavailable, AccessDenied) as exc:
            kind = await self._type() if self._name else "direct"
            return {"type": kind, "note": str(exc)}

    async def create(self) -> bool:
        options: ExchangeOptions = self.target.options
        existed = await self.exists()
        fixed: dict[str, HeaderValue] = {}
        if options.alternate_exchange is not None:
            fixed["alternate-exchange"] = options.alternate_exchange
        frame = method(
            commands.Exchange.Declare, arguments_of(options, fixed),
            exchange=self._name, exchange_type=options.exchange_type, durable=options.durable,
            auto_delete=options.auto_delete, internal=options.internal,
        )  # fmt: skip
        try:
            await self._link.once(frame)
        except Refused as exc:
            what = "is there, and different" if existed else "cannot be created so"
            raise Refused(what, where=self.target.where, why=exc.why) from exc
        return not existed

    async def delete(self) -> None:
        await self._link.once(exchange_there(self._name))
        await self._link.once(method(commands.Exchange.Delete, exchange=self._name))

    async def bind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """Route from another exchange to this one. Raises NotFound when either is missing."""
        names = {"destination": self._name, "source": exchange, "routing_key": key}
        await self._link.once(method(commands.Exchange.Bind, arguments, **names))

    async def unbind(self, exchange: str, key: str = "", arguments: Sequence[Header] = ()) -> None:
        """The opposite; also done when there was no such binding, as AMQP has it."""
        names = {"destination": self._name, "source": exchange, "routing_key": key}
        await self._link.once(method(commands.Exchange.Unbind, arguments, **names))
