"""Every wrong word on the command line is one clear line, and changes nothing."""

from __future__ import annotations

import pytest

from .support import Cli

# (arguments, words of the one line)
USAGE: list[tuple[list[str], list[str]]] = [
    # verbs and flags
    (["publsh", "x"], ["no verb 'publsh'", "publish"]),
    (["tail"], ["ADDRESS"]),
    (["publish", "x", "--colour"], ["--colour"]),
    (["tail", "x", "-c"], ["-c"]),
    (["tail", "x", "-q", "-v"], ["--quiet", "--verbose"]),
    # addresses
    (["tail", ""], ["empty"]),
    (["tail", "nosuch://h/x"], ["unknown broker scheme 'nosuch'"]),
    (["tail", "reddis://h/list:x"], ["did you mean redis://"]),
    (["tail", "redis://h"], ["no destination"]),
    (["tail", "redis:///list:x"], ["names no host"]),
    (["tail", "redis://h:port/list:x"], ["'h:port' has a wrong port"]),
    (["tail", "redis://h:70000/list:x"], ["wrong port"]),
    (["tail", "redis://[::1/list:x"], ["bracket"]),
    (["tail", "redis://h/orders"], ["kind", "stream:orders"]),
    (["tail", "redis://h/strem:x"], ["unknown kind 'strem'", "stream:x"]),
    (["tail", "redis://h/list:a%2"], ["percent-encoding"]),
    (["tail", "redis://h/list:x?claim_afer=3s"], ["claim_afer"]),
    (["tail", "redis://h/list:x?no_verify_ssl=1"], ["--insecure"]),
    (["tail", "@prod/x"], ["no broker is named @prod"]),
    (["tail", "@/x"], ["'@/x'"]),
    (["tail", "x", "-b", "nonsense"], ["not a broker URL"]),
    (["tail", "redis://h/list:x", "-b", "redis://other"], ["--broker does not apply"]),
    (["ping", "redis://h", "-b", "redis://other"], ["two brokers"]),
    (["ls", "redis://h", "--kind", "strem"], ["no kind 'strem'", "stream"]),
    # options
    (["tail", "x", "-O", "novalue"], ["-O novalue is not name=value"]),
    (["tail", "x", "-O", "nosuch=1"], ["unknown option 'nosuch'"]),
    (["publish", "redis://h/list:x", "v", "-O", "side=middle"], ["side"]),
    (["publish", "redis://h/list:x", "v", "-O", "claim_after=3"], ["not a duration"]),
    (["create", "x", "-O", "max_messages=-1"], ["max_messages=-1", "from 0 to"]),
    (["publish", "x", "v", "-O", "max_messages=1" + "0" * 19], ["max_messages", "from 0 to"]),
    # numbers, durations, positions
    (["tail", "x", "-c", "0"], ["--count"]),
    (["tail", "x", "-c", "-3"], ["--count"]),
    (["tail", "x", "-c", "many"], ["'many'"]),
    (["tail", "x", "-n", "-1"], ["--last"]),
    (["publish", "x", "v", "--require-receivers", "-1"], ["--require-receivers"]),
    (["tail", "x", "--timeout", "5"], ["--timeout", "not a duration", "5m"]),
    (["tail", "x", "--timeout", "-5s"], ["--timeout"]),
    (["tail", "x", "--idle", "soon"], ["--idle"]),
    (["tail", "x", "--idle", "0"], ["--idle"]),
    (["tail", "x", "--reconnect-for", "1x"], ["--reconnect-for"]),
    (["tail", "x", "--connect-timeout", "0"], ["--connect-timeout"]),
    (["publish", "x", "v", "--confirm-timeout", "1"], ["--confirm-timeout"]),
    (["tail", "x", "--from", "yesterday now"], ["--from", "not a position"]),
    (["tail", "x", "--from", "@noon"], ["--from", "not a time"]),
    (["tail", "x", "--from", "1..2..3"], ["1..2..3"]),
    (["tail", "x", "--from", "1", "--from", "2"], ["--from: several positions", "0:42"]),
    (["tail", "x", "--to", "+x"], ["--to"]),
    (["tail", "x", "--to", "1..2"], ["is a range"]),
    # what cannot be meant together
    (["tail", "x", "-n", "3", "--from", "end"], ["--last", "--from"]),
    (["tail", "x", "-e", "--to", "3"], ["--end", "--to"]),
    (["tail", "x", "-e", "--from", "1..3"], ["--end", "range"]),
    (["tail", "x", "--from", "1..3", "--to", "5"], ["both ends"]),
    (["tail", "x", "--nul", "-D", ","], ["--nul", "--delimiter"]),
    (["tail", "x", "--embed-json"], ["--embed-json"]),
    (["tail", "x", "-o", "json", "--nul"], ["delimiter", "json"]),
    (["tail", "x", "-o", "xml"], ["xml"]),
    (["tail", "x", "-D", ""], ["empty"]),
    (["tail", "x", "-D", "\\q"], ["escape"]),
    (["tail", "x", "--on-gap", "hope"], ["hope"]),
    (["publish", "x", "v", "--nul"], ["--nul", "VALUE"]),
    (["publish", "x", "v", "-K", ":"], ["--key-delimiter", "VALUE"]),
    (["publish", "x", "--nul", "--whole"], ["nul", "whole"]),
    (["publish", "x", "--nul", "-D", ","], ["delimiter"]),
    (["publish", "x", "-i", "json", "-K", ":"], ["key delimiter"]),
    (["publish", "x", "-i", "xml"], ["xml"]),
    (["publish", "x", "-k", "k", "-K", ":"], ["--key", "--key-delimiter"]),
    (["publish", "x", "v", "--null"], ["--null"]),
    (["publish", "x", "--keep-timestamp"], ["-i json"]),
    (["publish", "x", "v", "-H", "novalue"], ["-H novalue is not NAME=VALUE"]),
    (["publish", "x", "v", "-H", "n:i8=300"], ["n:i8=300", "i8"]),
    (["publish", "x", "v", "-H", "n:i64=x"], ["n:i64=x", "not a whole number"]),
    (["publish", "x", "v", "-H", "n:i64=1_000"], ["n:i64=1_000", "not a whole number"]),
    (["publish", "x", "v", "-H", "n:f64=1e400"], ["n:f64=1e400", "not a number that fits"]),
    (["publish", "x", "v", "-H", "n:f32=1e39"], ["n:f32=1e39"]),
    (["publish", "x", "v", "-H", "n:time=noon"], ["n:time=noon", "not a time"]),
    (["publish", "x", "v", "-H", "n:bool=yes"], ["true or false"]),
    (["publish", "x", "v", "-H", "n:bytes=???"], ["base64"]),
    (["publish", "x", "v", "-H", "n:table=["], ["not JSON"]),
    (["publish", "x", "-f", "/nonexistent"], ["/nonexistent", "no such file"]),
    (["publish", "x", "-f", "/"], ["a directory"]),
    (["tail", "x", "--password-file", "/nonexistent"], ["/nonexistent"]),
    # what this destination cannot do
    (["publish", "redis://h/pattern:x*", "v"], ["read only"]),
    (["consume", "redis://h/channel:x"], ["mqcli tail redis://h/channel:x"]),
    (["publish", "redis://h/channel:x", "v", "-k", "k"], ["key"]),
    (["publish", "redis://h/channel:x", "v", "-H", "a=b"], ["headers"]),
    (["publish", "redis://h/list:x", "--null"], ["tombstone"]),
    (["publish", "redis://h/list:x", "v", "--require-receivers", "1"], ["--require-receivers"]),
    (["consume", "redis://h/list:x", "-g", "g"], ["no groups"]),
    (["consume", "x", "-g", ""], ["--group", "a group has a name"]),
    (["consume", "redis://h/list:x", "--from", "end"], ["--from end cannot be used here"]),
    (["consume", "redis://h/list:x", "-n", "3"], ["(-n 3) cannot be used here"]),
    (["consume", "redis://h/list:x", "--to", "+3"], ["--to +3 cannot", "possible: end"]),
    (["consume", "redis://h/list:x", "--on-gap", "latest"], ["--on-gap latest cannot"]),
    (["consume", "redis://h/stream:x", "-g", "g", "--on-gap", "latest"], ["a group goes on"]),
    (["tail", "redis://h/channel:x", "--on-gap", "earliest"], ["possible: report, fail"]),
    (["tail", "redis://h/channel:x", "-e"], ["--end cannot be used here"]),
    (["tail", "redis://h/channel:x", "--to", "+3"], ["--to +3 cannot", "nothing is kept"]),
    (["create", "redis://h/list:x"], ["cannot be created"]),
    (["consume", "redis://h/list:x", "--wait"], ["--wait cannot be used here"]),
    (["purge", "x"], ["--yes"]),
    (["delete", "x"], ["--yes"]),
]


