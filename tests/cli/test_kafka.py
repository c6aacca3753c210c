"""The verbs on Kafka, as their user meets them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.kafka import Kafka, KafkaServer
from tests.brokers.process import free_port

from .support import Cli, finish, until


def envelopes(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def topic(cli: Cli, kafka: Kafka, fresh: str) -> str:
    """The address of a new topic of three partitions."""
    address = f"{kafka.url}/{fresh}"
    cli("create", address, "-O", "num_partitions=3").ok()
    return address


def spread(cli: Cli, topic: str) -> None:
    """The numbers from 0 to 8, number n in partition n % 3 and of the time n."""
    lines = "".join(
        json.dumps({"value": str(n), "properties": {"partition": n % 3},
                    "meta": {"timestamp": 1_700_000_000_000 + n}}) + "\n"
        for n in range(9)
    )  # fmt: skip
    cli("publish", topic, "-i", "json", "--keep-timestamp", stdin=lines.encode()).ok()


# --- publish --------------------------------------------------------------------------------------


def test_each_message_has_its_fate_and_position(cli: Cli, topic: str) -> None:
    # Given messages for partitions, one of which does not exist, one with another's time
    lines = [
        {"value": "a", "properties": {"partition": 2}},
        {"value": "b", "properties": {"partition": 7}},
        {"value": "c", "properties": {"partition": 2}},
        {"value": "d", "meta": {"position": "1:40", "timestamp": "2026-01-31T12:00:00.123Z"}},
        {"key": "k", "value": None},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    keep = ["--keep-partition", "--keep-timestamp"]
    # When published with a report
    result = cli("publish", topic, "-i", "json", *keep, "--report", "json", stdin=data)
    # Then each has a line, in the order of the input
    fates = envelopes(result.out)
    assert result.code == 1
    assert [line["message"] for line in fates] == [1, 2, 3, 4, 5]
    assert [line.get("position") for line in fates][:4] == ["2:0", None, "2:1", "1:0"]
    assert (fates[1]["fate"], fates[4]["fate"]) == ("refused", "confirmed")
    assert "no partition 7" in fates[1]["why"]
    # And these are the messages that stand there
    there = {m["meta"]["position"]: m for m in envelopes(
        cli("consume", topic, "-e", "-o", "json").ok().out
    )}  # fmt: skip
    assert {p: m["value"] for p, m in there.items()} == {
        "2:0": "a", "2:1": "c", "1:0": "d", fates[4]["position"]: None,
    }  # fmt: skip
    assert there["1:0"]["meta"]["timestamp"] == "2026-01-31T12:00:00.123Z"


def test_a_report_comes_while_the_input_is_open(cli: Cli, topic: str) -> None:
    # Given an input that goes on
    with cli.start("publish", topic, "--report", "json", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"one\n")
        # Then what became of the first line is told before there is a second one
        assert json.loads(process.stdout.readline())["fate"] == "confirmed"
        process.stdin.write(b"two\n")
        process.stdin.close()
        assert json.loads(process.stdout.readline())["message"] == 2
        assert process.wait(15) == 0


def test_a_long_report_is_complete(cli: Cli, topic: str) -> None:
    # When many messages are published, then the lines are as many, and end up in order
    data = b"".join(b"%d\n" % n for n in range(200_000))
    result = cli("publish", topic, "-O", "partition=0", "--report", "json", stdin=data).ok()
    fates = envelopes(result.out)
    assert [line["message"] for line in fates] == list(range(1, 200_001))
    assert fates[-1]["position"] == "0:199999"


def test_a_report_that_cannot_be_written_is_74(cli: Cli, topic: str) -> None:
    with open("/dev/full", "wb") as full:
        result = cli("publish", topic, "x", "--report", "json", stdout=full)
    assert result.code == 74
    assert "1 confirmed" in result.err


def test_key_null_time_and_partition_are_flags(cli: Cli, kafka: Kafka, topic: str) -> None:
    # When a tombstone, and a value in a partition, are published
    cli("publish", topic, "-k", "k", "--null", "--timestamp", "2026-01-31T12:00:00Z").ok()
    cli("publish", topic, "-P", "partition=1", "-H", "a=1", "v").ok()
    # Then kcat sees them so
    found = {(m.key, m.value) for m in kafka.read(topic.rpartition("/")[2])}
    assert found == {(b"k", None), (None, b"v")}
    (null,) = [
        m for m in envelopes(cli("consume", topic, "-e", "-o", "json").ok().out) if "key" in m
    ]
    assert null["value"] is None
    assert null["meta"]["timestamp"] == "2026-01-31T12:00:00.000Z"


# --- all or nothing -------------------------------------------------------------------------------


def test_atomic_commits_all(cli: Cli, kafka: Kafka, topic: str) -> None:
    # When lines are published in one transaction
    data = b"".join(b"%d\n" % n for n in range(5000))
    result = cli("publish", topic, "--atomic", "-v", "--report", "json", stdin=data).ok()
    # Then that is said, with all positions, and everyone can read them at once
    assert "5000 confirmed, 0 refused, 0 unknown, committed as one transaction" in result.err
    assert len(envelopes(result.out)) == 5000
    name = topic.rpartition("/")[2]
    assert len(kafka.read(name, "-X", "isolation.level=read_committed")) == 5000


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b'{"value":"a"}\n{"value":"b","properties":{"partition":9}}\n{"value":"c"}\n', 1,
         "message 2 refused"),
        (b'{"value":"a"}\n{"value":"b"}\nnonsense\n', 65, "line 3"),
        (b'{"value":"a"}\n{"value":"b","headers":[["n",{"t":"i8","v":1}]]}\n', 1, "message 2"),
    ],
)  # fmt: skip
def test_atomic_is_undone_by_the_first_that_fails(
    cli: Cli, topic: str, data: bytes, code: int, words: str
) -> None:
    # When one of the messages cannot be published
    result = cli("publish", topic, "--atomic", "-i", "json", "--report", "json", stdin=data)
    # Then nothing of it is, nor is anything reported as published
    assert (result.code, result.out) == (code, b"")
    assert words in result.err
    assert " 0 confirmed" in result.err and "undone" in result.err
    assert cli("consume", topic, "-e").ok().out == b""


def test_atomic_reads_its_input_before_it_begins(cli: Cli, topic: str) -> None:
    # Given an atomic publish whose input is still open
    with cli.start("publish", topic, "--atomic", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"atomic\n")
        # When somebody else publishes, then readers see that: nothing holds them up
        cli("publish", topic, "other").ok()
        assert cli("consume", topic, "-e").ok().out == b"other\n"
        # And when it is interrupted, nothing is published
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    assert cli("consume", topic, "-e").ok().out == b"other\n"


def test_atomic_interrupted_in_the_midst_is_undone(
    cli: Cli, topic: str, tmp_path: Path, kafka: Kafka
) -> None:
    # Given an atomic publish of much, which has begun to send
    big = tmp_path / "big.txt"
    big.write_bytes(b"".join(b"%099d\n" % n for n in range(3_000_000)))
    name = topic.rpartition("/")[2]
    with cli.start("publish", topic, "--atomic", "-f", str(big)) as process:
        until(lambda: sent(kafka, name), 60)
        process.send_signal(signal.SIGINT)
        result = finish(process)
    # Then it ends soon, says that nothing was published, and nothing can be seen
    assert result.code == 130, result
    assert " 0 confirmed" in result.err and "undone" in result.err
    assert cli("consume", topic, "-e").ok().out == b""
    # And it holds nobody up
    cli("publish", topic, "next").ok()
    assert cli("consume", topic, "-e").ok().out == b"next\n"


def sent(kafka: Kafka, name: str) -> bool:
    """Whether anything, committed or not, stands in the topic."""
    options = ["-C", "-t", name, "-o", "beginning", "-e", "-q", "-c", "1"]
    return bool(kafka.kcat(*options, "-X", "isolation.level=read_uncommitted"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["publish", "x", "v", "--atomic", "--retry"], ["--atomic", "--retry"]),
        (["publish", "x", "-k", "k", "--null", "v"], ["--null"]),
        (["publish", "x", "v", "--timestamp", "noon"], ["--timestamp", "not a time"]),
        (["publish", "x", "v", "-P", "partition=one"], ["partition=one does not fit"]),
        (["consume", "x", "-O", "partitions=3-1"], ["no range"]),
        (["consume", "x", "-g", "g", "-O", "partitions=0"], ["partitions="]),
        (["consume", "x", "--peek"], ["--peek is for queues"]),
        (["consume", "x", "--nack", "requeue"], ["give back"]),
        (["tail", "x", "--bind", "a"], ["--bind cannot be used here"]),
        (["seek", "x", "-g", "g", "--to", "1..2"], ["is a range"]),
        (["seek", "x", "-g", "g", "--to", "soon later"], ["--to", "not a position"]),
        (["seek", "x", "--to", "end"], ["--group"]),
        (["bind", "x", "topic:y"], ["cannot be bound"]),
    ],
)  # fmt: skip
def test_what_is_refused_before_a_socket_opens(cli: Cli, args: list[str], words: list[str]) -> None:
    verb, name, *rest = args
    cli(verb, f"kafka://127.0.0.1:{free_port()}/{name}", *rest).fails(2, *words)


def test_what_others_cannot_do(cli: Cli) -> None:
    cli("publish", "x", "v", "--atomic").fails(2, "no transactions")
    cli("seek", "x", "-g", "g", "--to", "end").fails(2, "place of a group")
    cli("ls", "--groups").fails(2, "groups cannot be listed")


# --- consume and tail -----------------------------------------------------------------------------


def test_partitions_and_order(cli: Cli, topic: str) -> None:
    # Given messages whose times go around the partitions
    spread(cli, topic)
    # When some partitions are read, then only these are
    some = cli("consume", topic, "-e", "-O", "partitions=0,2").ok().out.split()
    assert sorted(some) == [b"0", b"2", b"3", b"5", b"6", b"8"]
    # And with --ordered all are merged by time, in consume and in tail
    assert b"".join(cli("consume", topic, "-e", "--ordered").ok().out.split()) == b"012345678"
    last = cli("tail", topic, "--ordered", "-n", "4", "-e").ok().out.split()
    assert last == [b"5", b"6", b"7", b"8"]
    # And what has one order anyway is not refused
    cli("publish", "embedded", "x").ok()
    assert cli("consume", "embedded", "-e", "--ordered").ok().out == b"x\n"


def test_what_cannot_be_decoded_is_skipped(
    cli: Cli, started: Callable[[Callable[[], KafkaServer]], KafkaServer], fresh: str
) -> None:
    # Given a log of three batches, of which one was damaged on the disk
    server = started(KafkaServer)
    topic = f"{server.url}/{fresh}"
    for batch in ("one", "two", "three"):
        cli("publish", topic, "--create", batch).ok()
    server.kill()
    (log,) = (server.folder / "data").glob(f"{fresh}-0/*.log")
    # Recovery after a kill looks at checksums; what it has looked at before it does not.
    (server.folder / "data" / ".kafka_cleanshutdown").write_text('{"version":0,"brokerEpoch":-1}')
    log.write_bytes(log.read_bytes().replace(b"two", b"tw0"))
    server.start()
    # When read, then the place is named
    stopped = cli("consume", topic, "-e")
    assert (stopped.code, stopped.out) == (65, b"one\n")
    assert "0:1" in stopped.err and "skip" in stopped.err
    # And with --skip-bad the rest comes, with a gap, and it is not all as asked
    skipped = cli("consume", topic, "-e", "--skip-bad")
    assert (skipped.code, skipped.out) == (1, b"one\nthree\n")
    assert "GAP" in skipped.err and "behind 0:0, before 0:2" in skipped.err


def test_a_missing_topic_is_66_with_the_nearest(cli: Cli, kafka: Kafka, topic: str) -> None:
    # When a topic with a typo is read, described, sought or written to
    wrong = f"{topic}x"
    nearest = f"did you mean {topic.rpartition('/')[2]!r}?"
    for args in (
        ["consume", wrong, "-e"], ["tail", wrong], ["describe", wrong], ["purge", wrong, "--yes"],
        ["seek", wrong, "-g", "g", "--to", "end"], ["consume", wrong, "-g", "g"],
    ):  # fmt: skip
        cli(*args).fails(66, nearest)
    sent = cli("publish", wrong, "x")
    assert sent.code == 66 and nearest in sent.err
    # Then it has not come to be
    assert f"{topic}x".rpartition("/")[2] not in kafka.topics()


def test_tail_by_a_regular_expression(cli: Cli, kafka: Kafka, topic: str, fresh: str) -> None:
    # Given two topics that match, with a message each
    second = f"{kafka.url}/{fresh}-2"
    cli("publish", second, "--create", "two").ok()
    cli("publish", topic, "one").ok()
    # When what matches is watched, then both are seen
    seen = cli("tail", f"{kafka.url}/{fresh}.*", "-O", "regex=true", "-n", "5", "-e").ok()
    assert sorted(seen.out.split()) == [b"one", b"two"]


# --- groups ---------------------------------------------------------------------------------------


@pytest.fixture
def group(cli: Cli, topic: str, fresh: str) -> Iterator[str]:
    """A group that has read the topic, which has three messages in each partition."""
    spread(cli, topic)
    assert len(cli("consume", topic, "-g", f"g-{fresh}", "-e").ok().out.split()) == 9
    yield f"g-{fresh}"


def test_groups_are_listed_and_described(cli: Cli, kafka: Kafka, topic: str, group: str) -> None:
    # When the groups are listed, then ours is there
    listed = envelopes(cli("ls", kafka.url, "--groups", "-o", "json").ok().out)
    assert {"group": group, "state": "Empty", "members": 0} in listed
    assert group in cli("ls", kafka.url, "--groups").ok().out.decode()
    # And its lag is described, by partition
    cli("publish", topic, "-P", "partition=1", "more").ok()
    (said,) = envelopes(cli("describe", topic, "-g", group, "-o", "json").ok().out)
    assert (said["state"], said["lag"]) == ("Empty", 1)
    assert [row["lag"] for row in said["partition"]] == [0, 1, 0]
    assert [row["committed"] for row in said["partition"]] == [3, 3, 3]


def test_seek_shows_first_and_commits_with_yes(cli: Cli, topic: str, group: str) -> None:
    def seek(*args: str) -> list[tuple[int, int]]:
        result = cli("seek", topic, "-g", group, "-o", "json", *args).ok()
        rows = envelopes(result.out)
        assert all(row["done"] == ("--yes" in args) for row in rows)
        return [(row["committed"], row["to"]) for row in rows]

    # When asked where a place would be, then nothing is changed
    assert seek("--to", "+1") == [(3, 1), (3, 1), (3, 1)]
    assert seek("--to", "-2") == [(3, 3), (3, 2), (3, 2)]
    shown = cli("seek", topic, "-g", group, "--to", "@1700000000003").ok()
    assert "nothing was committed" in shown.err and "--yes" in shown.err
    assert [line.split() for line in shown.out.decode().splitlines()] == [
        ["partition", "committed", "to"], ["0", "3", "1"], ["1", "3", "1"], ["2", "3", "1"],
    ]  # fmt: skip
    # When it is to be done, then the group goes on there, in the partitions that were named
    assert seek("--to", "0:1", "--to", "2:2", "--yes") == [(3, 1), (3, 2)]
    again = cli("consume", topic, "-g", group, "-e").ok().out.split()
    assert sorted(again) == [b"3", b"6", b"8"]


def test_seek_is_refused_while_the_group_has_members(cli: Cli, topic: str, group: str) -> None:
    # Given a member that has joined
    cli("publish", topic, "new").ok()
    with cli.start("consume", topic, "-g", group) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"new\n"
        # When its group is to be moved, or only asked where to, then that is refused
        for args in ([], ["--yes"]):
            cli("seek", topic, "-g", group, "--to", "beginning", *args).fails(
                1, "in use", "members"
            )
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130
    # And when it is gone, it is done
    cli("seek", topic, "-g", group, "--to", "end", "--yes").ok()


def test_the_broker_is_away(cli: Cli) -> None:
    at = f"kafka://127.0.0.1:{free_port()}/x"
    cli("seek", at, "-g", "g", "--to", "end", "--connect-timeout", "1s").fails(69)
    cli("publish", at, "x", "--atomic", "--connect-timeout", "1s").fails(69)
