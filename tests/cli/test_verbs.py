"""What each verb does with its flags, on the embedded broker and on Redis."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.brokers.redis import Redis

from .support import Cli, finish, until


def lines(cli: Cli, *args: str) -> list[str]:
    return cli(*args).ok().out.decode().splitlines()


def envelopes(cli: Cli, *args: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(cli, *args, "-o", "json")]


@pytest.fixture
def ten(cli: Cli) -> str:
    """A topic with the numbers from 0 to 9, at these positions."""
    cli("publish", "ten", stdin=b"".join(b"%d\n" % n for n in range(10))).ok()
    return "ten"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-e"], "0123456789"),
        (["-c", "3"], "012"),
        (["-n", "2", "-e"], "89"),
        (["--from", "-2", "-e"], "89"),
        (["--from", "+7", "-e"], "789"),
        (["--from", "7", "-e"], "789"),
        (["--from", "7", "-c", "1"], "7"),
        (["--from", "beginning", "--to", "3"], "012"),
        (["--from", "2..5"], "234"),
        (["--from", "..2"], "01"),
        (["--from", "2", "--to", "+3"], "234"),
        (["--from", "@1h", "-e"], "0123456789"),
        (["--from", "end", "-e"], ""),
        (["-n", "0", "-e"], ""),
        (["-e", "-c", "2"], "01"),
        (["-e", "-c", "99"], "0123456789"),
    ],
)
def test_reading_a_part(cli: Cli, ten: str, args: list[str], expected: str) -> None:
    assert "".join(lines(cli, "consume", ten, *args)) == expected


def test_tail_begins_at_the_end(cli: Cli, ten: str) -> None:
    # When a tail has shown the last message, and another comes
    with cli.start("tail", ten, "-n", "1", "-c", "2") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"9\n"
        cli("publish", ten, "new").ok()
        result = finish(process)
    # Then that one is shown too, and the tail ends
    assert (result.code, result.out) == (0, b"new\n")
    # And one from the end shows nothing of what was there
    assert lines(cli, "tail", ten, "-e") == []


def test_tail_merges_brokers(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a tail of a topic, a stream and a channel at once
    stream, channel = f"{redis.url}/stream:{fresh}", f"{redis.url}/channel:{fresh}"
    cli("create", fresh).ok()
    cli("publish", stream, "before").ok()
    with cli.start("tail", fresh, stream, channel, "-c", "3", "-o", "json") as process:
        until(lambda: b"1" in str(redis.cli("PUBSUB", "NUMSUB", fresh)[1]).encode())
        # When each gets a message
        cli("publish", fresh, "topic").ok()
        cli("publish", stream, "stream").ok()
        cli("publish", channel, "channel").ok()
        result = finish(process)
    # Then all three are shown, each with the address that it came from
    got = {e["value"]: e["meta"]["source"] for e in map(json.loads, result.ok().out.splitlines())}
    assert got == {
        "topic": f"sqlite://{cli.file}/topic:{fresh}",
        "stream": stream,
        "channel": channel,
    }


def test_tail_of_several_stops_where_one_is_missing(cli: Cli, ten: str) -> None:
    cli("tail", ten, "nothing", "-e", "--from", "beginning").fails(66, "nothing")


def test_tail_of_several_ends_with_all(cli: Cli, ten: str) -> None:
    cli("publish", "other", "x", "y").ok()
    got = lines(cli, "tail", ten, "other", "--from", "beginning", "-e")
    assert sorted(got) == sorted([*"0123456789", "x", "y"])
    assert len(lines(cli, "tail", ten, "other", "--from", "beginning", "-c", "11")) == 11


def test_a_group_goes_on(cli: Cli, ten: str) -> None:
    # When a group takes some, then some more, and --from is given to one that has a position
    assert lines(cli, "consume", ten, "-g", "g", "-c", "3") == ["0", "1", "2"]
    again = cli("consume", ten, "-g", "g", "-c", "2", "--from", "beginning").ok()
    # Then it goes on, and says that --from was not used
    assert again.out == b"3\n4\n"
    assert "--from" in again.err
    # And another group is its own, created where it was told to start
    assert lines(cli, "consume", ten, "-g", "other", "--from", "8", "-e") == ["8", "9"]
    # And groupless reading leaves nothing behind
    lines(cli, "consume", ten, "-e")
    (described,) = envelopes(cli, "describe", ten)
    assert {(g["name"], g["position"]) for g in described["groups"]} == {("g", 5), ("other", 10)}


def test_publishing_keys_and_headers(cli: Cli) -> None:
    # When messages are published with keys, typed headers, and a key in each line
    flags = ["-k", "k", "-H", "a=b", "-H", "a=c=d", "-H", "n:i32=-5", "-H", "when:time=@0"]
    typed = ["-H", "x:y=z", "-H", "t:bool=true", "-H", "d:decimal=12.50", "-H", "e:null="]
    cli("publish", "t", *flags[:-2], "-H", "when:time=1700000000", *typed, "v").ok()
    cli("publish", "t", "-K", ":", "-H", "a=b", stdin=b"1:one\n2:two:2\n").ok()
    cli("publish", "t", "--null", "-k", "gone").ok()
    # Then they are there as they were meant
    first, one, two, gone = envelopes(cli, "consume", "t", "-e")
    assert first["key"] == "k"
    assert first["headers"] == [
        ["a", "b"],
        ["a", "c=d"],
        ["n", {"t": "i32", "v": -5}],
        ["when", {"t": "time", "v": 1700000000}],
        ["x:y", "z"],
        ["t", True],
        ["d", {"t": "decimal", "v": "12.50"}],
        ["e", {"t": "null"}],
    ]
    assert (one["key"], one["value"], one["headers"]) == ("1", "one", [["a", "b"]])
    assert (two["key"], two["value"]) == ("2", "two:2")
    assert (gone["key"], gone["value"]) == ("gone", None)


def test_publishing_properties(cli: Cli, redis: Redis, fresh: str) -> None:
    # When a message is published with properties, and an entry with an id of its own
    cli("publish", "t", "-P", "priority=3", "-P", "type=a b", "-P", 'text="3"', "v").ok()
    stream = f"{redis.url}/stream:{fresh}"
    cli("publish", stream, "-P", "id=5-7", "v").ok()
    # Then they are there as they were meant, and refused where they cannot be carried
    (got,) = envelopes(cli, "consume", "t", "-e")
    assert got["properties"] == {"priority": 3, "type": "a b", "text": "3"}
    (entry,) = envelopes(cli, "consume", stream, "-e")
    assert entry["meta"]["position"] == "5-7"
    cli("publish", f"{redis.url}/list:x", "-P", "id=5-7", "v").fails(2, "property 'id'")
    cli("publish", "t", "-P", "x", "v").fails(2, "-P x is not NAME=VALUE")


def test_publishing_from_files_and_arguments(cli: Cli) -> None:
    # Given two files, one without a newline at its end
    (cli.home / "a").write_bytes(b"1\n2")
    (cli.home / "b").write_bytes(b"3\n")
    # When arguments, both files and standard input are published at once
    cli("publish", "t", "0", "-f", "a", "-f", "b", "-f", "-", stdin=b"4").ok()
    cli("publish", "w", "--whole", "-f", "a", "-f", "b").ok()
    cli("publish", "j", "-i", "json", '{"value":{"id": 1}}', '{"value":"x"}').ok()
    # Then they come in this order; a whole file is one value; arguments can be envelopes
    assert lines(cli, "consume", "t", "-e") == ["0", "1", "2", "3", "4"]
    assert lines(cli, "consume", "w", "-e", "--nul") == ["1", "2\x003", "\x00"]
    assert lines(cli, "consume", "j", "-e") == ['{"id":1}', "x"]


def test_envelopes_between_brokers(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given messages with keys and headers in a topic
    cli("publish", "t", "-k", "7", "-H", "trace=abc", "v").ok()
    out = cli("consume", "t", "-e", "-o", "json").ok().out
    # When they are published to a list, which can carry neither
    address = f"{redis.url}/list:{fresh}"
    refused = cli("publish", address, "-i", "json", stdin=out)
    dropped = cli("publish", address, "-i", "json", "--drop-unsupported", stdin=out).ok()
    # Then they are refused, or the parts are left out and counted
    assert refused.code == 1
    assert "--drop-unsupported" in refused.err
    assert "1 without the parts that cannot be carried" in dropped.err
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"v"]
    # When they are published to a stream that keeps keys, then every field is kept
    stream = f"{redis.url}/stream:{fresh}-s"
    cli("publish", stream, "-i", "json", "-O", "key_field=k", stdin=out).ok()
    (got,) = envelopes(cli, "consume", stream, "-e", "-O", "key_field=k")
    assert (got["key"], got["value"], got["headers"]) == ("7", "v", [["trace", "abc"]])


def test_timestamps_are_kept_when_asked(cli: Cli) -> None:
    line = b'{"value":"x","meta":{"timestamp":"2020-01-02T03:04:05.678Z"}}\n'
    cli("publish", "t", "-i", "json", "--keep-timestamp", stdin=line).ok()
    cli("publish", "t", "-i", "json", stdin=line).ok()
    kept, stamped = (e["meta"]["timestamp"] for e in envelopes(cli, "consume", "t", "-e"))
    assert kept == "2020-01-02T03:04:05.678Z"
    assert stamped > "2021"


def test_formats(cli: Cli) -> None:
    # Given two values
    cli("publish", "t", '{"id": 7}', "b").ok()
    # Then each format writes them in its own way
    assert cli("consume", "t", "-e").out == b'{"id": 7}\nb\n'
    assert cli("consume", "t", "-e", "-o", "raw").out == b'{"id": 7}b'
    assert cli("consume", "t", "-e", "--nul").out == b'{"id": 7}\0b\0'
    assert cli("consume", "t", "-e", "-D", r"\x01--").out == b'{"id": 7}\x01--b\x01--'
    assert b"7b 22 69 64" in cli("consume", "t", "-e", "-o", "hex").out
    assert envelopes(cli, "consume", "t", "-e")[0]["value"] == '{"id": 7}'
    assert envelopes(cli, "consume", "t", "-e", "--embed-json")[0]["value"] == {"id": 7}


def test_looking_at_a_broker(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a stream and a list with a name that must be encoded
    cli("publish", f"{redis.url}/stream:{fresh}", "a", "b").ok()
    cli("publish", f"{redis.url}/list:{fresh}%2Fx:y", "a").ok()
    # When the broker is listed
    shown = [line.split() for line in lines(cli, "ls", redis.url) if fresh in line]
    listed = {e["destination"]: e for e in envelopes(cli, "ls", redis.url) if fresh in e["name"]}
    # Then what is listed is what an address wants
    assert {row[0]: row[1] for row in shown} == {f"stream:{fresh}": "2", f"list:{fresh}%2Fx:y": "1"}
    assert set(listed) == {row[0] for row in shown}
    assert listed[f"list:{fresh}%2Fx:y"]["name"] == f"{fresh}/x:y"
    only = [e["kind"] for e in envelopes(cli, "ls", redis.url, "--kind", "list")]
    assert set(only) == {"list"}
    # And it answers
    (said,) = envelopes(cli, "ping", redis.url)
    assert said["broker"] == redis.url
    assert said["milliseconds"] > 0
    assert any("milliseconds" in line for line in lines(cli, "ping", redis.url))


def test_preparing_and_removing(cli: Cli) -> None:
    # When a topic is created twice, filled, purged and deleted
    assert "was created" in cli("create", "t").ok().err
    assert "was there already" in cli("create", "t").ok().err
    cli("publish", "t", "a", "b").ok()
    assert "2 messages" in cli("purge", "t", "--yes").ok().err
    assert lines(cli, "consume", "t", "-e") == []
    assert "was removed" in cli("delete", "t", "-y").ok().err
    # Then it is gone, and each of these needs one that is there
    for verb in ("purge", "delete"):
        cli(verb, "t", "--yes").fails(66)


def test_publishing_creates_what_it_says(cli: Cli) -> None:
    assert "does not exist yet" in cli("publish", "t", "x", "-v").ok().err
    assert "does not exist yet" not in cli("publish", "t", "x", "-v").ok().err
    assert "created" in cli("publish", "u", "x", "--create", "-v").ok().err


@pytest.mark.parametrize("verb", ["consume", "tail", "publish"])
def test_waiting_for_a_destination(cli: Cli, verb: str) -> None:
    # Given a verb that waits for a topic
    words = {"publish": ["x"], "tail": ["-n", "1", "-c", "1"], "consume": ["-c", "1"]}[verb]
    with cli.start(verb, "later", "--wait", *words) as process:
        until(lambda: cli.file.exists() or process.poll() is None)
        assert process.poll() is None
        # When the topic comes
        cli("publish", "later", "first").ok()
        result = finish(process)
    # Then it goes on
    assert result.ok()
    # And where nothing comes, the time limit says that it does not exist
    cli(verb, "never", "--wait", "--timeout", "700ms", *words).fails(66, "did not appear in time")


def test_the_counts_are_said(cli: Cli) -> None:
    assert "published 2 to" in cli("publish", "t", "a", "b", "-v").ok().err
    assert "2 messages from" in cli("consume", "t", "-e", "-v").ok().err
    assert "2 acknowledged" in cli("consume", "t", "-g", "g", "-e", "-v").ok().err


def test_help_is_for_every_verb(cli: Cli) -> None:
    for verb in cli("--help").ok().out.decode().partition("Verbs:\n")[2].split("\n"):
        if verb.strip() and verb.split()[0] != "help":  # it talks to no broker
            shown = cli(verb.split()[0], "-h").ok().out.decode()
            assert "--connect-timeout" in shown
            assert "\\[" not in shown


def test_the_demo(cli: Cli) -> None:
    # When the demo runs
    folder = cli.home / "tmp"
    folder.mkdir()
    result = cli("demo", env={"TMPDIR": str(folder)}).ok()
    # Then it shows its verbs with what they really said, and leaves nothing behind
    shown = result.out.decode()
    for words in ("mqcli publish", "mqcli consume", "mqcli tail", "100000 confirmed", "100003"):
        assert words in shown
    # And a short benchmark, whose messages were all confirmed and delivered
    assert "mqcli benchmark orders" in shown
    assert "delivered 1,200 of 1,200" in shown
    assert "end to end" in shown
    assert os.listdir(folder) == []  # noqa: PTH208
    assert not cli.file.exists()
