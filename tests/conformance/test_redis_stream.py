"""Redis streams, without keys and with them, keep the contract."""

from __future__ import annotations

import pytest

from mqcli.testing import Harness, TransportConformance

from ..brokers.redis import Redis
from .redis_harness import KeyedStreamHarness, StreamHarness


class TestRedisStreamWithKeys(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return KeyedStreamHarness(redis)


class TestRedisStream(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return StreamHarness(redis)
