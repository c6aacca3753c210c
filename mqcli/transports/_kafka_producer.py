"""Publishing to one topic: batches in lanes, one for each partition, and what became of each.

By default a batch carries a producer id and a sequence number, so that sending it again after a
lost connection or a change of leader cannot store it twice, and nothing can overtake.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Any

from aiokafka.protocol import produce
from aiokafka.protocol.transaction import InitProducerIdRequest
from msgspec import Struct

from ..errors import ConnectionLost, MqcliError, Refused
from . import _kafka_errors as errors
from ._kafka import Cluster
from ._kafka_lanes import Batch, Lane, Sent
from ._kafka_records import Chunk, Packing, build
from ._kafka_wire import Wire

__all__ = ["Producer", "Settings"]

_IN_FLIGHT = 5
"""Requests to one broker, and batches of one partition: brokers remember five for repetitions."""
_REQUEST_BYTES = 8 << 20
_PAUSE = 0.1
_DIVIDED = frozenset({2, 10, 18, 32, 43, 44, 76, 87})
"""Refused for the sake of one message perhaps: the others are sent again without it."""


class Settings(Struct, frozen=True):
    """``acks`` as on the wire: -1 is all. ``idempotent`` needs -1."""

    acks: int = -1
    idempotent: bool = True
    packing: Packing = Packing(1_000_000)
    transactional_id: str | None = None


class Producer:
    """Opened by the first batch; ``lost`` once it has given up, and then of no more use."""

    def __init__(self, cluster: Cluster, topic: str, settings: Settings) -> None:
        self.cluster, self.topic, self.settings = cluster, topic, settings
        self.where = cluster.where
        self.lanes: dict[int, Lane] = {}
        self.lost: MqcliError | None = None
        self.producer, self.epoch = -1, -1
        self._timeout = 30.0
        self._in_flight: dict[int, int] = {}
        self._connecting: set[int] = set()
        self._refreshing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = 0.0
        self._number = 0
        self._trouble: MqcliError | None = None

    async def start(self, partitions: dict[int, int], transaction_seconds: float = 60.0) -> None:
        """``partitions`` are all of the topic, with their leaders. Raises the errors of
        ``Cluster``; AccessDenied where the user may not be idempotent."""
        if self.settings.idempotent:
            await self.identify(transaction_seconds)
        self.lanes = {number: Lane(number, leader) for number, leader in partitions.items()}

    async def identify(self, transaction_seconds: float) -> None:
        """Get a producer id; with a transactional id, also end what an earlier holder left open."""
        name = self.settings.transactional_id
        deadline = time.monotonic() + self.cluster.patience
        while True:
            node = None if name is None else await self.cluster.coordinator(name, transaction=True)
            answer = await self.cluster.call(
                InitProducerIdRequest(name, int(transaction_seconds * 1000)), node
            )
            if answer.error_code == errors.OK:
                self.producer, self.epoch = answer.producer_id, answer.producer_epoch
                return
            if answer.error_code not in errors.RETRIABLE or time.monotonic() > deadline:
                raise errors.failure(answer.error_code, self.where)
            await asyncio.sleep(_PAUSE)

    # -- in

    def put(self, batch: Batch, chunks: list[Chunk]) -> None:
        """Line the chunks up behind all that were put before, and send what may leave."""
        for chunk in chunks:
            self._number += 1
            self.lanes[chunk.partition].waiting.append(Sent(chunk, batch, self._number))
        batch.open += len(chunks)
        if not chunks:
            batch.finish(0)
        self._pump()

    async def settled(self, batch: Batch, timeout: float) -> None:
        """Return when every message of the batch is accounted for, at the latest ``timeout``
        seconds after the last answer."""
        self._timeout = timeout
        since = time.monotonic()
        while not batch.done.done():
            left = max(since, self._progress) + timeout - time.monotonic()
            if left <= 0:
                trouble = self._trouble
                self.give_up(
                    ConnectionLost(
                        f"no answer within {timeout:g} s",
                        where=self.where,
                        why="" if trouble is None else trouble.why or trouble.what,
                    )
                )
                return
            await asyncio.wait((batch.done,), timeout=left)

    def give_up(self, cause: MqcliError) -> None:
        """Account for everything: what may be stored is unknown, the rest is refused."""
        self.lost = cause
        for lane in self.lanes.values():
            flying = set(map(id, lane.flying))
            for sent in lane.all():
                if sent.doubtful or id(sent) in flying:
                    sent.batch.unknown += sent.chunk.indices
                    sent.batch.cause = cause
                else:
                    self._refuse(sent, sent.error or cause)
                sent.batch.finish()
            lane.flying, lane.back = [], []
            lane.waiting.clear()

    def _refuse(self, sent: Sent, error: MqcliError) -> None:
        sent.batch.refused.update(dict.fromkeys(sent.chunk.indices, error))

    # -- out

    def _pump(self) -> None:
        if self.lost is not None:
            return
        now = time.monotonic()
        most = _IN_FLIGHT if self.settings.idempotent or not self.settings.acks else 1
        while True:
            by_node: dict[int, list[Lane]] = {}
            for lane in self.lanes.values():
                if lane.waiting and lane.ready(now, most):
                    by_node.setdefault(lane.leader, []).append(lane)
            sent = False
            for node, lanes in by_node.items():
                if self._in_flight.get(node, 0) < _IN_FLIGHT:
                    wire = self.cluster.ready_wire(node)
                    if wire is None:
                        self._connect(node)
                    else:
                        self._send(node, wire, lanes)
                        sent = True
            if not sent:
                return

    def _send(self, node: int, wire: Wire, lanes: list[Lane]) -> None:
        taken: list[tuple[Lane, Sent]] = []
        size = 0
        for lane in lanes:
            sent = lane.waiting.popleft()
            chunk = sent.chunk
            if chunk.sequence < 0 or chunk.builder is not None:
                if self.settings.idempotent:
                    chunk.stamp(self.producer, self.epoch, lane.sequence)
                    lane.sequence = (lane.sequence + len(chunk.indices)) & 0x7FFFFFFF
                else:
                    chunk.stamp(-1, -1, -1)
            lane.flying.append(sent)
            taken.append((lane, sent))
            size += len(chunk.data)
            if size > _REQUEST_BYTES:
                break
        version = min(8, wire.versions.get(0, (0, 0))[1])
        acks = self.settings.acks
        try:
            waiting = wire.write(self._encoded(wire, version, taken), answered=acks != 0)
        except ConnectionLost as exc:
            for lane, sent in taken:
                self._came_back(lane, sent, exc)
            self._refresh()
            return
        self._in_flight[node] = self._in_flight.get(node, 0) + 1
        self._spawn(self._answered(node, wire, waiting, version, taken))

    def _encoded(
        self, wire: Wire, version: int, taken: list[tuple[Lane, Sent]]
    ) -> list[bytes | bytearray]:
        name, topic = self.settings.transactional_id, self.topic.encode()
        text = b"\xff\xff" if name is None else struct.pack(">h", len(name)) + name.encode()
        within = int(self._timeout * 400)
        pieces: list[bytes | bytearray] = [
            wire.head(0, version),
            text,
            struct.pack(">hiih", self.settings.acks, within, 1, len(topic)),
            topic,
            struct.pack(">i", len(taken)),
        ]
        for lane, sent in taken:
            pieces.append(struct.pack(">ii", lane.partition, len(sent.chunk.data)))
            pieces.append(sent.chunk.data)
        return pieces

    async def _answered(
        self,
        node: int,
        wire: Wire,
        waiting: asyncio.Future[Any],
        version: int,
        taken: list[tuple[Lane, Sent]],
    ) -> None:
        try:
            if not self.settings.acks:
                await wire.drain(self._timeout)
                for lane, sent in taken:
                    self._confirm(lane, sent, -1)
                return
            patience = self._timeout / 2 if self.settings.idempotent else self._timeout
            frame = await wire.answer(waiting, patience)
            response = getattr(produce, f"ProduceResponse_v{version}").decode(bytes(frame[4:]))
            rows = {row[0]: row for row in response.topics[0][1]}
            for lane, sent in taken:
                row = rows[lane.partition]
                told = (row[5], row[6]) if version >= 8 else ([], None)
                self._judge(lane, sent, row[1], row[2], *told)
        except ConnectionLost as exc:
            for lane, sent in taken:
                sent.doubtful = True
                if self.settings.idempotent:
                    self._came_back(lane, sent, exc)
                else:
                    self._unknown(lane, sent, exc)
            self._refresh()
        finally:
            self._in_flight[node] -= 1
            self._pump()

    # -- judging

    def _judge(
        self,
        lane: Lane,
        sent: Sent,
        code: int,
        base: int,
        culprits: Sequence[tuple[int, str | None]] | None,
        message: str | None,
    ) -> None:
        if sent not in lane.flying:  # given up meanwhile
            return
        if code in (errors.OK, errors.DUPLICATE_SEQUENCE):
            self._confirm(lane, sent, base if code == errors.OK else -1)
            return
        error = errors.failure(code, self.where, message)
        if code in errors.RETRIABLE:
            sent.doubtful = sent.doubtful or code in errors.MAYBE_STORED
            self._came_back(lane, sent, error)
            lane.not_before = time.monotonic() + _PAUSE
            self._refresh()
        elif code == errors.OUT_OF_ORDER_SEQUENCE and lane.holding:
            self._came_back(lane, sent, error)  # only because one before it was not stored
        elif code == errors.OUT_OF_ORDER_SEQUENCE or code == 59:
            error = ConnectionLost(
                "the broker has forgotten what it had confirmed",
                where=self.where,
                why=errors.text(code, message),
                hint="it may have lost messages: a leader was elected that lacked them",
            )
            sent.error = error
            lane.flying.remove(sent)
            lane.back.append(sent)
            self.give_up(error)
        else:
            self._refused(lane, sent, code, error, culprits)

    def _confirm(self, lane: Lane, sent: Sent, base: int) -> None:
        if sent not in lane.flying:
            return
        lane.flying.remove(sent)
        batch, indices = sent.batch, sent.chunk.indices
        batch.confirmed += len(indices)
        if base >= 0:
            batch.places.append((indices, lane.partition, base))
        self._progress = time.monotonic()
        batch.finish()
        lane.settle()

    def _came_back(self, lane: Lane, sent: Sent, error: MqcliError) -> None:
        if sent not in lane.flying:
            return
        sent.error = self._trouble = error
        lane.flying.remove(sent)
        lane.back.append(sent)
        lane.holding = True
        lane.settle()

    def _unknown(self, lane: Lane, sent: Sent, cause: MqcliError) -> None:
        if sent not in lane.flying:
            return
        lane.flying.remove(sent)
        sent.batch.unknown += sent.chunk.indices
        sent.batch.cause = cause
        sent.batch.finish()
        lane.settle()

    def _refused(
        self,
        lane: Lane,
        sent: Sent,
        code: int,
        error: MqcliError,
        culprits: Sequence[tuple[int, str | None]] | None,
    ) -> None:
        """Refuse what is to blame; what is not goes back into the lane."""
        chunk, batch = sent.chunk, sent.batch
        lane.flying.remove(sent)
        lane.holding = True
        if self.settings.idempotent:
            free = (sent.number, chunk.sequence)
            lane.renumber_from = min(lane.renumber_from or free, free)
        groups: list[Sequence[int]] = []
        if culprits:
            blamed = dict(culprits)
            for place, words in blamed.items():
                batch.refused[chunk.indices[place]] = errors.failure(code, self.where, words)
            rest = [index for place, index in enumerate(chunk.indices) if place not in blamed]
            groups = [rest] if rest else []
        elif code in _DIVIDED and len(chunk.indices) > 1:
            half = len(chunk.indices) // 2
            groups = [chunk.indices[:half], chunk.indices[half:]]
        else:
            self._refuse(sent, _too_large(error, chunk) if code == 10 else error)
        self._progress = time.monotonic()
        now_ms = int(time.time() * 1000)
        made = [
            piece
            for group in groups
            for piece in build(
                lane.partition, group, batch.parts.pick(group), self.settings.packing, now_ms
            )
        ]
        for piece in made:
            lane.back.append(Sent(piece, batch, sent.number))
        batch.open += len(made)
        batch.finish()
        lane.settle()

    # -- the cluster

    def _connect(self, node: int) -> None:
        if node not in self._connecting:
            self._connecting.add(node)
            self._spawn(self._connected(node))

    async def _connected(self, node: int) -> None:
        try:
            await self.cluster.wire(node)
        except ConnectionLost as exc:
            self._trouble = exc
            for lane in self.lanes.values():
                if lane.leader == node:
                    lane.not_before = time.monotonic() + _PAUSE
            self._refresh()
        except MqcliError as exc:
            self.give_up(exc)
        finally:
            self._connecting.discard(node)
            self._pump()

    def _refresh(self) -> None:
        if not self._refreshing and self.lost is None:
            self._refreshing = True
            self._spawn(self._refreshed())

    async def _refreshed(self) -> None:
        """Learn the leaders anew, as often as it takes for everything that waits to be sent."""
        try:
            while self.lost is None and any(
                True for lane in self.lanes.values() for _ in lane.all()
            ):
                await asyncio.sleep(_PAUSE)
                try:
                    known = await self.cluster.topic(self.topic)
                except ConnectionLost as exc:
                    self._trouble = exc
                    continue
                except MqcliError as exc:
                    self.give_up(exc)
                    return
                for number, partition in known.items():
                    if number in self.lanes:
                        self.lanes[number].leader = partition.leader
                self._pump()
                if not any(lane.waiting for lane in self.lanes.values()):
                    return
        finally:
            self._refreshing = False

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Stop waiting. Safe twice."""
        if self.lost is None:
            self.give_up(ConnectionLost("closed", where=self.where))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _too_large(error: MqcliError, chunk: Chunk) -> MqcliError:
    return Refused(
        f"a message of about {len(chunk.data)} bytes is too large",
        where=error.where,
        why=error.why,
        hint="max.message.bytes of the topic is the limit",
    )
