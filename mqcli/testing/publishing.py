"""The suite: publishing. Bytes, order, what is carried, and the account of a batch."""

from __future__ import annotations

import asyncio

import pytest

from ..client import Client
from ..errors import ConnectionLost, MqcliError, Refused
from ..message import Header, Message, Tagged
from ..transport import ANY, Publishes, Traits
from .harness import Harness
from .support import (
    NASTY,
    PUBLISH_TIMEOUT,
    Spot,
    check_sum,
    expected_headers,
    numbered,
    refused,
    run,
    values,
)

_HEADERS: dict[str, tuple[str, Header]] = {
    "text": ("bytes", ("name", "text é")),
    "bytes": ("bytes", ("name", b"\xff\x00")),
    "int": ("typed", ("name", 7)),
    "bool": ("typed", ("name", True)),
    "float": ("typed", ("name", 0.5)),
    "tagged": ("typed", ("name", Tagged("i8", 7))),
}


def _carries(traits: Traits, feature: str) -> bool:
    """Whether the traits say that the feature of ``_with`` is kept."""
    if feature in _HEADERS:
        needs = _HEADERS[feature][0]
        return traits.headers == "typed" or (traits.headers != "none" and needs == "bytes")
    return {
        "key": traits.keys,
        "tombstone": traits.tombstones,
        "timestamp": traits.timestamps,
        "property": traits.properties is ANY,
    }[feature]


def _with(feature: str) -> Message:
    if feature in _HEADERS:
        header = _HEADERS[feature][1]
        return Message(b"value", headers=(header, ("other", "x"), header))
    return {
        "key": Message(b"value", key=b"k\xff\x00"),
        "tombstone": Message(None, key=b"k"),
        "timestamp": Message(b"value", timestamp=1_700_000_000_123),
        "property": Message(b"value", properties={"of-the-suite": "x"}),
    }[feature]


each_feature = pytest.mark.parametrize(
    "feature", ["key", "tombstone", "timestamp", "property", *_HEADERS]
)


def publishes(spot: Spot) -> bool:
    """Whether the role is there; where it is not, that is refused."""
    if spot.client.supports(Publishes):
        return True
    with refused():
        spot.client.publisher()
    return False


