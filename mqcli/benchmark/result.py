"""What a run leaves: the saved report. docs/benchmark.md describes every field.

``SCHEMA`` changes its number when a field changes its meaning or goes; fields may be added.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec

from ..errors import InputError
from ..transport import Traits
from .delivery import Delivery
from .histogram import PERCENTILES, Histogram

__all__ = [
    "SCHEMA",
    "Durability",
    "Interval",
    "Latency",
    "Machine",
    "Rates",
    "Report",
    "enough",
    "load",
    "percentile_name",
]

SCHEMA = "mqcli.benchmark/1"
Model = Literal["open-loop", "saturation", "backlog"]


def enough(percentile: float) -> int:
    """Samples that carry a percentile: ten beyond it."""
    return round(10 / (1 - percentile / 100))


def percentile_name(percentile: float) -> str:
    return f"p{percentile:g}"


class Latency(msgspec.Struct):
    """Milliseconds. A percentile with too few samples beyond it is null. ``histogram`` is
    HdrHistogram's compressed V2 encoding of nanoseconds, in base64."""

    count: int = 0
    min: float | None = None
    mean: float | None = None
    percentiles: dict[str, float | None] = {}
    max: float | None = None
    histogram: str = ""

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        count = histogram.count
        if not count:
            return cls(0, None, None, {percentile_name(p): None for p in PERCENTILES})
        values = histogram.percentiles(PERCENTILES)
        return cls(
            count,
            _ms(histogram.min),
            _ms(histogram.mean),
            {
                percentile_name(p): _ms(value) if count >= enough(p) else None
                for p, value in zip(PERCENTILES, values, strict=True)
            },
            _ms(histogram.max),
            base64.b64encode(histogram.encode()).decode(),
        )

    def decoded(self) -> Histogram:
        """Raises ValueError."""
        return Histogram.decode(base64.b64decode(self.histogram)) if self.histogram else Histogram()


def _ms(nanoseconds: float) -> float:
    """Three significant digits are held; more would only look exact."""
    return float(f"{nanoseconds / 1e6:.4g}")


class Rates(msgspec.Struct):
    """What counts, of all producers and consumers: how many messages, how many in a second, and
    how many megabytes (10^6 bytes). ``seconds`` is how long it took to send and confirm them."""

    seconds: float = 0.0
    published: int = 0
    confirmed: int = 0
    refused: int = 0
    unknown: int = 0
    unsent: int = 0
    received: int = 0
    published_per_s: float = 0.0
    confirmed_per_s: float = 0.0
    received_per_s: float = 0.0
    published_mb_per_s: float = 0.0
    received_mb_per_s: float = 0.0


class Interval(msgspec.Struct, kw_only=True):
    """A stretch of time. Counts are of all messages, latencies (ms) of those that count.
    ``backlog`` is what was confirmed and not received at its end."""

    at_s: float
    phase: Literal["warm-up", "measured", "drain"]
    published: int = 0
    confirmed: int = 0
    refused: int = 0
    unknown: int = 0
    received: int = 0
    published_bytes: int = 0
    received_bytes: int = 0
    backlog: int | None = None
    confirm: Latency = msgspec.field(default_factory=Latency)
    end_to_end: Latency = msgspec.field(default_factory=Latency)


class Durability(msgspec.Struct, frozen=True):
    """What a confirmed message survives. Runs of different ``level`` are never ranked together."""

    level: str
    words: str

    @classmethod
    def of(cls, traits: Traits) -> Durability:
        """As the transport tells it. What the server itself is set to (appendfsync, replicas) is
        beyond what a client sees."""
        if traits.confirm == "none":
            return cls("none", "sent, and confirmed by nobody")
        level, colon, words = traits.durable.partition(": ")
        if colon:
            return cls(level, words)
        if traits.confirm == "stored":
            return cls("stored", "in the broker's store, whatever that survives")
        return cls("reached", "the broker has it, and promises no more")


class Machine(msgspec.Struct):
    """A host that made load. CPU is in percent of one core for its busiest process, memory the
    peak of its largest, in MB; ``lag_p99_ms`` is how late a timer of ours rang."""

    host: str
    facts: dict[str, Any] = {}
    processes: int = 1
    cpu_percent: float = 0.0
    memory_mb: float = 0.0
    gc_pause_ms: float = 0.0
    lag_p99_ms: float | None = None
    clock_doubt_ms: float = 0.0


class Report(msgspec.Struct, kw_only=True):
    """One run."""

    schema: str = SCHEMA
    run: str
    started: str
    mqcli: str
    address: str
    model: Model
    settings: dict[str, Any]
    durability: Durability
    broker: dict[str, Any] = {}
    machines: list[Machine] = []
    client_limited: str | None = None
    """Why mqcli itself was the limit, or null where the broker was, or nothing."""
    rates: Rates = msgspec.field(default_factory=Rates)
    confirm: Latency = msgspec.field(default_factory=Latency)
    service: Latency = msgspec.field(default_factory=Latency)
    publish_delay: Latency = msgspec.field(default_factory=Latency)
    end_to_end: Latency = msgspec.field(default_factory=Latency)
    end_to_end_note: str | None = None
    delivery: Delivery | None = None
    drain_s: float | None = None
    max_backlog: int | None = None
    interval_s: float = 1.0
    intervals: list[Interval] = []
    highest_rate: float | None = None
    """What --find-max found: messages per second, sustained without a backlog."""
    exit_code: int = 0
    """Of what ended it early, as DESIGN section 5 has them; 0 when nothing did."""
    complete: bool = True
    """False where the run was stopped before its end."""
    notes: list[str] = []
    errors: list[str] = []


def load(data: bytes, name: str) -> list[Report]:
    """The reports in a saved file. Raises InputError for what is not one."""
    try:
        saved = msgspec.json.decode(data)
    except msgspec.DecodeError as exc:
        raise InputError("not a saved benchmark", where=name, why=str(exc)) from exc
    runs = saved.get("runs") if isinstance(saved, dict) and "runs" in saved else [saved]
    found = []
    for run in runs if isinstance(runs, list) else [runs]:
        schema = run.get("schema") if isinstance(run, dict) else None
        if schema != SCHEMA:
            raise InputError(
                "not a saved benchmark that this mqcli can read",
                where=name,
                why=f"its schema is {schema!r}, not {SCHEMA!r}",
            )
        try:
            found.append(msgspec.convert(run, Report))
            _check_histograms(found[-1])
        except ValueError as exc:  # msgspec's too
            raise InputError("a damaged benchmark", where=name, why=str(exc)) from exc
    if not found:
        raise InputError("no run is saved here", where=name)
    return found


def _check_histograms(report: Report) -> None:
    """Raises ValueError where one cannot be read."""
    latencies = [report.confirm, report.service, report.publish_delay, report.end_to_end]
    for row in report.intervals:
        latencies += [row.confirm, row.end_to_end]
    for latency in latencies:
        if latency.decoded().count != latency.count:
            raise ValueError("a histogram has not as many samples as it is said to have")
