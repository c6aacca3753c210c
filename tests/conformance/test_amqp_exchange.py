"""RabbitMQ exchanges keep the contract; pika is the other client."""

from __future__ import annotations

import pytest

from mqcli.testing import TransportConformance

from ..brokers.rabbitmq import Rabbit
from .rabbitmq_harness import ExchangeHarness, FanoutHarness, HeadersHarness


class TestTopicExchange(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> ExchangeHarness:
        return ExchangeHarness(rabbitmq)


class TestFanoutExchange(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> FanoutHarness:
        return FanoutHarness(rabbitmq)


class TestHeadersExchange(TransportConformance):
    @pytest.fixture
    def harness(self, rabbitmq: Rabbit) -> HeadersHarness:
        return HeadersHarness(rabbitmq)