@pytest.mark.parametrize(("args", "words"), USAGE, ids=lambda given: " ".join(given)[:60])
def test_wrong_usage(cli: Cli, args: list[str], words: list[str]) -> None:
    # When the program is called so, with nothing listening anywhere
    result = cli(*args)
    # Then one line says what is wrong, the code is 2, and no broker was made
    result.fails(2, *words)
    assert not cli.file.exists()


def test_no_verb_at_all(cli: Cli) -> None:
    # When nothing is asked for, then help comes on stderr, and it is a failure
    result = cli()
    assert (result.code, result.out) == (2, b"")
    assert "publish" in result.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nonsense", ["not JSON"]),
        (b"[1]", ["an envelope is a JSON object"]),
        (b"{}", ['no "value"', "tombstone"]),
        (b'{"value":"a","to":"x"}', ["reserved"]),
        (b'{"value":"a","value_base64":"YQ=="}', ["both given"]),
        (b'{"value_base64":"?"}', ["base64"]),
        (b'{"value":"a","headers":{"a":"b"}}', ["headers", "pairs"]),
        (b'{"value":"a","headers":[["n",{"t":"i8","v":300}]]}', ["300", "i8"]),
        (b'{"value":"\xff"}', ["not UTF-8"]),
        (b'{"value":"a"', ["not JSON"]),
        (b'{"value":' + b"[" * 5000, ["JSON"]),
    ],
    ids=lambda given: str(given)[:40],
)
def test_wrong_json_lines(cli: Cli, line: bytes, words: list[str]) -> None:
    # Given a good line, an empty one, a bad one, and one that must not be sent
    lines = b'{"value":"first"}\n\n' + line + b'\n{"value":"last"}\n'
    # When they are published
    result = cli("publish", "orders", "-i", "json", stdin=lines)
    # Then the bad one is named with its number, and only what came before is there
    assert result.code == 65
    assert result.lines[0].startswith("mqcli: line 3: "), result
    for word in words:
        assert word in result.lines[0], (word, result)
    assert "1 confirmed" in result.lines[1]
    assert cli("consume", "orders", "-e").out == b"first\n"


