"""The contract: all that the author of a transport reads. Its guide is docs/writing-a-transport.md.

A transport moves batches to and from one kind of destination. Operations are roles (base classes),
guarantees are data (:class:`Traits`), policy is above, in ``mqcli.client``. So a transport never
prints, logs content, retries what could duplicate, or emulates what its broker lacks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from .address import Address
from .errors import MqcliError, Unsupported
from .message import Message, Received
from .position import Start, StartKind

ANY: frozenset[str] = frozenset({"*"})
"""As ``Traits.properties``: every property is kept, whatever its name."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination guarantees. Known before a socket opens; tests hold it to its word.

    confirm     ``none``: nobody answers; ``reached``: the broker has it; ``stored``: in its store
    durable     what a confirmed message survives: ``LEVEL: words``; only like LEVELs compare
    ack         ``none``; ``each``: any message by itself; ``upto``: one and all before it
    nack        a message can be given back to others at once
    keeps       ``nothing``: only who listens gets it; ``until-taken``: a queue; ``log``
    order       ``none``, ``key`` (per key or partition), ``all``
    shares      several readers may share the work (a queue, or a group on a log)
    fans_out    every reader can get every message
    headers     ``none``, ``bytes`` (text or bytes), ``nullable`` (or null), ``typed`` (all types);
                with ``sorts_headers`` they come sorted by name
    tombstones  None is a value
    missing     what publishing to an unknown destination does: DESIGN section 4, *Creating*
    properties  the names that a message may carry, or ANY
    timestamps  ``Message.timestamp`` is honoured
    starts      the STARTs that reading can begin at; empty for queues, which have one end;
                ``watch_starts`` are further ones of ``tail``
    """

    confirm: Literal["none", "reached", "stored"]
    ack: Literal["none", "each", "upto"]
    nack: bool
    keeps: Literal["nothing", "until-taken", "log"]
    order: Literal["none", "key", "all"]
    shares: bool
    fans_out: bool
    headers: Literal["none", "bytes", "nullable", "typed"]
    keys: bool
    tombstones: bool
    missing: Literal["creates", "refused", "undetectable"]
    properties: frozenset[str] = frozenset()
    timestamps: bool = False
    starts: frozenset[StartKind] = frozenset()
    watch_starts: frozenset[StartKind] = frozenset()
    sorts_headers: bool = False
    durable: str = ""

    def watched(self) -> Traits:
        """What holds for a reader that takes nothing."""
        starts = self.starts | self.watch_starts
        return msgspec.structs.replace(self, ack="none", nack=False, starts=starts)


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True): ...


class Target(msgspec.Struct, frozen=True):
    """Everything a transport is made from. ``address.kind`` is resolved; ``connection`` and
    ``options`` are instances of the class's own ``Connection`` and ``Options``; ``insecure``, only
    by the user's ``--insecure``, means that TLS certificates are not verified; ``client_name`` is
    what the broker may be told of us: ``mqcli/VERSION VERB``."""

    address: Address
    connection: Any
    options: Any
    connect_timeout: float = 10.0
    insecure: bool = False
    client_name: str = "mqcli"

    @property
    def where(self) -> str:
        """The canonical, masked address without parameters: for errors and ``source``."""
        return str(self.address.with_name(self.address.name))


class Outcome(msgspec.Struct):
    """What became of a batch. Every index is confirmed, in ``refused``, or in ``unknown``.

    ``cause`` says why there is an unknown. ``receivers`` counts, by index, who got it (pub/sub);
    ``positions`` are those of the confirmed, by index, where the broker tells them."""

    confirmed: int
    refused: Mapping[int, MqcliError] = {}
    unknown: Sequence[int] = ()
    cause: MqcliError | None = None
    receivers: Sequence[int] | None = None
    positions: Sequence[str] | None = None


class Gap(msgspec.Struct, frozen=True):
    """Messages may have passed unseen: from ``since_ms`` to ``until_ms``, or behind position
    ``after`` and before ``before``; ``count`` where it is known."""

    source: str
    reason: str
    since_ms: int | None = None
    until_ms: int | None = None
    after: str | None = None
    before: str | None = None
    count: int | None = None


class Span(msgspec.Struct, frozen=True):
    """What is read: from ``start`` to ``stop``, exclusive. None is the reader's usual start (the
    beginning, or where the group stands) and no stop. Stop ``end`` is the end that stands when
    the feed opens; on a queue: when as many were taken as stood then, or none is ready."""

    start: Start | None = None
    stop: Start | None = None


class Feed(ABC):
    """An open reading. One task calls ``receive``; ``ack`` and ``nack`` may run meanwhile."""

    ended: bool = False
    """The stop was reached: nothing will follow what has been received."""

    def __init__(self) -> None:
        self.gaps: list[Gap] = []
        """Happened before the messages of the latest ``receive``; the client empties it."""
        self.notes: list[str] = []
        """Words for the user (as that a group's ``--from`` was not used); emptied likewise."""

    @abstractmethod
    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        """The next messages, in order: at least one, unless ``wait`` seconds passed or ``ended``.

        ``max_bytes`` may be passed by one message. Cancelling loses nothing: what was taken from
        the broker comes with the next call, or is given back by ``aclose``.
        Raises ConnectionLost, NotFound, AccessDenied, TryAgainLater."""

    async def ack(self, messages: Sequence[Received]) -> int:
        """Done with these, in the order received, each once; how many the broker still counted as
        ours (a lease may have run out: the others come again elsewhere)."""
        raise Unsupported("this feed acknowledges nothing")

    async def nack(self, messages: Sequence[Received]) -> None:
        """Give these back, to be delivered again, in order where the broker keeps one."""
        raise Unsupported("this feed gives nothing back")

    def resume(self) -> Span | None:
        """What a new feed must read to go on behind the last message returned, its stop fixed to
        the one found at open; None where the broker remembers (queue, group) or nobody does."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Give back what is held and leave nothing behind but a named group. Safe twice, and
        after the connection broke."""


class Transport(ABC):
    """One destination. ``open`` connects and creates nothing; ``aclose`` is safe twice, after a
    failed open, and when cancelled."""

    summary: ClassVar[str] = ""
    """One line: what this destination is."""
    Connection: ClassVar[type[msgspec.Struct]] = NoOptions
    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    instead: ClassVar[Mapping[str, str]] = {}
    """What would work where a role (``Tails``, ``Manages``, …) or a ``group`` is refused."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @classmethod
    def variant(cls, options: Any) -> type[Transport]:
        """The class to use with these options, which may add a role. Pure."""
        return cls

    @classmethod
    @abstractmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        """Pure: an option, or reading with a group, may change a guarantee.
        Raises UsageError for options that contradict each other."""

    @abstractmethod
    async def open(self) -> None:
        """Raises BrokerUnavailable (within ``target.connect_timeout``), AccessDenied, NotFound for
        a missing database or vhost, TryAgainLater, UsageError."""

    @abstractmethod
    async def aclose(self) -> None: ...


class Publishes(Transport):
    @abstractmethod
    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """Send, and wait for what the broker answers.

        ``timeout`` are seconds without any answer, not for the whole. Once a byte may have left it
        returns and never raises. Calls may overlap; their order is the order on the wire.
        Messages fit the traits; sizes are this method's to refuse. Raises nothing else than
        ConnectionLost, and that only when nothing was sent."""


class Consumes(Transport):
    @abstractmethod
    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        """Take messages. Never holds more than ``limit`` in all, prefetch included.

        Creates nothing but the group, which starts at ``span.start`` where it is new. Without a
        group on a log nothing is left behind. Raises NotFound, UsageError for a position that is
        not one, and the errors of ``receive``."""


class Tails(Transport):
    @abstractmethod
    async def tail(self, span: Span) -> Feed:
        """Watch without taking. ``span.start`` None means from the end. Raises as ``subscribe``."""


class Inspects(Transport):
    @abstractmethod
    async def exists(self) -> bool: ...

    @abstractmethod
    async def describe(self, group: str | None) -> dict[str, Any]:
        """Plain JSON values, the most telling first. Raises NotFound."""


class Manages(Transport):
    async def create(self) -> bool:
        """True when made now, False when it was there and equal. Raises Refused where it is there
        and different. Not called where ``missing`` is ``undetectable``."""
        raise Unsupported("cannot be created by itself", where=self.target.where)

    async def purge(self) -> int | None:
        """Remove the messages, keep the destination: how many, if the broker tells."""
        raise Unsupported("cannot be purged", where=self.target.where)

    async def delete(self) -> None:
        """Remove the destination. Raises NotFound."""
        raise Unsupported("cannot be deleted", where=self.target.where)
