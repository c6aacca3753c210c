"""Looking at topics and groups, and preparing them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.admin import (
    CreateTopicsRequest_v3,
    CreateTopicsResponse_v3,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
)
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.commit import OffsetCommitRequest

from ..errors import ConnectionLost, NotFound, Refused, UsageError
from . import _kafka_errors as errors
from ._kafka import Cluster, leaders
from ._kafka_groups import committed_places
from ._kafka_offsets import EARLIEST, LATEST, Places, offsets

_TOPIC = 2
_DEFAULT_LARGEST = 1_048_588
"""The broker's default of ``message.max.bytes``."""
_TOPIC_LEVEL = 1
"""As the source of a configuration value: it was set for this topic."""
_PAUSE = 0.05
_EMPTY = frozenset({"Empty", "Dead", ""})


# -- topics


async def configs(cluster: Cluster, topic: str, names: list[str] | None = None) -> dict[str, Any]:
    """Name to (value, whether it was set for this topic); empty where we may not know.
    Raises ConnectionLost."""
    answer = await cluster.call(DescribeConfigsRequest([(_TOPIC, topic, names)]))
    code, _, _, _, entries = answer.resources[0][:5]
    if code != errors.OK:
        return {}
    return {row[0]: (row[1], row[3] == _TOPIC_LEVEL) for row in entries}


async def largest_batch(cluster: Cluster, topic: str) -> int:
    """``max.message.bytes`` of the topic; the broker's default where we may not know."""
    found = await configs(cluster, topic, ["max.message.bytes"])
    value, _ = found.get("max.message.bytes", (None, False))
    return int(value) if value else _DEFAULT_LARGEST


async def describe_topic(cluster: Cluster, topic: str) -> dict[str, Any]:
    """Plain values. Raises NotFound, ConnectionLost, AccessDenied."""
    known = await cluster.topic(topic)
    readable = [number for number, partition in known.items() if partition.leader >= 0]
    first, last, settings = await asyncio.gather(
        offsets(cluster, topic, readable, EARLIEST, committed=False),
        offsets(cluster, topic, readable, LATEST, committed=False),
        configs(cluster, topic),
    )
    rows = [
        {
            "partition": number,
            "leader": partition.leader if partition.leader >= 0 else None,
            "replicas": list(partition.replicas),
            "isr": list(partition.isr),
            "earliest": first.get(number),
            "latest": last.get(number),
        }
        for number, partition in known.items()
    ]
    behind = sum(len(p.isr) < len(p.replicas) for p in known.values())
    return {
        "kind": "topic",
        "name": topic,
        "partitions": len(known),
        "replication": max((len(p.replicas) for p in known.values()), default=0),
        "offsets": sum(last[n] - first[n] for n in readable),
        "under_replicated": behind,
        "partition": rows,
        "config": {name: value for name, (value, ours) in sorted(settings.items()) if ours},
        "defaults": {name: value for name, (value, ours) in sorted(settings.items()) if not ours},
    }


class _CreateTopics:
    """From version 4 on the broker's defaults can be asked for; aiokafka ends at 3."""

    class V4(RequestStruct):  # type: ignore[misc]
        API_KEY = 19
        API_VERSION = 4
        RESPONSE_TYPE = CreateTopicsResponse_v3
        SCHEMA = CreateTopicsRequest_v3.SCHEMA

    def __init__(
        self, topic: str, partitions: int, replication: int, config: list[tuple[str, str]], ms: int
    ) -> None:
        self._topic, self._config, self._ms = topic, config, ms
        self._partitions, self._replication = partitions, replication

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        new = versions.get(19, (0, 0))[1] >= 4
        partitions = self._partitions if new or self._partitions > 0 else 1
        replication = self._replication if new or self._replication > 0 else 1
        row: tuple[Any, ...] = (self._topic, partitions, replication, [], self._config)
        return (self.V4 if new else CreateTopicsRequest_v3)([row], self._ms, False)


