"""RabbitMQ beside the suite: pika is the other client, with a decoder of field tables of its own
here, since pika's gives dicts without types."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pika.data

from mqcli.message import Message, Tagged
from mqcli.testing import Harness

from ..brokers.process import free_port
from ..brokers.rabbitmq import Rabbit

_plain_table = pika.data.decode_table
_NUMBERS = {
    b"b": ("i8", ">b"), b"B": ("u8", ">B"), b"s": ("i16", ">h"), b"u": ("u16", ">H"),
    b"I": ("i32", ">i"), b"i": ("u32", ">I"), b"L": ("u64", ">Q"), b"f": ("f32", ">f"),
    b"T": ("time", ">Q"),
}  # fmt: skip


_ADDED = ("x-stream-offset", "x-delivery-count")
"""Headers that the broker puts into what it delivers."""


class Table(dict[str, Any]):
    pairs: tuple[Any, ...] = ()


def _decode_table(encoded: bytes, offset: int) -> tuple[Table, int]:
    plain, end = _plain_table(encoded, offset)
    table = Table(plain)
    table.pairs = _pairs(encoded[offset + 4 : end])
    return table, end


def _pairs(data: bytes) -> tuple[Any, ...]:
    found = []
    while data:
        size = data[0]
        name, code, data = data[1 : 1 + size], data[1 + size : 2 + size], data[2 + size :]
        value: Any
        if code in (b"S", b"x", b"A", b"F"):
            (length,) = struct.unpack(">I", data[:4])
            raw, data = data[4 : 4 + length], data[4 + length :]
            value = (
                raw.decode()
                if code == b"S"
                else Tagged("table", _pairs(raw))
                if code == b"F"
                else raw
            )
        elif code in (b"l", b"d"):
            (value,) = struct.unpack(">q" if code == b"l" else ">d", data[:8])
            data = data[8:]
        elif code == b"t":
            value, data = data[0] == 1, data[1:]
        elif code == b"V":
            value = Tagged("null", None)
        elif code == b"D":
            scale, number = struct.unpack(">Bi", data[:5])
            value, data = Tagged("decimal", str(Decimal(number).scaleb(-scale))), data[5:]
        else:
            tag, form = _NUMBERS[code]
            (number,) = struct.unpack(form, data[: struct.calcsize(form)])
            value, data = Tagged(tag, number), data[struct.calcsize(form) :]  # type: ignore[arg-type]
        found.append((name.decode(), value))
    return tuple(found)


pika.data.decode_table = _decode_table


class RabbitHarness(Harness):
    kind: ClassVar[str]

    def __init__(self, rabbitmq: Rabbit) -> None:
        self.server = rabbitmq

    def fresh(self) -> str:
        return self.server.at(f"{self.kind}:t-{uuid4().hex[:12]}")

    def unreachable(self) -> str:
        return f"amqp://127.0.0.1:{free_port()}/{self.kind}:x"

    def disrupt(self, address: str) -> bool:
        self.server.close_connections()
        return True

    @staticmethod
    def name(address: str) -> str:
        return address.partition("?")[0].rpartition(":")[2]

    @contextmanager
    def channel(self) -> Iterator[Any]:
        port = urlsplit(self.server.url).port
        connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", port, client_properties={"product": "other"})
        )
        try:
            yield connection.channel()
        finally:
            connection.close()

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        self.publish("", self.name(address), messages)

    def publish(self, exchange: str, key: str, messages: Sequence[Message]) -> None:
        properties = pika.BasicProperties(delivery_mode=2)
        with self.channel() as channel:
            channel.confirm_delivery()
            for message in messages:
                assert not message.headers
                channel.basic_publish(exchange, key, message.value or b"", properties)


def _message(method: Any, properties: Any, body: bytes) -> Message:
    headers = properties.headers.pairs if properties.headers else ()
    headers = tuple(pair for pair in headers if pair[0] not in _ADDED)
    key = method.routing_key
    return Message(body, os.fsencode(key) if isinstance(key, str) else key, headers)


def _keyless(found: list[Message]) -> list[Message]:
    for message in found:
        message.key = None  # the queue's name, to AMQP
    return found


class QueueHarness(RabbitHarness):
    kind = "queue"

    def foreign_read(self, address: str) -> list[Message]:
        """Takes all and sends it again: to give back would mark it redelivered."""
        name, found = self.name(address), []
        with self.channel() as channel:
            count = channel.queue_declare(name, passive=True).method.message_count
            if not count:
                return []
            # Not by basic.get: for that a quorum queue sorts the headers.
            channel.basic_qos(prefetch_count=count)
            reading = channel.consume(name, inactivity_timeout=10)
            for _ in range(count):
                method, properties, body = next(reading)
                assert method is not None, f"{len(found)} of {count} came"
                found.append((_message(method, properties, body), properties))
            channel.cancel()
            channel.basic_ack(method.delivery_tag, multiple=True)
            channel.confirm_delivery()
            for message, properties in found:
                channel.basic_publish("", name, message.value, properties)
        return _keyless([message for message, _ in found])


class QuorumHarness(QueueHarness):
    options = (("queue_type", "quorum"),)


class GatheringHarness(QueueHarness):
    """Acknowledgements that wait for each other keep every promise."""

    options = (("ack_every", "3"),)


class StreamHarness(RabbitHarness):
    kind = "stream"

    def foreign_read(self, address: str) -> list[Message]:
        found = []
        with self.channel() as channel:
            channel.basic_qos(prefetch_count=1000)
            reading = channel.consume(
                self.name(address), arguments={"x-stream-offset": "first"}, inactivity_timeout=0.4
            )
            for method, properties, body in reading:
                if method is None:
                    break
                found.append(_message(method, properties, body))
                channel.basic_ack(method.delivery_tag)
        return _keyless(found)


class ExchangeHarness(RabbitHarness):
    kind = "exchange"
    exchange_type: ClassVar[str] = "topic"
    # The suite publishes also while nobody listens.
    options = (("mandatory", "false"),)

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        self.publish(self.name(address), "some.key", messages)

    def foreign_read(self, address: str) -> list[Message]:
        return []

    @contextmanager
    def foreign_listen(self, address: str) -> Iterator[Callable[[int], list[Message]]]:
        with self.channel() as channel:
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queue, self.name(address), "#", {"x-match": "all"})

            def listen(count: int) -> list[Message]:
                found: list[Message] = []
                if not count:
                    return found
                for method, properties, body in channel.consume(queue, inactivity_timeout=10):
                    assert method is not None, f"heard {len(found)} of {count}"
                    message = _message(method, properties, body)
                    message.key = message.key or None
                    found.append(message)
                    if len(found) == count:
                        break
                return found

            yield listen


class FanoutHarness(ExchangeHarness):
    options = (("mandatory", "false"), ("exchange_type", "fanout"))


class HeadersHarness(ExchangeHarness):
    options = (("mandatory", "false"), ("exchange_type", "headers"))
