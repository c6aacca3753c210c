"""A plugin from its user's side: listed without loading, resolved, and used by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqcli import registry
from mqcli.address import parse_address, parse_broker
from mqcli.broker import Broker
from mqcli.errors import UsageError

ROOT = Path(__file__).parents[2]


def mqcli(site: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, that finds the plugin as an installed one."""
    return subprocess.run(
        [sys.executable, "-m", "mqcli", *arguments],
        input=stdin, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
    )  # fmt: skip


def test_a_plugin_is_listed_without_being_loaded(memo_site: Path) -> None:
    # Given an installed plugin, when schemes and kinds are listed and an address is resolved
    code = (
        "import sys; from mqcli import registry; from mqcli.address import parse_address\n"
        "print('memo' in registry.schemes(), list(registry.kinds('memo')),\n"
        "      registry.resolve(parse_address('memo:///x/y')).kind, 'mqcli_memo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, text=True,
        env={**os.environ, "PYTHONPATH": f"{memo_site}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    # Then it is there, with its only kind as the default, and none of its code has run
    assert done.stdout == "True ['box'] box False\n", done.stderr


def test_a_plugin_resolves_to_its_class_and_broker(memo_site: Path) -> None:
    # Given an address of the plugin, when its target is made
    cls, target = registry.target(parse_address("memo:///x/box:y?poll=5ms"), [("max_size", "9")])
    # Then class and typed options are the plugin's
    assert cls.__name__ == "MemoBox"
    assert (target.connection.poll, target.options.max_size) == (0.005, 9)
    url = parse_broker("memo:///x")
    assert not isinstance(url, str) and issubclass(registry.load_broker(url), Broker)


def test_wrong_options_and_kinds_of_a_plugin_are_told(memo_site: Path) -> None:
    # Given mistakes in its address, when resolved, then each names what was probably meant
    with pytest.raises(UsageError, match="did you mean 'max_size'"):
        registry.target(parse_address("memo:///x/box:y"), [("maxsize", "9")])
    with pytest.raises(UsageError, match="did you mean box:y"):
        registry.target(parse_address("memo:///x/bx:y"))
    with pytest.raises(UsageError, match="did you mean memo://"):
        registry.target(parse_address("mem://x/y"))


def test_the_command_line_uses_a_plugin_like_its_own(memo_site: Path, tmp_path: Path) -> None:
    # Given a box that does not exist yet
    box = f"memo://{tmp_path}/box:notes"
    missing = mqcli(memo_site, "publish", box, "early")
    assert missing.returncode in (1, 66), missing.stderr
    assert not list(tmp_path.iterdir())
    # When it is created, published to and consumed from
    assert mqcli(memo_site, "create", box).returncode == 0
    assert mqcli(memo_site, "publish", box, stdin=b"one\ntwo\nthree").returncode == 0
    taken = mqcli(memo_site, "consume", box, "-c", "1")
    # Then one is taken, and the others stay
    assert (taken.returncode, taken.stdout) == (0, b"one\n"), taken.stderr
    assert [f.read_bytes() for f in sorted((tmp_path / "notes").glob("[0-9]*"))] == [
        b"two",
        b"three",
    ]
    assert b"notes" in mqcli(memo_site, "ls", f"memo://{tmp_path}").stdout
    assert mqcli(memo_site, "ping", f"memo://{tmp_path}").returncode == 0


def test_what_a_plugin_cannot_do_is_refused_by_its_traits(memo_site: Path, tmp_path: Path) -> None:
    # Given a box, which has no keys and no places to start from
    box = f"memo://{tmp_path}/box:notes"
    mqcli(memo_site, "create", box)
    # When asked for these, then the exit code says what is wrong, and nothing is changed
    keyed = mqcli(memo_site, "publish", box, "-k", "7", "x")
    assert keyed.returncode in (1, 2) and b"key cannot be carried" in keyed.stderr
    placed = mqcli(memo_site, "consume", box, "--from", "beginning")
    assert placed.returncode == 2 and len(placed.stderr.splitlines()) == 1
    assert not list((tmp_path / "notes").glob("[0-9]*"))
