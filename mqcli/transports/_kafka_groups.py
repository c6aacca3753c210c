"""Reading as a member of a group: the partitions are shared, and offsets committed after the ack.

The classic group protocol (*Consumer Group Protocol*): join, the leader assigns, sync, heartbeats.
It runs beside the reading, so that an output that stands still costs no membership. Before it joins
again a member waits a moment for what it has handed out to be acknowledged, and commits that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)

from ..errors import ConnectionLost, MqcliError, UsageError
from ..message import Received
from ..position import BEGINNING, Start
from ..transport import Gap, Span
from . import _kafka_errors as errors
from ._kafka import Cluster, leaders
from ._kafka_feed import FetchFeed, Reading
from ._kafka_fetcher import Slot
from ._kafka_log import last_or_stop_places, last_places
from ._kafka_offsets import Places, spelled, start_places
from ._kafka_reading import by_token

__all__ = ["GroupFeed", "committed_places"]

_HEARTBEAT = 0.5
_COMMIT_EVERY = 0.05
_SETTLE = 3.0
"""Seconds that a rebalance waits for what was handed out to be acknowledged."""
_LEAVE = 2.0
_PAUSE = 0.1
_LOOK_AGAIN = 10.0
_FAILOVER = 25.0
"""Seconds for another broker to take over a group: brokers are taken for dead after nine as a rule,
and then its log is read."""
_REJOIN = frozenset(
    {errors.ILLEGAL_GENERATION, errors.UNKNOWN_MEMBER, errors.REBALANCE_IN_PROGRESS}
)
_ELSEWHERE = frozenset(
    {errors.COORDINATOR_LOADING, errors.COORDINATOR_NOT_AVAILABLE, errors.NOT_COORDINATOR}
)
_ASSIGNORS = {a.name: a for a in (RangePartitionAssignor, RoundRobinPartitionAssignor)}


class Moved(ConnectionLost):
    """Another broker keeps the group now, or will soon."""


class Rejoin(Exception):
    """Our membership, or its generation, is over."""

    def __init__(self, code: int) -> None:
        super().__init__(errors.text(code))
        self.code = code


async def committed_places(
    cluster: Cluster, group: str, topic: str, numbers: Sequence[int], node: int | None = None
) -> Places:
    """The committed offset of each partition that has one. Raises AccessDenied, ConnectionLost."""
    deadline = time.monotonic() + cluster.patience
    while True:
        request = OffsetFetchRequest(group, [(topic, list(numbers))])
        try:
            at = await cluster.coordinator(group) if node is None else node
            # A member's fetches would make it wait.
            answer = await cluster.call(request, at, apart=node is not None)
        except ConnectionLost:
            if node is not None or len(cluster.nodes) < 2 or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE)  # its broker died; another one will keep the group
            continue
        rows = answer.topics[0][1] if answer.topics else []
        codes = {getattr(answer, "error_code", 0), *(row[3] for row in rows)} - {errors.OK}
        if not codes:
            return {number: offset for number, offset, _, _ in rows if offset >= 0}
        code = codes.pop()
        if code not in errors.RETRIABLE or time.monotonic() > deadline:
            raise errors.failure(code, cluster.where)
        node = None
        await asyncio.sleep(_PAUSE)


class GroupFeed(FetchFeed):
    """One member of a group, on one topic."""

    def __init__(
        self,
        cluster: Cluster,
        how: Reading,
        limit: int | None,
        topic: str,
        group: str,
        session: float,
    ) -> None:
        super().__init__(cluster, how, limit)
        self.topic, self.group = topic, group
        self._session_ms = int(session * 1000)
        self._start: Start | None = None
        self._begun: Places = {}
        self._gaps: dict[int, Gap] = {}
        self._stops: Places | None = None
        self._coordinator: int | None = None
        self._member = ""
        self._generation = -1
        self._leads = False
        self._partitions: set[int] = set()
        self._joined = False
        self._asked_from = False
        self._told: set[int] | None = None
        self._live: asyncio.Task[None] | None = None
        self._handed: dict[Slot, int] = {}
        self._all_settled = asyncio.Event()
        self._acked: dict[Slot, int] = {}
        self._committed: dict[Slot, int] = {}
        self._stored: Places = {}
        """What we have committed, also of partitions that others read since."""
        self._committing: asyncio.Task[None] | None = None
        self._commit_at = 0.0
        self._closed = False

    async def open(self, span: Span) -> None:
        """Look at the topic and the stop; joining goes on beside the reading.
        Raises NotFound, UsageError, AccessDenied, ConnectionLost."""
        known = await self.cluster.topic(self.topic)
        self._start = span.start
        if span.stop is not None:
            self._stops = await last_or_stop_places(
                self.cluster, self.how, self.topic, list(known), span.stop, self.where
            )
        if span.start is not None and span.start.kind != "beginning":
            # Found now, not when joining has succeeded: what comes meanwhile is behind it.
            self._begun = await self._places(span.start, list(known))
        self._coordinator = await self.cluster.coordinator(self.group)
        self._live = asyncio.create_task(self._lives())

    # -- FetchFeed

    def finished(self) -> bool:
        if self._stops is None or not self._joined or self.holding:
            return False
        return all(
            slot.done or slot.partition not in self._stops for slot in self.fetcher.slots.values()
        )

    def nap(self) -> float:
        return 60.0

    def handed(self, slot: Slot, count: int) -> None:
        self._handed[slot] = slot.position
        self._all_settled.clear()

    async def ack(self, messages: Sequence[Received]) -> int:
        if not messages:
            return 0
        ours = 0
        for slot, places in by_token(messages):
            done, last = self._acked.get(slot, 0), places[-1].offset
            if self._mine(slot) and last >= done:
                fresh = places[0].offset >= done
                ours += len(places) if fresh else sum(p.offset >= done for p in places)
                self._acked[slot] = last + 1
        if self._settled():
            self._all_settled.set()
        self._commit_soon()
        if (self.ended or self.left == 0) and self._settled():
            await self._commit_surely()
        return ours

    def _settled(self) -> bool:
        return all(self._acked.get(slot, 0) >= at for slot, at in self._handed.items())

    def _mine(self, slot: Slot) -> bool:
        return self.fetcher.slots.get((slot.topic, slot.partition)) is slot

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            self._live.cancel()
            await asyncio.gather(self._live, return_exceptions=True)
        try:
            async with asyncio.timeout(_LEAVE):
                # Also after the connection broke: others wait for our partitions until we leave.
                await self._commit()
                if self._member and self._coordinator is not None:
                    await self._ask(LeaveGroupRequest(self.group, self._member))
        except (MqcliError, TimeoutError):
            pass  # what was not committed comes again; the session runs out by itself
        finally:
            if self._committing is not None:
                self._committing.cancel()
                await asyncio.gather(self._committing, return_exceptions=True)
            await super().aclose()

    # -- committing

    def _commit_soon(self) -> None:
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._committer())

    async def _committer(self) -> None:
        while self._due():
            await asyncio.sleep(max(0.0, self._commit_at - time.monotonic()))
            self._commit_at = time.monotonic() + _COMMIT_EVERY
            try:
                await self._commit()
            except MqcliError:
                return  # the member's own loop finds out what is wrong

    async def _commit_surely(self) -> None:
        """For the last messages: return when the broker has their offsets, for exit 0 says so. A
        rebalance may put it off, and another broker may have to take over the group. Raises
        ConnectionLost when it did not succeed in time."""
        deadline = time.monotonic() + max(_FAILOVER, self.cluster.patience)
        wanted = {slot.partition: at for slot, at in self._due().items()}
        lost: ConnectionLost | None = None
        while True:
            try:
                await self._commit()
            except ConnectionLost as exc:
                lost = exc  # the member's own loop looks for another broker, or gives up
            if all(self._stored.get(partition, -1) >= at for partition, at in wanted.items()):
                return
            if self.fetcher.error is not None:
                raise self.fetcher.error
            if (self._joined and not self._due()) or time.monotonic() > deadline:
                raise ConnectionLost(
                    "the last offsets could not be committed", where=self.where
                ) from lost
            await asyncio.sleep(_PAUSE)

    def _due(self) -> dict[Slot, int]:
        """What is acknowledged and not committed. Behind all that was handed out there may be
        holes, for which no message stands: they are done too."""
        reached = {
            slot: max(at, slot.position) if at >= self._handed.get(slot, 0) else at
            for slot, at in self._acked.items()
            if self._mine(slot)
        }
        return {slot: at for slot, at in reached.items() if at != self._committed.get(slot)}

    async def _commit(self) -> None:
        """Commit all that has been acknowledged. What the broker refuses because our membership is
        over comes again elsewhere; the loop then joins anew."""
        due = self._due()
        if not due or not self._joined:
            return
        request = OffsetCommitRequest(
            self.group, self._generation, self._member, -1,
            [(self.topic, [(slot.partition, at, "") for slot, at in due.items()])],
        )  # fmt: skip
        answer = await self._ask(request)
        codes = dict(answer.topics[0][1])
        for slot, at in due.items():
            code = codes.get(slot.partition, errors.OK)
            if code == errors.OK:
                self._committed[slot] = self._stored[slot.partition] = at
            elif code in _REJOIN or code in _ELSEWHERE:
                return
            else:
                raise errors.failure(code, self.where)

    # -- membership

    async def _ask(self, request: Any, timeout: float = 0) -> Any:
        assert self._coordinator is not None
        return await self.cluster.call(request, self._coordinator, timeout, apart=True)

    async def _lives(self) -> None:
        trouble_since: float | None = None
        while True:
            try:
                await self._join()
                trouble_since = None
                await self._beat()
            except Rejoin as exc:
                await self._let_go(exc.code)
            except ConnectionLost as exc:
                now = time.monotonic()
                trouble_since = trouble_since or now
                alone = len(self.cluster.nodes) < 2 and not isinstance(exc, Moved)
                if alone or now - trouble_since > max(_FAILOVER, self.cluster.patience):
                    self._fail(exc)
                    return
                await asyncio.sleep(_PAUSE)
                try:
                    self._coordinator = await self.cluster.coordinator(self.group)
                except ConnectionLost:
                    continue
                except MqcliError as other:
                    self._fail(other)
                    return
            except MqcliError as exc:
                self._fail(exc)
                return

    def _fail(self, error: MqcliError) -> None:
        self.fetcher.error = error
        self.fetcher.arrived.set()

    async def _join(self) -> None:
        """Become a member of the next generation, with partitions."""
        metadata = [
            (name, assignor.metadata([self.topic]).encode())
            for name, assignor in _ASSIGNORS.items()
        ]
        answer = await self._ask(
            JoinGroupRequest(
                self.group, self._session_ms, self._session_ms, self._member, None, "consumer",
                metadata,
            ),
            self._session_ms / 1000 + self.cluster.patience,
        )  # fmt: skip
        code = answer.error_code
        if code == errors.MEMBER_ID_REQUIRED:
            self._member = answer.member_id
            return await self._join()
        self._check(code)
        before, self._generation = self._generation, answer.generation_id
        self._member = answer.member_id
        self._leads = answer.leader_id == self._member
        shares = await self._shares(answer) if self._leads else []
        synced = await self._ask(
            SyncGroupRequest(self.group, self._generation, self._member, None, shares),
            self._session_ms / 1000 + self.cluster.patience,
        )
        self._check(synced.error_code)
        numbers: list[int] = []
        if synced.member_assignment:
            assigned = ConsumerProtocolMemberAssignment.decode(synced.member_assignment)
            numbers = sorted(tp.partition for tp in assigned.partitions() if tp.topic == self.topic)
        await self._take(numbers, unbroken=self._generation == before + 1)
        return None

    def _check(self, code: int) -> None:
        if code == errors.OK:
            return
        if code in _REJOIN:
            raise Rejoin(code)
        if code in _ELSEWHERE:
            raise Moved(
                "the group has moved to another broker", where=self.where, why=errors.text(code)
            )
        if code == 23:
            raise UsageError(
                f"the members of group {self.group!r} share partitions in a way that mqcli lacks",
                where=self.where,
                why=errors.text(code),
                hint="it knows range and roundrobin, of the classic protocol",
            )
        raise errors.failure(code, self.where)

    async def _shares(self, answer: Any) -> list[tuple[str, bytes]]:
        """As the leader: who reads what."""
        members = {row[0]: ConsumerProtocolMemberMetadata.decode(row[-1]) for row in answer.members}
        topics = {topic for member in members.values() for topic in member.subscription}
        known: dict[str, set[int]] = {}
        for topic in topics:
            try:
                known[topic] = set(await self.cluster.topic(topic))
            except MqcliError:
                if topic == self.topic:
                    raise
        self._partitions = known[self.topic]
        shares = _ASSIGNORS[answer.group_protocol].assign(_Known(known), members)
        return [(member, share.encode()) for member, share in shares.items()]

    async def _beat(self) -> None:
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_HEARTBEAT)
            answer = await self._ask(HeartbeatRequest(self.group, self._generation, self._member))
            self._check(answer.error_code)
            if self._leads and time.monotonic() - looked > _LOOK_AGAIN:
                looked = time.monotonic()
                if set(await self.cluster.topic(self.topic)) != self._partitions:
                    raise Rejoin(errors.REBALANCE_IN_PROGRESS)

    async def _let_go(self, code: int) -> None:
        """A rebalance: settle what is out, commit, and be ready to join."""
        if code == errors.REBALANCE_IN_PROGRESS:
            self.holding = True
            try:
                async with asyncio.timeout(_SETTLE):
                    if not self._settled():
                        await self._all_settled.wait()
                    await self._commit()
            except (TimeoutError, MqcliError):
                pass  # the rest comes again, to whoever gets the partition
            return
        if self._joined:
            self.notes.append(
                f"group {self.group}: we were away for too long; our partitions went to others"
            )
        self._joined = False
        self._generation = -1
        if code == errors.UNKNOWN_MEMBER:
            self._member = ""
        self._drop(set())

    def _drop(self, kept: set[int]) -> None:
        for slot in self.fetcher.slots.values():
            if slot.partition not in kept:
                self.forget(slot)
                for known in (self._acked, self._committed, self._handed):
                    known.pop(slot, None)
        self.fetcher.remove(lambda slot: slot.partition not in kept)

    async def _take(self, numbers: list[int], *, unbroken: bool) -> None:
        """Read these from now on. A partition that stayed ours goes on where it was: nobody else
        can have had it between two generations in a row."""
        had = {slot.partition for slot in self.fetcher.slots.values()}
        kept = had & set(numbers) if unbroken else set()
        self._drop(kept)
        new = [number for number in numbers if number not in kept]
        if new:
            places = await committed_places(
                self.cluster, self.group, self.topic, new, self._coordinator
            )
            fresh = [number for number in new if number not in places]
            if places and self._start is not None and not self._asked_from:
                self._asked_from = True
                self.notes.append(
                    f"group {self.group} stands at {spelled(places)} already;"
                    f" --from {self._start} was not used there"
                )
            begun = await self._begin(fresh)
            heads = await leaders(self.cluster, self.topic, new)
            stops = self._stops or {}
            slots = [
                Slot(self.topic, n, self.where, heads[n], place, stops.get(n))
                for n, place in {**places, **begun}.items()
            ]
            self.fetcher.add(slots)
            for slot in slots:
                if slot.partition in begun:
                    self._acked[slot] = slot.position  # the group is made here
        if self._told is not None and self._told != set(numbers):
            words = ", ".join(map(str, numbers)) or "none"
            self.notes.append(
                f"group {self.group} was shared out anew: we read the partitions {words}"
            )
        self._told = set(numbers)
        self._joined, self.holding = True, False
        if any(slot not in self._committed for slot in self._acked):
            self._commit_soon()
        self.fetcher.arrived.set()

    async def _begin(self, numbers: list[int]) -> Places:
        """Where partitions begin in which the group has no place yet."""
        places = {n: self._begun[n] for n in numbers if n in self._begun}
        self.gaps += [gap for n, gap in self._gaps.items() if n in places]
        missing = [number for number in numbers if number not in places]
        if missing:
            first, _ = await start_places(
                self.cluster, self.topic, missing, BEGINNING, self.where,
                committed=self.how.committed,
            )  # fmt: skip
            places |= first
        return places

    async def _places(self, start: Start, numbers: list[int]) -> Places:
        if start.kind == "last":
            return await last_places(self.cluster, self.how, self.topic, numbers, start.count, {})
        places, gaps = await start_places(
            self.cluster, self.topic, numbers, start, self.where, committed=self.how.committed
        )
        for gap in gaps:
            self._gaps[int((gap.before or "0:").partition(":")[0])] = gap
        return places


class _Known:
    """What aiokafka's assignors want of its cluster metadata."""

    def __init__(self, known: dict[str, set[int]]) -> None:
        self._known = known

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self._known.get(topic)
