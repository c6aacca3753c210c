"""Leads the workers of a run: ready, go, drain, hand in.

The clock starts only when every consumer has shown that it receives: probes are published until
each has had one. After the last message a closing mark is published, so that "it has not come" can
be told from "it did not come".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec

from .. import errors
from ..client import Client
from ..errors import BrokerUnavailable, MqcliError, Unsupported
from ..message import Message, Plain
from ..publisher import Publisher
from .plan import Failed, FromWorker, Go, Halt, Hand, Plan, Ready, Share, Tick, Tidy
from .processes import Link
from .stamps import CONTROL, Payloads, Sizes, Stamper
from .tracker import MARK

__all__ = ["Heard", "Progress", "Stopped", "conduct", "raised", "shared"]

_LEAD = 0.15
"""Seconds between the word to start and the start, for the word to reach all."""
_PROBE_EVERY = 0.05
_SHARED_PROBES = 3.0
"""Seconds for each of several that share to receive a probe; some may get nothing at all."""
_QUIET = 0.2
_ANSWER = 30.0
_STOPPED = 0.8
"""Seconds for what is under way to arrive once a run is told to stop: the program has to end within
two after a time limit."""


class Progress(msgspec.Struct):
    """What is known while it runs. ``ticks`` are summed over the workers, by interval."""

    phase: str = "opening"
    start: int = 0
    ticks: dict[int, Tick] = {}
    confirmed: int = 0
    sound: int = 0
    expected: int = 0


class Heard(msgspec.Struct):
    """All that the workers told."""

    readies: list[Ready]
    tidies: list[Tidy]
    ticks: dict[int, Tick]
    start: int
    produced: int
    drained: int
    """When the producers had ended, and when the last message arrived (ns)."""
    failures: list[Failed]
    complete: bool
    notes: list[str]


def shared(client: Client, plan: Plan) -> bool:
    """Whether the consumers divide the messages among them, or each gets all."""
    traits = client.traits(plan.group)
    return traits.keeps == "until-taken" or (plan.group is not None and traits.shares)


async def conduct(
    plan: Plan,
    links: Sequence[Link],
    shares: Sequence[Share],
    *,
    drain: float,
    stop: asyncio.Event,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    own: bool = True,
) -> Heard:
    """Do the plan with these workers. ``drain`` are the seconds without any new message after
    which waiting for the rest ends; ``stop`` ends publishing, and then the run. With ``own`` a
    listener that is not ours is refused. Raises MqcliError when it could not be done at all."""
    async with AsyncExitStack() as stack:
        led = _Led(plan, links, stop, on_progress)
        stack.push_async_callback(led.aclose)
        await led.open(shares)
        if plan.consumers and plan.only == "both":
            await stack.enter_async_context(led.prober)
            if own:
                await led.refuse_listeners()
            await led.probe()
        await led.go()
        await led.produced(drain)
        ended = time.monotonic_ns()
        await led.drained(drain)
        return await led.hand(ended)


class _Led:
    def __init__(
        self,
        plan: Plan,
        links: Sequence[Link],
        stop: asyncio.Event,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.plan, self.links, self.stop = plan, links, stop
        self.client = plan.where.client()
        self.shared = shared(self.client, plan)
        self.progress = Progress()
        self._on_progress = on_progress
        self._latest: dict[int, Tick] = {}
        """The last tick of each worker."""
        self._readies: list[Ready | None] = [None] * len(links)
        self._tidies: list[Tidy | None] = [None] * len(links)
        self._failures: list[Failed] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stamper = Stamper(plan.run, CONTROL, Payloads(Sizes(((0, 0, 1.0),)), 0.0, (), 0))
        self._receivers: list[int] = []
        self.prober: Publisher = self._make_prober()
        self._notes: list[str] = []
        self._complete = True
        self._broken = False
        """A worker lost its broker. Not told by ``stop``, which is the user's, for all runs."""
        self._moved = 0

    def _make_prober(self) -> Publisher:
        def outcome(first: int, batch: Sequence[Message], outcome: object) -> None:
            self._receivers += getattr(outcome, "receivers", None) or ()

        return self.client.publisher(on_outcome=outcome)

    async def open(self, shares: Sequence[Share]) -> None:
        await asyncio.gather(*(link.open() for link in self.links))
        for number, (link, share) in enumerate(zip(self.links, shares, strict=True)):
            await link.send(share)
            self._tasks.append(asyncio.create_task(self._hear(number, link)))
        limit = self.plan.where.connect_timeout + _ANSWER
        if not await self._until(lambda: None not in self._readies, limit):
            raise self._ended_early("the workers did not get ready")

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(link.aclose() for link in self.links))

    async def _hear(self, number: int, link: Link) -> None:
        try:
            while self._tidies[number] is None:
                self._heard(number, await link.hear())
        except MqcliError as exc:
            failed = Failed(type(exc).__name__, exc.what, exc.where, exc.why, exc.hint)
            self._failures.append(failed)
        self._changed.set()

    def _heard(self, number: int, word: FromWorker) -> None:
        match word:
            case Ready():
                self._readies[number] = word
            case Tick():
                self._latest[number] = word
                self._add(word)
            case Tidy():
                self._tidies[number] = word
            case Failed():
                self._failures.append(word)
                if not word.final:
                    # One of many is gone: what it measured stands, and the run ends.
                    self._broken = True
        self._changed.set()

    def _add(self, tick: Tick) -> None:
        progress = self.progress
        number = tick.number
        if number < 0 and (tick.published or tick.received):
            number = 0  # a report from before the start that came late, with the first messages
        total = progress.ticks.setdefault(number, Tick(number))
        for name in (
            "published", "confirmed", "refused", "unknown", "received",
            "published_bytes", "received_bytes",
        ):  # fmt: skip
            setattr(total, name, getattr(total, name) + getattr(tick, name))
        for mine, theirs in ((total.confirm, tick.confirm), (total.end_to_end, tick.end_to_end)):
            for index, count in theirs.items():
                mine[index] = mine.get(index, 0) + count
        progress.confirmed += tick.confirmed
        progress.sound = self._sum("sound")
        progress.expected = progress.confirmed * (1 if self.shared else self.plan.consumers)
        self._on_progress(progress)

    def _sum(self, name: str) -> int:
        return sum(getattr(tick, name) for tick in self._latest.values())

    @property
    def _ending(self) -> bool:
        return self._broken or self.stop.is_set()

    async def _until(
        self, true: Callable[[], bool], limit: float | None, *, stoppable: bool = True
    ) -> bool:
        """Wait until ``true()``; False at the limit or a stop. Raises what ended a worker."""
        deadline = None if limit is None else time.monotonic() + limit
        stopping = asyncio.ensure_future(self.stop.wait())
        try:
            while not true():
                for failed in self._failures:
                    if failed.final:
                        raise raised(failed)
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or (stoppable and self._ending):
                    return False
                self._changed.clear()
                changing = asyncio.ensure_future(self._changed.wait())
                waited = {changing, stopping} if stoppable else {changing}
                try:
                    await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changing.cancel()
            return True
        finally:
            stopping.cancel()

    def _ended_early(self, what: str) -> MqcliError:
        for failed in self._failures:
            return raised(failed)
        if self.stop.is_set():
            return Stopped("stopped before the clock started")
        return BrokerUnavailable(what, where=self.client.where)

    async def _control(self, number: int, count: int) -> None:
        self._stamper.sequence = number
        values = self._stamper.at(time.monotonic_ns(), count)
        await self.prober.submit(Plain(values))
        await self.prober.finish()
        if self.prober.failure is not None:
            raise self.prober.failure
        if self.prober.errors:
            raise BrokerUnavailable(
                "a probe was not accepted", where=self.client.where, why=self.prober.errors[0]
            )

    async def refuse_listeners(self) -> None:
        """Raises Unsupported where somebody else listens to a destination of our own."""
        if self.client.traits(self.plan.group).keeps != "nothing":
            return
        await self._control(0, 1)
        others = max(self._receivers, default=0) - self.plan.consumers
        if others > 0:
            raise Unsupported(
                "somebody else would receive what is published here",
                why=f"{others} more than our consumers",
                where=self.client.where,
                hint="a pattern subscription, perhaps; --use-existing runs it all the same",
            )

    async def probe(self) -> None:
        """Every consumer has received a message."""
        self.progress.phase = "probing"
        wanted, number, first = self.plan.consumers, 1, 0.0
        deadline = time.monotonic() + _ANSWER
        while self._sum("probed") < wanted:
            await self._control(number, wanted if self.shared else 1)
            number += wanted
            if await self._until(lambda: self._sum("probed") >= wanted, _PROBE_EVERY):
                return
            now = time.monotonic()
            if self._ending or now > deadline:
                raise self._ended_early("the consumers did not receive any probe")
            if self._sum("probed") and self.shared:
                first = first or now
                if now - first > _SHARED_PROBES:
                    self._notes.append(
                        f"{wanted - self._sum('probed')} of {wanted} consumers received no probe:"
                        " others may take all there is"
                    )
                    return

    async def go(self) -> None:
        self.progress.phase = "running"
        self.progress.start = start = time.monotonic_ns() + round(_LEAD * 1e9)
        for link in self.links:
            await link.send(Go(start, link.offset))

    async def produced(self, patience: float) -> None:
        """Return when the producers have ended, or consuming alone has lasted long enough; where it
        is to have a count, nothing new for ``patience`` seconds is enough as well."""
        plan = self.plan
        lead = (self.progress.start - time.monotonic_ns()) / 1e9
        if plan.only == "consume":
            count = plan.count

            def enough() -> bool:
                return count is not None and self._sum("sound") >= count

            if count is None:
                await self._until(lambda: False, lead + plan.warmup + plan.lasts)
            else:
                before, since = -1, time.monotonic() + lead
                while not await self._until(enough, _PROBE_EVERY) and not self._ending:
                    if (sound := self._sum("sound")) != before:
                        before, since = sound, max(since, time.monotonic())
                    elif time.monotonic() - since > patience:
                        break
            self._complete = not self._ending or (count is not None and enough())
        else:
            # A tick from before the start says nothing: wait for one of each from after it.
            def ended() -> bool:
                ticks = self._latest.values()
                return len(ticks) == len(self.links) and all(
                    tick.number >= 0 and not tick.producing for tick in ticks
                )

            self._complete = await self._until(ended, None) and not self._broken
            if not self._complete:
                for link in self.links:
                    await link.send(Halt())
                await self._until(ended, plan.where.confirm_timeout + _QUIET, stoppable=False)
        self.progress.phase = "draining"
        self._on_progress(self.progress)

    async def drained(self, patience: float) -> None:
        """Everything confirmed has arrived, or nothing came for ``patience`` seconds."""
        if not self.plan.consumers or self.plan.only != "both":
            return
        stopped: float | None = None
        moved, before, marked = time.monotonic(), -1, -10.0
        ordered = self.client.traits(self.plan.group).order == "all"
        number = MARK
        while True:
            now = time.monotonic()
            if self._ending or not self._complete:
                self._complete = False
                stopped = stopped or now
                if now - stopped > _STOPPED:
                    return
            sound = self._sum("sound")
            if sound != before:
                moved, before = now, sound
                self._moved = time.monotonic_ns()
            still = now - moved
            all_marked = self._sum("marked") >= (1 if self.shared else self.plan.consumers)
            if still > _QUIET and (
                sound >= self.progress.expected
                or (all_marked and ordered and not (self.shared and self.plan.consumers > 1))
            ):
                return
            if still > patience:
                return
            if now - marked > 1.0:
                marked = now
                try:
                    await self._control(number, 1)
                except MqcliError as exc:
                    self._notes.append(f"no closing mark could be published: {exc}")
                    marked = now + 3600
                number += 1
            await self._until(lambda: False, _PROBE_EVERY, stoppable=False)

    async def hand(self, ended: int) -> Heard:
        for link in self.links:
            await link.send(Hand())
        limit = self.plan.where.confirm_timeout + _ANSWER
        if not await self._until(lambda: None not in self._tidies, limit, stoppable=False):
            raise self._ended_early("the workers did not hand in what they measured")
        return Heard(
            [ready for ready in self._readies if ready is not None],
            [tidy for tidy in self._tidies if tidy is not None],
            self.progress.ticks,
            self.progress.start,
            ended,
            max(ended, self._moved),
            self._failures,
            self._complete,
            self._notes,
        )


class Stopped(MqcliError):
    """Asked to stop before there was anything to report."""

    exit_code = errors.ExitCode.INTERRUPTED


def raised(failed: Failed) -> MqcliError:
    """The error that a worker told, of its own class."""
    kind = getattr(errors, failed.kind, MqcliError) if failed.kind else MqcliError
    made = kind(failed.what, where=failed.where, why=failed.why, hint=failed.hint)
    assert isinstance(made, MqcliError)
    return made
