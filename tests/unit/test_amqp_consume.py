"""Consuming RabbitMQ queues: nothing is held that is not wanted, and nothing passes in silence."""

from __future__ import annotations

import asyncio

import pytest

from mqcli.errors import ConnectionLost, NotFound, TryAgainLater, Unsupported, UsageError
from mqcli.message import Message, Received
from mqcli.position import END
from mqcli.reader import Reader
from mqcli.transport import Consumes, Span

from ..brokers.rabbitmq import Rabbit, RabbitServer
from .amqp_support import bodies, client, fill, numbered, other, published, ready
from .redis_support import Started, opened, run, some, to_end, until, values

TO_END = Span(stop=END)


def test_a_limit_beyond_the_prefetch_never_lets_the_broker_push_too_much(
    rabbitmq: Rabbit, fresh: str
) -> None:
    for kind in ("classic", "quorum"):
        name = f"{fresh}-{kind}"
        rabbitmq.declare(name, type=kind, **({"delivery_limit": 1} if kind == "quorum" else {}))
        fill(rabbitmq, name, numbered(100))

        async def test(name: str = name) -> None:
            made = client(rabbitmq, f"queue:{name}", ("prefetch", "10"))
            got: list[Received] = []
            # Given 100 messages, when 37 are wanted and settled in pieces of all sizes
            async with made.consume(limit=37) as reader:
                for at_most in (1, 2, 3, 5, 8, 13, 21, 34):
                    messages = await reader.receive(at_most, wait=5)
                    got += messages
                    await reader.settle(len(messages))
                while not reader.ended:
                    messages = await reader.receive(4, wait=5)
                    got += messages
                    await reader.settle(len(messages))
            # Then those came once and in order
            assert values(got) == numbered(37)
            # and the rest is untouched
            async with client(rabbitmq, f"queue:{name}").consume(TO_END) as reader:
                rest: list[Received] = []
                while not reader.ended:
                    rest += await reader.receive(1000)
                assert values(rest) == numbered(63, 37)
                assert not any(m.redelivered for m in rest)
                assert not any((m.extra or {}).get("delivery_count") for m in rest)

        run(test())


