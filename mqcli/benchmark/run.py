"""A run from its job to its report: the destination, the workers, the figures."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from .._version import __version__
from ..errors import gravest
from .conductor import Heard, Progress, conduct, raised, shared
from .delivery import Delivery, judge
from .engine import host_identity
from .histogram import Histogram
from .place import Place, named
from .plan import Consumed, Plan, Produced
from .processes import Link, Process, shares
from .producer import LATE
from .result import Durability, Interval, Latency, Machine, Rates, Report

__all__ = ["Job", "new_run", "report_of", "run"]

_BUSY = 90.0
"""Percent of a core from which on a process of ours may be the limit."""
_OVERRUN = (0.5, 0.02)
"""Seconds, and of the planned time, from which on publishing did not keep to it."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A plan and what surrounds it. ``plan.where`` is the destination as the user named it."""

    plan: Plan
    processes: int = 1
    drain: float = 5.0
    keep: bool = False
    use_existing: bool = False
    backlog: int | None = None
    settings: dict[str, Any] = {}
    """For the report's head: what was asked for."""


def new_run() -> bytes:
    """What tells this run's messages from all others."""
    return secrets.token_bytes(8)


async def run(
    job: Job,
    *,
    stop: asyncio.Event,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    links: Sequence[Link] | None = None,
) -> Report:
    """One run. ``links`` are workers elsewhere; without them there are processes here. Raises
    MqcliError when it could not be done at all: what happens while it runs is in the report."""
    plan = job.plan
    client = plan.where.client()
    if not job.use_existing:
        # A name of its own, so that nothing of anybody's is read, filled or removed.
        name = f"{client.target.address.name}.mqcli-{plan.run.hex()[:8]}"
        plan = replace(plan, where=named(client, plan.where, name))
    elif plan.only != "consume":
        plan = replace(plan, start="end")
    job = replace(job, plan=plan)
    place = Place(plan.where, own=not job.use_existing, keep=job.keep)
    async with place:
        report = await _in_place(job, stop, on_progress, links)
    if place.left is not None:
        report.notes.append(f"{report.address} could not be removed: {place.left}")
    return report


async def _in_place(
    job: Job,
    stop: asyncio.Event,
    on_progress: Callable[[Progress], None],
    links: Sequence[Link] | None,
) -> Report:
    if job.backlog is not None:
        return await _with_backlog(job, job.backlog, stop, on_progress)
    cut = shares(job.plan, len(links) if links is not None else job.processes)
    workers = links if links is not None else [Process() for _ in cut]
    started = time.time()
    heard = await conduct(
        job.plan, workers[: len(cut)], cut, drain=job.drain, stop=stop,
        on_progress=on_progress, own=not job.use_existing,
    )  # fmt: skip
    return report_of(job, heard, started, workers)


async def _with_backlog(
    job: Job, count: int, stop: asyncio.Event, on_progress: Callable[[Progress], None]
) -> Report:
    """Fill, then drain against the clock: two runs with one report."""
    whole = job.plan
    started = time.time()
    filling = replace(
        whole, only="publish", consumers=0, count=count, warmup=0.0, phases=(), start="beginning"
    )
    cut = shares(filling, job.processes)
    filled = await conduct(
        filling, [Process() for _ in cut], cut, drain=0, stop=stop, on_progress=on_progress
    )
    first = report_of(replace(job, plan=filling), filled, started, ())
    if not first.complete:  # half a filling, drained, would look like the whole
        return replace(first, model="backlog", notes=[*first.notes, "it was not drained"])
    produced = [one for tidy in filled.tidies for one in tidy.produced]
    each = sum(one.confirmed for one in produced)
    total = each if shared(whole.where.client(), whole) else each * whole.consumers
    draining = replace(filling, only="consume", consumers=whole.consumers, producers=0, count=total)
    cut = shares(draining, job.processes)
    drained = await conduct(
        draining, [Process() for _ in cut], cut, drain=job.drain, stop=stop, on_progress=on_progress
    )
    consumed = [one for tidy in drained.tidies for one in tidy.consumed]
    second = report_of(replace(job, plan=draining), drained, started, (), produced)
    seconds = max(1e-9, (max((one.ended for one in consumed), default=0) - drained.start) / 1e9)
    rates = replace(
        first.rates,
        received=second.rates.received,
        received_per_s=second.rates.received / seconds,
        received_mb_per_s=sum(one.counted_bytes for one in consumed) / seconds / 1e6,
    )
    rows = [replace(row, phase="drain", at_s=row.at_s + len(first.intervals) * whole.interval)
            for row in second.intervals]  # fmt: skip
    return replace(
        first,
        model="backlog",
        rates=rates,
        delivery=second.delivery,
        drain_s=round(seconds, 3),
        max_backlog=each,
        end_to_end_note="not measured: the messages waited on purpose",
        intervals=[*first.intervals, *rows],
        exit_code=gravest((first.exit_code, second.exit_code)),
        complete=second.complete,
        machines=[*first.machines, *second.machines],
        client_limited=first.client_limited or second.client_limited,
        notes=[*first.notes, *second.notes],
        errors=[*first.errors, *second.errors],
    )


