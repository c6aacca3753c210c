"""Watching several destinations at once, merged in one view by arrival."""

from __future__ import annotations

import asyncio
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Sequence

from ..errors import ExitCode, GapFound, MqcliError, gravest
from ..message import Received
from ..reader import Reader
from .read import (
    MAX_BYTES,
    MAX_MESSAGES,
    Delivery,
    ReadReport,
    Wanted,
    deliver,
    out_of_time,
    pump,
    tell,
)
from .stop import Stop

__all__ = ["tail"]


async def tail(readers: Sequence[Reader], to: Delivery) -> None:
    """Open all the readers and deliver what they see; what is consumed from one is settled. One
    that cannot be opened stops all; one that is lost later is told and the others go on. Does not
    raise for what went wrong: the report says it."""
    if len(readers) == 1:
        await deliver(readers, to, lambda: pump(readers[0], to))
    else:
        await deliver(readers, to, lambda: _merge(readers, to))


def _graver(error: MqcliError, than: MqcliError) -> bool:
    codes = (error.exit_code, than.exit_code)
    return codes[0] is not codes[1] and gravest(codes) is codes[0]


def _stopped(stop: Stop, wanted: Wanted, report: ReadReport) -> None:
    if stop.reason is not ExitCode.TIME_LIMIT:
        report.stopped = stop.reason
    elif report.error is None:
        report.error = out_of_time(wanted, "the time was over")


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _merge(readers: Sequence[Reader], to: Delivery) -> None:
    sink, encoder, wanted, stop, report = to.sink, to.encoder, to.wanted, to.stop, to.report
    arrived: asyncio.Queue[tuple[Sequence[Received], asyncio.Event] | None] = asyncio.Queue()

    async def watch(reader: Reader) -> None:
        # One batch of each reader at most waits, so that a slow output holds all of them back.
        written = asyncio.Event()
        try:
            while not reader.ended:
                messages = await reader.receive(MAX_MESSAGES, MAX_BYTES, 1.0)
                tell(reader, to.listener, report)
                if messages:
                    written.clear()
                    arrived.put_nowait((messages, written))
                    await written.wait()
                reader.check_gaps()
                reader.gaps.clear()
        except MqcliError as exc:
            if report.error is None or _graver(exc, report.error):
                report.error = exc
            if not isinstance(exc, GapFound):
                to.listener.note(f"{exc}; the others go on")
        finally:
            arrived.put_nowait(None)

    tasks = [asyncio.create_task(watch(reader)) for reader in readers]
    stopping = asyncio.create_task(stop.requested.wait())
    getting = asyncio.create_task(arrived.get())
    open_readers, last = len(readers), time.monotonic()
    done = False
    try:
        while open_readers and not done and stop.reason is None:
            wait = 1.0 if wanted.idle is None else min(1.0, last + wanted.idle - time.monotonic())
            await asyncio.wait((getting, stopping), timeout=wait, return_when=FIRST_COMPLETED)
            if not getting.done():
                if sink.abandoned():
                    break
                if wanted.idle is not None and time.monotonic() - last >= wanted.idle:
                    report.error = report.error or out_of_time(
                        wanted, f"nothing came for {wanted.idle:g} s,"
                    )
                    break
                continue
            item = getting.result()
            getting = asyncio.create_task(arrived.get())
            if item is None:
                open_readers -= 1
                if isinstance(report.error, GapFound) or any(map(_failed, tasks)):
                    break
                continue
            messages, written = item
            if wanted.count is not None:
                messages = messages[: wanted.count - report.delivered]
            report.delivered += await sink.write(encoder.encode(messages), stop, encoder.ending)
            last = time.monotonic()
            written.set()
            done = report.delivered == wanted.count
            if sink.closed or sink.error is not None:
                break
    finally:
        for task in (*tasks, stopping, getting):
            task.cancel()
        await asyncio.gather(*tasks, stopping, getting, return_exceptions=True)
    for task in filter(_failed, tasks):
        task.result()  # raises what nobody expected
    report.reconnects = sum(reader.reconnects for reader in readers)
    report.output_closed = sink.closed
    # Standing still is no failure of its own when the user has asked to stop.
    if sink.error is not None and (stop.reason is None or sink.error.why):
        report.error = sink.error
    if open_readers and not done:
        _stopped(stop, wanted, report)
