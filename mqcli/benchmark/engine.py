"""One process's share of a run: its producers and consumers on one event loop.

Nothing is done for a single message: what is due at a look at the clock, or has arrived together,
is stamped, sent, checked and counted as one batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import platform
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ..client import Client
from ..errors import MqcliError
from ..position import BEGINNING, END
from ..reader import Reader
from ..transport import Span
from .histogram import Histogram
from .plan import Consumed, Failed, FromWorker, Plan, Ready, Share, Tick, Tidy
from .producer import Producer
from .schedule import Pacer, make_pacer
from .stamps import Payloads
from .tracker import Tracker

__all__ = ["Clock", "Engine", "Meter", "failed", "host_identity"]

_NEVER = 1 << 62
_LOOK = 0.05
"""Seconds between two reports of how far it is, without figures."""
_EARLY = 0.005
"""Seconds before its time that a timer may ring, with room."""


class Clock:
    """Nanoseconds of the run's clock. ``first`` and ``end`` bound what counts."""

    def __init__(self) -> None:
        self.start = self.first = self.end = _NEVER
        self.offset = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.offset

    def set(self, plan: Plan, start: int, offset: int) -> None:
        self.start, self.offset = start, offset
        self.first = start + round(plan.warmup * 1e9)
        self.end = self.first + round(plan.lasts * 1e9)
        if plan.saturated and plan.count is not None:
            self.end = _NEVER


class Meter:
    """What is measured by all producers of a process, since the latest report and in all."""

    def __init__(self) -> None:
        self.tick = Tick(-1)
        self.confirm = Histogram()
        self.service = Histogram()
        self.delay = Histogram()
        self.lag = Histogram()


class Consumer:
    """Reads all the time, from its opening until it is closed."""

    def __init__(self, plan: Plan, number: int, client: Client, clock: Clock, meter: Meter) -> None:
        self._plan, self._clock, self._meter = plan, clock, meter
        self.reader = _reader(client, plan)
        self.tracker = Tracker(plan.run, self.reader.traits.order, (_NEVER, _NEVER), 0)
        self.found = Consumed(number, 0, 0, 0, {}, {}, {}, {}, False)
        self.failure: MqcliError | None = None
        self._closing = False

    def go(self) -> None:
        clock = self._clock
        self.tracker.begin((clock.first, clock.end), clock.start)

    async def run(self) -> None:
        """Does not raise what the broker does: see ``failure``."""
        try:
            while not self._closing:
                await self._batch()
        except MqcliError as exc:
            self.failure = exc

    async def _batch(self) -> None:
        reader, clock, found = self.reader, self._clock, self.found
        delay = self._plan.consumer_delay
        wanted = 1000 if not delay else max(1, min(1000, int(0.01 / delay)))
        messages = await reader.receive(wanted, 1 << 20, 0.2)
        if reader.gaps:
            found.gaps += len(reader.gaps)
            reader.gaps.clear()
        found.notes += reader.notes
        reader.notes.clear()
        if not messages:
            return
        now = clock()
        before = self.tracker.sound
        size = self.tracker.take(messages, now)
        count = self.tracker.sound - before
        if self._plan.only == "consume":
            count = len(messages)
        tick = self._meter.tick
        tick.received += count
        tick.received_bytes += size
        if clock.first <= now < clock.end:
            found.counted += count
            found.counted_bytes += size
            found.ended = now
        if delay:
            await asyncio.sleep(delay * len(messages))
        await reader.settle(len(messages))

    def close(self) -> None:
        self._closing = True

    def consumed(self) -> Consumed:
        """The account, once ``run`` has ended."""
        found, tracker = self.found, self.tracker
        found.sound = tracker.sound
        found.faults = {str(kind): count for kind, count in tracker.faults.items()}
        found.firsts = {str(kind): first for kind, first in tracker.firsts.items()}
        found.seen = {number: seen.encode() for number, seen in tracker.seen.items()}
        found.damaged = {number: seen.encode() for number, seen in tracker.damaged.items()}
        found.mark = tracker.mark
        found.settled_late = self.reader.late
        found.reconnects = self.reader.reconnects
        return found


