"""The suite: reading in every way. Bytes, order, starts and stops, limits, waits."""

from __future__ import annotations

import asyncio
import time
from typing import get_args

import pytest

from ..errors import NotFound
from ..message import Message, Received
from ..position import END, StartKind
from ..transport import Consumes, Feed, Inspects, Publishes, Span, Tails
from .harness import Harness
from .support import (
    DEADLINE,
    NASTY,
    PUBLISH_TIMEOUT,
    Spot,
    Way,
    each_way,
    expected_headers,
    numbered,
    refused,
    run,
    take,
    take_all,
    values,
)

each_start = pytest.mark.parametrize("kind", get_args(StartKind))


class Reading:
    """Mixed into the suite."""

    @each_way
    def test_bytes_on_the_wire_are_the_bytes_received(self, harness: Harness, way: Way) -> None:
        """Given bytes sent by the other client, when read, then they are the same, with where
        they came from, and not marked as delivered before."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> list[Received]:
            async with spot.delivering(way, NASTY) as feed:
                return await take(feed, len(NASTY))

        got = run(test())
        assert values(got) == list(NASTY)
        # A pattern names each message's own destination, so only the broker is the same for all.
        assert all(m.source.startswith(str(spot.client.target.address.broker)[:12]) for m in got)
        assert not any(m.redelivered for m in got)
        now = time.time() * 1000
        assert all(m.timestamp is None or abs(now - m.timestamp) < 3_600_000 for m in got)
        if spot.kept:
            places = [m.position for m in got]
            assert all(places) and len(set(places)) == len(places)
        return None

    @each_way
    def test_what_was_published_comes_back_as_it_was(self, harness: Harness, way: Way) -> None:
        """Given all that the traits promise to carry, when published and read, then it is equal."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        if not spot.client.supports(Publishes):
            with refused():
                spot.client.publisher()
            return None
        traits = spot.traits
        sent = Message(
            b"\xffvalue",
            b"\xffkey" if traits.keys else None,
            () if traits.headers == "none" else (("a", "1"), ("b", b"\xff"), ("a", "2")),
        )
        empty = Message(b"")

        async def test() -> list[Received]:
            await spot.prepare()
            async with spot.opened(Publishes) as publisher:
                if way == "tail" and traits.missing == "creates":
                    await spot.send([b"first"])
                if way == "tail":
                    async with spot.reading(way) as feed:
                        await publisher.publish([sent, empty], PUBLISH_TIMEOUT)
                        return await take(feed, 2)
                await publisher.publish([sent, empty], PUBLISH_TIMEOUT)
                async with spot.reading(way) as feed:
                    return await take(feed, 2)

        for message, wanted in zip(run(test()), [sent, empty], strict=True):
            assert (message.value, message.key) == (wanted.value, wanted.key)
            assert message.headers == expected_headers(traits, wanted)
        return None

    @each_way
    def test_many_messages_come_in_order_in_calls_of_any_size(
        self, harness: Harness, way: Way
    ) -> None:
        """Given many messages, when received a few at a time, then none is missing, doubled, or
        out of order, and no call gives more than was asked for."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> list[Received]:
            async with spot.delivering(way, numbered(300)) as feed:
                first = await take(feed, 10, at_once=1)
                return [*first, *await take(feed, 290, at_once=70)]

        got = values(run(test()))
        if spot.way_traits(way).order == "none":
            got.sort(key=lambda value: value or b"")
        assert got == numbered(300)
        return None

    @each_way
    def test_a_call_ends_soon_after_its_bytes_are_full(self, harness: Harness, way: Way) -> None:
        """Given messages of 100 kB, when at most 150 kB are asked for, then at most two come."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            async with spot.delivering(way, [b"x" * 100_000] * 10) as feed:
                got, deadline = 0, time.monotonic() + DEADLINE
                while got < 10:
                    assert time.monotonic() < deadline
                    messages = await feed.receive(1000, 150_000, 1.0)
                    assert len(messages) <= 2
                    got += len(messages)

        run(test())
        return None

    @each_way
    def test_a_limit_is_never_exceeded(self, harness: Harness, way: Way) -> None:
        """Given five messages, when one is wanted, then one is taken: the other client, or the
        group's next member, finds four while the reader is still open and afterwards, and none of
        them was delivered before."""
        spot = Spot(harness)
        if not spot.can(way) or way == "tail":
            return None if spot.can(way) else spot.refuses(way)

        async def test() -> None:
            await spot.prepare()
            await spot.send(numbered(5))
            async with spot.reading(way, limit=1) as feed:
                (one,) = await take(feed, 1)
                assert not await feed.receive(10, 1 << 20, 0.05)
                if spot.traits.keeps == "until-taken":
                    assert values(await spot.standing()) == numbered(5)[1:]
                if spot.way_traits(way).ack != "none":
                    assert await feed.ack([one]) == 1
            if way == "group" or spot.traits.keeps == "until-taken":
                async with spot.reading(way, None, END) as feed:
                    rest = await take_all(feed)
                assert values(rest) == numbered(5)[1:]
                assert not any(m.redelivered for m in rest)

        run(test())
        return None

    @each_way
    def test_waiting_ends_when_it_should(self, harness: Harness, way: Way) -> None:
        """Given nothing to read, when received with a wait, then it lasts as long, give or take;
        and when a message comes meanwhile, it is there at once."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            async with spot.delivering(way, [b"only"]) as feed:
                await take(feed, 1)
                for wait in (0.0, 0.3):
                    began = time.monotonic()
                    assert not await feed.receive(10, 1 << 20, wait)
                    assert wait * 0.9 - 0.02 <= time.monotonic() - began < wait + 2
                began = time.monotonic()
                waiting = asyncio.create_task(_receive(feed, 10.0))
                await spot.send([b"woken"])
                assert values(await waiting) == [b"woken"]
                assert time.monotonic() - began < 5

        run(test())
        return None

    @each_way
    def test_cancelling_receive_loses_nothing(self, harness: Harness, way: Way) -> None:
        """Given messages that come while receive is cancelled again and again, when all calls
        are put together, then every message is there once and in order."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        total = 300

        async def test() -> list[bytes | None]:
            got: list[bytes | None] = []
            async with spot.delivering(way, [b"start"]) as feed:
                await take(feed, 1)

                async def send() -> None:
                    for first in range(0, total, 30):
                        await spot.send(numbered(30, first))

                sending = asyncio.create_task(send())
                deadline, round_ = time.monotonic() + DEADLINE, 0
                while len(got) < total:
                    assert time.monotonic() < deadline, f"{len(got)} of {total}"
                    task = asyncio.create_task(_receive(feed, 0.5, 7))
                    # Cancelled at a different moment each time, and now and then not at all.
                    round_ += 1
                    await asyncio.wait({task}, timeout=(round_ % 5) * 0.001)
                    if round_ % 3:
                        task.cancel()
                    try:
                        got += values(await task)
                    except asyncio.CancelledError:
                        continue
                await sending
            return got

        got = run(test())
        if spot.way_traits(way).order == "none":
            got.sort(key=lambda value: value or b"")
        assert got == numbered(total)
        return None

    @each_way
    def test_closing_wakes_a_waiting_receive(self, harness: Harness, way: Way) -> None:
        """Given a receive that waits, when the feed is closed, then it ends soon."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            async with spot.delivering(way, [b"only"]) as feed:
                await take(feed, 1)
                waiting = asyncio.create_task(_receive(feed, DEADLINE))
                await asyncio.wait({waiting}, timeout=0.05)
                began = time.monotonic()
                await feed.aclose()
                await asyncio.wait({waiting}, timeout=DEADLINE)
                assert time.monotonic() - began < 5, "receive went on after aclose"
                if waiting.exception() is None:
                    assert not waiting.result()

        run(test())
        return None

    @each_way
    def test_reading_what_is_missing_creates_nothing(self, harness: Harness, way: Way) -> None:
        """Given a destination that does not exist, when read, then that is NotFound where it can
        be known, and it does not exist afterwards."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            role: type[Tails | Consumes] = Tails if way == "tail" else Consumes
            async with spot.opened(role) as transport:
                if spot.traits.missing == "undetectable":
                    feed = await spot.feed(transport, way, Span())
                    assert not await feed.receive(1, 1 << 20, 0.05)
                    await feed.aclose()
                else:
                    with pytest.raises(NotFound):
                        feed = await spot.feed(transport, way, Span())
                        try:
                            await feed.receive(1, 1 << 20, 0.05)
                        finally:
                            await feed.aclose()
            if spot.client.supports(Inspects):
                async with spot.opened(Inspects) as inspects:
                    assert not await inspects.exists()

        run(test())
        return None

    def test_watching_takes_nothing(self, harness: Harness) -> None:
        """Given a tail and messages, when the tail has seen them, then they are still there, and
        who takes them later finds them untouched; what was there before was not shown."""
        spot = Spot(harness)
        if not spot.can("tail"):
            return spot.refuses("tail")

        async def test() -> None:
            await spot.prepare()
            if spot.kept:
                await spot.send([b"old"])
            async with spot.reading("tail") as feed:
                await spot.send(numbered(3))
                assert values(await take(feed, 3)) == numbered(3)
            if not spot.kept:
                return
            wanted = [b"old", *numbered(3)]
            assert values(await spot.standing()) == wanted
            for way in ("group", "consume"):
                if spot.can(way):
                    async with spot.reading(way) as feed:
                        got = await take(feed, 4)
                    assert values(got) == wanted
                    assert not any(m.redelivered for m in got)

        run(test())
        return None

    @each_way
    def test_two_readers_get_what_the_traits_say(self, harness: Harness, way: Way) -> None:
        """Given two readers at once, when messages come, then each gets all, or, where the work
        is shared, every message goes to one of them."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        traits = spot.way_traits(way)
        total = 60

        async def test() -> None:
            await spot.prepare()
            if traits.missing == "creates":
                await spot.send([b"first"])
            # A new member of a group starts where the group stands: both join before the rest.
            start = END if way != "tail" and "end" in traits.starts else None
            async with spot.reading(way, start) as one, spot.reading(way, start) as two:
                await spot.send(numbered(total))
                if way == "tail" or (traits.fans_out and way == "consume"):
                    assert values(await take(one, total)) == numbered(total)
                    assert values(await take(two, total)) == numbered(total)
                    return
                assert traits.shares
                got: list[Received] = []
                deadline = time.monotonic() + DEADLINE
                while len(got) < total:
                    assert time.monotonic() < deadline, f"{len(got)} of {total}"
                    for feed in (one, two):
                        messages = await feed.receive(7, 1 << 20, 0.05)
                        got += messages
                        if messages and traits.ack != "none":
                            assert await feed.ack(messages) == len(messages)
                assert sorted(m.value or b"" for m in got) == numbered(total)

        run(test())
        return None


async def _receive(feed: Feed, wait: float, at_most: int = 100) -> list[Received]:
    return list(await feed.receive(at_most, 1 << 20, wait))
