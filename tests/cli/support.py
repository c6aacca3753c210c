"""Running the real program: as a process with a home of its own, and on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "mqcli")
LIMIT = 60.0


class Result(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """What was said on stderr, without the line that names the embedded broker's file."""
        return [x for x in self.err.splitlines() if "using the embedded broker" not in x]

    def fails(self, code: int, *words: str) -> Result:
        """It ended so, with exactly one line on stderr that has these words, and no output."""
        assert (self.code, len(self.lines), self.out) == (code, 1, b""), self
        assert self.lines[0].startswith("mqcli: "), self
        for word in words:
            assert word in self.lines[0], (word, self)
        return self

    def ok(self) -> Result:
        assert self.code == 0, self
        return self


class Cli:
    """``mqcli`` with a fresh home, so that its embedded broker is empty."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MQCLI", "XDG", "PYTHON", "LC_", "LANG", "TERM", "NO_COLOR"))
        }
        self.env: dict[str, str] = {
            **kept,
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "LC_ALL": "C.UTF-8",
            "PYTHONWARNINGS": "error,ignore::DeprecationWarning",  # click's, of typer
        }

    @property
    def file(self) -> Path:
        """The embedded broker's."""
        return self.home / "data" / "mqcli" / "broker.db"

    def __call__(
        self,
        *args: str | bytes,
        stdin: bytes | IO[Any] | None = b"",
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
        **settings: Any,
    ) -> Result:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        done = subprocess.run(
            [*program, *args],
            env={**self.env, **(env or {})},
            cwd=self.home,
            timeout=LIMIT,
            check=False,
            **given,
            **output,
        )
        return Result(done.returncode, done.stdout or b"", (done.stderr or b"").decode())

    @contextlib.contextmanager
    def start(
        self, *args: str, stdin: Any = subprocess.DEVNULL, **settings: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The running process; it is killed at the end if it still runs. Its pipes are unbuffered,
        so that what is read from them is not missed by ``communicate``."""
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        with subprocess.Popen(
            [*PROGRAM, *args], env=self.env, cwd=self.home, stdin=stdin, bufsize=0, **output
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def patched(self, patch: str, *args: str, env: Mapping[str, str] | None = None) -> Result:
        """The program after ``patch``, statements in Python, has been executed in it."""
        code = f"{patch}\nfrom mqcli.__main__ import main\nmain()"
        return self(*args, program=(sys.executable, "-c", code), env=env)

    def shell(self, script: str, program: str = "bash") -> Result:
        """A shell script in which ``mqcli`` is the program."""
        folder = Path(sys.executable).parent
        path = f"{folder}{os.pathsep}{self.env['PATH']}"
        return self("-c", script, env={"PATH": path}, program=(program,))


def finish(process: subprocess.Popen[bytes], limit: float = 60) -> Result:
    """The end of a process that ends by itself."""
    out, err = process.communicate(timeout=limit)
    return Result(process.returncode, out or b"", (err or b"").decode())


def until(condition: Any, limit: float = 15.0) -> Any:
    """The first true value of ``condition()``. Raises AssertionError."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("did not become true in time")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.output = b""
        self._mark = 0
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(argv[0], argv, env)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def read(self, limit: float = 0.1) -> bool:
        """Take what is shown; False when the program has ended."""
        if not select.select([self._fd], [], [], limit)[0]:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.output += data
        return bool(data)

    def expect(self, token: bytes, limit: float = 20.0) -> None:
        """Wait until the token is shown, behind the one that was expected before."""
        end = time.monotonic() + limit
        while (found := self.output.find(token, self._mark)) < 0:
            assert time.monotonic() < end, (token, self.output)
            assert self.read() or token in self.output[self._mark :], (token, self.output)
        self._mark = found + len(token)

    def end(self) -> int:
        """Everything that is still shown, then the exit code."""
        limit = time.monotonic() + 20
        while self.read():
            assert time.monotonic() < limit, self.output
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)
