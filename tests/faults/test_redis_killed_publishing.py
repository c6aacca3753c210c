"""``kill -9`` of the server while messages are published: every one of them is accounted for."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.support import Cli, finish, until

from .support import Clock, Feeder, Started, account, content, counting, durable, length

KINDS = pytest.mark.parametrize("kind", ["list", "stream"])


@KINDS
def test_without_retry_everything_is_accounted_for(
    cli: Cli, started: Started, fresh: str, kind: str
) -> None:
    # Given a publisher in full flow on a server that writes to disk before it answers
    server = started(durable)
    with (
        counting() as numbers,
        cli.start("publish", f"{server.url}/{kind}:{fresh}", stdin=numbers) as process,
    ):
        until(lambda: length(server, kind, fresh) > 20_000)
        # When the server is killed
        clock = Clock()
        server.kill()
        result = finish(process)
    # Then the publisher ends at once with 69, with all that it read counted
    assert clock() < 5
    assert result.code == 69, result
    assert "Traceback" not in result.err
    told = account(result)
    assert told.unknown > 0, "the kill came between two batches"
    # And after a restart what was confirmed is there, in order and once, and nothing is there
    # that was not at least unknown
    server.start()
    found = content(server, kind, fresh)
    assert found == list(range(1, len(found) + 1))
    assert told.confirmed <= len(found) <= told.confirmed + told.unknown


@KINDS
def test_with_retry_nothing_is_lost(cli: Cli, started: Started, fresh: str, kind: str) -> None:
    # Given a publisher with --retry in full flow
    server = started(durable)
    words = ["publish", f"{server.url}/{kind}:{fresh}", "--retry"]
    with cli.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        feeder = Feeder(process.stdin)
        process.stdin = None  # the feeder's to close
        until(lambda: length(server, kind, fresh) > 20_000)
        # When the server is killed and comes back, twice
        for _ in range(2):
            server.kill()
            server.start()
            before = length(server, kind, fresh)
            until(lambda before=before: length(server, kind, fresh) > before)
        feeder.end()
        result = finish(process)
    # Then it ends well, having counted what it sent again
    told = account(result.ok())
    assert told.submitted == told.confirmed == feeder.count
    assert told.resent > 0
    # And everything is there, in order, and what is there twice is among what was sent again
    found = content(server, kind, fresh)
    assert list(dict.fromkeys(found)) == list(range(1, feeder.count + 1))
    assert len(found) - feeder.count <= told.resent


@KINDS
def test_with_retry_a_server_that_stays_away(
    cli: Cli, started: Started, fresh: str, kind: str
) -> None:
    # Given a publisher with --retry for one second
    server = started(durable)
    words = ["publish", f"{server.url}/{kind}:{fresh}", "--retry", "--reconnect-for", "1s"]
    with counting() as numbers, cli.start(*words, stdin=numbers) as process:
        until(lambda: length(server, kind, fresh) > 20_000)
        # When the server is killed and stays away
        clock = Clock()
        server.kill()
        result = finish(process)
    # Then it ends with 69 when that time is over, and the account is right
    assert 1 <= clock() < 4
    assert result.code == 69, result
    assert "1 s" in result.lines[0]
    told = account(result)
    server.start()
    found = content(server, kind, fresh)
    assert found == list(range(1, len(found) + 1))
    assert told.confirmed <= len(found) <= told.confirmed + told.unknown


def test_a_server_lost_while_the_input_waits(cli: Cli, started: Started, fresh: str) -> None:
    # Given a publisher whose input stays open, and says nothing
    server = started(durable)
    words = ["publish", f"{server.url}/list:{fresh}"]
    with cli.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        until(lambda: length(server, "list", fresh) == 1)
        server.kill()
        # When the next line comes
        process.stdin.write(b"2\n")
        # Then it does not wait for the end of its input
        code = process.wait(10)
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert code == 69, err
    assert "1 confirmed, 1 refused, 0 unknown" in err or "1 confirmed, 0 refused, 1 unknown" in err
