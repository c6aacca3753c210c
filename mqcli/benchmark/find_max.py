"""The highest rate that the whole path sustains without a backlog, and how it fares below that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .result import Report
from .schedule import Phase

__all__ = ["SHARES", "find_max", "sustained"]

SHARES = (0.5, 0.7, 0.9)
_CLOSE = 0.05
"""The search ends when the bounds are this close, of the upper one."""
_TRIALS = 8
Trial = Callable[[tuple[Phase, ...]], Awaitable[Report]]


def sustained(report: Report, rate: float) -> bool:
    """Whether a trial at ``rate`` held: it was sent and confirmed at 99 % of it at least, all was
    delivered, and what stood in between never was more than half a second's worth (at least
    1,000 messages)."""
    rates, delivery = report.rates, report.delivery
    if rates.confirmed_per_s < rate * 0.99 or rates.refused or rates.unknown:
        return False
    if delivery is not None and (delivery.lost or delivery.unseen):
        return False
    return report.max_backlog is None or report.max_backlog <= max(1000, rate / 2)


async def find_max(
    trial: Trial, saturated: Report, seconds: float, told: Callable[[str], None]
) -> tuple[float, list[Report]]:
    """The highest sustained rate, found by halving between nothing and what ``saturated`` reached,
    and its trials. 0 when none was sustained."""
    reached = [saturated.rates.confirmed_per_s]
    if saturated.delivery is not None:
        reached.append(saturated.rates.received_per_s or reached[0])
    low, high = 0.0, max(reached)
    rate, trials = min(reached), []
    for _ in range(_TRIALS):
        if high - low <= _CLOSE * high or rate < 1:
            break
        report = await trial((Phase(rate, seconds),))
        trials.append(report)
        held = sustained(report, rate)
        told(f"{rate:,.0f}/s {'is sustained' if held else 'is too much'}")
        if held:
            low = rate
        else:
            high = rate
        rate = (low + high) / 2
        if not report.complete:
            break
    return low, trials
