"""A Kafka topic: a log in partitions, with groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..errors import ConnectionLost, MqcliError, Refused, UsageError
from ..message import Message
from ..transport import Outcome, Publishes, Target, Traits
from . import _kafka_admin as admin
from ._kafka import Cluster, KafkaOptions, leaders, topic_name
from ._kafka_producer import Batch, Producer, Settings
from ._kafka_records import CODECS, Chunk, Columns, Packing, build, columns, murmur2, wire_headers

__all__ = ["KafkaTopic", "TopicOptions"]

_BATCH_BYTES = 1 << 20
_FRAME_AND_OVERHEAD = 61 + 36
_CONFIRM: dict[str, Literal["none", "reached", "stored"]] = {
    "all": "stored",
    "1": "reached",
    "0": "none",
}
_ASK_AGAIN = 300.0
"""Seconds after which a topic may have got more partitions."""


class TopicOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What Kafka alone has."""

    acks: Annotated[
        Literal["all", "1", "0"],
        Meta(description="who must have it: all replicas in sync, the leader, or nobody answers"),
    ] = "all"
    idempotent: Annotated[
        bool, Meta(description="number the batches, so that a resend stores nothing twice")
    ] = True
    compression: Annotated[
        Literal["none", "gzip", "snappy", "lz4", "zstd"], Meta(description="of published batches")
    ] = "none"
    compression_level: Annotated[int | None, Meta(description="for gzip, lz4 and zstd")] = None
    partition: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="publish to this one, unless a message names its own"),
    ] = None


class KafkaTopic(Publishes):
    """Guarantees: a message is confirmed when all replicas in sync have it (``acks=all``); order
    holds within a partition; a group shares the partitions among its members."""

    summary = "topic, a log in partitions with groups"
    Connection = KafkaOptions
    Options = TopicOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.name = topic_name(target)
        self._cluster = Cluster(target)
        self._producer: Producer | None = None
        self._limit = _BATCH_BYTES
        self._starting = asyncio.Lock()
        self._sticky = int(time.monotonic() * 1000)
        self._asked = 0.0

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        if options.compression_level is not None and options.compression in ("none", "snappy"):
            raise UsageError(f"compression_level does not go with {options.compression}")
        return Traits(
            confirm=_CONFIRM[options.acks],
            ack="none" if group is None else "upto",
            nack=False,
            keeps="log",
            order="key",
            shares=group is not None,
            fans_out=True,
            headers="bytes",
            keys=True,
            tombstones=True,
            missing="refused",
            properties=frozenset({"partition"}),
            timestamps=True,
            starts=frozenset({"beginning", "end", "skip", "last", "at", "time", "after"}),
        )

    async def open(self) -> None:
        await self._cluster.open()

    async def aclose(self) -> None:
        if self._producer is not None:
            await self._producer.aclose()
        await self._cluster.aclose()

    # -- publishing

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        async with self._starting:  # first come, first sent: the lock is fair
            if self._producer is None:
                try:
                    await self._start()
                except ConnectionLost:
                    raise
                except MqcliError as exc:
                    return Outcome(0, dict.fromkeys(range(len(batch)), exc))
            producer = self._producer
            assert producer is not None
            if producer.lost is not None:
                raise ConnectionLost("connection lost", where=self.target.where) from producer.lost
            sending = Batch(batch, columns(batch))
            producer.put(sending, self._chunks(sending, producer))
        await producer.settled(sending, timeout)
        return sending.outcome()

    async def _start(self) -> None:
        options, cluster = self.target.options, self._cluster
        known = await cluster.topic(self.name)
        if options.partition is not None and options.partition not in known:
            raise UsageError(
                f"the topic has no partition {options.partition}",
                where=self.target.where,
                hint=f"it has {len(known)}, counted from 0",
            )
        found, self._limit = await asyncio.gather(
            leaders(cluster, self.name, known), admin.largest_batch(cluster, self.name)
        )
        all_acks = options.acks == "all"
        packing = Packing(
            min(self._limit, _BATCH_BYTES), CODECS[options.compression], options.compression_level
        )
        settings = Settings(
            {"all": -1, "1": 1, "0": 0}[options.acks], all_acks and options.idempotent, packing
        )
        producer = Producer(cluster, self.name, settings)
        await producer.start(found)
        self._producer = producer

    def _chunks(self, sending: Batch, producer: Producer) -> list[Chunk]:
        """The batch by partitions, in order within each; what cannot be sent is refused."""
        parts, messages = sending.parts, sending.messages
        now_ms = int(time.time() * 1000)
        chosen = self._vetted(sending, len(producer.lanes))
        packing = producer.settings.packing
        self._sticky += 1
        count = len(producer.lanes)
        sticky = self._sticky % count
        keys = parts.keys if count > 1 else None
        if not sending.refused and chosen is None and keys is None:
            return build(sticky, range(len(messages)), parts, packing, now_ms)
        by_partition: dict[int, list[int]] = {}
        for index in range(len(messages)):
            if index in sending.refused:
                continue
            place = None if chosen is None else chosen[index]
            if place is None:
                key = None if keys is None else keys[index]
                place = sticky if key is None else murmur2(key) % count
            by_partition.setdefault(place, []).append(index)
        made: list[Chunk] = []
        for place, indices in by_partition.items():
            made += build(place, indices, parts.pick(indices), packing, now_ms)
        return made

    def _vetted(self, sending: Batch, count: int) -> list[int | None] | None:
        """Refuse what cannot be sent; the partitions that messages name, None where none does."""
        messages, parts, fixed = sending.messages, sending.parts, self.target.options.partition
        where, refused = self.target.where, sending.refused
        if parts.headers is not None:
            for index, headers in enumerate(parts.headers):
                try:
                    parts.headers[index] = wire_headers(headers) if headers else []
                except ValueError as exc:
                    parts.headers[index] = []
                    refused[index] = Refused(str(exc), where=where)
        chosen: list[int | None] | None = None if fixed is None else [fixed] * len(messages)
        if any([m.properties for m in messages]):  # noqa: C419 - a list is faster
            chosen = [fixed] * len(messages)
            for index, message in enumerate(messages):
                place = (message.properties or {}).get("partition")
                if place is None:
                    continue
                if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < count:
                    refused[index] = Refused(
                        f"the topic has no partition {place!r}",
                        where=where,
                        hint=f"it has {count}, counted from 0",
                    )
                else:
                    chosen[index] = place
        room = self._limit - _FRAME_AND_OVERHEAD
        if parts.size() > room:
            self._refuse_large(sending, room)
        return chosen

    def _refuse_large(self, sending: Batch, room: int) -> None:
        parts = sending.parts
        compressed = self.target.options.compression != "none"
        longest = max(map(len, filter(None, parts.values)), default=0)
        longest += max(map(len, filter(None, parts.keys or ())), default=0)
        if longest <= room and parts.headers is None:
            return
        for index in range(len(parts)):
            size = parts.cut(index, index + 1).size()
            if size <= room:
                continue
            if compressed and self._fits_compressed(parts.cut(index, index + 1)):
                continue
            sending.refused[index] = Refused(
                f"a message of {size} bytes is too large",
                where=self.target.where,
                why=f"the topic takes batches of {self._limit} bytes at most",
                hint="max.message.bytes of the topic is the limit"
                + ("" if compressed else "; -O compression=zstd may make it fit"),
            )

    def _fits_compressed(self, one: Columns) -> bool:
        assert self._producer is not None
        made = build(0, range(1), one, self._producer.settings.packing, 0)
        return len(made[0].data) <= self._limit
