"""Redis streams: a log with consumer groups. Its page is docs/redis.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, overload

from hiredis import ReplyError
from msgspec import Meta, Struct

from ..errors import MqcliError, NotFound, Refused, UsageError
from ..message import Message, Plain, contents
from ..options import Duration
from ..position import BEGINNING, END, Start
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
from ._redis import DURABLE, RedisLink, RedisOptions, key_of
from ._redis_packing import pack, pack_alike
from ._redis_stream_feed import ANSWER, Decoder, LogFeed, Places, missing
from ._redis_stream_group import GroupFeed

__all__ = ["RedisStream", "StreamOptions"]

_EXPLICIT = re.compile(r"\d{1,20}-(\d{1,20}|\*)|\d{1,20}")


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """``-O`` of a stream."""

    value_field: Annotated[str, Meta(description="field of an entry that is the value")] = "value"
    key_field: Annotated[
        str | None, Meta(description="field that is the key; without it there are no keys")
    ] = None
    maxlen: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="publishing trims to that many entries")
    ] = None
    minid: Annotated[
        Annotated[str, Meta(pattern=r"^\d{1,20}(-\d{1,20})?$")] | None,
        Meta(description="publishing trims entries with an id below this one"),
    ] = None
    approx: Annotated[
        bool, Meta(description="trim whole nodes only, which is cheap; false is exact")
    ] = True
    claim_after: Annotated[
        Duration, Meta(description="take over what a consumer has left unacknowledged for so long")
    ] = Duration(30)


class Ids(Sequence[str]):
    """Replies as positions, made into text only when looked at."""

    def __init__(self, replies: Sequence[bytes]) -> None:
        self._replies = replies

    def __len__(self) -> int:
        return len(self._replies)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Ids(self._replies[index])
        return self._replies[index].decode()


class RedisStream(Publishes, Consumes, Tails, Inspects, Manages):
    summary = "stream, a log with consumer groups"
    Connection = RedisOptions
    Options = StreamOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._key = key_of(target)
        self._link = RedisLink(target, self._key)
        options = target.options
        self._value = options.value_field.encode("utf-8", "surrogateescape")
        self._key_field = (options.key_field or "").encode("utf-8", "surrogateescape")
        trim: tuple[bytes | int | str, ...] = ()
        if options.maxlen is not None or options.minid is not None:
            sign = b"~" if options.approx else b"="
            trim = (
                (b"MAXLEN", sign, options.maxlen)
                if options.maxlen is not None
                else (b"MINID", sign, options.minid)
            )
        self._start: tuple[bytes | int | str, ...] = (b"XADD", self._key, *trim)

    @classmethod
    def traits(cls, options: StreamOptions, group: str | None) -> Traits:
        if options.maxlen is not None and options.minid is not None:
            raise UsageError("maxlen and minid exclude each other")
        if options.key_field == options.value_field:
            raise UsageError("key_field and value_field must differ")
        if options.claim_after < 0.001:
            raise UsageError("claim_after must be at least 1ms")
        return Traits(
            confirm="stored",
            durable=DURABLE,
            ack="none" if group is None else "each",
            nack=group is not None,
            keeps="log",
            order="all",
            shares=True,
            fans_out=True,
            headers="bytes",
            keys=options.key_field is not None,
            tombstones=False,
            missing="creates",
            properties=frozenset({"id"}),
            timestamps=True,
            starts=frozenset({"beginning", "end", "skip", "last", "at", "time", "after"}),
        )

    async def open(self) -> None:
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """Positions are the ids. A refused message is certainly not in the stream."""
        if not batch:
            return Outcome(0)
        values = contents(batch)
        lengths = set(map(len, values))
        longest = max(lengths)
        limit = await self._link.max_bulk(longest)
        refused: dict[int, MqcliError] = {}
        if longest > limit or (not isinstance(batch, Plain) and self._special(batch)):
            packed = b"".join([self._packed(i, m, limit, refused) for i, m in enumerate(batch)])
        else:
            packed = pack_alike((*self._start, b"*", self._value), values, lengths)
        count = len(batch) - len(refused)
        if not count:
            return Outcome(0, refused)
        got, cause = await self._link.exchange(packed, count, timeout)
        if cause is None and not refused and set(map(type, got)) == {bytes}:
            return Outcome(count, positions=Ids(got))
        return self._account(len(batch), refused, got, cause)

    @staticmethod
    def _special(batch: Sequence[Message]) -> bool:
        """Whether any message is more than a value."""
        return True in [  # a list: faster than any() on the usual batch, where nothing is
            m.key is not None
            or m.headers != ()
            or m.timestamp is not None
            or m.properties is not None
            or m.value is None
            or m.raw_fields
            for m in batch
        ]

    def _account(
        self, total: int, refused: dict[int, MqcliError], got: list[Any], cause: MqcliError | None
    ) -> Outcome:
        sent = [i for i in range(total) if i not in refused]
        positions, confirmed = [""] * total, 0
        for i, reply in zip(sent, got, strict=False):
            if isinstance(reply, ReplyError):
                refused[i] = self._link.error(reply)
            else:
                positions[i] = reply.decode()
                confirmed += 1
        return Outcome(confirmed, refused, sent[len(got) :], cause=cause, positions=positions)

    def _packed(
        self, i: int, message: Message, limit: int, refused: dict[int, MqcliError]
    ) -> bytes:
        reason, fields = "", []
        if message.raw_fields:
            if not message.headers:
                reason = "an entry needs at least one field"
        elif message.value is None:
            reason = "a tombstone (no value) cannot be carried"
        else:
            if message.key is not None:
                fields += [self._key_field, message.key]
            fields += [self._value, message.value]
        reserved = () if message.raw_fields else (self._value, self._key_field)
        for name, content in message.headers:
            raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
            if raw in reserved and raw:
                reason = f"the header {name!r} has the name of a reserved field"
            if isinstance(content, str):
                fields += [raw, content.encode("utf-8", "surrogateescape")]
            else:
                assert isinstance(content, bytes), "the client refuses other types"
                fields += [raw, content]
        if not reason and max(map(len, fields)) > limit:
            reason = f"it is longer than {limit} bytes, the server's proto-max-bulk-len"
        entry: Any = b"*" if message.timestamp is None else f"{message.timestamp}-*"
        if message.timestamp is not None and message.timestamp < 0:
            reason = "an entry's id cannot lie before 1970"
        if message.properties and "id" in message.properties:
            entry = message.properties["id"]
            if not isinstance(entry, str) or not _EXPLICIT.fullmatch(entry):
                reason = f"{entry!r} is not an entry's id"
        if reason:
            refused[i] = Refused(reason, where=self.target.where)
            return b""
        return pack(*self._start, entry, *fields)

    async def subscribe(self, span: Span, group: str | None, limit: int | None) -> Feed:
        if group is None:
            return await self._log(span, BEGINNING, limit)
        places = Places(self._link, self._key)
        await places.look()
        start = await places.start(span.start or BEGINNING)
        stop = await places.stop(span.stop)
        note = await self._make_group(group, str(start))
        options, link = self.target.options, RedisLink(self.target, self._key)
        feed = GroupFeed(
            link, self._link, self._key, group, self._decoder(), options.claim_after, stop, limit
        )
        if note and span.start is not None:
            feed.notes.append(note)
        try:
            await link.open()
            await feed.begin(places.last, places.added)
        except BaseException:
            await feed.aclose()
            raise
        return feed

    async def _make_group(self, group: str, start: str) -> str:
        packed = pack("XGROUP", "CREATE", self._key, group, start)
        got, cause = await self._link.exchange(packed, 1, ANSWER)
        if cause is not None:
            raise cause
        text = str(got[0]) if isinstance(got[0], ReplyError) else ""
        if text.startswith("BUSYGROUP"):
            return f"the group {group!r} goes on from where it stands; --from was not used"
        if "requires the key to exist" in text:
            raise missing(self.target.where)
        if text:
            raise await self._link.explain(got[0])
        return ""

    async def tail(self, span: Span) -> Feed:
        return await self._log(span, END, None)

    async def _log(self, span: Span, usual: Start, limit: int | None) -> Feed:
        places = Places(self._link, self._key)
        await places.look()
        start = await places.start(span.start or usual)
        stop = await places.stop(span.stop)
        return LogFeed(self._link, self._key, self._decoder(), start, stop, limit)

    def _decoder(self) -> Decoder:
        options = self.target.options
        return Decoder(self.target.where, options.value_field, options.key_field)

    async def exists(self) -> bool:
        """Raises UsageError where the key is of another kind."""
        kind = await self._link.call("TYPE", self._key, timeout=ANSWER)
        if kind in (b"none", b"stream"):
            return bool(kind == b"stream")
        raise await self._link.explain(ReplyError("WRONGTYPE"))

    async def describe(self, group: str | None) -> dict[str, Any]:
        if not await self.exists():
            raise missing(self.target.where)
        stream = _dict(await self._link.call("XINFO", "STREAM", self._key, timeout=ANSWER))
        groups = []
        for raw in await self._link.call("XINFO", "GROUPS", self._key, timeout=ANSWER):
            told = _dict(raw)
            name = told["name"].decode("utf-8", "surrogateescape")
            if group not in (None, name):
                continue
            consumers = await self._link.call(
                "XINFO", "CONSUMERS", self._key, told["name"], timeout=ANSWER
            )
            groups.append(
                {
                    "name": name,
                    "pending": told["pending"],
                    "lag": told["lag"],
                    "last_delivered_id": told["last-delivered-id"].decode(),
                    "consumers": [
                        {
                            "name": one["name"].decode("utf-8", "surrogateescape"),
                            "pending": one["pending"],
                            "idle_ms": one["idle"],
                        }
                        for one in map(_dict, consumers)
                    ],
                }
            )
        if group is not None and not groups:
            raise NotFound(f"the group {group!r} does not exist", where=self.target.where)
        first, last = stream["first-entry"], stream["last-entry"]
        return {
            "length": stream["length"],
            "first_id": first[0].decode() if first else None,
            "last_id": last[0].decode() if last else None,
            "last_generated_id": stream["last-generated-id"].decode(),
            "entries_added": stream["entries-added"],
            "groups": groups,
        }

    async def create(self) -> bool:
        """A stream without entries. Redis has no command for it, but a stream outlives its groups:
        one is made and destroyed in a transaction."""
        if await self.exists():
            return False
        name = "mqcli-create"
        packed = (
            pack("MULTI")
            + pack("XGROUP", "CREATE", self._key, name, "$", "MKSTREAM")
            + pack("XGROUP", "DESTROY", self._key, name)
            + pack("EXEC")
        )
        got, cause = await self._link.exchange(packed, 4, ANSWER)
        if cause is not None:
            raise cause
        for reply in (*got, *(got[-1] if isinstance(got[-1], list) else ())):
            if isinstance(reply, ReplyError) and not str(reply).startswith("EXECABORT"):
                raise self._link.error(reply)
        return True

    async def purge(self) -> int | None:
        if not await self.exists():
            raise missing(self.target.where)
        removed = await self._link.call("XTRIM", self._key, "MAXLEN", 0, timeout=ANSWER)
        return int(removed)

    async def delete(self) -> None:
        if not await self.exists() or not await self._link.call(
            "UNLINK", self._key, timeout=ANSWER
        ):
            raise missing(self.target.where)


def _dict(pairs: list[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
