"""Topics of the embedded broker as logs: exact round trips, starts and stops, limits, waiting."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import NotFound, Refused, UsageError
from mqcli.message import Headers, HeaderValue, Message, Received, Tagged
from mqcli.options import Duration
from mqcli.position import Start
from mqcli.transport import ANY, Gap, Span
from mqcli.transports._sqlite import SqliteConnection
from mqcli.transports.sqlite_topic import SqliteTopic, SqliteTopicOptions

from . import sqlite_support
from .sqlite_support import (
    END,
    child,
    consume,
    drain,
    make,
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


# Round trips

int64 = st.integers(-(2**63), 2**63 - 1)
plain = st.one_of(st.text(), st.binary(), st.booleans(), int64, st.floats(allow_nan=False))
tagged = st.one_of(
    st.builds(Tagged, st.sampled_from(["i8", "u64", "time"]), st.integers(0, 2**64 - 1)),
    st.builds(Tagged, st.just("decimal"), st.text("0123456789.", max_size=9)),
    st.builds(Tagged, st.just("f32"), st.floats(width=32, allow_nan=False)),
    st.just(Tagged("null", None)),
)
header_values: st.SearchStrategy[HeaderValue] = st.recursive(
    st.one_of(plain, tagged),
    lambda inner: st.one_of(
        st.builds(Tagged, st.just("list"), st.lists(inner, max_size=3).map(tuple)),
        st.builds(
            Tagged,
            st.just("table"),
            st.lists(st.tuples(st.text(), inner), max_size=3).map(tuple),
        ),
    ),
    max_leaves=6,
)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.one_of(st.text(), st.binary()), header_values), max_size=3
).map(tuple)
properties = st.dictionaries(
    st.text(),
    st.recursive(
        st.one_of(plain, st.none()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=3,
)
messages = st.builds(
    Message,
    st.none() | st.binary(),
    st.none() | st.binary(),
    headers,
    st.none() | properties,
    st.none() | int64,
)


def exact(value: Any) -> Any:
    """With the type of everything, for 1 == True == 1.0."""
    if isinstance(value, Tagged):
        return ("tagged", value.t, exact(value.v))
    if isinstance(value, list | tuple):
        return (type(value).__name__, [exact(item) for item in value])
    if isinstance(value, dict):
        return ("dict", [(exact(k), exact(v)) for k, v in value.items()])
    return (type(value).__name__, value, math.copysign(1, value) if value == 0.0 else 1)


def content(message: Message) -> Any:
    return exact([message.value, message.key, message.headers, message.properties])


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sqlite") / "b.db"


@given(batch=st.lists(messages, min_size=1, max_size=6))
def test_every_part_of_a_message_comes_back_exactly(
    shared_file: Path, batch: list[Message]
) -> None:
    async def main() -> None:
        # Given any messages
        async with opened(shared_file, uuid4().hex) as transport:
            before = time.time_ns() // 1_000_000
            # When they are published and read again
            outcome = await transport.publish(batch, 10)
            feed = await transport.subscribe(Span(None, END), None, None)
            found = await drain(feed, count=4)
            # Then they are the same to the last type
            assert outcome.confirmed == len(batch)
            assert [content(m) for m in found] == [content(m) for m in batch]
            for sent, got in zip(batch, found, strict=True):
                if sent.timestamp is not None:
                    assert got.timestamp == sent.timestamp
                else:
                    assert got.timestamp is not None
                    assert before <= got.timestamp <= time.time_ns() // 1_000_000
            assert not any(m.raw_fields or m.redelivered or m.extra for m in found)

    run(main())


def test_not_a_number_and_infinity(tmp_path: Path) -> None:
    sent = Message(b"", headers=(("a", math.nan), ("b", math.inf)), properties={"c": -math.inf})
    run(publish(tmp_path / "b.db", sent))
    (got,) = run(consume(tmp_path / "b.db"))
    assert isinstance(got.headers[0][1], float) and math.isnan(got.headers[0][1])
    assert got.headers[1] == ("b", math.inf) and got.properties == {"c": -math.inf}


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000, 2047, 5000])
def test_batches_of_all_sizes(tmp_path: Path, count: int) -> None:
    # Given two batches, the second with keys, so that both ways of storing meet in one topic
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, count)))
    run(publish(file, *(Message(value, b"k") for value in numbers(count, 2 * count))))
    # When they are read, then order, offsets and the address of each are right
    found = run(consume(file))
    assert values(found) == numbers(0, 2 * count)
    assert [m.position for m in found] == [str(i) for i in range(2 * count)]
    assert [m.key for m in found] == [None] * count + [b"k"] * count
    assert {m.source for m in found} == {f"sqlite://{file}/topic:t"}


def test_large_and_hostile_values_and_bounded_batches(tmp_path: Path) -> None:
    # Given 64 MB among small ones, and bytes of every kind
    large = os.urandom(1 << 20) * 64
    sent = [b"", b"\0\xff\x1b]52;c;\x07\n", large, *numbers(0, 50), bytes(300_000), bytes(800_000)]
    file = tmp_path / "b.db"
    run(publish(file, *sent))

    async def main() -> None:
        async with opened(file) as transport:
            for group in (None, "g"):
                feed = await transport.subscribe(Span(None, END), group, None)
                found: list[Received] = []
                while not feed.ended:
                    # When they are received a megabyte at a time
                    some = await feed.receive(1000, 1 << 20, 5)
                    # Then only a single message passes that bound
                    size = sum(len(v) for v in values(some))
                    assert len(some) <= 1 or size <= 1 << 20
                    found += some
                assert values(found) == sent

    run(main())


def test_what_cannot_be_stored_is_refused_by_index(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "b.db") as transport:
            # Given a limit that one message passes, and others that no format carries
            transport._limit = 10_000
            batch = [
                Message(b"0"),
                Message(bytes(10_001)),
                Message(b"2", properties={"big": 2**70}),
                Message(b"3", headers=(("a", "\ud800"),)),
                Message(b"4", timestamp=2**63),
                Message(b"5", b"key"),
            ]
            # When they are published together
            outcome = await transport.publish(batch, 10)
            # Then the fitting ones are stored, and the others are known exactly
            assert outcome.confirmed == 2
            assert sorted(outcome.refused) == [1, 2, 3, 4]
            assert all(isinstance(e, Refused) for e in outcome.refused.values())
            assert list(outcome.positions or ()) == ["0", "", "", "", "", "1"]
            # And a batch of nothing else makes no difference
            outcome = await transport.publish(batch[1:2], 10)
            assert (outcome.confirmed, sorted(outcome.refused)) == (0, [0])
        assert [(m.value, m.key) for m in await consume(tmp_path / "b.db")] == [
            (b"0", None),
            (b"5", b"key"),
        ]

    run(main())


# Starts and stops

STAMPS = [1000, 3000, 2000, 2000, 5000, 4000]
"""Given by the user, so in no order: @2500 is the message at 1, @3500 the one at 4."""


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (None, END, range(6)),
        (Start("beginning"), END, range(6)),
        (END, END, range(0)),
        (Start("skip", count=2), END, range(2, 6)),
        (Start("skip", count=9), END, range(0)),
        (Start("last", count=2), END, range(4, 6)),
        (Start("last", count=9), END, range(6)),
        (at(4), END, range(4, 6)),
        (Start("after", token="4"), END, range(5, 6)),
        (Start("after", token="-1"), END, range(6)),
        (Start("time", ms=0), END, range(6)),
        (Start("time", ms=2500), END, range(1, 6)),
        (Start("time", ms=3000), END, range(1, 6)),
        (Start("time", ms=3500), END, range(4, 6)),
        (Start("time", ms=9000), END, range(0)),
        (None, at(4), range(4)),
        (None, Start("after", token="4"), range(5)),
        (None, Start("beginning"), range(0)),
        (None, Start("skip", count=2), range(2)),
        (at(1), Start("skip", count=2), range(1, 3)),
        (None, Start("last", count=2), range(4)),
        (None, Start("time", ms=2500), range(1)),
        (at(2), Start("time", ms=2500), range(2, 4)),
        (None, Start("time", ms=9000), range(6)),
        (at(4), at(2), range(0)),
    ],
    ids=str,
)
def test_every_start_and_stop(
    tmp_path: Path, start: Start | None, stop: Start, expected: range
) -> None:
    # Given six messages
    file = tmp_path / "b.db"
    run(publish(file, *(Message(b"%d" % i, timestamp=ms) for i, ms in enumerate(STAMPS))))
    # When a part is read, with and without a group, then it is exactly that part
    assert run(read(file, start, stop)) == numbers(expected.start, expected.stop)

    async def grouped() -> list[bytes]:
        async with opened(file) as transport:
            return values(await drain(await transport.subscribe(Span(start, stop), "g", None)))

    assert run(grouped()) == numbers(expected.start, expected.stop)


@pytest.mark.parametrize("token", ["x", "1717-0", "0:42", "４２", "9" * 19, "+1", ""])
def test_a_position_that_is_none(tmp_path: Path, token: str) -> None:
    file = tmp_path / "b.db"
    run(publish(file, b"x"))
    for span in (Span(Start("at", token=token)), Span(None, Start("at", token=token))):
        for group in (None, "g"):

            async def subscribe(span: Span = span, group: str | None = group) -> None:
                async with opened(file) as transport:
                    await transport.subscribe(span, group, None)

            with pytest.raises(UsageError, match="not a position"):
                run(subscribe())


def test_times_are_found_in_a_long_topic_with_a_head_cut_off(tmp_path: Path) -> None:
    # Given 5,000 random stamps, of which 1,234 have been removed
    file = tmp_path / "b.db"
    random.seed(3)
    stamps = [i * 10 + random.randrange(500) for i in range(5000)]
    stamps[100] = 10**9  # higher than all, and removed
    run(publish(file, *(Message(b"%d" % i, timestamp=ms) for i, ms in enumerate(stamps))))
    run(publish(file, Message(b"5000", timestamp=1), max_messages="3767"))
    # When times are looked for, then it is the first message kept with that stamp or a later one
    for ms in [0, 1, 12_000, 13_337, 30_000, 49_999, max(stamps[1234:])]:
        expected = next(i for i in range(1234, 5000) if stamps[i] >= ms)
        (found,) = run(consume(file, Start("time", ms=ms), at(expected + 1)))
        assert found.value == b"%d" % expected


def test_the_end_is_the_one_that_stood_at_open(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        async with opened(file) as transport:
            await transport.publish([Message(b"0")], 10)
            feed = await transport.subscribe(Span(None, END), None, None)
            # When another message comes after opening
            await transport.publish([Message(b"1")], 10)
            # Then it is beyond the end
            assert values(await drain(feed)) == [b"0"]
            assert feed.resume() == Span(Start("after", token="0"), at(1))

    run(main())


def test_a_stop_in_the_future_ends_with_the_first_later_message_or_with_the_clock(
    tmp_path: Path,
) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        async with opened(file) as transport:
            now = time.time_ns() // 1_000_000
            await transport.publish([Message(b"0")], 10)
            # Given stops that are far ahead, and near
            far = await transport.tail(Span(Start("beginning"), Start("time", ms=now + 10**6)))
            near = await transport.tail(Span(Start("beginning"), Start("time", ms=now + 300)))
            group = await transport.subscribe(Span(None, Start("time", ms=now + 10**6)), "g", None)
            assert far.resume() == Span(Start("after", token="-1"), Start("time", ms=now + 10**6))
            # When a message comes that is stamped later still
            late = Message(b"2", timestamp=now + 10**6 + 1)
            await transport.publish([Message(b"1"), late, Message(b"3")], 10)
            # Then reading ends before it, or when the clock has passed the stop
            assert values(await drain(far)) == [b"0", b"1"]
            assert values(await drain(group)) == [b"0", b"1"]
            assert values(await drain(near)) == [b"0", b"1"]

        await publish(file, b"0", topic="quiet")
        async with opened(file, "quiet") as transport:
            now = time.time_ns() // 1_000_000
            feed = await transport.tail(Span(Start("beginning"), Start("time", ms=now + 200)))
            assert values(await drain(feed)) == [b"0"]
            assert time.time_ns() // 1_000_000 >= now + 200

    run(main())


def test_resuming_goes_on_behind_the_last_message(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 10)))

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(Start("last", count=8), END), None, None)
            first = await feed.receive(3, 1000, 5)
            span = feed.resume()
            assert span == Span(Start("after", token="4"), at(10))
            await transport.publish([Message(b"10")], 10)
            rest = await drain(await transport.subscribe(span, None, None))
            assert values(first) + values(rest) == numbers(2, 10)

    run(main())


def test_a_limit_is_never_passed(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 10)))

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), None, 3)
            assert values(await feed.receive(2, 1000, 5)) == numbers(0, 2)
            assert values(await feed.receive(100, 1000, 5)) == numbers(2, 3)
            assert values(await feed.receive(100, 1000, 0.05)) == []

    run(main())


# Waiting

WRITER = (
    "async def main():\n"
    "    async with opened(Path(sys.argv[1])) as t:\n"
    "        for line in sys.stdin:\n"
    "            stamp = b'%d' % time.monotonic_ns()\n"
    "            await t.publish([Message(stamp)], 10)\n"
    "asyncio.run(main())"
)


def test_a_waiting_reader_is_woken_within_20_ms(tmp_path: Path) -> None:
    # Given a reader that waits, and a publisher in another process
    file = tmp_path / "b.db"
    run(publish(file, b"x"))
    process = child(WRITER, file)
    stdin = process.stdin
    assert stdin is not None
    delays: list[float] = []

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            for _ in range(30):
                # When one message is published at a random moment
                waiting = asyncio.create_task(feed.receive(10, 1000, 20))
                await asyncio.sleep(random.random() * 0.03)
                stdin.write("\n")
                stdin.flush()
                (message,) = await waiting
                assert message.value is not None
                delays.append((time.monotonic_ns() - int(message.value)) / 1e6)

    run(main())
    process.communicate(timeout=20)
    # Then it is there within 20 ms of the call to publish, but for the noise of the machine
    assert sorted(delays)[len(delays) // 2] < 20, delays


def test_waiting_costs_at_most_one_percent_of_a_core(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, b"x"))

    async def main() -> float:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            assert await feed.receive(10, 1000, 3) == ()
            # When a reader has been waiting and waits for two seconds more
            before, since = time.process_time(), time.monotonic()
            assert await feed.receive(10, 1000, 2) == ()
            return (time.process_time() - before) / (time.monotonic() - since)

    # Then its processor time is at most 1 %: what others on the machine do to its caches counts
    # as its own, so the least of some tries is what it costs
    assert any(uvloop.run(main()) <= 0.01 for _ in range(4))


def test_cancelling_a_wait_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, b"x"))

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            for i in range(100):
                waiting = asyncio.create_task(feed.receive(10, 1000, 5))
                await transport.publish([Message(b"%d" % i)], 10)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                if not waiting.cancelled():
                    assert values(waiting.result()) == [b"%d" % i]
                else:
                    assert values(await feed.receive(10, 1000, 5)) == [b"%d" % i]

    run(main())


def test_overlapping_publishes_keep_their_order_even_when_some_are_cancelled(
    tmp_path: Path,
) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        async with opened(file) as transport:
            # Given twenty publishes at once
            tasks = [
                asyncio.create_task(
                    transport.publish([Message(b"%d-%d" % (n, i)) for i in range(300)], 10)
                )
                for n in range(20)
            ]
            await asyncio.sleep(0)
            # When some are cancelled
            for task in tasks[5:9]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        # Then the others are stored in order, and each of the cancelled wholly or not at all
        found = values(await consume(file))
        stored = [int(v.split(b"-")[0]) for v in found[::300]]
        assert found == [b"%d-%d" % (n, i) for n in stored for i in range(300)]
        assert stored == sorted(stored)
        confirmed = [n for n, r in enumerate(results) if not isinstance(r, BaseException)]
        assert set(confirmed) <= set(stored)
        assert len(confirmed) >= 16

    run(main())


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


# Guarantees and options


def test_traits_need_nothing_opened(tmp_path: Path) -> None:
    alone = SqliteTopic.traits(SqliteTopicOptions(), None)
    shared = SqliteTopic.traits(SqliteTopicOptions(), "g")
    assert (alone.confirm, alone.ack, alone.nack, alone.shares) == ("stored", "none", False, False)
    assert (shared.ack, shared.nack, shared.shares) == ("each", True, True)
    assert alone.properties is ANY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [SqliteTopicOptions(claim_after=Duration(0.01)), SqliteTopicOptions(max_messages=-1)],
)
def test_options_that_make_no_sense(options: SqliteTopicOptions) -> None:
    with pytest.raises(UsageError):
        SqliteTopic.traits(options, None)


@pytest.mark.parametrize(
    "wrong",
    [{"sync": "off"}, {"max_age": "10"}, {"max_messages": "many"}, {"claim": "1s"}],
    ids=str,
)
def test_options_that_are_wrong(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        make(tmp_path / "b.db", **wrong)


def test_every_option_is_described() -> None:
    names = set()
    for struct in (SqliteConnection, SqliteTopicOptions):
        for field in msgspec.structs.fields(struct):
            assert field.name not in names
            names.add(field.name)
            info = msgspec.inspect.type_info(field.type)
            assert isinstance(info, msgspec.inspect.Metadata)
            assert (info.extra_json_schema or {})["description"]


def test_full_sync_is_what_sqlite_runs_with(tmp_path: Path) -> None:
    async def main(**options: str) -> tuple[Any, Any]:
        async with opened(tmp_path / "b.db", **options) as transport:
            await transport.publish([Message(b"x")], 10)
            assert transport._writer is not None
            return await transport._writer.submit(ask, 10)

    def ask(connection: sqlite3.Connection) -> tuple[Any, Any]:
        names = ("synchronous", "fullfsync")
        first, second = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return first, second

    assert run(main()) == (1, 0)
    assert run(main(sync="full")) == (2, 1)


def test_closing_is_safe_at_any_time(tmp_path: Path) -> None:
    async def main() -> None:
        transport = make(tmp_path / "b.db")
        await transport.aclose()
        await transport.aclose()
        transport = make(tmp_path / "b.db")
        await transport.open()
        await transport.publish([Message(b"x")], 10)
        feed = await transport.tail(Span())
        await transport.aclose()
        await feed.aclose()
        await feed.aclose()
        await transport.aclose()

    run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["b.db"]
