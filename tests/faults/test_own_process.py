"""What happens to mqcli itself: stopped, killed, its destination taken away beneath it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time

import pytest

from tests.brokers.redis import Redis
from tests.cli.support import Cli, Result, finish, until

from .support import Feeder, Output, counting, length

COUNT = 5000
LINES = b"".join(b"%06d\n" % n for n in range(COUNT))


@pytest.fixture(params=["sqlite", "stream", "list"])
def place(request: pytest.FixtureRequest, cli: Cli, fresh: str) -> tuple[str, list[str]]:
    """A destination with numbered messages, and the words that take them with a short lease."""
    words = ["-O", "claim_after=1s", *([] if request.param == "list" else ["-g", "g"])]
    address = fresh
    if request.param != "sqlite":
        redis: Redis = request.getfixturevalue("redis")
        address = f"{redis.url}/{request.param}:{fresh}"
    cli("publish", address, stdin=LINES).ok()
    return address, words


def test_a_sleeper_that_wakes_up(cli: Cli, place: tuple[str, list[str]]) -> None:
    # Given a consumer that has taken messages, written some, and is stopped
    address, words = place
    with cli.start("consume", address, *words, "-o", "json") as sleeper:
        slow = Output(sleeper.stdout)
        slow.until(lambda: len(slow.lines) > 50)
        sleeper.send_signal(signal.SIGSTOP)
        # When its lease has run out, another takes what it held
        other = cli("consume", address, *words, "--idle", "2500ms").ok()
        assert other.out
        # And it wakes up, and is told to end
        sleeper.send_signal(signal.SIGCONT)
        sleeper.send_signal(signal.SIGTERM)
        while slow.take(10):
            pass
        sleeper.wait(10)
        assert sleeper.stderr is not None
        result = Result(sleeper.returncode, b"", sleeper.stderr.read().decode())
    # Then nothing is lost, and what both wrote it calls too late
    assert result.code == 143, result
    mine = [int(json.loads(line)["value"]) for line in slow.lines]
    theirs = list(map(int, other.out.split()))
    rest = cli("consume", address, *words, "--idle", "1500ms").ok().out
    assert set(mine) | set(theirs) | set(map(int, rest.split())) == set(range(COUNT))
    assert len(set(theirs)) == len(theirs)
    if set(mine) & set(theirs):
        assert "too late, so that they will be delivered again" in result.err, result


def test_a_publisher_is_killed(cli: Cli, fresh: str) -> None:
    # Given a publisher to the embedded broker in full flow
    with counting() as numbers, cli.start("publish", fresh, stdin=numbers) as process:
        until(lambda: cli.file.exists() and int(_position(cli, fresh)) > 20_000)
        # When it is killed
        process.kill()
        process.wait()
    # Then the broker is whole: what is there is the beginning of the input, once and in order
    found = list(map(int, cli("consume", fresh, "-e").ok().out.split()))
    assert len(found) > 20_000
    assert found == list(range(1, len(found) + 1))
    # And others go on with it
    cli("publish", fresh, "last").ok()
    assert cli("tail", fresh, "-n", "1", "-e").ok().out == b"last\n"


def _position(cli: Cli, name: str) -> int:
    result = cli("describe", name, "-o", "json")
    return 0 if result.code else int(json.loads(result.out)["messages"])


def test_two_publishers_and_two_consumers_of_one_file(cli: Cli, fresh: str) -> None:
    # Given two publishers and two consumers of a group, all at once on one file
    cli("create", fresh).ok()
    words = ["consume", fresh, "-g", "g", "--idle", "3s"]
    with (
        cli.start("publish", fresh, stdin=subprocess.PIPE) as a,
        cli.start("publish", fresh, stdin=subprocess.PIPE) as b,
        cli.start(*words) as c,
        cli.start(*words) as d,
    ):
        feeders = []
        for process in (a, b):
            assert process.stdin is not None
            feeders.append(Feeder(process.stdin))
            process.stdin = None
        outputs = [Output(process.stdout) for process in (c, d)]
        for output in outputs:
            output.until(lambda output=output: len(output.lines) > 2000)
        for feeder in feeders:
            feeder.end()
        for process in (a, b):
            finish(process, 30).ok()
        total = sum(feeder.count for feeder in feeders)
        end = time.monotonic() + 30
        while sum(len(output.lines) for output in outputs) < total:
            assert time.monotonic() < end
            for output in outputs:
                output.take(0.01)
        for process in (c, d):
            assert finish(process, 30).ok().out == b""
    # Then every number came as often as it was published, and none more
    found = sorted(int(line) for output in outputs for line in output.lines)
    assert found == sorted(n for f in feeders for n in range(1, f.count + 1))


def test_a_file_that_another_program_keeps_locked(cli: Cli, fresh: str) -> None:
    # Given an embedded broker that another program is writing to
    cli("publish", fresh, "first").ok()
    other = sqlite3.connect(cli.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    # When a message is published, for which there is one second
    began = time.monotonic()
    result = cli("publish", fresh, "second", "--confirm-timeout", "1s")
    # Then it is refused in time, and certainly not there
    assert time.monotonic() - began < 1 + 2
    assert result.code in (69, 75), result
    assert "locked" in result.err, result
    assert "1 refused, 0 unknown" in result.err
    # And readers are not disturbed
    assert cli("consume", fresh, "-e").ok().out == b"first\n"
    other.execute("ROLLBACK")
    other.close()
    cli("publish", fresh, "third").ok()
    assert cli("consume", fresh, "-e").ok().out == b"first\nthird\n"


@pytest.mark.parametrize("words", [["consume"], ["consume", "-g", "g"], ["tail", "-n", "1"]])
@pytest.mark.parametrize("kind", ["sqlite", "stream"])
def test_a_destination_that_is_deleted(
    cli: Cli, redis: Redis, fresh: str, kind: str, words: list[str]
) -> None:
    # Given a reader that waits for more
    address = fresh if kind == "sqlite" else f"{redis.url}/stream:{fresh}"
    cli("publish", address, "first").ok()
    with cli.start(words[0], address, *words[1:]) as process:
        Output(process.stdout).expect(b"first\n")
        # When the destination is deleted
        cli("delete", address, "--yes").ok()
        result = finish(process)
    # Then it says so, and does not bring it back
    assert result.code == 66, result
    assert "Traceback" not in result.err
    cli("describe", address).fails(66)


def test_a_list_may_be_deleted(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a consumer that waits at a list
    with cli.start("consume", f"{redis.url}/list:{fresh}") as process:
        output = Output(process.stdout)
        redis.cli("RPUSH", fresh, "first")
        output.expect(b"first\n")
        # When it is deleted, with what others know of it, and comes to be again
        redis.cli("DEL", fresh, *redis.cli("KEYS", f"*{fresh}*"))
        redis.cli("RPUSH", fresh, "second")
        # Then it goes on: an empty list is one that is not there
        output.expect(b"second\n")
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    assert length(redis, "list", fresh) == 0
