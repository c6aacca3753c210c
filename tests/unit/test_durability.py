"""What a confirmed message survives, as each transport tells it."""

from __future__ import annotations

import msgspec
import pytest

from mqcli import registry
from mqcli.address import parse_address
from mqcli.benchmark.result import Durability
from mqcli.transport import Publishes, Traits


def traits_of(text: str, *pairs: tuple[str, str]) -> Traits:
    cls, target = registry.target(parse_address(text), pairs)
    assert issubclass(cls, Publishes)
    return cls.traits(target.options, None)


@pytest.mark.parametrize(
    ("address", "option", "level"),
    [
        ("sqlite:///a/b.db/t", None, "file"),
        ("sqlite:///a/b.db/t", ("sync", "full"), "disk"),
        ("redis://h/stream:x", None, "server-memory"),
        ("rediss+sentinel://h/m/stream:x", None, "server-memory"),
        ("redis+cluster://h/list:x", None, "server-memory"),
        ("redis://h/channel:x", None, "listeners"),
        ("amqp://h/queue:x", None, "disk"),
        ("amqp://h/queue:x", ("persistent", "false"), "server-memory"),
        ("amqp://h/queue:x", ("durable", "false"), "server-memory"),
        ("amqps://h/queue:x", ("queue_type", "quorum"), "replicated"),
        ("amqp://h/stream:x", None, "replicated-memory"),
        ("amqp://h/exchange:x", None, "routed"),
        ("kafka://h/x", None, "replicated-memory"),
        ("kafka://h/x", ("acks", "1"), "server-memory"),
        ("kafkas://h/x", ("acks", "0"), "none"),
    ],
)
def test_every_transport_tells_it(address: str, option: tuple[str, str] | None, level: str) -> None:
    # Given a destination and an option that may change its guarantee
    traits = traits_of(address, *([option] if option else []))
    # When asked what a confirmed message survives
    found = Durability.of(traits)
    # Then the level is of that guarantee, with words for people
    assert found.level == level
    assert len(found.words) > 10


def test_a_transport_that_tells_nothing_gets_the_least_that_holds() -> None:
    # Given traits without own words
    traits = msgspec.structs.replace(traits_of("redis://h/list:x"), durable="")
    # Then what is confirmed decides
    assert Durability.of(traits).level == "stored"
    assert Durability.of(msgspec.structs.replace(traits, confirm="reached")).level == "reached"
    assert Durability.of(msgspec.structs.replace(traits, confirm="none")).level == "none"