def report_of(
    job: Job,
    heard: Heard,
    started: float,
    links: Sequence[Link],
    produced_before: Sequence[Produced] = (),
) -> Report:
    """The report of what the workers told."""
    plan = job.plan
    client = plan.where.client()
    produced = [one for tidy in heard.tidies for one in tidy.produced] or list(produced_before)
    consumed = [one for tidy in heard.tidies for one in tidy.consumed]
    confirm, service, delay, end_to_end, lag = (
        _summed([getattr(tidy, name) for tidy in heard.tidies])
        for name in ("confirm", "service", "delay", "end_to_end", "lag")
    )
    end_to_end.negative = sum(tidy.negative for tidy in heard.tidies)
    clipped = sum(tidy.clipped for tidy in heard.tidies)
    rates = _rates(plan, heard, produced, consumed)
    rows, backlog = _intervals(plan, heard, shared(client, plan))
    delivery = None
    if consumed and produced:
        order = client.traits(plan.group).order
        delivery = judge(
            produced, consumed, shared=shared(client, plan), ordered=order == "all",
            complete=heard.complete,
        )  # fmt: skip
    notes = [*heard.notes, *_notes(client.traits(plan.group).order, delivery, consumed)]
    if clipped:
        notes.append(f"{clipped} latencies were longer than an hour, and are shown as an hour")
    limited = _limited(plan, heard, produced, delay, lag)
    report = Report(
        run=plan.run.hex(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        mqcli=__version__,
        address=client.where,
        model="saturation" if plan.saturated else "open-loop",
        settings=job.settings,
        durability=Durability.of(client.traits()),
        machines=_machines(heard, links, lag),
        client_limited=limited,
        rates=rates,
        confirm=Latency.of(confirm),
        service=Latency.of(service),
        publish_delay=Latency.of(delay),
        end_to_end=Latency.of(end_to_end),
        delivery=delivery,
        max_backlog=backlog if consumed else None,
        interval_s=plan.interval,
        intervals=rows,
        exit_code=gravest(raised(one).exit_code for one in heard.failures),
        complete=heard.complete and not heard.failures,
        notes=notes,
        errors=_errors(heard, produced),
    )
    if plan.only == "consume" and heard.complete:
        _judge_reading(report, plan, heard, verified=delivery is not None)
    if plan.only == "both" and consumed:
        report.drain_s = round(max(0, heard.drained - heard.produced) / 1e9, 3)
    _judge_clocks(report, links, end_to_end)
    return report


def _summed(counts: Sequence[dict[int, int]]) -> Histogram:
    made = Histogram()
    for each in counts:
        made.add(each)
    return made


def _rates(
    plan: Plan, heard: Heard, produced: Sequence[Produced], consumed: Sequence[Consumed]
) -> Rates:
    first = heard.start + round(plan.warmup * 1e9)
    rates = Rates()
    counted = sum(one.counted_bytes for one in produced)
    for one in produced:
        rates.published += one.counted
        rates.confirmed += one.confirmed
        rates.refused += one.refused_count
        rates.unknown += one.unknown_count
        rates.unsent += one.unsent
    planned = plan.lasts
    last = max((one.settled for one in produced), default=0)
    took = max(0, last - first) / 1e9
    by_count = plan.saturated and plan.count is not None
    if by_count or not heard.complete:
        planned = took or planned
    rates.seconds = round(max(planned, took), 6)
    seconds = max(rates.seconds, 1e-9)
    rates.published_per_s = rates.published / seconds
    rates.confirmed_per_s = rates.confirmed / seconds
    rates.published_mb_per_s = counted / seconds / 1e6
    rates.received = sum(reader.counted for reader in consumed)
    if rates.received:
        end = max(reader.ended for reader in consumed)
        reading = (end - first) / 1e9 if by_count or not heard.complete else plan.lasts
        rates.received_per_s = rates.received / max(reading, 1e-9)
        size = sum(reader.counted_bytes for reader in consumed)
        rates.received_mb_per_s = size / max(reading, 1e-9) / 1e6
    overrun = took - plan.lasts > max(_OVERRUN[0], plan.lasts * _OVERRUN[1])
    if plan.phases and plan.only == "both" and heard.complete and overrun:
        _rate_of_all(rates, plan, heard)
    return rates


def _rate_of_all(rates: Rates, plan: Plan, heard: Heard) -> None:
    """Publishing took longer than was planned, and its rates are over that time: so is what was
    received, until the last message, by whole intervals."""
    from_interval = math.ceil(plan.warmup / plan.interval - 1e-9)
    ticks = [tick for number, tick in heard.ticks.items() if number >= from_interval]
    begin = heard.start + round(from_interval * plan.interval * 1e9)
    reading = max((heard.drained - begin) / 1e9, rates.seconds)
    rates.received = sum(tick.received for tick in ticks)
    rates.received_per_s = rates.received / reading
    rates.received_mb_per_s = sum(tick.received_bytes for tick in ticks) / reading / 1e6


def _intervals(plan: Plan, heard: Heard, share: bool) -> tuple[list[Interval], int]:
    rows, confirmed, received, highest = [], 0, 0, 0
    end = (heard.produced - heard.start) / 1e9
    numbers = [number for number in heard.ticks if number >= 0]
    for number in range(max(numbers, default=-1) + 1):
        tick = heard.ticks.get(number)
        at = number * plan.interval
        phase = "warm-up" if at < plan.warmup - 1e-9 else "measured" if at < end else "drain"
        row = Interval(at_s=round(at, 3), phase=phase)  # type: ignore[arg-type]
        rows.append(row)
        if tick is None:
            continue
        for name in ("published", "confirmed", "refused", "unknown", "received",
                     "published_bytes", "received_bytes"):  # fmt: skip
            setattr(row, name, getattr(tick, name))
        row.confirm = Latency.of(_summed([tick.confirm]))
        row.end_to_end = Latency.of(_summed([tick.end_to_end]))
        confirmed += tick.confirmed * (1 if share else max(1, plan.consumers))
        received += tick.received
        if plan.only == "both":
            row.backlog = max(0, confirmed - received)
            highest = max(highest, row.backlog)
    return rows, highest


def _limited(
    plan: Plan, heard: Heard, produced: Sequence[Produced], delay: Histogram, lag: Histogram
) -> str | None:
    """Why mqcli was the limit. A schedule that the broker held up is not mqcli's fault: what was
    late because the window was full does not count as late, unless a core was busy all the time."""
    busiest = max(
        (tidy.cpu / tidy.wall * 100 for tidy in heard.tidies if tidy.wall > 0), default=0.0
    )
    total = max(1, sum(one.counted for one in produced))
    late = sum(one.late for one in produced)
    if plan.saturated:
        if busiest >= _BUSY:
            return f"a process of ours used {busiest:.0f} % of a core; try --processes"
        return None
    if late > total * 0.01:
        return f"{late} of {total} messages were sent more than 10 ms late by mqcli itself"
    (ring,) = lag.percentiles([99.0])
    if ring > LATE:
        return f"1 % of the timers of mqcli rang more than {ring / 1e6:.0f} ms late"
    unsent = sum(one.unsent for one in produced)
    behind = delay.above(LATE) > delay.count * 0.01 or unsent > total * 0.01
    if behind and busiest >= _BUSY:
        return f"a process of ours used {busiest:.0f} % of a core and fell behind the schedule"
    return None


def _machines(heard: Heard, links: Sequence[Link], lag: Histogram) -> list[Machine]:
    found: dict[str, Machine] = {}
    doubts = [link.doubt for link in links] or [0] * len(heard.readies)
    for ready, tidy, doubt in zip(heard.readies, heard.tidies, doubts, strict=False):
        facts = {name: value for name, value in ready.facts.items() if name != "host"}
        machine = found.setdefault(
            ready.host, Machine(str(ready.facts.get("host", "")), facts, processes=0)
        )
        machine.processes += 1
        cpu = tidy.cpu / tidy.wall * 100 if tidy.wall > 0 else 0.0
        machine.cpu_percent = round(max(machine.cpu_percent, cpu), 1)
        machine.memory_mb = round(max(machine.memory_mb, tidy.memory / 1e6), 1)
        machine.gc_pause_ms = round(machine.gc_pause_ms + tidy.gc_pause * 1e3, 3)
        machine.clock_doubt_ms = round(max(machine.clock_doubt_ms, doubt / 1e6), 4)
        own = Latency.of(_summed([tidy.lag]))
        if own.percentiles.get("p99") is not None:
            machine.lag_p99_ms = max(machine.lag_p99_ms or 0.0, own.percentiles["p99"] or 0.0)
    if (here := host_identity()) in found:  # of another host it is not known
        found[here].facts["cores"] = os.cpu_count()
    return list(found.values())


def _judge_reading(report: Report, plan: Plan, heard: Heard, *, verified: bool) -> None:
    """Say when less came than was waited for, and when a rate is mostly of waiting."""
    consumed = [one for tidy in heard.tidies for one in tidy.consumed]
    if plan.count is not None:
        came = sum(tick.received for tick in heard.ticks.values())
        if came < plan.count and not verified:
            report.errors.append(f"only {came} of {plan.count} messages came")
        return
    first = heard.start + round(plan.warmup * 1e9)
    last = max((one.ended for one in consumed), default=0)
    idle = plan.lasts - max(0, last - first) / 1e9
    if idle > max(0.5, plan.lasts / 10):
        count = report.rates.received
        took = f" after the {count} that came in {plan.lasts - idle:.3g} s" if count else ""
        report.notes.append(f"nothing came for {idle:.3g} s{took}: the rates are over all of it")


def _judge_clocks(report: Report, links: Sequence[Link], end_to_end: Histogram) -> None:
    if end_to_end.negative:
        report.notes.append(f"{end_to_end.negative} latencies were negative: clocks disagree")
    doubt = sum(sorted((link.doubt for link in links), reverse=True)[:2]) / 1e6
    if not doubt or not end_to_end.count:
        return
    middle = end_to_end.percentiles([50.0])[0] / 1e6
    if doubt > max(1.0, middle / 10):
        report.end_to_end = Latency.of(Histogram())
        for row in report.intervals:
            row.end_to_end = Latency.of(Histogram())
        report.end_to_end_note = (
            f"withheld: the hosts' clocks are known to {doubt:.3g} ms only,"
            f" and the median would be {middle:.3g} ms"
        )
    else:
        report.end_to_end_note = f"the hosts' clocks are known to {doubt:.3g} ms"


def _notes(order: str, delivery: Delivery | None, consumed: Sequence[Consumed]) -> list[str]:
    notes = []
    if delivery is not None and delivery.reordered and order == "none":
        notes.append("the broker promises no order here: reordered messages are no fault")
    late = sum(one.settled_late for one in consumed)
    if late:
        notes.append(f"{late} acknowledgements came too late: their messages came again")
    for name in ("gaps", "reconnects"):
        total = sum(getattr(one, name) for one in consumed)
        if total:
            notes.append(f"{total} {name} while reading")
    return notes + sorted({note for one in consumed for note in one.notes})


def _errors(heard: Heard, produced: Sequence[Produced]) -> list[str]:
    told = [str(raised(one)) for one in heard.failures]
    return list(dict.fromkeys([*told, *(text for one in produced for text in one.errors)]))[:10]
