"""What surrounds the process, in one object: descriptors, terminals, colours, variables."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping

from ..errors import InputError, OutputError

__all__ = ["Env"]

_HIDDEN = "***"


class Env:
    """Where a verb reads, writes and speaks.

    A standard stream that was closed when the process started is replaced by the null device, so
    that no database or socket can be opened in its place, and remembered as closed.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.variables = os.environ if variables is None else variables
        self.closed = frozenset(_occupy())
        self.stdin_tty = os.isatty(0)
        self.stdout_tty = os.isatty(1)
        self.stderr_tty = os.isatty(2)
        plain = bool(self.variables.get("NO_COLOR")) or self.variables.get("TERM") == "dumb"
        self.color = self.stdout_tty and not plain
        self.debug = False
        self.quiet = False
        self.verbose = False
        self.secrets: set[str] = set()
        """Passwords that no line on stderr may hold."""
        self._progress = False
        self._speaking = threading.Lock()

    def write(self, data: bytes) -> None:
        """Everything to stdout. Raises OutputError; BrokenPipeError when nobody reads."""
        self.require_stdout()
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view) :]
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(
                "cannot write", where="standard output", why=exc.strerror or str(exc)
            ) from exc

    def require_stdout(self) -> None:
        """Raises OutputError when stdout was closed before we began."""
        if 1 in self.closed:
            raise OutputError("cannot write", where="standard output", why="it is closed")

    def require_stdin(self) -> None:
        """Raises InputError when stdin was closed before we began."""
        if 0 in self.closed:
            raise InputError("cannot read", where="standard input", why="it is closed")

    def error(self, text: str) -> None:
        """One line on stderr, always."""
        self._line(text)

    def say(self, text: str) -> None:
        """One line on stderr, unless ``--quiet``."""
        if not self.quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """One line on stderr with ``--verbose``."""
        if self.verbose and not self.quiet:
            self._line(text)

    def _line(self, text: str) -> None:
        # A line stays one line, whatever a broker or a file's name puts into it.
        self.raw(" ".join(text.split("\n")) + "\n")

    def progress(self, text: str) -> None:
        """The line at the bottom of a terminal, replaced by whatever comes next."""
        if self.stderr_tty and not self.quiet:
            self.raw(f"{text}", progress=True)

    def raw(self, text: str, *, progress: bool = False) -> None:
        """Text to stderr as it is, but for passwords; nothing is said of a failure."""
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        with self._speaking, contextlib.suppress(OSError):
            wipe = "\r\x1b[K" if self._progress else ""
            self._progress = progress and bool(text)
            os.write(2, (wipe + text).encode("utf-8", "backslashreplace"))

    def secret(self, text: str | None) -> None:
        """Never show this. What is shorter than three characters could be part of any word."""
        if text is not None and len(text) >= 3:
            self.secrets.add(text)


def _occupy() -> list[int]:
    """Put the null device in place of closed standard streams: their numbers."""
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            # The lowest free number is this one.
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, (opened, number)
    return closed


def leave_pipe() -> None:
    """Let nothing more be written to a stdout that nobody reads."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
