"""The suite: acknowledging, giving back, and sharing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from ..errors import Unsupported
from ..message import Received
from ..position import BEGINNING, END
from ..transport import Feed
from .harness import Harness
from .support import (
    DEADLINE,
    Spot,
    Way,
    each_way,
    numbered,
    run,
    take,
    take_all,
    until,
    values,
)

# A reader that takes some messages and dies without a word.
_DIES = """
import asyncio, json, os, sys
from mqcli import client
address, options, group = json.loads(sys.argv[1])
async def main():
    reader = client.Client.at(address, options).consume(group=group, limit=2)
    async with reader:
        got = 0
        while got < 2:
            got += len(await reader.receive(2))
        print("taken", flush=True)
        os._exit(0)
asyncio.run(main())
"""


async def left_for_others(spot: Spot, way: Way) -> list[Received]:
    """What the next reader gets, up to the end, soon or when a lease has run out. It is given
    back."""
    async with spot.reading(way, None, END) as feed:
        return await take_all(feed)


class Settling:
    """Mixed into the suite."""

    def _settles(self, spot: Spot, way: Way) -> bool:
        """Whether there is something to settle; where not, acknowledging is refused."""
        if not spot.can(way):
            spot.refuses(way)
            return False
        if way != "tail" and spot.way_traits(way).ack != "none":
            return True

        async def opposite() -> None:
            async with spot.delivering(way, numbered(1)) as feed:
                got = await take(feed, 1)
                with pytest.raises(Unsupported):
                    await feed.ack(got)
                with pytest.raises(Unsupported):
                    await feed.nack(got)

        run(opposite())
        return False

    @each_way
    def test_what_is_acknowledged_is_gone(self, harness: Harness, way: Way) -> None:
        """Given messages taken, when acknowledged, then nobody gets them again, and doing so
        twice counts none."""
        spot = Spot(harness)
        if not self._settles(spot, way):
            return

        async def test() -> None:
            async with spot.delivering(way, numbered(4)) as feed:
                got = await take(feed, 4)
                assert await feed.ack(got) == 4
                assert await feed.ack(got) == 0
                assert await feed.ack([]) == 0
            if spot.traits.keeps == "until-taken":
                assert await spot.standing() == []
            assert await left_for_others(spot, way) == []

        run(test())

    @each_way
    def test_what_is_not_acknowledged_is_given_back_in_order(
        self, harness: Harness, way: Way
    ) -> None:
        """Given six messages taken and two acknowledged, when the reader is closed, then the next
        one gets the other four at once, in their order, before what came later."""
        spot = Spot(harness)
        if not self._settles(spot, way):
            return

        async def test() -> None:
            async with spot.delivering(way, numbered(8)) as feed:
                got = await take(feed, 6)
                assert await feed.ack(got[:2]) == 2
            if spot.traits.keeps == "until-taken":
                assert values(await spot.standing()) == numbered(8)[2:]
            async with spot.reading(way) as feed:
                assert values(await take(feed, 6)) == numbered(8)[2:]

        run(test())

    @each_way
    def test_any_or_all_before_may_be_acknowledged(self, harness: Harness, way: Way) -> None:
        """Given four messages taken, when the third alone is acknowledged, then the others come
        again, where each stands by itself; else all before it are done too."""
        spot = Spot(harness)
        if not self._settles(spot, way):
            return

        async def test() -> None:
            async with spot.delivering(way, numbered(4)) as feed:
                got = await take(feed, 4)
                if spot.way_traits(way).ack == "each":
                    assert await feed.ack([got[2]]) == 1
                    rest = [got[0], got[1], got[3]]
                else:
                    assert await feed.ack(got[:3]) == 3
                    rest = [got[3]]
            assert values(await left_for_others(spot, way)) == values(rest)

        run(test())

    @each_way
    def test_what_is_given_back_comes_again(self, harness: Harness, way: Way) -> None:
        """Given a message taken, when given back while its reader goes on, then it comes again
        to somebody; where that cannot be, it is refused."""
        spot = Spot(harness)
        if not self._settles(spot, way):
            return

        async def test() -> None:
            async with spot.delivering(way, numbered(2)) as feed:
                got = await take(feed, 2)
                if not spot.way_traits(way).nack:
                    with pytest.raises(Unsupported):
                        await feed.nack(got)
                    return
                await feed.nack(got)
                again = await take(feed, 2)
                assert values(again) == values(got)
                assert await feed.ack(again) == 2
            assert await left_for_others(spot, way) == []

        run(test())

    @each_way
    def test_acknowledging_while_receiving(self, harness: Harness, way: Way) -> None:
        """Given many messages, when each batch is acknowledged while the next is received, then
        all are got once and nothing is left."""
        spot = Spot(harness)
        if not self._settles(spot, way):
            return
        total = 600

        async def test() -> None:
            async with spot.delivering(way, numbered(total)) as feed:
                got: list[Received] = []
                acks: list[asyncio.Task[int]] = []
                deadline = time.monotonic() + DEADLINE
                while len(got) < total:
                    assert time.monotonic() < deadline, f"{len(got)} of {total}"
                    messages = await feed.receive(37, 1 << 20, 1.0)
                    got += messages
                    acks.append(asyncio.create_task(_ack(feed, messages)))
                waiting = asyncio.create_task(_nothing_more(feed))
                assert sum(await asyncio.gather(*acks)) == total
                await waiting
                assert sorted(m.value or b"" for m in got) == numbered(total)
            assert await left_for_others(spot, way) == []

        run(test())

    @each_way
    def test_what_a_dead_reader_held_comes_to_others(self, harness: Harness, way: Way) -> None:
        """Given a process that took two of three messages and died, when its time is over, then
        another reader gets all three, and may acknowledge them."""
        spot = Spot(harness, *harness.quick_claim)
        if not self._settles(spot, way):
            return

        async def test() -> None:
            await spot.prepare()
            await spot.send(numbered(3))
            await asyncio.to_thread(_die_holding, spot, way)
            got: set[bytes | None] = set()
            async with spot.reading(way) as feed:

                async def all_came() -> bool:
                    messages = await feed.receive(10, 1 << 20, 0.2)
                    assert await feed.ack(messages) == len(messages)
                    got.update(values(messages))
                    return len(got) == 3

                await until(all_came, "what the dead reader held was given to another")
            assert got == set(numbered(3))
            assert await left_for_others(spot, way) == []

        run(test())

    def test_a_group_goes_on_where_it_stands(self, harness: Harness) -> None:
        """Given a group that acknowledged three of six, when a new member names a START, then
        it gets the other three, and is told that the START was not used."""
        spot = Spot(harness)
        if not spot.can("group"):
            return spot.refuses("group")

        async def test() -> None:
            async with spot.delivering("group", numbered(6)) as feed:
                assert await feed.ack(await take(feed, 3, at_once=3)) == 3
            async with spot.reading("group", BEGINNING) as feed:
                assert values(await take(feed, 3)) == numbered(6)[3:]
                assert len(feed.notes) == 1

        run(test())
        return None

    def test_groups_do_not_disturb_each_other_nor_the_log(self, harness: Harness) -> None:
        """Given a group that took and acknowledged all, when another group or nobody's reader
        reads, then it finds all."""
        spot = Spot(harness)
        if not spot.can("group"):
            return spot.refuses("group")

        async def test() -> None:
            async with spot.delivering("group", numbered(5)) as feed:
                assert await feed.ack(await take(feed, 5)) == 5
            assert values(await spot.standing()) == numbered(5)
            spot.group += "-other"
            for way in ("group", "consume"):
                async with spot.reading(way) as feed:
                    assert values(await take(feed, 5)) == numbered(5)

        run(test())
        return None


async def _ack(feed: Feed, messages: Sequence[Received]) -> int:
    return await feed.ack(messages)


async def _nothing_more(feed: Feed) -> None:
    assert not await feed.receive(10, 1 << 20, 0.1)


def _die_holding(spot: Spot, way: Way) -> None:
    import msgspec

    options = [*spot.harness.options, *spot.harness.quick_claim]
    argument = msgspec.json.encode(
        (spot.address, options, spot.group if way == "group" else None)
    ).decode()
    done = subprocess.run(
        [sys.executable, "-c", _DIES, argument],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.stdout == b"taken\n", done.stderr.decode(errors="replace")
