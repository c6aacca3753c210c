"""Kafka topics keep the contract."""

from __future__ import annotations

import pytest

from mqcli.testing import Harness, TransportConformance

from ..brokers.kafka import Kafka
from .kafka_harness import TopicHarness


class TestKafkaTopic(TransportConformance):
    @pytest.fixture
    def harness(self, kafka: Kafka) -> Harness:
        return TopicHarness(kafka)
