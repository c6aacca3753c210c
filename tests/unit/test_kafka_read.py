"""Reading Kafka: starts and stops over partitions, order, gaps, damage, watching."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from mqcli.errors import (
    InputError,
    NotFound,
    UsageError,
)
from mqcli.message import Message
from mqcli.position import END, Start, parse_start
from mqcli.transport import Span
from mqcli.transports._kafka_log import LogFeed

from ..brokers.kafka import Kafka, KafkaServer
from .kafka_support import (
    everything,
    make,
    numbered,
    publish,
    read,
    run,
    spread,
    topic,
    values,
)

Started = Callable[[Callable[[], Any]], Any]


def positions(start: str) -> Start:
    return parse_start(start)


# -- places


def test_partitions_can_be_chosen(kafka: Kafka, fresh: str) -> None:
    # Given messages in six partitions
    address = f"{kafka.url}/{fresh}"
    run(make(address, 6))
    run(publish(address, spread(600, 6)))
    # When some are read, then the messages of these come
    got = run(read(address, partitions="0,3-4"))
    assert {m.position.partition(":")[0] for m in got} == {"0", "3", "4"} and len(got) == 300
    # and a partition that is not there, or no range, is an error
    with pytest.raises(NotFound):
        run(read(address, partitions="5,6"))
    for wrong in ("1-", "3-1", "x"):
        with pytest.raises(UsageError):
            run(read(address, partitions=wrong))


def test_ordered_is_by_time_and_never_against_a_partition(kafka: Kafka, fresh: str) -> None:
    # Given messages spread over partitions, one of them with a clock that jumps back
    address = f"{kafka.url}/{fresh}"
    run(make(address, 4))
    batch = spread(2000, 4)
    run(publish(address, batch))
    late = Message(b"late", None, (), {"partition": 1}, 1_600_000_000_000)
    run(publish(address, [late]))
    # When read in order of time
    got = run(read(address, ordered=True))
    # Then that is their order, and the late one stands behind those of its own partition
    assert [v for v in values(got) if v != b"late"] == [m.value for m in batch]
    own = [m for m in got if m.position.startswith("1:")]
    assert own[-1].value == b"late"


@pytest.mark.parametrize("start", ["-10", "-1"])
def test_the_last_are_the_last_over_all_partitions(kafka: Kafka, fresh: str, start: str) -> None:
    # Given messages of which the newest are not spread evenly
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    batch = spread(90, 3)
    run(publish(address, batch))
    # When the last N are read, then they are the newest
    got = run(read(address, Span(positions(start), END), ordered=True))
    assert values(got) == [m.value for m in batch[int(start) :]]


def test_the_last_are_found_behind_holes(kafka: Kafka, fresh: str) -> None:
    # Given a log whose end is full of aborted messages
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(5)))

    async def aborted() -> None:
        async with topic(address) as transport:
            await transport.begin()
            assert (await transport.publish(numbered(500, 100), 10)).confirmed == 500
            await transport.abort(10)

    run(aborted())
    # When the last three are read, then they are found before the hole
    assert values(run(read(address, Span(positions("-3"), END)))) == values(numbered(3, 2))


def test_places_can_be_named_for_each_partition(kafka: Kafka, fresh: str) -> None:
    # Given 30 messages in each of three partitions
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    run(publish(address, spread(90, 3)))
    # When a place names partitions, then only these are read, from there to the stop
    got = run(read(address, Span(positions("0:10,2:29"), positions("0:12,2:30"))))
    assert sorted(m.position for m in got) == ["0:10", "0:11", "2:29"]
    # and a bare offset is meant in every partition
    assert len(run(read(address, Span(positions("28"), END)))) == 6
    assert len(run(read(address, Span(positions("+29"), END)))) == 3
    at = Start("time", ms=1_700_000_000_000 + 80)
    assert values(run(read(address, Span(at, END), ordered=True))) == [
        b"%07d" % n for n in range(80, 90)
    ]
    # A place behind the end, or for no partition, is an error of use
    for wrong in ("31", "0:31", "3:0", "x", "0:x"):
        with pytest.raises(UsageError):
            run(read(address, Span(positions(wrong), END)))


def test_what_retention_removed_is_a_gap(kafka: Kafka, fresh: str) -> None:
    # Given a topic of which the beginning was deleted
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(10)))

    async def test() -> None:
        async with topic(address) as transport:
            assert await transport.purge() == 10
            assert (await transport.publish(numbered(2, 10), 10)).confirmed == 2
            # When read from a place that is gone
            feed = await transport.subscribe(Span(positions("4"), END), None, None)
            # Then the gap says from where to where, and the rest comes
            assert values(await everything(feed)) == values(numbered(2, 10))
            (gap,) = feed.gaps
            assert (gap.after, gap.before, gap.count) == ("0:3", "0:10", 6)
            await feed.aclose()

    run(test())


def test_what_is_removed_while_reading_is_a_gap(kafka: Kafka, fresh: str) -> None:
    # Given a reader that has read two of four, and stands still
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(4)))

    async def test() -> None:
        async with topic(address) as transport, topic(address) as other:
            feed = await transport.subscribe(Span(positions("2")), None, None)
            assert len(await feed.receive(10, 1 << 20, 10)) == 2
            assert isinstance(feed, LogFeed)
            await feed.fetcher.aclose()
            await other.publish(numbered(4, 4), 10)
            await other.purge()
            await other.publish(numbered(1, 8), 10)
            # When it goes on behind what was deleted meanwhile
            resumed = feed.resume()
            assert resumed is not None
            await feed.aclose()
            feed = await transport.subscribe(resumed, None, None)
            gaps, got = [], []
            deadline = time.monotonic() + 20
            while not got and time.monotonic() < deadline:
                got += values(await feed.receive(10, 1 << 20, 1))
                gaps += feed.gaps
                feed.gaps.clear()
            # Then that is a gap, and nothing is skipped in silence (K9)
            assert got == [b"0000008"]
            assert [(g.after, g.before) for g in gaps] == [("0:3", "0:8")]
            await feed.aclose()

    run(test())


def test_a_damaged_batch_is_named_and_can_be_skipped(started: Started, fresh: str) -> None:
    # Given a log of which one batch was damaged on the disk
    server: KafkaServer = started(KafkaServer)
    address = f"{server.url}/{fresh}"
    run(make(address))
    for first in (0, 10, 20):
        run(publish(address, numbered(10, first)))
    server.kill()
    (log,) = (server.folder / "data").glob(f"{fresh}-0/*.log")
    data = log.read_bytes()
    # Recovery after a kill looks at checksums; what it has looked at before it does not.
    (server.folder / "data" / ".kafka_cleanshutdown").write_text('{"version":0,"brokerEpoch":-1}')
    log.write_bytes(data.replace(b"0000014", b"00x0014"))
    server.start()
    # When read, then the place is named
    with pytest.raises(InputError, match="0:10"):
        run(read(address))
    # and all the rest comes when that is asked for
    got = values(run(read(address, skip_unreadable=True)))
    assert got == [*values(numbered(10)), *values(numbered(10, 20))]


def test_a_deleted_topic_ends_the_reading(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address))

    async def test() -> None:
        async with topic(address) as transport, topic(address) as other:
            feed = await transport.tail(Span())
            async with aclosing(feed):
                await other.delete()
                # When its topic is deleted, then the reader says so and does not make it anew
                with pytest.raises(NotFound):
                    for _ in range(20):
                        await feed.receive(10, 1 << 20, 1)
            assert not await other.exists()

    run(test())
    assert fresh not in kafka.topics()


def test_reading_an_unknown_topic_creates_nothing(kafka: Kafka, fresh: str) -> None:
    """K12, V5."""
    address = f"{kafka.url}/{fresh}"

    async def test() -> None:
        async with topic(address) as transport:
            for attempt in (
                transport.subscribe(Span(), None, None),
                transport.subscribe(Span(), "g", None),
                transport.tail(Span()),
                transport.describe(None),
            ):
                with pytest.raises(NotFound):
                    await attempt

    run(test())
    assert fresh not in kafka.topics()


# -- watching


def test_a_tail_picks_up_new_topics_that_match(
    kafka: Kafka, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqcli.transports import _kafka_log

    monkeypatch.setattr(_kafka_log, "LOOK_AGAIN", 0.2)
    run(make(f"{kafka.url}/{fresh}-one", 2))

    async def test() -> None:
        async with topic(f"{kafka.url}/{fresh}-(one|two)", regex=True) as transport:
            # Given a tail of every topic that matches
            feed = await transport.tail(Span())
            await publish(f"{kafka.url}/{fresh}-one", [Message(b"1")])
            # When another one appears
            await make(f"{kafka.url}/{fresh}-two")
            await make(f"{kafka.url}/{fresh}-twox")
            for name in ("two", "twox"):
                await publish(f"{kafka.url}/{fresh}-{name}", [Message(b"2")])
            # Then its messages come too, with their own address
            got = []
            deadline = time.monotonic() + 20
            while len(got) < 2 and time.monotonic() < deadline:
                got += await feed.receive(10, 1 << 20, 0.2)
            assert {m.source: m.value for m in got} == {
                f"{kafka.url}/topic:{fresh}-one": b"1",
                f"{kafka.url}/topic:{fresh}-two": b"2",
            }
            await feed.aclose()

    run(test())
