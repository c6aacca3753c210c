"""Fetching record batches of any number of partitions, one request at a time from each broker.

The next request leaves as soon as an answer has come and there is room, so that the broker works
while the answer is decoded. What is held is bounded; a reader that stands still stops it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka.protocol.fetch import FetchRequest
from msgspec import Struct, field

from ..errors import BrokerUnavailable, ConnectionLost, MqcliError, NotFound
from . import _kafka_errors as errors
from ._kafka import Cluster
from ._kafka_reading import RawBatch, Unreadable, split
from ._kafka_wire import Frame

__all__ = ["Fetcher", "Slot"]

_HELD_BYTES = 8 << 20
_ANSWER_BYTES = 8 << 20
_PARTITION_BYTES = 2 << 20
_FEW_BYTES = 64 << 10
_WAIT_MS = 500
_PAUSE = 0.1


class Slot(Struct, eq=False):
    """A partition that is being read. ``fetched`` is the next offset to ask for, ``position`` the
    next to hand out, ``stop`` the first that is not wanted. ``found`` is what was fetched: batches,
    or an offset to move to where nothing is to be shown. ``high`` is the end that readers see."""

    topic: str
    partition: int
    source: str
    leader: int
    position: int
    stop: int | None = None
    fetched: int = 0
    high: int = -1
    start_of_log: int = 0
    held: int = 0
    paused: bool = False
    found: deque[RawBatch | int] = field(default_factory=deque)
    out_of_range: bool = False
    bad: Unreadable | None = None
    bad_before: int | None = None
    """Where decoding failed: the offset behind that batch. None: what stands behind all found."""

    @property
    def done(self) -> bool:
        """Everything wanted was handed out."""
        return self.stop is not None and self.position >= self.stop

    @property
    def caught_up(self) -> bool:
        """There is nothing more now."""
        return self.done or (not self.found and 0 <= self.high <= self.fetched)

    @property
    def name(self) -> str:
        return f"{self.partition}:{self.position}"

    def wanted(self) -> bool:
        if self.paused or self.out_of_range or self.bad is not None:
            return False
        return self.held < _PARTITION_BYTES and (self.stop is None or self.fetched < self.stop)


class Fetcher:
    """``arrived`` is set when there is something for the reader: a batch, an error, an end."""

    def __init__(self, cluster: Cluster, *, committed: bool, few: bool = False) -> None:
        """``committed`` hides open and aborted transactions; ``few`` asks for little at once."""
        self.cluster = cluster
        self.slots: dict[tuple[str, int], Slot] = {}
        self.order: deque[Slot] = deque()
        """Slots with something found, in the order of arrival, once for each batch."""
        self.arrived = asyncio.Event()
        self.error: MqcliError | None = None
        self._committed = committed
        self._partition_bytes = _FEW_BYTES if few else _PARTITION_BYTES
        self._held = 0
        self._room = asyncio.Event()
        self._loops: dict[int, asyncio.Task[None]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, slots: Iterable[Slot]) -> None:
        """Begin to fetch these."""
        for slot in slots:
            slot.fetched = slot.position
            slot.found = deque()
            self.slots[slot.topic, slot.partition] = slot
        self._wake()

    def remove(self, gone: Callable[[Slot], bool]) -> None:
        """Forget slots, and what was fetched of them."""
        for key, slot in list(self.slots.items()):
            if gone(slot):
                del self.slots[key]
                self._held -= slot.held
                slot.paused = True
        self.order = deque(slot for slot in self.order if not slot.paused)
        self._wake()

    def requeue(self, slot: Slot) -> None:
        """What was found in the slot is to be handed out again, at the end of the line."""
        self.order = deque(other for other in self.order if other is not slot)
        self.order.extend([slot] * len(slot.found))
        self._wake()

    def restart(self, slot: Slot, offset: int) -> None:
        """Go on elsewhere in a slot of which nothing is held."""
        slot.position = slot.fetched = offset
        slot.out_of_range, slot.bad = False, None
        self._wake()

    def take(self, slot: Slot) -> RawBatch | int:
        """The next thing found in a slot."""
        item = slot.found.popleft()
        if not isinstance(item, int):
            slot.held -= len(item.data)
            self._held -= len(item.data)
        self._room.set()
        return item

    def _wake(self) -> None:
        self._room.set()
        if self._closed:
            return
        for node in {slot.leader for slot in self.slots.values() if slot.leader >= 0}:
            loop = self._loops.get(node)
            if loop is None or loop.done():
                self._loops[node] = asyncio.create_task(self._loop(node))

    async def aclose(self) -> None:
        """Safe twice."""
        self._closed = True
        tasks = [*self._loops.values(), *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loops.clear()

    # -- one broker

    async def _loop(self, node: int) -> None:
        while any(slot.leader == node for slot in self.slots.values()):
            wanted = [s for s in self.slots.values() if s.leader == node and s.wanted()]
            if not wanted or self._held >= _HELD_BYTES or self.error is not None:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                wire = await self.cluster.wire(node)
                request, head = self._request(wanted, wire.versions)
                waiting = wire.write([wire.head(1, request.API_VERSION), head])
                frame = await wire.answer(waiting, self.cluster.patience + _WAIT_MS / 1000)
            except ConnectionLost as exc:
                if len(self.cluster.nodes) < 2:  # nobody else could lead
                    self._fail(exc)
                else:
                    self._refresh(exc)
                    await asyncio.sleep(_PAUSE)
            except MqcliError as exc:
                self._fail(exc)
            else:
                self._absorb(frame, request.API_VERSION)

    def _request(self, wanted: list[Slot], versions: dict[int, tuple[int, int]]) -> Any:
        by_topic: dict[str, list[tuple[int, int, int]]] = {}
        for slot in wanted:
            by_topic.setdefault(slot.topic, []).append(
                (slot.partition, slot.fetched, self._partition_bytes)
            )
        request = FetchRequest(
            _WAIT_MS, 1, _ANSWER_BYTES, int(self._committed), list(by_topic.items())
        ).prepare(versions)
        return request, request.encode()

    def _absorb(self, frame: Frame, version: int) -> None:
        stale: int | None = None
        for topic, row in _parsed(memoryview(frame), version):
            slot = self.slots.get((topic, row.partition))
            if slot is None or slot.paused or row.records is None:
                continue
            if row.code == errors.OK:
                slot.high = row.stable if self._committed and row.stable >= 0 else row.high
                slot.start_of_log = row.start
                self._found(slot, row)
                # Whoever gave something now is asked last the next time.
                if row.records:
                    self.slots[topic, row.partition] = self.slots.pop((topic, row.partition))
            elif row.code == errors.OFFSET_OUT_OF_RANGE:
                slot.out_of_range = True
                self.arrived.set()
            elif row.code == errors.CORRUPT_MESSAGE:
                slot.bad = Unreadable("the broker finds it corrupt")
                self.arrived.set()
            elif row.code in errors.STALE:
                stale = row.code
            else:
                self._fail(errors.failure(row.code, slot.source))
        if stale is not None:
            self._refresh(errors.failure(stale, self.cluster.where))

    def _found(self, slot: Slot, row: _Row) -> None:
        assert row.records is not None
        try:
            batches = split(row.records)
        except Unreadable as exc:
            slot.bad = exc
            self.arrived.set()
            return
        aborted, gone = deque(sorted(row.aborted, key=lambda pair: pair[1])), set[int]()
        skipped = False
        for batch in batches:
            if batch.next_offset <= slot.fetched:
                continue
            if batch.transactional:
                while aborted and aborted[0][1] < batch.next_offset:
                    gone.add(aborted.popleft()[0])
            slot.fetched = batch.next_offset
            if batch.control:
                if batch.aborts:
                    gone.discard(batch.producer)
            elif not (batch.transactional and batch.producer in gone) and batch.count:
                slot.found.append(batch)
                slot.held += len(batch.data)
                self._held += len(batch.data)
                self.order.append(slot)
                skipped = False
                continue
            skipped = True
        if skipped:
            slot.found.append(slot.fetched)
            self.order.append(slot)
        if batches:
            self.arrived.set()

    def _fail(self, error: MqcliError) -> None:
        self.error = error
        self.arrived.set()

    # -- leaders

    def _refresh(self, cause: MqcliError) -> None:
        if (self._refreshing is None or self._refreshing.done()) and not self._closed:
            self._refreshing = asyncio.create_task(self._refreshed(cause))

    async def _refreshed(self, cause: MqcliError) -> None:
        """Learn the leaders anew, and give up when nobody leads for too long."""
        deadline = time.monotonic() + self.cluster.patience
        try:
            while True:
                dead = set()
                for topic in {topic for topic, _ in self.slots}:
                    known = await self.cluster.topic(topic)
                    for (name, number), slot in list(self.slots.items()):
                        if name != topic:
                            continue
                        if number not in known:
                            raise NotFound(f"partition {number} is gone", where=slot.source)
                        slot.leader = known[number].leader
                        if slot.leader < 0 or not await self._reachable(slot.leader):
                            dead.add(slot.partition)
                if not dead:
                    self._wake()
                    return
                if time.monotonic() > deadline:
                    raise cause
                await asyncio.sleep(_PAUSE)
        except MqcliError as exc:
            self._fail(exc)

    async def _reachable(self, node: int) -> bool:
        try:
            await self.cluster.wire(node)
        except BrokerUnavailable:
            return False
        return True


class _Row(Struct):
    partition: int
    code: int
    high: int
    stable: int
    start: int
    aborted: list[tuple[int, int]]
    records: memoryview | None


_PARTITION = struct.Struct(">ihqq")


def _parsed(frame: memoryview, version: int) -> Iterable[tuple[str, _Row]]:
    """The partitions of a fetch answer, version 4 to 11, without copying the records."""
    at = 8  # correlation id, throttle time
    if version >= 7:
        at += 6  # error, session
    (topics,) = struct.unpack_from(">i", frame, at)
    at += 4
    for _ in range(topics):
        (size,) = struct.unpack_from(">h", frame, at)
        topic = bytes(frame[at + 2 : at + 2 + size]).decode()
        at += 2 + size
        (count,) = struct.unpack_from(">i", frame, at)
        at += 4
        for _ in range(count):
            partition, code, high, stable = _PARTITION.unpack_from(frame, at)
            at += _PARTITION.size
            start = 0
            if version >= 5:
                (start,) = struct.unpack_from(">q", frame, at)
                at += 8
            (pairs,) = struct.unpack_from(">i", frame, at)
            at += 4
            aborted = [struct.unpack_from(">qq", frame, at + 16 * n) for n in range(max(0, pairs))]
            at += 16 * len(aborted)
            if version >= 11:
                at += 4
            (size,) = struct.unpack_from(">i", frame, at)
            at += 4
            size = max(0, size)
            records = frame[at : at + size]
            at += size
            yield topic, _Row(partition, code, high, stable, start, aborted, records)
