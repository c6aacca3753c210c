"""A network that loses, delays, cuts and slices, between mqcli and a Redis that is well."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.brokers.redis import Redis, RedisServer
from tests.cli.support import Cli, finish, until

from .proxy import Proxy
from .support import Clock, Output, Started, account, content, length


@pytest.fixture
def server(started: Started) -> RedisServer:
    made: RedisServer = started(RedisServer)
    return made


def through(proxy: Proxy, kind: str, name: str) -> str:
    return f"redis://127.0.0.1:{proxy.port}/{kind}:{name}"


@pytest.mark.parametrize(
    ("kind", "command"), [("list", b"RPUSH"), ("stream", b"XADD"), ("channel", b"PUBLISH")]
)
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "silent"])
def test_a_lost_reply_is_unknown_and_sent_once(
    cli: Cli, server: RedisServer, fresh: str, kind: str, command: bytes, cut: bool
) -> None:
    # Given a proxy that loses the reply to a publish, and then the connection or nothing more
    server.cli("CONFIG", "RESETSTAT")
    with Proxy(server.port) as proxy:
        proxy.trigger = command
        words = ["publish", through(proxy, kind, fresh), "1", "--confirm-timeout", "1s"]
        with cli.start(*words) as process:
            until(lambda: _calls(server, command.decode().lower()) == 1)
            if cut:
                proxy.cut()
            result = finish(process)
    # Then its fate is unknown, and it was sent once
    assert result.code == 69, result
    assert account(result)[:4] == (1, 0, 0, 1)
    assert _calls(server, command.decode().lower()) == 1
    if kind != "channel":
        assert content(server, kind, fresh) == [1]


def _calls(server: Redis, command: str) -> int:
    stats = server.cli("INFO", "commandstats").decode()
    _, found, rest = stats.partition(f"cmdstat_{command}:calls=")
    return int(rest.partition(",")[0]) if found else 0


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_what_was_taken_and_never_arrived_comes_to_the_next(
    cli: Cli, server: RedisServer, fresh: str, kind: str
) -> None:
    # Given messages, and a proxy that loses the reply to the taking of them
    cli("publish", f"{server.url}/{kind}:{fresh}", stdin=b"1\n2\n3\n").ok()
    taking = ["-O", "claim_after=1s", *(["-g", "g"] if kind == "stream" else [])]
    with Proxy(server.port) as proxy:
        proxy.trigger = b"RPUSH" if kind == "list" else b"XREADGROUP"  # the script's text has it
        words = ["consume", through(proxy, kind, fresh), *taking, "--reconnect-for", "0"]
        with cli.start(*words) as process:
            until(lambda: proxy.triggered)
            until(lambda: _taken(server, kind, fresh) == 3)
            # When the connection is cut, and the consumer may not come back
            proxy.cut()
            result = finish(process)
    assert result.code == 69, result
    assert result.out == b""
    # Then the next consumer gets them all
    again = cli("consume", f"{server.url}/{kind}:{fresh}", *taking, "-c", "3", "--timeout", "20s")
    assert again.ok().out == b"1\n2\n3\n"


def _taken(server: Redis, kind: str, name: str) -> int:
    if kind == "list":
        return 3 - length(server, kind, name)
    found = server.cli("XPENDING", name, "g")[0]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_segments_of_one_byte_change_nothing(
    cli: Cli, server: RedisServer, fresh: str, kind: str
) -> None:
    # Given values of all bytes, and a proxy that sends byte by byte
    data = b"".join(bytes((n + m) % 256 for m in range(n % 40)) + b"\0end" for n in range(300))
    group = ["-g", "g"] if kind == "stream" else []
    with Proxy(server.port) as proxy:
        proxy.slicing = True
        address = through(proxy, kind, fresh)
        # When they are published and consumed through it
        sent = cli("publish", address, "-D", "\\0end", "-v", stdin=data).ok()
        got = cli("consume", address, "-D", "\\0end", "-e", *group).ok()
    # Then they come through
    assert account(sent).confirmed == 300
    assert got.out == data


def test_a_slow_network_is_no_dead_one(cli: Cli, server: RedisServer, fresh: str) -> None:
    # Given a proxy that delays each chunk by 50 ms
    with Proxy(server.port) as proxy:
        proxy.latency = 0.05
        address = through(proxy, "list", fresh)
        # When much is published with a confirmation time that is longer than one round trip
        data = b"".join(b"%d\n" % n for n in range(20_000))
        cli("publish", address, "--confirm-timeout", "1s", stdin=data).ok()
        # Then all of it is there, and can be taken
        assert cli("consume", address, "-e").ok().out == data


KINDS = pytest.mark.parametrize("kind", ["list", "stream"])


@KINDS
def test_a_publisher_is_reset_after_any_byte(
    cli: Cli, server: RedisServer, fresh: str, kind: str
) -> None:
    with Proxy(server.port) as proxy:
        for after in (0, 5, 12, 13, 15, 16, 30):
            # Given a connection that is reset after some bytes of answers
            name = f"{fresh}-{after}"
            proxy.reset_after = after
            # When two messages are published
            result = cli("publish", through(proxy, kind, name), "1", "2", "-v")
            found = content(server, kind, name)
            # Then they are accounted for, unless it never began
            if "published" not in result.err:
                assert (result.code, found, len(result.lines)) == (69, [], 1), result
                continue
            told = account(result)
            assert told.confirmed <= len(found) <= told.confirmed + told.unknown, result
            assert result.code == (69 if told.unknown or told.refused else 0), result
            assert "Traceback" not in result.err


@KINDS
def test_a_consumer_is_reset_after_any_byte(
    cli: Cli, server: RedisServer, fresh: str, kind: str
) -> None:
    words = ["-O", "claim_after=1s", *(["-g", "g"] if kind == "stream" else [])]
    written: dict[str, bytes] = {}
    with Proxy(server.port) as proxy:
        for after in (5, 13, 20, 40, 80, 200):
            # Given two messages, and a connection that is reset after some bytes of answers
            name = f"{fresh}-{after}"
            cli("publish", f"{server.url}/{kind}:{name}", "1", "2").ok()
            proxy.reset_after = after
            # When they are consumed, without coming back
            address = through(proxy, kind, name)
            result = cli("consume", address, "-e", *words, "--reconnect-for", "0")
            assert result.code in (0, 69), result
            assert "Traceback" not in result.err
            written[name] = result.out
    # Then the next consumer gets what was not written, and perhaps what was
    for name, out in written.items():
        left = b""
        missing = 2 - out.count(b"\n")
        if missing:
            address = f"{server.url}/{kind}:{name}"
            left = cli("consume", address, *words, "-c", str(missing), "--timeout", "15s").ok().out
        assert sorted(out.split() + left.split()) == [b"1", b"2"], (name, out, left)


def test_a_link_that_died_in_silence(cli: Cli, server: RedisServer, fresh: str) -> None:
    # Given a tail of a channel behind a proxy
    with Proxy(server.port) as proxy:
        words = ["tail", through(proxy, "channel", fresh), "-o", "json"]
        with cli.start(*words) as process:
            output, errors = Output(process.stdout), Output(process.stderr)
            until(lambda: server.cli("PUBLISH", fresh, "before") == 1)
            output.expect(b"before")
            # When the connection stays open and nothing passes any more
            proxy.swallow()
            clock = Clock()
            server.cli("PUBLISH", fresh, "never seen")
            # Then that is found out by two periods of ten seconds, and told as a gap
            errors.expect(b'"gap"', 25)
            assert clock() < 22
            gap = json.loads(errors.lines[0])["gap"]
            assert "ping" in gap["reason"]
            # And it listens again: what is published now comes
            until(lambda: server.cli("PUBLISH", fresh, "after") >= 1)
            output.expect(b"after")
            process.send_signal(signal.SIGINT)
            assert finish(process).code == 130
    assert b"never seen" not in output.data


def test_a_publisher_goes_on_through_cuts(cli: Cli, server: RedisServer, fresh: str) -> None:
    # Given a publisher with --retry whose connection is cut five times
    with (
        Proxy(server.port) as proxy,
        cli.start(
            "publish", through(proxy, "stream", fresh), "--retry", "-v", stdin=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None
        for n in range(5):
            process.stdin.write(b"%d\n%d\n" % (2 * n, 2 * n + 1))
            until(lambda n=n: length(server, "stream", fresh) >= 2 * n + 2)
            proxy.cut()
        result = finish(process).ok()
    # Then everything is there, in order, and at most what it says is there twice
    told = account(result)
    found = content(server, "stream", fresh)
    assert told.confirmed == 10
    assert list(dict.fromkeys(found)) == list(range(10))
    assert len(found) <= 10 + told.resent
