"""One transaction over all that is published: all of it becomes visible, or none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest

from ..errors import BrokerUnavailable, ConnectionLost
from . import _kafka_errors as errors
from ._kafka import Cluster
from ._kafka_offsets import LATEST, offsets
from ._kafka_producer import Producer

__all__ = ["Transaction", "new_id"]

_PAUSE = 0.05


def new_id() -> str:
    """A transactional id that nobody else has: runs must not fence each other off."""
    return f"mqcli-{uuid4()}"


class Transaction:
    """Of one producer that was made with a transactional id."""

    def __init__(self, cluster: Cluster, topic: str, producer: Producer) -> None:
        self._cluster, self._topic, self._producer = cluster, topic, producer
        self._enlisted: set[int] = set()
        self._ends: dict[int, int] = {}
        self._over = False

    async def enlist(self, partitions: Iterable[int], timeout: float) -> None:
        """Before the first batch for a partition. Raises ConnectionLost, AccessDenied, Refused."""
        new = sorted(set(partitions) - self._enlisted)
        if not new:
            return
        producer = self._producer
        request = AddPartitionsToTxnRequest(
            producer.settings.transactional_id,
            producer.producer,
            producer.epoch,
            [(self._topic, new)],
        )
        await self._until_done(request, lambda a: max(code for _, code in a.errors[0][1]), timeout)
        self._enlisted.update(new)

    def stored(self, partition: int, end: int) -> None:
        """A batch was stored, with this offset behind it."""
        self._ends[partition] = max(end, self._ends.get(partition, 0))

    async def commit(self, timeout: float) -> None:
        """Return when readers can see it. Raises ConnectionLost (its fate is unknown then), and
        what the broker refuses it for (it is undone then)."""
        await self._end(True, timeout)
        deadline = time.monotonic() + timeout
        # The answer comes before the markers are everywhere.
        waiting = dict(self._ends)
        while waiting:
            seen = await offsets(self._cluster, self._topic, waiting, LATEST, committed=True)
            waiting = {n: end for n, end in waiting.items() if seen[n] < end}
            if waiting and time.monotonic() > deadline:
                raise BrokerUnavailable(
                    "the transaction is committed but cannot be read yet",
                    where=self._cluster.where,
                    why=f"another one may be open on partition {min(waiting)}",
                )
            if waiting:
                await asyncio.sleep(_PAUSE)

    async def abort(self, timeout: float) -> None:
        """Undo all. Safe after a failed commit, and twice. Where it cannot be told to the broker,
        the broker does it when the transaction's time has run out."""
        await self._end(False, timeout)

    async def _end(self, commit: bool, timeout: float) -> None:
        if self._over or not self._enlisted:
            return
        producer = self._producer
        request = EndTxnRequest(
            producer.settings.transactional_id, producer.producer, producer.epoch, commit
        )
        await self._until_done(request, lambda a: a.error_code, timeout)
        self._over = True

    async def _until_done(self, request: Any, code_of: Any, timeout: float) -> None:
        name = self._producer.settings.transactional_id
        assert name is not None
        deadline = time.monotonic() + timeout
        while True:
            try:
                node = await self._cluster.coordinator(name, transaction=True)
                code = code_of(await self._cluster.call(request, node, timeout))
            except ConnectionLost:
                if time.monotonic() > deadline:
                    raise
            else:
                if code == errors.OK:
                    return
                if code not in errors.RETRIABLE or time.monotonic() > deadline:
                    raise errors.failure(code, self._cluster.where, what="the transaction failed")
            await asyncio.sleep(_PAUSE)
