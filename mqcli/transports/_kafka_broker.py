"""A Kafka cluster as a whole: ``ping`` and ``ls``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..broker import Entry
from ..roles import ListsGroups
from ..transport import Target
from . import _kafka_admin as admin
from ._kafka import Cluster, KafkaOptions

__all__ = ["KafkaBroker"]


class KafkaBroker(ListsGroups):
    """The brokers behind a bootstrap address."""

    Connection = KafkaOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._cluster = Cluster(target)

    async def open(self) -> None:
        await self._cluster.open()

    async def aclose(self) -> None:
        await self._cluster.aclose()

    async def ping(self) -> dict[str, Any]:
        await self._cluster.metadata([])
        nodes = self._cluster.nodes
        return {
            "server": "kafka",
            "cluster": self._cluster.cluster_id,
            "controller": self._cluster.controller,
            "brokers": [f"{host}:{port}" for _, (host, port) in sorted(nodes.items())],
        }

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """The topics that are not the broker's own."""
        if kind not in (None, "topic"):
            return []
        found = []
        for name, (internal, partitions) in sorted((await self._cluster.topics()).items()):
            if internal:
                continue
            detail: dict[str, Any] = {
                "partitions": len(partitions),
                "replication": max((len(p.replicas) for p in partitions.values()), default=0),
            }
            behind = sum(len(p.isr) < len(p.replicas) for p in partitions.values())
            if behind:
                detail["under_replicated"] = behind
            found.append(Entry("topic", name, detail=detail))
        return found

    async def groups(self) -> Sequence[Entry]:
        """With the state and the number of members of each, where the classic protocol shows it."""
        cluster = self._cluster
        names = sorted(await admin.group_names(cluster))
        seen = await asyncio.gather(*(admin.group_state(cluster, name) for name in names))
        return [
            Entry(
                "group",
                name,
                detail={} if state in ("Dead", "") else {"state": state, "members": len(members)},
            )
            for name, (state, _, members) in zip(names, seen, strict=True)
        ]
