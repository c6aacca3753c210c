"""Topics of the embedded broker: a durable log in one SQLite file, for many processes at once.

What it guarantees is told in docs/embedded.md. Publishing, taking and acknowledging are one
transaction each, in one thread per transport; reading waits for nobody and stays on the event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Annotated, Any, Literal, overload

import msgspec
from msgspec import Meta

from ..errors import ConnectionLost, MqcliError, NotFound, Refused, UsageError
from ..message import Message
from ..options import Duration
from ..position import Start
from ..transport import (
    ANY,
    Consumes,
    Feed,
    Inspects,
    Manages,
    Outcome,
    Publishes,
    Span,
    Tails,
    Target,
    Traits,
)
from ._sqlite import File, SqliteConnection
from ._sqlite_feeds import GroupFeed, LogFeed, TopicFeed, now_ms
from ._sqlite_groups import Group, describe_groups, find_group, make_group
from ._sqlite_log import (
    Batch,
    Topic,
    count_bytes,
    drop_topic,
    find_time,
    find_topic,
    make_topic,
    purge_topic,
    trim,
)
from ._sqlite_writer import FateUnknown, Writer

_SHORTEST_LEASE = 0.1
_DURABLE = {
    "normal": "file: one file; survives the process, not a loss of power in the last moments",
    "full": "disk: one file, flushed to disk before each confirmation",
}


class SqliteTopicOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a topic."""

    sync: Annotated[
        Literal["normal", "full"],
        Meta(
            description="what a confirmed message survives: normal, the end of any process; full,"
            " a loss of power too (one fsync for each batch)"
        ),
    ] = "normal"
    max_messages: Annotated[
        Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None,
        Meta(description="publish, create: keep only the newest N messages from now on; 0: all"),
    ] = None
    max_age: Annotated[
        Duration | None,
        Meta(description="publish, create: keep messages only so long from now on; 0: for ever"),
    ] = None
    claim_after: Annotated[
        Duration,
        Meta(
            description="consume --group: how long what a consumer holds stays its own when nothing"
            " is heard of it"
        ),
    ] = Duration(30)


class _Positions(Sequence[str]):
    """The offsets of a batch, made into text only when asked for; "" for what was refused."""

    def __init__(self, first: int, count: int, refused: frozenset[int]) -> None:
        self._count = count
        self._offsets: Sequence[int | None] = range(first, first + count)
        if refused:
            offsets = iter(self._offsets)
            self._offsets = [None if i in refused else next(offsets) for i in range(count)]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        offset = self._offsets[index]
        return "" if offset is None else str(offset)


