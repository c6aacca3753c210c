"""``kill -9`` of the server while messages are read: readers come back, and nothing is lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.brokers.process import wait_until
from tests.brokers.redis import RedisServer
from tests.cli.support import Cli, finish, until

from .support import Clock, Output, Started, account, content, durable, length

COUNT = 60_000
LINES = b"".join(b"%0100d\n" % n for n in range(COUNT))


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_nothing_is_lost(cli: Cli, started: Started, fresh: str, kind: str) -> None:
    # Given a consumer whose output is read slowly
    server = started(durable)
    address = f"{server.url}/{kind}:{fresh}"
    cli("publish", address, stdin=LINES).ok()
    words = ["-o", "json", "-O", "claim_after=1s", *(["-g", "g"] if kind == "stream" else [])]
    with cli.start("consume", address, *words) as process:
        output = Output(process.stdout)
        for bound in (5_000, 20_000):
            output.until(lambda bound=bound: len(output.data) > bound * 100)
            # When the server is killed and comes back, twice
            server.kill()
            server.start()
        # Then the consumer goes on until it has everything
        numbers: dict[int, list[bool]] = {}
        done = 0

        def complete() -> bool:
            nonlocal done
            lines = output.lines
            for line in lines[done:]:
                envelope = json.loads(line)
                again = envelope["meta"]["redelivered"]
                numbers.setdefault(int(envelope["value"]), []).append(again)
            done = len(lines)
            return len(numbers) == COUNT

        output.until(complete)
        process.send_signal(signal.SIGTERM)
        result = finish(process)
    assert result.code == 143, result
    assert "reconnected 2 times" in result.err
    assert not result.out
    # And what came twice was marked, where the broker knows it
    if kind == "stream":
        assert all(all(again[1:]) for again in numbers.values())
    # And nothing is left for the next
    assert cli("consume", address, *words, "--idle", "1500ms").ok().out == b""


def test_a_log_is_read_once_and_in_order(cli: Cli, started: Started, fresh: str) -> None:
    # Given a stream that is read without a group to its end, slowly
    server = started(durable)
    address = f"{server.url}/stream:{fresh}"
    cli("publish", address, stdin=LINES).ok()
    with cli.start("consume", address, "-e") as process:
        output = Output(process.stdout)
        for bound in (5_000, 20_000):
            output.until(lambda bound=bound: len(output.data) > bound * 100)
            # When the server is killed and comes back, twice
            server.kill()
            server.start()
        output.until(lambda: len(output.data) >= len(LINES))
        result = finish(process)
    # Then the reader goes on behind what it has, to the end: each once, in order
    assert result.ok()
    assert output.data == LINES


@pytest.mark.parametrize("kind", ["channel", "pattern"])
def test_a_channel_has_a_gap(cli: Cli, started: Started, fresh: str, kind: str) -> None:
    # Given a tail of a channel, and one with envelopes
    server = started(RedisServer)
    name = fresh if kind == "channel" else f"{fresh[:-1]}*"
    address = f"{server.url}/{kind}:{name}"
    with cli.start("tail", address) as plain, cli.start("tail", address, "-o", "json") as enveloped:
        outputs = [Output(process.stdout) for process in (plain, enveloped)]
        errors = [Output(process.stderr) for process in (plain, enveloped)]
        until(lambda: server.cli("PUBLISH", fresh, "") == 2)
        server.cli("PUBLISH", fresh, "before")
        for output in outputs:
            output.expect(b"before")
        # When the server is killed and comes back
        server.kill()
        server.start()
        # Then both listen again, and what is published goes on
        until(lambda: server.cli("PUBLISH", fresh, "") == 2)
        server.cli("PUBLISH", fresh, "after")
        for output in outputs:
            output.expect(b"after")
        # And each has told of the gap with its span
        for error in errors:
            error.until(lambda error=error: bool(error.lines))
    assert len(errors[0].lines) == 1
    assert errors[0].lines[0].startswith(b"mqcli: GAP: messages of redis://127.0.0.1")
    gap = json.loads(errors[1].lines[0])["gap"]
    assert fresh[:-1] in gap["source"]
    assert gap["since"] <= gap["until"]
    assert "reconnected" in gap["reason"]


def test_a_gap_can_be_a_failure(cli: Cli, started: Started, fresh: str) -> None:
    # Given a tail that is to fail where something may have been missed
    server = started(RedisServer)
    with cli.start("tail", f"{server.url}/channel:{fresh}", "--on-gap", "fail") as process:
        until(lambda: server.cli("PUBLISH", fresh, "seen") == 1)
        # When the server is killed and comes back
        server.kill()
        server.start()
        result = finish(process)
    # Then it ends with 1, having written what it had and told of the gap
    assert result.code == 1, result
    assert result.out == b"seen\n"
    assert "GAP" in result.lines[0]
    assert "--on-gap report" in result.err


@pytest.mark.parametrize("words", [["consume", "list"], ["consume", "stream"], ["tail", "channel"]])
def test_a_server_that_stays_away(cli: Cli, started: Started, fresh: str, words: list[str]) -> None:
    # Given a reader that tries a lost broker for one second
    server = started(RedisServer)
    verb, kind = words
    address = f"{server.url}/{kind}:{fresh}"
    if kind != "channel":
        cli("publish", address, "first").ok()
    group = ["-g", "g"] if kind == "stream" else []
    with cli.start(verb, address, *group, "--reconnect-for", "1s") as process:
        output = Output(process.stdout)
        if kind == "channel":
            until(lambda: server.cli("PUBLISH", fresh, "first") == 1)
        output.expect(b"first\n")
        # When the server is killed and stays away
        clock = Clock()
        server.kill()
        result = finish(process)
    # Then it ends with 69 when that time is over
    assert result.code == 69, result
    assert 0.9 <= clock() < 6
    assert "did not come back within 1 s" in result.lines[0]
    assert "Traceback" not in result.err


@contextmanager
def loading(server: RedisServer) -> Iterator[None]:
    """The server starts, and loads its data until the end of the block."""

    def refuses() -> bool:
        try:
            server.cli("PING")
        except AssertionError as exc:
            return "LOADING" in str(exc)
        return False

    server.process.start(refuses)
    yield
    server.cli("CONFIG", "SET", "key-load-delay", "0")
    wait_until(lambda: not refuses(), "the server has loaded its data")


def test_a_server_that_is_loading(cli: Cli, started: Started, fresh: str) -> None:
    # Given a server that takes very long to load its data, a reader, and a publisher
    slowly = ("key-load-delay 1000", "loading-process-events-interval-bytes 1024")
    server: RedisServer = started(lambda: RedisServer(*slowly))
    address = f"{server.url}/list:{fresh}"
    server.pipe([("SET", f"k{n}", "x") for n in range(60_000)])
    sending = cli.start("publish", f"{address}-2", "--retry", "-v", stdin=-1)
    taking = cli.start("consume", address)
    with sending as publisher, taking as consumer:
        assert publisher.stdin is not None
        publisher.stdin.write(b"1\n")
        until(lambda: length(server, "list", f"{fresh}-2") == 1)
        server.cli("RPUSH", fresh, "before")
        output = Output(consumer.stdout)
        output.expect(b"before\n")
        # When it is killed and comes back
        server.cli("SAVE")
        server.kill()
        with loading(server):
            publisher.stdin.write(b"2\n")
            publisher.stdin.close()
            publisher.stdin = None
            # Then one who comes is told to try again later
            for words in (["publish", address, "x"], ["consume", address], ["ping"]):
                place = [] if len(words) > 1 else [server.url]
                result = cli(*words, *place)
                assert result.code == 75, result
                assert "loading its data; try again" in result.err
                assert len(result.lines) == 1, result
        # And who was there already waits until it is ready
        sent = finish(publisher, 30).ok()
        assert account(sent).confirmed == 2
        server.cli("RPUSH", fresh, "after")
        output.expect(b"after\n")
    assert content(server, "list", f"{fresh}-2") == [1, 2]
