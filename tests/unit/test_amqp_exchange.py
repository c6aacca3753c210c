"""RabbitMQ exchanges: watched through a queue that goes away, published to with routing keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mqcli.errors import NotFound, Refused, Unsupported, UsageError
from mqcli.message import Message
from mqcli.transport import Inspects, Manages, Span, Tails
from mqcli.transports import _amqp_watch

from ..brokers.rabbitmq import Rabbit
from .amqp_support import bodies, client, numbered, published
from .redis_support import opened, run, some, until, values


def queues(server: Rabbit) -> set[str]:
    return {queue["name"] for queue in server.api("GET", "/api/queues/%2F")}


async def seen(reader: Any, sentinel: bytes) -> list[Message]:
    """What came before the sentinel."""
    found: list[Message] = []
    async with asyncio.timeout(20):
        while True:
            for message in await reader.receive(wait=1):
                if message.value == sentinel:
                    return found
                found.append(message)


def test_bindings_choose_what_is_watched(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}", ("mandatory", "false"))
        await made.create()
        watched = client(
            rabbitmq, f"exchange:{fresh}", ("bind", "a.*"), ("bind", "#.z"), ("bind", "end")
        )
        before = queues(rabbitmq)
        async with watched.tail() as reader:
            # Given a topic exchange watched with patterns, when messages of all keys pass
            keys = [b"a.b", b"b.a", b"q.z", b"a.z", b"a.b.c"]
            batch = [Message(key, key) for key in keys]
            await published(made, [*batch, Message(b"end", b"end")])
            got = await seen(reader, b"end")
            # Then those that match are seen once, with their keys
            assert [(m.value, m.key) for m in got] == [(k, k) for k in (b"a.b", b"q.z", b"a.z")]
            assert all(m.extra == {"exchange": fresh, "routing_key": m.key.decode()} for m in got)  # type: ignore[attr-defined]
        # and nothing is left behind
        await until(lambda: queues(rabbitmq) == before)

    run(test())


def test_a_headers_exchange_is_watched_by_headers(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(
            rabbitmq, f"exchange:{fresh}", ("exchange_type", "headers"), ("mandatory", "false")
        )
        await made.create()
        watched = client(
            rabbitmq, f"exchange:{fresh}", ("bind", "n:i64=5,s=x"), ("bind", "end:bool=true")
        )
        batch = [
            Message(b"both", headers=(("n", 5), ("s", "x"))),
            Message(b"one", headers=(("n", 5),)),
            Message(b"text", headers=(("n", "5"), ("s", "x"))),
            Message(b"end", headers=(("end", True),)),
        ]
        # Given bindings by header, when messages pass, then all headers of a binding must match
        async with watched.tail() as reader:
            await published(made, batch)
            assert values(await seen(reader, b"end")) == [b"both"]  # type: ignore[arg-type]
        # and without a binding all are seen
        async with made.tail() as reader:
            await published(made, batch)
            assert len(await seen(reader, b"end")) == 3

    run(test())


def test_a_direct_exchange_needs_its_keys_named(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(
            rabbitmq, f"exchange:{fresh}", ("exchange_type", "direct"), ("mandatory", "false")
        )
        await made.create()
        # Given a direct exchange, when watched as a whole, then that is refused, saying how
        for name in (fresh, "amq.direct"):
            with pytest.raises(Unsupported, match="--bind KEY"):
                async with client(rabbitmq, f"exchange:{name}").tail():
                    pass
        # and with a key it works
        async with client(rabbitmq, f"exchange:{fresh}", ("bind", "k")).tail() as reader:
            await published(made, [Message(b"no", b"other"), Message(b"yes", b"k")])
            assert values(await reader.receive(wait=5)) == [b"yes"]
        with pytest.raises(Unsupported, match="default exchange"):
            async with client(rabbitmq, "exchange:").tail():
                pass

    run(test())


def test_the_default_exchange_takes_a_queues_name_as_key(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        # Given the default exchange, when published to with a queue's name, then it is there
        batch = [Message(b"v", fresh.encode()), Message(b"w", b"no-such-queue")]
        done = await published(client(rabbitmq, "exchange:"), batch)
        assert (done.counts.confirmed, done.counts.refused) == (1, 1)
        assert isinstance(done.failure, type(None))

    run(test())
    assert bodies(rabbitmq, fresh) == [b"v"]


def test_a_reader_that_is_too_slow_is_told_of_the_gap(
    rabbitmq: Rabbit, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_amqp_watch, "_KEPT", 50)
    monkeypatch.setattr(_amqp_watch, "PREFETCH", 10)

    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}", ("mandatory", "false"))
        await made.create()
        async with opened(rabbitmq.at(f"exchange:{fresh}")) as transport:
            feed = await transport.tail(Span())
            # Given a watcher that stands still, when more comes than its queue keeps
            await published(made, [Message(v) for v in numbered(200)])
            got = await some(feed, 60)
            # Then the newest are there, and that others are missing is said
            assert values(got) == [*numbered(10), *numbered(50, 150)]

            async def told() -> None:
                while not feed.gaps:
                    await feed.receive(1, 1000, 0.2)

            await asyncio.wait_for(told(), 20)
            (gap,) = feed.gaps
            assert gap.since_ms is not None and gap.until_ms is not None
            assert gap.since_ms <= gap.until_ms
            # and what comes now passes
            await published(made, [Message(b"now")])
            assert values(await some(feed, 1)) == [b"now"]
            await feed.aclose()

    run(test())


def test_watching_makes_messages_routable(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}")
        await made.create()
        # Given an exchange that nothing is bound to, then publishing is refused
        assert (await published(made, [Message(b"1")])).counts.refused == 1
        async with made.tail() as reader:
            # and while somebody watches it is not, as documented
            assert (await published(made, [Message(b"2")])).counts.confirmed == 1
            assert values(await reader.receive(wait=5)) == [b"2"]

    run(test())


def test_creating_describing_binding_and_deleting(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        options = (("exchange_type", "topic"), ("alternate_exchange", "amq.fanout"))
        made = client(rabbitmq, f"exchange:{fresh}", *options)
        queue = client(
            rabbitmq, f"queue:{fresh}", ("queue_type", "quorum"), ("ttl", "1h"),
            ("argument", "x-max-length:i32=1000"),
        )  # fmt: skip
        assert await made.create() and not await made.create()
        assert await queue.create() and not await queue.create()
        # Given an exchange and a queue, when declared differently, then that is refused
        with pytest.raises(Refused, match="different"):
            await client(rabbitmq, f"exchange:{fresh}", ("exchange_type", "fanout")).create()
        with pytest.raises(Refused, match="different"):
            await client(rabbitmq, f"queue:{fresh}").create()
        with pytest.raises(Unsupported, match="invalid exchange type"):
            await client(rabbitmq, f"exchange:{fresh}-x", ("exchange_type", "none")).create()
        with pytest.raises(UsageError, match="queue_type"):
            await client(rabbitmq, f"queue:{fresh}-x", ("type", "quorum")).create()
        # When bound, then both descriptions show it
        await queue.once(Manages, lambda t: t.bind(fresh, "a.#"))  # type: ignore[attr-defined]
        described = await queue.once(Inspects, lambda t: t.describe(None))
        assert described["type"] == "quorum"
        assert described["arguments"] == {
            "x-queue-type": "quorum", "x-message-ttl": 3_600_000, "x-max-length": 1000,
        }  # fmt: skip
        assert described["bindings"] == [{"exchange": fresh, "key": "a.#"}]
        described = await made.once(Inspects, lambda t: t.describe(None))
        assert described["bindings"] == [{"queue": fresh, "key": "a.#"}]
        assert described["arguments"] == {"alternate-exchange": "amq.fanout"}
        await published(made, [Message(b"in", b"a.b")])
        await queue.once(Manages, lambda t: t.unbind(fresh, "a.#"))  # type: ignore[attr-defined]
        with pytest.raises(NotFound):
            await queue.once(Manages, lambda t: t.bind(f"{fresh}-none", ""))  # type: ignore[attr-defined]
        other = client(rabbitmq, f"exchange:{fresh}-2")
        await other.create()
        await other.once(Manages, lambda t: t.bind(fresh, "z"))  # type: ignore[attr-defined]
        described = await made.once(Inspects, lambda t: t.describe(None))
        assert described["bindings"] == [{"exchange": f"{fresh}-2", "key": "z"}]
        await other.once(Manages, lambda t: t.unbind(fresh, "z"))  # type: ignore[attr-defined]
        # and deleted, they are gone
        for one in (made, queue, other):
            await one.once(Manages, lambda t: t.delete())
            assert not await one.once(Inspects, lambda t: t.exists())
            with pytest.raises(NotFound):
                await one.once(Manages, lambda t: t.delete())

    run(test())


def test_the_firehose_is_unwrapped_on_request(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    rabbitmq.trace(True)

    async def test() -> None:
        raw = client(rabbitmq, "exchange:amq.rabbitmq.trace", ("bind", "publish.#"))
        plain = client(
            rabbitmq, "exchange:amq.rabbitmq.trace", ("bind", "publish.#"), ("via", "firehose")
        )
        async with raw.tail() as one, plain.tail() as two:
            # Given tracing, when a message is published, then its copy is seen, or what it was
            await published(
                client(rabbitmq, f"queue:{fresh}"), [Message(b"v", headers=(("k", "x"),))]
            )
            (copy,) = await one.receive(wait=5)
            (got,) = await two.receive(wait=5)
        assert copy.key == b"publish." and dict(copy.headers)["exchange_name"] == ""
        assert (got.value, got.key, got.headers) == (b"v", fresh.encode(), (("k", "x"),))
        assert got.extra == {"exchange": "", "event": "publish", "routing_key": fresh}

    run(test())
    rabbitmq.trace(False)


def test_a_missing_exchange_is_not_made_by_watching(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}")
        with pytest.raises(NotFound):
            async with made.tail():
                pass
        assert not await made.once(Inspects, lambda t: t.exists())
        assert made.supports(Tails)

    run(test())


def test_an_exchange_deleted_while_it_is_watched_is_told(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        made = client(rabbitmq, f"exchange:{fresh}")
        await made.create()
        async with made.tail() as reader:
            # Given a watcher that has seen something
            await published(made, [Message(b"v")])
            assert values(await reader.receive(wait=5)) == [b"v"]
            # When the exchange is deleted, of which AMQP tells nobody, then it does not wait on
            await made.once(Manages, lambda t: t.delete())
            with pytest.raises(NotFound, match="deleted"):
                for _ in range(20):
                    assert not await reader.receive(wait=0.5)

    run(test())
