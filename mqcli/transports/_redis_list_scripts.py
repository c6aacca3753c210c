"""What moves between a list, the processing lists of its consumers, and their leases.

One consumer holds each batch in a processing list of its own. The index, a sorted set, says until
when (milliseconds of the server's clock) each of them is leased. Three rules make it safe:

1. A processing list is filled once, together with its entry in the index, and never again. So
   whoever was presumed dead and wakes up finds it empty, and can remove nothing of others'.
2. All leases of a consumer are renewed in one step and a new one never ends after an older one,
   so that a dead consumer's batches are given back newest first, each to the end that it came
   from: the list then has its old order.
3. All keys share the list's hash slot.

:class:`Scripts` is the usual way; :class:`Transactions` does the same with ``MULTI`` where scripts
are not permitted. The keys are documented for other clients in docs/redis-list.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from ._redis import RedisLink, ReplyError
from ._redis_packing import pack

Side: TypeAlias = Literal["left", "right"]

ANSWER = 10.0
"""Seconds that the server may take for a command that does not wait."""

CHUNK = 1000
"""Values moved by one call inside a script: Lua's ``unpack`` fails at some 8,000."""

# allow-oom: a server that is full must be able to be emptied; moving a value needs no memory.
_KEEP = b"""#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local till = string.format('%.0f', now + tonumber(ARGV[1]))
for i = 3, #ARGV do redis.call('ZADD', KEYS[2], till, ARGV[i]) end
local given = 0
local over = redis.call('ZREVRANGEBYSCORE', KEYS[2], string.format('%.0f', now), '-inf')
for _, member in ipairs(over) do
  local side = string.upper(string.match(member, '^%a+'))
  while redis.call('LMOVE', ARGV[2] .. member, KEYS[1], 'RIGHT', side) do given = given + 1 end
  redis.call('ZREM', KEYS[2], member)
end
return {tonumber(till), given}
"""

_REGISTER = b"""#!lua flags=allow-oom
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
"""

_TAKE = b"""#!lua flags=allow-oom
local side, want, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local out, n, bytes, chunk = {}, 0, 0, 8
while n < want and bytes < most do
  local asked, got = math.min(chunk, want - n), nil
  if side == 'left' then
    got = redis.call('LRANGE', KEYS[1], 0, asked - 1)
  else
    local tail = redis.call('LRANGE', KEYS[1], -asked, -1)
    got = {}
    for i = #tail, 1, -1 do got[#tail - i + 1] = tail[i] end
  end
  local m, largest = 0, 1
  for i = 1, #got do
    m, n, bytes = i, n + 1, bytes + #got[i]
    out[n] = got[i]
    if #got[i] > largest then largest = #got[i] end
    if bytes >= most then break end
  end
  if m == 0 then break end
  redis.call('RPUSH', KEYS[2], unpack(got, 1, m))
  if side == 'left' then
    redis.call('LTRIM', KEYS[1], m, -1)
  else
    redis.call('LTRIM', KEYS[1], 0, -m - 1)
  end
  if #got < asked then break end
  chunk = math.max(1, math.min(1000, chunk * 8, math.floor((most - bytes) / largest)))
end
if n > 0 then redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5]) end
return out
"""

_GIVE = b"""#!lua flags=allow-oom
local given = 0
for i = 1, #ARGV[2] do
  if string.sub(ARGV[2], i, i) == '-' then
    redis.call('LMOVE', KEYS[2], KEYS[2], 'RIGHT', 'LEFT')
  elseif redis.call('LMOVE', KEYS[2], KEYS[1], 'RIGHT', ARGV[1]) then
    given = given + 1
  end
end
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return given
"""


_SETTLE = b"""#!lua flags=allow-oom
local ours = 0
for i = 2, #KEYS do
  local count, member = tonumber(ARGV[2 * i - 3]), ARGV[2 * i - 2]
  ours = ours + math.min(count, redis.call('LLEN', KEYS[i]))
  redis.call('LTRIM', KEYS[i], count, -1)
  if member ~= '' then redis.call('ZREM', KEYS[1], member) end
end
return ours
"""


