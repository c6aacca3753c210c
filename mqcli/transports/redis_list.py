"""Redis lists as queues. What other clients see is in docs/redis-list.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..errors import (
    BrokerUnavailable,
    MqcliError,
    Refused,
    TryAgainLater,
    Unsupported,
    UsageError,
)
from ..message import Message, contents
from ..options import Duration
from ..transport import (
    Consumes,
    Feed,
    Inspects,
    Manages,
    Outcome,
    Publishes,
    Span,
    Tails,
    Target,
    Traits,
)
from ._redis import DURABLE, RedisLink, RedisOptions, ReplyError, key_of
from ._redis_list_scripts import ANSWER, Keys, Side
from ._redis_packing import pack, pack_variadic

_VALUES = 100_000
"""Values of one push: a server parses at most a million arguments."""

_LEAST_LEASE = 1.0
"""Seconds."""


class ListOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What ``-O`` and ``?`` may say of a list."""

    side: Annotated[
        Literal["left", "right"] | None,
        Meta(
            description="the end that is worked on: publish pushes there (right by default),"
            " consume takes from there (left), tail watches it (right)"
        ),
    ] = None
    take: Annotated[
        Literal["reliable", "pop"],
        Meta(
            description="reliable: kept in a processing list until acknowledged; pop: plain pops,"
            " lost if this process or its connection dies"
        ),
    ] = "reliable"
    claim_after: Annotated[
        Duration,
        Meta(
            description="a consumer not heard of for so long is dead, what it held is given back"
            " by the next one; at least 1s"
        ),
    ] = Duration(30)


