"""However a benchmark ends, it says so: no figures are lost, none is made up, and the exit code is
not that of success."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mqcli.benchmark.result import Report, load
from tests.brokers.process import wait_until
from tests.brokers.redis import Redis, RedisServer
from tests.cli.support import Cli, Result, finish

from .test_benchmark_truth import PLUGIN

pytestmark = pytest.mark.alone


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path)
    made.env["PYTHONPATH"] = str(PLUGIN)
    return made


def runs_of(done: Result) -> list[Report]:
    assert done.out, done
    return load(done.out, "stdout")


def benchmark_while_killing(
    cli: Cli, server: RedisServer, when: Callable[[], bool], *arguments: str
) -> Result:
    """The broker is killed when the condition is true for the first time."""
    with cli.start("benchmark", "-o", "json", *arguments) as process:
        wait_until(lambda: when() or process.poll() is not None, "it is under way")
        server.kill()
        return finish(process)


def calls(server: RedisServer, command: str) -> int:
    """How often the server was told a command."""
    for line in server.cli("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:calls="):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


def test_a_broker_killed_while_a_backlog_is_filled(
    cli: Cli, started: Callable[[Callable[[], RedisServer]], RedisServer]
) -> None:
    # Given a broker that dies while a backlog is filled, when measured
    server = started(RedisServer)
    done = benchmark_while_killing(
        cli, server, lambda: calls(server, "rpush") + calls(server, "lpush") > 20,
        f"{server.url}/list:gone", "--backlog", "50000000",
    )  # fmt: skip
    # Then that is the end: what was filled is reported, and not drained as if it were the whole
    assert done.code == 69, done
    (run,) = runs_of(done)
    assert run.model == "backlog"
    assert not run.complete and run.errors and run.exit_code == 69
    assert run.rates.received == 0
    assert "it was not drained" in run.notes


def test_a_broker_killed_during_a_search(
    cli: Cli, started: Callable[[Callable[[], RedisServer]], RedisServer]
) -> None:
    # Given a broker that dies while the highest rate is sought, when measured
    server = started(RedisServer)
    done = benchmark_while_killing(
        cli, server, lambda: calls(server, "rpush") + calls(server, "lpush") > 20,
        f"{server.url}/list:gone", "--find-max", "--duration", "30s", "--only", "publish",
    )  # fmt: skip
    # Then no highest rate is given, and it did not succeed
    assert done.code == 69, done
    (run,) = runs_of(done)
    assert run.highest_rate is None
    assert not run.complete and run.errors


def test_a_broker_killed_in_the_second_of_several_runs(
    cli: Cli, started: Callable[[Callable[[], RedisServer]], RedisServer]
) -> None:
    # Given a broker that dies after the first of three runs, when measured
    server = started(RedisServer)
    seen: set[bytes] = set()

    def second() -> bool:
        seen.update(server.cli("KEYS", "gone.mqcli-*"))
        return len(seen) > 1

    done = benchmark_while_killing(
        cli, server, second, f"{server.url}/list:gone", "--rate", "200", "--duration", "2s",
        "--warmup", "0", "--repeat", "3", "--only", "publish",
    )  # fmt: skip
    # Then the first run's figures are there, and it is said that the others are not
    assert done.code == 69, done
    first = runs_of(done)[0]
    assert first.rates.confirmed == 400
    assert len(runs_of(done)) < 3
    assert any(run.errors for run in runs_of(done))


def test_what_is_missing_of_a_backlog_is_not_waited_for_for_ever(cli: Cli, redis: Redis) -> None:
    # Given a broker that drops every hundredth message that it confirms
    address = f"faultyredis://{redis.url.partition('://')[2]}/stream:backlog"
    # When a backlog is filled and drained
    done = cli("benchmark", address, "--backlog", "1000", "--drain", "1s", "-O", "drop=100",
               "-o", "json")  # fmt: skip
    # Then it ends, with those that are missing
    assert done.code == 1, done
    (run,) = runs_of(done)
    assert run.delivery is not None and run.delivery.delivered == run.rates.received == 990
    # (nothing stands behind the very last)
    assert (run.delivery.lost, run.delivery.unseen) == (9, 1)


def test_reading_a_count_that_is_not_there(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a stream of 30, of which 50 are to be read
    redis.pipe([("XADD", fresh, "*", "value", str(number)) for number in range(30)])
    arguments = (f"{redis.url}/stream:{fresh}", "--only", "consume", "--use-existing",
                 "--drain", "500ms", "-o", "json")  # fmt: skip
    # When measured, then it ends, tells what there was, and has not done what it was asked for
    done = cli("benchmark", *arguments, "-c", "50")
    assert done.code == 1, done
    (run,) = runs_of(done)
    assert run.rates.received == 30
    assert run.errors == ["only 30 of 50 messages came"]
    # And what stands there is not taken for a warm-up
    (run,) = runs_of(cli("benchmark", *arguments, "-c", "30").ok())
    assert run.rates.received == 30
    # And a rate that is mostly of waiting says so
    (run,) = runs_of(cli("benchmark", *arguments, "--duration", "2s", "--warmup", "0").ok())
    assert any("nothing came for" in note for note in run.notes)


@pytest.mark.parametrize("phase", ["opening", "warm-up", "drain"])
def test_an_interrupt_ends_every_phase(cli: Cli, redis: Redis, fresh: str, phase: str) -> None:
    # Given a benchmark whose every phase is long: its consumer takes 20 messages/s, of 400
    length = "5s" if phase == "drain" else "60s"
    warmup = "30s" if phase == "warm-up" else "0"
    rate = ("--rate", "80", "--duration", length, "--warmup", warmup, "--drain", "60s")
    waits = {"opening": 0, "warm-up": 30, "drain": 400}[phase]

    def published() -> int:
        return sum(redis.cli("XLEN", key) for key in redis.cli("KEYS", f"{fresh}.*"))

    with cli.start("benchmark", f"{redis.url}/stream:{fresh}", *rate, "--consumer-delay", "50ms",
                   "-o", "json") as process:  # fmt: skip
        if phase == "opening":
            wait_until(lambda: redis.cli("KEYS", f"{fresh}.*"), "it is there")
        else:
            wait_until(lambda: published() > waits, "it is there")
        # When interrupted
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        done = finish(process)
    # Then it ends in time, nothing is left behind, and what was measured is shown
    assert done.code == 130, done
    assert time.monotonic() - began < 4.5
    assert redis.cli("KEYS", f"{fresh}*") == []
    for run in load(done.out, "stdout") if done.out else []:
        assert not run.complete
        assert run.delivery is None or run.delivery.lost == 0
    if phase == "drain":
        (run,) = runs_of(done)
        assert run.rates.confirmed == 400
        assert run.delivery is not None and run.delivery.unseen > 100
    if phase == "warm-up":
        (run,) = runs_of(done)
        assert (run.rates.published, run.rates.received, run.end_to_end.count) == (0, 0, 0)


@pytest.mark.parametrize("flag", ["--save", "--html", "--prometheus", "--hlog"])
def test_a_full_disk_does_not_cost_the_report(
    cli: Cli, redis: Redis, fresh: str, tmp_path: Path, flag: str
) -> None:
    # Given a file that cannot be written, which shows at the end only, and one that can
    good, other = str(tmp_path / "good"), "--html" if flag == "--save" else "--save"
    # When measured
    done = cli("benchmark", f"{redis.url}/list:{fresh}", "--rate", "200", "--duration", "300ms",
               "--warmup", "0", flag, "/dev/full", other, good, "--fail-if", "lost>5",
               "-o", "json")  # fmt: skip
    # Then that is said, the other file and the report are there, and the rules were judged
    assert done.code == 74
    assert "/dev/full" in done.err and "No space left" in done.err
    assert "lost>5 kept" in done.err
    assert runs_of(done)[0].rates.confirmed == 60
    assert Path(good).stat().st_size > 1000


def test_a_first_message_does_not_pay_for_what_can_be_made_before(
    cli: Cli, redis: Redis, fresh: str
) -> None:
    # Given the shortest run, when its service time is measured without any warm-up
    found = []
    for _ in range(3):
        done = cli("benchmark", f"{redis.url}/list:{fresh}", "-c", "1", "--warmup", "0",
                   "--only", "publish", "-o", "json").ok()  # fmt: skip
        (run,) = runs_of(done)
        assert run.service.max is not None
        found.append(run.service.max)
    # Then the tables of its stamps, which take tens of milliseconds, are not in it
    assert min(found) < 25
