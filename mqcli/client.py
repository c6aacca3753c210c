"""The client: all policy, once, for every broker.

Refusal of what a destination cannot do, before a socket opens (here); the window of batches in
flight and the account of them (``publisher``); acknowledging once and only over the unbroken head,
and gaps (``reader``); reconnecting with backoff (``session``).

::

    client = Client.at("redis://localhost/list:jobs")
    async with client.publisher() as publisher:
        await publisher.submit([Message(b"hello")])
        await publisher.finish()
    async with client.consume(limit=1) as reader:
        for message in await reader.receive():
            print(message.value)
        await reader.settle(1)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import msgspec

from .address import parse_address
from .errors import NotFound, Unsupported
from .position import END
from .registry import target as make_target
from .session import Limits
from .transport import (
    Consumes,
    Inspects,
    Manages,
    Publishes,
    Span,
    Tails,
    Target,
    Traits,
    Transport,
)

if TYPE_CHECKING:
    from .publisher import Publisher
    from .reader import OnGap, Reader

__all__ = ["Client", "Limits"]

Role = TypeVar("Role", bound=Transport)
T = TypeVar("T")
_WHOLE = Span()
_LACKING = {
    "Publishes": "cannot be published to, it is read only",
    "Consumes": "cannot be consumed: it keeps nothing that could be taken",
    "Tails": "cannot be watched without taking from it",
    "Inspects": "cannot be described",
    "Manages": "cannot be created, purged or deleted",
    "Binds": "cannot be bound: it gets what is published to it and nothing else",
    "Seeks": "does not let the place of a group be moved from outside",
    "Transacts": "has no transactions, so it cannot take all or nothing",
}
"""By the name of a role: what a destination without it cannot do."""
_WHEN = {
    "--bind": "only what routes, as an exchange, is watched by patterns; beside other addresses"
    " write ?bind=PATTERN behind its own",
}


class Client:
    """One destination and what may be done with it. Making one opens nothing; nor do the methods
    that make a Publisher or a Reader: they raise what cannot be done, and ``async with`` opens."""

    def __init__(self, cls: type[Transport], target: Target, limits: Limits | None = None) -> None:
        self.cls = cls
        self.target = target
        self.limits = limits or Limits()

    @classmethod
    def at(
        cls,
        address: str,
        options: Sequence[tuple[str, str]] = (),
        limits: Limits | None = None,
        **settings: Any,
    ) -> Self:
        """The client of a whole address (with its broker). ``settings`` are those of
        ``mqcli.registry.target``. Raises UsageError."""
        return cls(*make_target(parse_address(address), options, **settings), limits)

    @property
    def where(self) -> str:
        """The masked address."""
        return self.target.where

    def traits(self, group: str | None = None) -> Traits:
        """What the destination guarantees, here when read with this group."""
        return self.cls.traits(self.target.options, group)

    def supports(self, role: type[Transport]) -> bool:
        return issubclass(self.cls, role)

    def make(self, role: type[Role]) -> Role:
        """A transport that has not been opened. Raises Unsupported."""
        if not issubclass(self.cls, role):
            raise self._unsupported(role)
        return self.cls(self.target)

    def _unsupported(self, role: type[Transport]) -> Unsupported:
        kind = f"a {self.target.address.kind}"
        can = [
            f"mqcli {verb} {self.where}"
            for verb, other in (("consume", Consumes), ("tail", Tails), ("publish", Publishes))
            if other is not role and issubclass(self.cls, other)
        ]
        fitting = can[:1] if role in (Consumes, Tails) else []
        hint = self.cls.instead.get(role.__name__) or (f"use: {fitting[0]}" if fitting else "")
        return Unsupported(f"{kind} {_LACKING[role.__name__]}", where=self.where, hint=hint)

    def with_options(self, flag: str, **values: Any) -> Self:
        """The same destination with these options. ``flag`` stands for them on the command line.
        Raises Unsupported where the transport has no options of these names."""
        options = self.target.options
        if not values.keys() <= self._option_names():
            raise Unsupported(
                f"{flag} cannot be used here",
                where=self.where,
                hint=_WHEN.get(flag, f"leave out {flag}"),
            )
        options = msgspec.structs.replace(options, **values)
        target = msgspec.structs.replace(self.target, options=options)
        return type(self)(self.cls.variant(options), target, self.limits)

    def _option_names(self) -> set[str]:
        options = self.target.options
        return {field.name for field in msgspec.structs.fields(options)} if options else set()

    def ordered(self) -> Self:
        """The same destination, its messages in one order over all of it. Raises Unsupported."""
        if "ordered" in self._option_names():
            return self.with_options("--ordered", ordered=True)
        if self.traits().order != "all":
            raise Unsupported(
                "--ordered cannot be used here: no order over the whole can be had",
                where=self.where,
            )
        return self

    def nacking(self, what: Literal["requeue", "drop"]) -> Self:
        """The same destination; this becomes of messages that were handed out but not settled,
        where dropping is the broker's rejection for good. Raises Unsupported."""
        if "nack" in self._option_names():
            return self.with_options("--nack", nack=what)
        if what == "drop" or not self.traits().nack:
            reason = "reject a message for good" if what == "drop" else "give back a message"
            raise Unsupported(
                f"--nack {what} cannot be used here: this broker cannot {reason}",
                where=self.where,
                hint="leave out --nack",
            )
        return self

    def publisher(self, *, atomic: bool = False, **settings: Any) -> Publisher:
        """See :class:`mqcli.publisher.Publisher`, with ``atomic``
        :class:`mqcli.atomic.AtomicPublisher`. Raises Unsupported."""
        if atomic:
            from .atomic import AtomicPublisher
            from .roles import Transacts

            return AtomicPublisher(self.make(Transacts), self.traits(), self.limits, **settings)
        from .publisher import Publisher

        return Publisher(self.make(Publishes), self.traits(), self.limits, **settings)

    def check_group(self, group: str | None) -> None:
        """Raises Unsupported where groups do not exist."""
        if group is None:
            return
        traits = self.traits(group)
        if not traits.shares:
            hint = self.cls.instead.get("group", "leave out --group")
            raise Unsupported("groups do not exist here", where=self.where, hint=hint)
        if traits.keeps == "until-taken":
            raise Unsupported(
                "a queue has no groups: every reader takes from the same messages",
                where=self.where,
                hint="leave out --group",
            )

    def consume(
        self,
        span: Span = _WHOLE,
        group: str | None = None,
        limit: int | None = None,
        on_gap: OnGap = "report",
    ) -> Reader:
        """A reader that takes messages. Raises Unsupported for what cannot be taken so."""
        transport = self.make(Consumes)
        self.check_group(group)
        from .reader import Reader

        return Reader(transport, self.traits(group), self.limits, span, limit, on_gap, group)

    def peek(
        self, span: Span = _WHOLE, limit: int | None = None, on_gap: OnGap = "report"
    ) -> Reader:
        """A reader that takes messages of a queue, up to the end that stood, and on closing gives
        them back in their order. The broker may mark them redelivered. Raises Unsupported for what
        is no queue, or takes nothing back."""
        if "peek" in self._option_names():  # the broker has to be asked otherwise
            return self.with_options("--peek", peek=True).consume(span, None, limit, on_gap)
        transport, traits = self.make(Consumes), self.traits()
        if traits.keeps != "until-taken" or not traits.nack:
            queue = traits.keeps == "until-taken"
            what = "cannot be used here: nothing can be given back" if queue else "is for queues"
            log = "reading without --group takes nothing" if traits.keeps == "log" else ""
            raise Unsupported(f"--peek {what}", where=self.where, hint=log or "leave out --peek")
        from .reader import Reader

        kept = msgspec.structs.replace(traits, ack="none", nack=False)
        whole = Span(span.start, span.stop or END)
        return Reader(transport, kept, self.limits, whole, limit, on_gap)

    def tail(
        self, span: Span = _WHOLE, limit: int | None = None, on_gap: OnGap = "report"
    ) -> Reader:
        """A reader that watches. Raises Unsupported where that cannot be done."""
        from .reader import Reader

        transport = self.make(Tails)
        traits = self.traits().watched()
        return Reader(transport, traits, self.limits, span, limit, on_gap, tail=True)

    async def once(self, role: type[Role], action: Callable[[Role], Awaitable[T]]) -> T:
        """Open, act, close. Raises Unsupported before anything opens."""
        transport = self.make(role)
        try:
            await transport.open()
            return await action(transport)
        finally:
            await transport.aclose()

    async def create(self) -> bool:
        """True when made now, False when it was there. Raises Unsupported, Refused."""
        if self.traits().missing == "undetectable":
            raise Unsupported(
                f"a {self.target.address.kind} exists only while it holds something or is listened"
                " to, so it cannot be created",
                where=self.where,
            )
        return await self.once(Manages, lambda transport: transport.create())

    async def wait_until_there(self, deadline: float | None) -> None:
        """Return once the destination exists. ``deadline`` is in monotonic time.
        Raises Unsupported where that cannot be known, NotFound at the deadline."""
        if self.traits().missing == "undetectable":
            raise Unsupported(
                "--wait cannot be used here: whether it exists cannot be known", where=self.where
            )

        async def look(transport: Inspects) -> None:
            while not await transport.exists():
                if deadline is not None and time.monotonic() >= deadline:
                    raise NotFound("did not appear in time", where=self.where)
                await asyncio.sleep(0.1)

        await self.once(Inspects, look)
