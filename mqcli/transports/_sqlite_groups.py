"""Consumer groups as rows: what was taken, by whom, and until when; within a caller's transaction.

A group's ``position`` is the next offset that nobody of it has been given. What has been given and
is not yet acknowledged stands in ``pending`` as ranges, not as messages, so that taking and
acknowledging a thousand costs as much as one. A range without a consumer waits to be given again.

A consumer is alive while ``renewed_ms + lease_ms`` is ahead of the clock. The clock is the wall's,
for processes and boots share no other one; a lease that begins in the future by more than its own
length was written before the clock was set back, and has run out too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ._sqlite import shown_name, stored_name
from ._sqlite_log import Topic

Range = tuple[int, int]
"""Offsets, from the first to before the second."""

_DEAD = "(renewed_ms + lease_ms <= :now OR renewed_ms > :now + lease_ms)"


class Taken(NamedTuple):
    """Offsets that a consumer now holds; ``deliveries`` counts this one too."""

    first: int
    until: int
    deliveries: int


class Group(NamedTuple):
    id: int
    position: int


class State(NamedTuple):
    """Whether a look at the writing side is worth while."""

    position: int
    returned: bool
    abandoned: bool


def new_consumer() -> int:
    return int.from_bytes(os.urandom(8), "big") >> 2


def find_group(connection: sqlite3.Connection, topic: Topic, name: str) -> Group | None:
    row = connection.execute(
        "SELECT id, position FROM groups WHERE topic_id = ? AND name = ?",
        (topic.id, stored_name(name)),
    ).fetchone()
    return None if row is None else Group(*row)


def make_group(connection: sqlite3.Connection, topic: Topic, name: str, position: int) -> Group:
    cursor = connection.execute(
        "INSERT INTO groups (topic_id, name, position) VALUES (?, ?, ?)",
        (topic.id, stored_name(name), position),
    )
    assert cursor.lastrowid is not None
    return Group(cursor.lastrowid, position)


def look(
    connection: sqlite3.Connection, group: int, consumer: int, stop: int, now_ms: int
) -> State | None:
    """None when the group is gone, which is when its topic was deleted."""
    row = connection.execute(
        "SELECT position, EXISTS (SELECT 1 FROM pending WHERE group_id = g.id AND consumer IS NULL"
        " AND first < :stop),"
        " EXISTS (SELECT 1 FROM consumers AS c JOIN pending AS p ON p.consumer = c.id"
        f" WHERE c.group_id = g.id AND p.group_id = g.id AND c.id <> :me AND {_DEAD}"
        " AND p.first < :stop)"
        " FROM groups AS g WHERE g.id = :group",
        {"group": group, "me": consumer, "stop": stop, "now": now_ms},
    ).fetchone()
    return None if row is None else State(row[0], bool(row[1]), bool(row[2]))


def renew(
    connection: sqlite3.Connection, group: int, consumer: int, lease_ms: int, now_ms: int
) -> None:
    connection.execute(
        "INSERT INTO consumers VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " renewed_ms = excluded.renewed_ms",
        (consumer, group, now_ms, lease_ms),
    )


def take(
    connection: sqlite3.Connection,
    topic: Topic,
    group: Group,
    consumer: int,
    want: int,
    stop: int,
    lease_ms: int,
    now_ms: int,
) -> tuple[list[Taken], list[Range]]:
    """Up to ``want`` offsets before ``stop``, those given back first; and the ranges that the topic
    no longer keeps. This consumer's lease is renewed, and leases that have run out are ended."""
    renew(connection, group.id, consumer, lease_ms, now_ms)
    dead = connection.execute(
        f"SELECT id FROM consumers WHERE group_id = :group AND {_DEAD}",
        {"group": group.id, "now": now_ms},
    ).fetchall()
    for (other,) in dead:
        forget(connection, group.id, other)
    taken: list[Taken] = []
    lost: list[Range] = []
    returned = connection.execute(
        "SELECT first, until, deliveries FROM pending WHERE group_id = ? AND consumer IS NULL"
        " AND first < ? ORDER BY first LIMIT ?",
        (group.id, stop, want),
    ).fetchall()
    for first, until, deliveries in returned:
        if want == 0:
            break
        connection.execute(
            "DELETE FROM pending WHERE group_id = ? AND first = ?", (group.id, first)
        )
        if first < topic.first:
            lost.append((first, min(until, topic.first)))
        begin = max(first, topic.first)
        end = min(until, begin + want, stop)
        if begin < end:
            taken.append(Taken(begin, end, deliveries + 1))
            want -= end - begin
            _hold(connection, group.id, begin, end, consumer, deliveries + 1)
        _hold(connection, group.id, max(begin, end), until, None, deliveries)
    begin = max(group.position, topic.first)
    if begin > group.position:
        lost.append((group.position, begin))
    end = min(begin + want, topic.next, stop)
    if end > begin:
        taken.append(Taken(begin, end, 1))
        _hold(connection, group.id, begin, end, consumer, 1)
    if max(begin, end) != group.position:
        connection.execute(
            "UPDATE groups SET position = ? WHERE id = ?", (max(begin, end), group.id)
        )
    return taken, lost


