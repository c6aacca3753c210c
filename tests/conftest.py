"""Fixtures for every test: real brokers, found or started lazily and stopped at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar
from uuid import uuid4

import pytest
from hypothesis import settings

from .brokers import kafka as kafka_brokers
from .brokers import need
from .brokers import rabbitmq as rabbit
from .brokers.redis import Redis, shared

# Two workers share two cores with brokers: a slow example is no failure.
settings.register_profile("mqcli", deadline=None, max_examples=100)
settings.load_profile("mqcli")


class Startable(Protocol):
    def start(self) -> object: ...
    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A plain Redis that the tests of this process share: use fresh names."""
    server = need("redis", shared)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[rabbit.Rabbit]:
    """A RabbitMQ that the tests of this process share: use fresh names."""
    server = need("rabbitmq", rabbit.shared)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka() -> Iterator[kafka_brokers.Kafka]:
    """A Kafka broker that the tests of this process share: use fresh names."""
    server = need("kafka", kafka_brokers.shared)
    yield server
    server.stop()


@pytest.fixture
def started() -> Iterator[Callable[[Callable[[], S]], S]]:
    """``started(RedisCluster)`` is a server of this test's own, stopped when the test ends."""
    running: list[Startable] = []

    def start(make: Callable[[], S]) -> S:
        def made() -> S:
            server = make()
            running.append(server)
            server.start()
            return server

        return need(make.__module__.rpartition(".")[2], made)

    yield start
    for server in reversed(running):
        server.stop()


@pytest.fixture
def fresh() -> str:
    """A name that nobody has used before, short enough to read in an error."""
    return f"t-{uuid4().hex[:12]}"
