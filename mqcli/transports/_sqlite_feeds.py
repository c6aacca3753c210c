"""Readings of a topic: as a log that leaves nothing behind, and as a member of a group.

Both read on the event loop's thread, in transactions that end before anything is awaited, so that
a slow reader never keeps SQLite from cutting its WAL. While nothing is there they look every 16 ms
whether any process has committed (``PRAGMA data_version``), and when the last commit is a while
ago only whether the WAL has been written to since, which is cheaper still.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from ..errors import ConnectionLost, MqcliError, NotFound
from ..message import Received
from ..position import Start
from ..transport import Feed, Gap, Span
from ._sqlite import File
from ._sqlite_groups import (
    Group,
    Range,
    Taken,
    forget,
    look,
    new_consumer,
    renew,
    runs,
    settle,
    take,
)
from ._sqlite_log import Topic, find_time, read, topic_by_id
from ._sqlite_writer import Writer

_POLL = 0.016  # within 20 ms of the commit, and as seldom as that allows
_RECHECK = 0.5  # for what no commit announces: a lease that ran out, a file that was removed
_COARSEST_NS = 2_500_000_000  # two seconds is the coarsest time of change of a file in use (FAT)
_LONGEST_GOODBYE = 3.0  # a signal leaves five seconds for everything
_NEVER = 1 << 62


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _retrieve(future: asyncio.Future[tuple[list[Taken], list[Range]]]) -> None:
    """Nobody may come back for the error of a take whose caller was cancelled."""
    if not future.cancelled():
        future.exception()


class TopicFeed(Feed):
    """What both readings share: the connection, the stop, and waiting. ``stop`` is an offset;
    ``until_ms`` is a stop by time that no message has reached yet."""

    def __init__(
        self,
        file: File,
        connection: sqlite3.Connection,
        topic: Topic,
        stop: int | None,
        until_ms: int | None,
    ) -> None:
        super().__init__()
        self._file, self._connection = file, connection
        self._topic_id = topic.id
        self._identity = file.identity()
        self._stop = _NEVER if stop is None else stop
        self._until_ms = until_ms
        self._searched = topic.next
        self._version = 0
        self._wal = f"{file.path}-wal"
        self._settled_ns = 0
        self._recheck = _RECHECK
        self._open = True

    @contextmanager
    def _snapshot(self) -> Iterator[Topic]:
        """The topic's row, within one transaction for reading. Raises NotFound."""
        connection = self._connection
        with self._file.mapped("the file cannot be read"):
            self._version = connection.execute("PRAGMA data_version").fetchone()[0]
            connection.execute("BEGIN")
            try:
                topic = topic_by_id(connection, self._topic_id)
                if topic is None:
                    raise NotFound("the topic was deleted", where=self._file.where)
                if self._until_ms is not None:
                    self._fix_stop(topic, self._until_ms)
                yield topic
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _fix_stop(self, topic: Topic, ms: int) -> None:
        found = find_time(self._connection, topic, ms, self._searched)
        self._searched = topic.next
        if found is None and now_ms() >= ms:
            found = topic.next
        if found is not None:
            self._stop, self._until_ms = found, None

    async def _changed(self, deadline: float) -> bool:
        """True as soon as another look is worth while, False at the deadline."""
        loop = asyncio.get_running_loop()
        changed: asyncio.Future[bool] = loop.create_future()
        recheck = time.monotonic() + self._recheck
        handle: asyncio.TimerHandle

        # A chain of callbacks costs half of what a task that sleeps and wakes does.
        def poll() -> None:
            nonlocal handle
            now = time.monotonic()
            try:
                committed = self._committed()
            except sqlite3.Error as exc:
                error = self._file.failure(exc, "the file cannot be read")
                error.__cause__ = exc
                changed.set_exception(error)
                return
            if committed:
                changed.set_result(True)
            elif now >= recheck and self._file.identity() != self._identity:
                changed.set_exception(
                    ConnectionLost("the file was removed or replaced", where=self._file.where)
                )
            elif now >= recheck or now >= deadline:
                changed.set_result(now < deadline)
            else:
                handle = loop.call_later(max(0.0, min(_POLL, deadline - now)), poll)

        handle = loop.call_later(max(0.0, min(_POLL, deadline - time.monotonic())), poll)
        try:
            return await changed
        finally:
            handle.cancel()

    def _committed(self) -> bool:
        """Whether anything was committed since the last snapshot."""
        try:
            written = os.stat(self._wal).st_mtime_ns  # noqa: PTH116, half the time of Path.stat
        except OSError:
            written = 0
        if written and written == self._settled_ns:
            return False
        # From here on a write would leave another time, unless this one is too recent to tell.
        telling = written > 0 and time.time_ns() - written > _COARSEST_NS
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            return True
        self._settled_ns = written if telling else 0
        return False

    def _gap(self, first: int, until: int) -> None:
        self.gaps.append(
            Gap(
                self._file.where,
                "removed before they were read (retention or purge)",
                after=str(first - 1),
                before=str(until),
                count=until - first,
            )
        )

    def _stop_place(self) -> Start | None:
        if self._until_ms is not None:
            return Start("time", ms=self._until_ms)
        return None if self._stop == _NEVER else Start("at", token=str(self._stop))

    async def aclose(self) -> None:
        self._open = False
        self._connection.close()


