"""Reading topics of the embedded broker: starts and stops, waiting, cancelling."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest
import uvloop

from mqcli.errors import UsageError
from mqcli.message import Message
from mqcli.position import Start
from mqcli.transport import Span

from . import sqlite_support
from .sqlite_support import (
    END,
    child,
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


@pytest.mark.alone
def test_waiting_costs_at_most_one_percent_of_a_core(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, b"x"))

    async def share(waiting: Awaitable[object]) -> float:
        before, since = time.process_time(), time.monotonic()
        await waiting
        return (time.process_time() - before) / (time.monotonic() - since)

    async def reading() -> float:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            assert await feed.receive(10, 1000, 3) == ()
            # When a reader has been waiting and waits for two seconds more
            return await share(feed.receive(10, 1000, 2))

    async def waking() -> float:
        """What it costs here to wake so often as 20 ms from commit to message demand, and no more
        than that: a slow machine, or one that others work on, needs more than 1 % for it."""

        async def wake() -> None:
            for _ in range(100):
                await asyncio.sleep(0.016)

        await asyncio.sleep(1)
        return await share(wake())

    # Then its processor time is at most 1 %, or little more than waking costs
    tries = [(uvloop.run(reading()), uvloop.run(waking())) for _ in range(3)]
    assert any(cost <= max(0.01, 1.6 * least) for cost, least in tries), tries


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