def test_a_bad_file_is_named(cli: Cli) -> None:
    # Given two files, the second of which is bad
    (cli.home / "good").write_bytes(b'{"value":"a"}\n')
    (cli.home / "bad").write_bytes(b'{"value":"b"}\n!\n')
    # When both are published, then the line and the file are named
    result = cli("publish", "orders", "-i", "json", "-f", "good", "-f", "bad")
    assert result.code == 65
    assert "line 2: " in result.err
    assert ": bad" in result.err
    assert "2 confirmed" in result.err


def test_the_environment_is_named_where_it_is_wrong(cli: Cli) -> None:
    result = cli("tail", "x", env={"MQCLI_BROKER": "nonsense"})
    result.fails(2, "MQCLI_BROKER", "not a broker URL")


@pytest.mark.parametrize("content", [b"not a database, but somebody's text\n" * 50, b"x"])
def test_a_file_that_is_not_ours_is_left_alone(cli: Cli, content: bytes) -> None:
    # Given a file of somebody else's
    file = cli.home / "theirs.db"
    file.write_bytes(content)
    # When each verb is pointed at it
    for args in (["publish", "sqlite:./theirs.db/x", "v"], ["tail", "sqlite:./theirs.db/x"]):
        result = cli(*args)
        # Then it is refused, and not touched
        assert result.code not in (0, 70), result
        assert len(result.lines) == 1, result
        assert file.read_bytes() == content
    assert [path.name for path in cli.home.iterdir()] == ["theirs.db"]
