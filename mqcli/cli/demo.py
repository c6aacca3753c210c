"""``mqcli demo``"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from .env import Env
from .flags import verb

if TYPE_CHECKING:
    from .common import Common


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise typer.Exit(128 + number)


@verb
def main(env: Env, common: Common) -> int:
    """See the embedded broker at work: real commands, their true output, nothing left behind."""
    from ..operations.demo import tour

    # The folder of the demo is removed then too.
    signal.signal(signal.SIGTERM, _terminated)
    strong, faint, plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if env.color else ("", "", "")
    began = time.monotonic()
    for step in tour(env.variables):
        heading = f"{faint}# {step.title}{plain}\n"
        if step.command:
            heading += f"{strong}$ {step.command}{plain}\n"
        env.write(f"{heading}{step.output}\n".encode())
    env.say(f"mqcli: {time.monotonic() - began:.1f} s; the broker was one file, now removed")
    return 0
