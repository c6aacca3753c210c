"""What the tests of faults share: numbered messages, and what became of them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from tests.brokers.process import foreign
from tests.brokers.redis import Redis, RedisServer
from tests.cli.support import Result

Started = Callable[[Callable[[], Any]], Any]

DURABLE = ("appendonly yes", "appendfsync always", "auto-aof-rewrite-percentage 0")
"""What is confirmed survives kill -9 of the server."""

_COUNTS = re.compile(r"published (\d+) to \S+: (\d+) confirmed, (\d+) refused, (\d+) unknown")


def durable() -> RedisServer:
    return RedisServer(*DURABLE)


class Account(NamedTuple):
    """What a publisher says of its messages; the three parts are the whole."""

    submitted: int
    confirmed: int
    refused: int
    unknown: int
    resent: int


def account(result: Result) -> Account:
    """The account in the last line of a publisher, which must be right in itself."""
    match = _COUNTS.search(result.lines[-1])
    assert match is not None, result
    resent = re.search(r"(\d+) sent again", result.lines[-1])
    found = Account(*map(int, match.groups()), int(resent[1]) if resent else 0)
    assert found.confirmed + found.refused + found.unknown == found.submitted, result
    return found


def content(redis: Redis, kind: str, name: str) -> list[int]:
    """The numbers in a list or stream, by redis-cli."""
    command = ["LRANGE", name, "0", "-1"] if kind == "list" else ["XRANGE", name, "-", "+"]
    out = foreign(redis.client, [*redis.login, "--raw", *command]).split()
    return list(map(int, out if kind == "list" else out[2::3]))


def length(redis: Redis, kind: str, name: str) -> int:
    count = redis.cli("LLEN" if kind == "list" else "XLEN", name)
    assert isinstance(count, int)
    return count


@contextlib.contextmanager
def counting() -> Iterator[IO[bytes]]:
    """An endless input: 1, 2, 3, …, a line each."""
    with subprocess.Popen(["seq", "1", "1000000000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


class Feeder:
    """Writes 1, 2, 3, … into a pipe until told that it is enough; ``count`` is then the last."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._enough = pipe, threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._pipe:
            while not self._enough.is_set():
                first = self.count + 1
                data = b"".join(b"%d\n" % n for n in range(first, first + 1000))
                self.count += 1000
                while data:  # the pipe is unbuffered: a write may be partial
                    data = data[os.write(self._pipe.fileno(), data) :]

    def end(self) -> None:
        self._enough.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


class Output:
    """What a running program writes to one of its pipes, read as it comes."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._fd = pipe.fileno()
        self._rest = b""
        self.data = bytearray()
        self.lines: list[bytes] = []
        """The whole ones, without their ends."""

    def take(self, wait: float = 0.05) -> bool:
        """What is there, or comes within ``wait`` seconds; False at the end."""
        if not select.select([self._fd], [], [], wait)[0]:
            return True
        data = os.read(self._fd, 1 << 16)
        self.data += data
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines += whole
        return bool(data)

    def until(self, condition: Callable[[], bool], limit: float = 30.0) -> None:
        """Read until it is true. Raises AssertionError at the end of the output or the limit."""
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, self.data[-500:]
            assert self.take() or condition(), self.data[-500:]

    def expect(self, words: bytes, limit: float = 30.0) -> None:
        self.until(lambda: words in self.data, limit)


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began