class RedisList(Publishes, Consumes, Tails, Inspects, Manages):
    """A list: pushed to at one end, taken from the other, each value by one consumer.

    Confirmed means that the value is in the server's data set; whether that survives the server
    is its ``appendonly`` and ``save``.
    """

    summary = "list as a reliable queue"
    Connection = RedisOptions
    Options = ListOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._key = key_of(target)
        self._link = RedisLink(target, self._key)

    @classmethod
    def traits(cls, options: Any, group: str | None) -> Traits:
        reliable = options.take == "reliable"
        if options.claim_after < _LEAST_LEASE:
            raise UsageError(
                f"claim_after={options.claim_after:g}s is too short",
                hint=f"at least {_LEAST_LEASE:g}s: a consumer must be able to renew its lease",
            )
        return Traits(
            confirm="stored",
            durable=DURABLE,
            ack="upto" if reliable else "none",
            nack=reliable,
            keeps="until-taken",
            order="all",
            shares=True,
            fans_out=False,
            headers="none",
            keys=False,
            tombstones=False,
            missing="undetectable",
            watch_starts=frozenset({"end", "last"}),
        )

    async def open(self) -> None:
        self.traits(self.target.options, None)
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """One push for the batch, which one integer confirms: all of it or nothing is in."""
        values = contents(batch)
        lengths = set(map(len, values))
        refused = await self._link.too_long(values, lengths)
        indices: Sequence[int] = range(len(values))
        if refused:
            indices = [i for i in indices if i not in refused]
            values = [values[i] for i in indices]
            lengths = set(map(len, values))
        command = "LPUSH" if self.target.options.side == "left" else "RPUSH", self._key
        parts = [indices[at : at + _VALUES] for at in range(0, len(values), _VALUES)]
        packed = b"".join(
            pack_variadic(command, values[at : at + _VALUES], lengths)
            for at in range(0, len(values), _VALUES)
        )
        if not parts:
            return Outcome(0, refused)
        replies, cause = await self._link.exchange(packed, len(parts), timeout)
        confirmed = 0
        for part, reply in zip(parts, replies, strict=False):
            if isinstance(reply, ReplyError):
                error = await self._link.explain(reply)
                refused |= dict.fromkeys(part, error)
            else:
                confirmed += len(part)
        unknown = [i for part in parts[len(replies) :] for i in part]
        return Outcome(confirmed, refused, unknown, cause if unknown else None)

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        from ._redis_list_feed import PopFeed, ReliableFeed
        from ._redis_list_scripts import Scripts, Transactions

        self._check(span, group)
        options = self.target.options
        side: Side = options.side or "left"
        feed: PopFeed | ReliableFeed
        if options.take == "pop":
            feed = PopFeed(side, self.target, self._key, self._link, limit)
        else:
            keys, lease = Keys(self._key), options.claim_after
            reliable = feed = ReliableFeed(
                Scripts(self._link, keys, side, lease),
                side,
                options.claim_after,
                self.target,
                self._key,
                self._link,
                limit,
            )
            try:
                await reliable.start()
            except (BrokerUnavailable, TryAgainLater):
                raise
            except MqcliError:
                # Scripts are not permitted, or not known; if it is something else, this says what.
                reliable.use(Transactions(self._link, keys, side, lease))
                await reliable.start()
        if span.stop is not None:
            try:
                feed.set_end(await self._link.call("LLEN", self._key, timeout=ANSWER))
            except BaseException:
                await feed.aclose()
                raise
        return feed

    def _check(self, span: Span, group: str | None) -> None:
        where = self.target.where
        if group is not None:
            raise Unsupported(
                "a queue has no groups: every reader takes from the same messages", where=where
            )
        if span.start is not None or (span.stop is not None and span.stop.kind != "end"):
            raise Unsupported(
                f"{span.start or span.stop} cannot be used here",
                where=where,
                why="a queue has one end to take from",
            )

    async def tail(self, span: Span) -> Feed:
        from ._redis_list_watch import WatchFeed

        feed = WatchFeed(self.target, self._key, self.target.options.side or "right", span)
        try:
            await feed.start()
        except BaseException:
            await feed.aclose()
            raise
        return feed

    async def exists(self) -> bool:
        return bool(await self._link.call("TYPE", self._key, timeout=ANSWER) == b"list")

    async def describe(self, group: str | None) -> dict[str, Any]:
        """``length`` waits to be taken, ``held`` is with consumers. A list that is not there is
        empty, so this never raises NotFound. ``bytes`` is the server's estimate, None where it
        may not be asked; a negative ``lease_ms`` has run out."""
        length = await self._link.call("LLEN", self._key, timeout=ANSWER)
        try:
            used = await self._link.call("MEMORY", "USAGE", self._key, timeout=ANSWER) or 0
        except BrokerUnavailable:
            raise
        except MqcliError:
            used = None
        consumers: dict[str, dict[str, Any]] = {}
        for member, held, lease_ms in await self._held():
            side, _, holder = member.decode("utf-8", "replace").rpartition(":")[0].partition(":")
            entry = consumers.setdefault(
                holder, {"consumer": holder, "side": side, "held": 0, "lease_ms": lease_ms}
            )
            entry["held"] += held
            entry["lease_ms"] = max(entry["lease_ms"], lease_ms)
        return {
            "length": length,
            "held": sum(entry["held"] for entry in consumers.values()),
            "bytes": used,
            "consumers": list(consumers.values()),
        }

    async def _held(self) -> list[tuple[bytes, int, int]]:
        """(member, values in its processing list, milliseconds of its lease left)."""
        keys = Keys(self._key)
        packed = pack("TIME") + pack("ZRANGE", keys.index, 0, -1, "WITHSCORES")
        time, scored = await self._all(packed, 2)
        now = int(time[0]) * 1000 + int(time[1]) // 1000
        members, scores = scored[::2], scored[1::2]
        packed = b"".join(pack("LLEN", keys.held(member)) for member in members)
        lengths = await self._all(packed, len(members)) if members else []
        return [
            (member, length, int(float(score)) - now)
            for member, score, length in zip(members, scores, lengths, strict=True)
        ]

    async def _all(self, packed: bytes, count: int) -> list[Any]:
        replies, cause = await self._link.exchange(packed, count, ANSWER)
        if cause is not None:
            raise cause
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise await self._link.explain(reply)
        return replies

    async def purge(self) -> int:
        """Remove what waits to be taken, and count it; what consumers hold stays theirs."""
        # LTRIM, for it leaves alone what is no list. No MULTI, which a full server refuses: in one
        # packet the two are executed one after the other all the same.
        packed = pack("LLEN", self._key) + pack("LTRIM", self._key, 1, 0)
        return int((await self._all(packed, 2))[0])

    async def delete(self) -> None:
        """Remove the list, and what dead consumers held of it.

        Raises Refused, and removes nothing, while a living consumer holds messages. A list that is
        not there is empty: no NotFound.
        """
        members = await self._held()
        alive = [held for _, held, lease_ms in members if held and lease_ms > 0]
        if alive:
            raise Refused(
                f"{sum(alive)} messages are held by living consumers",
                where=self.target.where,
                hint="stop them first (describe lists them), or use purge for what is not held",
            )
        keys = Keys(self._key)
        dead = [member for member, _, lease_ms in members if lease_ms <= 0]
        await self.purge()
        if dead:
            packed = pack("UNLINK", *map(keys.held, dead)) + pack("ZREM", keys.index, *dead)
            await self._all(packed, 2)
