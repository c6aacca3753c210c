"""Whatever surrounds the program: homes, locales, terminals, passwords."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.redis import RedisServer

from .support import Cli

SECRET = "s3cret-word"


def test_the_default_broker_is_named_once_and_private(cli: Cli) -> None:
    # When nobody chooses a broker
    result = cli("publish", "orders", "x").ok()
    # Then one line names the embedded one's file, which is nobody else's to read
    assert result.err == f"mqcli: using the embedded broker {cli.file}\n"
    assert stat.S_IMODE(cli.file.stat().st_mode) == 0o600
    # And with -q there is nothing
    assert cli("publish", "orders", "x", "-q").ok().err == ""


def test_a_broker_is_chosen(cli: Cli) -> None:
    # When a broker is named by the environment, by a flag before it, or by the address itself
    env = {"MQCLI_BROKER": "sqlite:./env.db"}
    assert cli("publish", "orders", "by env", env=env).ok().err == ""
    assert cli("publish", "orders", "by flag", "-b", "sqlite:./flag.db", env=env).ok().err == ""
    assert cli("publish", "sqlite:./address.db/orders", "by address", env=env).ok().err == ""
    # Then each has its own
    for name in ("env", "flag", "address"):
        assert cli("consume", f"sqlite:./{name}.db/orders", "-e").out == f"by {name}\n".encode()
    assert not cli.file.exists()


@pytest.mark.parametrize(
    "env", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "LANG": "C"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}]
)
def test_odd_variables(cli: Cli, env: dict[str, str]) -> None:
    # When text of all kinds goes through in such an environment, then it is what it was
    text = "caf\u00e9 \U0001f600".encode()
    cli("publish", "\u00e9\u00e9", text, env=env).ok()
    got = cli("consume", "\u00e9\u00e9", "-e", env=env).ok()
    assert got.out == text + b"\n"
    assert cli("ls", env=env).ok().out.decode().split()[0] == "\u00e9\u00e9"
    assert cli("--help", env=env).ok().err == ""


def test_no_home(cli: Cli) -> None:
    # Given neither HOME nor a data directory
    for name in ("HOME", "XDG_DATA_HOME"):
        del cli.env[name]
    # When a broker is named, then nothing is missing
    cli("publish", "sqlite:./b.db/orders", "x").ok()
    assert cli("consume", "sqlite:./b.db/orders", "-e").ok().out == b"x\n"


@pytest.mark.skipif(os.name != "posix", reason="modes of directories")
def test_a_read_only_home(cli: Cli) -> None:
    # Given a data directory that cannot be made
    blocked = cli.home / "blocked"
    blocked.write_text("")
    env = {"XDG_DATA_HOME": str(blocked), "TMPDIR": str(cli.home)}
    # When the embedded broker is used
    result = cli("publish", "orders", "x", env=env).ok()
    # Then it is in a private folder for temporary files, which is said with the reason
    assert f"using the embedded broker {cli.home}/mqcli-" in result.err
    assert str(blocked) in result.err
    assert cli("consume", "orders", "-e", env=env).ok().out == b"x\n"


@pytest.fixture
def locked(started: Callable[[Callable[[], RedisServer]], RedisServer]) -> str:
    """``host:port`` of a Redis with a password."""
    redis = started(RedisServer)
    redis.cli("CONFIG", "SET", "requirepass", SECRET)
    return redis.url.removeprefix("redis://").rpartition("@")[2]


def test_a_password_comes_from_outside(cli: Cli, locked: str) -> None:
    # Given a password in a file, and one in a variable
    (cli.home / "password").write_text(f"{SECRET}\nsecond line\n")
    address = f"redis://{locked}/list:x"
    # When they are used
    cli("publish", address, "a", "--password-file", "password").ok()
    cli("publish", address, "b", env={"MQCLI_PASSWORD": SECRET}).ok()
    cli("ping", f"redis://default@{locked}", env={"MQCLI_PASSWORD": SECRET}).ok()
    # Then the login succeeds; the one in the address comes first
    cli("ping", f"redis://:wrong@{locked}", env={"MQCLI_PASSWORD": SECRET}).fails(77)
    (cli.home / "empty").write_text("\n")
    cli("ping", f"redis://{locked}", "--password-file", "empty").fails(2, "empty")


@pytest.mark.parametrize("flags", [[], ["-v"], ["--debug"], ["-v", "--debug"]])
def test_passwords_are_never_shown(cli: Cli, locked: str, flags: list[str]) -> None:
    # Given addresses with the right password, with a wrong one, and a broker that is not there
    good, bad = f"redis://:{SECRET}@{locked}", f"redis://me:{SECRET}x@{locked}"
    away = f"redis://me:{SECRET}@127.0.0.1:1"
    parameter = f"redis://127.0.0.1:1/list:x?password={SECRET}"
    runs = [
        cli("publish", f"{good}/list:x", "v", *flags),
        cli("consume", f"{good}/list:x", "-e", "-o", "json", *flags),
        cli("describe", f"{good}/stream:x", *flags),
        cli("ping", good, "-o", "json", *flags),
        cli("ping", bad, *flags),
        cli("tail", f"{away}/channel:x", *flags),
        cli("publish", f"{away}/lst:x", "v", *flags),
        cli("tail", f"{away}", *flags),
        cli("tail", f"redis://me:{SECRET}@h:port/list:x", *flags),
        cli("tail", "x", "-b", f"redis//me:{SECRET}@h", *flags),
        cli("publish", parameter, "v", *flags),
        cli("ping", f"redis://{locked}", *flags, env={"MQCLI_PASSWORD": SECRET + "x"}),
    ]
    # When something is said of them, then the password is not in it
    for result in runs:
        assert SECRET not in result.err, result
        assert SECRET.encode() not in result.out, result


def test_a_bug_tells_no_password(cli: Cli) -> None:
    # Given a bug whose message holds the password
    patch = (
        "import mqcli.operations.admin as a\n"
        "def ping(cls, target): raise KeyError(target.address.broker.password)\n"
        "a.ping = ping"
    )
    for flags in ([], ["--debug"]):
        result = cli.patched(patch, "ping", f"redis://:{SECRET}@h", *flags)
        assert result.code == 70
        assert SECRET not in result.err


def test_a_password_on_the_command_line_is_warned_of(cli: Cli) -> None:
    address = f"redis://:{SECRET}@127.0.0.1:1/list:x"
    assert "MQCLI_PASSWORD" in cli("publish", address, "v", "-v").err
    assert "MQCLI_PASSWORD" not in cli("publish", address, "v").err


def test_a_line_stays_one_line(cli: Cli) -> None:
    # When a name holds a newline, then the error is one line all the same
    cli("publish", "orders", "-f", "no\nsuch\x1b[2Jfile").fails(2, "\\n", "\\x1b")


def test_python_m_and_the_script_are_the_same(cli: Cli) -> None:
    script = Path(sys.executable).parent / "mqcli"
    assert cli("--version").out == cli("--version", program=(str(script),)).ok().out
