"""kcat and mqcli on both sides of a topic, and topics that change under a reader."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqcli.message import Message
from mqcli.transport import Span
from tests.brokers.kafka import Kafka, KafkaServer
from tests.cli.support import Cli, finish, until
from tests.unit.kafka_support import make, publish, run, topic


def envelopes(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_keys_headers_and_nulls_from_kcat(cli: Cli, kafka: Kafka, fresh: str) -> None:
    # Given messages of kcat's: a key and headers, one of them twice; a tombstone; plain ones
    address = f"{kafka.url}/{fresh}"
    cli("create", address).ok()
    kafka.kcat("-P", "-t", fresh, "-k", "k", "-H", "a=1", "-H", "a=2", "-H", "b=", stdin=b"v\n")
    kafka.kcat("-P", "-t", fresh, "-K", ":", "-Z", stdin=b"gone:\n")
    kafka.kcat("-P", "-t", fresh, stdin="plain\n\u00e9\n".encode())
    # When they are read, then each field is what it was
    got = envelopes(cli("consume", address, "-e", "-o", "json").ok().out)
    assert [(m.get("key"), m["value"]) for m in got] == [
        ("k", "v"), ("gone", None), (None, "plain"), (None, "\u00e9"),
    ]  # fmt: skip
    assert got[0]["headers"] == [["a", "1"], ["a", "2"], ["b", ""]]


def test_keys_headers_and_nulls_for_kcat(cli: Cli, kafka: Kafka, fresh: str) -> None:
    # Given messages of ours
    address = f"{kafka.url}/{fresh}"
    cli("create", address).ok()
    cli("publish", address, "-k", "k", "-H", "a=1", "-H", "a=2", "-H", "b=", "v").ok()
    cli("publish", address, "-k", "gone", "--null").ok()
    # When kcat reads them, then each field is what it was
    out = kafka.kcat(
        "-C", "-t", fresh, "-o", "beginning", "-e", "-q", "-f", "%K %k %S %s %h|"
    )  # fmt: skip
    assert out == b"1 k 1 v a=1,a=2,b=|4 gone -1  |"


def test_several_topics_are_watched_as_one(cli: Cli, kafka: Kafka, fresh: str) -> None:
    # Given a tail of the last message of two topics, and of those that match an expression
    names = [f"{fresh}-{n}" for n in range(4)]
    for name in names:
        cli("create", f"{kafka.url}/{name}").ok()
        kafka.kcat("-P", "-t", name, stdin=f"old {name}\nlast {name}\n".encode())
    first, second = (f"{kafka.url}/{name}" for name in names[:2])
    both = cli("tail", first, second, "-n", "1", "-e").ok()
    assert sorted(both.out.decode().splitlines()) == [f"last {name}" for name in names[:2]]
    wanted = f"{kafka.url}/{fresh}-%5B23%5D"
    args = ("tail", wanted, "-O", "regex=true", "-n", "1", "-c", "4", "-o", "json")
    with cli.start(*args) as process:
        assert process.stdout is not None
        early = [json.loads(process.stdout.readline()) for _ in range(2)]
        # When messages come to all of them
        for name in names:
            kafka.kcat("-P", "-t", name, stdin=b"new\n")
        result = finish(process, 30)
    # Then those of the right ones are seen, each with its own address
    assert result.code == 0, result
    seen = [*early, *envelopes(result.out)]
    assert sorted((m["meta"]["source"], m["value"]) for m in seen) == sorted(
        (f"{kafka.url}/topic:{name}", value)
        for name in names[2:]
        for value in (f"last {name}", "new")
    )


def grown(kafka: Kafka, name: str, partitions: int) -> None:
    """By Kafka's own tool."""
    kafka._java(
        "org.apache.kafka.tools.TopicCommand", "--alter", "--topic", name,
        "--partitions", str(partitions),
    )  # fmt: skip