async def create_topic(
    cluster: Cluster, topic: str, partitions: int, replication: int, config: dict[str, str]
) -> bool:
    """True when made now and ready, False when it was there and is as wished (-1 is no wish).
    Raises Refused where it is there and different, UsageError for what no broker takes."""
    ms = int(cluster.patience * 1000)
    request = _CreateTopics(topic, partitions, replication, list(config.items()), ms)
    node = cluster.controller if cluster.controller in cluster.nodes else None
    answer = await cluster.call(request, node, cluster.patience * 2)
    _, code, message = answer.topic_errors[0]
    if code == errors.TOPIC_EXISTS:
        await _compare(cluster, topic, partitions, replication, config)
        return False
    if code != errors.OK:
        raise errors.failure(code, cluster.where, message, what="the topic cannot be created")
    deadline = time.monotonic() + cluster.patience
    while True:
        try:
            await leaders(cluster, topic, await cluster.topic(topic))
            return True
        except NotFound:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE)


async def _compare(
    cluster: Cluster, topic: str, partitions: int, replication: int, config: dict[str, str]
) -> None:
    known = await cluster.topic(topic)
    found = await configs(cluster, topic) if config else {}
    copies = max((len(p.replicas) for p in known.values()), default=0)
    different = []
    if partitions > 0 and partitions != len(known):
        different.append(f"{len(known)} partitions, not {partitions}")
    if replication > 0 and replication != copies:
        different.append(f"{copies} replicas, not {replication}")
    for name, value in config.items():
        is_now = found.get(name, (None, False))[0]
        if is_now != value:
            different.append(f"{name}={is_now}, not {value}")
    if different:
        raise Refused(
            "the topic is there already, and different",
            where=cluster.where,
            why="it has " + "; ".join(different),
        )


async def purge_topic(cluster: Cluster, topic: str) -> int:
    """Delete all records up to the end; how many offsets that were.
    Raises NotFound, Refused (a compacted topic), AccessDenied, ConnectionLost."""
    heads = await leaders(cluster, topic, await cluster.topic(topic))
    first = await offsets(cluster, topic, heads, EARLIEST, committed=False)
    by_node: dict[int, list[int]] = {}
    for number, node in heads.items():
        by_node.setdefault(node, []).append(number)
    ms, removed = int(cluster.patience * 1000), 0
    for node, numbers in by_node.items():
        rows = [(number, -1) for number in numbers]  # -1 is the high watermark
        answer = await cluster.call(
            DeleteRecordsRequest([(topic, rows)], ms), node, cluster.patience * 2
        )
        for row in answer.topics[0][1]:
            number, low, code = row[:3]
            if code != errors.OK:
                raise errors.failure(code, cluster.where, what="the topic cannot be purged")
            removed += max(0, low - first[number])
    return removed


async def delete_topic(cluster: Cluster, topic: str) -> None:
    """Raises NotFound, AccessDenied, ConnectionLost, Refused where deletion is turned off."""
    await cluster.topic(topic)
    node = cluster.controller if cluster.controller in cluster.nodes else None
    request = DeleteTopicsRequest([topic], int(cluster.patience * 1000))
    answer = await cluster.call(request, node, cluster.patience * 2)
    code = answer.topic_error_codes[0][1]
    if code not in (errors.OK, errors.UNKNOWN_TOPIC):
        raise errors.failure(code, cluster.where, what="the topic cannot be deleted")
    deadline = time.monotonic() + cluster.patience
    while topic in await cluster.names() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE)


# -- groups


