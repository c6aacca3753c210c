"""Creating, with every argument that has a name here, as the broker then tells it; and names."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from mqcli.client import Client
from mqcli.errors import MqcliError, Refused, UsageError
from mqcli.message import Header, Message, Tagged
from mqcli.roles import Binds
from mqcli.transport import Inspects, Manages

from ..brokers.rabbitmq import Rabbit
from .amqp_support import client, fill, published

run = asyncio.run

_QUEUES: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({"queue_type": "classic"}, {"x-queue-type": "classic"}),
    ({"queue_type": "quorum"}, {"x-queue-type": "quorum"}),
    ({"queue_type": "quorum", "delivery_limit": "3"},
     {"x-queue-type": "quorum", "x-delivery-limit": 3}),
    ({"ttl": "90s"}, {"x-message-ttl": 90_000}),
    ({"expires": "1h30m"}, {"x-expires": 5_400_000}),
    ({"max_length": "7"}, {"x-max-length": 7}),
    ({"max_length_bytes": "1000"}, {"x-max-length-bytes": 1000}),
    ({"overflow": "drop-head"}, {"x-overflow": "drop-head"}),
    ({"overflow": "reject-publish"}, {"x-overflow": "reject-publish"}),
    ({"overflow": "reject-publish-dlx"}, {"x-overflow": "reject-publish-dlx"}),
    ({"dead_letter_exchange": "amq.fanout", "dead_letter_key": "dead"},
     {"x-dead-letter-exchange": "amq.fanout", "x-dead-letter-routing-key": "dead"}),
    ({"max_priority": "5"}, {"x-max-priority": 5}),
    ({"lazy": "true"}, {"x-queue-mode": "lazy"}),
    ({"single_active_consumer": "true"}, {"x-single-active-consumer": True}),
    ({"argument": "x-max-length:i32=9"}, {"x-max-length": 9}),
]  # fmt: skip
_STREAMS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({"max_age": "7D"}, {"x-max-age": "7D"}),
    ({"max_length_bytes": "1000000"}, {"x-max-length-bytes": 1_000_000}),
    ({"segment_bytes": "500000"}, {"x-stream-max-segment-size-bytes": 500_000}),
]


@pytest.mark.parametrize(("options", "arguments"), _QUEUES)
def test_the_broker_has_every_argument_of_a_queue(
    rabbitmq: Rabbit, fresh: str, options: dict[str, str], arguments: dict[str, Any]
) -> None:
    # Given an option, when a queue is made with it, then the broker has it, and nothing else
    assert run(client(rabbitmq, f"queue:{fresh}", *options.items()).create())
    found = rabbitmq.api("GET", f"/api/queues/%2F/{fresh}")
    implied = {"x-queue-type": "classic"}  # newer brokers write down what was not asked for
    assert {**implied, **found["arguments"]} == {**implied, **arguments}
    assert (found["durable"], found["auto_delete"]) == (True, False)


@pytest.mark.parametrize(("options", "arguments"), _STREAMS)
def test_the_broker_has_every_argument_of_a_stream(
    rabbitmq: Rabbit, fresh: str, options: dict[str, str], arguments: dict[str, Any]
) -> None:
    # Given an option, when a stream is made with it, then the broker has it
    assert run(client(rabbitmq, f"stream:{fresh}", *options.items()).create())
    found = rabbitmq.api("GET", f"/api/queues/%2F/{fresh}")
    assert found["arguments"] == {"x-queue-type": "stream", **arguments}
    assert (found["type"], found["durable"]) == ("stream", True)


@pytest.mark.parametrize(
    ("kind", "option", "wanted"),
    [
        ("queues", ("durable", "false"), {"durable": False}),
        ("queues", ("auto_delete", "true"), {"auto_delete": True}),
        ("exchanges", ("exchange_type", "headers"), {"type": "headers"}),
        ("exchanges", ("durable", "false"), {"durable": False, "type": "topic"}),
        ("exchanges", ("auto_delete", "true"), {"auto_delete": True, "durable": True}),
        ("exchanges", ("internal", "true"), {"internal": True}),
        ("exchanges", ("alternate_exchange", "amq.direct"),
         {"arguments": {"alternate-exchange": "amq.direct"}}),
    ],
)  # fmt: skip
def test_the_broker_has_every_flag(
    rabbitmq: Rabbit, fresh: str, kind: str, option: tuple[str, str], wanted: dict[str, Any]
) -> None:
    # Given a flag, when a queue or exchange is made with it, then the broker has it
    assert run(client(rabbitmq, f"{kind[:-1]}:{fresh}", option).create())
    found = rabbitmq.api("GET", f"/api/{kind}/%2F/{fresh}")
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("destination", "option"),
    [
        ("queue", ("max_length", "99999999999999999999")),
        ("queue", ("argument", "n:i8=300")),
        ("queue", ("argument", "n:f32=1e300")),
        ("queue", ("argument", "n:f64=nan")),
        ("queue", ("argument", "n:decimal=much")),
        ("queue", ("argument", f"{'n' * 256}=x")),
        ("stream", ("segment_bytes", "99999999999999999999")),
        ("exchange", ("exchange_type", "x" * 256)),
        ("exchange", ("argument", "n:u64=-1")),
    ],
)
def test_what_no_table_holds_is_the_users_error(
    rabbitmq: Rabbit, fresh: str, destination: str, option: tuple[str, str]
) -> None:
    # Given an argument out of its range, when created with it, then that is told, and none is made
    with pytest.raises(UsageError):
        run(client(rabbitmq, f"{destination}:{fresh}", option).create())
    assert not run(client(rabbitmq, f"{destination}:{fresh}").once(Inspects, lambda t: t.exists()))


@pytest.mark.parametrize(
    ("source", "key", "headers"),
    [
        ("x" * 256, "", ()),
        ("amq.topic", "k" * 256, ()),
        ("amq.topic", "\udcff", ()),
        ("amq.headers", "", (("n", Tagged("i8", 300)),)),
        ("amq.headers", "", (("n", float("inf")),)),
    ],
)
def test_a_binding_that_cannot_be_is_the_users_error(
    rabbitmq: Rabbit, fresh: str, source: str, key: str, headers: tuple[Header, ...]
) -> None:
    async def test() -> None:
        for kind in ("queue", "exchange"):
            made = client(rabbitmq, f"{kind}:{fresh}")
            await made.create()
            # Given what a method cannot carry, when bound or unbound, then that is told
            with pytest.raises(UsageError):
                await made.once(Binds, lambda t: t.bind(source, key, headers))
            with pytest.raises(UsageError):
                await made.once(Binds, lambda t: t.unbind(source, key, headers))

    run(test())


@pytest.mark.parametrize(
    "odd", ["\u65e5\u672c \xe4", "a/b?c#d%", "[x]{y}|$*!&'\"\\", "\t\x1b[31m", "long" * 58]
)
def test_names_have_any_characters(rabbitmq: Rabbit, fresh: str, odd: str) -> None:
    name = f"{fresh}{odd}"
    written = quote(name, safe="")

    async def test() -> None:
        exchange = client(rabbitmq, f"exchange:{written}", ("exchange_type", "fanout"))
        second = client(rabbitmq, f"exchange:{quote(fresh + '2' + odd, safe='')}")
        queue = client(rabbitmq, f"queue:{written}")
        # Given names that RabbitMQ takes, when made, bound, looked at, written to and read
        for made in (exchange, second, queue):
            assert await made.create()
        await queue.once(Binds, lambda t: t.bind(name, odd, ()))
        await second.once(Binds, lambda t: t.bind(name, odd, ()))
        async with exchange.tail() as watcher:
            done = await published(exchange, [Message(b"v", odd.encode())])
            assert done.counts.confirmed == 1
            (seen,) = await watcher.receive(wait=5)
        async with queue.consume(limit=1) as reader:
            (got,) = await reader.receive(wait=5)
            await reader.settle(1)
        # Then all have their names, and what was sent arrives
        assert (seen.value, seen.key, got.value) == (b"v", odd.encode(), b"v")
        assert got.extra == {"exchange": name, "routing_key": odd}
        described = await exchange.once(Inspects, lambda t: t.describe(None))
        assert {"queue": name, "key": odd} in described["bindings"]
        await queue.once(Binds, lambda t: t.unbind(name, odd, ()))
        await second.once(Binds, lambda t: t.unbind(name, odd, ()))
        assert await queue.once(Manages, lambda t: t.purge()) == 0
        for made in (exchange, second, queue):
            await made.once(Manages, lambda t: t.delete())
            assert not await made.once(Inspects, lambda t: t.exists())

    run(test())


@pytest.mark.parametrize("kind", ["queue", "stream", "exchange"])
def test_names_that_cannot_be_are_refused_before_a_socket_opens(kind: str) -> None:
    nowhere = Rabbit(1, 1)
    for name, words in (("n" * 256, "256 bytes"), ("%ff", "not UTF-8"), ("a%0Ab", "line break")):
        # Given a broker that is not there, then the name is what is wrong
        with pytest.raises(UsageError, match=words):
            run(client(nowhere, f"{kind}:{name}").create())


def test_the_wrong_kind_is_neither_described_nor_deleted(rabbitmq: Rabbit, fresh: str) -> None:
    async def test() -> None:
        for kind, wrong in (("queue", "stream"), ("stream", "queue")):
            right = client(rabbitmq, f"{kind}:{fresh}-{kind}")
            mistaken = client(rabbitmq, f"{wrong}:{fresh}-{kind}")
            await right.create()
            # Given one kind, when the other is to be looked at or deleted, then that is told
            with pytest.raises(UsageError, match=f"it is a {kind}, not a {wrong}"):
                await mistaken.once(Inspects, lambda t: t.describe(None))
            with pytest.raises(UsageError, match=f"it is a {kind}, not a {wrong}"):
                await mistaken.once(Manages, lambda t: t.delete())
            # and it is there until it is named rightly
            assert (await right.once(Inspects, lambda t: t.describe(None)))["durable"]
            await right.once(Manages, lambda t: t.delete())
            assert not await right.once(Inspects, lambda t: t.exists())

    run(test())


def test_who_may_not_ask_the_management_api_is_told_what_amqp_tells(
    rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a user without the tag management, as applications are, and a message
    rabbitmq.api("PUT", f"/api/users/{fresh}", {"password": "pw", "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.api("PUT", f"/api/permissions/%2F/{fresh}", everything)
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, [b"v"])
    mine = rabbitmq.at(f"queue:{fresh}").replace("://", f"://{fresh}:pw@")
    # When the queue is described, then it is counted, and said why there is no more
    found = run(Client.at(mine).once(Inspects, lambda t: t.describe(None)))
    assert (found["messages_ready"], found["consumers"]) == (1, 0)
    assert "tag management" in found["note"]
    # and so where something else than the API answers
    rabbitmq.vhost(fresh)
    rabbitmq.declare(fresh, vhost=fresh)
    elsewhere = f"{rabbitmq.at(f'queue:{fresh}', fresh)}/nosuch"
    found = run(Client.at(elsewhere).once(Inspects, lambda t: t.describe(None)))
    assert found["messages_ready"] == 0 and "does not answer" in found["note"]
    assert "404" in found["note"]


def test_what_the_broker_refuses_is_told_in_its_words(rabbitmq: Rabbit, fresh: str) -> None:
    for options, words in (
        ([("queue_type", "quorum"), ("durable", "false")], "non-durable"),
        ([("dead_letter_key", "k")], "routing_key_but_no_dlx"),
        ([("expires", "0s")], "x-expires"),
    ):
        # Given arguments that contradict each other, when created, then the broker says why
        with pytest.raises(Refused, match="cannot be created so") as caught:
            run(client(rabbitmq, f"queue:{fresh}", *options).create())
        error: MqcliError = caught.value
        assert words in error.why