class Publishing:
    """Mixed into the suite."""

    def test_published_bytes_are_the_bytes_on_the_wire(self, harness: Harness) -> None:
        """Given bytes that break text tools, when published, then the other client sees them."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        outcome, seen = run(spot.published([Message(value) for value in NASTY]))
        check_sum(outcome, len(NASTY))
        assert (outcome.confirmed, dict(outcome.refused)) == (len(NASTY), {})
        assert values(seen) == list(NASTY)

    def test_an_empty_batch_is_confirmed_and_nothing_is_sent(self, harness: Harness) -> None:
        """Given no messages, when published, then nothing happens."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        outcome, seen = run(spot.published([]))
        assert (outcome.confirmed, dict(outcome.refused), list(outcome.unknown)) == (0, {}, [])
        assert seen == []

    def test_overlapping_publishes_keep_the_order_of_their_calls(self, harness: Harness) -> None:
        """Given several batches published at once, when all are confirmed, then their order on
        the wire is that of the calls, where there is an order at all."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        count, size = 8, 50
        batches = [[Message(v) for v in numbered(size, i * size)] for i in range(count)]

        async def test() -> list[bytes | None]:
            await spot.prepare()
            async with spot.opened(Publishes) as transport:

                async def all_at_once() -> None:
                    tasks = [
                        asyncio.create_task(transport.publish(batch, PUBLISH_TIMEOUT))
                        for batch in batches
                    ]
                    for outcome in await asyncio.gather(*tasks):
                        assert outcome.confirmed == size, outcome

                if spot.kept:
                    await all_at_once()
                    return values(await spot.standing())
                with harness.foreign_listen(spot.address) as listen:
                    await all_at_once()
                    return values(await asyncio.to_thread(listen, count * size))

        seen = run(test())
        if spot.traits.order == "none":
            seen.sort(key=lambda value: value or b"")
        assert seen == numbered(count * size)

    @each_feature
    def test_what_the_traits_promise_is_carried(self, harness: Harness, feature: str) -> None:
        """Given a message with a key, a header, …, when published, then the other client sees it
        where the traits say so; else this message alone is refused, before it is sent."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        message = _with(feature)
        if feature == "tombstone" and not spot.traits.keys:
            message = Message(None)
        if _carries(spot.traits, feature):
            outcome, seen = run(spot.published([message]))
            assert outcome.confirmed == 1, outcome
            (found,) = seen
            assert (found.value, found.key) == (message.value, message.key)
            assert found.headers == expected_headers(spot.traits, message)
            if feature == "property":
                assert found.properties is not None
                assert found.properties["of-the-suite"] == "x"
            if feature == "timestamp":
                assert found.timestamp == message.timestamp
            return
        seen = run(self._published_between(spot, message))
        assert values(seen) == [b"before", b"after"]

    async def _published_between(self, spot: Spot, message: Message) -> list[Message]:
        """Through the client, which knows the traits."""
        await spot.prepare()

        async def publish() -> None:
            async with spot.client.publisher() as publisher:
                await publisher.submit([Message(b"before"), message, Message(b"after")])
                await publisher.finish()
                counts = publisher.counts
                assert (counts.confirmed, counts.refused, counts.unknown) == (2, 1, 0)
                assert publisher.codes == {Refused.exit_code}
                assert "message 2 refused" in publisher.errors[0]

        if spot.kept:
            await publish()
            return await spot.standing()
        with spot.harness.foreign_listen(spot.address) as listen:
            await publish()
            return await asyncio.to_thread(listen, 2)

    def test_publishing_to_what_is_missing_does_what_the_traits_say(self, harness: Harness) -> None:
        """Given a destination that does not exist, when published to, then it comes to be, or
        every message is refused and it still does not exist."""
        spot = Spot(harness)
        if not publishes(spot):
            return

        async def test() -> None:
            async with spot.opened(Publishes) as transport:
                outcome = await transport.publish([Message(b"a"), Message(b"b")], PUBLISH_TIMEOUT)
            check_sum(outcome, 2)
            if spot.traits.missing == "refused":
                assert set(outcome.refused) == {0, 1}
                assert all(isinstance(error, MqcliError) for error in outcome.refused.values())
                await spot.prepare()  # could not be made if it were there
                assert await spot.standing() == []
            else:
                assert outcome.confirmed == 2
                if spot.kept:
                    assert values(await spot.standing()) == [b"a", b"b"]

        run(test())

    def test_places_and_receivers_are_told_for_each_message_or_not_at_all(
        self, harness: Harness
    ) -> None:
        """Given a batch, when confirmed, then what is told by index has one entry a message."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        outcome, seen = run(spot.published([Message(value) for value in numbered(3)]))
        assert len(seen) == 3
        if outcome.positions is not None:
            assert len(outcome.positions) == 3 and len(set(outcome.positions)) == 3
        if outcome.receivers is not None:
            assert list(outcome.receivers) == [1, 1, 1], "the other client alone was listening"

    def test_a_broken_connection_loses_no_account_of_a_message(self, harness: Harness) -> None:
        """Given a publisher, when its connection breaks between and within batches, then every
        message has one fate, what is confirmed is there, and what was not sent is not."""
        spot = Spot(harness)
        if not publishes(spot):
            return
        run(self._publish_while_breaking(spot))

    async def _publish_while_breaking(self, spot: Spot) -> None:
        size = 20
        confirmed: set[bytes] = set()
        unsent: set[bytes] = set()
        fates = 0
        await spot.prepare()
        async with spot.opened(Publishes) as transport:

            async def publish(number: int) -> bool:
                nonlocal fates
                sent = numbered(size, number * size)
                try:
                    outcome = await transport.publish([Message(v) for v in sent], PUBLISH_TIMEOUT)
                except ConnectionLost:
                    unsent.update(sent)
                    fates += size
                    return True
                check_sum(outcome, size)
                fates += size
                unsent.update(sent[i] for i in outcome.refused)
                gone = {*outcome.refused, *outcome.unknown}
                confirmed.update(value for i, value in enumerate(sent) if i not in gone)
                return bool(gone)

            assert not await publish(0)
            flying = [asyncio.create_task(publish(n)) for n in range(1, 5)]
            broke = await spot.disrupt()
            lost = await asyncio.gather(*flying)
            lost += [await publish(5)]
            assert fates == 6 * size
            # A driver may mend by itself where a resend cannot duplicate, as Kafka's numbered
            # batches; what is there afterwards shows whether it did so rightly.
            assert broke or not lost[-1], "lost although nothing broke"
        if spot.kept:
            there = values(await spot.standing())
            assert confirmed <= set(there)
            assert not unsent & set(there)
            assert len(there) == len(set(there)), "nothing may be sent twice"

    def test_a_client_that_may_retry_goes_on_after_a_break(self, harness: Harness) -> None:
        """Given a publisher that may send again, when its connection breaks, then a new one
        delivers everything that came after."""
        spot = Spot(harness)
        if not publishes(spot):
            return

        async def test() -> Client:
            await spot.prepare()
            async with spot.client.publisher(retry=True) as publisher:
                await publisher.submit([Message(b"before")])
                await publisher.finish()
                await spot.disrupt()
                await publisher.submit([Message(b"after")])
                await publisher.finish()
                assert publisher.failure is None
                assert publisher.counts.confirmed == 2
            if spot.kept:
                assert set(values(await spot.standing())) == {b"before", b"after"}
            return spot.client

        run(test())
