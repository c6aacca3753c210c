"""Topics of the embedded broker looked at and cut: limits, purging, deleting, describing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mqcli.errors import NotFound, Refused
from mqcli.message import Message
from mqcli.position import Start
from mqcli.transport import Gap, Span

from . import sqlite_support
from .sqlite_support import (
    END,
    consume,
    drain,
    numbers,
    opened,
    publish,
    read,
    run,
    values,
)

reaped = sqlite_support.reaped


def at(offset: int) -> Start:
    return Start("at", token=str(offset))


# Limits, and looking at a topic


async def gaps_of(file: Path, start: Start) -> tuple[list[bytes], Sequence[Gap]]:
    async with opened(file) as transport:
        feed = await transport.subscribe(Span(start, END), None, None)
        return values(await drain(feed)), feed.gaps


def test_a_count_is_kept_to_by_later_publishers(tmp_path: Path) -> None:
    # Given a topic that was made with a limit
    file = tmp_path / "b.db"

    async def create() -> None:
        async with opened(file, max_messages="100") as transport:
            assert await transport.create() is True
            assert await transport.create() is False

    run(create())
    # When others publish more, without naming it
    for i in range(0, 350, 50):
        run(publish(file, *numbers(i, i + 50)))
    # Then only the newest are kept, and who comes for the others is told of the gap
    assert run(read(file)) == numbers(250, 350)
    found, (gap,) = run(gaps_of(file, at(20)))
    assert found == numbers(250, 350)
    assert (gap.after, gap.before, gap.count) == ("19", "250", 230)
    # When the limit is lifted, then all are kept again
    run(publish(file, *numbers(350, 360), max_messages="0"))
    run(publish(file, *numbers(360, 560)))
    assert run(read(file)) == numbers(250, 560)


def test_an_age_is_kept_to(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    now = time.time_ns() // 1_000_000
    old = [Message(b"%d" % i, timestamp=now - 10**7) for i in range(1500)]
    run(publish(file, *old))
    # When a message is published that asks for an age
    run(publish(file, b"1500", max_age="1h"))
    # Then what stands before the first young one is gone
    assert run(read(file)) == [b"1500"]
    run(publish(file, Message(b"1501", timestamp=now - 10**7), b"1502"))
    assert run(read(file)) == [b"1500", b"1501", b"1502"]
    run(publish(file, b"1503", max_age="0"))
    assert len(run(read(file))) == 4


def test_create_compares_what_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def create(**options: str) -> bool:
        async with opened(file, **options) as transport:
            return await transport.create()

    assert run(create(max_messages="10", max_age="1h")) is True
    assert run(create()) is False
    assert run(create(max_age="1h")) is False
    with pytest.raises(Refused, match="other limits"):
        run(create(max_messages="11"))
    with pytest.raises(Refused, match="other limits"):
        run(create(max_age="0"))


def test_purge_and_delete_as_open_readers_see_them(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        async with opened(file) as transport:
            await transport.publish([Message(b"%d" % i) for i in range(1200)], 10)
            feed = await transport.subscribe(Span(), None, None)
            group = await transport.subscribe(Span(), "g", None)
            assert len(await feed.receive(100, 10**6, 5)) == 100
            # When the topic is purged under readers
            assert await transport.purge() == 1200
            await transport.publish([Message(b"new")], 10)
            # Then both go on behind the gap, and offsets were not used twice
            (message,) = await feed.receive(100, 10**6, 5)
            assert (message.value, message.position) == (b"new", "1200")
            assert [(g.after, g.before, g.count) for g in feed.gaps] == [("99", "1200", 1100)]
            (message,) = await group.receive(100, 10**6, 5)
            assert (message.value, [g.count for g in group.gaps]) == (b"new", [1200])
            assert await group.ack([message]) == 1
            # When it is deleted, then readers are told, and a new one of its name is another
            await transport.delete()
            assert await transport.exists() is False
            await transport.publish([Message(b"again")], 10)
            for reader in (feed, group):
                with pytest.raises(NotFound):
                    await reader.receive(100, 10**6, 5)
            with pytest.raises(NotFound):
                await transport.describe("g")
            described = await transport.describe(None)
            assert (described["messages"], described["first"], described["groups"]) == (1, 0, [])

    run(main())


def test_describe(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        # Given 2,500 messages with 3 bytes each, of which the last 1,800 are kept
        await publish(file, *([b"abc"] * 2499), max_messages="1800")
        await publish(file, Message(b"", b"key"))
        async with opened(file) as transport:
            for name in ("b", "a"):
                feed = await transport.subscribe(Span(at(2000)), name, None)
                taken = await feed.receive(100, 10**6, 5)
                if name == "a":
                    await feed.ack(taken[:30])
                    described = await transport.describe("a")
                    group = {"name": "a", "position": 2100, "pending": 70, "lag": 470}
                    assert described["groups"] == [{**group, "consumers": 1}]
                await feed.aclose()
            # When it is described, then every figure is exact
            described = await transport.describe(None)
            assert described == {
                "messages": 1800, "first": 700, "last": 2499, "next": 2500, "bytes": 5400,
                "max_messages": 1800, "max_age_seconds": None,
                "groups": [
                    {"name": "a", "position": 2100, "pending": 70, "lag": 470, "consumers": 0},
                    {"name": "b", "position": 2100, "pending": 100, "lag": 500, "consumers": 0},
                ],
                "file": str(file),
            }  # fmt: skip
            with pytest.raises(NotFound, match="no group 'c'"):
                await transport.describe("c")

    run(main())


def test_rows_taken_out_by_another_program_do_not_shift_positions(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 10)))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM topic_1 WHERE offset IN (3, 4, 9)")
        connection.commit()
    found = run(consume(file))
    assert [m.position for m in found] == ["0", "1", "2", "5", "6", "7", "8"]
    assert values(found) == [m.position.encode() for m in found]
