"""Redis beside the suite: redis-cli is the other client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar
from uuid import uuid4

from mqcli.message import Message
from mqcli.testing import Harness

from ..brokers.process import free_port
from ..brokers.redis import Redis


class RedisHarness(Harness):
    kind: ClassVar[str]

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def fresh(self) -> str:
        return f"{self.redis.url}/{self.kind}:t-{uuid4().hex[:12]}"

    def unreachable(self) -> str:
        return f"redis://127.0.0.1:{free_port()}/{self.kind}:x"

    def disrupt(self, address: str) -> bool:
        self.redis.kill_clients()
        return True

    @staticmethod
    def name(address: str) -> str:
        return address.partition("?")[0].rpartition(":")[2]


class ListHarness(RedisHarness):
    kind = "list"
    quick_claim: ClassVar[Sequence[tuple[str, str]]] = (("claim_after", "1s"),)

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        self.redis.pipe([["RPUSH", self.name(address), m.value or b""] for m in messages])

    def foreign_read(self, address: str) -> list[Message]:
        found = self.redis.cli("LRANGE", self.name(address), "0", "-1")
        return [Message(value) for value in found]


class PopHarness(ListHarness):
    options = (("take", "pop"),)
    quick_claim: ClassVar[Sequence[tuple[str, str]]] = ()


class StreamHarness(RedisHarness):
    kind = "stream"
    quick_claim = (("claim_after", "500ms"),)
    value_field = b"value"
    key_field = b""

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        commands: list[list[str | bytes]] = []
        for message in messages:
            fields: list[str | bytes] = [self.value_field, message.value or b""]
            if message.key is not None:
                fields += [self.key_field, message.key]
            commands.append(["XADD", self.name(address), "*", *fields])
        self.redis.pipe(commands)

    def foreign_read(self, address: str) -> list[Message]:
        found = []
        for place, fields in self.redis.cli("XRANGE", self.name(address), "-", "+"):
            message = Message(None, timestamp=int(place.partition(b"-")[0]))
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                if name == self.value_field:
                    message.value = value
                elif name == self.key_field:
                    message.key = value
                else:
                    message.headers += ((_text(name), _text(value)),)
            found.append(message)
        return found


class KeyedStreamHarness(StreamHarness):
    options = (("key_field", "id"), ("value_field", "body"))
    value_field = b"body"
    key_field = b"id"


class ChannelHarness(RedisHarness):
    kind = "channel"

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        self.redis.pipe([["PUBLISH", self.name(address), m.value or b""] for m in messages])

    @contextmanager
    def foreign_listen(self, address: str) -> Iterator[Callable[[int], list[Message]]]:
        with self.redis.listening("SUBSCRIBE", self.name(address)) as listener:
            yield lambda count: [Message(listener.next_reply(10)[-1]) for _ in range(count)]


class PatternHarness(RedisHarness):
    kind = "pattern"

    def fresh(self) -> str:
        return f"{super().fresh()}.*"

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        channel = self.name(address).replace("*", "some")
        self.redis.pipe([["PUBLISH", channel, m.value or b""] for m in messages])


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
