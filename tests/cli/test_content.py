"""Content comes through byte for byte, and cannot drive a terminal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator

import pytest

from tests.brokers.redis import Redis

from .support import PROGRAM, Cli, Terminal

HOSTILE = [
    b"plain",
    b"",
    b"\x1b[2J\x1b]0;title\x07\x1b]52;c;aGk=\x07",
    b"[bold red]markup[/] \\[x] {}",
    "caf\u00e9 \u202e\u2066right to left\u2069 \u200b".encode(),
    b"\xff\xfe\x80 not utf-8",
    b"\x9b31m c1 \xc2\x9b31m",
    b"carriage\rreturn\x08\x7f",
    b'{"id": 1, "a": ["\\u001b[2J"]}',
    b"x" * 100_000,
]


@pytest.fixture(params=["sqlite", "redis list", "redis stream"])
def address(request: pytest.FixtureRequest, fresh: str) -> str:
    """A destination on each broker, in turn."""
    if request.param == "sqlite":
        return fresh
    redis: Redis = request.getfixturevalue("redis")
    return f"{redis.url}/{request.param.removeprefix('redis ')}:{fresh}"


@pytest.mark.parametrize("end", [[], ["--nul"], ["-D", "~~"]], ids=["newline", "nul", "delimiter"])
def test_lines_come_through(cli: Cli, address: str, end: list[str]) -> None:
    # Given values of all kinds, the last of them without what ends the others
    delimiter = {"--nul": b"\0", "-D": b"~~"}.get(end[0] if end else "", b"\n")
    values = [*HOSTILE, b"a\0b"] if delimiter != b"\0" else [*HOSTILE, b"a\nb"]
    stdin = delimiter.join(values)
    # When they are published from standard input and consumed to a pipe
    cli("publish", address, *end, stdin=stdin).ok()
    got = cli("consume", address, "-e", *end).ok()
    # Then the bytes are the same, with the end that each value has on output
    assert got.out == stdin + delimiter


def test_envelopes_come_through(cli: Cli, fresh: str) -> None:
    # Given messages with keys, headers of all types, and a tombstone
    cli(
        "publish", "a", "-k", "7", "-H", "trace=abc", "-H", "n:i32=5", "-H", "b:bytes=/w==", "x"
    ).ok()
    cli("publish", "a", "--null", "-k", b"\xff\x1b").ok()
    cli("publish", "a", "--nul", stdin=b"\0".join(HOSTILE)).ok()
    first = cli("consume", "a", "-e", "-o", "json").ok()
    # When their envelopes are published again
    cli("publish", "b", "-i", "json", stdin=first.out).ok()
    second = cli("consume", "b", "-e", "-o", "json").ok()
    # Then every field is kept
    before, after = ([json.loads(x) for x in r.out.splitlines()] for r in (first, second))
    assert len(before) == len(HOSTILE) + 2
    for one in (*before, *after):
        del one["meta"]
    assert before == after
    assert before[0]["headers"][0] == ["trace", "abc"]
    assert before[1]["value"] is None


def test_one_value_of_64_mb(cli: Cli, address: str) -> None:
    # Given 64 MB of any bytes
    value = os.urandom(1 << 20) * 64
    (cli.home / "big").write_bytes(value)
    # When they are published as one value, and consumed
    cli("publish", address, "--whole", "-f", "big").ok()
    got = cli("consume", address, "-c", "1", "-o", "raw").ok()
    # Then they are the same
    assert len(got.out) == len(value)
    assert got.out == value


def test_nothing_is_nothing_and_an_empty_line_is_a_value(cli: Cli, address: str) -> None:
    # When no input is published, then an empty line, then an empty argument
    cli("publish", address, stdin=b"").ok()
    cli("publish", address, stdin=b"\n").ok()
    cli("publish", address, "").ok()
    # Then there are two empty values
    assert cli("consume", address, "-e").ok().out == b"\n\n"


def test_arguments_of_any_bytes(cli: Cli, address: str) -> None:
    # When arguments are published that are not UTF-8, also where the locale is C
    cli("publish", address, b"\xff\xfe").ok()
    cli("publish", address, b"\xff\xfe", env={"LC_ALL": "C"}).ok()
    # Then the bytes are there
    assert cli("consume", address, "-e").ok().out == b"\xff\xfe\n" * 2


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Callable[..., Terminal]]:
    """Runs the program on a terminal."""

    def start(*args: str, **env: str) -> Terminal:
        return Terminal([*PROGRAM, *args], {**cli.env, "TERM": "xterm", **env}, cli.home)

    yield start


ALLOWED = re.compile(rb"\x1b\[(0|1|2)m|\r\x1b\[K|\r\n|\t")


@pytest.mark.parametrize("output", ["auto", "value", "raw", "json", "hex"])
@pytest.mark.parametrize("verb", ["consume", "tail"])
def test_nothing_drives_the_terminal(
    cli: Cli, terminal: Callable[..., Terminal], verb: str, output: str
) -> None:
    # Given hostile values, and hostile keys and headers
    cli("publish", "orders", "--nul", stdin=b"\0".join(HOSTILE[:-1])).ok()
    evil = "\x1b[31m\x07\u202e"
    cli("publish", "orders", "-k", evil, "-H", f"{evil}={evil}", evil).ok()
    # When they are shown on a terminal
    shown = terminal(verb, "orders", "-e", "--from", "beginning", "-o", output)
    assert shown.end() == 0
    # Then it got no control character but line ends and our own dimming
    rest = ALLOWED.sub(b"", shown.output)
    assert not re.search(rb"[\x00-\x1f\x7f]", rest), rest
    text = rest.decode()
    assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069\u200b]", text), text


def test_names_do_not_drive_the_terminal(cli: Cli) -> None:
    # Given a destination with a hostile name
    name = "evil%1B%5B2J%E2%80%AE"
    cli("publish", name, "x").ok()
    # When it is listed, described, and told in errors
    said = [cli("ls"), cli("describe", name), cli("purge", name), cli("describe", "no" + name)]
    said += [cli("ls", "-o", "json"), cli("describe", name, "-o", "json")]
    # Then no control character comes out, not even into a pipe, for this is text of ours
    for result in said:
        text = result.out.decode() + result.err
        assert "evil" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), text
    # And what ls prints can be given back as an address
    assert cli("consume", said[0].out.split()[0].decode(), "-e").out == b"x\n"


def test_a_terminal_without_colours(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    # Given a message
    cli("publish", "orders", "hello").ok()
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        # When it is shown where no colours are wanted
        shown = terminal("tail", "orders", "-n", "1", "-e", **env)
        assert shown.end() == 0
        # Then there are none
        assert b"hello" in shown.output
        assert b"\x1b[2m" not in shown.output
    coloured = terminal("tail", "orders", "-n", "1", "-e")
    assert coloured.end() == 0
    assert b"\x1b[2m" in coloured.output


def test_a_terminal_is_asked(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    # Given messages
    cli("publish", "orders", "a", "b").ok()
    # When a purge is refused at the question, then the messages are there, and it is a failure
    asked = terminal("purge", "orders")
    asked.expect(b"[y/N]")
    asked.type("n\n")
    assert asked.end() == 1
    assert b"nothing was done" in asked.output
    assert cli("consume", "orders", "-e").out == b"a\nb\n"
    # When it is agreed to, then they are gone
    asked = terminal("purge", "orders")
    asked.expect(b"[y/N]")
    asked.type("y\n")
    assert asked.end() == 0
    assert b"2 messages" in asked.output
    assert cli("consume", "orders", "-e").out == b""


def test_a_terminal_is_read(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    # When lines are typed and ended with Ctrl-D
    typed = terminal("publish", "orders")
    typed.expect(b"Ctrl-D")
    typed.type("one\ntwo\n\x04")
    # Then they are published, and the terminal is told so
    assert typed.end() == 0
    assert b"2 confirmed" in typed.output
    assert cli("consume", "orders", "-e").out == b"one\ntwo\n"


def test_ctrl_c_on_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    # Given a consumer on a terminal, which says what it takes from where
    cli("publish", "orders", "hello").ok()
    watching = terminal("consume", "orders", "-g", "g")
    watching.expect(b"taking messages from ")
    watching.expect(b"hello")
    # When Ctrl-C is typed
    watching.type("\x03")
    # Then it ends, having acknowledged
    assert watching.end() == 130
    assert b"1 acknowledged" in watching.output


def test_progress_on_a_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    # Given a publisher on a terminal whose input takes a while
    os.mkfifo(cli.home / "slow")
    watched = terminal("publish", "orders", "-f", "slow")
    with (cli.home / "slow").open("wb", buffering=0) as slow:
        slow.write(b"one\ntwo\n")
        # Then a line tells how far it is, and gives way to the last one
        watched.expect(b"2 confirmed")
    assert watched.end() == 0
    assert b"\r\x1b[K" in watched.output
    assert b"mqcli: published 2" in watched.output
