"""Flags that a guarantee decides, on the brokers that have it and on those that have not."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.brokers.process import free_port
from tests.brokers.redis import Redis

from .support import Cli


def envelopes(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_peek_at_a_list(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a list, which has no way of its own to be looked at
    address = f"{redis.url}/list:{fresh}"
    cli("publish", address, stdin=b"".join(b"%d\n" % n for n in range(3000))).ok()
    before = redis.cli("LRANGE", fresh, "0", "-1")
    # When it is peeked at, as a whole and by a few
    whole = cli("consume", address, "--peek").ok()
    few = cli("consume", address, "--peek", "-c", "2").ok()
    # Then all is shown, and said to be given back
    assert whole.out.split() == before
    assert few.out == b"0\n1\n"
    assert "given back in its order" in few.err
    # And it is there as it was, with nothing left beside it
    assert redis.cli("LRANGE", fresh, "0", "-1") == before
    cli("consume", address, "-c", "3000", stdout=subprocess.DEVNULL).ok()


def test_peek_survives_a_full_output(cli: Cli, redis: Redis, fresh: str) -> None:
    # When the output of a peek breaks, then it has taken nothing
    address = f"{redis.url}/list:{fresh}"
    cli("publish", address, "a", "b").ok()
    with open("/dev/full", "wb") as full:
        assert cli("consume", address, "--peek", stdout=full).code == 74
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"a", b"b"]


@pytest.mark.parametrize("kind", ["stream", "list", "channel"])
def test_fates_on_redis(cli: Cli, redis: Redis, fresh: str, kind: str) -> None:
    # When messages are published with a report, one of them with what cannot be carried
    data = b'{"value":"a"}\n{"value":"b","headers":[["n",{"t":"i8","v":1}]]}\n{"value":"c"}\n'
    address = f"{redis.url}/{kind}:{fresh}"
    result = cli("publish", address, "-i", "json", "--report", "json", stdin=data)
    # Then each has its fate, and its position where there is one
    assert result.code == 1
    fates = envelopes(result.out)
    assert [line["fate"] for line in fates] == ["confirmed", "refused", "confirmed"]
    ids = [line.get("position") for line in fates if line["fate"] == "confirmed"]
    if kind == "stream":
        got = envelopes(cli("consume", address, "-e", "-o", "json").ok().out)
        assert [m["meta"]["position"] for m in got] == ids
    else:
        assert ids == [None, None]


def test_fates_when_the_broker_is_lost(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given an input that goes on, of which one message is confirmed
    address = f"{redis.url}/stream:{fresh}"
    with cli.start("publish", address, "--report", "json", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"one\n")
        assert json.loads(process.stdout.readline())["fate"] == "confirmed"
        # When its connection is cut, and more comes
        redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        process.stdin.write(b"two\n")
        process.stdin.close()
        rest = envelopes(process.stdout.read())
        # Then no fate is made up, and none is missing
        assert process.wait(20) == 69
        assert [line["fate"] for line in rest] in ([], ["refused"], ["unknown"])


def test_who_reads_the_report_may_go_away(cli: Cli) -> None:
    # When the reader of the report has gone, then everything is published all the same
    result = cli.shell("seq 1 50000 | mqcli publish x --report json | head -1; mqcli ls")
    assert result.code == 0, result
    first, *rest = result.out.splitlines()
    assert json.loads(first) == {"message": 1, "fate": "confirmed", "position": "0"}
    assert b"50000" in rest[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["consume", "redis://h/list:x", "--nack", "drop"], ["reject a message for good"]),
        (["consume", "redis://h/stream:x", "--peek"], ["--peek is for queues"]),
        (["consume", "redis://h/list:x?take=pop", "--peek"], ["nothing can be given back"]),
        (["tail", "redis://h/channel:x", "--ordered", "--bind", "x"], ["--bind"]),
        (["tail", "x", "redis://h/stream:x", "--bind", "x"], ["?bind=PATTERN"]),
        (["consume", "redis://h/list:x", "--skip-bad"], ["--skip-bad cannot be used here"]),
        (["describe", "redis://h/list:x", "-g", "g"], ["no groups"]),
        (["publish", "redis://h/list:x", "v", "--atomic"], ["no transactions"]),
        (["publish", "redis://h/list:x", "v", "--report", "xml"], ["--report"]),
        (["publish", "x", "v", "--timestamp", "noon"], ["--timestamp", "not a time"]),
        (["ls", "redis://h", "--groups"], ["groups cannot be listed"]),
        (["ls", "kafka://h", "--groups", "--kind", "topic"], ["--kind", "--groups"]),
    ],
)
def test_what_is_refused_before_a_socket_opens(cli: Cli, args: list[str], words: list[str]) -> None:
    at = f"127.0.0.1:{free_port()}"
    cli(*(arg.replace("://h", f"://{at}") for arg in args)).fails(2, *words)
