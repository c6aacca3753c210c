"""Kafka beside the suite: kcat is the other client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar
from uuid import uuid4

from mqcli.message import Message
from mqcli.testing import Harness

from ..brokers.kafka import Kafka
from ..brokers.process import free_port


class TopicHarness(Harness):
    """One partition: the suite looks at the order of all messages."""

    quick_claim: ClassVar[Sequence[tuple[str, str]]] = (("claim_after", "1s"),)

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka

    def fresh(self) -> str:
        return f"{self.kafka.url}/topic:t-{uuid4().hex[:12]}"

    def unreachable(self) -> str:
        return f"kafka://127.0.0.1:{free_port()}/topic:x"

    def disrupt(self, address: str) -> bool:
        self.kafka.break_connections()
        return True

    @staticmethod
    def name(address: str) -> str:
        return address.partition("?")[0].rpartition(":")[2]

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        self.kafka.send(self.name(address), messages)

    def foreign_read(self, address: str) -> list[Message]:
        return self.kafka.read(self.name(address))
