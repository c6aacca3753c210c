"""Redis lists: what is promised in docs/redis-list.md, against real servers and redis-cli.

One file beyond the usual length, as the page is one: every promise is about the same keys and
leases, and is looked at through the same helpers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from mqcli.address import parse_address
from mqcli.client import Client
from mqcli.errors import (
    AccessDenied,
    ConnectionLost,
    Refused,
    TryAgainLater,
    Unsupported,
    UsageError,
)
from mqcli.message import Message, Received
from mqcli.position import Start
from mqcli.registry import target
from mqcli.transport import Feed, Span
from mqcli.transports._redis_list_feed import PopFeed, ReliableFeed
from mqcli.transports._redis_list_scripts import Keys, Transactions, base
from mqcli.transports._redis_list_watch import WatchFeed, _behind
from mqcli.transports.redis_list import RedisList

from ..brokers.redis import Redis, RedisCluster, RedisServer

T = TypeVar("T")
Started = Callable[[Callable[[], Any]], Any]
WHOLE = Span()
TO_END = Span(stop=Start("end"))
REST = 1 << 24
DEADLINE = 20.0


def run(test: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(60):
            result = await test
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(bounded())


def made(url: str, name: str, **options: str) -> RedisList:
    address = parse_address(f"{url}/list:{quote(name, safe='')}")
    cls, where = target(address, [*options.items()])
    transport = cls(where)
    assert isinstance(transport, RedisList)
    return transport


@asynccontextmanager
async def opened(url: str, name: str, **options: str) -> AsyncIterator[RedisList]:
    transport = made(url, name, **options)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.aclose()


@asynccontextmanager
async def feeding(
    transport: RedisList, span: Span = WHOLE, limit: int | None = None
) -> AsyncIterator[Feed]:
    feed = await transport.subscribe(span, None, limit)
    try:
        yield feed
    finally:
        await feed.aclose()


async def some(feed: Feed, count: int) -> list[Received]:
    """Exactly ``count`` messages, within the deadline."""
    found: list[Received] = []
    async with asyncio.timeout(DEADLINE):
        while len(found) < count:
            found += await feed.receive(count - len(found), REST, 1.0)
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def values(messages: Sequence[Received]) -> list[bytes | None]:
    return [message.value for message in messages]


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


def push(redis: Redis, name: str, items: Sequence[bytes]) -> None:
    redis.pipe([("RPUSH", name, *items)])


def standing(redis: Redis, name: str) -> list[bytes]:
    found: list[bytes] = redis.cli("LRANGE", name, "0", "-1")
    return found


def left_behind(redis: Redis, name: str) -> list[bytes]:
    """Every key that has to do with the list, but itself."""
    return [key for key in redis.cli("KEYS", f"*{name}*") if key != name.encode()]


# publishing


def test_what_is_published_is_what_redis_cli_reads_in_order(redis: Redis, fresh: str) -> None:
    # Given a list with one value
    redis.cli("RPUSH", fresh, "first")

    async def publish() -> None:
        async with opened(redis.url, fresh) as transport:
            # When a batch is published
            outcome = await transport.publish([Message(b"a"), Message(b""), Message(b"c")], 5)
            assert (outcome.confirmed, outcome.refused, [*outcome.unknown]) == (3, {}, [])

    run(publish())
    # Then it stands behind, in order
    assert standing(redis, fresh) == [b"first", b"a", b"", b"c"]


def test_side_left_pushes_in_front(redis: Redis, fresh: str) -> None:
    async def publish() -> None:
        async with opened(redis.url, fresh, side="left") as transport:
            await transport.publish([Message(b"a"), Message(b"b")], 5)

    run(publish())
    assert standing(redis, fresh) == [b"b", b"a"]


def test_a_batch_of_more_values_than_one_push_takes(redis: Redis, fresh: str) -> None:
    async def publish() -> int:
        async with opened(redis.url, fresh) as transport:
            return (await transport.publish([Message(b"x")] * 250_001, 30)).confirmed

    assert run(publish()) == 250_001
    assert redis.cli("LLEN", fresh) == 250_001


def test_a_value_over_the_servers_limit_is_refused_by_index(started: Started, fresh: str) -> None:
    # Given a server that takes 2 MiB
    server = started(lambda: RedisServer("proto-max-bulk-len 2mb"))

    async def publish() -> None:
        async with opened(server.url, fresh) as transport:
            # When one of three values is larger
            batch = [Message(b"a"), Message(b"x" * (2 << 20 | 1)), Message(b"y" * (2 << 20))]
            outcome = await transport.publish(batch, 10)
            # Then only that one is refused, and says the limit
            assert outcome.confirmed == 2
            assert list(outcome.refused) == [1]
            assert "2097152" in str(outcome.refused[1])
            assert isinstance(outcome.refused[1], Refused)

    run(publish())
    assert server.cli("LLEN", fresh) == 2


def test_another_type_is_named(redis: Redis, fresh: str) -> None:
    redis.cli("XADD", fresh, "*", "f", "v")

    async def use() -> None:
        async with opened(redis.url, fresh) as transport:
            outcome = await transport.publish([Message(b"a")], 5)
            assert isinstance(outcome.refused[0], UsageError)
            assert "stream" in str(outcome.refused[0])
            for options in ({}, {"take": "pop"}):
                async with opened(redis.url, fresh, **options) as taking, feeding(taking) as feed:
                    with pytest.raises(UsageError, match="stream"):
                        await feed.receive(10, REST, 1.0)
            for act in (transport.purge, transport.delete):
                with pytest.raises(UsageError, match="stream"):
                    await act()
            with pytest.raises(UsageError, match="stream"):
                await transport.tail(Span())

    run(use())
    assert redis.cli("XLEN", fresh) == 1
    assert left_behind(redis, fresh) == []


# taking reliably


@pytest.mark.parametrize("side", ["left", "right"])
def test_taken_in_order_removed_when_acknowledged_nothing_left(
    redis: Redis, fresh: str, side: str
) -> None:
    # Given 5,000 values
    items = numbers(0, 5000)
    push(redis, fresh, items)

    async def take() -> list[bytes | None]:
        found: list[bytes | None] = []
        async with (
            opened(redis.url, fresh, side=side) as transport,
            feeding(transport, TO_END) as feed,
        ):
            while not feed.ended:
                messages = await feed.receive(700, REST, 1.0)
                found += values(messages)
                # When each batch is acknowledged in two parts
                ours = await feed.ack(messages[:100]) + await feed.ack(messages[100:])
                assert ours == len(messages)
        return found

    # Then all came, in the order of that end, and no key is left
    assert run(take()) == (items if side == "left" else items[::-1])
    assert redis.cli("EXISTS", fresh) == 0
    assert left_behind(redis, fresh) == []


@pytest.mark.parametrize("take", ["reliable", "pop"])
def test_the_limit_is_never_exceeded_in_what_is_held(redis: Redis, fresh: str, take: str) -> None:
    push(redis, fresh, numbers(0, 10))

    async def one() -> None:
        async with (
            opened(redis.url, fresh, take=take) as transport,
            feeding(transport, limit=1) as feed,
        ):
            assert values(await feed.receive(10, REST, 1.0)) == [b"0"]
            # Then N-1 are left, also while the feed goes on
            assert await feed.receive(10, REST, 0.1) == []
            assert feed.ended
            assert redis.cli("LLEN", fresh) == 9
            if take == "reliable":
                assert await feed.ack([Received(b"0", token=0)]) == 1

    run(one())
    assert standing(redis, fresh) == numbers(1, 10)
    assert left_behind(redis, fresh) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_closing_gives_back_in_order_what_was_not_acknowledged(
    redis: Redis, fresh: str, side: str
) -> None:
    push(redis, fresh, numbers(0, 30))

    async def take() -> None:
        async with (
            opened(redis.url, fresh, side=side) as transport,
            feeding(transport) as feed,
        ):
            # Given three batches, of which two messages are acknowledged
            first = await feed.receive(5, REST, 1.0)
            await feed.receive(5, REST, 1.0)
            await feed.receive(5, REST, 1.0)
            assert await feed.ack(first[:2]) == 2

    # When the feed closes
    run(take())
    # Then the list is as it was, without those two
    rest = numbers(2, 30) if side == "left" else numbers(0, 28)
    assert standing(redis, fresh) == rest
    assert left_behind(redis, fresh) == []


@pytest.mark.parametrize("scripts", [True, False])
def test_any_message_can_be_given_back(redis: Redis, fresh: str, scripts: bool) -> None:
    push(redis, fresh, numbers(0, 10))

    async def take() -> None:
        async with opened(redis.url, fresh) as transport:
            feed = await transport.subscribe(Span(), None, 10)
            assert isinstance(feed, ReliableFeed)
            if not scripts:
                feed.use(Transactions(transport._link, Keys(fresh.encode()), "left", 30))
            messages = await some(feed, 10)
            # When some from the middle go back, and then the head is acknowledged
            await feed.nack([messages[2], messages[5], messages[6]])
            assert standing(redis, fresh) == [b"2", b"5", b"6"]
            assert await feed.ack([messages[0], messages[1], messages[3]]) == 3
            await feed.aclose()

    run(take())
    # Then the rest comes back before them, since it was given back later
    assert standing(redis, fresh) == [b"4", b"7", b"8", b"9", b"2", b"5", b"6"]
    assert left_behind(redis, fresh) == []


def test_a_waiting_consumer_gets_what_is_pushed_later(redis: Redis, fresh: str) -> None:
    async def take() -> None:
        async with opened(redis.url, fresh) as transport, feeding(transport) as feed:
            for number in range(3):
                # Given a consumer that waits on an empty list while one message is not settled
                waiting = asyncio.create_task(feed.receive(10, REST, DEADLINE))
                await until(lambda: blocked(redis, fresh))
                # When redis-cli pushes, then it comes at once
                redis.cli("RPUSH", fresh, f"v{number}")
                messages = await waiting
                assert values(messages) == [b"v%d" % number]
                if number < 2:
                    assert await feed.ack(messages) == 1

    run(take())
    # Then the one that was not acknowledged is back
    assert standing(redis, fresh) == [b"v2"]
    assert left_behind(redis, fresh) == []


async def blocked(redis: Redis, name: str) -> bool:
    clients: bytes = redis.cli("CLIENT", "LIST")
    return b"cmd=bl" in clients and b" flags=b " in clients


def test_cancelling_receive_loses_nothing(redis: Redis, fresh: str) -> None:
    items = numbers(0, 2000)

    async def take() -> list[bytes | None]:
        found: list[bytes | None] = []
        async with opened(redis.url, fresh) as transport, feeding(transport) as feed:
            pushing = asyncio.create_task(push_slowly())
            tries = 0
            # When receive is cancelled again and again, at every stage of its work
            while len(found) < len(items):
                tries += 1
                task = asyncio.create_task(feed.receive(50, REST, 5.0))
                await asyncio.sleep((tries % 7) * 0.0002)
                task.cancel()
                try:
                    messages = await task
                except asyncio.CancelledError:
                    continue
                found += values(messages)
                assert await feed.ack(messages) == len(messages)
            await pushing
        return found

    async def push_slowly() -> None:
        async with opened(redis.url, fresh) as transport:
            for at in range(0, len(items), 20):
                await transport.publish([Message(item) for item in items[at : at + 20]], 5)
                await asyncio.sleep(0.001)

    # Then each came once, in order
    assert run(take()) == items
    assert left_behind(redis, fresh) == []


def test_closing_while_waiting_loses_nothing(redis: Redis, fresh: str) -> None:
    async def take() -> None:
        async with opened(redis.url, fresh) as transport:
            for _ in range(20):
                feed = await transport.subscribe(Span(), None, None)
                task = asyncio.create_task(feed.receive(10, REST, 5.0))
                await until(lambda: blocked(redis, fresh))
                # When a value is pushed while the feed is being closed
                task.cancel()
                async with opened(redis.url, fresh) as other:
                    await asyncio.gather(feed.aclose(), other.publish([Message(b"x")], 5))
                await asyncio.gather(task, return_exceptions=True)
                await feed.aclose()
                # Then it is in the list
                assert redis.cli("LPOP", fresh) == b"x"

    run(take())
    assert left_behind(redis, fresh) == []


@pytest.mark.parametrize("take", ["reliable", "pop"])
def test_closing_ends_a_receive_that_waits(redis: Redis, fresh: str, take: str) -> None:
    async def close() -> None:
        async with opened(redis.url, fresh, take=take) as transport:
            feed = await transport.subscribe(Span(), None, None)
            waiting = asyncio.create_task(feed.receive(10, REST, DEADLINE))
            await until(lambda: blocked(redis, fresh))
            await feed.aclose()
            assert await waiting == []

    run(close())
    assert left_behind(redis, fresh) == []


def test_two_consumers_share_without_loss_or_duplicates(redis: Redis, fresh: str) -> None:
    items = numbers(0, 20_000)
    push(redis, fresh, items)

    async def take() -> list[bytes | None]:
        async with opened(redis.url, fresh) as transport:
            found: list[bytes | None] = []

            async def work() -> None:
                async with feeding(transport, TO_END) as feed:
                    while not feed.ended:
                        messages = await feed.receive(100, REST, 1.0)
                        found.extend(values(messages))
                        await feed.ack(messages)

            await asyncio.gather(work(), work())
        return found

    found = run(take())
    assert len(found) == len(items)
    assert set(found) == set(items)
    assert left_behind(redis, fresh) == []


def test_the_end_is_what_stood_when_reading_began(redis: Redis, fresh: str) -> None:
    push(redis, fresh, numbers(0, 3))

    async def take() -> None:
        async with opened(redis.url, fresh) as transport:
            async with feeding(transport, TO_END) as feed:
                push(redis, fresh, [b"later"])
                found = await some(feed, 3)
                assert await feed.receive(10, REST, 5.0) == []
                assert feed.ended
                await feed.ack(found)
            async with feeding(transport, TO_END) as feed:
                # Given that another takes what stood there
                assert redis.cli("LPOP", fresh) == b"later"
                # Then the end is reached without waiting
                before = time.monotonic()
                assert await feed.receive(10, REST, 30.0) == []
                assert feed.ended
                assert time.monotonic() - before < 5
            async with feeding(transport, TO_END) as feed:
                assert feed.ended

    run(take())
    assert left_behind(redis, fresh) == []


def test_large_and_odd_values_come_through_and_max_bytes_holds(redis: Redis, fresh: str) -> None:
    large = os.urandom(1 << 16) * 1024  # 64 MiB
    odd = [b"\x00", b"a\x00b", b"", b"\xff\xfe", b"\r\n"]

    async def take() -> list[Received]:
        async with opened(redis.url, fresh) as transport:
            outcome = await transport.publish([Message(item) for item in [*odd, large, *odd]], 30)
            assert outcome.confirmed == 11
            async with feeding(transport) as feed:
                first = await feed.receive(100, 1000, 10.0)
                # Then a batch ends with the value that passes the limit, and no later one is held
                assert values(first) == [*odd, large]
                assert redis.cli("LLEN", fresh) == 5
                rest = await some(feed, 5)
                assert await feed.ack([*first, *rest]) == 11
        return rest

    assert values(run(take())) == odd
    assert left_behind(redis, fresh) == []


# leases

HOLDER = """
import asyncio, sys
from mqcli.address import parse_address
from mqcli.registry import target
from mqcli.transport import Span

