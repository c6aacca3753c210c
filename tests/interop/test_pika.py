"""pika and mqcli on both sides of a queue: types and bytes; and logging in by certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika

from mqcli.message import Tagged
from tests.brokers.rabbitmq import Rabbit, RabbitServer
from tests.cli.support import Cli
from tests.conformance import rabbitmq_harness
from tests.unit.amqp_support import other

TYPED = {
    "text": "caf\u00e9",
    "yes": True,
    "small": 7,
    "large": 2**40,
    "raw": b"\xff\x00",
    "none": None,
    "when": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "price": Decimal("12.5"),
    "table": {"a": 1, "b": {"c": [True, "x", None]}},
    "list": [1, "two", {"three": 3}],
}
PROPERTIES = pika.BasicProperties(
    content_type="a/b", content_encoding="gzip", headers=TYPED, delivery_mode=2, priority=4,
    correlation_id="c", reply_to="r", expiration="60000", message_id="m", timestamp=1_700_000_000,
    type="t", user_id="guest", app_id="app",
)  # fmt: skip


def test_properties_and_types_of_pikas_go_through_an_envelope(
    cli: Cli, rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a message of pika's with all properties, and headers of all types that it sends
    first, second = rabbitmq.at(f"queue:{fresh}"), rabbitmq.at(f"queue:{fresh}-2")
    for address in (first, second):
        cli("create", address).ok()
    with other(rabbitmq) as channel:
        channel.basic_publish("", fresh, b"\x00value\xff", PROPERTIES)
    # When it is read as an envelope, and that is published again
    envelope = cli("consume", first, "-c", "1", "-o", "json").ok().out
    cli("publish", second, "-i", "json", stdin=envelope).ok()
    # Then the envelope has the types
    headers = dict(json.loads(envelope)["headers"])
    assert (headers["text"], headers["yes"]) == ("caf\u00e9", True)
    assert headers["small"]["t"] == "i32" and headers["large"] == 2**40
    assert headers["price"] == {"t": "decimal", "v": "12.5"}
    # and pika gets it back as it was, to the byte
    with other(rabbitmq) as channel:
        _, got, body = channel.basic_get(f"{fresh}-2", auto_ack=True)
    assert body == b"\x00value\xff"
    assert b"".join(got.encode()) == b"".join(PROPERTIES.encode())


def test_what_we_type_pika_reads(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given flags, when published
    queue = rabbitmq.at(f"queue:{fresh}")
    typed = (
        "n:i64=-5", "b:bool=true", "d:decimal=1.5", "s=text", "not:atype=x", "f:f64=0.1",
        "g:f32=0.5", "b1:i8=-1", "b2:u8=255", "b3:i16=-2", "b4:u16=65535", "b5:i32=-3",
        "b6:u32=4294967295", "b7:u64=18446744073709551615", "t:time=1700000000", "x:bytes=/wA=",
        "z:null=", 'l:list=[1,"two"]', 'm:table=[["a",true]]',
    )  # fmt: skip
    flags = [part for one in typed for part in ("-H", one)]
    cli("publish", queue, "--create", *flags, "-O", "priority=3", "-P", "type=t", "v").ok()
    # Then pika has the types, each with its own letter on the wire, and a suffix that is none
    # belongs to the name
    with other(rabbitmq) as channel:
        _, got, body = channel.basic_get(fresh, auto_ack=True)
    assert (body, got.priority, got.type, got.delivery_mode) == (b"v", 3, "t", 2)
    # pika's own decoder reads a double as 0, and u64 with a sign: the suite's reads the bytes
    assert isinstance(got.headers, rabbitmq_harness.Table)
    assert dict(got.headers.pairs) == {
        "n": -5, "b": True, "d": Tagged("decimal", "1.5"), "s": "text", "not:atype": "x",
        "f": 0.1, "g": Tagged("f32", 0.5), "b1": Tagged("i8", -1), "b2": Tagged("u8", 255),
        "b3": Tagged("i16", -2), "b4": Tagged("u16", 65535), "b5": Tagged("i32", -3),
        "b6": Tagged("u32", 2**32 - 1), "b7": Tagged("u64", 2**64 - 1),
        "t": Tagged("time", 1_700_000_000), "x": b"\xff\x00", "z": Tagged("null", None),
        "l": b"l" + (1).to_bytes(8, "big") + b"S\0\0\0\x03two",
        "m": Tagged("table", (("a", True),)),
    }  # fmt: skip


def test_we_read_what_the_broker_types(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a message from the management API, which sends doubles, as pika cannot
    rabbitmq.declare(fresh)
    headers = {"f": 0.1, "n": -5, "b": True, "s": "x", "l": [1.5, "y"], "m": {"z": 2.5}}
    message = {"routing_key": fresh, "payload": "v", "payload_encoding": "string",
               "properties": {"headers": headers, "timestamp": 5, "delivery_mode": 1}}  # fmt: skip
    rabbitmq.api("POST", "/api/exchanges/%2F/amq.default/publish", message)
    # When it is read, then each value has the type it was sent with
    envelope = json.loads(
        cli("consume", rabbitmq.at(f"queue:{fresh}"), "-e", "-o", "json").ok().out
    )
    found = dict(envelope["headers"])
    assert (found["f"], found["n"], found["b"], found["s"]) == (0.1, -5, True, "x")
    assert (found["l"]["t"], found["l"]["v"]) == ("list", [1.5, "y"])
    assert (found["m"]["t"], found["m"]["v"]) == ("table", [["z", 2.5]])
    assert envelope["properties"] == {"timestamp": 5, "delivery_mode": 1}


def by_certificate() -> RabbitServer:
    """A broker that knows its clients by the names in their certificates, and not otherwise."""
    server = RabbitServer(
        "auth_mechanisms.1 = EXTERNAL", "ssl_cert_login_from = common_name", tls=True
    )
    config = server.folder / "rabbitmq.conf"
    text = config.read_text().replace("verify_none", "verify_peer")
    config.write_text(text.replace("fail_if_no_peer_cert = false", "fail_if_no_peer_cert = true"))
    plugins = "[rabbitmq_management,rabbitmq_auth_mechanism_ssl].\n"
    (server.folder / "plugins").write_text(plugins)
    return server


def test_a_certificate_is_a_login(
    cli: Cli, started: Callable[[Callable[[], Any]], Any], fresh: str
) -> None:
    # Given a broker that takes certificates only, and knows the user of ours
    server: RabbitServer = started(by_certificate)
    made = server.certificates
    assert made is not None
    server.api("PUT", "/api/users/localhost", {"password": "", "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    server.api("PUT", "/api/permissions/%2F/localhost", everything)
    queue = f"{server.url}/queue:{fresh}"
    ours = f"?cafile={made.ca}&certfile={made.cert}&keyfile={made.key}"
    # When it is shown, then everything works
    cli("publish", f"{queue}{ours}&auth_mechanism=external", "--create", "v").ok()
    assert cli("consume", f"{queue}{ours}&auth_mechanism=external", "-e").ok().out == b"v\n"
    # and a password is no way in, nor is nothing
    cli("publish", f"{queue}{ours}&auth_mechanism=plain", "x").fails(77, "EXTERNAL")
    refused = cli("publish", f"{queue}?cafile={made.ca}&auth_mechanism=external", "x")
    assert refused.code == 69 and "certificate" in refused.err.lower(), refused
