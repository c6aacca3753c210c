"""Topics as rows: appending, reading, finding and trimming, each within a caller's transaction.

Every topic is a table of its own, ``topic_ID``, so that appending always goes to the end of a
B-tree and deleting a topic drops a table. Offsets are dense: only the head is ever cut off.

``topics.parts`` says which optional columns any message of the topic has used; a reader selects no
other ones, for SQLite through Python costs by the column. ``topics.largest`` is the most bytes that
a message of the topic has had, so that a reader knows without looking how many surely fit.
``segments`` holds for every thousand offsets their bytes and their highest timestamp.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from ..errors import MqcliError, Refused
from ..message import Headers, Message, Plain, Received, Tagged
from ._sqlite import stored_name

SEGMENT = 1000
"""Offsets in a row of ``segments``."""
_CHUNK = 256
"""Rows in one INSERT: Python's lock is given up once for them all, not once for each."""
KEYS, HEADERS, PROPERTIES = 1, 2, 4
_SIZE = " + ".join(f"ifnull(length({c}), 0)" for c in ("value", "key", "headers", "properties"))
_OVERHEAD = 64  # what a row needs beside its values, generously

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Topic(NamedTuple):
    """A row of ``topics``: the kept offsets are from ``first`` to before ``next``."""

    id: int
    first: int
    next: int
    largest: int
    parts: int
    max_messages: int | None
    max_age_ms: int | None


_TOPIC = f"SELECT {', '.join(Topic._fields)} FROM topics WHERE"


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    row = connection.execute(f"{_TOPIC} name = ?", (stored_name(name),)).fetchone()
    return None if row is None else Topic(*row)


def topic_by_id(connection: sqlite3.Connection, topic_id: int) -> Topic | None:
    """None when it was deleted; a topic made anew under the same name has another id."""
    row = connection.execute(f"{_TOPIC} id = ?", (topic_id,)).fetchone()
    return None if row is None else Topic(*row)


def make_topic(connection: sqlite3.Connection, name: str) -> Topic:
    cursor = connection.execute("INSERT INTO topics (name) VALUES (?)", (stored_name(name),))
    assert cursor.lastrowid is not None
    connection.execute(
        f"CREATE TABLE topic_{cursor.lastrowid} (offset INTEGER PRIMARY KEY,"
        " timestamp INTEGER NOT NULL, key BLOB, value BLOB, headers BLOB, properties BLOB)"
    )
    return Topic(cursor.lastrowid, 0, 0, 0, 0, None, None)


