"""memo:///DIRECTORY/box:NAME: a folder as a queue, each message a file. A sample plugin.

A box is the folder ``NAME`` in ``DIRECTORY``; a message is the file ``NNNNNNNNNNNN`` in it, with
the value as its content, and with the suffix ``.again`` once it was given back. What a reader
holds is in ``.held-…`` there, whose file ``owner`` that reader keeps locked: when its process is
gone the lock is too, and the next reader puts the files back. The work is done on the event loop,
which is good enough for a folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TextIO
from uuid import uuid4

import msgspec
from msgspec import Meta

from mqcli.address import decode, encode
from mqcli.broker import Broker, Entry
from mqcli.errors import AccessDenied, BrokerUnavailable, NotFound, Refused, UsageError
from mqcli.message import Message, Received
from mqcli.options import Duration
from mqcli.transport import (
    Consumes,
    Feed,
    Gap,
    Inspects,
    Manages,
    Outcome,
    Publishes,
    Span,
    Tails,
    Target,
    Traits,
)


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    poll: Annotated[Duration, Meta(description="how often a waiting reader looks again")] = (
        Duration(0.02)
    )


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_size: Annotated[int, Meta(ge=0, description="refuse longer values, in bytes")] = 1 << 30


def directory(target: Target) -> Path:
    """The broker's folder. Raises BrokerUnavailable, AccessDenied, UsageError."""
    url = target.address.broker
    assert url is not None
    if url.hosts:
        raise UsageError("memo: takes no host", where=str(url), hint="write memo:///directory")
    path = Path(url.file)
    if not path.is_dir():
        raise BrokerUnavailable("no such folder", where=str(url), hint=f"mkdir {path}")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise AccessDenied("the folder is not readable and writable", where=str(url))
    return path


