"""Reading a stream with a group: taking, acknowledging, and what dead consumers held.

Entries that are taken are pending in the group under the name of their consumer until they are
acknowledged. What has been pending without a sign of life for ``claim_after`` is taken over by
whoever looks (XAUTOCLAIM); so a living consumer renews what it holds, and one that closes leaves
the rest under the name ``mqcli-returned``, idle since 1970, for the next to take at once. A
consumer is deleted only when it holds nothing, because deleting it would lose what it holds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from ..errors import ConnectionLost, MqcliError, NotFound
from ..message import Received
from ..transport import Gap
from ._redis import RedisLink
from ._redis_packing import pack
from ._redis_stream_feed import ANSWER, BLOCK, Decoder, Id, Stop, StreamFeed, missing, to_id

__all__ = ["RETURNED", "GroupFeed", "consumer_name"]

RETURNED = "mqcli-returned"
"""The consumer under whose name given back entries wait for the next reader."""

_CHUNK = 1000
_CLAIM_EVERY = 1.0
_RUN = f"{os.getpid()}-{os.urandom(3).hex()}"


def consumer_name(target: object) -> str:
    """Stable for one reader of this process, through its reconnects: they share the target."""
    return f"mqcli-{_RUN}-{id(target):x}"


class GroupFeed(StreamFeed):
    """See the module. ``link`` waits for new entries, ``control`` does all the rest, so that no
    acknowledgement waits behind a blocked read."""

    def __init__(
        self,
        link: RedisLink,
        control: RedisLink,
        key: bytes,
        group: str,
        decoder: Decoder,
        claim_after: float,
        stop: Stop | None,
        limit: int | None,
    ) -> None:
        super().__init__(decoder, stop, limit)
        self._link, self._control, self._key, self._group = link, control, key, group
        self._name = consumer_name(link.target)
        self._idle = max(1, round(claim_after * 1000))
        self._last: Id | None = None
        """The last id that is wanted, once nothing before the stop can still come."""
        self._added = self._ahead = 0
        """The number of that entry; entries before it that nobody was given, as Redis counts."""
        self._held: dict[bytes, None] = {}
        self._counts: dict[bytes, int] = {}
        """How often what was claimed has been delivered."""
        self._cursor, self._next_claim = b"0-0", 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._client_id: int | None = None
        self._closed = False

    async def begin(self, last: Id, added: int) -> None:
        """After the group exists: ``last`` is the end that stands, and ``added`` its number."""
        if self._stop is not None and self._there():
            self._last = self._stop.id.before()
            self._added = added if self._last == last else 0
        # Needed to end a blocked read early; where it is forbidden, the read ends by itself.
        got, _ = await self._link.exchange(pack("CLIENT", "ID"), 1, ANSWER)
        self._client_id = next((reply for reply in got if isinstance(reply, int)), None)
        await self._release()  # what this reader held before it was reconnected
        self._renewal = asyncio.create_task(self._renew())

    def _see(self, groups: list[Any]) -> Id:
        """The entry that the group delivered last; notes how many are certainly before the stop."""
        for group in groups:
            told = dict(zip(group[::2], group[1::2], strict=True))
            if told[b"name"] == os.fsencode(self._group):
                read = told.get(b"entries-read")  # null after a deletion; 7.0 and newer
                self._ahead = 0 if read is None else self._added - read
                return to_id(told[b"last-delivered-id"])
        raise self._gone()

    async def _count_ahead(self, count: int) -> int:
        """Up to ``count`` of the entries before the stop that the group has not delivered."""
        assert self._last is not None
        if self._ahead >= 2 * count:
            return count
        groups = await self._control.call("XINFO", "GROUPS", self._key, timeout=ANSWER)
        delivered = self._see(groups)
        if delivered >= self._last:
            return 0
        entries = await self._control.call(
            "XRANGE", self._key, f"({delivered}", str(self._last), "COUNT", count, timeout=ANSWER
        )
        return len(entries)

    def _gone(self) -> NotFound:
        return NotFound(
            f"the group {self._group!r} does not exist any more", where=self._control.where
        )

    async def _take(self) -> list[Any]:
        now = time.monotonic()
        if now >= self._next_claim or self._cursor != b"0-0":
            claimed = await self._claim()
            if claimed:
                return claimed
            if self._cursor == b"0-0":
                self._next_claim = time.monotonic() + min(_CLAIM_EVERY, self._idle / 4000)
        return await self._read()

    async def _read(self) -> list[Any]:
        count = self._ask()
        bounded = self._last is not None
        if bounded:
            count = await self._count_ahead(count)
            if not count:
                self._finished = self._cursor == b"0-0"  # else there is more to take over
                return []
        block = () if bounded else ("BLOCK", round(BLOCK * 1000))
        reply = await self._call_read(
            "XREADGROUP", "GROUP", self._group, self._name, "COUNT", count, *block,
            "STREAMS", self._key, ">",
        )  # fmt: skip
        if reply is None:
            return []
        entries: list[Any] = reply[0][1]
        self._adapt(count, entries)
        self._hold(entries)
        if self._stop is not None and to_id(entries[-1][0]) >= self._stop.id:
            # Another reader of the group moved on meanwhile, or the stop lies in the future.
            self._finished = True
            wanted = [entry for entry in entries if to_id(entry[0]) < self._stop.id]
            await self._give_back([entry[0] for entry in entries[len(wanted) :]])
            return wanted
        return entries

    def _hold(self, entries: list[Any]) -> None:
        if self._left is not None:
            self._left -= len(entries)
        self._held.update(dict.fromkeys([entry[0] for entry in entries]))

    def _make(self, entries: list[Any]) -> list[Received]:
        messages = super()._make(entries)
        if self._counts and entries and entries[0][0] in self._counts:
            for message in messages:
                message.redelivered = True
                told = {"delivery_count": self._counts.pop(message.token, 2)}
                message.extra = {**(message.extra or {}), **told}
        return messages

    async def _call_read(self, *args: str | bytes | int) -> Any:
        packed, replies, clock = pack(*args), 1, self._ask_clock()
        if self._last is not None:
            packed, replies = packed + pack("XINFO", "GROUPS", self._key), 2
        elif clock:
            packed, replies = clock + packed, 2
        got, cause = await self._link.exchange(packed, replies, ANSWER + BLOCK)
        if cause is not None:
            raise cause
        if self._last is not None:
            if isinstance(got[1], list):
                self._see(got[1])
        elif clock:
            told, *got = got
            if self._stop is not None and self._there(told):
                self._last = self._stop.id.before()
        if isinstance(got[0], ReplyError):
            text = str(got[0])
            if "NOGROUP" in text or "no longer exists" in text:
                there = await self._control.call("EXISTS", self._key, timeout=ANSWER)
                raise self._gone() if there else missing(self._control.where)
            raise await self._control.explain(got[0])
        return got[0]

    async def _claim(self) -> list[Any]:
        """What others have left pending for too long."""
        count = self._ask()
        reply = await self._control.call(
            "XAUTOCLAIM", self._key, self._group, self._name, self._idle, self._cursor,
            "COUNT", count, timeout=ANSWER,
        )  # fmt: skip
        self._cursor, entries, deleted = reply
        entries = [entry for entry in entries if entry[1] is not None]
        if deleted:
            self.gaps.append(
                Gap(
                    self._control.where,
                    "entries were trimmed or deleted before anyone acknowledged them",
                    after=deleted[0].decode(),
                    before=str(to_id(deleted[-1]).behind()),
                    count=len(deleted),
                )
            )
        # Our own, when this process slept for so long that it missed the renewal.
        entries = [entry for entry in entries if entry[0] not in self._held]
        if entries:
            self._hold(entries)
            pending = await self._control.call(
                "XPENDING", self._key, self._group, entries[0][0], entries[-1][0], 10 * _CHUNK,
                self._name, timeout=ANSWER,
            )  # fmt: skip
            self._counts = {raw: times for raw, _, _, times in pending}
            self._counts.setdefault(entries[0][0], 2)
        return entries

    async def ack(self, messages: Sequence[Received]) -> int:
        ids = [message.token for message in messages]
        known = 0
        packed, commands = bytearray(), 0
        for at in range(0, len(ids), _CHUNK):
            packed += pack("XACK", self._key, self._group, *ids[at : at + _CHUNK])
            commands += 1
        got, cause = await self._control.exchange(bytes(packed), commands, ANSWER)
        for reply in got:
            if isinstance(reply, ReplyError):
                raise self._control.error(reply)
            known += reply
        if cause is not None:
            raise cause
        held = self._held
        for one in ids:
            held.pop(one, None)
        return known

    async def nack(self, messages: Sequence[Received]) -> None:
        await self._give_back([message.token for message in messages])

    async def _give_back(self, ids: Sequence[bytes]) -> None:
        await self._return(ids)
        for one in ids:
            self._held.pop(one, None)

    async def _return(self, ids: Sequence[bytes]) -> None:
        """TIME 0 is the year 1970: idle for longer than any claim_after. JUSTID leaves the
        delivery count alone."""
        packed, commands = bytearray(), 0
        for at in range(0, len(ids), _CHUNK):
            packed += pack(
                "XCLAIM", self._key, self._group, RETURNED, 0, *ids[at : at + _CHUNK],
                "TIME", 0, "JUSTID",
            )  # fmt: skip
            commands += 1
        if commands:
            got, cause = await self._control.exchange(bytes(packed), commands, ANSWER)
            for reply in got:
                if isinstance(reply, ReplyError):
                    raise self._control.error(reply)
            if cause is not None:
                raise cause

    async def _ours(self, start: bytes) -> list[bytes]:
        """A page of what the group counts as held by this consumer."""
        pending = await self._control.call(
            "XPENDING", self._key, self._group, start, "+", _CHUNK, self._name, timeout=ANSWER
        )
        return [entry[0] for entry in pending]

    async def _release(self) -> None:
        while page := await self._ours(b"-"):
            await self._return(page)

    async def _renew(self) -> None:
        """Keep what is held fresh, and only what is still ours, so that a slow output does not
        lose it to others. When the connection breaks ``receive`` tells."""
        while True:
            await asyncio.sleep(max(self._idle / 3000, 0.02))
            try:
                start, page = b"-", [b""]
                while page and self._held:
                    page = await self._ours(start)
                    fresh = [raw for raw in page if raw in self._held]
                    if fresh:
                        await self._control.call(
                            "XCLAIM", self._key, self._group, self._name, 0, *fresh,
                            "IDLE", 0, "JUSTID", timeout=ANSWER,
                        )  # fmt: skip
                    start = b"(" + page[-1] if page else start
            except ConnectionLost:
                return
            except MqcliError as exc:
                self._failure = self._failure or exc
                return

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        try:
            async with asyncio.timeout(4):
                await self._settle_read()
                await self._release()
                await self._control.call(
                    "XGROUP", "DELCONSUMER", self._key, self._group, self._name, timeout=ANSWER
                )
        except (TimeoutError, MqcliError):
            pass  # the next reader takes over what is left when claim_after has passed
        finally:
            await super().aclose()
            await self._link.aclose()

    async def _settle_read(self) -> None:
        """A read that is under way may still take entries: let it end before giving back."""
        if self._task is None:
            return
        if not self._task.done() and self._client_id is not None:
            unblock = pack("CLIENT", "UNBLOCK", self._client_id)
            await self._control.exchange(unblock, 1, ANSWER)
        await asyncio.wait((self._task,))
