"""Publishing to RabbitMQ: every message has its own fate, and every field arrives as it was."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from mqcli.errors import ExitCode, NotFound, TryAgainLater, Unsupported
from mqcli.message import Message, Plain, Tagged
from mqcli.position import END
from mqcli.session import Limits
from mqcli.transport import Publishes, Span
from mqcli.transports._amqp_ledger import Call

from ..brokers.rabbitmq import Rabbit, RabbitServer
from .amqp_support import bodies, client, fill, numbered, other, published
from .redis_support import Started, run


def test_unroutable_messages_are_attributed_even_with_equal_ids(
    rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a direct exchange with one binding
    with other(rabbitmq) as channel:
        channel.exchange_declare(fresh, "direct", durable=True)
        channel.queue_declare(fresh, durable=True)
        channel.queue_bind(fresh, fresh, "good")
    same = {"message_id": "twice"}
    batch = [
        Message(b"1", b"good", properties=same),
        Message(b"2", b"bad", properties=same),
        Message(b"3", b"good", properties=same),
        Message(b"2", b"bad", properties=same),
        Message(b"2", b"bad", properties={"message_id": "other"}),
        Message(b"", b"bad"),
        Message(b"4", b"good"),
    ]

    async def test() -> None:
        # When messages with the same id are published, some of them unroutable
        done = await published(client(rabbitmq, f"exchange:{fresh}"), batch * 50)
        # Then exactly those are refused, and the words name the key
        assert (done.counts.confirmed, done.counts.refused, done.counts.unknown) == (150, 200, 0)
        assert done.codes == {ExitCode.NOT_ALL}
        assert done.failure is None
        assert "message 2 refused" in done.errors[0] and "'bad'" in done.errors[0]

    run(test())
    assert sorted(bodies(rabbitmq, fresh)) == sorted([b"1", b"3", b"4"] * 50)


def test_what_is_settled_is_let_go_without_the_garbage_collector(
    rabbitmq: Rabbit, fresh: str
) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        # Given a collector that does not run
        gc.collect()
        gc.disable()
        try:
            # When batches are published and confirmed
            async with client(rabbitmq, f"queue:{fresh}").publisher() as publisher:
                for _ in range(50):
                    await publisher.submit(Plain([b"x"] * 100))
                await publisher.finish()
                # Then none is kept: on an endless input they would be memory
                kept = [found for found in gc.get_objects() if isinstance(found, Call)]
                assert len(kept) <= 1
        finally:
            gc.enable()

    run(test())


def test_a_full_queue_refuses_by_nack(rabbitmq: Rabbit, fresh: str) -> None:
    # Given a queue of at most three messages that refuses more
    made = client(rabbitmq, f"queue:{fresh}", ("max_length", "3"), ("overflow", "reject-publish"))

    async def test() -> None:
        assert await made.create()
        # When five are published one after the other
        async with made.publisher() as publisher:
            for value in numbered(5):
                await publisher.submit([Message(value)])
                await publisher.finish()
            counts = publisher.counts
            # Then two are refused, which ends nothing
            assert (counts.confirmed, counts.refused, counts.unknown) == (3, 2, 0)
            assert publisher.failure is None
            assert "nack" in publisher.errors[0]

    run(test())
    assert bodies(rabbitmq, fresh) == numbered(3)


def test_messages_beyond_the_brokers_size_are_refused_and_the_rest_goes_on(
    started: Started, fresh: str
) -> None:
    # Given a broker that takes at most 1,000 bytes
    server = started(lambda: RabbitServer("max_message_size = 1000"))
    big = Message(b"x" * 2000)

    async def test() -> None:
        made = client(server, f"queue:{fresh}")
        await made.create()
        small = [Message(value) for value in numbered(300)]
        # When a batch holds larger ones, and so do batches in flight behind it
        async with made.publisher() as publisher:
            await publisher.submit([*small[:100], big, *small[100:200], big])
            await publisher.submit([big, *small[200:]])
            await publisher.finish()
            counts = publisher.counts
            # Then only those are refused, and the limit is said
            assert (counts.confirmed, counts.refused, counts.unknown) == (300, 3, 0)
            assert "1000" in publisher.errors[0] and "message 101 refused" in publisher.errors[0]
            assert publisher.failure is None

    run(test())
    assert bodies(server, fresh) == numbered(300)


def test_the_wrong_user_id_is_refused_by_message(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}")
        await made.create()
        wrong = Message(b"w", properties={"user_id": "somebody"})
        right = Message(b"r", properties={"user_id": "guest"})
        # Given messages of which some claim to be from another user, when published
        done = await published(made, [right, wrong, right, wrong, right])
        # Then only those are refused
        assert (done.counts.confirmed, done.counts.refused, done.counts.unknown) == (3, 2, 0)
        assert done.failure is None

    run(test())
    assert bodies(rabbitmq, fresh) == [b"r"] * 3


def test_what_cannot_be_sent_is_refused_before_it_is(rabbitmq: Rabbit, fresh: str) -> None:
    bad = [
        Message(b"v", b"k" * 256),
        Message(b"v", properties={"priority": "high"}),
        Message(b"v", properties={"expiration": "soon"}),
        Message(b"v", properties={"timestamp": -1}),
        Message(b"v", headers=(("h", "x" * 200_000),)),
        Message(b"v", headers=(("h", 2**70),)),
        Message(b"v", headers=(("h", Tagged("i8", 300)),)),
        # RabbitMQ would close the connection for these two, and the channel for the others
        Message(b"v", headers=(("h", float("nan")),)),
        Message(b"v", headers=(("h", Tagged("list", (Tagged("f32", float("-inf")),))),)),
        Message(b"v", properties={"delivery_mode": 3}),
        Message(b"v", properties={"reply_to": "amq.rabbitmq.reply-to"}),
        Message(b"v", headers=(("CC", "not a list"),)),
        Message(b"v", headers=(("BCC", Tagged("table", ())),)),
    ]

    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}", ("exchange_type", "fanout"))
        queue = client(rabbitmq, f"queue:{fresh}")
        await made.create()
        await queue.create()
        await queue.once(type(queue.make(Publishes)), lambda t: t.bind(fresh))  # type: ignore[attr-defined]
        # Given messages that AMQP cannot carry, between others, when published
        batch = [m for one in bad for m in (Message(b"ok"), one)]
        done = await published(made, [*batch, Message(b"ok")])
        # Then only those are refused, each with its reason
        assert (done.counts.confirmed, done.counts.refused) == (len(bad) + 1, len(bad))
        assert done.codes == {ExitCode.NOT_ALL} and done.failure is None
        assert [word in text for word, text in zip(
            ["256 bytes", "priority", "expiration", "timestamp", "fit into a frame"],
            done.errors, strict=True,
        )] == [True] * 5  # fmt: skip

    run(test())
    assert bodies(rabbitmq, fresh) == [b"ok"] * (len(bad) + 1)


def test_a_missing_queue_or_exchange_is_not_found_and_not_made(
    rabbitmq: Rabbit, fresh: str
) -> None:
    async def test() -> None:
        for kind in ("queue", "stream", "exchange"):
            # Given nothing, when published to, then it is NotFound, and there is still nothing
            done = await published(client(rabbitmq, f"{kind}:{fresh}"), [Message(b"v")] * 3)
            assert (done.counts.confirmed, done.counts.refused) == (0, 3)
            assert isinstance(done.failure, NotFound)
        for path in (f"queues/%2F/{fresh}", f"exchanges/%2F/{fresh}"):
            with pytest.raises(OSError, match="404"):
                rabbitmq.api("GET", f"/api/{path}")

    run(test())


def test_properties_and_typed_headers_come_back_and_so_does_x_death(
    rabbitmq: Rabbit, fresh: str
) -> None:
    headers = (
        ("text", "é"), ("n", 5), ("small", Tagged("i8", 5)), ("f", 0.1), ("raw", b"\xff"),
        ("when", Tagged("time", 253402300800000)), ("d", Tagged("decimal", "12.50")),
        ("t", Tagged("table", (("x", Tagged("list", (True, Tagged("null", None)))),))),
    )  # fmt: skip
    properties = {
        "content_type": "a/b", "content_encoding": "gzip", "delivery_mode": 1, "priority": 3,
        "correlation_id": "c", "reply_to": "r", "message_id": "m", "timestamp": 253402300800000,
        "type": "t", "app_id": "app",
    }  # fmt: skip
    sent = Message(b"v", headers=headers, properties=properties)

    async def test() -> None:
        # Given a queue whose rejected messages go to another one
        first = client(
            rabbitmq, f"queue:{fresh}", ("dead_letter_exchange", ""),
            ("dead_letter_key", f"{fresh}-dead"), ("nack", "drop"),
        )  # fmt: skip
        dead = client(rabbitmq, f"queue:{fresh}-dead")
        await first.create()
        await dead.create()
        assert (await published(first, [sent])).counts.confirmed == 1
        # When a reader fails after it was handed out
        async with first.consume(limit=1) as reader:
            (got,) = await reader.receive(wait=5)
            # Then every type has come back
            assert (got.headers, got.properties) == (headers, properties)
            assert got.timestamp == 253402300800000_000
            assert got.extra == {"exchange": "", "routing_key": fresh}
        # and the dead letter says what happened, in its types
        async with dead.consume(limit=1) as reader:
            (lost,) = await reader.receive(wait=5)
            await reader.settle(1)
        death = dict(lost.headers)["x-death"]
        assert isinstance(death, Tagged) and death.t == "list"
        told = dict(death.v[0].v)
        assert (told["queue"], told["reason"], told["count"]) == (fresh, "rejected", 1)
        assert isinstance(told["time"], Tagged) and told["time"].t == "time"
        # and it can be published again with all that
        again = Message(lost.value, headers=lost.headers, properties=lost.properties)
        assert (await published(dead, [again])).counts.confirmed == 1
        async with dead.consume(limit=1) as reader:
            (once_more,) = await reader.receive(wait=5)
            assert once_more.headers == lost.headers

    run(test())


def test_options_are_properties_of_messages_without_their_own(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(
            rabbitmq, f"queue:{fresh}", ("content_type", "a/b"), ("persistent", "false"),
            ("priority", "2"), ("type", "t"), ("expiration", "60000"),
        )  # fmt: skip
        await client(rabbitmq, f"queue:{fresh}").create()
        # Given options, when published with and without own properties
        await published(made, [Message(b"1"), Message(b"2", properties={"priority": 9})])
        # Then a message's own win
        async with made.consume(limit=2) as reader:
            one, two = [*await reader.receive(1, wait=5), *await reader.receive(1, wait=5)]
        wanted = {
            "content_type": "a/b", "delivery_mode": 1, "priority": 2, "type": "t",
            "expiration": "60000",
        }  # fmt: skip
        assert one.properties == wanted
        assert two.properties == {**wanted, "priority": 9}

    run(test())


def test_delayed_messages_are_refused_without_the_plugin(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        plain = client(rabbitmq, f"exchange:{fresh}")
        await plain.create()
        # Given an ordinary exchange, when a delay is asked for, then that is refused, and nothing
        # was published or made
        with pytest.raises(Unsupported, match="delayed"):
            await published(client(rabbitmq, f"exchange:{fresh}", ("delay", "5s")), [Message(b"v")])

    run(test())


def test_an_alarm_is_said_with_its_reason_and_ends_with_try_again_later(
    started: Started, fresh: str
) -> None:
    # Given a broker that is out of memory, or believes so
    server = started(RabbitServer)
    server.declare(fresh)
    server.ctl("set_vm_memory_high_watermark", "0.0001")

    async def test() -> None:
        made = client(server, f"queue:{fresh}", limits=Limits(confirm_timeout=1.0))
        began = time.monotonic()
        # When published to, one batch after the other
        async with made.publisher() as publisher:
            await publisher.submit([Message(b"1")])
            await publisher.finish()
            # Then it is unknown in time: the broker has not read it
            assert isinstance(publisher.failure, TryAgainLater), publisher.failure
            assert "memory" in publisher.failure.why
            assert (publisher.counts.unknown, publisher.counts.confirmed) == (1, 0)
            # and a later one is certainly not sent
            outcome = await publisher._transport.publish([Message(b"2")], 0.3)  # type: ignore[attr-defined]
            assert isinstance(outcome.refused[0], TryAgainLater)
        assert time.monotonic() - began < 8

    run(test())
    server.ctl("set_vm_memory_high_watermark", "0.6")


def test_publishing_goes_on_when_the_alarm_is_over(started: Started, fresh: str) -> None:
    server = started(RabbitServer)
    server.declare(fresh)
    server.ctl("set_vm_memory_high_watermark", "0.0001")

    async def test() -> None:
        async with client(server, f"queue:{fresh}").publisher() as publisher:
            # Given messages held up by an alarm
            await publisher.submit([Message(v) for v in numbered(5)])
            await publisher.submit([Message(v) for v in numbered(5, 5)])
            # When it is over
            await asyncio.to_thread(server.ctl, "set_vm_memory_high_watermark", "0.6")
            await publisher.finish()
            # Then all are confirmed
            assert publisher.counts.confirmed == 10

    run(test())
    assert bodies(server, fresh) == numbered(10)


def test_a_broker_killed_while_publishing_leaves_an_exact_account(
    started: Started, fresh: str
) -> None:
    # Given a durable queue
    server = started(RabbitServer)
    server.declare(fresh)
    confirmed: set[bytes] = set()

    async def test() -> None:
        made = client(server, f"queue:{fresh}")
        sent = 0
        async with made.publisher() as publisher:

            def keep(first: int, batch: object, outcome: object) -> None:
                gone = {*outcome.refused, *outcome.unknown}  # type: ignore[attr-defined]
                confirmed.update(
                    m.value
                    for i, m in enumerate(batch)
                    if i not in gone  # type: ignore[arg-type]
                )

            publisher._on_outcome = keep
            kill = asyncio.create_task(_kill_when(server, publisher))
            # When it is killed while messages flow
            while publisher.failure is None:
                batch = [Message(value) for value in numbered(500, sent)]
                try:
                    await publisher.submit(batch)
                except Exception as exc:
                    assert exc is publisher.failure
                    break
                sent += 500
            await kill
            await publisher.finish()
            counts = publisher.counts
            # Then every message has one fate
            assert counts.confirmed + counts.refused + counts.unknown == counts.submitted == sent
            assert counts.unknown <= 8 * 500 and counts.confirmed >= 2000
            assert len(confirmed) == counts.confirmed

    run(test())
    server.start()
    there = bodies(server, fresh)
    assert confirmed <= set(there), "a confirmed message is missing"
    assert len(there) == len(set(there))


async def _kill_when(server: Rabbit, publisher: object) -> None:
    async with asyncio.timeout(60):
        while publisher.counts.confirmed < 2000:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    await asyncio.to_thread(server.kill)


def test_a_queue_deleted_while_publishing_is_told(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}")
        await made.create()
        async with made.publisher() as publisher:
            await publisher.submit([Message(b"1")])
            await publisher.finish()
            # Given a publisher, when its queue goes away
            await asyncio.to_thread(rabbitmq.api, "DELETE", f"/api/queues/%2F/{fresh}")
            await publisher.submit([Message(b"2")])
            await publisher.finish()
            # Then the next message is refused for that
            assert isinstance(publisher.failure, NotFound)
            assert (publisher.counts.confirmed, publisher.counts.refused) == (1, 1)

    run(test())


def test_a_large_message_is_cut_into_frames(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}")
        await made.create()
        # Given bodies around the size of a frame, and far beyond, when published
        sizes = [131_063, 131_064, 131_065, 262_128, 262_129, 20_000_000]
        done = await published(made, [Message(b"x" * size) for size in sizes])
        assert done.counts.confirmed == len(sizes)
        # Then they come back whole
        async with made.consume(Span(stop=END)) as reader:
            assert [len(m.value or b"") for m in await _all(reader)] == sizes

    run(test())


async def _all(reader: object) -> list[Message]:
    found: list[Message] = []
    while not reader.ended:  # type: ignore[attr-defined]
        got = await reader.receive(100, 64 << 20)  # type: ignore[attr-defined]
        found += got
        await reader.settle(len(got))  # type: ignore[attr-defined]
    return found


def test_amqp_publish_and_pika_read_each_others_messages(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}")
        await made.create()
        # Given messages by amqp-publish and by pika
        rabbitmq.tool(
            "amqp-publish", "-r", fresh, "-p", "-C", "a/b", "-H", "k: v", "-l", stdin=b"one\ntwo\n"
        )
        fill(rabbitmq, fresh, [b"three"], headers={"n": 5, "s": "x", "b": True}, priority=4)
        # When consumed, then they are what was sent
        async with made.consume(Span(stop=END)) as reader:
            one, _, three = await _all(reader)
        assert (one.value, one.headers) == (b"one\n", (("k", "v"),))
        assert one.properties == {"content_type": "a/b", "delivery_mode": 2}
        assert dict(three.headers)["s"] == "x" and dict(three.headers)["b"] is True
        # and the other way round
        await published(made, [Message(b"ours", headers=(("n", 5), ("s", "x")))])
        assert rabbitmq.tool("amqp-get", "-q", fresh) == b"ours"
        await published(made, [Message(b"ours", headers=(("n", 5), ("s", "x")))])
        with other(rabbitmq) as channel:
            _, properties, body = channel.basic_get(fresh, auto_ack=True)
        assert (body, dict(properties.headers)) == (b"ours", {"n": 5, "s": "x"})

    run(test())
