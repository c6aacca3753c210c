"""One producer: sends by the clock or as fast as it may, and accounts for every message."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice
from typing import TYPE_CHECKING

from ..client import Client
from ..errors import MqcliError
from ..message import Message, Plain
from .plan import Plan, Produced
from .schedule import Pacer, Phase, Schedule
from .sequences import Sequences
from .stamps import Payloads, Stamper

if TYPE_CHECKING:
    from ..transport import Outcome
    from .engine import Clock, Meter

__all__ = ["Producer"]

LATE = 10_000_000
"""Nanoseconds behind the schedule from which on mqcli itself was too slow."""
_TICK = 500_000
"""Nanoseconds between two looks at the schedule, at least: what is due meanwhile goes together."""
_BATCHES = 32
"""Batches in flight at most: beyond, what is due waits and goes together. Else a broker that takes
a while for each request would get ever more of them, each with a single message."""
_BATCH_BYTES = 1 << 20
_WINDOW_BYTES = 64 << 20
_DRAWS = 1 << 16


class Producer:
    """``run`` sends until the plan's end or ``halt``, then waits for what is in flight."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        client: Client,
        payloads: Payloads,
        clock: Clock,
        meter: Meter,
    ) -> None:
        self.number = number
        self._plan, self._clock, self._meter = plan, clock, meter
        self._stamper = Stamper(plan.run, number, payloads)
        self._publisher = client.publisher(
            window=plan.in_flight, window_bytes=_WINDOW_BYTES, on_outcome=self._settled
        )
        self._timeout = round(plan.where.confirm_timeout * 1e9)
        self._keys = _keys(plan, number)
        self._batch = max(1, min(plan.batch, plan.in_flight, int(_BATCH_BYTES / payloads.mean)))
        self._flight: dict[int, tuple[int | list[int], int]] = {}
        """By first sequence: the intended time or times of a batch, and when it was sent."""
        self._in_flight = 0
        self._room = asyncio.Event()
        self._excused = False
        """What is late now is late because the window was full."""
        self._halted = False
        self._refused, self._unknown = Sequences(), Sequences()
        self.found = Produced(number, 0, b"", b"")
        self.failure: MqcliError | None = None
        self.done = False

    async def open(self) -> None:
        await self._publisher.__aenter__()

    async def aclose(self) -> None:
        await self._publisher.__aexit__(None, None, None)

    async def watch(self) -> None:
        """Raise what no transport may raise: ``run`` may wait for room that never comes."""
        await self._publisher.wait_for_failure()
        await self._publisher.mend()

    def halt(self) -> None:
        self._halted = True
        self._room.set()

    async def run(self, pacer: Pacer) -> None:
        """Does not raise what the broker does: see ``failure``."""
        try:
            if self._plan.saturated:
                await self._saturate()
            else:
                await self._keep_time(pacer)
        except MqcliError as exc:
            self.failure = exc
        await self._publisher.finish()
        self.failure = self.failure or self._publisher.failure
        self.done = True

    async def _keep_time(self, pacer: Pacer) -> None:
        plan, clock, found = self._plan, self._clock, self.found
        warmup = [Phase(plan.phases[0].rate, plan.warmup)] if plan.warmup else []
        schedule = Schedule([*warmup, *plan.phases], plan.producers, self.number)
        linger = max(_TICK, round(plan.linger * 1e9))
        sent, looked = 0, 0
        try:
            while sent < schedule.total and not self._halted:
                due = schedule.due(clock() - clock.start)
                if due <= sent:
                    self._excused = False
                    moment = max(clock.start + schedule.times(sent, 1)[0], looked + linger)
                    await pacer.until(moment - clock.offset)
                    looked = clock()
                    if clock.first <= looked < clock.end:
                        self._meter.lag.record(max(0, looked - moment))
                    continue
                count = min(due - sent, self._batch)
                if self._is_full(count):
                    self._excused = True
                    await self._for_room(count)
                    continue  # more is due by now
                times = [clock.start + t for t in schedule.times(sent, count)]
                if times[0] < clock.first <= times[-1]:  # a batch counts as a whole, or not
                    times = times[: bisect_left(times, clock.first)]
                    count = len(times)
                sent += count
                now = clock()
                if now - times[0] > LATE and not self._excused:
                    found.late += sum(1 for t in times if now - t > LATE and t >= clock.first)
                if times[0] >= clock.first:
                    self._meter.delay.record_since(now, times)
                await self._submit(self._stamper.times(times), times, now)
        finally:
            if not self._halted:
                # What never became due because a failure ended the run was nobody's to send.
                due = schedule.due(clock() - clock.start)
                found.unsent = max(0, due - sent)

    async def _saturate(self) -> None:
        plan, clock = self._plan, self._clock
        wanted = None
        if plan.count is not None:  # each its part, the first ones what is left over
            wanted = plan.count // plan.producers + (self.number < plan.count % plan.producers)
        batch = self._batch
        while not self._halted:
            if self._is_full(batch):
                await self._for_room(batch)
            now = clock()
            if wanted is None:
                if now >= clock.end:
                    return
            elif now >= clock.first:
                batch = min(batch, wanted - self.found.counted)
                if batch <= 0:
                    return
            await self._submit(self._stamper.at(now, batch), now, now)

    def _is_full(self, count: int) -> bool:
        if not self._in_flight:
            return False
        return self._in_flight + count > self._plan.in_flight or len(self._flight) >= _BATCHES

    async def _for_room(self, count: int) -> None:
        while self._is_full(count):
            if self._publisher.failure is not None:
                raise self._publisher.failure
            self._room.clear()
            if self._halted:
                return
            await self._room.wait()

    async def _submit(self, values: list[bytes], times: int | list[int], now: int) -> None:
        first, count = self.found.sent, len(values)
        size = sum(map(len, values))
        batch: Sequence[Message]
        if self._keys is None:
            batch = Plain(values)
        else:
            keys = islice(self._keys, count)
            batch = [Message(value, key) for value, key in zip(values, keys, strict=True)]
        self._flight[first] = times, now
        self._in_flight += count
        try:
            await self._publisher.submit(batch, size=size)
        except MqcliError:  # an earlier batch failed, and none of this one was sent
            self._in_flight -= count
            del self._flight[first]
            raise
        found, tick = self.found, self._meter.tick
        found.sent += count
        tick.published += count
        tick.published_bytes += size
        if self._counts(times):
            found.counted += count
            found.counted_bytes += size
            found.began = found.began or now

    def _counts(self, times: int | list[int]) -> bool:
        first = times if isinstance(times, int) else times[0]
        return self._clock.first <= first < self._clock.end

    def _settled(self, first: int, batch: Sequence[Message], outcome: Outcome) -> None:
        now, found, tick = self._clock(), self.found, self._meter.tick
        times, sent = self._flight.pop(first)
        count = len(batch)
        self._in_flight -= count
        self._room.set()
        tick.confirmed += outcome.confirmed
        counts = self._counts(times)
        if not outcome.refused and not outcome.unknown:
            if counts:
                found.confirmed += count
                found.settled = now
                self._meter.service.record(now - sent, count)
                if isinstance(times, int):
                    self._meter.confirm.record(now - times, count)
                else:
                    self._meter.confirm.record_since(now, times)
            return
        tick.refused += len(outcome.refused)
        tick.unknown += len(outcome.unknown)
        for index in outcome.refused:
            self._refused.add(first + index)
        for index in outcome.unknown:
            self._unknown.add(first + index)
        for error in list(outcome.refused.values())[:3]:
            if len(found.errors) < 3:
                found.errors.append(str(error))
        if not counts:
            return
        found.confirmed += outcome.confirmed
        found.refused_count += len(outcome.refused)
        found.unknown_count += len(outcome.unknown)
        found.settled = now
        bad = {*outcome.refused, *outcome.unknown}
        for index in range(count):
            began = times if isinstance(times, int) else times[index]
            # What failed never vanishes from the latencies: it is there with its whole timeout.
            least = self._timeout if index in bad else 0
            self._meter.confirm.record(max(now - began, least))
            self._meter.service.record(max(now - sent, least))

    def produced(self) -> Produced:
        """The account, once ``run`` has ended."""
        self.found.refused = self._refused.encode()
        self.found.unknown = self._unknown.encode()
        return self.found


def _keys(plan: Plan, seed: int) -> Iterator[bytes] | None:
    """Endless, from draws made before the clock starts."""
    if plan.keys == "none":
        return None
    names = [b"key-%d" % number for number in range(plan.key_count)]
    rng = random.Random(seed)
    match plan.keys:
        case "random":
            names = rng.choices(names, k=_DRAWS)
        case "zipf":  # the n-th most frequent key has 1/n of the first one's share
            weights = list(accumulate(1 / (n + 1) for n in range(len(names))))
            names = rng.choices(names, cum_weights=weights, k=_DRAWS)
        case _:
            pass
    return cycle(names)
