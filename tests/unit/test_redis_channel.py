"""Redis pub/sub: what is promised in docs/redis.md, against real servers and redis-cli."""

from __future__ import annotations

import asyncio
import time

import pytest

from mqcli.errors import AccessDenied, ConnectionLost
from mqcli.message import Message
from mqcli.transport import Outcome, Span
from mqcli.transports import redis_channel

from ..brokers.redis import Redis, RedisCluster, RedisServer
from .redis_support import REST, Proxy, Started, closing, opened, run, some, values

WHOLE = Span()


def test_receivers_are_counted_by_message(redis: Redis, fresh: str) -> None:
    async def publish() -> list[int]:
        async with opened(f"{redis.url}/channel:{fresh}") as channel:
            outcome = await channel.publish([Message(b"1"), Message(b"\xff\x00\r\n")], 5)
            assert outcome.confirmed == 2 and outcome.cause is None
            return list(outcome.receivers)

    # Given nobody, then one listener, then a pattern's too
    assert run(publish()) == [0, 0]
    with redis.listening("SUBSCRIBE", fresh) as listener:
        assert run(publish()) == [1, 1]
        # And the listener hears these bytes
        assert [listener.next_reply(10)[-1] for _ in "12"] == [b"1", b"\xff\x00\r\n"]
        with redis.listening("PSUBSCRIBE", f"{fresh[:-1]}?"):
            assert run(publish()) == [2, 2]


@pytest.mark.parametrize("kind", ["channel", "pattern"])
def test_each_message_names_its_channel(redis: Redis, fresh: str, kind: str) -> None:
    other = f"{fresh}.a b/ü"

    async def test() -> None:
        name = fresh if kind == "channel" else f"{fresh}*"
        async with (
            opened(f"{redis.url}/{kind}:{name}") as transport,
            closing(transport.tail(WHOLE)) as feed,
        ):
            redis.pipe([["PUBLISH", fresh, b"\xfe"], ["PUBLISH", other, "2"]])
            got = await some(feed, 1 if kind == "channel" else 2)
            assert (got[0].value, got[0].source) == (b"\xfe", f"{redis.url}/channel:{fresh}")
            assert got[0].timestamp is None and got[0].position == ""
            if kind == "pattern":
                assert got[1].source == f"{redis.url}/channel:{fresh}.a%20b%2Fü"

    run(test())


