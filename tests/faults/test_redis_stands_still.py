"""A server that is stopped (SIGSTOP): connections stay, and nothing answers."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import pytest

from tests.brokers.redis import RedisServer
from tests.cli.support import PROGRAM, Cli, finish, until

from .proxy import Proxy
from .support import Clock, Output, Started, account, content, length


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_a_publisher_waits_no_longer_than_told(
    cli: Cli, started: Started, fresh: str, kind: str
) -> None:
    # Given a publisher of numbered lines whose input stays open
    server = started(RedisServer)
    words = ["publish", f"{server.url}/{kind}:{fresh}", "--confirm-timeout", "1s"]
    with cli.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        until(lambda: length(server, kind, fresh) == 1)
        # When the server stands still and more comes
        with stopped(server):
            clock = Clock()
            process.stdin.write(b"2\n3\n")
            code = process.wait(10)
            assert process.stderr is not None
            err = process.stderr.read().decode()
            # Then it ends with 69 in time, and the fate of these is unknown
            assert 1 <= clock() < 3
            assert code == 69, err
            assert "gave no answer for 1 s" in err
            assert "published 3 " in err
            assert "1 confirmed, 0 refused, 2 unknown" in err
    # And they are there once: they had been sent
    until(lambda: length(server, kind, fresh) == 3)
    assert content(server, kind, fresh) == [1, 2, 3]


VERBS: list[tuple[list[str], str]] = [
    (["publish", "list", "v"], "open"),
    (["consume", "list", "-c", "1"], "open"),
    (["consume", "stream", "-g", "g", "-e"], "open"),
    (["tail", "channel", "-c", "1"], "open"),
    (["tail", "channel"], "open"),
    (["consume", "list"], "open"),
    (["describe", "stream"], "open"),
    (["purge", "list", "--yes"], "open"),
    (["ls"], "broker"),
    (["ping"], "broker"),
]


def test_no_verb_waits_longer_than_its_limits(cli: Cli, started: Started, fresh: str) -> None:
    # Given a server that stands still from the beginning
    server = started(RedisServer)

    def command(words: list[str], of: str, *limit: str) -> list[str]:
        place = server.url if of == "broker" else f"{server.url}/{words[1]}:{fresh}"
        rest = words[1:] if of == "broker" else words[2:]
        return [*PROGRAM, words[0], place, *rest, *limit]

    with stopped(server):
        for limit, code in ((["--timeout", "1s"], 124), (["--connect-timeout", "1s"], 69)):
            # When every verb is tried, with a limit to all or to connecting
            clock = Clock()
            running = [
                subprocess.Popen(
                    command(words, of, *limit),
                    env=cli.env,
                    cwd=cli.home,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for words, of in VERBS
            ]
            results = [finish(process) for process in running]
            # Then each ends in time, says why in a line, and never pretends to be done
            assert clock() < 20  # ten at once take a while to start
            for (words, _), result in zip(VERBS, results, strict=True):
                assert result.code == code, (words, result)
                assert len(result.lines) == 1, (words, result)
                assert code == 124 or "127.0.0.1" in result.err, (words, result)
                assert result.out == b""


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def test_a_signal_ends_who_waits_for_it(cli: Cli, started: Started, fresh: str) -> None:
    # Given a publisher, consumers and a tail that are at work
    server = started(RedisServer)
    cli("publish", f"{server.url}/stream:{fresh}-s", "first").ok()
    cli("publish", f"{server.url}/list:{fresh}-l", "first").ok()
    commands = [
        ["publish", f"{server.url}/list:{fresh}-p"],
        ["consume", f"{server.url}/list:{fresh}-l"],
        ["consume", f"{server.url}/stream:{fresh}-s", "-g", "g"],
        ["tail", f"{server.url}/channel:{fresh}-c"],
        ["tail", f"{server.url}/channel:{fresh}-c", f"{server.url}/stream:{fresh}-s"],
    ]
    running = [
        subprocess.Popen(
            [*PROGRAM, *words], env=cli.env, cwd=cli.home, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for words in commands
    ]  # fmt: skip
    publisher = running[0]
    assert publisher.stdin is not None
    publisher.stdin.write(b"1\n")
    until(lambda: length(server, "list", f"{fresh}-p") == 1)
    until(lambda: server.cli("PUBLISH", f"{fresh}-c", "first") == 2)
    outputs = [Output(process.stdout) for process in running]
    for output in outputs[1:]:
        output.expect(b"first\n")
    # When the server stands still and they are signalled
    with stopped(server), Proxy(server.port) as proxy:
        publisher.stdin.write(b"2\n")
        connecting = subprocess.Popen(
            [*PROGRAM, "tail", f"redis://127.0.0.1:{proxy.port}/channel:{fresh}-c"],
            env=cli.env, cwd=cli.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(connecting)
        until(lambda: proxy.accepted)
        clock = Clock()
        for process, (number, _) in zip(running, cycle(SIGNALS), strict=False):
            process.send_signal(number)
        results = [finish(process) for process in running]
        # Then all end within five seconds, with the signal's code and no traceback
        assert clock() < 6.5
    for result, (_, code) in zip(results, cycle(SIGNALS), strict=False):
        assert result.code == code, result
        assert "Traceback" not in result.err
    # And the publisher has counted what was on its way
    assert account(results[0])[:4] == (2, 1, 0, 1)


def test_readers_go_on_when_it_wakes_up(cli: Cli, started: Started, fresh: str) -> None:
    # Given readers of all kinds
    server = started(RedisServer)
    server.cli("XADD", f"{fresh}-s", "*", "value", "first")
    server.cli("RPUSH", f"{fresh}-l", "first")
    with (
        cli.start("consume", f"{server.url}/list:{fresh}-l") as a,
        cli.start("consume", f"{server.url}/stream:{fresh}-s", "-g", "g") as b,
        cli.start("tail", f"{server.url}/stream:{fresh}-s", "-n", "1") as c,
        cli.start("tail", f"{server.url}/channel:{fresh}-c") as d,
    ):
        readers = [a, b, c, d]
        outputs = [Output(process.stdout) for process in readers]
        until(lambda: server.cli("PUBLISH", f"{fresh}-c", "first") == 1)
        for output in outputs:
            output.expect(b"first\n")
        # When the server stands still for ten seconds and goes on
        with stopped(server):
            clock = Clock()
            while clock() < 10:
                assert outputs[0].take(0.5)
        server.cli("XADD", f"{fresh}-s", "*", "value", "second")
        server.cli("RPUSH", f"{fresh}-l", "second")
        until(lambda: server.cli("PUBLISH", f"{fresh}-c", "second") == 1)
        # Then they go on, with each message once
        for output in outputs:
            output.expect(b"second\n")
        for process in readers:
            process.send_signal(signal.SIGINT)
        results = [finish(process) for process in readers]
    for output, result in zip(outputs, results, strict=True):
        assert output.lines == [b"first", b"second"]
        assert result.out == b""
        assert result.code == 130, result
    assert server.cli("XPENDING", f"{fresh}-s", "g")[0] == 0


def test_a_retry_waits_for_it(cli: Cli, started: Started, fresh: str) -> None:
    # Given a publisher with --retry that hears nothing from a server that stands still
    server = started(RedisServer)
    words = ["--retry", "--confirm-timeout", "1s", "--connect-timeout", "1s"]
    with cli.start(
        "publish", f"{server.url}/list:{fresh}", *words, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        until(lambda: length(server, "list", fresh) == 1)
        with stopped(server):
            process.stdin.write(b"2\n")
            clock = Clock()
            while clock() < 2.5:
                assert process.poll() is None
                Output(process.stderr).take(0.1)
        # When the server wakes up
        result = finish(process).ok()
    # Then it is sent again, and said that it may be there twice
    told = account(result)
    assert (told.confirmed, told.resent) == (2, 1)
    assert content(server, "list", fresh) == [1, 2, 2]
