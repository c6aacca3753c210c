"""Redis lists, taken reliably or popped, keep the contract."""

from __future__ import annotations

import pytest

from mqcli.testing import Harness, TransportConformance

from ..brokers.redis import Redis
from .redis_harness import ListHarness, PopHarness


class TestRedisList(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return ListHarness(redis)


class TestRedisListPopped(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return PopHarness(redis)
