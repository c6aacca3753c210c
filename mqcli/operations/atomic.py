"""The end of a publishing that is all or nothing."""

from __future__ import annotations

import asyncio

from ..atomic import AtomicPublisher
from ..errors import MqcliError
from .publish import PublishReport
from .stop import Stop

__all__ = ["conclude"]


async def conclude(publisher: AtomicPublisher, stop: Stop, report: PublishReport) -> None:
    """Commit when all is there, and undo anything else. Does not raise: ``publisher.state`` and
    the report say it."""
    counts = report.counts
    if report.error is None and stop.reason is None and counts.confirmed == counts.submitted:
        try:
            # Not guarded: once asked for, its end is worth waiting for.
            await publisher.commit()
        except MqcliError as exc:
            report.error = exc
        return
    report.stopped = report.stopped or stop.reason
    try:
        async with asyncio.timeout(stop.grace):
            await publisher.abort()
    except TimeoutError:  # the broker undoes it when the transaction's own time is over
        return