def test_what_comes_with_the_confirmation_is_not_lost(redis: Redis, fresh: str) -> None:
    """A chunk from the socket may hold the confirmation and the first messages."""

    async def test() -> None:
        async with (
            opened(f"{redis.url}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            feed._push([[b"subscribe", b"c", 1], [b"message", b"c", b"1"], [b"pong", b""]])
            feed._push([[b"message", b"c", b"2"]])
            assert values(await some(feed, 2)) == [b"1", b"2"]

    run(test())


def test_a_reader_that_stands_still_drops_past_a_bound_and_says_how_many(
    redis: Redis, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a buffer of 1,000 messages and a reader that takes none while 5,000 come
    monkeypatch.setattr(redis_channel, "_MOST_MESSAGES", 1000)

    async def test() -> None:
        async with (
            opened(f"{redis.url}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            for at in range(0, 5000, 250):
                batch = [Message(b"%d" % n) for n in range(at, at + 250)]
                assert set((await channel_publish(redis, fresh, batch)).receivers) == {1}
            while feed._count + feed._dropped < 5000:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            # When it reads again, then what was kept comes first, in order
            before: list[int] = []
            while not feed.gaps:
                before += [int(m.value) for m in await feed.receive(100, REST, 5)]
            assert before == list(range(len(before))) and 0 < len(before) <= 1000
            # And then the gap, with its count and its time
            (gap,) = feed.gaps
            feed.gaps.clear()
            assert gap.count == 5000 - len(before)
            assert gap.since_ms is not None and gap.until_ms is not None
            assert gap.since_ms <= gap.until_ms
            # And what comes after it comes again
            await channel_publish(redis, fresh, [Message(b"after")])
            assert values(await some(feed, 1)) == [b"after"] and not feed.gaps

    run(test())


def test_a_gap_stands_between_what_came_before_and_after(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        async with (
            opened(f"{redis.url}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            # Given a full buffer, something dropped, then room, then another message
            feed._push([[b"message", b"c", b"x" * (20 << 20)]])
            feed._push([[b"message", b"c", b"y" * (20 << 20)], [b"message", b"c", b"z"]])
            feed._push([[b"message", b"c", b"small"]])
            first = await feed.receive(10, REST, 1)
            assert len(first) == 1 and not feed.gaps
            second = await feed.receive(10, REST, 1)
            assert values(second) == [b"small"] and [g.count for g in feed.gaps] == [2]

    run(test())


async def channel_publish(redis: Redis, name: str, batch: list[Message]) -> Outcome:
    async with opened(f"{redis.url}/channel:{name}") as channel:
        outcome: Outcome = await channel.publish(batch, 5)
        return outcome


def test_limits_of_a_receive_are_kept(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        async with (
            opened(f"{redis.url}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            await channel_publish(redis, fresh, [Message(b"x" * 100)] * 10)
            assert len(await some(feed, 1)) == 1
            few = len(await feed.receive(100, 250, 5))
            assert 1 <= few <= 2
            assert len(await feed.receive(100, 1, 5)) == 1
            await some(feed, 8 - few)
            large = Message(b"x" * (20 << 20))
            await channel_publish(redis, fresh, [large])
            assert values(await some(feed, 1)) == [large.value]

    run(test())


def test_a_lost_connection_is_told_after_what_had_come(redis: Redis, fresh: str) -> None:
    port = int(redis.url.rpartition(":")[2])

    async def test() -> None:
        async with (
            Proxy(port) as proxy,
            opened(f"redis://127.0.0.1:{proxy.port}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            await channel_publish(redis, fresh, [Message(b"1"), Message(b"2")])
            (one,) = await feed.receive(1, REST, 5)
            while feed._count < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            proxy.cut()
            await asyncio.wait({feed._wire.closed})
            assert values([one, *await feed.receive(10, REST, 5)]) == [b"1", b"2"]
            with pytest.raises(ConnectionLost):
                await feed.receive(10, REST, 5)

    run(test())


def test_a_link_that_died_in_silence_is_found(
    redis: Redis, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap D6, fault F7."""
    monkeypatch.setattr(redis_channel, "_PING_EVERY", 0.2)
    port = int(redis.url.rpartition(":")[2])

    async def test() -> None:
        async with (
            Proxy(port) as proxy,
            opened(f"redis://127.0.0.1:{proxy.port}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            # Given an idle link that answers pings for a while
            assert not await feed.receive(10, REST, 1.0)
            # When it swallows all, then that is found within two periods
            proxy.mute = True
            began = time.monotonic()
            with pytest.raises(ConnectionLost, match="unanswered"):
                await feed.receive(10, REST, 5)
            assert time.monotonic() - began < 1.5

    run(test())


def test_a_forbidden_channel(started: Started) -> None:
    server = started(
        lambda: RedisServer("user ann on >pw resetchannels &own +subscribe +publish +client")
    )
    address = server.url.replace("://", "://ann:pw@")

    async def test() -> None:
        async with opened(f"{address}/channel:other") as channel:
            outcome = await channel.publish([Message(b"x")], 5)
            assert type(outcome.refused[0]) is AccessDenied
            with pytest.raises(AccessDenied):
                await channel.tail(WHOLE)
        async with opened(f"{address}/channel:own") as channel:
            assert (await channel.publish([Message(b"x")], 5)).receivers == [0]

    run(test())


def test_a_slow_reader_is_cut_off_and_told(redis: Redis, fresh: str) -> None:
    """Fault F16: the server's own limit ends the connection."""

    async def test() -> None:
        async with (
            opened(f"{redis.url}/channel:{fresh}") as channel,
            closing(channel.tail(WHOLE)) as feed,
        ):
            redis.cli("CLIENT", "KILL", "TYPE", "pubsub")
            with pytest.raises(ConnectionLost):
                await feed.receive(10, REST, 5)

    run(test())


def test_a_cluster_carries_messages_between_nodes(started: Started, fresh: str) -> None:
    cluster = started(RedisCluster)
    first, last = cluster.hosts[0], cluster.hosts[-1]

    async def test() -> None:
        async with (
            opened(f"redis+cluster://{first}/channel:{fresh}") as listener,
            opened(f"redis+cluster://{last}/channel:{fresh}") as speaker,
            closing(listener.tail(WHOLE)) as feed,
        ):
            # Given a listener at one node, when published at another
            outcome = await speaker.publish([Message(b"x")], 5)
            # Then it comes, though the node that was asked counts its own only
            assert outcome.receivers == [0]
            assert values(await some(feed, 1)) == [b"x"]
            assert (await speaker.describe(None))["subscribers"] == 1

    run(test())


def test_describe_and_exists(redis: Redis, fresh: str) -> None:
    async def test(listening: bool) -> None:
        async with opened(f"{redis.url}/channel:{fresh}") as channel:
            assert await channel.exists() is listening
            assert (await channel.describe(None))["subscribers"] == int(listening)

    run(test(False))
    with redis.listening("SUBSCRIBE", fresh):
        run(test(True))
