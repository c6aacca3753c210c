"""redis-cli and mqcli on both sides of every kind of destination: the bytes are the same."""

from __future__ import annotations

import json
import signal
from base64 import b64decode
from contextlib import ExitStack
from typing import Any

import pytest

from tests.brokers.redis import Redis
from tests.cli.support import Cli, finish, until
from tests.faults.support import Output

ODD = [
    b"",
    b"plain",
    b"two\nlines\r\n",
    b"\x00nul\x00",
    bytes(range(256)),
    b"\xff\xfe\x80",
    b"\x1b]52;c;aGk=\x07\x1b[2J",
    "caf\u00e9 \u202e \U0001f407".encode(),
    b'{"id": 7, "a": [1.00]}',
    b"x" * 70_000,
]


def envelopes(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def value(envelope: dict[str, Any]) -> bytes:
    """The bytes that an envelope means."""
    if "value_base64" in envelope:
        return b64decode(envelope["value_base64"])
    text = envelope["value"]
    assert isinstance(text, str)
    return text.encode()


def framed(values: list[bytes]) -> bytes:
    """Values as the input of ``-i json``, bytes that are not text as base64."""
    from base64 import b64encode

    return b"".join(
        json.dumps({"value_base64": b64encode(one).decode()}).encode() + b"\n" for one in values
    )


def test_a_list_from_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given values that redis-cli pushed
    redis.pipe([["RPUSH", fresh, *ODD]])
    # When they are watched and taken
    address = f"{redis.url}/list:{fresh}"
    seen = cli("tail", address, "-n", "100", "-e", "-o", "json").ok()
    assert [value(e) for e in envelopes(seen.out)] == ODD
    assert redis.cli("LLEN", fresh) == len(ODD)
    taken = cli("consume", address, "-e", "-o", "json").ok()
    # Then they are the same, in order, and gone: no key is left behind
    assert [value(e) for e in envelopes(taken.out)] == ODD
    assert redis.cli("KEYS", f"*{fresh}*") == []


def test_a_list_to_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # When values are published
    cli("publish", f"{redis.url}/list:{fresh}", "-i", "json", stdin=framed(ODD)).ok()
    # Then redis-cli finds exactly these, and takes them
    assert redis.cli("LRANGE", fresh, "0", "-1") == ODD
    assert redis.cli("LPOP", fresh, str(len(ODD))) == ODD


def test_a_list_is_shared_with_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a consumer that waits
    with cli.start("consume", f"{redis.url}/list:{fresh}") as process:
        output = Output(process.stdout)
        # When redis-cli pushes one by one
        for n in range(5):
            redis.cli("RPUSH", fresh, str(n))
            # Then each is written at once
            output.expect(b"%d\n" % n)
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 143
    # And what comes when it has gone is redis-cli's
    redis.cli("RPUSH", fresh, "5")
    assert redis.cli("LPOP", fresh) == b"5"
    assert redis.cli("KEYS", f"*{fresh}*") == []


def test_a_stack(cli: Cli, redis: Redis, fresh: str) -> None:
    # When the other sides are chosen
    address = f"{redis.url}/list:{fresh}"
    cli("publish", address, "-O", "side=left", "1", "2", "3").ok()
    # Then redis-cli sees the last in front, and the right end is taken first
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"3", b"2", b"1"]
    taken = cli("consume", address, "-O", "side=right", "-c", "2").ok()
    assert taken.out == b"1\n2\n"
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"3"]


@pytest.mark.parametrize("group", [[], ["-g", "g"]], ids=["alone", "group"])
def test_a_stream_from_redis_cli(cli: Cli, redis: Redis, fresh: str, group: list[str]) -> None:
    # Given entries that redis-cli added, with fields beside the value, repeated ones too
    redis.pipe(
        [
            ["XADD", fresh, f"{n + 1}-7", "value", one, "trace", "abc", "trace", "\u00e9", "b", one]
            for n, one in enumerate(ODD)
        ]
    )
    # When they are consumed
    got = cli("consume", f"{redis.url}/stream:{fresh}", "-e", "-o", "json", *group).ok()
    # Then values, headers and ids are the same, in order
    found = envelopes(got.out)
    assert [value(e) for e in found] == ODD
    for n, one in enumerate(found):
        assert one["headers"][:2] == [["trace", "abc"], ["trace", "\u00e9"]]
        name, told = one["headers"][2]
        assert name == "b"
        raw = b64decode(told["v"]) if isinstance(told, dict) else told.encode()
        assert raw == ODD[n]
        assert one["meta"]["position"] == f"{n + 1}-7"
        assert one["meta"]["timestamp"] == f"1970-01-01T00:00:00.{n + 1:03d}Z"
        assert "raw_fields" not in one["meta"]
    # And only a group leaves something behind
    groups = redis.cli("XINFO", "GROUPS", fresh)
    assert len(groups) == len(group) // 2
    if group:
        assert redis.cli("XPENDING", fresh, "g")[0] == 0


def test_a_stream_to_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # When values are published, some with headers
    address = f"{redis.url}/stream:{fresh}"
    cli("publish", address, "-i", "json", stdin=framed(ODD)).ok()
    cli("publish", address, "-H", "trace=abc", "-H", "b:bytes=/w==", "with headers").ok()
    # Then redis-cli finds one field each, and the headers behind it
    found = [fields for _, fields in redis.cli("XRANGE", fresh, "-", "+")]
    assert found[:-1] == [[b"value", one] for one in ODD]
    assert found[-1] == [b"value", b"with headers", b"trace", b"abc", b"b", b"\xff"]


