"""Kafka as a whole: topics made and listed, logins, TLS, hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from mqcli.address import parse_broker
from mqcli.errors import (
    AccessDenied,
    BrokerUnavailable,
    MqcliError,
    Refused,
    UsageError,
)
from mqcli.registry import broker_target
from mqcli.transports.kafka_topic import KafkaTopic

from ..brokers.kafka import Kafka, KafkaServer
from .kafka_support import (
    client,
    make,
    numbered,
    publish,
    read,
    run,
    topic,
)

Started = Callable[[Callable[[], Any]], Any]


# -- looking and preparing


def test_a_topic_is_made_as_asked_and_told_apart(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    settings = ("retention.ms=60000", "cleanup.policy=compact")
    run(make(address, 3, config=settings))

    async def test() -> None:
        async with topic(address, num_partitions=3, config=settings) as same:
            # The same again is no error, another one is
            assert not await same.create()
            shown = await same.describe(None)
            assert (shown["partitions"], shown["config"]["retention.ms"]) == (3, "60000")
            assert shown["partition"][2] == {
                "partition": 2, "leader": 1, "replicas": [1], "isr": [1],
                "earliest": 0, "latest": 0,
            }  # fmt: skip
        for given in ({"num_partitions": 4}, {"config": ("retention.ms=1",)}):
            async with topic(address, **given) as different:
                with pytest.raises(Refused, match="different"):
                    await different.create()
        for wrong in ({"config": ("no.such=1",)}, {"replication_factor": 3}, {"config": ("x",)}):
            async with topic(f"{address}-other", **wrong) as bad:
                with pytest.raises(UsageError):
                    await bad.create()

    run(test())
    assert kafka.topics()[fresh] == 3 and f"{fresh}-other" not in kafka.topics()


def test_the_cluster_is_listed(kafka: Kafka, fresh: str) -> None:
    run(make(f"{kafka.url}/{fresh}", 2))

    async def test() -> None:
        url = parse_broker(kafka.url)
        assert not isinstance(url, str)
        cls, target = broker_target(url)
        broker = cls(target)
        try:
            await broker.open()
            assert (await broker.ping())["server"] == "kafka"
            found = {entry.name: entry for entry in await broker.ls(None)}
            assert found[fresh].detail["partitions"] == 2
            assert "__consumer_offsets" not in found
            assert all(entry.kind == "group" for entry in await broker.ls("group"))
        finally:
            await broker.aclose()

    run(test())


# -- connections


async def opened(address: str, **given: object) -> None:
    async with topic(address, **given):
        pass


def failure(address: str, **given: object) -> MqcliError:
    began = time.monotonic()
    with pytest.raises(MqcliError) as caught:
        run(opened(address, **given))
    assert time.monotonic() - began < 12
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


def test_logins_with_scram_and_plain(started: Started, fresh: str) -> None:
    # Given a broker that wants a login
    users = {"alice": "secret"}
    server: KafkaServer = started(lambda: KafkaServer(users=users))
    host = server.url.partition("@")[2]
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", None):
        given = {"sasl_mechanism": mechanism} if mechanism else {}
        # When the password is right, then it opens
        run(opened(f"kafka://alice:secret@{host}/x", **given))
        # When it is wrong, then that is told in the broker's words (K11)
        error = failure(f"kafka://alice:secretx@{host}/x", **given)
        assert isinstance(error, AccessDenied) and "SASL_AUTHENTICATION_FAILED" in error.why
    # Without a login nothing answers, and the error says what may be missing
    error = failure(f"kafka://{host}/x")
    assert isinstance(error, BrokerUnavailable) and "login" in error.hint


def test_tls(started: Started, fresh: str) -> None:
    # Given a broker with TLS
    server: KafkaServer = started(lambda: KafkaServer(tls=True, users={"alice": "secret"}))
    made = server.certificates
    assert made is not None
    address = f"{server.url}/{fresh}"
    # When its authority is named, then everything works
    run(make(address, ssl_ca_certs=made.ca))
    assert run(publish(address, numbered(1000), ssl_ca_certs=made.ca)).confirmed == 1000
    assert len(run(read(address, ssl_ca_certs=made.ca))) == 1000
    assert len(server.read(fresh)) == 1000
    # When not, or not as TLS, then the reason is named
    error = failure(address)
    assert isinstance(error, BrokerUnavailable) and "not trusted" in error.why
    error = failure(address.replace("kafkas://", "kafka://"))
    assert isinstance(error, BrokerUnavailable) and "TLS" in error.hint
    # and --insecure goes without
    from mqcli.client import Client

    transport = Client.at(address, insecure=True).make(KafkaTopic)
    run(_open_and_close(transport))


async def _open_and_close(transport: KafkaTopic) -> None:
    try:
        await transport.open()
    finally:
        await transport.aclose()


def test_what_the_broker_advertises_is_named_when_it_cannot_be_reached(
    started: Started, fresh: str
) -> None:
    # Given a broker that tells its clients a name that leads nowhere
    server: KafkaServer = started(lambda: KafkaServer(advertised="broker.invalid:9092"))
    address = f"kafka://127.0.0.1:{server.port}/{fresh}"

    async def test() -> None:
        async with topic(address, num_partitions=1) as transport:
            # When something needs it, then the name and its origin are told
            with pytest.raises(BrokerUnavailable) as caught:
                await transport.create()
            assert "broker.invalid:9092" in str(caught.value)
            assert "advertised.listeners" in caught.value.hint

    run(test())


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("kafka://u:hunter2@example.org", {"sasl_mechanism": "PLAIN"}),
        ("kafka://localhost", {"sasl_mechanism": "PLAIN"}),
        ("kafka://localhost", {"sasl_mechanism": "OAUTHBEARER"}),
        ("kafka://localhost", {"ssl_ca_certs": "x"}),
        ("kafka://localhost/path", {}),
        ("kafkas://localhost", {"ssl_keyfile": "x"}),
    ],
)
def test_a_login_that_cannot_be_is_refused_before_a_socket_opens(
    url: str, given: dict[str, object]
) -> None:
    with pytest.raises(UsageError) as caught:
        client(f"{url}/x", **given).make(KafkaTopic)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", ".", "x" * 250, "%C3%A9"])
def test_a_name_that_no_topic_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        client(f"kafka://localhost/{name}").make(KafkaTopic)


def test_the_second_host_is_used_when_the_first_is_dead(kafka: Kafka, fresh: str) -> None:
    host = kafka.url.removeprefix("kafka://")
    run(opened(f"kafka://127.0.0.1:9,{host}/x"))
    error = failure("kafka://127.0.0.1:9,127.0.0.1:11/x")
    assert isinstance(error, BrokerUnavailable) and "127.0.0.1" in error.why
