"""Connecting to RabbitMQ: login, TLS, hosts, virtual hosts; what is said when it does not work."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import quote

import aiormq
import pytest
from aiormq.connection import TransportFactory
from pamqp import commands

from mqcli.address import parse_broker
from mqcli.errors import (
    AccessDenied,
    BrokerUnavailable,
    ConfigError,
    ConnectionLost,
    NotFound,
    UsageError,
)
from mqcli.message import Message, Tagged
from mqcli.registry import broker_target
from mqcli.session import Limits
from mqcli.transport import Inspects, Span
from mqcli.transports._amqp_methods import method
from mqcli.transports._amqp_options import parse_argument

from ..brokers.process import free_port
from ..brokers.rabbitmq import Rabbit, RabbitServer
from .amqp_support import client, fill, numbered, published
from .redis_support import Proxy, Started, opened, run, some, targeted, until, values


def address(server: Rabbit, login: str = "", path: str = "", query: str = "") -> str:
    scheme, _, host = server.url.partition("://")
    return f"{scheme}://{login}{host}{path}/queue:x{query}"


async def refusal(where: str, **settings: object) -> Exception:
    with pytest.raises(Exception) as caught:
        async with opened(where, **settings):
            pass
    text = str(caught.value)
    assert "\n" not in text and "secret" not in text
    return caught.value


def test_what_we_need_of_the_driver_is_public_and_there() -> None:
    # Given aiormq and pamqp, when looked at, then everything that we stand on exists
    assert issubclass(TransportFactory, object) and hasattr(TransportFactory, "create")
    for name in ("connect", "close", "channel", "is_closed"):
        assert hasattr(aiormq.Connection, name)
    for name in ("rpc", "basic_qos", "basic_cancel", "close", "confirm_delivery"):
        assert hasattr(aiormq.Channel, name)
    # and a method's table can be replaced by ours, and its idea of names
    frame = method(commands.Queue.Declare, [("x", Tagged("i8", 5))], queue="\u65e5$*" * 20)
    assert frame.marshal().endswith(b"\x00\x00\x00\x04\x01xb\x05")
    assert isinstance(frame, commands.Queue.Declare)


def test_no_user_is_assumed_away_from_this_machine() -> None:
    async def test() -> None:
        # Given an address without a user, when it is not this machine, then nothing is tried
        for host in ("broker.example", "localhost,broker.example"):
            error = await refusal(f"amqp://{host}/queue:x")
            assert isinstance(error, AccessDenied) and "guest" in str(error)
        # nor is a password made up
        for login in ("user@", "user:@", ":secret@"):
            assert isinstance(await refusal(f"amqp://{login}localhost:1/queue:x"), AccessDenied)

    run(test())


def test_login_vhost_and_permission_have_their_own_errors(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.vhost(fresh)
    rabbitmq.api("PUT", f"/api/users/{fresh}", {"password": "secret", "tags": ""})
    rabbitmq.api("PUT", f"/api/permissions/%2F/{fresh}",
                 {"configure": "^$", "write": "^$", "read": "^$"})  # fmt: skip

    async def test() -> None:
        # Given wrong words, a vhost that is not there or not ours, when opened, then each is told
        wrong = await refusal(address(rabbitmq, "guest:secret@"))
        assert isinstance(wrong, AccessDenied) and "login refused" in str(wrong)
        missing = await refusal(address(rabbitmq, path="/none-such"))
        assert isinstance(missing, NotFound) and "none-such" in str(missing)
        closed = await refusal(address(rabbitmq, f"{fresh}:secret@", f"/{fresh}"))
        assert isinstance(closed, AccessDenied)
        deep = await refusal(address(rabbitmq, path="/a/b"))
        assert isinstance(deep, UsageError) and "%2F" in str(deep)
        # and a user without permission is told for what
        rabbitmq.declare(fresh)
        url = address(rabbitmq, f"{fresh}:secret@").replace("queue:x", f"queue:{fresh}")
        from mqcli.client import Client

        limited = Client.at(url)
        done = await published(limited, [Message(b"v")] * 3)
        assert isinstance(done.failure, AccessDenied)
        assert (done.counts.refused, done.counts.unknown) == (3, 0)
        with pytest.raises(AccessDenied, match=fresh):
            async with limited.consume():
                pass
        with pytest.raises(AccessDenied):
            await Client.at(url.replace(f"queue:{fresh}", "queue:new")).create()

    run(test())


def test_a_virtual_host_may_have_any_name(rabbitmq: Rabbit, fresh: str) -> None:
    name = f"{fresh}/a b%é"
    rabbitmq.vhost(name)

    async def test() -> None:
        from mqcli.client import Client

        # Given a vhost with a slash and more in its name, when used, then it is that one
        made = Client.at(rabbitmq.at("queue:q", vhost=name))
        await made.create()
        await published(made, [Message(b"v")])
        described = await made.once(Inspects, lambda t: t.describe(None))
        assert described["type"] == "classic"
        async with made.consume(limit=1) as reader:
            assert values(await reader.receive(wait=5)) == [b"v"]

    run(test())
    assert [queue["name"] for queue in rabbitmq.api("GET", f"/api/queues/{quote(name, '')}")] == [
        "q"
    ]


def test_several_hosts_are_tried_in_order(rabbitmq: Rabbit) -> None:
    async def test() -> None:
        dead = free_port()
        # Given a dead host before a living one, when opened, then the living one is used
        async with opened(f"amqp://127.0.0.1:{dead},127.0.0.1:{rabbitmq.port}/queue:x"):
            pass
        # and when all are dead, one of them is named
        error = await refusal(f"amqp://127.0.0.1:{dead},127.0.0.1:{free_port()}/queue:x")
        assert isinstance(error, BrokerUnavailable) and "refused" in str(error)

    run(test())


def test_what_is_no_broker_is_told_in_time() -> None:
    async def test() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(8)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(8)
            writer.write(b"AMQP\x00\x01\x00\x00")
            writer.close()

        # Given something that does not answer, or not in AMQP, when opened
        for serve, words in ((silent, "no answer"), (web, "AMQP"), (older, "AMQP")):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            began = time.monotonic()
            error = await refusal(f"amqp://127.0.0.1:{port}/queue:x", connect_timeout=0.5)
            # Then that is said, in time
            assert isinstance(error, BrokerUnavailable) and words in str(error), error
            assert time.monotonic() - began < 2
            server.close()
            await server.wait_closed()

    run(test())


def test_tls_is_verified_unless_told_otherwise(started: Started, tmp_path: Path) -> None:
    server = started(lambda: RabbitServer(tls=True))
    assert server.certificates is not None
    authority = f"?cafile={server.certificates.ca}"

    async def test() -> None:
        # Given a certificate of an unknown authority, when opened, then it is refused
        error = await refusal(address(server))
        assert isinstance(error, BrokerUnavailable) and "certificate" in str(error)
        # with the authority, or without verification, it works
        async with opened(address(server, query=authority)):
            pass
        async with opened(address(server, query=authority.replace("cafile", "cacertfile"))):
            pass
        async with opened(address(server), insecure=True):
            pass
        # plain on the TLS port, a missing file, and options without TLS are told
        plain = await refusal(address(server).replace("amqps", "amqp"), connect_timeout=1.0)
        assert isinstance(plain, BrokerUnavailable)
        missing = await refusal(address(server, query=f"?cafile={tmp_path}/none.pem"))
        assert isinstance(missing, ConfigError)
        assert isinstance(await refusal("amqp://localhost/queue:x?cafile=x"), UsageError)
        with pytest.raises(UsageError, match="insecure"):
            targeted(address(server, query="?no_verify_ssl=1"))

    run(test())


def test_tls_to_a_plain_port_is_told(rabbitmq: Rabbit) -> None:
    async def test() -> None:
        error = await refusal(address(rabbitmq).replace("amqp:", "amqps:"))
        assert isinstance(error, BrokerUnavailable) and "TLS" in str(error)

    run(test())


def test_external_login_is_told_where_the_broker_does_not_offer_it(
    rabbitmq: Rabbit,
) -> None:
    async def test() -> None:
        error = await refusal(address(rabbitmq, query="?auth_mechanism=external"))
        assert isinstance(error, AccessDenied) and "PLAIN" in str(error)

    run(test())


def test_a_silent_peer_is_given_up_after_two_heartbeats(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        async with Proxy(rabbitmq.port) as proxy:
            where = f"amqp://127.0.0.1:{proxy.port}/queue:{fresh}?heartbeat=1"
            async with opened(where) as transport:
                feed = await transport.subscribe(Span(), None, None)
                assert not await feed.receive(1, 1000, 2.5)
                # Given a connection with heartbeats, when nothing comes back any more
                proxy.mute = True
                began = time.monotonic()
                # Then it is given up soon
                with pytest.raises(ConnectionLost, match="silent"):
                    await feed.receive(1, 1000, 20)
                assert time.monotonic() - began < 5
                await feed.aclose()

    run(test())


def test_a_stream_of_messages_alone_keeps_the_connection_alive(
    rabbitmq: Rabbit, fresh: str
) -> None:
    rabbitmq.declare(fresh)

    async def test() -> None:
        made = client(rabbitmq, f"queue:{fresh}")
        async with opened(rabbitmq.at(f"queue:{fresh}") + "&heartbeat=1") as transport:
            feed = await transport.subscribe(Span(), None, None)
            # Given a heartbeat of a second, when for longer than the driver's patience only
            # messages come
            until = time.monotonic() + 8
            count = 0
            while time.monotonic() < until:
                await published(made, [Message(v) for v in numbered(10)])
                got = await some(feed, 10)
                count += await feed.ack(got)
            # Then the connection stands
            assert count >= 100
            await feed.aclose()

    run(test())


def test_ping_and_ls_say_what_they_can(rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    rabbitmq.declare(f"{fresh}-s", type="stream")

    async def test() -> None:
        url = parse_broker(f"{rabbitmq.url}?management=http://127.0.0.1:{rabbitmq.management_port}")
        cls, target = broker_target(url)  # type: ignore[arg-type]
        broker = cls(target)
        await broker.open()
        # Given a broker, when pinged and listed, then it says what it is and has
        told = await broker.ping()
        assert told["product"] == "RabbitMQ" and told["vhost"] == "/" and told["version"]
        found = {(entry.kind, entry.name) for entry in await broker.ls(None)}
        assert {("queue", fresh), ("stream", f"{fresh}-s"), ("exchange", "amq.topic")} <= found
        assert {entry.kind for entry in await broker.ls("stream")} == {"stream"}
        await broker.aclose()
        # and where the management API is not, that is said
        dead = f"http://127.0.0.1:{free_port()}"
        cls, target = broker_target(parse_broker(f"{rabbitmq.url}?management={dead}"))  # type: ignore[arg-type]
        broker = cls(target)
        await broker.open()
        with pytest.raises(BrokerUnavailable, match="rabbitmq_management"):
            await broker.ls(None)
        await broker.aclose()
        from mqcli.client import Client

        one = Client.at(f"{rabbitmq.url}/queue:{fresh}?management={dead}")
        described = await one.once(Inspects, lambda t: t.describe(None))
        assert described["messages_ready"] == 0 and "management" in described["note"]
        denied = dead.replace("http://", "http://no:secret@").replace(
            dead.rpartition(":")[2], str(rabbitmq.management_port)
        )
        cls, target = broker_target(parse_broker(f"{rabbitmq.url}?management={denied}"))  # type: ignore[arg-type]
        broker = cls(target)
        await broker.open()
        with pytest.raises(AccessDenied):
            await broker.ls(None)
        await broker.aclose()

    run(test())


def shown(server: Rabbit) -> list[tuple[str, str]]:
    """What clients have told the broker of themselves."""
    told = [each.get("client_properties", {}) for each in server.api("GET", "/api/connections")]
    return [(each.get("product", ""), each.get("connection_name", "")) for each in told]


def test_the_broker_is_told_who_we_are(rabbitmq: Rabbit) -> None:
    async def test() -> None:
        # Given a name for the connection, when open, then operators see it
        async with opened(address(rabbitmq), client_name="mqcli/1 test"):
            await until(lambda: ("mqcli", "mqcli/1 test") in shown(rabbitmq))

    run(test())


def test_uvloop_carries_the_same_connection(rabbitmq: Rabbit, fresh: str) -> None:
    uvloop = pytest.importorskip("uvloop")
    rabbitmq.declare(fresh)
    fill(rabbitmq, fresh, numbered(10))

    async def test() -> None:
        # Given uvloop's transports, when read and written, then all works as with asyncio's
        made = client(rabbitmq, f"queue:{fresh}", limits=Limits(confirm_timeout=5))
        done = await published(made, [Message(b"x" * 500_000)] * 20)
        assert done.counts.confirmed == 20
        async with made.consume(limit=30) as reader:
            got = 0
            while not reader.ended:
                messages = await reader.receive(7)
                got += len(messages)
                await reader.settle(len(messages))
        assert got == 30

    uvloop.run(test())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a=b", ("a", "b")), ("a:i64=5", ("a", 5)), ("a:i8=-5", ("a", Tagged("i8", -5))),
     ("a:bool=true", ("a", True)), ("a:f64=1.5", ("a", 1.5)), ("a==", ("a", "=")),
     ("a.b:c:i32=1", ("a.b:c", Tagged("i32", 1))),
     ("a:decimal=1.50", ("a", Tagged("decimal", "1.50"))),
     ("a:null=", ("a", Tagged("null", None))), ("a:text=", ("a", ""))],
)  # fmt: skip
def test_arguments_have_types(text: str, wanted: object) -> None:
    # Given NAME:TYPE=VALUE, when parsed, then it has that type
    assert parse_argument(text) == wanted


@pytest.mark.parametrize("text", ["a", "=b", "a:i64=x", "a:i46=5", "a:bool=1"])
def test_arguments_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_argument(text)


def test_reading_that_stands_still_does_not_confuse_a_full_socket(
    rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a connection whose reading was stopped because nobody takes the messages
    async def scenario() -> None:
        async with opened(rabbitmq.at(f"queue:{fresh}")) as transport:
            wire = transport._link.wire
            wire.pause()
            # When the system takes no more bytes either, and later both go on
            wire.pause_writing()
            assert not wire.writable.is_set()
            wire.resume_writing()
            wire.resume()
            # Then the connection serves as before
            assert wire.writable.is_set()
            assert not await transport.exists()

    run(scenario())
