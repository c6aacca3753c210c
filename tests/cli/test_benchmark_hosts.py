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
from tests.faults.proxy import Proxy

from .support import PROGRAM, Cli, Result, finish

pytestmark = pytest.mark.alone


def host(ahead: int, *more: str) -> list[str]:
    """The command line in front of a program that puts it on a host whose monotonic clock is so
    many seconds ahead."""
    who = [] if os.getuid() == 0 else ["--map-root-user"]
    return ["unshare", *who, *more, "--time", "--monotonic", str(ahead), "--fork", "--kill-child"]


@pytest.fixture
def hosts() -> Callable[..., list[str]]:
    """Skips with the reason where namespaces are not permitted."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("namespaces need Linux and unshare")
    tried = subprocess.run([*host(1, "--net"), "true"], capture_output=True, text=True, timeout=20)
    if tried.returncode:
        pytest.skip(f"namespaces are not permitted here: {tried.stderr.strip()}")
    return host


def started_on(cli: Cli, where: Sequence[str], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*where, *PROGRAM, *arguments],
        env=cli.env, cwd=cli.home, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def together(
    cli: Cli, agents: Sequence[tuple[list[str], str]], *load: str
) -> tuple[Result, list[Result]]:
    """A benchmark led at the first agent's address, and how it and the agents ended; each agent is
    given as its host and its address."""
    running = [started_on(cli, where, "agent", address) for where, address in agents]
    try:
        done = cli(
            "benchmark", agents[0][1], "--agents", str(len(agents)), "--producers", "2",
            "--consumers", "2", *load, "-o", "json",
        )  # fmt: skip
        return done, [finish(agent, 20) for agent in running]
    finally:
        for agent in running:
            agent.kill()
            agent.communicate()


def test_agents_on_other_hosts_meet_through_the_broker_alone(
    cli: Cli,
    started: Callable[[Callable[[], RedisServer]], RedisServer],
    hosts: Callable[..., list[str]],
    fresh: str,
) -> None:
    # Given a Redis at a socket in the file system, which is all that two hosts without a network
    # have in common, and on them clocks that are an hour and three hours ahead of ours
    server = started(lambda: RedisServer(unix=True))
    address = f"{server.url}/stream:{fresh}"
    agents = [(hosts(hours * 3600, "--net"), address) for hours in (1, 3)]
    # When they make load together, each reading what both publish, at every tenth of a second
    done, ends = together(
        cli, agents, "--rate", "500", "--duration", "1s", "--warmup", "200ms", "--linger", "100ms"
    )
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


def test_end_to_end_is_withheld_where_the_clocks_are_in_doubt(
    cli: Cli,
    started: Callable[[Callable[[], RedisServer]], RedisServer],
    hosts: Callable[..., list[str]],
    fresh: str,
) -> None:
    # Given two hosts with clocks of their own, one of them a slow way from the broker
    server = started(RedisServer)
    destination, hlog = f"stream:{fresh}", cli.home / "a.hlog"
    with Proxy(server.port) as far:
        far.latency = 0.02
        addresses = [f"{server.url}/{destination}", f"redis://127.0.0.1:{far.port}/{destination}"]
        agents = [(hosts((hours + 1) * 3600), address) for hours, address in enumerate(addresses)]
        # When they make load together
        done, ends = together(
            cli, agents, "--rate", "200", "--duration", "1s", "--warmup", "0",
            "--interval", "250ms", "--hlog", str(hlog),
        )  # fmt: skip
    # Then everything arrived, and each one's confirmations are what they are
    assert done.code == 0, (done, ends)
    (run,) = load(done.out, "stdout")
    assert run.delivery is not None and run.delivery.delivered == run.delivery.expected == 400
    assert run.confirm.count == 200
    # And end to end is nowhere: half of the slow way back and forth is in doubt, which is more than
    # a tenth of what would be found
    assert max(machine.clock_doubt_ms for machine in run.machines) > 15
    assert run.end_to_end_note is not None
    assert run.end_to_end_note.startswith("withheld: the hosts' clocks are known to ")
    assert run.end_to_end.count == 0 and run.end_to_end.max is None
    assert sum(row.received for row in run.intervals) == 400
    assert [row.end_to_end.count for row in run.intervals if row.end_to_end.count] == []
    assert "Tag=confirm" in hlog.read_text() and "Tag=end_to_end" not in hlog.read_text()
