"""RabbitMQ streams keep the contract; pika is the other client."""

from __future__ import annotations

import pytest

from mqcli.testing import TransportConformance

from ..brokers.rabbitmq import Rabbit
from .rabbitmq_harness import StreamHarness


class TestStream(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> StreamHarness:
        return StreamHarness(rabbitmq)
