"""Standard streams and signals: whatever ends a run, nothing is lost that was not written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.brokers.redis import Redis

from .support import PROGRAM, Cli, finish, until

COUNT = 20_000
SOON = ["-O", "claim_after=1s"]


class Place(NamedTuple):
    """Where messages are taken from, and the words that take them reliably."""

    address: str
    words: list[str]


@pytest.fixture(params=["sqlite", "redis stream", "redis list"])
def place(request: pytest.FixtureRequest, cli: Cli, fresh: str) -> Place:
    """A destination on each broker in turn, with numbered messages in it."""
    broker, _, kind = request.param.partition(" ")
    address = fresh
    if broker == "redis":
        redis: Redis = request.getfixturevalue("redis")
        address = f"{redis.url}/{kind}:{fresh}"
    values = b"".join(b"%06d\n" % n for n in range(COUNT))
    cli("publish", address, stdin=values).ok()
    return Place(address, [*SOON] if kind == "list" else ["-g", "g", *SOON])


def rest(cli: Cli, place: Place) -> set[int]:
    """What the next consumer gets, once the lease of the last has run out."""
    result = cli("consume", place.address, *place.words, "--idle", "2500ms").ok()
    return set(map(int, result.out.split()))


def numbers(out: bytes) -> set[int]:
    """The numbers that were written whole."""
    return set(map(int, out[: out.rfind(b"\n") + 1].split()))


def test_a_reader_that_goes_away(cli: Cli, place: Place) -> None:
    # When only the first line is read from the pipe
    command = " ".join(["mqcli consume", place.address, *place.words])
    result = cli.shell(f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}")
    # Then the consumer ends with 0 and one line that counts what it wrote
    assert result.code == 0, result
    assert result.out == b"000000\n"
    assert len(result.lines) == 1, result
    assert "went away" in result.err
    written = int(result.lines[0].partition(" messages")[0].rpartition(" ")[2])
    # And what it had not written whole comes to the next one: nothing is lost
    left = rest(cli, place)
    assert left >= set(range(written, COUNT)), (written, min(left, default=None), len(left))


def test_a_reader_that_went_away_before_anything_came(cli: Cli, fresh: str) -> None:
    # Given a tail whose pipe nobody reads any more, and nothing to write
    cli("create", fresh).ok()
    with cli.start("tail", fresh) as process:
        assert process.stdout is not None
        process.stdout.close()
        # Then it ends by itself, with 0
        assert process.wait(10) == 0


def test_a_full_disk(cli: Cli, place: Place) -> None:
    # When the output cannot be written
    with Path("/dev/full").open("wb") as full:
        result = cli("consume", place.address, *place.words, stdout=full)
    # Then that is an error, and everything comes to the next one
    assert result.code == 74, result
    assert rest(cli, place) == set(range(COUNT))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_stream(cli: Cli, place: Place, number: signal.Signals) -> None:
    # Given a consumer that is writing into a pipe that is read slowly
    with cli.start("consume", place.address, *place.words) as process:
        assert process.stdout is not None
        first = process.stdout.read(700)
        # When it is signalled
        process.send_signal(number)
        began = time.monotonic()
        result = finish(process)
    # Then it ends within 5 s with the signal's code
    assert time.monotonic() - began < 6
    assert result.code == (130 if number == signal.SIGINT else 143), result
    # And what it did not write comes to the next one, and nothing that it wrote whole
    written, left = numbers(first + result.out), rest(cli, place)
    assert written | left == set(range(COUNT))
    assert not written & left


def test_an_output_that_stands_still(cli: Cli, place: Place) -> None:
    # Given a consumer whose pipe is full and not read
    with cli.start("consume", place.address, *place.words, "-o", "json") as process:
        until(lambda: _blocked(process.pid))
        # When it is signalled
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait(10)
        # Then it ends within 5 s all the same
        assert time.monotonic() - began < 6
        assert code == 143
        assert process.stdout is not None
        written = process.stdout.read().count(b"\n")
    # And what was not written comes to the next one
    left = rest(cli, place)
    assert left >= set(range(written, COUNT)), (written, len(left))


def _blocked(pid: int) -> bool:
    """A thread of the process waits in write(2) on a pipe."""
    threads = Path(f"/proc/{pid}/task").glob("*/wchan")
    if sys.platform != "linux":
        time.sleep(2)
        return True
    return any("pipe_w" in thread.read_text() for thread in threads)


def test_a_time_limit_with_an_output_that_stands_still(cli: Cli, place: Place) -> None:
    # Given a consumer with a time limit, whose pipe is full and not read
    began = time.monotonic()
    limit = ["-c", str(COUNT), "--timeout", "2s"]
    with cli.start("consume", place.address, *place.words, "-o", "json", *limit) as process:
        # Then it ends within 2 s of its limit
        assert process.wait(15) == 124
        assert time.monotonic() - began < 2 + 2 + 1


def test_a_publisher_is_signalled(cli: Cli, fresh: str) -> None:
    # Given a publisher with an endless input
    endless = subprocess.Popen(["yes", "x"], stdout=subprocess.PIPE)
    with cli.start("publish", fresh, stdin=endless.stdout) as process:
        until(lambda: cli("ls").out)
        # When it is signalled
        process.send_signal(signal.SIGTERM)
        result = finish(process)
        endless.kill()
        endless.wait()
        assert endless.stdout is not None
        endless.stdout.close()
    # Then it counts, and what it counted as confirmed is there, and nothing else
    assert result.code == 143, result
    counted = int(result.lines[-1].partition(" confirmed")[0].rpartition(" ")[2])
    assert ", 0 refused, 0 unknown" in result.err
    assert int(cli("ls").ok().out.split()[1]) == counted > 0


@pytest.mark.parametrize("verb", [["consume", "-g", "g"], ["tail", "-n", "9"], ["ls"], ["--help"]])
def test_stdout_is_closed(cli: Cli, verb: list[str]) -> None:
    # Given messages, and a stdout that is closed
    cli("publish", "orders", "a", "b").ok()
    words = [verb[0], *(["orders"] if verb[0] in ("consume", "tail") else []), *verb[1:]]
    result = cli.shell(f"mqcli {' '.join(words)} >&-")
    # Then that is said at once, and nothing was taken
    result.fails(74, "standard output", "closed")
    assert cli("consume", "orders", "-g", "g", "-c", "2").ok().out == b"a\nb\n"


def test_stdin_is_closed(cli: Cli) -> None:
    cli.shell("mqcli publish orders <&-").fails(65, "standard input", "closed")
    assert cli("ls").out == b""


def test_stderr_is_closed(cli: Cli) -> None:
    # When there is nowhere to say anything, then the work is done all the same
    assert cli.shell("mqcli publish orders x 2>&-").code == 0
    assert cli.shell("mqcli consume orders -e 2>&-").out == b"x\n"
    assert cli.shell("mqcli describe nothing 2>&-").code == 66


def test_all_are_closed(cli: Cli) -> None:
    # When no stream is there, so that a broker's file would get the number of one
    assert cli.shell("mqcli publish orders x <&- >&- 2>&-").code == 0
    assert cli.shell("mqcli consume orders <&- >&- 2>&-").code == 74
    # Then the file is what it should be
    assert cli("consume", "orders", "-e").ok().out == b"x\n"


def test_help_into_a_pipe_that_is_closed(cli: Cli) -> None:
    result = cli.shell("mqcli --help | true; exit ${PIPESTATUS[0]}")
    assert (result.code, result.err) == (0, "")


def test_input_as_it_comes(cli: Cli, fresh: str) -> None:
    # Given a publisher whose input stays open
    with cli.start("publish", fresh, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"first\nsec")
        process.stdin.flush()
        # When a line is complete, then it is published at once
        until(lambda: cli("ls").out)
        assert cli("consume", fresh, "-e").out == b"first\n"
        process.stdin.write(b"ond\nlast")
        result = finish(process)
    assert result.ok()
    assert cli("consume", fresh, "-e").out == b"first\nsecond\nlast\n"


def test_a_named_pipe_as_a_file(cli: Cli) -> None:
    # Given a named pipe, whose writer comes later
    script = "mkfifo p; mqcli publish orders -f p & sleep 0.1; seq 3 > p; wait $!"
    # When it is read, then everything comes
    assert cli.shell(script).code == 0
    assert cli("consume", "orders", "-e").out == b"1\n2\n3\n"


def _rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_on_endless_input(cli: Cli, fresh: str) -> None:
    # Given a publisher with an endless input, bounded where it is kept
    size = "x" * 1000
    endless = subprocess.Popen(["yes", size], stdout=subprocess.PIPE)
    words = ["publish", fresh, "-O", "max_messages=10000"]
    with cli.start(*words, stdin=endless.stdout) as process:
        # When it has worked for a while
        seen = []
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert process.poll() is None, finish(process)
            seen.append(_rss(process.pid))
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        result = finish(process)
        endless.kill()
        endless.wait()
        assert endless.stdout is not None
        endless.stdout.close()
    # Then it has not grown beyond what it may use
    assert result.code == 130
    assert max(seen) <= 120, seen[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_while_the_output_stands_still(cli: Cli, place: Place) -> None:
    # Given a consumer whose output nobody reads
    with cli.start("consume", place.address, *place.words, "-o", "json") as process:
        until(lambda: _blocked(process.pid))
        # Then it holds only so much
        assert _rss(process.pid) <= 120


def test_two_consumers_share_a_group(cli: Cli, place: Place) -> None:
    # When two take from the same place at once
    words = [*PROGRAM, "consume", place.address, *place.words, "--idle", "3s"]
    both = [
        subprocess.Popen(words, env=cli.env, cwd=cli.home, stdout=-1, stderr=-1) for _ in range(2)
    ]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda process: finish(process, 40), both))
    # Then together they have everything, and nothing twice
    got = [list(map(int, result.ok().out.split())) for result in results]
    assert sorted(got[0] + got[1]) == list(range(COUNT))


def test_a_consumer_that_is_killed(cli: Cli, place: Place) -> None:
    # Given a consumer that is killed while it writes
    with cli.start("consume", place.address, *place.words) as process:
        assert process.stdout is not None
        first = process.stdout.read(70)
        process.kill()
        out = first + process.stdout.read()
        process.wait()
    # When the next one comes, then it gets all that was not written, and perhaps more
    assert numbers(out) | rest(cli, place) == set(range(COUNT))


def test_a_slow_output_is_no_idle_input(cli: Cli, place: Place) -> None:
    # When the output is read only after longer than a consumer would wait for messages
    command = " ".join(["mqcli consume", place.address, *place.words, "--idle 2s"])
    result = cli.shell(f"{command} | (sleep 3; cat)").ok()
    # Then everything comes
    assert result.out.count(b"\n") == COUNT
