"""A tour on the embedded broker: the commands that a user would type, really run.

Everything is in a folder of its own, which is gone at the end.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..address import BrokerURL
from ..errors import NotAllDone

__all__ = ["Step", "tour"]

_LIMIT = 60.0
"""Seconds for one command, on the slowest of machines."""


class Step(NamedTuple):
    """What it shows, the command line, and what that printed (both streams, as they came)."""

    title: str
    command: str
    output: str


_STEPS = [
    (
        "100,000 messages from standard input, each confirmed by the broker",
        """seq 100000 | sed 's/.*/{"id": &}/' | mqcli publish orders -v""",
    ),
    ("What is there", "mqcli ls"),
    (
        "A group takes messages: acknowledged once they are written",
        "mqcli consume orders -g a -c 3",
    ),
    ("and goes on where it stopped", "mqcli consume orders -g a -c 2 -o json"),
    ("One message with a key and a header", "mqcli publish orders -k 7 -H by=demo '{\"id\": 0}'"),
    (
        "tail watches: the last message, and the two that come",
        "mqcli tail orders -n 1 -c 3 -o value &",
    ),
    ("(meanwhile)", "mqcli publish orders first second"),
    ("What a group has done, and has left", "mqcli describe orders -g a"),
    ("Reading without a group takes nothing: all are there", "mqcli consume orders -e | wc -l"),
    (
        "Load at a fixed rate: latencies from when each message was meant to go, all verified",
        "mqcli benchmark orders --rate 1000 --duration 1s --warmup 200ms",
    ),
    ("It had a topic of its own, which is gone", "mqcli ls"),
]


def tour(variables: Mapping[str, str]) -> Iterator[Step]:
    """Run the commands one after another. Raises NotAllDone when one of them fails."""
    with tempfile.TemporaryDirectory(prefix="mqcli-demo-") as folder:
        file = Path(folder) / "demo.db"
        environment = {
            **variables,
            "MQCLI_BROKER": BrokerURL("sqlite", path=("", *file.parts[1:])).text(),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        watching: subprocess.Popen[bytes] | None = None
        try:
            for title, command in _STEPS:
                process = _start(command.removesuffix("&"), environment)
                if command.endswith("&"):
                    watching = process
                    assert process.stdout is not None
                    # Its first line says that it watches: what follows will be seen.
                    yield Step(title, command, _text(process.stdout.readline()))
                    continue
                yield Step(title, command, _finish(command, process))
                if watching is not None:
                    seen = _finish(command, watching)
                    watching = None
                    yield Step("tail has seen them", "", seen)
        finally:
            if watching is not None:
                watching.kill()
                watching.wait()


def _start(command: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    program = f"{shlex.quote(sys.executable)} -m mqcli"
    return subprocess.Popen(
        ["sh", "-c", f'mqcli() {{ {program} "$@"; }}\n{command}'],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _finish(command: str, process: subprocess.Popen[bytes]) -> str:
    try:
        output, _ = process.communicate(timeout=_LIMIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise NotAllDone("the demo stopped", where=command, why=_text(output).strip())
    return _text(output)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
