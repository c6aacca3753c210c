"""Agents on hosts of their own, as far as one machine has them: each in a network namespace without
any network, and with a clock that shows another time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from mqcli.benchmark.result import load
from tests.brokers.redis import RedisServer

from .support import PROGRAM, Cli, finish

pytestmark = pytest.mark.alone


def host(ahead: int) -> list[str]:
    """The command line in front of a program that puts it on a host whose monotonic clock is so
    many seconds ahead."""
    who = [] if os.getuid() == 0 else ["--map-root-user"]
    return ["unshare", *who, "--net", "--time", "--monotonic", str(ahead), "--fork", "--kill-child"]


@pytest.fixture
def hosts() -> Callable[[int], list[str]]:
    """Skips with the reason where namespaces are not permitted."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("namespaces need Linux and unshare")
    tried = subprocess.run([*host(1), "true"], capture_output=True, text=True, timeout=20)
    if tried.returncode:
        pytest.skip(f"namespaces are not permitted here: {tried.stderr.strip()}")
    return host


def started_on(cli: Cli, where: Sequence[str], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*where, *PROGRAM, *arguments],
        env=cli.env, cwd=cli.home, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_agents_on_other_hosts_meet_through_the_broker_alone(
    cli: Cli,
    started: Callable[[Callable[[], RedisServer]], RedisServer],
    hosts: Callable[[int], list[str]],
    fresh: str,
) -> None:
    # Given a Redis at a socket in the file system, which is all that two hosts without a network
    # have in common, and on them clocks that are an hour and three hours ahead of ours
    server = started(lambda: RedisServer(unix=True))
    address = f"{server.url}/stream:{fresh}"
    agents = [started_on(cli, hosts(hours * 3600), "agent", address) for hours in (1, 3)]
    try:
        # When they make load together, each reading what both publish, at every tenth of a second
        done = cli(
            "benchmark", address, "--agents", "2", "--producers", "2", "--consumers", "2",
            "--rate", "500", "--duration", "1s", "--warmup", "200ms", "--linger", "100ms",
            "-o", "json",
        )  # fmt: skip
        ends = [finish(agent, 20) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.communicate()
    # Then everything arrived, on both
    assert done.code == 0, (done, ends)
    assert [end.code for end in ends] == [0, 0]
    (run,) = load(done.out, "stdout")
    assert len(run.machines) == 2
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (1200, 1200)
    # And the clocks were compared: end to end is of milliseconds, not of hours, and says in what
    # doubt it is
    assert run.end_to_end_note is not None and "clocks are known to" in run.end_to_end_note
    assert all(0 < machine.clock_doubt_ms < 50 for machine in run.machines)
    assert run.end_to_end.count == 1000, run.end_to_end_note
    middle = run.end_to_end.percentiles["p50"]
    assert middle is not None and 20 < middle < 500
    assert run.end_to_end.max is not None and run.end_to_end.max < 5000
    # And nothing is left
    assert server.cli("KEYS", "*") == []