class MemoBox(Publishes, Consumes, Tails, Inspects, Manages):
    summary: ClassVar[str] = "a folder of files as a queue"
    Connection = Connection
    Options = Options

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        return Traits(
            confirm="reached",
            ack="each",
            nack=True,
            keeps="until-taken",
            order="all",
            shares=True,
            fans_out=False,
            headers="none",
            keys=False,
            tombstones=False,
            missing="refused",
        )

    async def open(self) -> None:
        name = encode(self.target.address.name)
        if not name or name.startswith("."):
            raise UsageError("a box needs a name without a leading dot", where=self.target.where)
        self.path = directory(self.target) / name

    async def aclose(self) -> None:
        """Nothing stays open between calls."""

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        refused: dict[int, Any] = {}
        positions = []
        limit = self.target.options.max_size
        try:
            with self.locked():
                counter = self.path / ".next"
                number = int(counter.read_text()) if counter.exists() else 1
                for i, message in enumerate(batch):
                    assert message.value is not None  # tombstones: the traits say no
                    if len(message.value) > limit:
                        refused[i] = Refused(
                            f"{len(message.value)} bytes are more than max_size={limit}",
                            where=self.target.where,
                        )
                        positions.append("")
                        continue
                    new = self.path / ".new"
                    new.write_bytes(message.value)
                    new.rename(self.path / f"{number:012d}")
                    positions.append(str(number))
                    number += 1
                counter.write_text(str(number))
        except NotFound as exc:
            return Outcome(0, dict.fromkeys(range(len(batch)), exc))
        return Outcome(len(batch) - len(refused), refused, positions=positions)

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        with self.locked():
            return Taking(self, span, limit)

    async def tail(self, span: Span) -> Feed:
        with self.locked():
            return Watching(self, span)

    async def exists(self) -> bool:
        return self.path.is_dir()

    async def describe(self, group: str | None) -> dict[str, Any]:
        with self.locked():
            held = sum(1 for _ in self.path.glob(".held-*/[0-9]*"))
            return {"messages": len(self.names()), "held": held, "path": str(self.path)}

    async def create(self) -> bool:
        try:
            self.path.mkdir()
        except FileExistsError:
            return False
        return True

    async def purge(self) -> int | None:
        with self.locked():
            names = self.names()
            for name in names:
                (self.path / name).unlink()
            return len(names)

    async def delete(self) -> None:
        with self.locked():
            shutil.rmtree(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in the box, over all processes. Raises NotFound."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise NotFound(
                "there is no such box", where=self.target.where, hint="make it with mqcli create"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def names(self) -> list[str]:
        return sorted(file.name for file in self.path.iterdir() if file.name[0] != ".")

    def read(self, path: Path, token: Path | None) -> Received:
        number, _, again = path.name.partition(".")
        return Received(
            path.read_bytes(),
            timestamp=path.stat().st_mtime_ns // 1_000_000,
            source=self.target.where,
            position=str(int(number)),
            redelivered=bool(again),
            token=token,
        )


class Taking(Feed):
    """Holds files in a folder of its own until they are acknowledged (removed) or given back."""

    def __init__(self, box: MemoBox, span: Span, limit: int | None) -> None:
        super().__init__()
        self.box = box
        self.left = limit
        self.poll: float = box.target.connection.poll
        self.to_end = span.stop is not None
        self._give_back_of_the_dead()
        if self.to_end:
            standing = len(box.names())
            self.left = standing if limit is None else min(limit, standing)
            self.ended = self.left == 0
        self.held = box.path / f".held-{uuid4().hex}"
        self.held.mkdir()
        self.owner: TextIO | None = (self.held / "owner").open("w")
        fcntl.flock(self.owner, fcntl.LOCK_EX)

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        while self.owner is not None:
            # Without an await between taking and returning, a cancellation loses nothing.
            messages = self._take(max_messages, max_bytes)
            left = deadline - time.monotonic()
            if messages or self.ended or left <= 0:
                return messages
            await asyncio.sleep(min(self.poll, left))
        return ()

    def _take(self, max_messages: int, max_bytes: int) -> list[Received]:
        if self.left is not None:
            max_messages = min(max_messages, self.left)
        messages: list[Received] = []
        with self.box.locked():
            for name in self.box.names()[:max_messages]:
                size = (self.box.path / name).stat().st_size
                if messages and size > max_bytes:
                    break
                max_bytes -= size
                file = (self.box.path / name).rename(self.held / name)
                messages.append(self.box.read(file, file))
        if self.left is not None:
            self.left -= len(messages)
        if self.to_end and (self.left == 0 or not messages):
            self.ended = True
        return messages

    async def ack(self, messages: Sequence[Received]) -> int:
        gone = 0
        for message in messages:
            try:
                message.token.unlink()
            except FileNotFoundError:
                gone += 1
        return len(messages) - gone

    async def nack(self, messages: Sequence[Received]) -> None:
        with self.box.locked():
            for message in messages:
                _give_back(message.token, self.box.path)

    async def aclose(self) -> None:
        if self.owner is not None:
            self.owner.close()
            self.owner = None
            with contextlib.suppress(NotFound), self.box.locked():
                _empty(self.held, self.box.path)

    def _give_back_of_the_dead(self) -> None:
        for held in self.box.path.glob(".held-*"):
            with (held / "owner").open("w") as owner:
                try:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                _empty(held, self.box.path)


def _empty(held: Path, box: Path) -> None:
    for file in held.glob("[0-9]*"):
        _give_back(file, box)
    shutil.rmtree(held)


def _give_back(file: Path, box: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        file.rename(box / f"{file.name.partition('.')[0]}.again")


class Watching(Feed):
    """Looks at what comes, and leaves it there. What others took between two looks is a gap."""

    def __init__(self, box: MemoBox, span: Span) -> None:
        super().__init__()
        self.box = box
        self.poll: float = box.target.connection.poll
        # It starts at the end, the only START of a queue, so the only STOP is reached too.
        self.ended = span.stop is not None
        self.next = self._upcoming()

    def _upcoming(self) -> int:
        counter = self.box.path / ".next"
        return int(counter.read_text()) if counter.exists() else 1

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        while True:
            messages = [] if self.ended else self._look(max_messages, max_bytes)
            left = deadline - time.monotonic()
            if messages or self.gaps or self.ended or left <= 0:
                return messages
            await asyncio.sleep(min(self.poll, left))

    def _look(self, max_messages: int, max_bytes: int) -> list[Received]:
        messages: list[Received] = []
        with self.box.locked():
            end = self._upcoming()
            names = {int(name.partition(".")[0]): name for name in self.box.names()}
            missed = 0
            while self.next < end and len(messages) < max_messages and max_bytes > 0:
                name = names.get(self.next)
                if name is None and messages:
                    break  # a gap stands before the messages of a call, so it waits for the next
                if name is None:
                    missed += 1
                else:
                    message = self.box.read(self.box.path / name, None)
                    max_bytes -= len(message.value or b"")
                    messages.append(message)
                self.next += 1
        if missed:
            where = self.box.target.where
            self.gaps.append(Gap(where, "taken by others between two looks", count=missed))
        return messages

    async def aclose(self) -> None:
        """Nothing is held; a waiting ``receive`` ends."""
        self.ended = True


class MemoBroker(Broker):
    Connection = Connection

    async def open(self) -> None:
        self.path = directory(self.target)

    async def aclose(self) -> None:
        """Nothing stays open between calls."""

    async def ping(self) -> dict[str, Any]:
        return {"server": "memo", "path": str(self.path)}

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        return [
            Entry("box", decode(box.name), sum(1 for _ in box.glob("[0-9]*")))
            for box in sorted(self.path.iterdir())
            if box.is_dir() and not box.name.startswith(".")
        ]
