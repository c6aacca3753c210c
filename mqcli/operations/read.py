"""Reading to an output: receive, encode, write, settle. Consuming and tailing share it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import msgspec

from ..errors import ExitCode, MqcliError, OutputError, TimeLimitReached, gravest
from ..message import Received
from ..reader import Reader
from ..transport import Gap
from .stop import Stop, Stopped
from .streams import ByteSink

__all__ = ["Delivery", "Encoder", "Listener", "ReadReport", "Wanted", "deliver", "pump"]

MAX_MESSAGES = 2000
MAX_BYTES = 1 << 20


class Encoder(Protocol):
    """What ``mqcli.formats`` makes of messages."""

    ending: bytes

    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        """One chunk for each, to be followed by ``ending``."""


class Listener(Protocol):
    """Who is told of what happens beside the messages."""

    def gap(self, gap: Gap) -> None: ...

    def note(self, text: str) -> None: ...


class Wanted(msgspec.Struct, frozen=True):
    """When to end: after ``count`` delivered messages, at the ``end`` or stop, after ``idle``
    seconds without one. ``max_messages`` bounds a batch."""

    count: int | None = None
    end: bool = False
    idle: float | None = None


class ReadReport(msgspec.Struct):
    """What was delivered, and how it ended."""

    delivered: int = 0
    settled: int = 0
    late: int = 0
    given_back: int = 0
    gaps: int = 0
    reconnects: int = 0
    output_closed: bool = False
    error: MqcliError | None = None
    """What ended it, or (with several addresses) the gravest loss."""
    stopped: ExitCode | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The gravest of everything that happened."""
        codes = set()
        if self.error is not None:
            codes.add(self.error.exit_code)
        if self.stopped is not None and not self.output_closed:
            codes.add(self.stopped)
        return gravest(codes)


class Delivery(msgspec.Struct):
    """Where what is read goes, when that ends, and the account of it."""

    sink: ByteSink
    encoder: Encoder
    wanted: Wanted
    stop: Stop
    listener: Listener
    report: ReadReport


def out_of_time(wanted: Wanted, what: str) -> MqcliError | None:
    """The error of a time limit that came before what was asked for; None when nothing was."""
    if wanted.count is None and not wanted.end:
        return None
    goal = "the end" if wanted.count is None else f"{wanted.count} messages"
    if wanted.count == 1:
        goal = "a message"
    return TimeLimitReached(f"{what} before {goal} came")


def _not_opened(reader: Reader, to: Delivery) -> None:
    """A stop came while the reader was being opened. Then a time limit is never an end as asked
    for: nothing was looked at."""
    if to.stop.reason is ExitCode.TIME_LIMIT:
        what = "the time was over before the broker answered"
        to.report.error = TimeLimitReached(what, where=reader.where)
    else:
        to.report.stopped = to.stop.reason


async def deliver(
    readers: Sequence[Reader], to: Delivery, work: Callable[[], Awaitable[None]]
) -> None:
    """Open all the readers, ``work``, and close them, which gives back what was not settled. Does
    not raise for what went wrong: the report says it."""
    async with AsyncExitStack() as stack:
        for reader in readers:
            try:
                await to.stop.guard(stack.enter_async_context(reader))
            except Stopped:
                _not_opened(reader, to)
                return
            except MqcliError as exc:
                to.report.error = exc
                return
        await work()


async def pump(reader: Reader, to: Delivery) -> None:
    """Deliver until the reader has ended, time is out, or a stop is asked for.

    A message is settled only after its bytes left the process. Does not raise for what went wrong:
    the report says it.
    """
    sink, wanted, stop, listener, report = to.sink, to.wanted, to.stop, to.listener, to.report
    last = time.monotonic()
    try:
        while not reader.ended:
            wait = 1.0 if wanted.idle is None else min(1.0, last + wanted.idle - time.monotonic())
            messages: Sequence[Received] = ()
            if wait > 0:
                messages = await stop.guard(reader.receive(MAX_MESSAGES, MAX_BYTES, wait))
            tell(reader, listener, report)
            if messages:
                if not await _deliver(reader, messages, to):
                    break
                last = time.monotonic()  # behind the writing: a slow output is not an idle input
            elif sink.abandoned():
                report.output_closed = True
                break
            elif wanted.idle is not None and time.monotonic() - last >= wanted.idle:
                report.error = out_of_time(wanted, f"nothing came for {wanted.idle:g} s,")
                break
            reader.check_gaps()
            reader.gaps.clear()
    except Stopped:
        pass
    except MqcliError as exc:
        report.error = exc
    if stop.reason is ExitCode.TIME_LIMIT:
        if report.error is None and not reader.ended:
            report.error = out_of_time(wanted, "the time was over")
    else:
        report.stopped = stop.reason
    if not isinstance(report.error, OutputError):
        reader.spare()
    report.reconnects = reader.reconnects
    report.given_back = reader.unsettled


def tell(reader: Reader, listener: Listener, report: ReadReport) -> None:
    """Hand on the notes and gaps of the reader; the gaps stay in it for ``check_gaps``."""
    for note in reader.notes:
        listener.note(note)
    reader.notes.clear()
    for gap in reader.gaps:
        report.gaps += 1
        listener.gap(gap)


async def _deliver(reader: Reader, messages: Sequence[Received], to: Delivery) -> bool:
    sink, encoder, stop, report = to.sink, to.encoder, to.stop, to.report
    written = await sink.write(encoder.encode(messages), stop, encoder.ending)
    report.delivered += written
    if written:
        try:
            async with asyncio.timeout(stop.grace if stop.reason is not None else None):
                await reader.settle(written)
        except TimeoutError:  # written, but the broker will deliver them again
            report.late += written
            return False
        report.settled, report.late = reader.settled, reader.late
    if sink.error is not None:
        # Standing still is no failure of its own when the user has asked to stop.
        if stop.reason is None or not isinstance(sink.error, OutputError) or sink.error.why:
            report.error = sink.error
        return False
    if sink.closed:
        report.output_closed = True
        return False
    return True
