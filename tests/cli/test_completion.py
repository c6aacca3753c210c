"""Completion in real shells, and scripts that are current."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers import Unavailable, need

from .support import ROOT, Cli, Terminal

FOLDER = ROOT / "completions"
FILES = {"bash": "mqcli.bash", "zsh": "_mqcli", "fish": "mqcli.fish"}
READY = b"READY> "


def shell(name: str) -> str:
    """Where the shell is; it is required like a broker."""

    def find() -> str:
        found = shutil.which(name)
        if found is None:
            raise Unavailable(f"{name} is not on the PATH")
        return found

    return need(name, find)


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Callable[[list[str]], Terminal]]:
    """Starts a shell on a terminal, with the program on its PATH."""
    started: list[Terminal] = []
    path = f"{Path(sys.executable).parent}{os.pathsep}{cli.env['PATH']}"

    def start(argv: list[str]) -> Terminal:
        env = {**cli.env, "PATH": path, "TERM": "xterm", "PS1": READY.decode()}
        env.pop("PYTHONWARNINGS")
        started.append(Terminal([shell(argv[0]), *argv[1:]], env, cli.home))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.mark.parametrize("name", FILES)
def test_the_scripts_are_current(cli: Cli, name: str) -> None:
    # When the program prints its script
    printed = cli("--show-completion", name).ok().out
    # Then the one in completions/ is the same (make completions writes it)
    assert printed == (FOLDER / FILES[name]).read_bytes()


def test_bash(terminal: Callable[[list[str]], Terminal]) -> None:
    # Given an interactive bash with the script loaded
    bash = terminal(["bash", "--norc", "--noprofile", "-i"])
    bash.expect(READY)
    bash.type(f"source '{FOLDER}/mqcli.bash'\n")
    bash.expect(READY)
    # When words are begun and completed: a verb, a kind behind the colons of a URL, a flag's value
    bash.type("mqcli ta\t")
    bash.expect(b"tail ")
    bash.type("redis://h/st\t")
    bash.expect(b"redis://h/stream:")
    bash.type("x --on-gap=fa\t")
    # Then bash has completed each of them, without a space behind the colon
    bash.expect(b"x --on-gap=fail")
    # And names of files where a file is meant
    Path(f"/proc/{bash.pid}/cwd").joinpath("values.txt").write_text("x")
    bash.type("\x15mqcli publish x -f val\t")
    bash.expect(b"values.txt")


def test_zsh(terminal: Callable[[list[str]], Terminal]) -> None:
    # Given an interactive zsh that finds the script in its fpath
    zsh = terminal(["zsh", "-f", "-i"])
    zsh.type(f"PS1='{READY.decode()}'; fpath=('{FOLDER}' $fpath); autoload -U compinit\n")
    zsh.type("compinit -u -D; print GO$((1 + 1))\n")
    zsh.expect(b"GO2")
    zsh.expect(READY)
    # When words are begun and completed
    zsh.type("mqcli ta\t")
    zsh.expect(b"il")
    zsh.type("redis://h/st\t")
    zsh.expect(b"ream:")
    zsh.type("x --recon\t")
    # Then zsh has completed each of them
    zsh.expect(b"nect-for")
    zsh.type("\x15mqcli p\t")
    zsh.expect(b"publish")
    zsh.expect(b"send messages")


def test_fish(cli: Cli) -> None:
    # Given fish, which can be asked for completions
    fish = shell("fish")
    (cli.home / "values.txt").write_text("x")
    script = f"source {FOLDER}/mqcli.fish; for line in $argv; complete -C $line; echo ==; end"
    lines = [
        "mqcli ta",
        "mqcli tail redis://h/st",
        "mqcli tail x --on-gap f",
        "mqcli publish x -f v",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{cli.env['PATH']}"
    # When it is asked
    result = cli("--no-config", "-c", script, *lines, program=(fish,), env={"PATH": path}).ok()
    # Then it knows a verb and its summary, a kind, a flag's value, and a file
    verb, kind, value, file, _ = result.out.decode().split("==\n")
    assert verb.startswith("tail\twatch")
    assert (kind, value, file) == ("redis://h/stream:\n", "fail\n", "values.txt\n"), result


def test_an_unknown_shell_is_refused(cli: Cli) -> None:
    cli("--show-completion", "tcsh").fails(2, "tcsh", "bash, zsh or fish")
