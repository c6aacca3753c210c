"""Measuring a destination: one run, several alike, or a search for the highest rate."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from ..benchmark.agents import Meeting
from ..benchmark.conductor import Progress, Stopped
from ..benchmark.find_max import SHARES, find_max
from ..benchmark.plan import Plan
from ..benchmark.processes import Link
from ..benchmark.result import Report
from ..benchmark.run import Job, new_run, run
from ..benchmark.schedule import Phase
from ..benchmark.stamps import SIZE, Sizes
from ..client import Client
from ..errors import MqcliError, Unsupported, UsageError, gravest
from ..position import parse_duration
from ..registry import broker_target
from ..transport import Consumes, Tails
from . import admin

__all__ = [
    "Asked",
    "Stopped",
    "Told",
    "benchmark",
    "check",
    "parse_keys",
    "parse_phases",
    "parse_sizes",
]

_TRIAL = 3.0
"""Seconds of each step of a search, unless what counts is shorter."""
_SIZE = re.compile(r"(?P<low>\d+)(-(?P<high>\d+))?(:(?P<weight>\d+(\.\d+)?))?")
_BYTES = 1 << 30


Links: TypeAlias = Callable[[], Sequence[Link]] | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, how often, and on how many other machines (0: here)."""

    job: Job
    repeat: int = 1
    find_max: bool = False
    agents: int = 0


class Told(msgspec.Struct):
    """Who is told of what happens meanwhile."""

    progress: Callable[[Progress, Plan], None] = lambda progress, plan: None
    say: Callable[[str], None] = lambda text: None


async def benchmark(asked: Asked, stop: asyncio.Event, told: Told) -> list[Report]:
    """The reports, of those runs that were done: none where ``stop`` came at once. A search gives
    those of the steps below the highest rate, and notes that rate in each. Raises MqcliError."""
    broker = await _broker(asked.job)
    async with AsyncExitStack() as stack:
        links: Links = None
        if asked.agents:
            told.say(f"waiting for {asked.agents} agents: mqcli agent ADDRESS")
            meeting = Meeting(asked.job.plan.where, asked.agents, stop)
            links = (await stack.enter_async_context(meeting)).links
        once = _Once(asked.job, stop, told, links)
        found = await (_searched(once) if asked.find_max else _repeated(once, asked.repeat))
    for report in found:
        report.broker = broker
    return found


async def _repeated(once: _Once, times: int) -> list[Report]:
    found: list[Report] = []
    while len(found) < times:
        number = f"run {len(found) + 1} of {times}"
        if times > 1:
            once.told.say(number)
        if not await _one_more(once, once.job, number, found):
            break
    return found


async def _one_more(once: _Once, job: Job, name: str, found: list[Report]) -> bool:
    """Add a run to those found; whether there may be another. Raises MqcliError for the first: what
    was measured before a later one failed stands, with that failure."""
    if found and once.stop.is_set():
        return False
    try:
        found.append(await once.run(job))
    except MqcliError as exc:
        if not found:
            raise
        if not isinstance(exc, Stopped):
            found[-1].errors.append(f"{name}: {exc}")
            found[-1].exit_code = gravest((found[-1].exit_code, exc.exit_code))
        return False
    return found[-1].complete


class _Once:
    """How one run is done."""

    def __init__(self, job: Job, stop: asyncio.Event, told: Told, links: Links) -> None:
        self.job, self.stop, self.told = job, stop, told
        self._links = links

    async def run(self, job: Job) -> Report:
        plan = replace(job.plan, run=new_run())
        return await run(
            replace(job, plan=plan),
            stop=self.stop,
            on_progress=lambda progress: self.told.progress(progress, plan),
            links=None if self._links is None else self._links(),
        )


async def _searched(once: _Once) -> list[Report]:
    job, told = once.job, once.told
    seconds = min(_TRIAL, job.plan.duration)

    def with_plan(**changed: Any) -> Job:
        plan = replace(job.plan, count=None, **changed)
        settings = {**job.settings, "seconds": plan.lasts, "warmup": plan.warmup}
        if plan.phases:
            settings["rate"] = f"{plan.phases[0].rate:.12g}/s"
        return replace(job, plan=plan, settings=settings)

    first = with_plan(phases=(), duration=seconds, warmup=min(1.0, seconds))
    saturated = await once.run(first)
    if not saturated.complete:
        return [saturated]
    told.say(f"at saturation {saturated.rates.confirmed_per_s:,.0f}/s")

    async def trial(phases: tuple[Phase, ...]) -> Report:
        return await once.run(with_plan(phases=phases, warmup=0.5))

    highest, trials = await find_max(trial, saturated, seconds, told.say)
    if trials and not trials[-1].complete:
        trials[-1].notes.append("the search for the highest rate ended here, without a result")
        return [trials[-1]]
    if not highest:
        saturated.notes.append("no rate was sustained without a backlog")
        return [saturated]
    told.say(f"the highest sustained rate is {highest:,.0f}/s")
    found: list[Report] = []
    for share in SHARES:
        rate = round(highest * share)
        told.say(f"measuring at {share:.0%} of it, {rate:,}/s")
        step = with_plan(phases=(Phase(rate, job.plan.duration),))
        settings = {**step.settings, "share_of_highest": share}
        name = f"{share:.0%} of the highest rate"
        if not await _one_more(once, replace(step, settings=settings), name, found):
            break
    for report in found:
        share = report.settings["share_of_highest"]
        report.notes.append(f"the highest sustained rate is {highest:,.0f}/s; this is {share:.0%}")
        report.highest_rate = round(highest, 1)
    return found