async def group_state(cluster: Cluster, group: str) -> tuple[str, str, list[dict[str, Any]]]:
    """State, protocol, members. ``Dead`` is a group that the broker does not know, or one of the
    new protocol, which classic requests do not see. Waits while the broker that keeps the group is
    new to it. Raises AccessDenied, ConnectionLost, TryAgainLater."""
    deadline = time.monotonic() + cluster.patience
    while True:
        try:
            node = await cluster.coordinator(group)
            answer = await cluster.call(DescribeGroupsRequest([group]), node)
        except ConnectionLost:
            if len(cluster.nodes) < 2 or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE)  # its broker died; another one will keep the group
            continue
        code, _, state, _, protocol, members = answer.groups[0][:6]
        if code in (errors.OK, errors.GROUP_NOT_FOUND):
            return state, protocol, [_member(row) for row in members]
        if code not in errors.RETRIABLE or time.monotonic() > deadline:
            raise errors.failure(code, cluster.where)
        await asyncio.sleep(_PAUSE)


def _member(row: Any) -> dict[str, Any]:
    member, client, host, _, assignment = row[:5]
    shares: dict[str, list[int]] = {}
    if assignment:
        for tp in ConsumerProtocolMemberAssignment.decode(assignment).partitions():
            shares.setdefault(tp.topic, []).append(tp.partition)
    return {"member": member, "client": client, "host": host.lstrip("/"), "partitions": shares}


async def describe_group(cluster: Cluster, topic: str, group: str) -> dict[str, Any]:
    """Where a group stands on a topic. Raises NotFound where it has neither members nor offsets."""
    numbers = list(await cluster.topic(topic))
    (state, protocol, members), places = await asyncio.gather(
        group_state(cluster, group), committed_places(cluster, group, topic, numbers)
    )
    if not places and not members:
        raise NotFound(
            f"group {group!r} has no place on this topic",
            where=cluster.where,
            hint="known groups: " + (", ".join(sorted(await group_names(cluster))) or "none"),
        )
    first, last = await asyncio.gather(
        offsets(cluster, topic, numbers, EARLIEST, committed=False),
        offsets(cluster, topic, numbers, LATEST, committed=False),
    )
    owners = {n: m["member"] for m in members for n in m["partitions"].get(topic, ())}
    rows: list[dict[str, Any]] = [
        {
            "partition": number,
            "committed": places.get(number),
            "latest": last[number],
            "lag": last[number] - max(places.get(number, first[number]), first[number]),
            "member": owners.get(number),
        }
        for number in numbers
    ]
    return {
        "group": group,
        "state": state if state not in ("Dead", "") else "not of the classic protocol",
        "lag": sum(row["lag"] for row in rows),
        "protocol": protocol,
        "members": members,
        "partition": rows,
    }


async def group_names(cluster: Cluster) -> dict[str, str]:
    """All groups that we may see, with their type of protocol."""
    found: dict[str, str] = {}
    for node in sorted(cluster.nodes):
        answer = await cluster.call(ListGroupsRequest(), node)
        if answer.error_code != errors.OK:
            raise errors.failure(answer.error_code, cluster.where)
        found.update(dict(answer.groups))
    return found


async def set_places(cluster: Cluster, topic: str, group: str, places: Places) -> None:
    """Commit for a group from outside. Raises Refused while it has members."""
    state, _, members = await group_state(cluster, group)
    if members or state not in _EMPTY:
        raise Refused(
            f"group {group!r} is in use: it would not notice, and overwrite it",
            where=cluster.where,
            why=f"its state is {state}, with {len(members)} members",
            hint="stop its members first",
        )
    if not places:
        return
    node = await cluster.coordinator(group)
    rows = [(number, offset, "") for number, offset in places.items()]
    answer = await cluster.call(OffsetCommitRequest(group, -1, "", -1, [(topic, rows)]), node)
    for _, code in answer.topics[0][1]:
        if code in (errors.UNKNOWN_MEMBER, errors.ILLEGAL_GENERATION):
            raise Refused(f"group {group!r} is in use", where=cluster.where, why=errors.text(code))
        if code != errors.OK:
            raise errors.failure(code, cluster.where)


def parse_config(pairs: Iterable[str], where: str) -> dict[str, str]:
    """``name=value`` each. Raises UsageError."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(
                f"config={pair} has no value",
                where=where,
                hint="write -O config=retention.ms=3600000",
            )
        found[name] = value
    return found
