"""What the tests of the RabbitMQ transports share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pika

from mqcli.client import Client
from mqcli.message import Message
from mqcli.session import Limits

from ..brokers.rabbitmq import Rabbit

TIMEOUT = 10.0


@contextlib.contextmanager
def other(server: Rabbit, vhost: str = "/") -> Iterator[Any]:
    """A channel of pika's."""
    connection = pika.BlockingConnection(
        pika.ConnectionParameters("127.0.0.1", server.port, virtual_host=vhost)
    )
    try:
        yield connection.channel()
    finally:
        connection.close()


def ready(server: Rabbit, queue: str) -> int:
    with other(server) as channel:
        count: int = channel.queue_declare(queue, passive=True).method.message_count
        return count


def bodies(server: Rabbit, queue: str) -> list[bytes]:
    """Takes all."""
    found = []
    with other(server) as channel:
        while True:
            method, _, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append(body)


def fill(server: Rabbit, queue: str, values: Sequence[bytes], **properties: Any) -> None:
    """By pika, confirmed."""
    with other(server) as channel:
        channel.confirm_delivery()
        for value in values:
            channel.basic_publish("", queue, value, pika.BasicProperties(**properties))


async def published(client: Client, messages: Sequence[Message], **settings: Any) -> Any:
    """A publisher that has finished with these."""
    async with client.publisher(**settings) as publisher:
        await publisher.submit(messages)
        await publisher.finish()
        return publisher


def client(
    server: Rabbit, destination: str, *options: tuple[str, str], limits: Limits | None = None
) -> Client:
    return Client.at(server.at(destination), options, limits)


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%05d" % n for n in range(first, first + count)]