async def _broker(job: Job) -> dict[str, Any]:
    """What the broker says it is. Raises BrokerUnavailable, AccessDenied."""
    target = job.plan.where.client().target
    assert target.address.broker is not None
    try:
        cls, broker = broker_target(
            replace(target.address.broker, query=()),
            connect_timeout=target.connect_timeout,
            insecure=target.insecure,
            client_name=target.client_name,
        )
        told = await admin.ping(cls, replace(broker, connection=target.connection))
    except UsageError:  # a broker that cannot be asked, or a file that is not there yet
        return {}
    except MqcliError as exc:
        from ..errors import NotFound

        if isinstance(exc, NotFound):
            return {}
        raise
    return {name: value for name, value in told.items() if name != "milliseconds"}


def check(client: Client, plan: Plan, *, use_existing: bool, backlog: int | None) -> None:
    """Raises UsageError for what cannot be measured here, before a socket opens."""
    traits = client.traits(plan.group)
    if plan.keys != "none" and not traits.keys:
        raise Unsupported("--keys: no keys can be carried", where=client.where)
    if plan.only != "publish":
        if not (client.supports(Tails) or client.supports(Consumes)):
            raise Unsupported("nothing can be read here", where=client.where, hint="--only publish")
        if plan.group is not None and (not traits.shares or traits.keeps != "log"):
            raise Unsupported("--group: groups are for logs", where=client.where)
    if plan.only != "consume":
        client.publisher()
    if backlog is not None:
        if traits.keeps == "nothing":
            raise Unsupported(
                "--backlog needs a destination that keeps messages", where=client.where
            )
        if use_existing or plan.only != "both" or plan.phases:
            raise UsageError(
                "--backlog fills a destination of its own and drains it at full speed",
                hint="leave out --use-existing, --only and --rate",
            )
    if plan.only == "consume" and not use_existing:
        raise UsageError(
            "--only consume needs messages that are there",
            hint="--use-existing reads ADDRESS itself; --backlog N fills and then drains",
        )


def parse_sizes(text: str) -> Sizes:
    """``100``, ``50-200``, or weighted, ``100:9,10000-20000:1``. Raises UsageError."""
    ranges = []
    for part in text.split(","):
        match = _SIZE.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"--size {text}: {part!r} is not a size",
                hint="write 100, 50-200, or 100:9,10000:1 with weights",
            )
        low = int(match["low"])
        high = int(match["high"] or low)
        weight = float(match["weight"] or 1)
        if high < low or low < SIZE or high > _BYTES or weight <= 0:
            raise UsageError(
                f"--size {part}: a message has {SIZE} bytes at least, which are its stamp, and"
                " 1 GiB at most"
            )
        ranges.append((low, high, weight))
    return Sizes(tuple(ranges))


def parse_phases(text: str) -> tuple[Phase, ...]:
    """``1000:10s,20000:5s``. Raises UsageError."""
    found = []
    for part in text.split(","):
        rate, colon, seconds = part.strip().partition(":")
        try:
            phase = Phase(float(rate), parse_duration(seconds))
        except (ValueError, UsageError):
            colon = ""
        if not colon or not 0 <= phase.rate <= 1e9 or phase.seconds <= 0:
            raise UsageError(
                f"--variable-rate {text}: {part!r} is not RATE:DURATION",
                hint="write 1000:10s,20000:5s",
            )
        found.append(phase)
    if not found[0].rate:
        raise UsageError("--variable-rate: the first rate is that of the warm-up, so not 0")
    return tuple(found)


def parse_keys(text: str) -> tuple[Any, int]:
    """``none``, ``sequence``, ``random`` or ``zipf``, and ``:N`` for how many. Raises
    UsageError."""
    name, _, count = text.partition(":")
    if name not in ("none", "sequence", "random", "zipf") or not (count or "1").isdigit():
        raise UsageError(f"--keys {text}", hint="none, sequence, random or zipf, as in zipf:1000")
    if count and not 0 < int(count) <= 1_000_000:
        raise UsageError(f"--keys {text}: from 1 to 1,000,000 keys")
    return name, int(count or 1000)


def read_samples(files: Sequence[str]) -> tuple[bytes, ...]:
    """The contents of some files. Raises UsageError."""
    found = []
    for name in files:
        try:
            found.append(Path(name).read_bytes())
        except OSError as exc:
            raise UsageError(
                "the payload cannot be read", where=name, why=exc.strerror or str(exc)
            ) from exc
        if len(found[-1]) > 64 << 20:
            raise UsageError("a payload has 64 MB at most", where=name)
    return tuple(found)
