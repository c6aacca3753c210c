"""Where reading starts and stops: START and STOP made into an offset for each partition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from aiokafka.protocol.offset import OffsetRequest

from ..errors import UsageError
from ..position import Start
from ..transport import Gap
from . import _kafka_errors as errors
from ._kafka import Cluster, leaders

__all__ = [
    "EARLIEST",
    "LATEST",
    "Places",
    "offsets",
    "parse_partitions",
    "parse_places",
    "parse_resumed",
    "removed",
    "resumed",
    "spelled",
    "start_places",
    "stop_places",
]

LATEST, EARLIEST = -1, -2
_PAUSE = 0.1
Places = dict[int, int]
"""An offset for each partition."""


async def offsets(
    cluster: Cluster, topic: str, partitions: Iterable[int], when: int, *, committed: bool
) -> Places:
    """The first offset at or after the time ``when`` (ms, or EARLIEST, LATEST) in each partition,
    -1 where there is none. ``committed``: open transactions count as not yet there.
    Raises NotFound, ConnectionLost, AccessDenied."""
    wanted = list(partitions)
    found: Places = {}
    deadline = time.monotonic() + cluster.patience
    while wanted:
        by_node: dict[int, list[int]] = {}
        for number, node in (await leaders(cluster, topic, wanted)).items():
            by_node.setdefault(node, []).append(number)
        answers = await asyncio.gather(
            *(
                cluster.call(
                    OffsetRequest(-1, int(committed), [(topic, [(n, when) for n in numbers])]), node
                )
                for node, numbers in by_node.items()
            )
        )
        for answer in answers:
            for number, code, _, offset in answer.topics[0][1]:
                if code == errors.OK:
                    found[number] = offset
                elif code not in errors.RETRIABLE or time.monotonic() > deadline:
                    raise errors.failure(code, cluster.where)
        wanted = [number for number in wanted if number not in found]
        if wanted:
            await asyncio.sleep(_PAUSE)
    return found


def parse_partitions(text: str, where: str) -> list[int] | None:
    """``0,3-5`` as [0, 3, 4, 5]; None for all. Raises UsageError."""
    if not text:
        return None
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
            raise UsageError(
                f"partitions={text} does not fit", where=where, hint="write partitions=0,3-5"
            )
        if int(high) < int(low) or int(high) > 1_000_000:
            raise UsageError(f"partitions={text}: {part} is no range", where=where)
        found.update(range(int(low), int(high) + 1))
    return sorted(found)


def parse_places(token: str, partitions: Iterable[int], where: str) -> Places:
    """``42`` is that offset in all ``partitions``; ``0:42,1:50`` names each and no other.
    Raises UsageError."""
    if token.isascii() and token.isdigit():
        return dict.fromkeys(partitions, int(token))
    known, places = set(partitions), Places()
    for part in token.split(","):
        number, colon, offset = part.partition(":")
        if not (colon and number.isascii() and number.isdigit()) or not (
            offset.isascii() and offset.isdigit()
        ):
            raise UsageError(
                f"{token!r} is not a position here",
                where=where,
                hint="write an offset such as 42, or PARTITION:OFFSET such as 0:42",
            )
        if int(number) not in known:
            raise UsageError(
                f"partition {number} is not among those to read",
                where=where,
                hint="they are " + ", ".join(map(str, sorted(known))),
            )
        places[int(number)] = int(offset)
    return places


async def start_places(
    cluster: Cluster,
    topic: str,
    partitions: Iterable[int],
    start: Start,
    source: str,
    *,
    committed: bool,
) -> tuple[Places, list[Gap]]:
    """The first offset to read in each partition, and what retention has removed of it. Every kind
    but ``last``. Raises UsageError for an offset behind the end, and the errors of ``offsets``."""
    numbers = list(partitions)

    async def at(when: int) -> Places:
        return await offsets(cluster, topic, numbers, when, committed=committed)

    if start.kind == "beginning":
        return await at(EARLIEST), []
    if start.kind == "end":
        return await at(LATEST), []
    if start.kind == "time":
        found, ends = await asyncio.gather(at(start.ms), at(LATEST))
        return {n: ends[n] if place < 0 else place for n, place in found.items()}, []
    first, last = await asyncio.gather(at(EARLIEST), at(LATEST))
    if start.kind == "skip":
        return {n: min(place + start.count, last[n]) for n, place in first.items()}, []
    gaps: list[Gap] = []
    places = parse_places(start.token, numbers, source)
    if start.kind == "after":
        places = {number: place + 1 for number, place in places.items()}
    for number, place in places.items():
        if place < first[number]:
            gaps.append(removed(source, number, place, first[number]))
            places[number] = first[number]
        elif place > last[number] and start.kind == "at":
            raise UsageError(
                f"offset {place} is behind the end of partition {number}",
                where=source,
                hint=f"it ends at {last[number]}",
            )
    return places, gaps


async def stop_places(
    cluster: Cluster,
    topic: str,
    partitions: Iterable[int],
    stop: Start,
    source: str,
    *,
    committed: bool,
) -> Places:
    """The first offset not to read; partitions that STOP does not name are not in it."""
    numbers = list(partitions)
    if stop.kind in ("at", "after"):
        return parse_places(stop.token, numbers, source)
    places, _ = await start_places(cluster, topic, numbers, stop, source, committed=committed)
    return places


def removed(source: str, partition: int, wanted: int, first: int) -> Gap:
    """The broker no longer has what was wanted."""
    return Gap(
        source,
        "removed by the broker's retention before it was read",
        after=f"{partition}:{wanted - 1}" if wanted else None,
        before=f"{partition}:{first}",
        count=first - wanted,
    )


def parse_resumed(token: str, topic: str) -> Places:
    """The next offset of each partition of a topic, from what :func:`resumed` made, or from the
    printed position of the last message."""
    for part in token.split(";"):
        name, _, rest = part.rpartition("/")
        if name in ("", topic):
            pairs = (pair.split(":") for pair in rest.split(","))
            return {int(number): int(offset) + 1 for number, offset in pairs}
    return {}


def resumed(places: Mapping[str, Mapping[int, int]]) -> str:
    """A token for the place behind what was read of each topic; -1 is behind nothing."""
    return ";".join(
        f"{topic}/{spelled({number: offset - 1 for number, offset in inner.items()})}"
        for topic, inner in places.items()
    )


def spelled(places: Mapping[int, int]) -> str:
    """The token that :func:`parse_places` reads."""
    return ",".join(f"{number}:{offset}" for number, offset in sorted(places.items()))
