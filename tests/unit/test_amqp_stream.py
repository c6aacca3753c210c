"""RabbitMQ streams: read from any place, up to any place, by any number of readers."""

from __future__ import annotations

import asyncio
import time

import pytest

from mqcli.errors import Unsupported, UsageError
from mqcli.message import Message, Tagged
from mqcli.position import BEGINNING, END, Start
from mqcli.reader import Reader
from mqcli.transport import Manages, Span

from ..brokers.rabbitmq import Rabbit
from .amqp_support import client, fill, numbered, published
from .redis_support import opened, run, to_end, values


async def rest(reader: Reader) -> list[bytes | None]:
    found: list[bytes | None] = []
    while not reader.ended:
        found += values(await reader.receive(1000))
    return found


def test_the_last_and_the_end_are_exact_though_the_broker_counts_late(
    rabbitmq: Rabbit, fresh: str
) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        total = 0
        for size in (1, 2500, 1, 77):
            # Given messages just published, in chunks of all sizes
            await published(made, [Message(v) for v in numbered(size, total)])
            total += size
            # When read at once, to the end or the last of them, then it is exact
            async with made.consume(Span(BEGINNING, END)) as reader:
                assert await rest(reader) == numbered(total)
            for count in (1, 50, total + 10):
                async with made.consume(Span(Start("last", count=count), END)) as reader:
                    assert await rest(reader) == numbered(total)[-count:]
            async with made.tail(Span(Start("last", count=1))) as reader:
                assert values(await reader.receive(wait=5)) == numbered(1, total - 1)
                await published(made, [Message(b"%05d" % total)])
                assert values(await reader.receive(wait=5)) == numbered(1, total)
                total += 1

    run(test())


def test_a_limit_holds_though_the_broker_pushes_whole_chunks(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}", ("prefetch", "7"))
        await made.create()
        await published(made, [Message(v) for v in numbered(500)])
        # Given more messages than are wanted, when read with a limit
        async with opened(rabbitmq.at(f"stream:{fresh}"), pairs=[("prefetch", "7")]) as transport:
            for limit in (1, 7, 8, 30):
                feed = await transport.subscribe(Span(Start("skip", count=3)), None, limit)
                got = []
                while len(got) < limit:
                    got += values(await feed.receive(5, 10_000, 5))
                # Then those came and no more
                assert got == numbered(limit, 3) and feed.ended
                await feed.aclose()

    run(test())


def test_times_start_and_stop_at_a_chunk(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        await published(made, [Message(b"old")])
        # The broker's clock for this is in whole seconds.
        second = int(time.time()) + 2
        while time.time() < second + 0.2:  # noqa: ASYNC110 - it is the time that is waited for
            await asyncio.sleep(0.05)
        await published(made, [Message(b"new")])
        moment = Start("time", ms=second * 1000)
        # Given messages before and after a moment, when read from there or up to there
        async with made.consume(Span(moment, END)) as reader:
            assert await rest(reader) == [b"new"]
        async with made.consume(Span(BEGINNING, moment)) as reader:
            assert await rest(reader) == [b"old"]
        # Then it is exact; from a time behind all there is nothing
        later = Start("time", ms=int(time.time() * 1000) + 3_600_000)
        async with made.consume(Span(later, END)) as reader:
            assert await rest(reader) == []
        with pytest.raises(Unsupported, match="future"):
            async with made.consume(Span(BEGINNING, later)):
                pass

    run(test())


def test_what_retention_removed_is_a_gap(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(
            rabbitmq, f"stream:{fresh}", ("max_length_bytes", "20000"), ("segment_bytes", "10000")
        )
        await made.create()
        for _ in range(30):
            await published(made, [Message(b"x" * 1000)] * 10)
        first = 0
        async with made.consume(Span(BEGINNING, END)) as reader:
            while not reader.ended:
                for message in await reader.receive(1000):
                    first = first or int(message.position)
        # Given a stream that has lost its beginning, when read from there
        assert first > 0
        async with made.consume(Span(Start("at", token="0"), END)) as reader:
            (gap, *_) = (await reader.receive(1), reader.gaps)[1]
        # Then the gap is told, exactly
        assert (gap.count, gap.before) == (first, str(first))

    run(test())


def test_a_stream_has_no_groups_and_is_not_purged(rabbitmq: Rabbit, fresh: str) -> None:
    # Given a stream, when read by a group or purged, then the refusal says why
    made = client(rabbitmq, f"stream:{fresh}")
    with pytest.raises(Unsupported, match="keeps no offsets"):
        made.consume(group="g")

    async def test() -> None:
        await made.create()
        with pytest.raises(Unsupported):
            await made.once(Manages, lambda transport: transport.purge())

    run(test())


def test_positions_that_are_none_are_refused_before_a_socket_opens_for_them(
    rabbitmq: Rabbit, fresh: str
) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        for token in ("1717-0", "x", "9" * 30):
            # Given something else than a number, when read from it, then it is an error of use
            with pytest.raises(UsageError, match="offset"):
                async with made.consume(Span(Start("at", token=token))):
                    pass

    run(test())


def test_types_survive_a_stream(rabbitmq: Rabbit, fresh: str) -> None:
    # Given a message with typed headers and properties, when stored in a stream
    headers = (
        ("a", 5), ("b", "x"), ("c", True), ("d", 0.5), ("e", Tagged("time", 1_700_000_000)),
        ("f", b"\xff"),
    )  # fmt: skip
    properties = {
        "content_type": "a/b", "delivery_mode": 2, "correlation_id": "c", "message_id": "m",
        "priority": 3, "timestamp": 1_700_000_000, "app_id": "x", "type": "t", "reply_to": "r",
    }  # fmt: skip

    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        await published(made, [Message(b"v", headers=headers, properties=properties)])
        async with opened(rabbitmq.at(f"stream:{fresh}")) as transport:
            feed = await transport.subscribe(Span(BEGINNING, END), None, None)
            (got,) = await to_end(feed)
            await feed.aclose()
        # Then it comes back as it was
        assert got.headers == headers
        assert got.properties == properties

    run(test())


def test_pika_reads_our_stream_and_we_read_its(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        fill(rabbitmq, fresh, numbered(10))
        await published(made, [Message(v) for v in numbered(10, 10)])
        async with made.consume(Span(Start("at", token="5"), Start("at", token="15"))) as reader:
            assert await rest(reader) == numbered(10, 5)

    run(test())


def test_headers_that_the_broker_would_lose_are_refused(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"stream:{fresh}")
        await made.create()
        lost = [
            Tagged("table", (("a", 1),)), Tagged("list", (1,)), Tagged("decimal", "1.5"),
            Tagged("u64", 5),
        ]  # fmt: skip
        # Given types that this release drops, changes, or dies of, when published between others
        batch = [m for v in lost for m in (Message(b"v", headers=(("h", v),)), Message(b"ok"))]
        done = await published(made, batch)
        # Then those are refused, and the others stored
        assert (done.counts.confirmed, done.counts.refused, done.counts.unknown) == (4, 4, 0)
        assert "list would be lost" in done.errors[1]
        async with made.consume(Span(BEGINNING, END)) as reader:
            assert await rest(reader) == [b"ok"] * 4

    run(test())