def drop_topic(connection: sqlite3.Connection, topic: Topic) -> None:
    connection.execute(f"DROP TABLE topic_{topic.id}")
    for table in ("consumers", "pending"):
        connection.execute(
            f"DELETE FROM {table} WHERE group_id IN (SELECT id FROM groups WHERE topic_id = ?)",
            (topic.id,),
        )
    for table, column in (("groups", "topic_id"), ("segments", "topic_id"), ("topics", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (topic.id,))


def purge_topic(connection: sqlite3.Connection, topic: Topic) -> int:
    """Remove the messages; the offsets go on. Groups find out by themselves."""
    connection.execute(f"DELETE FROM topic_{topic.id}")
    connection.execute("DELETE FROM segments WHERE topic_id = ?", (topic.id,))
    connection.execute(
        "UPDATE topics SET first = next, largest = 0, parts = 0 WHERE id = ?", (topic.id,)
    )
    return topic.next - topic.first


# Headers are a MessagePack array of [name, value] pairs, properties a MessagePack map. MessagePack
# tells text, bytes, booleans, 64-bit integers and floats apart by itself; a map among the headers
# is a Tagged.


def _untag(value: Any) -> Any:
    if type(value) is dict:
        return Tagged(value["t"], _untag(value["v"]))
    if type(value) is list:
        return tuple(map(_untag, value))
    return value


def decode_headers(stored: bytes) -> Headers:
    return tuple((name, _untag(value)) for name, value in _decode(stored))


class Batch:
    """Messages made ready to be stored. ``refused`` are those that cannot be, by index."""

    def __init__(self, messages: Sequence[Message], limit: int, where: str) -> None:
        self.refused: dict[int, MqcliError] = {}
        self.parts = 0
        self._columns: list[Sequence[Any]] = []
        self.stamps: list[int | None] | None = None
        rich = not isinstance(messages, Plain) and [
            m
            for m in messages
            if m.key is not None or m.headers or m.properties is not None or m.timestamp is not None
        ]
        if rich:
            self._rich(messages, where)
        else:
            self._plain(messages)
        if self.sizes and max(self.sizes) + _OVERHEAD > limit:
            self._refuse_large(limit, where)

    def __len__(self) -> int:
        return len(self.sizes)

    def _plain(self, messages: Sequence[Message]) -> None:
        values = messages.values if isinstance(messages, Plain) else [m.value for m in messages]
        self._columns = [values]
        try:
            self.sizes = list(map(len, values))  # type: ignore[arg-type]
        except TypeError:
            self.sizes = [0 if value is None else len(value) for value in values]

    def _rich(self, messages: Sequence[Message], where: str) -> None:
        headers: list[bytes | None] = []
        properties: list[bytes | None] = []
        kept: list[Message] = []
        for index, m in enumerate(messages):
            try:
                header = _encode(m.headers) if m.headers else None
                property_ = None if m.properties is None else _encode(m.properties)
                if m.timestamp is not None and not -(2**63) <= m.timestamp < 2**63:
                    raise OverflowError(f"the timestamp {m.timestamp} has more than 64 bits")
            except (OverflowError, TypeError, ValueError, RecursionError) as exc:
                self.refused[index] = Refused(
                    "the message cannot be stored", where=where, why=str(exc)
                )
                continue
            kept.append(m)
            headers.append(header)
            properties.append(property_)
        keys = [m.key for m in kept]
        values = [m.value for m in kept]
        self._columns = [values]
        for part, column in ((KEYS, keys), (HEADERS, headers), (PROPERTIES, properties)):
            if column.count(None) < len(column):
                self.parts |= part
                self._columns.append(column)
        stamps = [m.timestamp for m in kept]
        if stamps.count(None) < len(stamps):
            self.stamps = stamps
        self.sizes = [
            sum(len(x) for x in row if x is not None)
            for row in zip(values, keys, headers, properties, strict=True)
        ]

    def _refuse_large(self, limit: int, where: str) -> None:
        # The indices of refusals are those of the original batch.
        total = len(self.sizes) + len(self.refused)
        indices = [i for i in range(total) if i not in self.refused]
        fits = [size + _OVERHEAD <= limit for size in self.sizes]
        for index, size, fit in zip(indices, self.sizes, fits, strict=True):
            if not fit:
                self.refused[index] = Refused(
                    f"the message has {size} bytes",
                    where=where,
                    why=f"SQLite holds {limit} at most",
                )
        self._columns = [[x for x, fit in zip(c, fits, strict=True) if fit] for c in self._columns]
        if self.stamps is not None:
            self.stamps = [x for x, fit in zip(self.stamps, fits, strict=True) if fit]
        self.sizes = [x for x, fit in zip(self.sizes, fits, strict=True) if fit]

    def insert(self, connection: sqlite3.Connection, topic: Topic, now_ms: int) -> None:
        """Append to the topic, and account for it."""
        count, first = len(self.sizes), topic.next
        columns: list[Sequence[Any]] = self._columns
        stamps: Sequence[int] | None = None
        if self.stamps is not None:
            stamps = [now_ms if stamp is None else stamp for stamp in self.stamps]
            columns = [stamps, *columns]
        chunk = min(_CHUNK, (connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - 2) // 5)
        at = 0
        while at < count:
            # Powers of two, so that few statements are ever compiled.
            rows = min(chunk, 1 << (count - at).bit_length() - 1)
            sql = _insert(topic.id, rows, self.parts, stamps is not None)
            cells: Iterable[Any]
            if len(columns) == 1:
                cells = columns[0][at : at + rows]
            else:
                cells = chain.from_iterable(
                    zip(*(column[at : at + rows] for column in columns), strict=True)
                )
            head = (first + at, now_ms) if stamps is None else (first + at,)
            connection.execute(sql, (*head, *cells))
            at += rows
        connection.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?) ON CONFLICT (topic_id, number) DO UPDATE SET"
            " high_ms = max(high_ms, excluded.high_ms), bytes = bytes + excluded.bytes",
            self._segments(topic.id, first, stamps, now_ms),
        )
        connection.execute(
            "UPDATE topics SET next = ?, largest = max(largest, ?), parts = parts | ? WHERE id = ?",
            (first + count, max(self.sizes), self.parts, topic.id),
        )

    def _segments(
        self, topic_id: int, first: int, stamps: Sequence[int] | None, now_ms: int
    ) -> Iterable[tuple[int, int, int, int]]:
        until = first + len(self.sizes)
        for number in range(first // SEGMENT, (until - 1) // SEGMENT + 1):
            a = max(0, number * SEGMENT - first)
            b = min(until, (number + 1) * SEGMENT) - first
            high = now_ms if stamps is None else max(stamps[a:b])
            yield topic_id, number, high, sum(self.sizes[a:b])


@lru_cache(64)
def _insert(topic_id: int, rows: int, parts: int, stamped: bool) -> str:
    """Parameter 1 is the first offset, 2 (unless each row is stamped) the time of all; then come,
    row by row, the cells of the columns in use."""
    cells = ", ".join("?" if parts & part else "NULL" for part in (KEYS, HEADERS, PROPERTIES))
    stamp = "?" if stamped else "?2"
    lines = ", ".join(f"(?1 + {row}, {stamp}, ?, {cells})" for row in range(rows))
    columns = "offset, timestamp, value, key, headers, properties"
    return f"INSERT INTO topic_{topic_id} ({columns}) VALUES {lines}"


def trim(connection: sqlite3.Connection, topic: Topic, now_ms: int) -> None:
    """Cut off the head that the topic's limits do not keep: what is beyond the count, and what
    stands before the first message that is young enough."""
    keep = topic.first
    if topic.max_messages:
        keep = max(keep, topic.next - topic.max_messages)
    if topic.max_age_ms:
        young = find_time(connection, topic, now_ms - topic.max_age_ms, keep)
        keep = topic.next if young is None else young
    if keep > topic.first:
        connection.execute(f"DELETE FROM topic_{topic.id} WHERE offset < ?", (keep,))
        connection.execute(
            "DELETE FROM segments WHERE topic_id = ? AND number < ?", (topic.id, keep // SEGMENT)
        )
        connection.execute("UPDATE topics SET first = ? WHERE id = ?", (keep, topic.id))


def find_time(connection: sqlite3.Connection, topic: Topic, ms: int, since: int = 0) -> int | None:
    """The first offset, not before ``since``, of a message stamped ``ms`` or later."""
    since = max(since, topic.first)
    segments = connection.execute(
        "SELECT number FROM segments WHERE topic_id = ? AND number >= ? AND high_ms >= ?"
        " ORDER BY number",
        (topic.id, since // SEGMENT, ms),
    )
    with closing(segments):
        for (number,) in segments:
            row = connection.execute(
                f"SELECT offset FROM topic_{topic.id} WHERE offset >= ? AND offset < ?"
                " AND timestamp >= ? ORDER BY offset LIMIT 1",
                (max(since, number * SEGMENT), (number + 1) * SEGMENT, ms),
            ).fetchone()
            if row is not None:
                return int(row[0])
    return None


def count_bytes(connection: sqlite3.Connection, topic: Topic) -> int:
    """Bytes of all kept values, keys, headers and properties."""
    whole = -(-topic.first // SEGMENT)
    ((full,),) = connection.execute(
        "SELECT ifnull(sum(bytes), 0) FROM segments WHERE topic_id = ? AND number >= ?",
        (topic.id, whole),
    )
    ((rest,),) = connection.execute(
        f"SELECT ifnull(sum({_SIZE}), 0) FROM topic_{topic.id} WHERE offset < ?",
        (whole * SEGMENT,),
    )
    return int(full) + int(rest)


def read(
    connection: sqlite3.Connection,
    topic: Topic,
    first: int,
    until: int,
    max_bytes: int,
    source: str,
) -> list[Received]:
    """The messages from ``first`` to before ``until``, as many as ``max_bytes`` allows but at least
    one. The topic must have been read in the same transaction and keep ``first``."""
    table = f"topic_{topic.id}"
    if (until - first) * topic.largest > max_bytes:
        until = _fitting(connection, table, first, until, max_bytes)
    columns = "timestamp, value, key, headers, properties" if topic.parts else "timestamp, value"
    within = f"FROM {table} WHERE offset >= ? AND offset < ? ORDER BY offset"
    rows = connection.execute(f"SELECT {columns} {within}", (first, until)).fetchall()
    offsets: Iterable[int] = range(first, until)
    if len(rows) != until - first:
        # Another program took some out: then the rows themselves must say where they stand.
        offsets = [
            offset for (offset,) in connection.execute(f"SELECT offset {within}", (first, until))
        ]
    if topic.parts:
        return [
            Received(
                value, key, () if headers is None else decode_headers(headers),
                None if properties is None else _decode(properties), timestamp, False,
                source, str(offset), False, None, offset,
            )
            for offset, (timestamp, value, key, headers, properties)
            in zip(offsets, rows, strict=True)
        ]  # fmt: skip
    return [
        Received(value, None, (), None, timestamp, False, source, str(offset), False, None, offset)
        for offset, (timestamp, value) in zip(offsets, rows, strict=True)
    ]


def _fitting(
    connection: sqlite3.Connection, table: str, first: int, until: int, max_bytes: int
) -> int:
    total = 0
    sizes = connection.execute(
        f"SELECT offset, {_SIZE} FROM {table} WHERE offset >= ? AND offset < ? ORDER BY offset",
        (first, until),
    )
    with closing(sizes):
        for offset, size in sizes:
            total += size
            if total > max_bytes and offset > first:
                return int(offset)
    return until
