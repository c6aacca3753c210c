"""The suite: where reading starts, stops, and goes on."""

from __future__ import annotations

from typing import get_args

import pytest

from ..errors import UsageError
from ..position import BEGINNING, END, Start, StartKind
from .harness import Harness
from .support import (
    Spot,
    Way,
    each_way,
    numbered,
    refused,
    run,
    sent_log,
    take,
    take_all,
    values,
)

each_start = pytest.mark.parametrize("kind", get_args(StartKind))


class Places:
    """Mixed into the suite."""

    @each_start
    @pytest.mark.parametrize("way", ["consume", "tail"])
    def test_reading_starts_where_it_was_told(
        self, harness: Harness, way: Way, kind: StartKind
    ) -> None:
        """Given messages, when read from each kind of START, then exactly those behind it come,
        and then what is sent later; where the broker cannot start there, that is refused."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        if kind not in spot.way_traits(way).starts:
            with refused():
                spot.at(way, Start(kind, count=1, token="1", ms=1))
            return None
        run(self._start(spot, way, kind))
        return None

    async def _start(self, spot: Spot, way: Way, kind: StartKind) -> None:
        if not spot.kept:
            await spot.prepare()
            async with spot.reading(way, END) as feed:
                await spot.send(numbered(2))
                assert values(await take(feed, 2)) == numbered(2)
            return
        all_ = await sent_log(spot, 8)
        place = all_[5]
        start, first = {
            "beginning": (BEGINNING, 0),
            "end": (END, 8),
            "skip": (Start("skip", count=3), 3),
            "last": (Start("last", count=2), 6),
            "at": (Start("at", token=place.position), 5),
            "after": (Start("after", token=place.position), 6),
            "time": (
                Start("time", ms=place.timestamp or 0),
                next(i for i, m in enumerate(all_) if (m.timestamp or 0) >= (place.timestamp or 0)),
            ),
        }[kind]
        async with spot.reading(way, start) as feed:
            await spot.send([b"later"])
            got = await take(feed, 8 - first + 1)
        assert values(got) == [*values(all_[first:]), b"later"]
        if spot.traits.keeps == "log":  # in a queue a message has no place of its own
            assert [m.position for m in got[:-1]] == [m.position for m in all_[first:]]

    @each_way
    def test_more_than_all_is_all(self, harness: Harness, way: Way) -> None:
        """Given three messages, when the last ten are asked for, then all come."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        if "last" not in spot.way_traits(way).starts:
            with refused():
                spot.at(way, Start("last", count=10))
            return None

        async def test() -> None:
            await sent_log(spot, 3)
            async with spot.reading(way, Start("last", count=10)) as feed:
                assert values(await take(feed, 3)) == numbered(3)

        run(test())
        return None

    @each_way
    def test_reading_to_the_end_stops_at_the_end_that_stood(
        self, harness: Harness, way: Way
    ) -> None:
        """Given messages, when read to the end and more come meanwhile, then those are left."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        if not spot.kept:
            with refused():
                spot.at(way, None, END)
            return None

        async def test() -> None:
            await spot.prepare()
            await spot.send(numbered(5))
            start = BEGINNING if "beginning" in spot.way_traits(way).starts else None
            if way == "tail" and start is None:
                async with spot.reading(way, None, END) as feed:
                    assert await take_all(feed) == []
                if "last" in spot.way_traits(way).starts:
                    async with spot.reading(way, Start("last", count=2), END) as feed:
                        await spot.send([b"late"])
                        assert values(await take_all(feed)) == numbered(5)[3:]
                return
            async with spot.reading(way, start, END) as feed:
                await spot.send([b"late"])
                assert values(await take_all(feed)) == numbered(5)
                assert not await feed.receive(10, 1 << 20, 0.05)

        run(test())
        return None

    @each_way
    def test_reading_an_empty_destination_to_the_end_ends_at_once(
        self, harness: Harness, way: Way
    ) -> None:
        """Given a destination that was emptied, when read to the end, then it ends, with none."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        if not spot.kept:
            with refused():
                spot.at(way, None, END)
            return None

        async def test() -> None:
            await spot.prepare()
            await spot.send([b"gone"])
            async with spot.reading("consume", None, END) as feed:
                got = await take_all(feed)
                if spot.traits.ack != "none":
                    await feed.ack(got)
            if spot.traits.keeps == "log":
                async with spot.reading(way, END, END) as feed:
                    assert await take_all(feed) == []
            elif way == "consume":
                async with spot.reading(way, None, END) as feed:
                    assert await take_all(feed) == []

        run(test())
        return None

    @each_start
    @pytest.mark.parametrize("way", ["consume", "tail"])
    def test_reading_stops_where_it_was_told(
        self, harness: Harness, way: Way, kind: StartKind
    ) -> None:
        """Given messages, when read up to a STOP, then those before it come and the feed ends."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        log = spot.traits.keeps == "log"
        if kind in ("skip", "after") or (kind == "end" and spot.kept):
            return None  # a count, a resumed start, and the end have tests of their own
        if not log or kind not in spot.traits.starts:
            with refused():
                spot.at(way, None, Start(kind, count=1, token="1", ms=1))
            return None

        async def test() -> None:
            all_ = await sent_log(spot, 8)
            place = all_[5]
            stop, end = {
                "beginning": (BEGINNING, 0),
                "last": (Start("last", count=2), 6),
                "at": (Start("at", token=place.position), 5),
                "time": (
                    Start("time", ms=place.timestamp or 0),
                    next(
                        i
                        for i, m in enumerate(all_)
                        if (m.timestamp or 0) >= (place.timestamp or 0)
                    ),
                ),
            }[kind]
            async with spot.reading(way, BEGINNING, stop) as feed:
                assert values(await take_all(feed)) == values(all_[:end])

        run(test())
        return None

    @each_way
    def test_a_reading_can_be_resumed_behind_the_last_message(
        self, harness: Harness, way: Way
    ) -> None:
        """Given a reader to the end that got three of six, when another one goes on with what it
        must read, then it gets exactly the other three, whatever came meanwhile. Where there is
        nothing to go on with, a group remembers; a queue has the rest; or nobody does."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        log = spot.traits.keeps == "log"

        async def test() -> None:
            if not log:
                async with spot.delivering(way, numbered(1)) as feed:
                    await take(feed, 1)
                    assert feed.resume() is None
                return
            await sent_log(spot, 6)
            async with spot.reading(way, BEGINNING, END) as feed:
                got = await take(feed, 3, at_once=3)
                assert values(got) == numbered(6)[:3]
                if way == "group":
                    assert await feed.ack(got) == 3
                on = feed.resume()
            await spot.send([b"late"])
            if on is None:
                assert way == "group"
                async with spot.reading(way) as feed:
                    assert values(await take(feed, 4)) == [*numbered(6)[3:], b"late"]
                return
            async with spot.reading(way, on.start, on.stop) as feed:
                assert values(await take_all(feed)) == numbered(6)[3:]

        run(test())
        return None

    @each_way
    def test_a_position_that_is_none_is_an_error_of_use(self, harness: Harness, way: Way) -> None:
        """Given words instead of a position, when read from there, then that is a UsageError."""
        spot = Spot(harness)
        if not spot.can(way):
            return spot.refuses(way)
        start = Start("at", token="no-such:position!")
        if "at" not in spot.way_traits(way).starts:
            with refused():
                spot.at(way, start)
            return None

        async def test() -> None:
            await sent_log(spot, 1)
            with pytest.raises(UsageError):
                async with spot.reading(way, start) as feed:
                    await feed.receive(1, 1 << 20, 0.05)

        run(test())
        return None
