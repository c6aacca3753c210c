"""Reading a stream without a group: positions, entries made into messages, and the feed.

One command is under way at a time, in a task of its own, and the next one starts before its reply
is handed out: the server works while the output is written. Cancelling a wait leaves the task.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from hiredis import ReplyError

from ..errors import MqcliError, NotFound, UsageError
from ..message import Header, Received
from ..position import Start
from ..transport import Feed, Span
from ._redis import RedisLink
from ._redis_packing import pack

ANSWER = 10.0
"""Seconds that the server may take for a command, beside the time it was told to wait."""

BLOCK = 1.0
"""Seconds that the server is told to wait for new entries."""

_FIRST_COUNT, _PAGE = 64, 1000
_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")
_TOP = (1 << 64) - 1


class Id(NamedTuple):
    """An entry's id: milliseconds and a sequence number, both 64 bits."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    def before(self) -> Id:
        if self.seq:
            return Id(self.ms, self.seq - 1)
        return Id(self.ms - 1, _TOP) if self.ms else self

    def behind(self) -> Id:
        return Id(self.ms, self.seq + 1) if self.seq < _TOP else Id(self.ms + 1, 0)


ZERO = Id(0, 0)


class Stop(NamedTuple):
    """Where reading ends: ``id`` is the first one that is not wanted. A ``timed`` stop is reached
    by the server's clock too. ``there`` says that nothing before it can still come."""

    id: Id
    timed: bool
    there: bool


def parse_id(text: str, where: str = "") -> Id:
    """``1717-3``, or ``1717`` for ``1717-0``. Raises UsageError."""
    match = _ID.fullmatch(text)
    if match is None or max(int(match[1]), int(match[2] or 0)) > _TOP:
        raise UsageError(
            f"{text!r} is not an entry's id",
            where=where,
            hint="ids of a stream are MILLISECONDS-SEQUENCE, as 1717000000000-0",
        )
    return Id(int(match[1]), int(match[2] or 0))


def to_id(raw: bytes) -> Id:
    ms, _, seq = raw.partition(b"-")
    return Id(int(ms), int(seq))


class Decoder:
    """Entries made into messages; see docs/redis.md for the fields."""

    def __init__(self, source: str, value_field: str, key_field: str | None) -> None:
        self._source = source
        self._value = value_field.encode("utf-8", "surrogateescape")
        self._key = None if key_field is None else key_field.encode("utf-8", "surrogateescape")

    def messages(self, entries: list[Any]) -> list[Received]:
        """The ids must ascend."""
        if not entries:
            return []
        first, last = to_id(entries[0][0]).ms, to_id(entries[-1][0]).ms
        if (last - first) * 8 >= len(entries):
            return [
                message
                for entry in entries
                for message in self._run([entry], int(entry[0].partition(b"-")[0]))
            ]
        made: list[Received] = []
        at = 0
        while at < len(entries):  # a written backlog has many entries in a millisecond
            ms = to_id(entries[at][0]).ms
            end = bisect_right(entries, ms, at, key=lambda entry: to_id(entry[0]).ms)
            made += self._run(entries[at:end], ms)
            at = end
        return made

    def _run(self, entries: list[Any], ms: int) -> list[Received]:
        source, field, slow = self._source, self._value, self._slow
        return [
            Received(
                fields[1], None, (), None, ms, False, source, raw.decode(), False, None, raw
            )
            if len(fields) == 2 and fields[0] == field
            else slow(raw, fields, ms)
            for raw, fields in entries
        ]  # fmt: skip

    def _slow(self, raw: bytes, fields: list[bytes], ms: int) -> Received:
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        key = value = None
        headers: list[Header] = []
        for name, content in pairs:
            if value is None and name == self._value:
                value = content
            elif key is None and self._key is not None and name == self._key:
                key = content
            else:
                headers.append((_text(name), _text(content)))
        source, position = self._source, raw.decode()
        if value is not None:
            return Received(
                value, key, tuple(headers), None, ms, False, source, position, False, None, raw
            )
        whole = tuple((_text(name), _text(content)) for name, content in pairs)
        shown = {_shown(name): _shown(content) for name, content in pairs}
        return Received(
            msgspec.json.encode(shown), None, whole, None, ms, True, source, position, False,
            {"raw_fields": True}, raw,
        )  # fmt: skip


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def clock_ms(reply: Any) -> int:
    """The reply to TIME in milliseconds; 0 where the command is not permitted."""
    if isinstance(reply, ReplyError):
        return 0
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def missing(where: str) -> NotFound:
    return NotFound(
        "the stream does not exist", where=where, hint="publishing creates it, and so does create"
    )