class LogFeed(TopicFeed):
    """Without a group: every message from ``position`` on, leaving nothing behind."""

    def __init__(
        self,
        file: File,
        connection: sqlite3.Connection,
        topic: Topic,
        position: int,
        stop: int | None,
        until_ms: int | None,
        limit: int | None = None,
    ) -> None:
        super().__init__(file, connection, topic, stop, until_ms)
        self._position = position
        self._left = _NEVER if limit is None else limit
        self.ended = position >= self._stop

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        await asyncio.sleep(0)  # nothing below may suspend, and others must run too
        while not self.ended:
            messages = self._read(min(max_messages, self._left), max_bytes)
            if messages or self.ended or not await self._changed(deadline):
                return messages
        return ()

    def _read(self, max_messages: int, max_bytes: int) -> Sequence[Received]:
        if not self._open:
            raise ConnectionLost("the feed is closed", where=self._file.where)
        messages: Sequence[Received] = ()
        with self._snapshot() as topic:
            if self._position < topic.first:
                lost = min(topic.first, self._stop)
                if self._position < lost:
                    self._gap(self._position, lost)
                self._position = lost
            until = min(self._position + max_messages, topic.next, self._stop)
            if until > self._position:
                messages = read(
                    self._connection, topic, self._position, until, max_bytes, self._file.where
                )
                # Rows that another program took out leave fewer, or none.
                self._position = messages[-1].token + 1 if messages else until
        self._left -= len(messages)
        self.ended = self._position >= self._stop
        return messages

    def resume(self) -> Span | None:
        return Span(Start("after", token=str(self._position - 1)), self._stop_place())


