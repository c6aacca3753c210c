"""Making load for a benchmark that another machine leads."""

from __future__ import annotations

from collections.abc import Callable

from ..benchmark.agents import serve
from ..benchmark.plan import Where
from .stop import Stop

__all__ = ["agent"]


async def agent(where: Where, stop: Stop, say: Callable[[str], None]) -> int:
    """Meet the conductor at this address, and do as told; how many runs it were. Raises
    MqcliError."""
    return await serve(where, stop.requested, say)
