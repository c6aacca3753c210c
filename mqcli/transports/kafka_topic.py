"""A Kafka topic: a log in partitions, with groups."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..errors import ConnectionLost, MqcliError, NotFound, Refused, Unsupported, UsageError
from ..message import Message
from ..options import Duration
from ..position import BEGINNING, END, Start
from ..roles import Seeks, Transacts
from ..transport import (
    Consumes,
    Feed,
    Inspects,
    Manages,
    Outcome,
    Span,
    Tails,
    Target,
    Traits,
)
from . import _kafka_admin as admin
from ._kafka import Cluster, KafkaOptions, leaders, topic_name
from ._kafka_feed import Reading
from ._kafka_groups import GroupFeed, committed_places
from ._kafka_lanes import Batch
from ._kafka_log import LogFeed, last_places
from ._kafka_offsets import parse_partitions, start_places
from ._kafka_producer import Producer, Settings
from ._kafka_records import CODECS, Chunk, Packing, build, columns, murmur2, wire_headers
from ._kafka_transaction import Transaction, new_id

__all__ = ["KafkaTopic", "TopicOptions"]

_BATCH_BYTES = 1 << 20
_CONFIRM: dict[str, Literal["none", "reached", "stored"]] = {
    "all": "stored",
    "1": "reached",
    "0": "none",
}
_DURABLE = {
    "all": "replicated-memory: in the page cache of all replicas in sync (acks=all), not flushed",
    "1": "server-memory: in the page cache of the partition's leader (acks=1)",
    "0": "",
}


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
    num_partitions: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="create: how many; the broker decides by default"),
    ] = None
    replication_factor: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="create: copies of each partition; the broker decides by default"),
    ] = None
    config: Annotated[
        tuple[str, ...],
        Meta(description="create: name=value of a topic's configuration; may be repeated"),
    ] = ()
    transaction_timeout: Annotated[
        Duration, Meta(description="the broker undoes a transaction that stays open for longer")
    ] = Duration(300)
    partitions: Annotated[
        str, Meta(description="read only these, such as 0,3-5; all by default")
    ] = ""
    ordered: Annotated[
        bool, Meta(description="merge the partitions by timestamp, not by arrival")
    ] = False
    isolation: Annotated[
        Literal["read_committed", "read_uncommitted"],
        Meta(description="whether open and aborted transactions are hidden"),
    ] = "read_committed"
    regex: Annotated[
        bool, Meta(description="the name is a regular expression over all topics (tail only)")
    ] = False
    claim_after: Annotated[
        Duration,
        Meta(description="a group gives our partitions to others after so long without us"),
    ] = Duration(30)
    check_crcs: Annotated[bool, Meta(description="verify the checksum of what is read")] = True
    skip_unreadable: Annotated[
        bool, Meta(description="go on behind a batch that cannot be decoded, with a gap")
    ] = False


class KafkaTopic(Transacts, Consumes, Tails, Inspects, Manages, Seeks):
    """Guarantees: a message is confirmed when all replicas in sync have it (``acks=all``); order
    holds within a partition; a group shares the partitions among its members."""

    summary = "topic, a log in partitions with groups"
    Connection = KafkaOptions
    Options = TopicOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.name = _pattern(target) if target.options.regex else topic_name(target)
        self._cluster = Cluster(target)
        self._producer: Producer | None = None
        self._limit = _BATCH_BYTES
        self._starting = asyncio.Lock()
        self._sticky = int(time.monotonic() * 1000)
        self._atomic = False
        self._transaction: Transaction | None = None

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        if group is not None and options.partitions:
            raise UsageError("partitions= does not go with a group, which assigns them")
        parse_partitions(options.partitions, "")
        if options.compression_level is not None and options.compression in ("none", "snappy"):
            raise UsageError(f"compression_level does not go with {options.compression}")
        return Traits(
            confirm=_CONFIRM[options.acks],
            durable=_DURABLE[options.acks],
            ack="none" if group is None else "upto",
            nack=False,
            keeps="log",
            order="key",
            shares=group is not None,
            fans_out=True,
            headers="nullable",
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
        if not batch:
            return Outcome(0)
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
            chunks = self._chunks(sending, producer)
            transaction = self._transaction
            if transaction is not None:
                try:
                    await transaction.enlist((chunk.partition for chunk in chunks), timeout)
                except ConnectionLost:
                    raise
                except MqcliError as exc:
                    return Outcome(0, dict.fromkeys(range(len(batch)), exc))
            producer.put(sending, chunks)
        await producer.settled(sending, timeout)
        if transaction is not None:
            for indices, partition, base in sending.places:
                transaction.stored(partition, base + len(indices))
        return sending.outcome()

    async def begin(self) -> None:
        """Publish in one transaction from now on: none of it can be seen before :meth:`commit`,
        which others wait for that read committed messages only. Call it before the first
        ``publish``, and end with :meth:`commit` or :meth:`abort`.
        Raises UsageError, AccessDenied, NotFound, ConnectionLost."""
        options = self.target.options
        if options.acks != "all" or not options.idempotent:
            raise UsageError(
                "a transaction needs acks=all and idempotent=true", where=self.target.where
            )
        if self._producer is not None:
            raise UsageError("something was published already", where=self.target.where)
        self._atomic = True
        await self._start()

    async def commit(self, timeout: float) -> None:
        """All becomes visible, and has when this returns. Raises ConnectionLost when the fate is
        unknown; after any other error it is undone."""
        assert self._transaction is not None
        await self._transaction.commit(timeout)

    async def abort(self, timeout: float) -> None:
        """Nothing of it will ever be seen."""
        assert self._transaction is not None
        await self._transaction.abort(timeout)

    async def _start(self) -> None:
        options, cluster = self.target.options, self._cluster
        known = await cluster.topic(self.name)
        if options.partition is not None and options.partition not in known:
            raise UsageError(
                f"the topic has no partition {options.partition}",
                where=self.target.where,
                hint=f"it has {len(known)}, counted from 0",
            )
        if any(partition.leader < 0 for partition in known.values()):
            found = await leaders(cluster, self.name, known)
        else:
            found = {number: partition.leader for number, partition in known.items()}
        self._limit = await admin.largest_batch(cluster, self.name)
        all_acks = options.acks == "all"
        packing = Packing(
            min(self._limit, _BATCH_BYTES),
            CODECS[options.compression],
            options.compression_level,
            self._atomic,
        )
        settings = Settings(
            {"all": -1, "1": 1, "0": 0}[options.acks],
            all_acks and options.idempotent,
            packing,
            new_id() if self._atomic else None,
        )
        producer = Producer(cluster, self.name, settings)
        await producer.start(found, options.transaction_timeout)
        self._producer = producer
        if self._atomic:
            self._transaction = Transaction(cluster, self.name, producer)

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
            made = build(sticky, range(len(messages)), parts, packing, now_ms)
            return self._fitting(sending, made)
        by_partition: dict[int, list[int]] = {}
        for index in range(len(messages)):
            if index in sending.refused:
                continue
            place = None if chosen is None else chosen[index]
            if place is None:
                key = None if keys is None else keys[index]
                place = sticky if key is None else murmur2(key) % count
            by_partition.setdefault(place, []).append(index)
        made = []
        for place, indices in by_partition.items():
            made += build(place, indices, parts.pick(indices), packing, now_ms)
        return self._fitting(sending, made)

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
        if parts.properties is not None:
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
        return chosen

    def _fitting(self, sending: Batch, chunks: list[Chunk]) -> list[Chunk]:
        """A message that is too large stands alone in its chunk: refuse it."""
        fitting = []
        compressed = self.target.options.compression != "none"
        for chunk in chunks:
            size = chunk.size() if len(chunk.indices) == 1 else 0
            if size <= self._limit:
                fitting.append(chunk)
                continue
            sending.refused[chunk.indices[0]] = Refused(
                f"a message of {size} bytes{' when compressed' if compressed else ''} is too large",
                where=self.target.where,
                why=f"the topic takes {self._limit} at most",
                hint="max.message.bytes of the topic is the limit"
                + ("" if compressed else "; -O compression=zstd may make it fit"),
            )
        return fitting

    # -- reading

    def _reading(self) -> Reading:
        options = self.target.options
        return Reading(
            options.isolation == "read_committed",
            options.check_crcs,
            options.skip_unreadable,
            options.ordered,
        )

    async def _log(self, span: Span, limit: int | None, *, pattern: bool, tail: bool) -> Feed:
        partitions = parse_partitions(self.target.options.partitions, self.target.where)
        feed = LogFeed(
            self._cluster, self._reading(), limit, self.name, partitions, pattern=pattern
        )
        try:
            await feed.open(span, END if tail else BEGINNING)
        except BaseException:
            await feed.aclose()
            raise
        return feed

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        options = self.target.options
        if options.regex:
            raise Unsupported("regex=true works with tail only", where=self.target.where)
        if group is None:
            return await self._log(span, limit, pattern=False, tail=False)
        feed = GroupFeed(
            self._cluster, self._reading(), limit, self.name, group, options.claim_after
        )
        try:
            await feed.open(span)
        except BaseException:
            await feed.aclose()
            raise
        return feed

    async def tail(self, span: Span) -> Feed:
        return await self._log(span, None, pattern=self.target.options.regex, tail=True)

    # -- looking and preparing

    async def exists(self) -> bool:
        try:
            await self._cluster.topic(self.name)
        except NotFound:
            return False
        return True

    async def describe(self, group: str | None) -> dict[str, Any]:
        if group is not None:
            return await admin.describe_group(self._cluster, self.name, group)
        return await admin.describe_topic(self._cluster, self.name)

    async def create(self) -> bool:
        options = self.target.options
        return await admin.create_topic(
            self._cluster,
            self.name,
            options.num_partitions or -1,
            options.replication_factor or -1,
            admin.parse_config(options.config, self.target.where),
        )

    async def purge(self) -> int | None:
        return await admin.purge_topic(self._cluster, self.name)

    async def delete(self) -> None:
        await admin.delete_topic(self._cluster, self.name)

    async def seek(self, group: str, start: Start, *, commit: bool) -> list[dict[str, Any]]:
        """Where ``start`` is for a group, by partition: ``committed`` is its place now, ``to`` the
        new one, which is committed if asked. Raises NotFound, UsageError, Refused while the group
        has members (also without committing, for then the plan would be void)."""
        where, cluster, how = self.target.where, self._cluster, self._reading()
        chosen = parse_partitions(self.target.options.partitions, where)
        numbers = chosen or list(await cluster.topic(self.name))
        if start.kind == "last":
            places = await last_places(cluster, how, self.name, numbers, start.count, {})
        else:
            places, _ = await start_places(
                cluster, self.name, numbers, start, where, committed=how.committed
            )
        before = await committed_places(cluster, group, self.name, list(places))
        await admin.set_places(cluster, self.name, group, places if commit else {})
        return [
            {"partition": number, "committed": before.get(number), "to": place}
            for number, place in sorted(places.items())
        ]


def _pattern(target: Target) -> str:
    name = target.address.name
    try:
        re.compile(name)
    except re.error as exc:
        raise UsageError(
            f"{name!r} is no regular expression", where=target.where, why=str(exc)
        ) from exc
    return name
