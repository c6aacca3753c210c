"""Consumer groups of the embedded broker: nothing lost, nothing twice, the dead are succeeded."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.message import Message, Received
from mqcli.position import Start
from mqcli.transport import Span
from mqcli.transports._sqlite import _SCHEMA
from mqcli.transports._sqlite_groups import (
    Taken,
    describe_groups,
    find_group,
    make_group,
    runs,
    settle,
    take,
)
from mqcli.transports._sqlite_log import find_topic, make_topic

from . import sqlite_support
from .sqlite_support import END, child, drain, numbers, opened, publish, run, values

reaped = sqlite_support.reaped

SOME = (1000, 1 << 20)


async def lag(file: Path, group: str = "g") -> tuple[int, int]:
    async with opened(file) as transport:
        (found,) = (await transport.describe(group))["groups"]
        return found["pending"], found["lag"]


def test_acknowledged_is_done_and_the_rest_comes_again_in_order(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 10))
        async with opened(file) as transport:
            # Given a consumer that acknowledges single messages here and there
            feed = await transport.subscribe(Span(), "g", None)
            found = await feed.receive(8, 1000, 5)
            assert values(found) == numbers(0, 8)
            assert not any(m.redelivered or m.extra for m in found)
            assert await feed.ack([found[2], found[3], found[6]]) == 3
            assert await feed.ack([found[2]]) == 0
            # When it closes
            await feed.aclose()
            # Then the next one gets the others at once, in order, marked, before what is new
            feed = await transport.subscribe(Span(), "g", None)
            again = await feed.receive(100, 1000, 5)
            assert values(again) == [b"0", b"1", b"4", b"5", b"7", b"8", b"9"]
            assert [m.redelivered for m in again] == [True] * 5 + [False] * 2
            assert [m.extra for m in again] == [{"delivery_count": 2}] * 5 + [None] * 2
            assert await feed.ack(again) == 7
        assert await lag(file) == (0, 0)

    run(main())


def test_given_back_comes_again_to_anyone(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 6))
        async with opened(file) as one, opened(file) as two:
            first = await one.subscribe(Span(), "g", None)
            second = await two.subscribe(Span(), "g", None)
            found = await first.receive(6, 1000, 5)
            # Given another consumer that waits
            waiting = asyncio.create_task(second.receive(10, 1000, 20))
            # When the first gives some back
            await first.nack(found[1:3])
            # Then the other gets them, without waiting for a lease
            again = await waiting
            assert values(again) == numbers(1, 3)
            assert await second.ack(again) == 2
            assert await first.ack(found[1:3]) == 0
            assert await first.ack([found[0], *found[3:]]) == 4
        assert await lag(file) == (0, 0)

    run(main())


def test_a_group_goes_on_and_says_that_the_start_was_not_used(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 10))
        async with opened(file) as transport:
            # Given a group that was made at 4
            feed = await transport.subscribe(Span(Start("at", token="4")), "g", None)
            assert feed.notes == []
            found = await feed.receive(2, 1000, 5)
            assert values(found) == numbers(4, 6)
            await feed.ack(found)
            await feed.aclose()
            # When it is joined with a start, then it goes on and says so
            feed = await transport.subscribe(Span(Start("beginning"), END), "g", None)
            assert values(await drain(feed)) == numbers(6, 10)
            (note,) = feed.notes
            assert "position 6" in note and "--from beginning" in note
            # And what a reconnect asks for brings no further note
            span = feed.resume()
            assert span == Span(None, Start("at", token="10"))
            assert (await transport.subscribe(span, "g", None)).notes == []
            # And another group has its own place
            feed = await transport.subscribe(Span(None, END), "h", None)
            assert values(await drain(feed)) == numbers(0, 10)

    run(main())


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_not_wanted_is_not_touched(tmp_path: Path, count: int) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 10))
        async with opened(file) as transport:
            # Given a consumer that wants a few
            feed = await transport.subscribe(Span(), "g", count)
            found = await feed.receive(*SOME, 5)
            assert values(found) == numbers(0, count)
            # When it has them, then no more are held, even when it asks
            assert await feed.receive(*SOME, 0.05) == ()
            assert (await transport.describe("g"))["groups"][0]["pending"] == count
            # And what it gives back may come again
            await feed.nack(found[-1:])
            assert values(await feed.receive(*SOME, 5)) == values(found[-1:])
            await feed.ack(found)
        assert await lag(file) == (0, 10 - count)

    run(main())


def test_what_was_taken_and_never_handed_out_was_not_delivered(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 10))
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), "g", None)
            # Given a bound in bytes that hands out less than was taken
            found = list(await feed.receive(10, 4, 5))
            assert values(found) == numbers(0, 4)
            # When a call is cancelled, then nothing is lost
            cancelled = asyncio.create_task(feed.receive(10, 2, 5))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert values(await feed.receive(10, 2, 5)) == numbers(4, 6)
            await feed.aclose()
            # Then only what was handed out counts as delivered
            again = await (await transport.subscribe(Span(), "g", None)).receive(100, 1000, 5)
            assert values(again) == numbers(0, 10)
            assert [m.redelivered for m in again] == [True] * 6 + [False] * 4

    run(main())


def test_cancelling_at_every_moment_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 400))
        found: list[Received] = []
        for delay in range(40):
            async with opened(file) as transport:
                feed = await transport.subscribe(Span(None, END), "g", None)
                # When a call is cancelled some steps after its begin, and the feed is closed
                for steps in (delay, 0):
                    task = asyncio.create_task(feed.receive(7, 1000, 5))
                    for _ in range(steps):
                        await asyncio.sleep(0.0001 * (delay % 7))
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    if not task.cancelled():
                        assert await feed.ack(task.result()) == len(task.result())
                        found += task.result()
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(None, END), "g", None)
            found += await drain(feed)
        # Then each message came once, and what was cancelled did not count as delivered
        assert sorted(int(m.value or b"") for m in found) == list(range(400))
        assert not any(m.redelivered for m in found)

    run(main())


def test_a_gap_where_the_position_was_trimmed(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 100))
        async with opened(file) as one, opened(file) as two:
            # Given a group at 30, of which 10 to 20 were given back and 20 to 30 are held
            feed = await one.subscribe(Span(), "g", None)
            other = await two.subscribe(Span(), "g", None)
            found = await feed.receive(20, 1000, 5)
            held = await other.receive(10, 1000, 5)
            await feed.ack(found[:10])
            await feed.nack(found[10:])
            # When the topic keeps only what is behind 90
            await publish(file, *numbers(100, 105), max_messages="15")
            # Then the rest comes behind gaps that say how many are gone
            rest = await feed.receive(100, 10**4, 5)
            assert values(rest) == numbers(90, 105)
            assert sorted((g.after, g.before, g.count) for g in feed.gaps) == [
                ("29", "90", 60),
                ("9", "20", 10),
            ]
            # And what was held is still its consumer's to acknowledge
            assert await other.ack(held) == 10
            assert await feed.ack(rest) == 15
        assert await lag(file) == (0, 0)

    run(main())


# Death

HOLDER = (
    "async def main():\n"
    "    async with opened(Path(sys.argv[1]), claim_after=sys.argv[2]) as t:\n"
    "        feed = await t.subscribe(Span(), 'g', None)\n"
    "        found = await feed.receive(50, 10**6, 20)\n"
    "        await feed.ack(found[:10])\n"
    "        print(len(found), flush=True)\n"
    "        await asyncio.to_thread(sys.stdin.readline)\n"
    "        print(await feed.ack(found[10:]), flush=True)\n"
    "asyncio.run(main())"
)


def holder(file: Path, claim_after: str) -> subprocess.Popen[str]:
    process = child(HOLDER, file, claim_after)
    assert process.stdout is not None
    assert process.stdout.readline() == "50\n"
    return process


def test_what_a_killed_consumer_held_comes_again(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 60)))
    # Given a consumer that holds 40 messages, and is killed
    process = holder(file, "1500ms")
    renewed = time.monotonic()
    process.kill()
    process.communicate()

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), "g", None)
            # When another one reads, then it first gets what nobody had
            fresh = await feed.receive(100, 10**6, 5)
            assert values(fresh) == numbers(50, 60)
            assert await feed.receive(100, 10**6, 0.05) == ()
            # And when the lease has run out what the dead one had not acknowledged
            again = await feed.receive(100, 10**6, 20)
            waited = time.monotonic() - renewed
            assert values(again) == numbers(10, 50)
            assert all(m.redelivered and m.extra == {"delivery_count": 2} for m in again)
            assert waited < 1.5 + 2
            assert await feed.ack([*fresh, *again]) == 50
        assert await lag(file) == (0, 0)

    run(main())


def test_a_sleeper_that_wakes_up_cannot_acknowledge_what_others_took_over(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 50)))
    # Given a consumer that is stopped for longer than its lease
    process = holder(file, "300ms")
    os.kill(process.pid, signal.SIGSTOP)

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), "g", None)
            found = await feed.receive(100, 10**6, 20)
            assert values(found) == numbers(10, 50)
            await feed.ack(found[:20])
            # When it wakes up and acknowledges, then nothing is its own any more
            os.kill(process.pid, signal.SIGCONT)
            assert process.communicate("\n", timeout=20)[0] == "0\n"
            assert await feed.ack(found[20:]) == 20

    run(main())
    assert process.returncode == 0


def test_a_slow_but_living_consumer_keeps_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 50)))
    # Given a consumer that is slower than its lease is long
    process = holder(file, "300ms")

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), "g", None)
            # When another one waits for three times that long, then it gets nothing
            assert await feed.receive(100, 10**6, 0.9) == ()

    run(main())
    assert process.communicate("\n", timeout=20)[0] == "40\n"
    assert run(lag(file)) == (0, 0)


def test_two_processes_share_a_group_without_loss_or_duplicates(tmp_path: Path) -> None:
    # Given a topic that is published to while two processes consume it in one group
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, 5000)))
    code = (
        "async def main():\n"
        "    async with opened(Path(sys.argv[1])) as t:\n"
        "        feed = await t.subscribe(Span(None, Start('at', token='20000')), 'g', None)\n"
        "        while not feed.ended:\n"
        "            found = await feed.receive(97, 10**6, 1)\n"
        "            if found:\n"
        "                for m in found: print(m.value.decode())\n"
        "                assert await feed.ack(found) == len(found)\n"
        "                assert not any(m.redelivered for m in found)\n"
        "asyncio.run(main())"
    )
    children = [child(code, file) for _ in range(2)]
    for first in range(5000, 20_000, 500):
        run(publish(file, *numbers(first, first + 500)))
    outputs = [process.communicate(timeout=60)[0].split() for process in children]
    # Then each message came to exactly one, in order, and both had some
    assert [process.returncode for process in children] == [0, 0]
    assert sorted(map(int, outputs[0] + outputs[1])) == list(range(20_000))
    for output in outputs:
        assert output
        assert list(map(int, output)) == sorted(map(int, output))
    assert run(lag(file)) == (0, 0)


def test_taking_and_acknowledging_a_thousand_costs_as_much_as_one(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def count(batch: int) -> int:
        statements: list[str] = []
        async with opened(file) as transport:
            feed = await transport.subscribe(Span(), f"g{batch}", None)
            writer = transport._writer
            assert writer is not None
            await writer.submit(lambda c: c.set_trace_callback(statements.append), 10)
            found = await feed.receive(batch, 1 << 20, 5)
            assert await feed.ack(found) == batch
            await writer.submit(lambda c: c.set_trace_callback(None), 10)
        return len(statements)

    async def main() -> None:
        await publish(file, *numbers(0, 2000))
        assert await count(1000) == await count(1) <= 20

    run(main())


# The rows, against a model


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["take", "ack", "nack"]), st.integers(0, 2), st.integers(1, 12)),
        max_size=40,
    ),
    picks=st.randoms(use_true_random=False),
)
def test_ranges_behave_as_single_messages_would(
    steps: list[tuple[str, int, int]], picks: Any
) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(_SCHEMA)
        made = make_topic(connection, "t")
        connection.execute("UPDATE topics SET next = 60 WHERE id = ?", (made.id,))
        topic = find_topic(connection, "t")
        assert topic is not None
        make_group(connection, topic, "g", 0)
        # Given a model that knows every single offset: its holder, and how often it was delivered
        holder: dict[int, int | None] = {}
        delivered: dict[int, int] = {}
        position = 0
        for step, consumer, amount in steps:
            group = find_group(connection, topic, "g")
            assert group is not None
            mine = [offset for offset, who in holder.items() if who == consumer + 1]
            if step == "take":
                # When offsets are taken, then they are the lowest free ones, then new ones
                taken, lost = take(connection, topic, group, consumer + 1, amount, 60, 30_000, 0)
                free = sorted(offset for offset, who in holder.items() if who is None)
                expected = (free + list(range(position, 60)))[:amount]
                position = max([position, *(offset + 1 for offset in expected)])
                for offset in expected:
                    holder[offset] = consumer + 1
                    delivered[offset] = delivered.get(offset, 0) + 1
                assert lost == []
                assert flat(taken) == [(offset, delivered[offset]) for offset in expected]
            else:
                chosen = picks.sample(range(60), min(amount * 3, 60))
                ours = [offset for offset in chosen if offset in mine]
                back = step == "nack"
                # When some are settled, then exactly those held by this consumer are
                assert settle(
                    connection, group.id, consumer + 1, runs(chosen), give_back=back
                ) == len(ours)
                for offset in ours:
                    if back:
                        holder[offset] = None
                    else:
                        del holder[offset]
            (described,) = describe_groups(connection, topic, 0)
            assert described["pending"] == len(holder)
            assert described["lag"] == len(holder) + 60 - position


def flat(taken: list[Taken]) -> list[tuple[int, int]]:
    return [(o, item.deliveries) for item in taken for o in range(item.first, item.until)]


def test_a_lock_while_closing_leaves_it_to_the_lease(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, *numbers(0, 5))
        async with opened(file, claim_after="300ms", lock_timeout="50ms") as transport:
            feed = await transport.subscribe(Span(), "g", None)
            assert len(await feed.receive(*SOME, 5)) == 5
            # Given a lock that outlasts the patience of a closing consumer
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await feed.aclose()
                other.execute("ROLLBACK")
            # When the lease has run out, then its messages come again
            feed = await transport.subscribe(Span(), "g", None)
            again = await feed.receive(*SOME, 20)
            assert values(again) == numbers(0, 5)
            assert all(m.redelivered for m in again)

    run(main())


def test_messages_wake_a_waiting_group(tmp_path: Path) -> None:
    file = tmp_path / "b.db"

    async def main() -> None:
        await publish(file, b"0")
        async with opened(file) as transport:
            feeds = [await transport.subscribe(Span(END), "g", None) for _ in range(3)]
            tasks = [asyncio.create_task(feed.receive(1, 1000, 20)) for feed in feeds]
            await transport.publish([Message(value) for value in numbers(1, 4)], 10)
            found = [values(await task) for task in tasks]
            assert sorted(found) == [[b"1"], [b"2"], [b"3"]]

    run(main())
