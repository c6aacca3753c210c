"""RabbitMQ streams keep the contract; pika is the other client."""

from __future__ import annotations

import pytest

from mqcli.testing import TransportConformance

from ..brokers.rabbitmq import RabbitServer
from .rabbitmq_harness import StreamHarness


class TestStream(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: RabbitServer) -> StreamHarness:
        return StreamHarness(rabbitmq)