def _reader(client: Client, plan: Plan) -> Reader:
    """How this destination is read: watched where nothing is kept, else taken from."""
    traits = client.traits(plan.group)
    if traits.keeps == "nothing":
        return client.tail()
    if traits.keeps == "until-taken":
        return client.consume()
    return client.consume(Span(END if plan.start == "end" else BEGINNING), plan.group)


class Engine:
    """``open``, ``go``, then ``hand`` gives what was found; ``tell`` hears what happens before."""

    def __init__(self, share: Share, tell: Callable[[FromWorker], None]) -> None:
        plan = self._plan = share.plan
        self._tell = tell
        self._clock, self._meter = Clock(), Meter()
        client = plan.where.client()
        payloads = Payloads(plan.sizes, plan.random_ratio, plan.samples, 1)
        self._producers = [
            Producer(plan, number, client, payloads, self._clock, self._meter)
            for number in share.producers
        ]
        self._consumers = [
            Consumer(plan, number, client, self._clock, self._meter) for number in share.consumers
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: list[asyncio.Task[None]] = []
        self._pacer: Pacer | None = None
        self._stack = contextlib.AsyncExitStack()
        self._confirm, self._end_to_end = Histogram(), Histogram()
        self._cpu = self._wall = self._gc = 0.0
        self._gc_began = 0.0

    async def open(self) -> Ready:
        """Everything is connected, and consumers read. Raises MqcliError."""
        self._pacer = make_pacer()
        self._stack.callback(self._pacer.close)
        for producer in self._producers:
            await producer.open()
            self._stack.push_async_callback(producer.aclose)
        for consumer in self._consumers:
            await self._stack.enter_async_context(consumer.reader)
            if self._plan.only != "consume":  # else what is there is read against the clock
                self._reading.append(self._started(consumer.run()))
        self._tasks.append(self._started(self._report()))
        return Ready(host_identity(), _facts())

    def go(self, start: int, offset: int) -> None:
        """Start the clock."""
        self._clock.set(self._plan, start, offset)
        for consumer in self._consumers:
            consumer.go()
        assert self._pacer is not None
        # What is there now stays to the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.callbacks.append(self._collecting)
        self._tasks += [self._started(self._produce(one)) for one in self._producers]
        self._tasks += [self._started(one.watch()) for one in self._producers]
        if self._plan.only == "consume":
            self._reading += [self._started(self._consume(one)) for one in self._consumers]
        self._tasks.append(self._started(self._measure()))

    def _started(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What ends by a bug, of ours or of a transport, must not be waited for."""
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._tell(Failed("", repr(bug)))

    def halt(self) -> None:
        """Publish nothing more."""
        for producer in self._producers:
            producer.halt()

    async def hand(self) -> Tidy:
        """Stop reading, and give what was found. The producers have ended, or are halted."""
        self.halt()
        for consumer in self._consumers:
            consumer.close()
        if self._reading:
            await asyncio.wait(self._reading)
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._collecting)
        for task in self._reading:
            task.result()
        self._report_now(figures=True)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        trackers = [consumer.tracker for consumer in self._consumers]
        return Tidy(
            [producer.produced() for producer in self._producers],
            [consumer.consumed() for consumer in self._consumers],
            self._confirm.take(),
            self._meter.service.take(),
            self._meter.delay.take(),
            self._end_to_end.take(),
            self._meter.lag.take(),
            sum(tracker.latency.negative for tracker in trackers),
            self._meter.confirm.clipped + sum(tracker.latency.clipped for tracker in trackers),
            self._cpu,
            self._wall,
            usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            self._gc,
        )

    async def aclose(self) -> None:
        """Close everything. Safe twice."""
        for task in (*self._tasks, *self._reading):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._reading, return_exceptions=True)
        await self._stack.aclose()

    async def _produce(self, producer: Producer) -> None:
        assert self._pacer is not None
        # One timer serves one waiting producer.
        pacer = self._pacer if producer is self._producers[0] else make_pacer()
        try:
            await pacer.until(self._clock.start - self._clock.offset)
            await producer.run(pacer)
        finally:
            if pacer is not self._pacer:
                pacer.close()
        if producer.failure is not None:
            self._tell(failed(producer.failure, final=False))

    async def _consume(self, consumer: Consumer) -> None:
        await asyncio.sleep(max(0, self._clock.start - self._clock()) / 1e9)
        await consumer.run()

    async def _measure(self) -> None:
        """CPU time, while the clock counts and something is produced or to be read."""
        await asyncio.sleep((self._clock.first - self._clock()) / 1e9)
        cpu, wall, self._gc = time.process_time(), time.monotonic(), 0.0
        while self._clock() < self._clock.end:
            await asyncio.sleep(min(_LOOK, max(0.0, (self._clock.end - self._clock()) / 1e9)))
            self._cpu, self._wall = time.process_time() - cpu, time.monotonic() - wall
            if self._producers and all(producer.done for producer in self._producers):
                break

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_began = time.monotonic()
        else:
            self._gc += time.monotonic() - self._gc_began

    async def _report(self) -> None:
        failed_before: set[int] = set()
        interval = round(self._plan.interval * 1e9)
        number = -1
        while True:
            await asyncio.sleep(min(_LOOK, self._left(number, interval)))
            if 0 < self._left(number, interval) < _EARLY:
                continue  # or the figures would be told with the next interval's
            reached = max(-1, (self._clock() - self._clock.start) // interval)
            self._meter.tick.number = number
            self._report_now(figures=reached > number)
            number = reached
            for consumer in self._consumers:
                if consumer.failure is not None and id(consumer) not in failed_before:
                    failed_before.add(id(consumer))
                    self._tell(failed(consumer.failure, final=False))

    def _left(self, number: int, interval: int) -> float:
        """Seconds until the end of an interval; before the clock is set, for ever."""
        return max(0.0, (self._clock.start + (number + 1) * interval - self._clock()) / 1e9)

    def _report_now(self, *, figures: bool) -> None:
        meter, tick = self._meter, self._meter.tick
        if figures:
            tick.confirm = meter.confirm.take()
            self._confirm.add(tick.confirm)
            for consumer in self._consumers:
                taken = consumer.tracker.latency.take()
                self._end_to_end.add(taken)
                if not tick.end_to_end:
                    tick.end_to_end = taken
                else:
                    for index, count in taken.items():
                        tick.end_to_end[index] = tick.end_to_end.get(index, 0) + count
        tick.sound = sum(consumer.tracker.unique for consumer in self._consumers)
        if self._plan.only == "consume":
            tick.sound = sum(consumer.reader.received for consumer in self._consumers)
        tick.probed = sum(1 for consumer in self._consumers if consumer.tracker.probes)
        tick.producing = sum(1 for producer in self._producers if not producer.done)
        tick.marked = sum(1 for consumer in self._consumers if consumer.tracker.mark)
        meter.tick = Tick(tick.number)
        self._tell(tick)


def failed(error: MqcliError, *, final: bool = True) -> Failed:
    """An error as it travels."""
    return Failed(type(error).__name__, error.what, error.where, error.why, error.hint, final)


def host_identity() -> str:
    """The same for processes that share one monotonic clock: one boot of one machine, and there one
    time namespace (time_namespaces(7): a container may have its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        import uuid

        return f"{platform.node()}-{uuid.getnode():x}"
    with contextlib.suppress(OSError):  # a kernel without them
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    return boot


def _facts() -> dict[str, Any]:
    """What the client runs on."""
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "loop": loop,
    }
