"""Several machines' runs joined into one: counts add up, histograms lose nothing."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ..errors import UsageError, gravest
from .delivery import Delivery
from .gate import unlike
from .histogram import Histogram
from .result import Interval, Latency, Rates, Report

__all__ = ["merged"]

_SUFFIX = re.compile(r"\.mqcli-[0-9a-f]{8}$")
_LATENCIES = ("confirm", "service", "publish_delay", "end_to_end")
_COUNTS = (
    "published", "confirmed", "refused", "unknown", "received", "published_bytes",
    "received_bytes",
)  # fmt: skip


def merged(runs: Sequence[Report]) -> Report:
    """One report of runs that went on at the same time; where they did not, or one of them lacks
    what the others have, its notes say so. Raises UsageError for what does not belong together:
    another model, durability or length of intervals."""
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
        address=" + ".join(dict.fromkeys(_base(run.address) for run in runs)),
        settings=_settings(runs),
        end_to_end_note=_end_to_end_note(runs),
        machines=[machine for run in runs for machine in run.machines],
        client_limited="; ".join(limited) or None,
        rates=_rates(runs),
        delivery=_delivery(runs),
        drain_s=max((run.drain_s for run in runs if run.drain_s is not None), default=None),
        max_backlog=_sum([run.max_backlog for run in runs]),
        intervals=_intervals(runs),
        complete=all(run.complete for run in runs),
        exit_code=gravest(run.exit_code for run in runs),
        notes=list(dict.fromkeys([*_notes(runs), *(note for run in runs for note in run.notes)])),
        errors=[error for run in runs for error in run.errors],
        **joined,
    )


def _base(address: str) -> str:
    """Without what each run put behind the name that it was given."""
    return _SUFFIX.sub("", address)


def _settings(runs: Sequence[Report]) -> dict[str, Any]:
    """Those of each run: what differs stands side by side."""
    differing = unlike([[run] for run in runs])
    joined = {name: " | ".join(values) for name, values in differing.items()}
    return {"runs_joined": len(runs), **runs[0].settings, **joined}


def _end_to_end_note(runs: Sequence[Report]) -> str | None:
    notes = list(dict.fromkeys(run.end_to_end_note for run in runs if run.end_to_end_note))
    measured = sum(1 for run in runs if run.end_to_end.count)
    if notes and 0 < measured < len(runs):
        notes.insert(0, f"of {measured} of the {len(runs)} runs only")
    return "; ".join(notes) or None


def _notes(runs: Sequence[Report]) -> list[str]:
    """What a sum does not show."""
    notes = []
    begins = [calendar.timegm(time.strptime(run.started, "%Y-%m-%dT%H:%M:%SZ")) for run in runs]
    # The start is known to a second.
    ends = [
        begin + 1 + max(run.rates.seconds, len(run.intervals) * run.interval_s)
        for begin, run in zip(begins, runs, strict=True)
    ]
    if max(begins) >= min(ends):
        notes.append("these runs did not all go on at the same time: their rates add up to more"
                     " than there ever was")  # fmt: skip
    verified = sum(1 for run in runs if run.delivery is not None)
    if 0 < verified < len(runs):
        notes.append(f"delivery was verified in {verified} of the {len(runs)} runs only")
    return notes


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