class SqliteTopic(Publishes, Consumes, Tails, Inspects, Manages):
    """A topic: a log, read by anyone from anywhere, or shared by the members of a group."""

    summary = "topic, a durable log in a file, with groups"
    Connection = SqliteConnection
    Options = SqliteTopicOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._file = File(target)
        self._name = target.address.name
        self._options: SqliteTopicOptions = target.options
        self._writer: Writer | None = None
        self._limit = 0
        self._feeds: set[TopicFeed] = set()
        self._retained = False
        self._closed = False

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        """Acknowledging, giving back and sharing exist in a group only.
        Raises UsageError for limits that are none."""
        if options.claim_after < _SHORTEST_LEASE:
            raise UsageError(
                f"claim_after={options.claim_after:g}s is too short",
                hint="100ms is the shortest: a consumer must have time to say that it is alive",
            )
        return Traits(
            confirm="stored",
            durable=_DURABLE[options.sync],
            ack="none" if group is None else "each",
            nack=group is not None,
            keeps="log",
            order="all",
            shares=group is not None,
            fans_out=True,
            headers="typed",
            keys=True,
            tombstones=True,
            missing="creates",
            properties=ANY,
            timestamps=True,
            starts=frozenset({"beginning", "end", "skip", "last", "at", "time", "after"}),
        )

    async def open(self) -> None:
        """Reads the header of the file where it is there, and nothing else.
        Raises UsageError, BrokerUnavailable, AccessDenied, NotFound for a missing directory."""
        if not self._name:
            raise UsageError("the topic has no name", where=self.target.where)
        self._file.examine()

    async def aclose(self) -> None:
        self._closed = True
        try:
            for feed in list(self._feeds):
                await feed.aclose()
        finally:
            self._feeds.clear()
            if self._writer is not None:
                await self._writer.aclose()

    def _writing(self) -> Writer:
        if self._closed:
            raise ConnectionLost("the topic is closed", where=self.target.where)
        if self._writer is None:
            self._writer = Writer(self._file, self._options.sync)
        return self._writer

    def _no_topic(self) -> NotFound:
        return NotFound(
            f"there is no topic {self._name!r}",
            where=self.target.where,
            hint="publishing to it makes it, and so does mqcli create",
        )

    def _found(self, connection: sqlite3.Connection) -> Topic:
        topic = find_topic(connection, self._name)
        if topic is None:
            raise self._no_topic()
        return topic

    # Publishing

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """One transaction. ``timeout`` is how long it may wait for the file's lock; after that, and
        after any error, all are refused and nothing is stored. Raises ConnectionLost where the file
        was removed or replaced meanwhile."""
        if not batch:
            return Outcome(0)
        prepared = Batch(batch, self._max_bytes(), self.target.where)
        if not len(prepared):
            return Outcome(0, prepared.refused)
        try:
            first = await self._writing().submit(
                partial(self._store, prepared), timeout, create=True
            )
        except ConnectionLost:
            raise
        except FateUnknown as exc:
            unknown = [i for i in range(len(batch)) if i not in prepared.refused]
            return Outcome(0, prepared.refused, unknown, exc)
        except MqcliError as exc:
            return Outcome(0, {i: prepared.refused.get(i, exc) for i in range(len(batch))})
        positions = _Positions(first, len(batch), frozenset(prepared.refused))
        return Outcome(len(prepared), prepared.refused, positions=positions)

    def _max_bytes(self) -> int:
        if not self._limit:
            with closing(sqlite3.connect(":memory:")) as connection:
                self._limit = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        return self._limit

    def _store(self, batch: Batch, connection: sqlite3.Connection) -> int:
        topic = find_topic(connection, self._name) or make_topic(connection, self._name)
        if not self._retained:
            topic = self._retain(connection, topic)
        now = now_ms()
        batch.insert(connection, topic, now)
        if topic.max_messages or topic.max_age_ms:
            trim(connection, topic._replace(next=topic.next + len(batch)), now)
        return topic.next

    def _demanded(self, topic: Topic) -> tuple[int | None, int | None]:
        """The limits of the topic when the options given are followed; None is no limit."""
        count, age = topic.max_messages, topic.max_age_ms
        if self._options.max_messages is not None:
            count = self._options.max_messages or None
        if self._options.max_age is not None:
            age = round(self._options.max_age * 1000) or None
        return count, age

    def _retain(self, connection: sqlite3.Connection, topic: Topic) -> Topic:
        count, age = self._demanded(topic)
        if (count, age) != (topic.max_messages, topic.max_age_ms):
            connection.execute(
                "UPDATE topics SET max_messages = ?, max_age_ms = ? WHERE id = ?",
                (count, age, topic.id),
            )
        return topic._replace(max_messages=count, max_age_ms=age)

    # Reading

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        """With a group: an existing one goes on where it stands, and a note says so when a start
        was given; a new one begins at the start. Raises NotFound, UsageError."""
        if group is None:
            return await self._log(span, Start("beginning"), limit)
        connection = await self._file.reader()
        try:
            topic, found, made = await self._writing().submit(
                partial(self._join, span.start or Start("beginning"), group),
                self._file.lock_timeout,
            )
            stop, until_ms = self._stop(connection, topic, span.stop, found.position)
            feed = GroupFeed(
                self._file, connection, self._writing(), topic, found, stop, until_ms, limit,
                self._options.claim_after,
            )  # fmt: skip
        except BaseException:
            connection.close()
            raise
        if span.start is not None and not made:
            feed.notes.append(
                f"the group {group!r} goes on from its position {found.position};"
                f" --from {span.start} was not used"
            )
        self._feeds.add(feed)
        return feed

    def _join(
        self, start: Start, group: str, connection: sqlite3.Connection
    ) -> tuple[Topic, Group, bool]:
        topic = self._found(connection)
        found = find_group(connection, topic, group)
        if found is not None:
            return topic, found, False
        position = max(topic.first, self._place(connection, topic, start, topic.first))
        return topic, make_group(connection, topic, group, position), True

    async def tail(self, span: Span) -> Feed:
        return await self._log(span, Start("end"), None)

    async def _log(self, span: Span, usual: Start, limit: int | None) -> Feed:
        connection = await self._file.reader()
        try:
            with self._file.mapped("the file cannot be read"):
                connection.execute("BEGIN")
                topic = self._found(connection)
                position = self._place(connection, topic, span.start or usual, topic.first)
                stop, until_ms = self._stop(connection, topic, span.stop, position)
                connection.execute("ROLLBACK")
            feed = LogFeed(self._file, connection, topic, position, stop, until_ms, limit)
        except BaseException:
            connection.close()
            raise
        self._feeds.add(feed)
        return feed

    def _place(self, connection: sqlite3.Connection, topic: Topic, place: Start, start: int) -> int:
        """The offset that a START or STOP means now; ``start`` is where the reading begins."""
        match place.kind:
            case "beginning":
                return topic.first
            case "end":
                return topic.next
            case "skip":
                return start + place.count
            case "last":
                return max(topic.first, topic.next - place.count)
            case "time":
                found = find_time(connection, topic, place.ms)
                return topic.next if found is None else found
            case "at":
                return self._offset(place.token)
            case "after":  # -1 is what lies before the first of all
                return 0 if place.token == "-1" else self._offset(place.token) + 1

    def _offset(self, token: str) -> int:
        if not (token.isascii() and token.isdigit() and len(token) <= 18):
            raise UsageError(
                f"{token!r} is not a position of a topic",
                where=self.target.where,
                hint="a position is an offset, a number such as 42",
            )
        return int(token)

    def _stop(
        self, connection: sqlite3.Connection, topic: Topic, place: Start | None, start: int
    ) -> tuple[int | None, int | None]:
        """(offset, None), or (None, milliseconds) for a time that no message has reached."""
        if place is None:
            return None, None
        if place.kind == "time":
            found = find_time(connection, topic, place.ms, start)
            if found is None:
                return (topic.next, None) if place.ms <= now_ms() else (None, place.ms)
            return found, None
        return self._place(connection, topic, place, start), None

    # Looking at it, and preparing it

    async def exists(self) -> bool:
        if not self._file.examine():
            return False
        with (
            self._file.mapped("the file cannot be read"),
            closing(await self._file.reader()) as reader,
        ):
            return find_topic(reader, self._name) is not None

    async def describe(self, group: str | None) -> dict[str, Any]:
        """Raises NotFound for a missing file, topic or group."""
        with (
            self._file.mapped("the file cannot be read"),
            closing(await self._file.reader()) as reader,
        ):
            reader.execute("BEGIN")
            topic = self._found(reader)
            groups = describe_groups(reader, topic, now_ms())
            size = count_bytes(reader, topic)
        if group is not None:
            groups = [found for found in groups if found["name"] == group]
            if not groups:
                raise NotFound(f"there is no group {group!r}", where=self.target.where)
        count = topic.next - topic.first
        return {
            "messages": count,
            "first": topic.first if count else None,
            "last": topic.next - 1 if count else None,
            "next": topic.next,
            "bytes": size,
            "max_messages": topic.max_messages,
            "max_age_seconds": None if topic.max_age_ms is None else topic.max_age_ms / 1000,
            "groups": groups,
            "file": str(self._file.path),
        }

    async def create(self) -> bool:
        """Raises Refused where the topic keeps other limits than those asked for."""
        return await self._writing().submit(self._create, self._file.lock_timeout, create=True)

    def _create(self, connection: sqlite3.Connection) -> bool:
        topic = find_topic(connection, self._name)
        if topic is None:
            self._retain(connection, make_topic(connection, self._name))
            return True
        if self._demanded(topic) != (topic.max_messages, topic.max_age_ms):
            raise Refused(
                "the topic is there with other limits",
                where=self.target.where,
                why=f"max_messages={topic.max_messages or 0},"
                f" max_age={(topic.max_age_ms or 0) / 1000:g}s",
                hint="publishing with -O max_messages= or -O max_age= changes them",
            )
        return False

    async def purge(self) -> int:
        """Offsets go on behind those removed. Raises NotFound."""
        return await self._writing().submit(
            lambda connection: purge_topic(connection, self._found(connection)),
            self._file.lock_timeout,
        )

    async def delete(self) -> None:
        """Its groups go with it; the file stays. Raises NotFound."""
        await self._writing().submit(
            lambda connection: drop_topic(connection, self._found(connection)),
            self._file.lock_timeout,
        )