def _hold(
    connection: sqlite3.Connection,
    group: int,
    first: int,
    until: int,
    consumer: int | None,
    deliveries: int,
) -> None:
    if first < until:
        connection.execute(
            "INSERT INTO pending VALUES (?, ?, ?, ?, ?)",
            (group, first, until, consumer, deliveries),
        )


def settle(
    connection: sqlite3.Connection,
    group: int,
    consumer: int,
    ranges: Iterable[Range],
    *,
    give_back: bool = False,
    undelivered: bool = False,
) -> int:
    """Acknowledge, or give back, what of ``ranges`` this consumer still holds: how many offsets.
    ``undelivered`` ones were never handed out, so that their taking does not count."""
    ours = 0
    for first, until in ranges:
        found = []
        rows = connection.execute(
            "SELECT first, until, consumer, deliveries FROM pending WHERE group_id = ?"
            " AND first < ? ORDER BY first DESC",
            (group, until),
        )
        for row in rows:
            # Ranges never overlap, so everything further down ends before this one.
            if row[1] <= first:
                break
            if row[2] == consumer:
                found.append(row)
        rows.close()
        for held_first, held_until, _, deliveries in found:
            a, b = max(first, held_first), min(until, held_until)
            ours += b - a
            connection.execute(
                "DELETE FROM pending WHERE group_id = ? AND first = ?", (group, held_first)
            )
            _hold(connection, group, held_first, a, consumer, deliveries)
            if give_back:
                _hold(connection, group, a, b, None, deliveries - undelivered)
            _hold(connection, group, b, held_until, consumer, deliveries)
    return ours


def forget(connection: sqlite3.Connection, group: int, consumer: int) -> None:
    """End a consumer: all that it holds waits to be given again."""
    connection.execute(
        "UPDATE pending SET consumer = NULL WHERE group_id = ? AND consumer = ?", (group, consumer)
    )
    connection.execute("DELETE FROM consumers WHERE id = ?", (consumer,))


def runs(offsets: Sequence[int]) -> list[Range]:
    """The offsets, each once, as ranges."""
    ordered = sorted(set(offsets))
    if ordered and ordered[-1] - ordered[0] == len(ordered) - 1:
        return [(ordered[0], ordered[-1] + 1)]
    found: list[Range] = []
    for offset in ordered:
        if found and found[-1][1] == offset:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def describe_groups(
    connection: sqlite3.Connection, topic: Topic, now_ms: int
) -> list[dict[str, str | int]]:
    """By name: the position, what is taken and not acknowledged, the lag (all that is kept and not
    acknowledged), and the consumers alive."""
    rows = connection.execute(
        "SELECT name, position,"
        " (SELECT ifnull(sum(until - max(first, :kept)), 0) FROM pending"
        "  WHERE group_id = g.id AND until > :kept),"
        f" (SELECT count(*) FROM consumers WHERE group_id = g.id AND NOT {_DEAD})"
        " FROM groups AS g WHERE topic_id = :topic",
        {"topic": topic.id, "kept": topic.first, "now": now_ms},
    ).fetchall()
    described: list[dict[str, str | int]] = [
        {
            "name": shown_name(name),
            "position": position,
            "pending": pending,
            "lag": max(0, topic.next - max(position, topic.first)) + pending,
            "consumers": consumers,
        }
        for name, position, pending, consumers in rows
    ]
    return sorted(described, key=lambda group: str(group["name"]))
