"""pika and mqcli on both sides of a queue: types and bytes; and logging in by certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika

from tests.brokers.rabbitmq import Rabbit, RabbitServer
from tests.cli.support import Cli
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
    typed = ("-H", "n:i64=5", "-H", "b:bool=true", "-H", "d:decimal=1.5",
             "-H", "s=text", "-H", "not:atype=x")  # fmt: skip
    cli("publish", queue, "--create", *typed, "-O", "priority=3", "-P", "type=t", "v").ok()
    # Then pika has the types, and a suffix that is none belongs to the name
    with other(rabbitmq) as channel:
        _, got, body = channel.basic_get(fresh, auto_ack=True)
    assert (body, got.priority, got.type, got.delivery_mode) == (b"v", 3, "t", 2)
    assert dict(got.headers) == {
        "n": 5, "b": True, "d": Decimal("1.5"), "s": "text", "not:atype": "x",
    }  # fmt: skip


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
