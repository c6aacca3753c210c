"""RabbitMQ queues keep the contract; pika is the other client."""

from __future__ import annotations

import pytest

from mqcli.testing import TransportConformance

from ..brokers.rabbitmq import Rabbit
from .rabbitmq_harness import GatheringHarness, QueueHarness, QuorumHarness


class TestClassicQueue(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> QueueHarness:
        return QueueHarness(rabbitmq)


class TestQuorumQueue(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> QuorumHarness:
        return QuorumHarness(rabbitmq)


class TestGatheredAcknowledgements(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> GatheringHarness:
        return GatheringHarness(rabbitmq)