def test_waiting_for_one_message_thrice_drops_none_of_a_quorum_queue(
    rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a quorum queue that drops what was delivered twice in vain
    rabbitmq.declare(fresh, type="quorum", delivery_limit=1)
    fill(rabbitmq, fresh, numbered(50))

    async def test() -> None:
        # When a reader takes one, three times, and does not settle it the first time
        for n in range(3):
            async with client(rabbitmq, f"queue:{fresh}").consume(limit=1) as reader:
                (got,) = await reader.receive(wait=5)
                assert (got.extra or {}).get("delivery_count", 0) == (n == 1)
                if n:
                    await reader.settle(1)

    run(test())
    assert bodies(rabbitmq, fresh) == numbered(48, 2)


def test_a_trickle_is_acknowledged_as_it_comes(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        async with client(rabbitmq, f"queue:{fresh}").consume(limit=5) as reader:
            for n in range(4):
                # Given a reader of five, when messages come one by one, then each is gone at once
                fill(rabbitmq, fresh, [b"%d" % n])
                assert values(await reader.receive(wait=5)) == [b"%d" % n]
                await reader.settle(1)
                await until(lambda: rabbitmq.unacknowledged(fresh) == 0)

    run(test())


def test_what_was_held_goes_back_in_order_and_marked(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(20))

    async def test() -> None:
        # Given a reader that took ten and settled four
        async with client(rabbitmq, f"queue:{fresh}").consume() as reader:
            await some_of(reader, 10)
            await reader.settle(4)
        # When it is closed, then the others are there, in order, the pushed ones marked
        async with client(rabbitmq, f"queue:{fresh}").consume(TO_END) as reader:
            rest: list[Received] = []
            while not reader.ended:
                rest += await reader.receive(1000)
        assert values(rest) == numbered(16, 4)
        assert all(m.redelivered for m in rest[:6])

    run(test())


async def some_of(reader: Reader, count: int) -> list[Received]:
    found: list[Received] = []
    while len(found) < count:
        found += await reader.receive(count - len(found), wait=5)
    return found


def test_peek_shows_and_gives_back_in_order(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(3000))

    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}", ("peek", "true"))
        assert made.traits().ack == "none"
        # Given messages, when looked at, all of them and then a few
        async with made.consume() as reader:
            assert values(await _rest(reader)) == numbered(3000)
        async with made.consume(limit=5) as reader:
            assert values(await _rest(reader)) == numbered(5)
        # Then they are all there, in order
        await until(lambda: ready(rabbitmq, fresh) == 3000)
        with pytest.raises(UsageError):
            client(rabbitmq, f"queue:{fresh}", ("peek", "true"), ("nack", "drop")).consume()

    run(test())
    assert bodies(rabbitmq, fresh) == numbered(3000)


async def _rest(reader: Reader) -> list[Received]:
    found: list[Received] = []
    while not reader.ended:
        found += await reader.receive(1000)
    return found


def test_a_deleted_queue_ends_the_reading_with_an_error(rabbitmq: Rabbit, fresh: str) -> None:
    for kind in ("classic", "quorum", "stream"):
        name = f"{fresh}-{kind}"
        rabbitmq.declare(name, type=kind)

        async def test(name: str = name, kind: str = kind) -> None:
            which = "stream" if kind == "stream" else "queue"
            async with client(rabbitmq, f"{which}:{name}").consume() as reader:
                # Given a reader that waits, when its queue is deleted, then it is told
                waiting = asyncio.create_task(reader.receive(wait=20))
                await asyncio.wait((waiting,), timeout=0.1)
                await asyncio.to_thread(rabbitmq.api, "DELETE", f"/api/queues/%2F/{name}")
                with pytest.raises(NotFound, match="deleted"):
                    await waiting

        run(test())


def test_an_exclusive_consumer_refuses_others_for_now(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        async with client(rabbitmq, f"queue:{fresh}", ("exclusive", "true")).consume():
            # Given an exclusive reader, when another one begins, then it is told to come later
            with pytest.raises(TryAgainLater, match="exclusive"):
                async with client(rabbitmq, f"queue:{fresh}").consume():
                    pass

    run(test())


def test_a_higher_consumer_priority_gets_the_messages(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        low = client(rabbitmq, f"queue:{fresh}", ("consumer_priority", "-5"))
        high = client(rabbitmq, f"queue:{fresh}", ("consumer_priority", "5"))
        async with low.consume() as one, high.consume() as two:
            # Given two readers, when messages come, then the one of higher priority has them
            await published(low, [Message(v) for v in numbered(20)])
            assert values(await some_of(two, 20)) == numbered(20)
            assert not await one.receive(wait=0.05)

    run(test())


def test_a_queue_and_a_stream_are_told_apart(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(f"{fresh}-s", type="stream")
    rabbitmq.declare(f"{fresh}-q")
    fill(rabbitmq, f"{fresh}-s", numbered(5))

    async def test() -> None:
        rabbitmq.declare(f"{fresh}-e", type="stream")
        # Given a stream with messages, and an empty one, when taken for a queue, then that is told
        # at once, whatever is wanted of it
        for name in (f"{fresh}-s", f"{fresh}-e"):
            for pairs in ((), (("consumer_priority", "5"),), (("exclusive", "true"),)):
                for limit in (None, 1):
                    with pytest.raises(UsageError, match=f"write stream:{name}"):
                        async with client(rabbitmq, f"queue:{name}", *pairs).consume(limit=limit):
                            pass
        # and a queue taken for a stream as well
        with pytest.raises(UsageError, match=f"queue:{fresh}-q"):
            async with client(rabbitmq, f"stream:{fresh}-q").consume():
                pass
        with pytest.raises(UsageError, match=f"queue:{fresh}-q"):
            async with client(rabbitmq, f"stream:{fresh}-q").tail():
                pass
        # and nothing was taken from either
        assert ready(rabbitmq, f"{fresh}-q") == 0
        async with client(rabbitmq, f"stream:{fresh}-s").consume(TO_END) as reader:
            assert values(await _rest(reader)) == numbered(5)
        # A queue whose messages others hold is none.
        fill(rabbitmq, f"{fresh}-q", [b"held"])
        high = client(rabbitmq, f"queue:{fresh}-q", ("consumer_priority", "9"))
        async with high.consume(limit=1) as one:
            await one.receive(wait=5)
            async with client(rabbitmq, f"queue:{fresh}-q").consume() as two:
                assert not await two.receive(wait=0.6)

    run(test())


def test_acknowledgements_that_wait_for_others_do_not_stop_the_broker(
    rabbitmq: Rabbit, fresh: str
) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(5))

    async def test() -> None:
        # Given a reader that may have four messages, and has to acknowledge many together
        made = client(rabbitmq, f"queue:{fresh}", ("prefetch", "4"), ("ack_every", "1000"))
        async with made.consume() as reader:
            got: list[Received] = []
            while len(got) < 4:
                got += await reader.receive(4)
            # When it settles one of them, and then waits for the next
            await reader.settle(1)
            got += await reader.receive(wait=10)
            # Then that comes
            assert values(got) == numbered(5)
            # and when it settles another and ends at once, that is acknowledged
            await reader.settle(1)
        async with client(rabbitmq, f"queue:{fresh}").consume(TO_END) as reader:
            rest: list[Received] = []
            while not reader.ended:
                rest += await reader.receive()
            assert values(rest) == numbered(3, 2)

    run(test())


def test_reading_to_the_end_ends_when_others_took_the_rest(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(10))

    async def test() -> None:
        # Given two readers to the end of the same ten messages
        first = client(rabbitmq, f"queue:{fresh}", ("prefetch", "3"))
        async with first.consume(TO_END) as one, first.consume(TO_END) as two:
            got = []
            while not (one.ended and two.ended):
                for reader in (one, two):
                    if not reader.ended:
                        messages = await reader.receive(2)
                        got += values(messages)
                        await reader.settle(len(messages))
        # When both have ended, then each message came to one of them
        assert sorted(got) == numbered(10)  # type: ignore[type-var]

    run(test())


def test_a_watched_queue_is_refused_with_what_would_work(rabbitmq: Rabbit, fresh: str) -> None:
    # Given a queue, when tailed, then the refusal names the ways
    with pytest.raises(Unsupported, match=r"firehose.*peek"):
        client(rabbitmq, f"queue:{fresh}").tail()


def test_the_firehose_shows_what_enters_a_queue(started: Started, fresh: str) -> None:
    server = started(RabbitServer)
    server.declare(fresh)
    server.declare(f"{fresh}-other")

    async def test() -> None:
        made = client(server, f"queue:{fresh}", ("via", "firehose"))
        # Given tracing that is off, when watched, then that is told
        with pytest.raises(UsageError, match="trace_on"):
            async with made.tail():
                pass
        await asyncio.to_thread(server.ctl, "trace_on")
        async with made.tail() as reader:
            # When messages are published to it and to others
            sent = Message(b"seen", headers=(("n", 5),), properties={"priority": 3})
            await published(client(server, f"queue:{fresh}-other"), [Message(b"no")])
            await published(client(server, f"queue:{fresh}"), [sent])
            # Then those to it are seen, as they were
            (got,) = await reader.receive(wait=5)
        assert (got.value, got.headers, got.key) == (b"seen", (("n", 5),), fresh.encode())
        assert got.properties == {"priority": 3, "delivery_mode": 2}
        # and the queue still has them
        assert ready(server, fresh) == 1

    run(test())


def test_large_messages_are_not_heaped_up(rabbitmq: Rabbit, fresh: str) -> None:
    # Given 200 messages of a megabyte
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, [b"%03d" % n + b"x" * 1_000_000 for n in range(200)])

    async def test() -> None:
        async with opened(rabbitmq.at(f"queue:{fresh}")) as transport:
            feed = await transport.subscribe(Span(), None, None)
            # When the reader stands still, then the reading from the socket does, too
            (first,) = await some(feed, 1)
            await until(lambda: transport._link.wire._standing)
            held = sum(len(raw[3]) for raw in feed._tap.ready)
            assert held < 32 << 20
            # and yet it can acknowledge, and go on to the end
            assert await feed.ack([first]) == 1
            got = [first.value[:3]]
            while len(got) < 200:
                for message in await some(feed, 1):
                    got.append(message.value[:3])
                    assert await feed.ack([message]) == 1
            assert got == [b"%03d" % n for n in range(200)]
            await feed.aclose()

    run(test())


def test_acknowledging_on_a_lost_connection_is_told(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(3))

    async def test() -> None:
        async with opened(rabbitmq.at(f"queue:{fresh}")) as transport:
            feed = await transport.subscribe(Span(), None, None)
            got = await some(feed, 3)
            # Given messages taken, when the broker closes the connection
            await asyncio.to_thread(rabbitmq.close_connections)
            # Then nothing can be settled, and the broker's words are there
            with pytest.raises(ConnectionLost, match="CONNECTION_FORCED"):
                await feed.receive(1, 1000, 5)
            with pytest.raises(ConnectionLost):
                await feed.ack(got)
            await feed.aclose()
        async with opened(rabbitmq.at(f"queue:{fresh}")) as transport:
            feed = await transport.subscribe(TO_END, None, None)
            assert values(await to_end(feed)) == numbered(3)
            await feed.aclose()

    run(test())


def test_a_broker_killed_while_consuming_loses_nothing(started: Started, fresh: str) -> None:
    # Given durable messages
    server = started(RabbitServer)
    server.declare(fresh)
    fill(server, fresh, numbered(3000), delivery_mode=2)

    async def test() -> None:
        got: list[bytes | None] = []
        killed = False
        # When the broker is killed and comes back while they are consumed
        async with client(server, f"queue:{fresh}").consume() as reader:
            while len(set(got)) < 3000:
                messages = await reader.receive(100)
                got += values(messages)
                await reader.settle(len(messages))
                if len(got) > 1000 and not killed:
                    killed = True
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
            # Then all came, at least once
            assert reader.reconnects == 1
        assert set(got) == set(numbered(3000))

    run(test())


def test_rejecting_for_good_and_dead_letters_of_what_a_failure_left(
    rabbitmq: Rabbit, fresh: str
) -> None:
    dead = f"{fresh}-dead"
    rabbitmq.declare(dead)
    rabbitmq.declare(fresh, dead_letter_exchange="", dead_letter_routing_key=dead)
    fill(rabbitmq, fresh, numbered(6))

    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}", ("nack", "drop"))
        transport = made.make(Consumes)
        await transport.open()
        feed = await transport.subscribe(Span(), None, None)
        got = await some(feed, 4)
        # Given four messages, when one is settled, one dropped, and the reader ends
        await feed.ack(got[:1])
        await feed.drop(got[1:2])  # type: ignore[attr-defined]
        await feed.aclose()
        await transport.aclose()
        # Then the dropped and the left ones are dead letters, and what was not shown goes back
        await until(lambda: ready(rabbitmq, dead) == 3)

    run(test())
    assert bodies(rabbitmq, dead) == numbered(3, 1)
    assert bodies(rabbitmq, fresh) == numbered(2, 4)


def test_other_peoples_delivery_tags_do_not_matter(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(6))

    async def test() -> None:
        async with opened(rabbitmq.at(f"queue:{fresh}")) as transport:
            feed = await transport.subscribe(Span(), None, None)
            got = await some(feed, 6)
            # Given messages, when settled in any order, and some given back
            assert await feed.ack([got[4], got[1]]) == 2
            assert await feed.ack([got[0]]) == 1
            await feed.nack([got[2]])
            assert await feed.ack([got[3], got[5]]) == 2
            # Then only that one comes again
            (again,) = await some(feed, 1)
            assert (again.value, again.redelivered) == (b"00002", True)
            assert await feed.ack([again]) == 1
            await feed.aclose()
        with other(rabbitmq) as channel:
            assert channel.queue_declare(fresh, passive=True).method.message_count == 0

    run(test())


def test_a_single_active_consumer_near_its_limit_hands_over_and_loses_nothing(
    rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a queue that has one active consumer at a time, and two readers of which one wants few
    rabbitmq.declare(fresh, single_active_consumer=True)
    fill(rabbitmq, fresh, numbered(200))

    async def test() -> None:
        few = client(rabbitmq, f"queue:{fresh}", ("prefetch", "4"))
        async with (
            few.consume(limit=30) as one,
            client(rabbitmq, f"queue:{fresh}", ("prefetch", "4")).consume() as two,
        ):
            got: dict[int, list[bytes | None]] = {1: [], 2: []}
            deadline = asyncio.get_running_loop().time() + 30
            # When both take and settle what they get, until all was seen
            while len(got[1]) + len(got[2]) < 200:
                assert asyncio.get_running_loop().time() < deadline, got
                for number, reader in ((1, one), (2, two)):
                    if reader.ended:
                        continue
                    messages = await reader.receive(3, wait=0.05)
                    got[number] += values(messages)
                    await reader.settle(len(messages))
        # Then each came to one of them, in order, and to the first never more than it wanted
        assert sorted(got[1] + got[2]) == numbered(200)  # type: ignore[type-var]
        assert got[1] == sorted(got[1]) and got[2] == sorted(got[2])  # type: ignore[type-var]
        assert 0 < len(got[1]) <= 30

    run(test())
    assert ready(rabbitmq, fresh) == 0
