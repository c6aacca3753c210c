"""What all Kafka feeds share: messages out of what was fetched, in order, and mending."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from msgspec import Struct

from ..errors import InputError
from ..message import Received
from ..transport import Feed, Gap
from ._kafka import Cluster
from ._kafka_fetcher import Fetcher, Slot
from ._kafka_offsets import EARLIEST, LATEST, offsets, removed
from ._kafka_reading import RawBatch, Records, Run, Unreadable, reading

__all__ = ["LOOK_AGAIN", "FetchFeed", "Reading"]

LOOK_AGAIN = 5.0
"""Seconds after which there may be new partitions, or topics that match."""


class Reading(Struct, frozen=True):
    """How a feed reads: the same for all its partitions."""

    committed: bool = True
    check: bool = True
    skip_unreadable: bool = False
    ordered: bool = False


class _Open(Struct, eq=False):
    """A batch that is being decoded. ``cost`` are bytes that all its values together do not pass,
    ``behind`` is the offset behind it."""

    slot: Slot
    runs: Iterator[Run]
    behind: int
    cost: int
    run: Run | None = None


class FetchFeed(Feed):
    """What all feeds share: messages out of what the fetcher found, in the order of arrival."""

    def __init__(self, cluster: Cluster, how: Reading, limit: int | None) -> None:
        super().__init__()
        self.cluster, self.how = cluster, how
        self.where = cluster.where
        self.left = limit
        self.fetcher = Fetcher(
            cluster, committed=how.committed, few=limit is not None and limit <= 100
        )
        self.closed = False
        self.holding = False
        """Nothing is handed out now."""
        self._current: _Open | None = None
        self._heads: dict[int, list[tuple[Run, Any]]] = {}
        """Decoded records of each slot, the next one last."""
        self._latest: dict[int, int] = {}

    # -- for the kinds of feeds

    async def prepare(self) -> None:
        """Called before messages are taken."""

    def handed(self, slot: Slot, count: int) -> None:
        """``count`` messages of a slot are part of what ``receive`` returns next."""

    def finished(self) -> bool:
        """Whether the stop was reached."""
        return all(slot.done for slot in self.fetcher.slots.values())

    # -- Feed

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline, told = time.monotonic() + wait, len(self.gaps)
        while not self.closed:
            await self.prepare()
            if self.finished():
                self.ended = True
                return ()
            room = max_messages if self.left is None else min(max_messages, self.left)
            if room <= 0:
                return ()
            self.fetcher.arrived.clear()
            await self._mend()
            runs: list[Run] = []
            if not self.holding:
                runs = self._ordered(room) if self.how.ordered else self._arrived(room, max_bytes)
            if runs:
                out = Records(runs)
                if self.left is not None:
                    self.left -= len(out)
                self.ended = self.finished()
                return out
            if self.finished():
                continue
            if len(self.gaps) > told:  # it must not wait for the messages behind it
                return ()
            if self.fetcher.error is not None:
                raise self.fetcher.error
            left = deadline - time.monotonic()
            if left <= 0:
                return ()
            try:
                async with asyncio.timeout(min(left, self.nap())):
                    await self.fetcher.arrived.wait()
            except TimeoutError:
                continue
        return ()

    def nap(self) -> float:
        """Seconds that may pass until ``prepare`` is called again."""
        return LOOK_AGAIN

    async def aclose(self) -> None:
        self._current, self.closed = None, True
        self.fetcher.arrived.set()
        await self.fetcher.aclose()

    def forget(self, slot: Slot) -> None:
        """Drop what was decoded of a slot that is no longer ours."""
        if self._current is not None and self._current.slot is slot:
            self._current = None
        self._heads.pop(id(slot), None)

    # -- taking

    def _arrived(self, room: int, max_bytes: int) -> list[Run]:
        out: list[Run] = []
        counted: _Open | None = None
        size = 0
        while room > 0 and self._next_run():
            now = self._current
            assert now is not None and now.run is not None
            run = now.run
            count = len(run.records)
            if now.cost > max_bytes:  # more than is asked for: look at each message
                take = _fitting(run.records, room, max_bytes - size, first=not out)
                size += sum([len(r.value or b"") for r in run.records[:take]])
                if take == 0:
                    break
            elif now is counted or not out or size + now.cost <= max_bytes:
                if now is not counted:
                    counted, size = now, size + now.cost
                take = min(count, room)
            else:
                break
            if take == count:
                now.run = None
            else:
                run, now.run = run.cut(0, take), run.cut(take, count)
            out.append(run)
            room -= take
            now.slot.position = run.last + 1
            self.handed(now.slot, take)
            if now.run is None and not self._pull(now):
                self._current = None
        return out

    def _reading(self, slot: Slot, item: RawBatch) -> Iterator[Run]:
        return reading(
            item, slot.partition, slot.source, slot.position, check=self.how.check, token=slot
        )

    def _pull(self, now: _Open) -> bool:
        """Decode the next messages of the open batch. False, and the slot moved behind it (over
        holes), when there are none."""
        slot = now.slot
        try:
            run = next(now.runs, None)
        except Unreadable as exc:
            slot.bad, slot.bad_before = exc, now.behind
            return False
        now.run = _before(run, slot.stop) if run is not None else None
        if now.run is None:
            slot.position = max(slot.position, now.behind)
        return now.run is not None

    def _next_run(self) -> bool:
        """See that there are decoded records, of whatever arrived first."""
        while self._current is None or self._current.run is None:
            if not self.fetcher.order:
                return False
            slot = self.fetcher.order.popleft()
            if slot.bad is not None or not slot.found:
                continue
            item = self.fetcher.take(slot)
            if isinstance(item, int):
                slot.position = max(slot.position, item)
                continue
            now = _Open(
                slot,
                self._reading(slot, item),
                item.next_offset,
                # What is compressed may be of any size.
                len(item.data) if not item.compressed else 1 << 62,
            )
            self._current = now if self._pull(now) else None
        return True

    def _ordered(self, room: int) -> list[Run]:
        """By timestamp over the partitions, as far as all that have more are known; within a
        partition always by offset."""
        out: list[tuple[Run, Any]] = []
        heap: list[tuple[int, int, Slot]] = []
        heads, latest = self._heads, self._latest
        slots = list(self.fetcher.slots.values())
        for number, slot in enumerate(slots):
            if not self._fill(slot):
                if slot.caught_up or slot.done:
                    continue
                return []
            stamp = max(_stamp(heads[id(slot)][-1]), latest.get(id(slot), 0))
            heap.append((stamp, number, slot))
        heapq.heapify(heap)
        while heap and len(out) < room:
            stamp, number, slot = heap[0]
            head = heads[id(slot)]
            out.append(head.pop())
            slot.position = out[-1][1].offset + 1
            latest[id(slot)] = stamp
            self.handed(slot, 1)
            if self._fill(slot):
                stamp = max(_stamp(head[-1]), stamp) if head else 0
                heapq.heapreplace(heap, (stamp, number, slot))
            elif slot.caught_up or slot.done:
                heapq.heappop(heap)
            else:
                break
        parts = groupby(out, key=lambda pair: id(pair[0]))
        return [
            pairs[0][0].holding([record for _, record in pairs])
            for pairs in (list(part) for _, part in parts)
        ]

    def _fill(self, slot: Slot) -> bool:
        """See that the next records of the slot are decoded."""
        heads = self._heads
        while not heads.get(id(slot)):
            if slot.bad is not None or not slot.found:
                return False
            item = self.fetcher.take(slot)
            if isinstance(item, int):
                slot.position = max(slot.position, item)
                continue
            made: list[tuple[Run, Any]] = []
            try:
                for whole in self._reading(slot, item):
                    if (run := _before(whole, slot.stop)) is not None:
                        made += [(run, record) for record in run.records]
            except Unreadable as exc:
                slot.bad, slot.bad_before = exc, item.next_offset
                return False
            if not made:
                slot.position = max(slot.position, item.next_offset)
            heads[id(slot)] = made[::-1]
        return True

    # -- trouble

    async def _mend(self) -> None:
        for slot in list(self.fetcher.slots.values()):
            if slot.bad is not None and slot.bad_before is not None:
                self._unreadable(slot, slot.bad, slot.bad_before)
                slot.position, slot.bad, slot.bad_before = slot.bad_before, None, None
                self.fetcher.requeue(slot)
                continue
            if slot.found or (self._current is not None and self._current.slot is slot):
                continue
            if slot.out_of_range:
                await self._out_of_range(slot)
            elif slot.bad is not None:
                self._unreadable(slot, slot.bad, slot.position + 1)
                self.fetcher.restart(slot, slot.position + 1)

    async def _out_of_range(self, slot: Slot) -> None:
        """Our next offset does not exist: go on at the nearest one that does, and say so."""
        committed = self.how.committed
        first, last = await asyncio.gather(
            *(
                offsets(self.cluster, slot.topic, [slot.partition], when, committed=committed)
                for when in (EARLIEST, LATEST)
            )
        )
        low, high = first[slot.partition], last[slot.partition]
        if slot.position < low:
            self.gaps.append(removed(slot.source, slot.partition, slot.position, low))
            self.fetcher.restart(slot, low)
        elif slot.position > high:
            self.gaps.append(
                Gap(
                    slot.source,
                    "the partition ends before the place that was reached: it was cut off or made"
                    " anew, and what was written since cannot be told from what was read",
                    after=f"{slot.partition}:{slot.position - 1}",
                    before=f"{slot.partition}:{high}",
                )
            )
            self.fetcher.restart(slot, high)
        else:
            self.fetcher.restart(slot, slot.position)

    def _unreadable(self, slot: Slot, why: Unreadable, behind: int) -> None:
        if not self.how.skip_unreadable:
            raise InputError(
                "a batch cannot be read",
                where=slot.source,
                why=f"at position {slot.name}: {why}",
                hint=f"--skip-bad goes on behind it, --from {slot.partition}:{behind} starts there",
            )
        self.gaps.append(
            Gap(
                slot.source,
                f"a batch cannot be read: {why}",
                after=f"{slot.partition}:{slot.position - 1}",
                before=f"{slot.partition}:{behind}",
            )
        )


def offset_of(message: Received) -> int:
    return int(message.position.rpartition(":")[2])


def _stamp(head: tuple[Run, Any]) -> int:
    run, record = head
    return record.timestamp or 0 if run.stamped else 0


def _before(run: Run, stop: int | None) -> Run | None:
    """What of a run lies before offset ``stop``."""
    if stop is None or run.last < stop:
        return run
    records = [record for record in run.records if record.offset < stop]
    return run.holding(records) if records else None


def _fitting(records: list[Any], room: int, max_bytes: int, *, first: bool) -> int:
    take, size = 0, 0
    for record in records[:room]:
        size += len(record.value or b"")
        if size > max_bytes and not (first and take == 0):
            break
        take += 1
    return take
