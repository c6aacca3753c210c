"""Watching several destinations at once, merged in one view by arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ..errors import ConnectionLost, ExitCode, MqcliError, NotFound
from ..message import Received
from ..reader import Reader
from .read import (
    MAX_BYTES,
    MAX_MESSAGES,
    Encoder,
    Listener,
    ReadReport,
    Wanted,
    out_of_time,
    pump,
    tell,
)
from .stop import GRACE, Stop, Stopped
from .streams import ByteSink

__all__ = ["tail"]


async def tail(
    readers: Sequence[Reader],
    sink: ByteSink,
    encoder: Encoder,
    wanted: Wanted,
    stop: Stop,
    listener: Listener,
    report: ReadReport,
) -> None:
    """Open all the readers and deliver what they see. One that cannot be opened stops all; one
    that is lost later is told and the others go on. Does not raise for what went wrong: the report
    says it."""
    async with AsyncExitStack() as stack:
        for reader in readers:
            try:
                await stop.guard(stack.enter_async_context(reader))
            except Stopped:
                report.stopped = stop.reason
                return
            except MqcliError as exc:
                report.error = exc
                return
        if len(readers) == 1:
            await pump(readers[0], sink, encoder, wanted, stop, listener, report)
        else:
            await _merge(readers, sink, encoder, wanted, stop, listener, report)


async def _merge(
    readers: Sequence[Reader],
    sink: ByteSink,
    encoder: Encoder,
    wanted: Wanted,
    stop: Stop,
    listener: Listener,
    report: ReadReport,
) -> None:
    arrived: asyncio.Queue[tuple[Sequence[Received], asyncio.Event] | None] = asyncio.Queue()

    async def watch(reader: Reader) -> None:
        # One batch of each reader at most waits, so that a slow output holds all of them back.
        written = asyncio.Event()
        try:
            while not reader.ended:
                messages = await reader.receive(MAX_MESSAGES, MAX_BYTES, 1.0)
                tell(reader, listener, report)
                if messages:
                    written.clear()
                    arrived.put_nowait((messages, written))
                    await written.wait()
                reader.check_gaps()
                reader.gaps.clear()
        except MqcliError as exc:
            if report.error is None or report.error.exit_code < exc.exit_code:
                report.error = exc
            if isinstance(exc, ConnectionLost | NotFound) or exc.exit_code is ExitCode.UNAVAILABLE:
                listener.note(f"{exc}; the others go on")
        finally:
            arrived.put_nowait(None)

    tasks = [asyncio.create_task(watch(reader)) for reader in readers]
    open_readers = len(readers)
    try:
        while open_readers and (wanted.count is None or report.delivered < wanted.count):
            try:
                async with asyncio.timeout(wanted.idle):
                    item = await stop.guard(arrived.get())
            except TimeoutError:
                report.error = out_of_time(wanted, f"nothing came for {wanted.idle:g} s,")
                break
            if item is None:
                open_readers -= 1
                continue
            messages, event = item
            if wanted.count is not None:
                messages = messages[: wanted.count - report.delivered]
            written = await sink.write(encoder.encode(messages), stop.requested, GRACE)
            report.delivered += written
            event.set()
            if sink.closed or sink.error is not None:
                report.output_closed = sink.closed
                report.error = report.error if sink.closed or stop.reason else sink.error
                break
    except Stopped:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    done = wanted.count is not None and report.delivered >= wanted.count
    if stop.reason is ExitCode.TIME_LIMIT:
        if report.error is None and not done:
            report.error = out_of_time(wanted, "the time was over")
    else:
        report.stopped = stop.reason
