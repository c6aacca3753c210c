"""The entry point: ``mqcli`` and ``python -m mqcli``.

It imports next to nothing before an interrupt is dealt with, and leaves by ``os._exit``: all
output is written and every connection closed by then, so that tearing down the interpreter would
only cost time, and a thread that still waits for a terminal cannot hold the process back.
"""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def main() -> NoReturn:
    """Run the program that ``sys.argv`` asks for and end the process with its exit code."""
    # A tenth of the start is the collector looking through modules, and on the bulk paths it
    # looks through batches that reference counts free anyway.
    gc.set_threshold(100_000)
    try:
        signal.signal(signal.SIGTERM, _terminated)
        from .cli.shell import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    os._exit(code)


if __name__ == "__main__":
    main()
