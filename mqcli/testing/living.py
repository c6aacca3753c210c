"""The suite: opening, closing, breaking; and looking after a destination and its broker."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from ..client import Client
from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    TryAgainLater,
    Unsupported,
    UsageError,
)
from ..registry import broker_target
from ..transport import Consumes, Inspects, Manages, Publishes, Tails, Transport
from .harness import Harness
from .support import (
    DEADLINE,
    Spot,
    Way,
    each_way,
    numbered,
    refused,
    run,
    stopped,
    take,
    values,
)

OPEN_ERRORS = (BrokerUnavailable, AccessDenied, NotFound, TryAgainLater, UsageError)
PASSWORD = "hunter2%2F"


class Living:
    """Mixed into the suite."""

    @each_way
    def test_a_break_is_told_and_what_was_held_is_not_lost(
        self, harness: Harness, way: Way
    ) -> None:
        """Given an open reading, when its connection breaks, then receive says so soon, closing
        still works, and a new reader gets what was not acknowledged."""
        spot = Spot(harness, *harness.quick_claim)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            async with spot.delivering(way, numbered(4)) as feed:
                await take(feed, 2)
                if await spot.disrupt():
                    with pytest.raises(ConnectionLost):
                        for _ in range(10):
                            await feed.receive(100, 1 << 20, 1.0)
                else:
                    assert values(await take(feed, 2)) == numbered(4)[2:]
            if spot.comes_again(way):
                async with spot.reading(way) as feed:
                    assert {*values(await take(feed, 4))} == {*numbered(4)}

        run(test())
        return None

    @each_way
    def test_a_client_goes_on_reading_after_a_break(self, harness: Harness, way: Way) -> None:
        """Given a client's reader, when its connection breaks, then it connects again; where
        messages are kept none is missing, elsewhere the gap is reported."""
        spot = Spot(harness, *harness.quick_claim)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            await spot.prepare()
            if way != "tail" or spot.traits.missing == "creates":
                await spot.send([b"first"])
            got: set[bytes | None] = set()
            async with spot.at(way) as reader:

                async def until_came(wanted: bytes, again: bool = False) -> None:
                    deadline = time.monotonic() + DEADLINE
                    while wanted not in got:
                        assert time.monotonic() < deadline, f"{wanted!r} did not come"
                        messages = await reader.receive(wait=0.2)
                        got.update(values(messages))
                        await reader.settle(len(messages))
                        if again and wanted not in got:
                            await spot.send([wanted])

                if way != "tail":
                    await until_came(b"first")
                await spot.send([b"before"])
                await until_came(b"before")
                broke = await spot.disrupt()
                await spot.send([b"meanwhile"])
                # Where nothing is kept, only what is sent after the new connection stands comes.
                await until_came(b"after", again=True)
                assert bool(reader.reconnects) == broke
                if spot.traits.keeps == "nothing":
                    assert bool(reader.gaps) == broke
                elif spot.traits.keeps == "log":
                    assert b"meanwhile" in got

        run(test())
        return None

    def test_closing_is_safe_at_any_time(self, harness: Harness) -> None:
        """Given a transport not opened, opened, broken, or being opened, when closed once or
        twice, then nothing is raised and nothing is left."""
        spot = Spot(harness)

        async def test() -> None:
            unopened = spot.client.make(_role(spot.client))
            await unopened.aclose()
            opened = spot.client.make(_role(spot.client))
            await opened.open()
            await opened.aclose()
            await opened.aclose()
            broken = spot.client.make(_role(spot.client))
            await broken.open()
            await spot.disrupt()
            await broken.aclose()
            for wait in (0.0, 0.0005, 0.002, 0.01):
                opening = spot.client.make(_role(spot.client))
                task = asyncio.create_task(opening.open())
                await asyncio.wait({task}, timeout=wait)
                await stopped(task)
                await opening.aclose()

        run(test())

    @each_way
    def test_a_feed_may_be_closed_twice_and_when_cancelled(
        self, harness: Harness, way: Way
    ) -> None:
        """Given a feed, when closed twice, or in a task that was cancelled, then what it held is
        there for others."""
        spot = Spot(harness, *harness.quick_claim)
        if not spot.can(way):
            return spot.refuses(way)

        async def test() -> None:
            async with spot.delivering(way, numbered(2)) as feed:
                await take(feed, 1, at_once=1)
                await feed.aclose()
                await feed.aclose()

            async def hold() -> None:
                async with spot.reading(way) as feed:
                    await feed.receive(1, 1 << 20, 0.5)
                    await asyncio.Event().wait()

            task = asyncio.create_task(hold())
            await asyncio.wait({task}, timeout=0.3)
            await stopped(task)
            if spot.comes_again(way):
                async with spot.reading(way) as feed:
                    assert {*values(await take(feed, 2))} == {*numbered(2)}

        run(test())
        return None

    def test_a_broker_that_is_not_there_is_told_in_time(self, harness: Harness) -> None:
        """Given an address where nobody listens, when opened, then one of the promised errors
        says so within the time to connect, without the password, and closing is safe."""
        url = harness.client(harness.unreachable()).target.address
        assert url.broker is not None
        if url.broker.hosts:
            broker = msgspec.structs.replace(url.broker, username="u", password=PASSWORD)
            url = msgspec.structs.replace(url, broker=broker)
        client = harness.client(url.text(masked=False))

        async def test() -> str:
            transport = client.make(_role(client))
            began = time.monotonic()
            with pytest.raises(OPEN_ERRORS) as caught:
                await transport.open()
            assert time.monotonic() - began < client.target.connect_timeout + 1
            await transport.aclose()
            await transport.aclose()
            return str(caught.value)

        text = run(test())
        assert text.isprintable() and text
        for shown in (text, client.where, repr(client.target), str(client.target.address)):
            assert PASSWORD not in shown and "hunter2" not in shown

    def test_existence_is_told(self, harness: Harness) -> None:
        """Given a fresh destination, when it is made or sent to, then it exists; not before."""
        spot = Spot(harness)
        if not spot.client.supports(Inspects):
            with refused():
                spot.client.make(Inspects)
            return

        async def test() -> None:
            async with spot.opened(Inspects) as transport:
                assert not await transport.exists()
                if spot.traits.missing != "undetectable":
                    with pytest.raises(NotFound):
                        await transport.describe(None)
                await spot.prepare()
                await spot.send(numbered(3))
                assert await transport.exists() or not spot.kept
                described = await transport.describe(None)
                assert described and msgspec.json.decode(msgspec.json.encode(described))
            if spot.kept:
                assert values(await spot.standing()) == numbered(3)

        run(test())

    def test_a_destination_is_created_once(self, harness: Harness) -> None:
        """Given a fresh destination, when created twice, then it is made once; where it cannot
        be created by itself that is refused."""
        spot = Spot(harness)
        if not spot.client.supports(Manages):
            with refused():
                spot.client.make(Manages)
            return
        if spot.traits.missing == "undetectable":

            async def refuse() -> None:
                with refused():
                    await spot.client.create()

            run(refuse())
            return

        async def test() -> None:
            assert await spot.client.create()
            assert not await spot.client.create()
            await spot.send(numbered(2))
            assert not await spot.client.create()
            if spot.kept:
                assert values(await spot.standing()) == numbered(2)

        run(test())

    @pytest.mark.parametrize("action", ["purge", "delete"])
    def test_a_destination_is_emptied_or_removed(self, harness: Harness, action: str) -> None:
        """Given messages, when purged or deleted, then they are gone, and with the latter the
        destination; a missing one cannot be deleted."""
        spot = Spot(harness)
        if not spot.client.supports(Manages):
            with refused():
                spot.client.make(Manages)
            return
        run(self._remove(spot, action))

    async def _remove(self, spot: Spot, action: str) -> None:
        await spot.prepare()
        if spot.kept:
            await spot.send(numbered(3))
        async with spot.opened(Manages) as transport:
            if getattr(type(transport), action) is getattr(Manages, action):
                with pytest.raises(Unsupported):
                    await getattr(transport, action)()
                return
            if action == "purge":
                assert await transport.purge() in (3, None)
            else:
                await transport.delete()
                if spot.traits.missing != "undetectable":
                    with pytest.raises(NotFound):
                        await transport.delete()
        if spot.client.supports(Inspects) and spot.traits.missing != "undetectable":
            async with spot.opened(Inspects) as inspects:
                assert await inspects.exists() == (action == "purge")
        if action == "delete" and spot.traits.missing != "undetectable":
            await spot.client.create()
        await spot.send([b"new"])
        if spot.kept:
            assert values(await spot.standing()) == [b"new"]

    def test_the_broker_answers_and_lists_what_it_can(self, harness: Harness) -> None:
        """Given messages in a destination, when the broker is asked, then it says what it is,
        and lists the destination if it keeps any; where it has no such class that is refused."""
        spot = Spot(harness)
        address = spot.client.target.address
        assert address.broker is not None
        try:
            cls, target = broker_target(address.broker)
        except MqcliError as exc:
            assert isinstance(exc, Unsupported)
            return

        async def test() -> None:
            await spot.prepare()
            await spot.send(numbered(2))
            broker = cls(target)
            try:
                await broker.open()
                assert msgspec.json.encode(await broker.ping())
                for kind in (None, address.kind):
                    entries = await broker.ls(kind)
                    pairs = [(entry.kind, entry.name) for entry in entries]
                    assert pairs == sorted(pairs)
                    assert kind is None or all(entry.kind == kind for entry in entries)
                    assert not spot.kept or (address.kind, address.name) in pairs
                    assert msgspec.json.encode(entries)
            finally:
                await broker.aclose()
                await broker.aclose()

        run(test())


def _role(client: Client) -> type[Transport]:
    """Any role of the class; every transport has one."""
    roles = (Publishes, Consumes, Tails, Inspects, Manages)
    return next(role for role in roles if client.supports(role))
