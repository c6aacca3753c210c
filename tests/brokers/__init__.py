"""Real brokers for the tests: found, or started on private ports and stopped at the end.

In this order: an address in the environment (``MQCLI_TEST_REDIS=redis://…``), Docker where an
engine answers, the native program on the PATH. One file per broker; each has a class of servers
and functions that start them, and raises :class:`Unavailable` where none can be had. Foreign
clients (redis-cli) are found the same way. Each test process starts its own, lazily: with
pytest-xdist nothing is shared between workers and nothing has to be agreed upon.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from .process import Unavailable

__all__ = ["Unavailable", "need"]

T = TypeVar("T")


def need(broker: str, make: Callable[[], T]) -> T:
    """What ``make`` returns. Where the broker cannot be had the test is skipped with the reason,
    or fails when ``MQCLI_REQUIRE_BROKERS`` says ``all`` or names this broker."""
    try:
        return make()
    except Unavailable as exc:
        required = os.environ.get("MQCLI_REQUIRE_BROKERS", "").split(",")
        if "all" in required or broker in required:
            pytest.fail(f"{broker} is required (MQCLI_REQUIRE_BROKERS): {exc}", pytrace=False)
        pytest.skip(f"no {broker}: {exc}")
