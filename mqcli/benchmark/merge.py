"""Several machines' runs joined into one: counts add up, histograms lose nothing."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ..errors import UsageError
from .delivery import Delivery
from .histogram import Histogram
from .result import Interval, Latency, Rates, Report

__all__ = ["merged"]

_LATENCIES = ("confirm", "service", "publish_delay", "end_to_end")
_COUNTS = (
    "published", "confirmed", "refused", "unknown", "received", "published_bytes",
    "received_bytes",
)  # fmt: skip


def merged(runs: Sequence[Report]) -> Report:
    """One report of runs that went on at the same time. Raises UsageError for what does not
    belong together: another model, durability or length of intervals."""
    first = runs[0]
    for run in runs[1:]:
        for name in ("model", "interval_s"):
            if getattr(run, name) != getattr(first, name):
                raise UsageError(
                    f"runs of different {name.replace('_', ' ')} cannot be joined",
                    why=f"{getattr(first, name)} and {getattr(run, name)}",
                )
        if run.durability.level != first.durability.level:
            raise UsageError(
                "runs of different durability cannot be joined",
                why=f"{first.durability.words} / {run.durability.words}",
            )
    joined = {name: _latency([getattr(run, name) for run in runs]) for name in _LATENCIES}
    limited = [f"{run.run[:8]}: {run.client_limited}" for run in runs if run.client_limited]
    return replace(
        first,
        run="+".join(run.run[:8] for run in runs),
        started=min(run.started for run in runs),
        machines=[machine for run in runs for machine in run.machines],
        client_limited="; ".join(limited) or None,
        rates=_rates(runs),
        delivery=_delivery(runs),
        drain_s=max((run.drain_s for run in runs if run.drain_s is not None), default=None),
        max_backlog=_sum([run.max_backlog for run in runs]),
        intervals=_intervals(runs),
        complete=all(run.complete for run in runs),
        exit_code=max(run.exit_code for run in runs),
        notes=list(dict.fromkeys(note for run in runs for note in run.notes)),
        errors=[error for run in runs for error in run.errors],
        **joined,
    )


def _latency(parts: Sequence[Latency]) -> Latency:
    whole = Histogram()
    for part in parts:
        whole.merge(part.decoded())
    return Latency.of(whole)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rates(runs: Sequence[Report]) -> Rates:
    whole = Rates(seconds=max(run.rates.seconds for run in runs))
    for name in Rates.__struct_fields__[1:]:
        setattr(whole, name, sum(getattr(run.rates, name) for run in runs))
    return whole


def _delivery(runs: Sequence[Report]) -> Delivery | None:
    known = [run.delivery for run in runs if run.delivery is not None]
    if not known:
        return None
    whole = Delivery()
    for part in known:
        for name in Delivery.__struct_fields__[:-1]:
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        for kind, first in part.firsts.items():
            whole.firsts.setdefault(kind, first)
    return whole


def _intervals(runs: Sequence[Report]) -> list[Interval]:
    rows = []
    for number in range(max(len(run.intervals) for run in runs)):
        parts = [run.intervals[number] for run in runs if number < len(run.intervals)]
        row = Interval(at_s=parts[0].at_s, phase=parts[0].phase)
        for name in _COUNTS:
            setattr(row, name, sum(getattr(part, name) for part in parts))
        row.backlog = _sum([part.backlog for part in parts])
        row.confirm = _latency([part.confirm for part in parts])
        row.end_to_end = _latency([part.end_to_end for part in parts])
        rows.append(row)
    return rows
