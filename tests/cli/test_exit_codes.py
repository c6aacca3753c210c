"""Every exit code that the program promises."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.process import free_port
from tests.brokers.redis import Redis, RedisServer

from .support import Cli, finish, until


def test_0_everything_is_confirmed_and_written(cli: Cli) -> None:
    # When a value is published and consumed
    sent = cli("publish", "orders", "hello")
    got = cli("consume", "orders", "-e")
    # Then both say nothing but which broker they used
    assert (sent.code, sent.out, sent.lines) == (0, b"", [])
    assert (got.code, got.out, got.lines) == (0, b"hello\n", [])


def test_1_nobody_received_it(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a channel that nobody listens to
    address = f"{redis.url}/channel:{fresh}"
    # When a message is published there, and then one that must be received
    plain = cli("publish", address, "x").ok()
    strict = cli("publish", address, "x", "--require-receivers", "1")
    # Then zero receivers are told, and are a failure where they were required
    assert "1 received by nobody" in plain.err
    assert strict.code == 1
    assert "1 confirmed" in strict.err
    assert "1 received by too few" in strict.err


def test_1_some_are_refused(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given three envelopes of which one has a key, which a Redis list cannot carry
    lines = b'{"value":"a"}\n{"value":"b","key":"k"}\n{"value":"c"}\n'
    # When they are published to a list
    result = cli("publish", f"{redis.url}/list:{fresh}", "-i", "json", stdin=lines)
    # Then that one is refused by its number, the others are there, and the exit code is 1
    assert result.code == 1
    assert "message 2 refused: a key cannot be carried" in result.err
    assert "published 3" in result.err
    assert "2 confirmed, 1 refused, 0 unknown" in result.err
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"a", b"c"]


def test_1_bad_input_is_skipped(cli: Cli) -> None:
    # When bad lines are skipped
    lines = b'{"value":"a"}\nnonsense\n{"value":"c"}\n{}\n'
    result = cli("publish", "orders", "-i", "json", "--skip-bad", stdin=lines)
    # Then they are told with their numbers, the rest is published, and the exit code is 1
    assert result.code == 1
    assert "skipped line 2: not JSON" in result.err
    assert "skipped line 4: " in result.err
    assert "2 bad inputs skipped" in result.err
    assert cli("consume", "orders", "-e").out == b"a\nc\n"


def test_1_the_user_says_no(cli: Cli) -> None:
    # tested on a terminal in test_terminal.py; here: the flag that refuses a gap is understood
    assert cli("tail", "orders", "--on-gap", "fail").code == 66


def test_2_nothing_is_opened(cli: Cli) -> None:
    cli("publish", "redis://nowhere.invalid/list:x", "-k", "key", "value").fails(
        2, "a key cannot be carried"
    )


def test_65_bad_input_stops_there(cli: Cli) -> None:
    # When the third line is no envelope
    lines = b'{"value":"a"}\n{"value":"b"}\n{"valeu":"c"}\n{"value":"d"}\n'
    result = cli("publish", "orders", "-i", "json", stdin=lines)
    # Then it is named, what came before is confirmed and counted, and nothing behind it was sent
    assert result.code == 65
    assert "line 3: unknown field 'valeu'" in result.err
    assert "did you mean" in result.err
    assert "published 2" in result.err
    assert cli("consume", "orders", "-e").out == b"a\nb\n"


def test_a_refusal_is_told_once_for_each_message(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a key of another kind
    redis.cli("SET", fresh, "v")
    # When two messages are published there
    result = cli("publish", f"{redis.url}/list:{fresh}", "a", "b")
    # Then each refusal is a line, the counts are one, and that is all
    assert result.code == 2
    assert [line.split(":")[1].split()[0] for line in result.lines] == [
        "message", "message", "published",
    ], result  # fmt: skip


def test_66_the_destination_does_not_exist(cli: Cli, redis: Redis, fresh: str) -> None:
    for address in ("orders", f"{redis.url}/stream:{fresh}"):
        for verb in (["consume", "-e"], ["tail", "-e"], ["describe"], ["delete", "--yes"]):
            cli(verb[0], address, *verb[1:]).fails(66)
    # And looking has created nothing
    assert redis.cli("EXISTS", fresh) == 0
    assert cli("ls").out == b""


def test_69_the_broker_cannot_be_reached(cli: Cli) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    for args in (
        ["publish", f"{url}/list:x", "v"],
        ["consume", f"{url}/list:x"],
        ["tail", f"{url}/channel:x"],
        ["ping", url],
        ["ls", url],
        ["describe", f"{url}/list:x"],
        ["purge", f"{url}/list:x", "--yes"],
    ):
        cli(*args).fails(69, url.removeprefix("redis://"))


def test_70_a_bug(cli: Cli) -> None:
    # Given a program with a bug in it
    bug = "import mqcli.operations.admin as a\ndef ping(*_): raise KeyError('boo')\na.ping = ping"
    # When it is met
    result = cli.patched(bug, "ping")
    debugged = cli.patched(bug, "ping", "--debug")
    # Then it is called one, in one line; --debug shows where it is
    result.fails(70, "this is a bug in mqcli", "KeyError('boo')", "--debug")
    assert debugged.code == 70
    assert "Traceback" in debugged.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("words", [["v"], ["--retry", "v"]], ids=" ".join)
def test_70_a_bug_while_publishing(cli: Cli, words: list[str]) -> None:
    # Given a transport that fails to publish, and says nothing of it
    bug = (
        "import mqcli.transports.sqlite_topic as t\nasync def publish(*_): raise KeyError('boo')\n"
    )
    # When a value is published
    result = cli.patched(bug + "t.SqliteTopic.publish = publish", "publish", "t", *words)
    # Then it is not taken for sent
    result.fails(70, "this is a bug in mqcli", "KeyError('boo')")


def test_70_a_bug_in_one_of_several_readings(cli: Cli) -> None:
    # Given two topics, and a program in which reading fails
    for topic in ("a", "b"):
        cli("publish", topic, "v").ok()
    bug = "import mqcli.reader as r\nasync def receive(*_): raise KeyError('boo')\n"
    # When both are watched
    result = cli.patched(bug + "r.Reader.receive = receive", "tail", "a", "b")
    # Then the bug is told, and nobody waits for the other
    result.fails(70, "this is a bug in mqcli", "KeyError('boo')")


def test_74_the_output_cannot_be_written(cli: Cli) -> None:
    # Given messages, and a full disk
    cli("publish", "orders", "a", "b").ok()
    with Path("/dev/full").open("wb") as full:
        # When they are consumed to it, for a group
        result = cli("consume", "orders", "-g", "g", "-c", "2", stdout=full)
    # Then the exit code says so, and nothing was acknowledged: the group gets both
    assert result.code == 74
    assert "No space left on device" in result.err
    again = cli("consume", "orders", "-g", "g", "-c", "2", "-O", "claim_after=100ms").ok()
    assert again.out == b"a\nb\n"


def test_75_the_broker_refuses_for_now(
    cli: Cli, started: Callable[[Callable[[], RedisServer]], RedisServer]
) -> None:
    # Given a Redis that is out of memory
    redis = started(RedisServer)
    redis.cli("CONFIG", "SET", "maxmemory", "1")
    # When something is published
    result = cli("publish", f"{redis.url}/list:x", "v")
    # Then it is refused for now
    assert result.code == 75, result
    assert "0 confirmed" in result.err


def test_77_the_login_is_refused(
    cli: Cli, started: Callable[[Callable[[], RedisServer]], RedisServer]
) -> None:
    # Given a Redis with a password
    redis = started(RedisServer)
    redis.cli("CONFIG", "SET", "requirepass", "right-secret")
    host = redis.url.rpartition("@")[2].removeprefix("redis://")
    # When it is asked with a wrong one, and with none
    wrong = cli("ping", f"redis://:wrong-secret@{host}")
    none = cli("publish", f"redis://{host}/list:x", "v")
    # Then both are refused, and the password is nowhere
    wrong.fails(77, "***")
    none.fails(77)
    assert "secret" not in wrong.err


def test_78_the_configuration_is_wrong(cli: Cli) -> None:
    # Given a configuration that cannot be read
    patch = (
        "import mqcli.config as c, mqcli.errors as e\n"
        "def wrong(*_): raise e.ConfigError('line 3 is wrong', where='config.toml')\n"
        "c.default_broker = wrong"
    )
    # When the default broker is looked for, then the code says that
    cli.patched(patch, "ping").fails(78, "config.toml", "line 3 is wrong")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["-c", "5", "--timeout", "500ms"], 124),
        (["-c", "5", "--idle", "200ms"], 124),
        (["--timeout", "500ms"], 0),
        (["--idle", "200ms"], 0),
        (["-c", "2", "--timeout", "20s"], 0),
        (["-e", "--timeout", "20s"], 0),
    ],
)
@pytest.mark.parametrize("verb", ["consume", "tail"])
def test_124_a_time_limit_came_first(cli: Cli, verb: str, args: list[str], code: int) -> None:
    # Given two messages
    cli("publish", "orders", "a", "b").ok()
    # When reading is limited in time
    result = cli(verb, "orders", "--from", "beginning", *args)
    # Then what was there is written, and the limit is an error only for what was not reached
    assert (result.code, result.out) == (code, b"a\nb\n"), result
    assert len(result.lines) == (2 if code else 0)


def test_124_input_that_does_not_end(cli: Cli) -> None:
    # Given input that stays open
    with cli.start("publish", "orders", "--timeout", "800ms", stdin=-1) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\nhalf a line")
        process.stdin.flush()
        # When the time is over
        code = process.wait(10)
        assert process.stderr is not None
        err = process.stderr.read().decode()
    # Then what was complete is confirmed, and the rest was not sent
    assert code == 124
    assert "published 2" in err
    assert "2 confirmed" in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_130_and_143_a_signal(cli: Cli, number: signal.Signals, code: int) -> None:
    # Given a consumer of a group that has written what there was
    cli("publish", "orders", "a", "b").ok()
    with cli.start("consume", "orders", "-g", "g", "-o", "json") as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(2)]
        # When it is signalled
        process.send_signal(number)
        result = finish(process)
    # Then it ends so, having acknowledged both
    assert result.code == code, result
    assert [json.loads(line)["value"] for line in first] == ["a", "b"]
    assert "2 acknowledged" in result.err
    described = json.loads(cli("describe", "orders", "-o", "json").ok().out)
    assert described["groups"][0]["position"] == 2


def test_a_second_signal_ends_at_once(cli: Cli) -> None:
    # Given a publisher whose broker has stopped answering
    with cli.start("publish", "orders", "-f", "/dev/zero", "--whole") as process:
        until(lambda: process.poll() is None)
        # When it is signalled twice while it works
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        # Then it ends
        assert finish(process).code in (130, -signal.SIGINT)
