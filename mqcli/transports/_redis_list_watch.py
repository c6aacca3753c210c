"""Watching a Redis list without taking from it: by looking at its newest end.

A list tells nobody what is pushed to it. What can be had honestly: ``WATCH`` says whether it
changed at all since the last look, and after a change its newest values are read. As long as the
newest value that was seen last is still in the list, all that came after it stands behind it, so
nothing was missed; once it has been taken, others may have come and gone: that is a Gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from ..errors import Unsupported
from ..message import Received
from ..transport import Feed, Gap, Span, Target
from ._redis import RedisLink, ReplyError
from ._redis_list_scripts import ANSWER, Side
from ._redis_packing import pack

_EVERY = 0.1
"""Seconds between two looks."""

_WINDOWS = (16, 128, 1024, 8192)
"""How many of the newest are read, until the newest of the last look is among them."""

_MOST_BYTES = 16 << 20
"""A larger window is not read when it would probably hold more than this."""

_GAP_EVERY = 5.0
"""Seconds that gaps are summed up, since on a list with a quick consumer each look is one."""


class WatchFeed(Feed):
    """What appears at the newest end, oldest first."""

    def __init__(self, target: Target, key: bytes, side: Side, span: Span) -> None:
        super().__init__()
        self._where, self._key, self._newest = target.where, key, side
        self._back = _window(span, self._where)
        self._once = span.stop is not None
        self._link = RedisLink(target, key)
        self._seen: list[bytes] = []
        """Digests of the newest at the last look, oldest first."""
        self._length = 0
        self._looked_ms = 0
        self._gap_since: int | None = None
        self._gap_told = -_GAP_EVERY
        self._buffer: list[Received] = []
        self._due = 0.0
        self._next = 1

    async def start(self) -> None:
        """Connect; what stands in the list now counts as seen, but for the last N asked for."""
        await self._link.open()
        values = await self._read(max(self._back, _WINDOWS[0]))
        self._remember(values)
        self._buffer = self._received(values[len(values) - min(self._back, len(values)) :])
        if not self._once:
            self.notes.append(
                f"a list is watched by looking at it every {_EVERY:g} s: what is pushed and taken"
                " between two looks is not seen"
            )
        self.ended = self._once and not self._buffer

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        while not self._buffer and not self.ended:
            now = time.monotonic()
            if now < self._due:
                if self._due > deadline:
                    await asyncio.sleep(max(0.0, deadline - now))
                    return []
                await asyncio.sleep(self._due - now)
            self._due = time.monotonic() + _EVERY
            await self._look()
            if self.gaps or time.monotonic() >= deadline:
                break
        size = count = 0
        for message in self._buffer[:max_messages]:
            size += len(message.value or b"")
            count += 1
            if size >= max_bytes:
                break
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        self.ended = self._once and not self._buffer
        return found

    async def aclose(self) -> None:
        await self._link.aclose()

    async def _send(self, packed: bytes, count: int) -> list[Any]:
        replies, error = await self._link.exchange(packed, count, ANSWER)
        if error is not None:
            raise error
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise await self._link.explain(reply)
        return replies

    async def _read(self, window: int) -> list[bytes]:
        """The newest values, oldest of them first."""
        first, last = (-window, -1) if self._newest == "right" else (0, window - 1)
        # WATCH comes first: what changes behind it is found by the next look.
        packed = (
            pack("WATCH", self._key)
            + pack("LLEN", self._key)
            + pack("LRANGE", self._key, first, last)
        )
        values: list[bytes]
        _, self._length, values = await self._send(packed, 3)
        return values if self._newest == "right" else values[::-1]

    async def _look(self) -> None:
        before, self._looked_ms = self._looked_ms, int(time.time() * 1000)
        packed = pack("MULTI") + pack("EXEC") + pack("WATCH", self._key) + pack("LLEN", self._key)
        _, unchanged, _, length = await self._send(packed, 4)
        if unchanged is not None and length == self._length:
            self._tell(before)
            return
        missed = not self._seen and length == 0
        values: list[bytes] = []
        new = 0
        for window in _WINDOWS:
            values = await self._read(window)
            whole = len(values) == self._length
            found = _behind(self._seen, [_digest(value) for value in values], whole)
            new = len(values) if found is None else found
            if found is not None or whole:
                missed |= found is None and bool(self._seen)
                break
            if sum(map(len, values)) * 8 > _MOST_BYTES or window == _WINDOWS[-1]:
                missed = True
                break
        if missed and self._gap_since is None:
            self._gap_since = before
        self._buffer = self._received(values[len(values) - new :])
        self._remember(values)
        self._tell(self._looked_ms)

    def _tell(self, until_ms: int) -> None:
        if self._gap_since is None or time.monotonic() < self._gap_told + _GAP_EVERY:
            return
        reason = "values may have been pushed and taken between two looks at the list"
        self.gaps.append(Gap(self._where, reason, self._gap_since, until_ms))
        self._gap_since, self._gap_told = None, time.monotonic()

    def _remember(self, values: Sequence[bytes]) -> None:
        self._seen = [_digest(value) for value in values[-_WINDOWS[0] :]]

    def _received(self, values: Sequence[bytes]) -> list[Received]:
        where, first = self._where, self._next
        self._next += len(values)
        return [
            Received(value, None, (), None, None, False, where, str(number))
            for value, number in zip(values, range(first, self._next), strict=True)
        ]


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()


def _behind(seen: Sequence[bytes], now: Sequence[bytes], whole: bool) -> int | None:
    """How many of ``now`` stand behind ``seen``, by the best alignment; None where nothing of
    ``seen`` is left. With ``whole``, the older of ``seen`` may have been taken."""
    for new in range(len(now)):
        rest = len(now) - new
        common = min(len(seen), rest)
        if not common or (common < len(seen) and not whole):
            return None
        if seen[len(seen) - common :] == now[rest - common : rest]:
            return new
    return None


def _window(span: Span, where: str) -> int:
    start, stop = span.start, span.stop
    if stop is not None and stop.kind != "end":
        raise Unsupported(f"--to {stop} cannot be used here: a list has no positions", where=where)
    if start is None or start.kind == "end":
        return 0
    if start.kind != "last":
        raise Unsupported(
            f"--from {start} cannot be used here: a list has no positions",
            where=where,
            hint="-n N shows the last N",
        )
    if start.count > _WINDOWS[-1]:
        raise Unsupported(
            f"the last {start.count} cannot be shown: a list is looked at, not read",
            where=where,
            hint=f"at most {_WINDOWS[-1]}",
        )
    return start.count