def base(key: bytes) -> bytes:
    """What the other keys of the list ``key`` begin with, such that they share its hash slot.

    A key with a hash tag (``{tag}`` as Redis Cluster defines it) is taken as it is. Otherwise the
    whole key becomes the tag. Where that cannot be, since the key holds a ``}`` or is empty, the
    tag is the smallest decimal number with the same slot.
    """
    opening = key.find(b"{")
    closing = key.find(b"}", opening + 1) if opening >= 0 else -1
    if closing > opening + 1:
        return key
    if key and b"}" not in key:
        return b"{%b}" % key
    from redis.crc import key_slot

    slot = key_slot(key)
    number = 0
    while key_slot(b"%d" % number) != slot:
        number += 1
    return b"{%d}%b" % (number, key)


class Keys:
    """The keys of one list. ``index + b":" + member`` is a member's processing list."""

    def __init__(self, key: bytes) -> None:
        self.list = key
        self.index = base(key) + b":mqcli"

    def held(self, member: bytes) -> bytes:
        return self.index + b":" + member


class Holder:
    """Names for the batches of one consumer: the end they come from, who it is, and a number of
    fixed width, so that their order as text is that in which they were taken."""

    def __init__(self, side: Side) -> None:
        import os
        import re
        import socket

        host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "-"
        self._prefix = f"{side}:{host}:{os.getpid()}:{os.urandom(6).hex()}"
        self._count = 0

    def member(self) -> bytes:
        self._count += 1
        return f"{self._prefix}:{self._count:010d}".encode()


class Moves(ABC):
    """The steps of the reliable queue, each atomic on the server."""

    registers_first = False
    """Taking may leave a lease behind when nothing is there to take."""

    def __init__(self, link: RedisLink, keys: Keys, side: Side, lease: float) -> None:
        self.link, self.keys, self._side = link, keys, side
        self._lease_ms = max(1, round(lease * 1000))

    @abstractmethod
    async def keep(self, members: Sequence[bytes]) -> int:
        """Renew the leases of ``members`` and give back what those hold whose lease has run out;
        the renewed deadline, in the server's milliseconds."""

    @abstractmethod
    def registering(self, member: bytes, deadline: int) -> bytes:
        """One packed command with one reply: the lease of ``member`` lasts until ``deadline``."""

    @abstractmethod
    async def take(self, member: bytes, deadline: int, count: int, max_bytes: int) -> list[bytes]:
        """Move up to ``count`` values, or ``max_bytes`` and a value, to ``member``'s list."""

    @abstractmethod
    async def give(self, member: bytes, pattern: bytes, done: bool) -> int:
        """Give values of ``member`` back, newest first. ``pattern`` has one character for each,
        from the newest on: ``-`` keeps it (then all must be named). ``done``: the lease ends.
        How many were still there."""

    @abstractmethod
    async def settle(self, settled: Sequence[tuple[bytes, int, bool]]) -> int:
        """Remove the oldest values of processing lists: (member, how many, whether it was all).
        How many were still there."""

    async def forget(self, members: Sequence[bytes]) -> None:
        """End the leases of members that hold nothing."""
        if members:
            await self.link.call("ZREM", self.keys.index, *members, timeout=ANSWER)


class Scripts(Moves):
    """By Lua scripts. They are sent whole each time: hashing one costs the server a microsecond,
    and no state of the server's script cache can matter."""

    async def _run(self, script: bytes, keys: Sequence[bytes], *args: Any) -> Any:
        return await self.link.call("EVAL", script, len(keys), *keys, *args, timeout=ANSWER)

    async def keep(self, members: Sequence[bytes]) -> int:
        keys = self.keys
        deadline, _ = await self._run(
            _KEEP, (keys.list, keys.index), self._lease_ms, keys.index + b":", *members
        )
        return int(deadline)

    def registering(self, member: bytes, deadline: int) -> bytes:
        return pack("EVAL", _REGISTER, 1, self.keys.index, deadline, member)

    async def take(self, member: bytes, deadline: int, count: int, max_bytes: int) -> list[bytes]:
        keys = self.keys
        found: list[bytes] = await self._run(
            _TAKE,
            (keys.list, keys.held(member), keys.index),
            self._side, count, max_bytes, deadline, member,
        )  # fmt: skip
        return found

    async def give(self, member: bytes, pattern: bytes, done: bool) -> int:
        keys = self.keys
        return int(
            await self._run(
                _GIVE,
                (keys.list, keys.held(member), keys.index),
                self._side.upper(), pattern, member if done else b"",
            )
        )  # fmt: skip

    async def settle(self, settled: Sequence[tuple[bytes, int, bool]]) -> int:
        keys = [self.keys.held(member) for member, _, _ in settled]
        args = [part for member, n, whole in settled for part in (n, member if whole else b"")]
        return int(await self._run(_SETTLE, (self.keys.index, *keys), *args))