class Places:
    """START and STOP made into ids, once, when a feed opens."""

    def __init__(self, link: RedisLink, key: bytes) -> None:
        self._link, self._key = link, key
        self.last = ZERO
        """The id last given out when the feed opened."""
        self.added = 0
        """Entries ever added when the feed opened."""

    async def look(self) -> None:
        """Raises NotFound for a missing stream, UsageError for a key that is none."""
        got, cause = await self._link.exchange(pack("XINFO", "STREAM", self._key), 1, ANSWER)
        if cause is not None:
            raise cause
        reply = got[0]
        if isinstance(reply, ReplyError):
            if "no such key" in str(reply):
                raise missing(self._link.where)
            raise await self._link.explain(reply)
        told = dict(zip(reply[::2], reply[1::2], strict=True))
        self.last = to_id(told[b"last-generated-id"])
        self.added = told[b"entries-added"]

    async def start(self, place: Start) -> Id:
        """The id behind which reading begins."""
        match place.kind:
            case "beginning":
                return ZERO
            case "end":
                return self.last
            case "after":
                return parse_id(place.token, self._link.where)
            case "at":
                return parse_id(place.token, self._link.where).before()
            case "time":
                return Id(max(place.ms, 0), 0).before()
            case "skip":
                found = await self._nth(place.count, "XRANGE", b"-", b"+")
                return found[1] or ZERO
            case "last":
                found = await self._nth(place.count, "XREVRANGE", b"+", b"-")
                return self.last if found[1] is None else found[1].before()

    async def stop(self, place: Start | None) -> Stop | None:
        """Where reading ends, None without a STOP."""
        if place is None:
            return None
        at, timed = await self._first_unwanted(place), place.kind == "time"
        there = at <= self.last.behind()
        if timed and not there:
            got, _ = await self._link.exchange(pack("TIME"), 1, ANSWER)
            there = bool(got) and clock_ms(got[0]) >= at.ms
        return Stop(at, timed, there)

    async def _first_unwanted(self, place: Start) -> Id:
        match place.kind:
            case "beginning":
                return ZERO
            case "end":
                return self.last.behind()
            case "last":
                found = await self._nth(place.count, "XREVRANGE", b"+", b"-")
                return self.last.behind() if found[1] is None else found[1]
            case "time":
                return Id(max(place.ms, 0), 0)
            case "skip":
                return (await self.start(place)).behind()
            case _:
                at = parse_id(place.token, self._link.where)
                return at.behind() if place.kind == "after" else at

    async def _nth(self, count: int, verb: str, first: bytes, last: bytes) -> tuple[int, Id | None]:
        """How many of ``count`` entries there are, and the id of the last one of these."""
        seen, found = 0, None
        while seen < count:
            page = min(_PAGE, count - seen)
            entries = await self._link.call(
                verb, self._key, first, last, "COUNT", page, timeout=ANSWER
            )
            seen += len(entries)
            if entries:
                found = to_id(entries[-1][0])
                first = b"(" + entries[-1][0]
            if len(entries) < page:
                break
        return seen, found