class GroupFeed(TopicFeed):
    """As a member of a group: messages are held under a lease until they are acknowledged.

    Whatever is taken and not handed out yet (``_ranges``) is known by its offsets only.
    """

    def __init__(
        self,
        file: File,
        connection: sqlite3.Connection,
        writer: Writer,
        topic: Topic,
        group: Group,
        stop: int | None,
        until_ms: int | None,
        limit: int | None,
        claim_after: float,
    ) -> None:
        super().__init__(file, connection, topic, stop, until_ms)
        self._writer, self._group = writer, group
        self._consumer = new_consumer()
        self._lease = claim_after
        self._lease_ms = max(1, round(claim_after * 1000))
        self._recheck = min(_RECHECK, claim_after / 4)
        self._wanted = _NEVER if limit is None else limit
        self._holding = 0
        self._ranges: deque[Taken] = deque()
        self._vanished: list[Range] = []
        self._untold: list[Taken] = []  # the writer's thread has taken, the loop's does not know
        self._taking: asyncio.Future[tuple[list[Taken], list[Range]]] | None = None
        self._renewing = asyncio.create_task(self._renew())

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        await asyncio.sleep(0)
        while not self.ended:
            if not self._open:
                raise ConnectionLost("the feed is closed", where=self._file.where)
            if self._taking is not None:  # of a call that was cancelled
                await self._taken()
            messages = self._read(max_messages, max_bytes)
            if messages:
                return messages
            if await self._take(min(max_messages, self._wanted)):
                continue
            if self.ended or not await self._changed(deadline):
                break
        return ()

    def _read(self, max_messages: int, max_bytes: int) -> list[Received]:
        """Messages of the ranges held and not handed out."""
        messages: list[Received] = []
        if not self._ranges:
            return messages
        with self._snapshot() as topic:
            while self._ranges:
                first, until, deliveries = self._ranges[0]
                kept = min(max(first, topic.first), until)
                if kept > first:
                    self._gap(first, kept)
                    self._vanished.append((first, kept))
                end = min(until, kept + max_messages)
                if kept < end:
                    found = read(self._connection, topic, kept, end, max_bytes, self._file.where)
                    if deliveries > 1:
                        for message in found:
                            message.redelivered = True
                            message.extra = {"delivery_count": deliveries}
                    messages += found
                    end = found[-1].token + 1 if found else end
                if end < until:
                    self._ranges[0] = Taken(end, until, deliveries)
                    break
                self._ranges.popleft()
                if self._ranges:
                    max_messages -= len(messages)
                    max_bytes -= sum(len(m.value or b"") for m in messages)
                    if max_messages <= 0 or max_bytes <= 0:
                        break
        return messages

    async def _take(self, want: int) -> bool:
        """Whether anything was taken; sets ``ended`` when nothing is left before the stop."""
        with self._snapshot() as topic:
            # What was committed after this look may lie behind a stop by time.
            stop = self._stop if self._until_ms is None else min(self._stop, topic.next)
            state = look(self._connection, self._group.id, self._consumer, stop, now_ms())
        if state is None:
            raise NotFound("the group was deleted", where=self._file.where)
        ready = state.position < min(topic.next, stop) or state.returned or state.abandoned
        if not ready:
            self.ended = state.position >= self._stop
            return False
        if want <= 0:
            return False
        self._taking = self._writer.submit(
            partial(self._take_now, want, stop), self._file.lock_timeout
        )
        self._taking.add_done_callback(_retrieve)
        return await self._taken()

    def _take_now(
        self, want: int, stop: int, connection: sqlite3.Connection
    ) -> tuple[list[Taken], list[Range]]:
        topic = topic_by_id(connection, self._topic_id)
        row = connection.execute(
            "SELECT id, position FROM groups WHERE id = ?", (self._group.id,)
        ).fetchone()
        if topic is None or row is None:
            raise NotFound("the topic was deleted", where=self._file.where)
        taken, lost = take(
            connection, topic, Group(*row), self._consumer, want, stop, self._lease_ms, now_ms()
        )
        self._untold = taken
        return taken, lost

    async def _taken(self) -> bool:
        """Add what ``_taking`` has taken; when this is cancelled, the next call does."""
        assert self._taking is not None
        try:
            taken, lost = await asyncio.shield(self._taking)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._taking = None
            raise
        self._taking = None
        self._untold = []
        self._ranges.extend(taken)
        count = sum(item.until - item.first for item in taken)
        self._wanted -= count
        self._holding += count
        for first, until in lost:
            self._gap(first, until)
        return bool(taken or lost)

    async def ack(self, messages: Sequence[Received]) -> int:
        ranges = runs([message.token for message in messages])
        gone, self._vanished = self._vanished, []
        self._holding -= len(messages)
        return await self._writer.submit(
            partial(self._ack_now, ranges, gone), self._file.lock_timeout
        )

    def _ack_now(
        self, ranges: list[Range], gone: list[Range], connection: sqlite3.Connection
    ) -> int:
        settle(connection, self._group.id, self._consumer, gone)
        return settle(connection, self._group.id, self._consumer, ranges)

    async def nack(self, messages: Sequence[Received]) -> None:
        ranges = runs([message.token for message in messages])
        self._holding -= len(messages)
        # What is given back may be wanted again, whoever holds it by now.
        self._wanted += len(messages)
        await self._writer.submit(partial(self._nack_now, ranges), self._file.lock_timeout)

    def _nack_now(self, ranges: list[Range], connection: sqlite3.Connection) -> int:
        return settle(connection, self._group.id, self._consumer, ranges, give_back=True)

    async def _renew(self) -> None:
        """Keep the lease while anything is held."""
        while True:
            await asyncio.sleep(self._lease / 3)
            if self._holding > 0:
                # What went wrong will be met again, and told, by the next call of the user; if the
                # lease is lost, acknowledging says so.
                with suppress(MqcliError):
                    await self._writer.submit(self._renew_now, self._lease / 3)

    def _renew_now(self, connection: sqlite3.Connection) -> None:
        renew(connection, self._group.id, self._consumer, self._lease_ms, now_ms())

    def resume(self) -> Span | None:
        """The group remembers where; only the stop must be handed on."""
        return Span(None, self._stop_place())

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        self._renewing.cancel()
        wait = min(self._file.lock_timeout, _LONGEST_GOODBYE)
        # Submitted before anything is awaited: being cancelled does not keep it from happening.
        # If it fails, what is held comes again when the lease runs out.
        with suppress(MqcliError):
            try:
                await asyncio.shield(self._writer.submit(self._give_back_now, wait))
            finally:
                await super().aclose()

    def _give_back_now(self, connection: sqlite3.Connection) -> None:
        unread = [(item.first, item.until) for item in (*self._ranges, *self._untold)]
        settle(connection, self._group.id, self._consumer, self._vanished)
        settle(connection, self._group.id, self._consumer, unread, give_back=True, undelivered=True)
        forget(connection, self._group.id, self._consumer)