class Transactions(Moves):
    """By MULTI, where scripts are not permitted. Weaker in four ways: a batch can pass
    ``max_bytes`` (as many values are asked for as would fit if they were no larger than those
    before); values that are given back travel to us once more; a server at its memory limit
    refuses; and a consumer that waits, that
    lost its lease and that renews it while another looks for lost leases is without a lease for up
    to a second: if it dies in that second while it is handed a value, that value stays in its
    processing list, unnoticed by others."""

    registers_first = True
    _fitting = 8

    async def keep(self, members: Sequence[bytes]) -> int:
        seconds, micros = await self.link.call("TIME", timeout=ANSWER)
        now = int(seconds) * 1000 + int(micros) // 1000
        deadline = now + self._lease_ms
        index = self.keys.index
        if members:
            scored = [part for member in members for part in (deadline, member)]
            await self.link.call("ZADD", index, *scored, timeout=ANSWER)
        over = await self.link.call("ZREVRANGEBYSCORE", index, now, "-inf", timeout=ANSWER)
        packed = [pack("MULTI")]
        for member in over:
            held = self.keys.held(member)
            count = await self.link.call("LLEN", held, timeout=ANSWER)
            side = member.partition(b":")[0].upper()
            # One more than seen: it may have been handed to a waiting one just now.
            packed += [pack("LMOVE", held, self.keys.list, "RIGHT", side)] * (count + 1)
        if over:
            await self._transaction([*packed, pack("ZREM", index, *over)])
        return deadline

    def registering(self, member: bytes, deadline: int) -> bytes:
        return pack("ZADD", self.keys.index, deadline, member)

    async def take(self, member: bytes, deadline: int, count: int, max_bytes: int) -> list[bytes]:
        keys, side = self.keys, self._side.upper()
        asked = min(count, self._fitting)
        move = pack("LMOVE", keys.list, keys.held(member), side, "RIGHT")
        replies = await self._transaction(
            [pack("MULTI"), pack("ZADD", keys.index, deadline, member), *[move] * asked]
        )
        found = [value for value in replies[1:] if value is not None]
        if found:
            largest = max(map(len, found)) or 1
            self._fitting = max(1, min(CHUNK, asked * 8, max_bytes // largest))
        return found

    async def give(self, member: bytes, pattern: bytes, done: bool) -> int:
        keys = self.keys
        held = keys.held(member)
        back = pack("LMOVE", held, keys.list, "RIGHT", self._side.upper())
        keep = pack("LMOVE", held, held, "RIGHT", "LEFT")
        packed = [pack("MULTI"), *(keep if char == 0x2D else back for char in pattern)]
        if done:
            packed.append(pack("ZREM", keys.index, member))
        replies = await self._transaction(packed)
        return sum(
            char != 0x2D and reply is not None
            for char, reply in zip(pattern, replies, strict=False)
        )

    async def settle(self, settled: Sequence[tuple[bytes, int, bool]]) -> int:
        packed = [pack("MULTI")]
        for member, count, _ in settled:
            held = self.keys.held(member)
            packed += [pack("LLEN", held), pack("LTRIM", held, count, -1)]
        done = [member for member, _, whole in settled if whole]
        if done:
            packed.append(pack("ZREM", self.keys.index, *done))
        replies = await self._transaction(packed)
        return sum(min(count, replies[2 * i]) for i, (_, count, _) in enumerate(settled))

    async def _transaction(self, packed: list[bytes]) -> list[Any]:
        """The replies to what stands between MULTI (the first of ``packed``) and EXEC."""
        packed.append(pack("EXEC"))
        replies, error = await self.link.exchange(b"".join(packed), len(packed), ANSWER)
        if error is not None:
            raise error
        # An error while queueing says more than the EXECABORT that follows from it.
        answer: list[Any] = replies[-1] if isinstance(replies[-1], list) else []
        for reply in [*replies, *answer]:
            if isinstance(reply, ReplyError):
                raise await self.link.explain(reply)
        return answer
