"""Reading without a group: any partitions from any start to any stop, and nothing left behind."""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections import Counter

from ..errors import ConnectionLost, NotFound
from ..position import Start
from ..transport import Span
from ._kafka import Cluster, leaders
from ._kafka_feed import LOOK_AGAIN, FetchFeed, Reading
from ._kafka_fetcher import Slot
from ._kafka_offsets import (
    EARLIEST,
    LATEST,
    Places,
    offsets,
    parse_resumed,
    resumed,
    spelled,
    start_places,
    stop_places,
)

__all__ = ["LogFeed", "last_or_stop_places", "last_places"]


class LogFeed(FetchFeed):
    """Partitions of one topic, or of all topics whose names match. Without a stop, and where the
    partitions are not named, new ones are picked up, from their beginning."""

    def __init__(
        self,
        cluster: Cluster,
        how: Reading,
        limit: int | None,
        topic: str,
        partitions: list[int] | None,
        *,
        pattern: bool = False,
    ) -> None:
        super().__init__(cluster, how, limit)
        self.topic, self.partitions = topic, partitions
        self._pattern = re.compile(topic) if pattern else None
        self._follow = False
        self._looked = time.monotonic()

    def source(self, topic: str) -> str:
        """The address of a topic's messages."""
        address = self.cluster.target.address
        return str(address.with_name(topic))

    async def open(self, span: Span, usual: Start) -> None:
        """Find the places. Raises NotFound, UsageError, ConnectionLost, AccessDenied."""
        start = span.start or usual
        self._follow = span.stop is None and self.partitions is None
        if self._pattern is None:
            await self._open_topic(self.topic, start, span.stop)
            return
        for topic in await self._matching():
            await self._open_topic(topic, start, span.stop)
        if not self.fetcher.slots:
            self.notes.append(f"no topic matches {self.topic!r} yet")

    async def _matching(self) -> list[str]:
        assert self._pattern is not None
        return [name for name in await self.cluster.names() if self._pattern.fullmatch(name)]

    async def _open_topic(self, topic: str, start: Start, stop: Start | None) -> None:
        source, committed = self.source(topic), self.how.committed
        known = await self.cluster.topic(topic)
        numbers = list(known) if self.partitions is None else self.partitions
        missing = [number for number in numbers if number not in known]
        if missing:
            raise NotFound(
                f"the topic has no partition {missing[0]}",
                where=source,
                hint=f"it has {len(known)}, counted from 0",
            )
        stops: Places = {}
        if stop is not None:
            stops = await last_or_stop_places(self.cluster, self.how, topic, numbers, stop, source)
            numbers = [number for number in numbers if number in stops]
        if start.kind == "after":
            begun = parse_resumed(start.token, topic)
            first = await offsets(self.cluster, topic, numbers, EARLIEST, committed=committed)
            places = {number: begun.get(number, first[number]) for number in numbers}
        elif start.kind == "last":
            places = await last_places(self.cluster, self.how, topic, numbers, start.count, stops)
        else:
            places, gaps = await start_places(
                self.cluster, topic, numbers, start, source, committed=committed
            )
            self.gaps += gaps
        heads = await leaders(self.cluster, topic, places)
        self.fetcher.add(
            Slot(topic, number, source, heads[number], place, stops.get(number))
            for number, place in places.items()
        )

    # -- FetchFeed

    def finished(self) -> bool:
        return not self._follow and super().finished()

    async def prepare(self) -> None:
        if not self._follow or time.monotonic() - self._looked < LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        try:
            await self._grow()
        except ConnectionLost:
            return  # reading itself will find out, and is more patient

    async def _grow(self) -> None:
        topics = [self.topic] if self._pattern is None else await self._matching()
        for topic in topics:
            known = await self.cluster.topic(topic)
            new = [number for number in known if (topic, number) not in self.fetcher.slots]
            if not new:
                continue
            first = await offsets(self.cluster, topic, new, EARLIEST, committed=self.how.committed)
            heads = await leaders(self.cluster, topic, new)
            source = self.source(topic)
            self.fetcher.add(Slot(topic, n, source, heads[n], first[n]) for n in new)
            self.notes.append(f"new in {source}: partition {', '.join(map(str, new))}")

    def resume(self) -> Span | None:
        tokens: dict[str, Places] = {}
        stops: Places = {}
        for (topic, number), slot in self.fetcher.slots.items():
            tokens.setdefault(topic, {})[number] = slot.position
            if slot.stop is not None:
                stops[number] = slot.stop
        start = Start("after", token=resumed(tokens)) if tokens else None
        return Span(start, Start("at", token=spelled(stops)) if stops else None)


async def last_or_stop_places(
    cluster: Cluster, how: Reading, topic: str, numbers: list[int], stop: Start, source: str
) -> Places:
    """As ``stop_places``, with every kind of STOP."""
    if stop.kind == "last":
        return await last_places(cluster, how, topic, numbers, stop.count, {})
    return await stop_places(cluster, topic, numbers, stop, source, committed=how.committed)


async def last_places(
    cluster: Cluster, how: Reading, topic: str, numbers: list[int], count: int, stops: Places
) -> Places:
    """Where the last ``count`` messages in all begin, by timestamp over the partitions."""
    first, ends = await asyncio.gather(
        offsets(cluster, topic, numbers, EARLIEST, committed=how.committed),
        offsets(cluster, topic, numbers, LATEST, committed=how.committed),
    )
    ends |= {number: min(stop, ends[number]) for number, stop in stops.items()}
    if count == 0:
        return ends
    span = count
    while True:
        begin = {n: max(first[n], ends[n] - span) for n in numbers}
        seen = await _seen(cluster, how, topic, begin, ends)
        counts = Counter(number for _, number, _ in seen)
        if all(begin[n] <= first[n] or counts[n] >= count for n in numbers):
            break
        span *= 4  # holes: a compacted topic, or transactions
    places = dict(ends)
    for _, number, offset in heapq.nlargest(count, seen):
        places[number] = min(places[number], offset)
    return places


async def _seen(
    cluster: Cluster, how: Reading, topic: str, begin: Places, ends: Places
) -> list[tuple[int, int, int]]:
    """(timestamp, partition, offset) of every message between."""
    heads = await leaders(cluster, topic, begin)
    look = FetchFeed(cluster, Reading(how.committed, False, skip_unreadable=True), None)
    look.fetcher.add(
        Slot(topic, n, cluster.where, heads[n], begin[n], ends[n])
        for n in begin
        if begin[n] < ends[n]
    )
    seen: list[tuple[int, int, int]] = []
    since = time.monotonic()
    try:
        while look.fetcher.slots and not look.ended:
            for message in await look.receive(10_000, 1 << 20, 1.0):
                number, _, offset = message.position.partition(":")
                seen.append((message.timestamp or 0, int(number), int(offset)))
                since = time.monotonic()
            if time.monotonic() - since > cluster.patience:
                raise ConnectionLost("nothing comes", where=cluster.where)
    finally:
        await look.aclose()
    return seen