def test_a_tail_picks_up_new_partitions(
    kafka: Kafka, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqcli.transports import _kafka_log

    monkeypatch.setattr(_kafka_log, "LOOK_AGAIN", 0.2)
    address = f"{kafka.url}/{fresh}"
    run(make(address, 1))

    async def test() -> None:
        async with topic(address) as transport:
            # Given a tail that has begun
            feed = await transport.tail(Span())
            await publish(address, [Message(b"first")])
            # When the topic gets more partitions, and messages in them before anyone looks again
            grown(kafka, fresh, 3)
            async with topic(address) as other:
                told = await other.describe(None)
                assert told["partitions"] == 3
            new = [Message(b"%d" % n, properties={"partition": n}) for n in range(3)]
            await publish(address, new)
            # Then all of them come, and the new partitions are told
            got: dict[bytes | None, str] = {}
            notes: list[str] = []
            deadline = time.monotonic() + 20
            while len(got) < 4 and time.monotonic() < deadline:
                got |= {m.value: m.position for m in await feed.receive(10, 1 << 20, 0.2)}
                notes += feed.notes
                feed.notes.clear()
            assert got == {b"first": "0:0", b"0": "0:1", b"1": "1:0", b"2": "2:0"}
            assert any("partition 1, 2" in note for note in notes), notes
            await feed.aclose()

    run(test())


def test_a_tail_without_a_stop_sees_new_partitions_as_a_program(
    cli: Cli, kafka: Kafka, fresh: str
) -> None:
    # Given the program watching a topic of one partition
    address = f"{kafka.url}/{fresh}"
    cli("create", address).ok()
    kafka.kcat("-P", "-t", fresh, stdin=b"zero\n")
    with cli.start("tail", address, "-n", "1", "-c", "2") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"zero\n"
        # When the topic grows, and a message comes to a new partition
        grown(kafka, fresh, 2)
        kafka.kcat("-P", "-t", fresh, "-p", "1", stdin=b"one\n")
        # Then it is seen within seconds
        result = finish(process, 30)
    assert (result.code, result.out) == (0, b"one\n"), result


def test_a_compacted_log_ends_behind_its_holes(
    cli: Cli, started: Callable[[Callable[[], Any]], Any], fresh: str
) -> None:
    # Given a log of which compaction has left little
    server: KafkaServer = started(lambda: KafkaServer("log.cleaner.backoff.ms=100"))
    address = f"{server.url}/{fresh}"
    config = ("cleanup.policy=compact", "segment.ms=100", "min.cleanable.dirty.ratio=0.01")
    cli("create", address, *(word for pair in config for word in ("-O", f"config={pair}"))).ok()
    total = 0

    def left() -> int:
        return len(cli("consume", address, "-e").ok().out.splitlines())

    def compacted() -> bool:
        nonlocal total
        # A new message of the same key closes the segment before it, which can then be compacted.
        cli("publish", address, "-k", "k", *(str(n) for n in range(total, total + 50))).ok()
        total += 50
        return left() < total - 100

    until(compacted, 60)
    # When it is read to its end, by a group or not, from the beginning or the last of it
    got = cli("consume", address, "-e", "-o", "json").ok().out.splitlines()
    offsets = [int(json.loads(line)["meta"]["position"].partition(":")[2]) for line in got]
    assert json.loads(got[-1])["value"] == str(total - 1) and offsets[-1] == total - 1
    assert len(offsets) < total and offsets == sorted(set(offsets))
    last = cli("tail", address, "-n", "3", "-e").ok().out.split()
    assert last == [str(n).encode() for n in range(total - 3, total)]
    assert cli("consume", address, "-g", fresh, "-e").ok().out.split()[-1] == last[-1]
    # Then it ends, and the group has nothing before it
    (said,) = envelopes(cli("describe", address, "-g", fresh, "-o", "json").ok().out)
    assert said["lag"] == 0
