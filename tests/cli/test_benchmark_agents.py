"""Agents and benchmarks that go while others need them, or come while others have them."""

from __future__ import annotations

import signal
import time

import pytest

from mqcli.benchmark.result import load
from tests.brokers.process import wait_until
from tests.brokers.redis import Redis

from .support import Cli, finish

pytestmark = pytest.mark.alone


def flowing(redis: Redis, fresh: str) -> bool:
    """Whether the load of a benchmark has begun."""
    keys = [key for key in redis.cli("KEYS", f"{fresh}.mqcli-*") if b"-meet" not in key]
    return any(redis.cli("XLEN", key) > 20 for key in keys)


def test_an_agent_that_is_stopped_is_not_waited_for(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a benchmark on two agents
    address = f"{redis.url}/stream:{fresh}"
    with (
        cli.start("agent", address) as one,
        cli.start("agent", address) as two,
        cli.start("benchmark", address, "--agents", "2", "--rate", "200", "--duration", "60s",
                  "--warmup", "0", "-o", "json") as process,
    ):  # fmt: skip
        wait_until(lambda: flowing(redis, fresh), "messages flow")
        # When one of them is stopped
        began = time.monotonic()
        one.send_signal(signal.SIGINT)
        done, first, second = finish(process), finish(one), finish(two)
    # Then the benchmark ends at once, says why, and sends the other one home
    assert time.monotonic() - began < 20
    assert done.code == 69 and "an agent was stopped" in done.err, done
    assert (first.code, second.code) == (130, 0)
    # And nothing is left of it
    assert redis.cli("KEYS", f"*{fresh}*") == []


def test_a_benchmark_does_not_take_the_agents_of_another(
    cli: Cli, redis: Redis, fresh: str
) -> None:
    # Given a benchmark under way on an agent
    address = f"{redis.url}/stream:{fresh}"
    load_of = ("--agents", "1", "--warmup", "0", "-o", "json", "--rate")
    with (
        cli.start("agent", address) as agent,
        cli.start("benchmark", address, *load_of, "100", "--duration", "6s") as first,
    ):
        wait_until(lambda: flowing(redis, fresh), "messages flow")
        # When another one is started at the same address
        with cli.start("benchmark", address, *load_of, "700", "--duration", "1s") as second:
            done, home = finish(first), finish(agent)
            second.send_signal(signal.SIGINT)
            other = finish(second)
    # Then the first one's figures are its own
    assert (done.code, home.code) == (0, 0), (done, home)
    (run,) = load(done.out, "stdout")
    assert run.complete and run.rates.confirmed == 600
    assert run.delivery is not None and run.delivery.delivered == 600
    # And the other one had nobody, and reports nothing
    assert (other.code, other.out) == (130, b"")
    assert redis.cli("KEYS", f"*{fresh}*") == []