async def main():
    cls, where = target(parse_address(sys.argv[1]), [("claim_after", "1s")])
    transport = cls(where)
    await transport.open()
    feed = await transport.subscribe(Span(), None, None)
    messages = []
    for _ in range(3):
        messages += await feed.receive(4, 1 << 20, 5.0)
    print(len(messages), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(await feed.ack(messages), flush=True)
    await feed.aclose()
    await transport.aclose()

asyncio.run(main())
"""


def holder(redis: Redis, name: str) -> subprocess.Popen[bytes]:
    """Another process that takes 12 messages in three batches and holds them."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{redis.url}/list:{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"12\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_what_a_killed_consumer_held_comes_again_in_order(redis: Redis, fresh: str) -> None:
    # Given a consumer that is killed while it holds three batches
    push(redis, fresh, numbers(0, 20))
    end(holder(redis, fresh))

    async def take() -> None:
        async with opened(redis.url, fresh, claim_after="1s") as transport:
            described = await transport.describe(None)
            assert described["held"] in (12, 16)  # it may have been taking ahead
            # When another consumes
            async with feeding(transport) as feed:
                found: list[Received] = []
                while len(found) < 20:
                    found += await some(feed, 1)
                    if len(found) == 1:
                        await until(lambda: all_given_back(transport))
                await feed.ack(found)
        # Then all comes, and what was held in the order that it had
        held = [value for value in values(found) if value in numbers(0, 12)]
        assert held == numbers(0, 12)
        assert sorted(values(found), key=lambda v: int(v or b"")) == numbers(0, 20)

    run(take())
    assert left_behind(redis, fresh) == []


async def all_given_back(transport: RedisList) -> bool:
    return len((await transport.describe(None))["consumers"]) <= 1


def test_a_sleeper_cannot_remove_what_was_given_back(redis: Redis, fresh: str) -> None:
    # Given a consumer that stands still for longer than its lease
    push(redis, fresh, numbers(0, 12))
    sleeper = holder(redis, fresh)
    os.kill(sleeper.pid, signal.SIGSTOP)

    async def take_over() -> None:
        async with (
            opened(redis.url, fresh, claim_after="1s") as transport,
            feeding(transport) as feed,
        ):
            found = await some(feed, 12)
            assert values(found) == numbers(0, 12)
            # When it wakes up and acknowledges
            os.kill(sleeper.pid, signal.SIGCONT)
            out, _ = await asyncio.to_thread(sleeper.communicate, b"\n")
            # Then nothing was still its own, and all is still ours
            assert out == b"0\n"
            assert await feed.ack(found) == 12

    try:
        run(take_over())
    finally:
        end(sleeper)
    assert sleeper.returncode == 0
    assert left_behind(redis, fresh) == []


def test_a_lease_is_renewed_while_the_feed_is_open(redis: Redis, fresh: str) -> None:
    push(redis, fresh, [b"a", b"b"])

    async def hold() -> None:
        async with (
            opened(redis.url, fresh, claim_after="1s") as transport,
            feeding(transport, limit=1) as feed,
            feeding(transport) as other,
        ):
            mine = await some(feed, 1)
            theirs = await some(other, 1)
            # When three leases' time passes while another looks for dead consumers
            assert await other.receive(1, REST, 3.0) == []
            # Then it is still ours
            assert await feed.ack(mine) == 1
            assert await other.ack(theirs) == 1

    run(hold())
    assert left_behind(redis, fresh) == []


def test_transactions_give_back_what_a_dead_consumer_held(started: Started, fresh: str) -> None:
    # Given a user who may use no scripts, and a killed consumer
    server = started(RedisServer)
    server.cli("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-@scripting",
               "-client|unblock")  # fmt: skip
    url = server.url.replace("redis://", "redis://plain:pw@")
    push(server, fresh, numbers(0, 12))
    end(holder(server, fresh))

    async def take() -> None:
        async with opened(url, fresh, claim_after="1s") as transport:
            feed = await transport.subscribe(Span(), None, None)
            assert isinstance(feed, ReliableFeed)
            assert isinstance(feed._moves, Transactions)
            # When that user consumes, then all comes in order
            found = await some(feed, 12)
            assert values(found) == numbers(0, 12)
            await feed.nack(found[6:])
            assert standing(server, fresh) == numbers(6, 12)
            found[6:] = await some(feed, 6)
            assert values(found) == numbers(0, 12)
            assert await feed.ack(found) == 12
            # and a wait that nobody may interrupt ends by itself
            assert await feed.receive(1, REST, 0.1) == []
            await feed.aclose()

    run(take())
    assert left_behind(server, fresh) == []


def test_missing_permission_is_said(started: Started, fresh: str) -> None:
    server = started(RedisServer)
    server.cli("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+@connection")
    url = server.url.replace("redis://", "redis://reader:pw@")

    async def use() -> None:
        async with opened(url, fresh) as transport:
            outcome = await transport.publish([Message(b"a")], 5)
            assert isinstance(outcome.refused[0], AccessDenied)
            with pytest.raises(AccessDenied):
                await transport.subscribe(Span(), None, None)

    run(use())


def test_the_documented_permissions_suffice(started: Started) -> None:
    server = started(RedisServer)
    server.cli("ACL", "SETUSER", "jobs", "on", ">pw", "~jobs", "~{jobs}:mqcli*", "+@list",
               "+@sortedset", "+@transaction", "+@scripting", "+@connection", "+time")  # fmt: skip
    url = server.url.replace("redis://", "redis://jobs:pw@")

    async def use() -> None:
        async with opened(url, "jobs") as transport:
            assert (await transport.publish([Message(b"a"), Message(b"b")], 5)).confirmed == 2
            tail = await transport.tail(Span(Start("last", 2)))
            assert values(await some(tail, 2)) == [b"a", b"b"]
            await tail.receive(1, REST, 0.3)
            await tail.aclose()
            feed = await transport.subscribe(Span(), None, None)
            assert isinstance(feed, ReliableFeed)
            assert not isinstance(feed._moves, Transactions)
            found = await some(feed, 2)
            await feed.nack(found[1:])
            assert await feed.ack(found[:1]) == 1
            assert values(await some(feed, 1)) == [b"b"]
            assert await feed.receive(1, REST, 0.1) == []
            await feed.aclose()
            assert (await transport.describe(None))["length"] == 1
            assert await transport.purge() == 1

    run(use())
    assert server.cli("DBSIZE") == 0


def test_a_full_server_refuses_more_and_can_be_emptied(started: Started, fresh: str) -> None:
    server = started(RedisServer)
    push(server, fresh, numbers(0, 1000))
    server.cli("CONFIG", "SET", "maxmemory", "100kb")

    async def use() -> None:
        async with opened(server.url, fresh) as transport:
            outcome = await transport.publish([Message(b"a"), Message(b"b")], 5)
            assert outcome.confirmed == 0
            assert {type(error) for error in outcome.refused.values()} == {TryAgainLater}
            async with feeding(transport) as feed:
                found = await some(feed, 1000)
                assert await feed.ack(found[:600]) == 600
                assert await feed.receive(1, REST, 0.2) == []

    run(use())
    assert standing(server, fresh) == numbers(600, 1000)
    assert left_behind(server, fresh) == []


def test_a_broken_connection_gives_back_at_once_what_was_held(started: Started, fresh: str) -> None:
    server = started(RedisServer)
    push(server, fresh, numbers(0, 100))

    async def take() -> None:
        async with opened(server.url, fresh) as transport:
            feed = await transport.subscribe(Span(), None, None)
            found = await some(feed, 40)
            assert await feed.ack(found[:10]) == 10
            # When the server closes our connections
            server.kill_clients()
            with pytest.raises(ConnectionLost):
                while True:
                    await feed.receive(10, REST, 1.0)
            await feed.aclose()

    run(take())
    # Then nobody has to wait for the lease to get it, in order
    assert standing(server, fresh) == numbers(10, 100)
    # and only a lease on nothing is left, in case that the server were to act later
    assert [key for key in left_behind(server, fresh) if b"left:" in key] == []


def test_a_server_that_is_away_costs_no_message(started: Started, fresh: str) -> None:
    server = started(lambda: RedisServer("appendonly yes"))
    push(server, fresh, numbers(0, 10))

    async def take() -> None:
        async with opened(server.url, fresh, claim_after="1s") as transport:
            feed = await transport.subscribe(Span(), None, None)
            await some(feed, 10)
            # When the server is killed, the feed closed, and the server comes back
            server.kill()
            with pytest.raises(ConnectionLost):
                while True:
                    await feed.receive(10, REST, 1.0)
            await feed.aclose()
        server.start()
        # Then the next consumer gets all when the lease has run out
        async with (
            opened(server.url, fresh, claim_after="1s") as transport,
            feeding(transport) as feed,
        ):
            found = await some(feed, 10)
            assert values(found) == numbers(0, 10)
            assert await feed.ack(found) == 10

    run(take())
    assert left_behind(server, fresh) == []


# plain pops


@pytest.mark.parametrize("side", ["left", "right"])
def test_pops_take_in_order_and_give_back_what_was_not_handed_out(
    redis: Redis, fresh: str, side: str
) -> None:
    push(redis, fresh, numbers(0, 100))

    async def take() -> list[bytes | None]:
        async with opened(redis.url, fresh, side=side, take="pop") as transport:
            assert transport.traits(transport.target.options, None).ack == "none"
            feed = await transport.subscribe(Span(), None, None)
            assert isinstance(feed, PopFeed)
            found = await some(feed, 20)
            # Given that pops are on their way, or have come, when the feed closes
            for _ in range(3):
                task = asyncio.create_task(feed.receive(10, REST, 1.0))
                await asyncio.sleep(0)
                task.cancel()
            await feed.aclose()
            return values(found)

    items = numbers(0, 100) if side == "left" else numbers(0, 100)[::-1]
    assert run(take()) == items[:20]
    assert standing(redis, fresh) == (numbers(20, 100) if side == "left" else numbers(0, 80))


def test_a_waiting_pop_gets_what_is_pushed(redis: Redis, fresh: str) -> None:
    async def take() -> None:
        async with opened(redis.url, fresh, take="pop") as transport, feeding(transport) as feed:
            waiting = asyncio.create_task(feed.receive(10, REST, DEADLINE))
            await until(lambda: blocked(redis, fresh))
            redis.cli("RPUSH", fresh, "v")
            assert values(await waiting) == [b"v"]

    run(take())
    assert redis.cli("EXISTS", fresh) == 0


# keys


@given(st.binary(max_size=12) | st.text("{}ab", max_size=8).map(str.encode))
def test_all_keys_of_a_list_share_its_slot(key: bytes) -> None:
    assert key_slot(Keys(key).held(b"left:h:1:x:1")) == key_slot(key)
    assert base(key).endswith((key, key + b"}"))


@settings(max_examples=1)
@given(st.none())
def test_plain_names_stay_readable(_: None) -> None:
    assert base(b"jobs") == b"{jobs}"
    assert base(b"a{tag}b") == b"a{tag}b"


@pytest.mark.parametrize("name", ["jobs", "a{tag}b", "a}b", "{}x", "x{", "}{", "\x00"])
def test_a_cluster_agrees_and_serves_such_keys(started: Started, name: str) -> None:
    cluster = started(RedisCluster)

    async def use() -> None:
        key = name.encode()
        async with opened(cluster.url, name) as transport:
            for other in (Keys(key).index, Keys(key).held(b"left:h:1:x:1")):
                slots = [
                    await transport._link.call("CLUSTER", "KEYSLOT", each, timeout=5)
                    for each in (key, other)
                ]
                assert slots[0] == slots[1]
            await transport.publish([Message(b"a"), Message(b"b")], 5)
            async with feeding(transport, TO_END) as feed:
                found = await some(feed, 2)
                assert await feed.ack(found) == 2

    run(use())


# looking and managing


def test_describe_tells_who_holds_what(redis: Redis, fresh: str) -> None:
    push(redis, fresh, numbers(0, 10))

    async def look() -> None:
        async with opened(redis.url, fresh) as transport, feeding(transport, limit=4) as feed:
            await some(feed, 4)
            assert await transport.exists()
            told = await transport.describe(None)
            assert (told["length"], told["held"]) == (6, 4)
            assert told["bytes"] > 0
            (consumer,) = told["consumers"]
            assert consumer["held"] == 4
            assert consumer["side"] == "left"
            assert str(os.getpid()) in consumer["consumer"]
            assert 15_000 < consumer["lease_ms"] <= 30_000

    run(look())


def test_purge_leaves_what_is_held_and_delete_refuses(redis: Redis, fresh: str) -> None:
    push(redis, fresh, numbers(0, 10))

    async def manage() -> None:
        async with opened(redis.url, fresh) as transport:
            async with feeding(transport, limit=4) as feed:
                held = await some(feed, 4)
                with pytest.raises(Refused, match="4 messages are held"):
                    await transport.delete()
                assert redis.cli("LLEN", fresh) == 6
                assert await transport.purge() == 6
                assert await feed.ack(held[:1]) == 1
            assert standing(redis, fresh) == [b"1", b"2", b"3"]
            await transport.delete()
            await transport.delete()
            assert not await transport.exists()
            assert (await transport.describe(None))["length"] == 0

    run(manage())


def test_delete_removes_what_the_dead_held(redis: Redis, fresh: str) -> None:
    push(redis, fresh, numbers(0, 30))
    end(holder(redis, fresh))

    async def delete() -> None:
        async with opened(redis.url, fresh) as transport:

            async def run_out() -> bool:
                (consumer,) = (await transport.describe(None))["consumers"]
                return bool(consumer["lease_ms"] < 0)

            await until(run_out)
            await transport.delete()

    run(delete())
    assert redis.cli("EXISTS", fresh) == 0
    assert left_behind(redis, fresh) == []


def test_what_a_queue_has_not_is_refused() -> None:
    async def refuse() -> None:
        transport = made("redis://127.0.0.1:1", "x")
        for span, group in (
            (Span(Start("beginning")), None),
            (Span(stop=Start("last", 3)), None),
            (Span(), "g"),
        ):
            with pytest.raises(Unsupported):
                await transport.subscribe(span, group, None)
        for span in (Span(Start("at", token="3")), Span(Start("last", 100_000))):
            with pytest.raises(Unsupported):
                await transport.tail(span)
        short = made("redis://127.0.0.1:1", "x", claim_after="10ms")
        with pytest.raises(UsageError, match="1s"):
            short.traits(short.target.options, None)

    run(refuse())


# watching


def test_watching_shows_what_is_pushed_and_takes_nothing(redis: Redis, fresh: str) -> None:
    push(redis, fresh, numbers(0, 50))

    async def watch() -> None:
        async with opened(redis.url, fresh) as transport:
            feed = await transport.tail(Span(Start("last", 3)))
            assert any("not seen" in note for note in feed.notes)
            assert values(await some(feed, 3)) == [b"47", b"48", b"49"]
            # When others push, also equal values, and take from the other end
            push(redis, fresh, [b"49", b"49", b"new"])
            assert redis.cli("LPOP", fresh) == b"0"
            assert values(await some(feed, 3)) == [b"49", b"49", b"new"]
            # and more than fits in the smallest look
            push(redis, fresh, numbers(100, 700))
            assert values(await some(feed, 600)) == numbers(100, 700)
            assert feed.gaps == []
            await feed.aclose()
            await feed.aclose()

    run(watch())
    assert redis.cli("LLEN", fresh) == 652
    assert left_behind(redis, fresh) == []


def test_a_client_watches_a_list_without_settling(redis: Redis, fresh: str) -> None:
    async def watch() -> None:
        async with Client.at(f"{redis.url}/list:{fresh}").tail() as reader:
            push(redis, fresh, [b"a"])
            async with asyncio.timeout(DEADLINE):
                while not (got := await reader.receive()):
                    pass
            assert values(got) == [b"a"]
            await reader.settle(1)
            assert (reader.settled, reader.late, reader.unsettled) == (1, 0, 0)

    run(watch())
    assert standing(redis, fresh) == [b"a"]


def test_watching_to_the_end_is_one_look(redis: Redis, fresh: str) -> None:
    redis.cli("LPUSH", fresh, "a", "b", "c")

    async def watch() -> None:
        async with opened(redis.url, fresh, side="left") as transport:
            feed = await transport.tail(Span(Start("last", 2), Start("end")))
            assert values(await feed.receive(10, REST, 1.0)) == [b"b", b"c"]
            assert feed.ended
            await feed.aclose()

    run(watch())


def test_what_came_and_went_between_two_looks_is_a_gap(redis: Redis, fresh: str) -> None:
    push(redis, fresh, [b"a"])

    async def watch() -> None:
        async with opened(redis.url, fresh) as transport:
            feed = await transport.tail(Span())
            assert isinstance(feed, WatchFeed)
            # Given that the newest value seen is taken, and others after it, before it looks again
            redis.pipe([("RPUSH", fresh, "b"), ("LPOP", fresh, "2"), ("RPUSH", fresh, "c")])
            # Then what is there is shown, behind a gap
            assert values(await feed.receive(10, REST, DEADLINE)) == [b"c"]
            assert len(feed.gaps) == 1
            feed.gaps.clear()
            # and a list that is empty at both looks, but changed meanwhile, is one as well
            redis.cli("DEL", fresh)
            feed._seen, feed._gap_told, feed._length = [], 0.0, 0
            redis.pipe([("RPUSH", fresh, "d"), ("LPOP", fresh)])
            await until(lambda: gap(feed))
            await feed.aclose()

    async def gap(feed: Feed) -> bool:
        await feed.receive(10, REST, 0.2)
        return len(feed.gaps) == 1

    run(watch())


@given(
    st.lists(st.sampled_from([b"a", b"b"]), max_size=6),
    st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=6),
    st.integers(0, 6),
)
def test_the_alignment_never_shows_more_than_was_pushed(
    seen: list[bytes], pushed: list[bytes], taken: int
) -> None:
    # Given that some of what was seen is left, and more was pushed behind it
    kept = seen[taken:]
    found = _behind(seen, kept + pushed, whole=True)
    if kept:
        # Then at most that is taken for new, and all of it where no value repeats
        assert found is not None
        assert found <= len(pushed)
        if len(set(seen + pushed)) == len(seen + pushed):
            assert found == len(pushed)
