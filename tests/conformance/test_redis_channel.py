"""Redis channels and patterns keep the contract."""

from __future__ import annotations

import pytest

from mqcli.testing import Harness, TransportConformance

from ..brokers.redis import Redis
from .redis_harness import ChannelHarness, PatternHarness


class TestRedisChannel(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return ChannelHarness(redis)


class TestRedisPattern(TransportConformance):
    @pytest.fixture
    def harness(self, redis: Redis) -> Harness:
        return PatternHarness(redis)
