"""Workers on this machine: real processes, each with an interpreter and a core of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Protocol

from ..errors import MqcliError
from .plan import FromWorker, Plan, Share, ToWorker, decode_from_worker, encode
from .worker import FRAME

__all__ = ["Link", "Process", "shares"]

_END = 5.0


class Link(Protocol):
    """A worker as its conductor sees it. ``offset`` is what the worker adds to its own monotonic
    clock to get the run's, in ns, and ``doubt`` how wrong that may be."""

    offset: int
    doubt: int

    async def open(self) -> None: ...

    async def send(self, word: ToWorker) -> None: ...

    async def hear(self) -> FromWorker:
        """Raises MqcliError when the worker is gone."""
        ...

    async def aclose(self) -> None: ...


class Process:
    """A worker in a process of its own. It is gone after ``aclose``, or when we are."""

    offset = doubt = 0

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        # -P: nothing in the current folder can take the place of a module.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "mqcli.benchmark.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=1 << 30,
        )  # fmt: skip

    async def send(self, word: ToWorker) -> None:
        assert self._process is not None and self._process.stdin is not None
        data = encode(word)
        with contextlib.suppress(ConnectionError):  # hear() tells
            self._process.stdin.write(len(data).to_bytes(FRAME, "big") + data)
            await self._process.stdin.drain()

    async def hear(self) -> FromWorker:
        assert self._process is not None and self._process.stdout is not None
        try:
            size = int.from_bytes(await self._process.stdout.readexactly(FRAME), "big")
            word: FromWorker = decode_from_worker(await self._process.stdout.readexactly(size))
            return word
        except asyncio.IncompleteReadError:
            code = await self._process.wait()
            raise MqcliError(
                "a worker process of the benchmark ended early", why=f"exit status {code}"
            ) from None

    async def aclose(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(ConnectionError):
            await process.stdin.wait_closed()
        try:
            await asyncio.wait_for(process.wait(), _END)
        except TimeoutError:
            process.kill()
            await process.wait()
        # The loop closes the pipe once it has seen its end.
        assert process.stdout is not None
        while await process.stdout.read(1 << 16):
            pass


def shares(plan: Plan, processes: int) -> Sequence[Share]:
    """The plan cut into at most so many shares: producers apart from consumers as far as it
    goes, each in turn."""
    actors = [("p", number) for number in range(plan.producers)]
    actors += [("c", number) for number in range(plan.consumers)]
    count = max(1, min(processes, len(actors)))
    cut = [actors[len(actors) * i // count : len(actors) * (i + 1) // count] for i in range(count)]
    return [
        Share(
            plan,
            tuple(number for kind, number in part if kind == "p"),
            tuple(number for kind, number in part if kind == "c"),
        )
        for part in cut
    ]