def test_entries_without_a_value_are_copied_as_they_are(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given entries of a program that has fields of its own
    entries = [
        ["user", "7", "action", "login"],
        [b"\xff\x00", b"\xfe", "repeated", "1", "repeated", "2"],
        ["", ""],
        ["value", "has one", "and", "more"],
    ]
    redis.pipe([["XADD", fresh, "*", *fields] for fields in entries])
    # When they are read, and their envelopes published to another stream
    first = cli("consume", f"{redis.url}/stream:{fresh}", "-e", "-o", "json").ok()
    shown = envelopes(first.out)
    assert json.loads(shown[0]["value"]) == {"user": "7", "action": "login"}
    assert [e["meta"].get("raw_fields", False) for e in shown] == [True, True, True, False]
    cli("publish", f"{redis.url}/stream:{fresh}-2", "-i", "json", stdin=first.out).ok()
    # Then redis-cli finds the same fields in both
    one, two = (
        [fields for _, fields in redis.cli("XRANGE", name, "-", "+")]
        for name in (fresh, f"{fresh}-2")
    )
    assert one == two
    assert one[1] == [b"\xff\x00", b"\xfe", b"repeated", b"1", b"repeated", b"2"]


def test_a_group_is_shared_with_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a group of which redis-cli has read two entries, and acknowledged one
    address = f"{redis.url}/stream:{fresh}"
    redis.cli("XGROUP", "CREATE", fresh, "g", "0", "MKSTREAM")
    redis.pipe([["XADD", fresh, f"{n}-1", "value", str(n)] for n in range(1, 7)])
    redis.cli("XREADGROUP", "GROUP", "g", "theirs", "COUNT", "2", "STREAMS", fresh, ">")
    assert redis.cli("XACK", fresh, "g", "1-1") == 1
    # When two are consumed
    assert cli("consume", address, "-g", "g", "-c", "2").ok().out == b"3\n4\n"
    # Then redis-cli gets the next, and theirs is still theirs
    reply = redis.cli("XREADGROUP", "GROUP", "g", "theirs", "COUNT", "1", "STREAMS", fresh, ">")
    assert reply[0][1][0][0] == b"5-1"
    assert [entry[0] for entry in redis.cli("XPENDING", fresh, "g", "-", "+", "9")] == [
        b"2-1",
        b"5-1",
    ]
    # And who asks for what has been pending for a moment gets those, marked
    got = cli(
        "consume", address, "-g", "g", "-e", "-O", "claim_after=100ms", "-o", "json", "-c", "3",
        "--idle", "5s",
    )  # fmt: skip
    assert sorted((e["value"], e["meta"]["redelivered"]) for e in envelopes(got.ok().out)) == [
        ("2", True),
        ("5", True),
        ("6", False),
    ]


@pytest.mark.parametrize("kind", ["channel", "pattern"])
def test_a_channel_from_redis_cli(cli: Cli, redis: Redis, fresh: str, kind: str) -> None:
    # Given a tail of a channel, or of all whose names begin so
    name = f"{fresh}.news" if kind == "channel" else f"{fresh}.*"
    with cli.start("tail", f"{redis.url}/{kind}:{name}", "-o", "json") as process:
        output = Output(process.stdout)
        until(lambda: redis.cli("PUBLISH", f"{fresh}.news", "ready") == 1)
        # When redis-cli publishes there, and on another channel
        redis.pipe([["PUBLISH", f"{fresh}.news", one] for one in ODD])
        redis.pipe([["PUBLISH", f"{fresh}.sport", "elsewhere"]])
        redis.pipe([["PUBLISH", f"{fresh}.news", "the end"]])
        output.expect(b"the end")
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    # Then the same bytes came, each with its channel as its source
    found = [e for e in envelopes(bytes(output.data)) if e.get("value") != "ready"]
    at = {f"{redis.url}/channel:{fresh}.news": [*ODD, b"the end"]}
    if kind == "pattern":
        at[f"{redis.url}/channel:{fresh}.sport"] = [b"elsewhere"]
    told: dict[str, list[bytes]] = {}
    for one in found:
        told.setdefault(one["meta"]["source"], []).append(value(one))
    assert told == at


def test_a_channel_to_redis_cli(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given redis-cli listening to the channel and to a pattern
    with ExitStack() as stack:
        plain = stack.enter_context(redis.listening("SUBSCRIBE", fresh))
        pattern = stack.enter_context(redis.listening("PSUBSCRIBE", f"{fresh[:-1]}?"))
        # When values are published, and required to be received by both
        address = f"{redis.url}/channel:{fresh}"
        words = ["-i", "json", "--require-receivers", "2"]
        cli("publish", address, *words, stdin=framed(ODD)).ok()
        # Then both hear exactly these
        name = fresh.encode()
        for one in ODD:
            assert plain.next_reply(10) == [b"message", name, one]
            assert pattern.next_reply(10) == [b"pmessage", name[:-1] + b"?", name, one]


def test_names_that_need_encoding(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given keys with everything in them that means something in an address
    for name, written in (
        (f"{fresh}:a/b?c#d%", f"{fresh}:a%2Fb%3Fc%23d%25"),
        (f"{fresh} \u00e9", f"{fresh}%20\u00e9"),
    ):
        # When one is published to, then redis-cli finds it under that name, and mqcli takes it
        cli("publish", f"{redis.url}/list:{written}", "x").ok()
        assert redis.cli("LRANGE", name, "0", "-1") == [b"x"]
        assert cli("consume", f"{redis.url}/list:{written}", "-e").ok().out == b"x\n"
