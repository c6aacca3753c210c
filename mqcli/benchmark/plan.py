"""What is to be done, as values: the plan of a run, and what a conductor and its workers say to
each other. All of it travels as MessagePack, through pipes or through a broker."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from ..client import Client, Limits
from .schedule import Phase
from .stamps import Sizes
from .tracker import First

__all__ = [
    "Consumed",
    "Failed",
    "FromWorker",
    "Go",
    "Halt",
    "Hand",
    "Plan",
    "Produced",
    "Ready",
    "Share",
    "Tick",
    "Tidy",
    "ToWorker",
    "Where",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
]

Keys: TypeAlias = Literal["none", "sequence", "random", "zipf"]
Only: TypeAlias = Literal["both", "publish", "consume"]


class Where(msgspec.Struct, frozen=True):
    """A destination and how to reach it, to be opened in another process. ``address`` holds the
    password: it is never shown, and travels on a pipe or is left out."""

    address: str
    options: list[tuple[str, str]] = []
    connect_timeout: float = 10.0
    insecure: bool = False
    client_name: str = "mqcli"
    confirm_timeout: float = 30.0
    reconnect_for: float = 10.0

    def client(self) -> Client:
        """Raises UsageError. Opens nothing."""
        return Client.at(
            self.address,
            self.options,
            Limits(self.confirm_timeout, self.reconnect_for),
            connect_timeout=self.connect_timeout,
            insecure=self.insecure,
            client_name=self.client_name,
        )


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are seconds; rates and counts are over all producers.

    ``phases`` are those that count (open loop); without any, the load is at saturation for
    ``duration``, or until ``count`` messages are sent. What is sent in the ``warmup`` before is
    verified, and left out of every figure.
    """

    run: bytes
    where: Where
    phases: tuple[Phase, ...] = ()
    duration: float = 10.0
    count: int | None = None
    warmup: float = 1.0
    producers: int = 1
    consumers: int = 1
    only: Only = "both"
    sizes: Sizes = Sizes()
    samples: tuple[bytes, ...] = ()
    random_ratio: float = 0.0
    keys: Keys = "none"
    key_count: int = 1000
    in_flight: int = 5000
    batch: int = 1000
    linger: float = 0.0
    group: str | None = None
    start: Literal["beginning", "end"] = "beginning"
    consumer_delay: float = 0.0
    interval: float = 1.0

    @property
    def saturated(self) -> bool:
        return not self.phases

    @property
    def lasts(self) -> float:
        """Seconds that count, as planned."""
        return sum(phase.seconds for phase in self.phases) if self.phases else self.duration


class Share(msgspec.Struct, frozen=True, tag=True):
    """The first word to a worker: the plan, and which producers and consumers are its own."""

    plan: Plan
    producers: tuple[int, ...]
    consumers: tuple[int, ...]


class Go(msgspec.Struct, frozen=True, tag=True):
    """Start the clock at ``start``, in ns of the run's clock, which is the worker's
    ``time.monotonic_ns`` plus ``offset``."""

    start: int
    offset: int = 0


class Halt(msgspec.Struct, frozen=True, tag=True):
    """Publish nothing more."""


class Hand(msgspec.Struct, frozen=True, tag=True):
    """Stop reading, hand in what was found, and end."""


ToWorker: TypeAlias = Share | Go | Halt | Hand


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All is open. ``host`` is the same for workers whose clocks are one."""

    host: str
    facts: dict[str, Any]


class Tick(msgspec.Struct, tag=True):
    """What happened since the last one, by the end of interval ``number`` (from 0; -1 before the
    clock started). Histograms are those of the interval's end, and hold what counts."""

    number: int
    published: int = 0
    confirmed: int = 0
    refused: int = 0
    unknown: int = 0
    received: int = 0
    published_bytes: int = 0
    received_bytes: int = 0
    confirm: dict[int, int] = {}
    end_to_end: dict[int, int] = {}
    sound: int = 0
    """Without duplicates, with warm-up, by all consumers here until now: draining waits for it."""
    probed: int = 0
    """Consumers that have received a probe."""
    producing: int = 0
    """Producers that have not finished."""
    marked: int = 0
    """Consumers that have received a closing mark."""


class Produced(msgspec.Struct):
    """What one producer did, warm-up included. ``refused`` and ``unknown`` are encoded sequences;
    the other sums are of what counts."""

    producer: int
    sent: int
    refused: bytes
    unknown: bytes
    counted: int = 0
    counted_bytes: int = 0
    confirmed: int = 0
    refused_count: int = 0
    unknown_count: int = 0
    unsent: int = 0
    """Messages that were due and never sent."""
    began: int = 0
    settled: int = 0
    """When the first of those that count was sent, and the last settled (ns)."""
    late: int = 0
    """Messages that mqcli itself sent more than 10 ms late."""
    errors: list[str] = []


class Consumed(msgspec.Struct):
    """What one consumer received, warm-up included; ``counted`` is by time of arrival."""

    consumer: int
    sound: int
    counted: int
    counted_bytes: int
    faults: dict[str, int]
    firsts: dict[str, First]
    seen: dict[int, bytes]
    damaged: dict[int, bytes]
    mark: bool
    settled_late: int = 0
    gaps: int = 0
    reconnects: int = 0
    ended: int = 0
    """When the last message that counts arrived (ns)."""
    notes: list[str] = []


class Tidy(msgspec.Struct, tag=True):
    """Everything that a worker found: the last word."""

    produced: list[Produced]
    consumed: list[Consumed]
    confirm: dict[int, int]
    service: dict[int, int]
    delay: dict[int, int]
    end_to_end: dict[int, int]
    lag: dict[int, int]
    negative: int
    clipped: int
    cpu: float
    """Seconds of CPU while the clock counted, and how long that was."""
    wall: float
    memory: int
    """Peak resident bytes."""
    gc_pause: float
    """Seconds in the garbage collector while the clock counted."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why a worker ended early; or, with ``final`` false, why a producer did, and the rest goes
    on. ``kind`` is the name of an error class of mqcli, or empty for a bug."""

    kind: str
    what: str
    where: str = ""
    why: str = ""
    hint: str = ""
    final: bool = True


FromWorker: TypeAlias = Ready | Tick | Tidy | Failed

encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
