"""Words between machines, through destinations of the broker under test and nothing else.

Everybody has an inbox, ``NAME.mqcli-meet`` the conductor and ``NAME.mqcli-meet.ID`` an agent, so
that nobody takes another's words where reading takes. Words are numbered by their sender: what a
broker reorders or repeats comes in order, once. A long word is cut into parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec

from ..client import Client
from ..errors import MqcliError, NotFound
from ..message import Plain
from ..position import BEGINNING
from ..publisher import Publisher
from ..reader import Reader
from ..transport import Span
from .place import Place, named
from .plan import Where

__all__ = ["Inbox", "Outbox", "inbox_of", "new_id"]

_PART = 200_000


class _Part(msgspec.Struct, array_like=True):
    sender: str
    number: int
    part: int
    parts: int
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Part).decode


def new_id() -> str:
    return secrets.token_hex(6)


def inbox_of(where: Where, agent: str | None = None) -> Where:
    """The inbox of an agent, or the conductor's, for a benchmark of ``where``."""
    client = where.client()
    suffix = "" if agent is None else f".{agent}"
    return named(client, where, f"{client.target.address.name}.mqcli-meet{suffix}")


class Outbox:
    """Words to one inbox; ``send`` does not wait for the broker."""

    def __init__(self, where: Where, sender: str) -> None:
        self._where, self._sender = where, sender
        self._number = 0
        self._publisher: Publisher | None = None
        self._words: asyncio.Queue[bytes] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.failure: MqcliError | None = None

    async def __aenter__(self) -> Outbox:
        self._publisher = await self._where.client().publisher().__aenter__()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None and self._publisher is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._words.join(), 2.0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._publisher.__aexit__(None, None, None)

    def send(self, word: bytes) -> None:
        self._words.put_nowait(word)

    async def _run(self) -> None:
        assert self._publisher is not None
        while True:
            word = await self._words.get()
            parts = [word[i : i + _PART] for i in range(0, len(word), _PART)] or [b""]
            batch = [
                _encode(_Part(self._sender, self._number, i, len(parts), part))
                for i, part in enumerate(parts)
            ]
            self._number += 1
            try:
                await self._publisher.submit(Plain(batch))
                await self._publisher.finish()
                if self._publisher.failure is not None:
                    raise self._publisher.failure
            except MqcliError as exc:
                self.failure = exc
                return
            finally:
                self._words.task_done()


class Inbox:
    """Where words arrive: created, read, and removed."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._stack = AsyncExitStack()
        self._reader: Reader | None = None
        self._parts: dict[tuple[str, int], list[bytes | None]] = {}
        self._next: dict[str, int] = {}

    async def __aenter__(self) -> Inbox:
        try:
            await self._stack.enter_async_context(Place(self._where, own=True, keep=False))
            self._reader = await self._stack.enter_async_context(_reader(self._where.client()))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        with contextlib.suppress(NotFound):
            await self._stack.aclose()

    async def words(self) -> AsyncIterator[tuple[str, bytes]]:
        """(sender, word), in the order of each sender, for ever. Raises MqcliError."""
        assert self._reader is not None
        while True:
            messages = await self._reader.receive(wait=0.5)
            for message in messages:
                try:
                    part = _decode(message.value or b"")
                except msgspec.DecodeError:  # nobody's word
                    continue
                if part.number < self._next.get(part.sender, 0):
                    continue  # it came before
                have = self._parts.setdefault((part.sender, part.number), [None] * part.parts)
                have[part.part] = part.data
                for word in self._whole(part.sender):
                    yield part.sender, word
            await self._reader.settle(len(messages))

    def _whole(self, sender: str) -> list[bytes]:
        """The words that are next and complete."""
        found = []
        # Who joins late, as on a channel, begins with what comes first.
        number = self._next.setdefault(sender, min(n for s, n in self._parts if s == sender))
        while (have := self._parts.get((sender, number))) is not None:
            known = [part for part in have if part is not None]
            if len(known) < len(have):
                break
            found.append(b"".join(known))
            del self._parts[sender, number]
            number += 1
        self._next[sender] = number
        return found


def _reader(client: Client) -> Reader:
    if client.traits().keeps == "nothing":
        return client.tail()
    if client.traits().keeps == "until-taken":
        return client.consume()
    return client.consume(Span(BEGINNING))