class StreamFeed(Feed):
    """What both ways of reading share: one command under way, and what is to be handed out."""

    def __init__(self, decoder: Decoder, stop: Stop | None, limit: int | None) -> None:
        super().__init__()
        self._decoder, self._stop, self._left = decoder, stop, limit
        self._ready: list[Received] = []
        self._task: asyncio.Task[list[Any]] | None = None
        self._count = _FIRST_COUNT
        self._finished = False
        self._failure: MqcliError | None = None
        self._max = (1000, 1 << 20)

    @abstractmethod
    async def _take(self) -> list[Any]:
        """The next entries by one command; none after a while. Sets ``_finished``."""

    def _make(self, entries: list[Any]) -> list[Received]:
        return self._decoder.messages(entries)

    def _there(self, clock: Any = None) -> bool:
        """Whether nothing before the stop can still come; ``clock`` is a reply to TIME that was
        given before the last look."""
        stop = self._stop
        if stop is not None and not stop.there and clock is not None:
            self._stop = stop = stop._replace(there=clock_ms(clock) >= stop.id.ms)
        return stop is not None and stop.there

    def _ask_clock(self) -> bytes:
        """TIME, where it may end the reading."""
        stop = self._stop
        return pack("TIME") if stop is not None and stop.timed and not stop.there else b""

    def _may_take(self) -> bool:
        return not self._finished and self._failure is None and self._left != 0

    def _ask(self) -> int:
        """How many entries may be asked for."""
        return self._count if self._left is None else min(self._count, self._left)

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        self._max = (max_messages, max_bytes)
        deadline = time.monotonic() + wait
        while not self._ready:
            if self._task is None:
                if self._failure is not None:
                    raise self._failure
                if not self._may_take():
                    self.ended = self._finished
                    if not self.ended:
                        await asyncio.sleep(wait)  # the limit is reached: nothing may be taken
                    return ()
                self._task = asyncio.create_task(self._take())
            left = deadline - time.monotonic()
            done, _ = await asyncio.wait((self._task,), timeout=max(left, 0))
            if not done or self._task is None:  # closed meanwhile
                return ()
            entries = self._collect()
            try:
                if self._may_take():
                    self._task = asyncio.create_task(self._take())
                    await asyncio.sleep(0)  # let it write, so that the server works while we do
            finally:  # cancelled here too: nothing that was taken is lost
                self._ready += self._make(entries)
        given = self._cut(max_messages, max_bytes)
        self.ended = self._finished and not self._ready and self._task is None
        return given

    def _collect(self) -> list[Any]:
        """What the finished task has brought."""
        task, self._task = self._task, None
        assert task is not None
        try:
            return task.result()
        except MqcliError as exc:
            self._failure = exc
            return []

    def _cut(self, max_messages: int, max_bytes: int) -> list[Received]:
        ready, size = self._ready, 0
        if len(ready) <= max_messages:
            size = sum([len(message.value or b"") for message in ready])
            if size <= max_bytes:
                self._ready = []
                return ready
        size = 0
        for at, message in enumerate(ready):
            size += len(message.value or b"")
            if at and (size > max_bytes or at >= max_messages):
                self._ready = ready[at:]
                return ready[:at]
        self._ready = []
        return ready

    def _adapt(self, asked: int, entries: list[Any]) -> None:
        """Ask for more while replies stay small, for fewer when they grow past the bytes wanted.
        Looks at a few entries only."""
        most, room = self._max
        got = len(entries)
        if not got:
            return
        sample = entries[:: max(1, got // 16)]
        size = sum([sum(map(len, fields)) for _, fields in sample]) * got // len(sample)
        if size > room:
            self._count = max(1, got * room // size)
        elif got == asked:
            self._count = max(1, min(self._count * 2, most, got * room // max(size, 1)))

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class LogFeed(StreamFeed):
    """A stream read for oneself: nothing is taken and nothing left behind."""

    def __init__(
        self,
        link: RedisLink,
        key: bytes,
        decoder: Decoder,
        after: Id,
        stop: Stop | None,
        limit: int | None,
    ) -> None:
        super().__init__(decoder, stop, limit)
        self._link, self._key = link, key
        self._after, self._given = after, after
        self._finished = stop is not None and after.behind() >= stop.id

    async def _take(self) -> list[Any]:
        block = () if self._there() else ("BLOCK", round(BLOCK * 1000))
        count, clock = self._ask(), self._ask_clock()
        read = pack("XREAD", "COUNT", count, *block, "STREAMS", self._key, str(self._after))
        got, cause = await self._link.exchange(
            clock + read + pack("EXISTS", self._key), 3 if clock else 2, ANSWER + BLOCK
        )
        if cause is not None:
            raise cause
        *told, reply, there = got
        if isinstance(reply, ReplyError):
            raise await self._link.explain(reply)
        if reply is None:
            if there == 0:
                raise missing(self._link.where)
            self._finished = self._there(*told)
            return []
        entries: list[Any] = reply[0][1]
        self._adapt(count, entries)
        stop, last = self._stop, to_id(entries[-1][0])
        if stop is not None and last.behind() >= stop.id:
            self._finished = True
            entries = [entry for entry in entries if to_id(entry[0]) < stop.id]
        self._after = last
        if self._left is not None:
            self._left -= len(entries)
        return entries

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        given = await super().receive(max_messages, max_bytes, wait)
        if given:
            self._given = to_id(given[-1].position.encode())
        return given

    def resume(self) -> Span:
        stop = None
        if self._stop is not None:
            at = self._stop.id
            stop = Start("time", ms=at.ms) if self._stop.timed else Start("at", token=str(at))
        return Span(Start("after", token=str(self._given)), stop)


__all__ = [
    "ANSWER", "BLOCK", "ZERO", "Decoder", "Id", "LogFeed", "Places",
    "Stop", "StreamFeed", "missing", "parse_id", "to_id",
]  # fmt: skip
