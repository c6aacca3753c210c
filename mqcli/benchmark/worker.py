"""A worker: an engine in a process of its own, led through a link to its conductor.

``python -m mqcli.benchmark.worker`` speaks on its standard input and output, in frames of four
bytes of length and a MessagePack value. It ends when its input does, so that none outlives its
conductor.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Protocol

from ..errors import MqcliError
from .engine import Engine, failed
from .plan import Failed, FromWorker, Go, Halt, Hand, Share, ToWorker, decode_to_worker, encode

__all__ = ["FRAME", "Ear", "main", "work"]

FRAME = 4
_LONGEST = 1 << 30


class Ear(Protocol):
    """What a worker is told. ``None`` is the end: the conductor is gone."""

    async def hear(self) -> ToWorker | None: ...


async def work(share: Share, ear: Ear, tell: Callable[[FromWorker], None]) -> None:
    """Take part in a run. What goes wrong is told, not raised."""
    try:
        engine = Engine(share, tell)
        try:
            tell(await engine.open())
            while True:
                match await ear.hear():
                    case Go(start, offset):
                        engine.go(start, offset)
                    case Halt():
                        engine.halt()
                    case Hand():
                        tell(await engine.hand())
                        return
                    case _:
                        return
        finally:
            await engine.aclose()
    except MqcliError as exc:
        tell(failed(exc))
    except Exception as exc:  # the conductor is who can say it
        tell(Failed("", repr(exc)))
        raise


class _Pipes:
    def __init__(self) -> None:
        self._reader = asyncio.StreamReader(limit=_LONGEST)
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        # Duplicates: the originals stay usable by whatever the interpreter does at its end.
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(os.dup(0), "rb")
        )

    async def aclose(self) -> None:
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)  # closing takes a turn of the loop

    async def hear(self) -> ToWorker | None:
        try:
            size = int.from_bytes(await self._reader.readexactly(FRAME), "big")
            word: ToWorker = decode_to_worker(await self._reader.readexactly(size))
            return word
        except asyncio.IncompleteReadError:
            return None

    def tell(self, word: FromWorker) -> None:
        data = encode(word)
        view = memoryview(len(data).to_bytes(FRAME, "big") + data)
        # The conductor does nothing but read: this does not stand still.
        while view:
            view = view[os.write(1, view) :]


async def _main() -> None:
    pipes = _Pipes()
    await pipes.open()
    try:
        first = await pipes.hear()
        if isinstance(first, Share):
            await work(first, pipes, pipes.tell)
    finally:
        await pipes.aclose()


def main() -> None:
    """The process. Signals from the terminal are the conductor's to handle."""
    for number in (signal.SIGINT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    try:
        import uvloop
    except ImportError:  # where it does not install
        asyncio.run(_main())
    else:
        uvloop.run(_main())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
