"""Groups on Kafka: members that come and go, ends, places."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mqcli.errors import (
    NotFound,
    Refused,
    UsageError,
)
from mqcli.message import Message
from mqcli.position import BEGINNING, END, Start
from mqcli.session import Limits
from mqcli.transport import Span

from ..brokers.kafka import Kafka
from .kafka_support import (
    client,
    make,
    numbered,
    publish,
    run,
    spread,
    topic,
    values,
)

Started = Callable[[Callable[[], Any]], Any]


# -- groups


def test_members_come_and_go_and_nothing_is_lost(kafka: Kafka, fresh: str) -> None:
    """F17: three partitions, 200,000 messages, members that join and leave all the time."""
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    total = 200_000
    got: Counter[bytes | None] = Counter()
    late = 0

    async def member(seconds: float) -> None:
        nonlocal late
        async with client(address, claim_after="6s").consume(group="g") as reader:
            until = time.monotonic() + seconds
            while time.monotonic() < until and len(got) < total:
                messages = await reader.receive(400, 1 << 20, 0.1)
                got.update(values(messages))
                await asyncio.sleep(0.004)
                await reader.settle(len(messages))
            late += reader.late

    async def test() -> None:
        async def sender() -> None:
            async with topic(address) as transport:
                for first in range(0, total, 2000):
                    batch = [Message(m.value, m.value) for m in numbered(2000, first)]
                    assert (await transport.publish(batch, 10)).confirmed == 2000
                    await asyncio.sleep(0.02)

        sending = asyncio.create_task(sender())
        deadline = time.monotonic() + 90
        members = [asyncio.create_task(member(30))]
        while len(got) < total and time.monotonic() < deadline:
            members.append(asyncio.create_task(member(3)))
            await asyncio.wait(members, timeout=2)
        await sending
        await asyncio.gather(*members)

    # When members join and leave every two seconds while messages flow
    run(test())
    # Then the union is complete, and what came twice is what was not yet settled at a handover
    assert len(got) == total, f"{total - len(got)} are missing"
    assert sum(got.values()) - total <= 20_000
    assert run(lag(address)) == 0


async def lag(address: str) -> int:
    async with topic(address) as transport:
        found: int = (await transport.describe("g"))["lag"]
        return found


def test_the_end_works_in_a_group_and_commits_behind_holes(kafka: Kafka, fresh: str) -> None:
    # Given messages in three partitions, one of which ends with a transaction's marker
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    run(publish(address, spread(300, 3)))

    async def test() -> None:
        async with topic(address, partition=1) as transport:
            await transport.begin()
            await transport.publish(numbered(5, 1000), 10)
            await transport.commit(10)
        # When a member reads to the end that stands now
        async with client(address).consume(Span(None, END), "g") as reader:
            count = 0
            while not reader.ended:
                messages = await reader.receive()
                await reader.settle(len(messages))
                count += len(messages)
        # Then it has ended, and the group has no lag
        assert count == 305
        assert await lag(address) == 0

    run(test())


def test_a_new_group_at_the_end_stays_there(kafka: Kafka, fresh: str) -> None:
    # Given a group that begins at the end and gets nothing
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(3)))

    async def look(start: Start | None) -> list[bytes | None]:
        async with client(address).consume(Span(start), "g") as reader:
            got: list[bytes | None] = []
            deadline = time.monotonic() + 5
            while not got and time.monotonic() < deadline:
                messages = await reader.receive(wait=0.5)
                await reader.settle(len(messages))
                got += values(messages)
                if start is not None and time.monotonic() > deadline - 3:
                    break
            return got

    assert run(look(END)) == []
    # When messages come and a later member asks for nothing, then it gets those
    run(publish(address, numbered(2, 10)))
    assert run(look(None)) == values(numbered(2, 10))


def test_a_group_can_be_moved_while_nobody_is_in_it(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address, 2))
    run(publish(address, spread(20, 2)))

    async def test() -> None:
        async with topic(address) as transport:
            # Given a look at what would be, then nothing is changed
            plan = await transport.seek("g", Start("skip", count=4), commit=False)
            assert plan == [{"partition": n, "committed": None, "to": 4} for n in (0, 1)]
            with pytest.raises(NotFound):
                await transport.describe("g")
            # When it is done, then the group stands there
            await transport.seek("g", Start("skip", count=4), commit=True)
            assert (await transport.describe("g"))["lag"] == 12
            # and while it has members it is refused
            async with client(address).consume(group="g") as reader:
                while not await reader.receive():
                    pass
                with pytest.raises(Refused, match="in use"):
                    await transport.seek("g", BEGINNING, commit=True)
                shown = await transport.describe("g")
                assert len(shown["members"]) == 1 and shown["state"] == "Stable"

    run(test())


def test_partitions_are_not_chosen_in_a_group(kafka: Kafka) -> None:
    with pytest.raises(UsageError):
        client(f"{kafka.url}/x", partitions="0").consume(group="g")


def test_a_reader_stands_still_without_losing_its_place_in_the_group(
    kafka: Kafka, fresh: str
) -> None:
    # Given a member whose output stands still for longer than its session
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(2000)))

    async def test() -> None:
        limits = Limits()
        async with client(address, limits, claim_after="1s").consume(group="g") as reader:
            messages = []
            while not messages:
                messages = list(await reader.receive(100))
            await asyncio.to_thread(time.sleep, 3)  # what is tested is that time passes
            # When it goes on, then what it had is still its own
            await reader.settle(len(messages))
            assert reader.late == 0
        assert await lag(address) == 1900

    run(test())
