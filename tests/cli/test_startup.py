"""Nothing is imported that the command at hand does not need."""

from __future__ import annotations

import pytest

from tests.brokers.redis import Redis

from .support import Cli

BROKERS = {"redis", "hiredis", "aio_pika", "aiormq", "pamqp", "aiokafka", "cramjam", "sqlite3"}
HEAVY = {"rich", "pydantic", "asyncio", "uvloop", "msgspec", "ssl", "logging", "email", "socket"}


# The program leaves by os._exit: the last moment at which all that it loaded can be seen.
_TELL = """
import os, sys
def leave(code, leave=os._exit):
    os.write(2, "\\n".join(["", "modules:", *sys.modules]).encode())
    leave(code)
os._exit = leave
"""


def imported(cli: Cli, *args: str, env: dict[str, str] | None = None) -> set[str]:
    """The modules that are loaded at the end of a run of the program."""
    result = cli.patched(_TELL, *args, env=env).ok()
    return set(result.err.split("\nmodules:\n")[1].splitlines())


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["publish", "--help"]])
def test_help_loads_nothing_that_works(cli: Cli, args: list[str]) -> None:
    # When help is asked for
    modules = imported(cli, *args)
    # Then no broker library, no event loop and no rich was loaded
    assert not tops(modules) & (BROKERS | HEAVY)


def test_help_loads_no_verb(cli: Cli) -> None:
    # When the verbs are listed
    verbs = {name for name in imported(cli, "--help") if name.startswith("mqcli.cli.")}
    # Then none of their modules was loaded
    assert verbs <= {f"mqcli.cli.{name}" for name in ("app", "env", "shell")}, verbs


@pytest.mark.parametrize(
    "words",
    [["mqcli", "pu"], ["mqcli", "publish", "--h"], ["mqcli", "tail", "redis://h/st"]],
)
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_loads_no_rich_and_no_driver(cli: Cli, shell: str, words: list[str]) -> None:
    # When a shell asks for completions
    modules = imported(cli, *words, env={"_MQCLI_COMPLETE": shell})
    # Then neither rich nor a broker library nor an event loop was loaded
    assert not tops(modules) & (BROKERS | {"rich", "pydantic", "asyncio", "uvloop", "email"})


def test_a_verb_loads_one_driver(cli: Cli, redis: Redis, fresh: str) -> None:
    # When a value is published to a Redis list, and another to the embedded broker
    with_redis = imported(cli, "publish", f"{redis.url}/list:{fresh}", "x")
    embedded = imported(cli, "publish", "orders", "x")
    # Then each loaded its own driver and nothing of the others, nor what only bulk work needs
    assert tops(with_redis) & BROKERS == {"redis", "hiredis"}
    assert tops(embedded) & BROKERS == {"sqlite3"}
    for modules in (with_redis, embedded):
        assert not tops(modules) & {"rich", "pydantic", "uvloop"}
        transports = {n.split(".")[2] for n in modules if n.startswith("mqcli.transports.")}
        assert len({name for name in transports if not name.startswith("_")}) == 1, transports
