"""Processes of brokers: natively or in Docker, on private ports, gone whatever ends the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from uuid import uuid4

START_SECONDS = 30.0
STOP_SECONDS = 10.0

# Reads until the test process says "done" or is gone, even by kill -9; then nobody else is left
# to end the broker. $1 is the broker's process id, $2 its folder, $3 its container or nothing.
_GUARD = """
read word
[ "$word" = done ] && exit 0
[ -n "$3" ] && docker kill "$3"
kill "$1" || { rm -rf "$2"; exit 0; }
for try in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" || break; sleep 0.2; done
kill -9 "$1"
rm -rf "$2"
"""


class Unavailable(Exception):
    """This broker, or this variant of it, cannot be had here; the text says why."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; below the range that systems hand out to
    outgoing connections, so that none of those takes it before the broker does."""
    for _ in range(200):
        port = 10_240 + int.from_bytes(os.urandom(2), "big") % 20_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise Unavailable("no free port on 127.0.0.1")


def wait_until(true: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Poll until ``true()``. Raises AssertionError that names ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


@cache
def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return (
            subprocess.run(
                ["docker", "info"], capture_output=True, stdin=subprocess.DEVNULL, timeout=5
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def short_folder() -> Path:
    """A new private folder whose path leaves room for a unix socket (104 bytes on macOS)."""
    return Path(tempfile.mkdtemp(prefix="mqt-", dir="/tmp" if sys.platform == "darwin" else None))


class Program:
    """A program of a broker and where it runs: in Docker where that answers, else from the PATH.

    Raises Unavailable where it is in neither.
    """

    def __init__(self, name: str, image: str) -> None:
        self.name = name
        self.image = image
        self.in_docker = docker_answers()
        if not self.in_docker and shutil.which(name) is None:
            raise Unavailable(f"no Docker engine answers and {name} is not on the PATH")

    def argv(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        ports: Sequence[int] = (),
        container: str | None = None,
    ) -> list[str]:
        """The command line. In Docker ``folder`` is at its own path, and the network is the
        host's; where Docker lives in a virtual machine (not Linux) ``ports`` are published."""
        if not self.in_docker:
            return [self.name, *arguments]
        line = ["docker", "run", "--rm", "-i", "--label", "mqcli-test"]
        if container:
            line += ["--name", container]
        if folder is not None:
            line += ["-v", f"{folder}:{folder}", "-w", str(folder)]
            line += ["--user", f"{os.getuid()}:{os.getgid()}"]
        if sys.platform == "linux":
            line += ["--network", "host"]
        else:
            for port in ports:
                line += ["-p", f"127.0.0.1:{port}:{port}"]
        return [*line, self.image, self.name, *arguments]


class Process:
    """A running broker. ``kill`` and ``start`` again keep its folder and ports."""

    def __init__(
        self, program: Program, arguments: Sequence[str], folder: Path, ports: Sequence[int]
    ) -> None:
        self.program = program
        self.arguments = list(arguments)
        self.folder = folder
        self.ports = list(ports)
        self._popen: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._container: str | None = None

    @property
    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "broker.log").read_text(errors="replace")[-4000:]
        return ""

    def start(self, ready: Callable[[], bool]) -> None:
        """Start, and wait until ``ready()``. Raises Unavailable with the log's end if it ends."""
        assert self._popen is None
        self._container = f"mqcli-test-{uuid4().hex[:12]}" if self.program.in_docker else None
        argv = self.program.argv(
            self.arguments, folder=self.folder, ports=self.ports, container=self._container
        )
        with (self.folder / "broker.log").open("ab") as log:
            # A session of its own: Ctrl-C at the terminal must end the tests before the broker.
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._popen.pid), str(self.folder),
             self._container or ""],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        running = self._popen
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if running.poll() is not None or time.monotonic() > deadline:
                log_end = self.log
                self._end(signal.SIGKILL)
                raise Unavailable(f"{self.program.name} did not start: {log_end}")
            time.sleep(0.01)

    def kill(self) -> None:
        """As ``kill -9``: nothing is flushed, connections are reset by the system."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """As SIGSTOP: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and remove its folder. Safe twice."""
        if self._popen is not None:
            self._signal(signal.SIGCONT)
            self._end(signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._popen is not None
        if self._container is None:
            self._popen.send_signal(number)
        else:
            subprocess.run(
                ["docker", "kill", "--signal", number.name, self._container],
                capture_output=True, timeout=STOP_SECONDS,
            )  # fmt: skip

    def _end(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._signal(number)
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._popen.wait(STOP_SECONDS)
        self._popen = None
        if self._guard is not None:
            self._guard.communicate(b"done\n", timeout=STOP_SECONDS)
            self._guard = None


def foreign(
    program: Program, arguments: Sequence[str], *, stdin: bytes = b"", folder: Path | None = None
) -> bytes:
    """Standard output of the vendor's own client. Raises AssertionError with its stderr."""
    done = subprocess.run(
        program.argv(arguments, folder=folder), input=stdin, capture_output=True, timeout=30
    )
    assert done.returncode == 0, (program.name, arguments, done.stdout[-500:], done.stderr[-500:])
    return done.stdout
