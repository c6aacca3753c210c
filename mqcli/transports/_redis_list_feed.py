"""Taking from a Redis list: reliably, by processing lists under a lease, or by plain pops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ..errors import BrokerUnavailable, ConnectionLost, MqcliError, TryAgainLater
from ..message import Received
from ..transport import Feed, Target
from ._redis import RedisLink, ReplyError
from ._redis_list_scripts import ANSWER, Holder, Moves, Side
from ._redis_packing import pack

T = TypeVar("T")

_MOST = 10_000
"""Values taken by one step, so that other clients of the server never wait long."""

_RESCUE = 2.0
"""Seconds to give back by a new connection when the old one broke."""

_LOOK = 1.0
"""Seconds that one wait on the server lasts: between two, leases that ran out are looked for."""


class TakingFeed(Feed):
    """What both ways of taking share: one step at a time, in the background, so that cancelling
    ``receive`` never leaves a value behind on the way."""

    _ahead = True
    """Whether the next batch may be taken while the last one is being written."""

    def __init__(
        self,
        target: Target,
        key: bytes,
        link: RedisLink,
        limit: int | None,
    ) -> None:
        super().__init__()
        self._target, self._key, self._link = target, key, link
        self._left = limit
        """How many may still be taken."""
        self._until_end = False
        self._where = target.where
        self._step: asyncio.Task[list[Received]] | None = None
        self._buffer: list[Received] = []
        self._bytes = 0
        self._next = 0
        """The token of the next value; its ``position`` counts from 1: a delivery tag, for a list
        gives its values no place that they keep."""
        self._waiting_link: RedisLink | None = None
        self._waiting_id = 0
        self._look = _LOOK
        self._unsure = False
        """A step failed: the server may have done it, or do it still."""
        self._closed = False
        self.ended = self._left == 0

    async def start(self) -> None:
        """What must happen before the first value is taken."""

    def set_end(self, count: int) -> None:
        """Stop when ``count`` were taken or none is ready."""
        self._until_end = True
        self._left = count if self._left is None else min(count, self._left)
        self.ended = self._left == 0

    @abstractmethod
    async def _take(self, count: int, max_bytes: int) -> list[Received]:
        """What is there now."""

    @abstractmethod
    async def _wait(self, link: RedisLink, seconds: float) -> list[Received]:
        """One value, or none when the time has passed."""

    async def receive(self, max_messages: int, max_bytes: int, wait: float) -> Sequence[Received]:
        deadline = time.monotonic() + wait
        looked = False
        while not self._buffer:
            if self.ended or self._closed:
                return []
            if self._step is None:
                left = deadline - time.monotonic()
                if not looked:
                    self._begin(self._take(self._count(max_messages), max_bytes))
                elif left > 0:
                    self._begin(self._block(min(left, self._look)))
                else:
                    return []
            step = self._step
            assert step is not None
            # A step that does not wait on the server gets a moment, even when wait is 0.
            grace = 0.0 if looked else 1.0
            await asyncio.wait((step,), timeout=max(deadline - time.monotonic(), grace))
            if self._closed or not step.done():
                return []
            self._collect()
            if not self._buffer and self._until_end:
                self.ended = True
            looked = True
        return self._hand_out(max_messages, max_bytes)

    def _count(self, wanted: int) -> int:
        return min(wanted, _MOST) if self._left is None else min(wanted, _MOST, self._left)

    def _begin(self, work: Coroutine[Any, Any, list[Received]]) -> None:
        self._step = asyncio.create_task(work)

    def _collect(self) -> None:
        step, self._step = self._step, None
        assert step is not None
        try:
            found = step.result()
        except BaseException:
            self._unsure = True
            raise
        self._buffer += found
        if self._left is not None:
            self._left -= len(found)

    def _hand_out(self, max_messages: int, max_bytes: int) -> Sequence[Received]:
        buffer, count = self._buffer, len(self._buffer)
        if count > max_messages or self._bytes > max_bytes:
            size = count = 0
            for message in buffer[:max_messages]:
                size += len(message.value or b"")
                count += 1
                if size >= max_bytes:
                    break
            self._buffer = buffer[count:]
            self._bytes -= size
        else:
            self._buffer, self._bytes = [], 0
        if self._left == 0 and not self._buffer:
            self.ended = True
        elif not self._buffer and self._ahead and count == max_messages and self._step is None:
            # The list is long: the server works on the next batch while this one is written.
            self._begin(self._take(self._count(max_messages), max_bytes))
        return buffer[:count]

    async def _block(self, seconds: float) -> list[Received]:
        link = self._waiting_link
        if link is None:
            link = self._waiting_link = RedisLink(self._target, self._key)
            await link.open()
            self._waiting_id = int(await link.call("CLIENT", "ID", timeout=ANSWER))
        return [] if self._closed else await self._wait(link, seconds)

    async def _unless_full(self, reply: Any, seconds: float) -> Any:
        """The reply to a wait on the server; none after the time when the server, being full,
        refuses to wait: nothing is pushed then."""
        if not isinstance(reply, ReplyError):
            return reply
        if str(reply).startswith("UNBLOCKED"):  # the node is no longer the master
            raise ConnectionLost("the wait was broken off", where=self._where, why=str(reply))
        error = await self._link.explain(reply)
        if not isinstance(error, TryAgainLater):
            raise error
        await asyncio.sleep(seconds)
        return None

    async def _settle_step(self) -> None:
        """Until the step in the background has ended, so that nothing is on its way any more."""
        step = self._step
        if step is None:
            return
        patience = time.monotonic() + 2 * ANSWER
        while not step.done() and time.monotonic() < patience:
            if self._waiting_id:
                try:
                    # May be forbidden: then the wait on the server ends by itself within a second.
                    await self._link.call("CLIENT", "UNBLOCK", self._waiting_id, timeout=ANSWER)
                except BrokerUnavailable:
                    break
                except MqcliError:
                    self._waiting_id = 0
            await asyncio.wait((step,), timeout=0.05)
        step.cancel()
        await asyncio.wait((step,))
        with contextlib.suppress(MqcliError, asyncio.CancelledError):
            self._collect()

    @abstractmethod
    async def _give_back(self) -> None:
        """All that is held; called once."""

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._settle_step()
            try:
                await self._give_back()
            except BrokerUnavailable:
                await self._give_back_anew()
        except BrokerUnavailable:
            pass  # The server is away: the leases run out, then the next consumer gives back.
        finally:
            if self._waiting_link is not None:
                await self._waiting_link.aclose()

    async def _give_back_anew(self) -> None:
        """By a new connection, since often only ours was broken: nobody should have to wait for
        the leases to run out."""
        link = RedisLink(self._target, self._key)
        try:
            async with asyncio.timeout(_RESCUE):
                await link.open()
                self._link = link
                await self._give_back()
        except TimeoutError:
            pass
        finally:
            await link.aclose()

    def _received(self, values: Sequence[bytes]) -> list[Received]:
        where, first = self._where, self._next
        self._next += len(values)
        self._bytes += sum(map(len, values))
        return [
            Received(value, None, (), None, None, False, where, str(tag + 1), False, None, tag)
            for value, tag in zip(values, range(first, self._next), strict=True)
        ]


class _Batch:
    """Values with the tokens ``done`` to ``end`` that are in one processing list."""

    __slots__ = ("done", "end", "gone", "member")

    def __init__(self, member: bytes, first: int, count: int) -> None:
        self.member = member
        self.done = first
        self.end = first + count
        self.gone: set[int] = set()
        """Given back from among them."""

    def left(self, end: int | None = None) -> int:
        """How many before the token ``end`` are still held."""
        end = self.end if end is None else min(end, self.end)
        return max(0, end - self.done) - sum(self.done <= token < end for token in self.gone)


class ReliableFeed(TakingFeed):
    """Every batch lies in a processing list under a lease until it is acknowledged.

    ``redelivered`` is always False: a list has no word about it.
    """

    def __init__(self, moves: Moves, side: Side, lease: float, *args: Any) -> None:
        super().__init__(*args)
        self._moves, self._side = moves, side
        self._every = lease / 3
        self._look = min(_LOOK, self._every)
        self._holder = Holder(side)
        self._spare = self._holder.member()
        """The name of the next batch; it is in the index while we wait on the server."""
        self._registered = False
        """The spare name may be in the index."""
        self._batches: list[_Batch] = []
        self._deadline = 0
        self._kept = 0.0
        self._failure: MqcliError | None = None
        self._settling = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Give back what dead consumers held, and begin to renew our own leases."""
        await self._keep()
        self._keeper = asyncio.create_task(self._keep_on())

    def use(self, moves: Moves) -> None:
        """Other moves than those it was made with, before ``start``."""
        self._moves = moves

    async def _keep(self) -> None:
        members = [batch.member for batch in self._batches]
        if self._registered:
            members.append(self._spare)
        self._kept = time.monotonic()
        self._deadline = await self._moves.keep(members)

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._kept + self._every - time.monotonic()))
            try:
                await self._keep()
            except TryAgainLater:
                continue
            except MqcliError as exc:
                self._failure = exc
                return

    def _hold(self, values: list[bytes]) -> list[Received]:
        if not values:
            return []
        self._batches.append(_Batch(self._spare, self._next, len(values)))
        self._spare, self._registered = self._holder.member(), False
        return self._received(values)

    async def _take(self, count: int, max_bytes: int) -> list[Received]:
        if self._failure is not None:
            raise self._failure
        if time.monotonic() > self._kept + 2 * self._every:  # the process stood still
            await self._keep()
        self._registered |= self._moves.registers_first
        return self._hold(await self._moves.take(self._spare, self._deadline, count, max_bytes))

    async def _wait(self, link: RedisLink, seconds: float) -> list[Received]:
        if time.monotonic() >= self._kept + self._look:
            await self._keep()
        self._registered = True
        held = self._moves.keys.held(self._spare)
        side, timeout = self._side.upper(), f"{max(0.01, seconds):.3f}"
        replies, error = await link.exchange(
            self._moves.registering(self._spare, self._deadline)
            + pack("BLMOVE", self._key, held, side, "RIGHT", timeout),
            2,
            seconds + ANSWER,
        )
        if error is not None:
            raise error
        value = await self._unless_full(replies[1], seconds)
        return self._hold([] if value is None else [value])

    async def ack(self, messages: Sequence[Received]) -> int:
        return await _uncancelled(self._ack(messages[-1].token + 1)) if messages else 0

    async def _ack(self, end: int) -> int:
        async with self._settling:
            settled = [batch for batch in self._batches if batch.done < end]
            ours = await self._moves.settle(
                [(batch.member, batch.left(end), batch.end <= end) for batch in settled]
            )
            for batch in settled:
                batch.done = min(end, batch.end)
            self._batches = [batch for batch in self._batches if batch.done < batch.end]
        return ours

    async def nack(self, messages: Sequence[Received]) -> None:
        await _uncancelled(self._nack({message.token for message in messages}))

    async def _nack(self, tokens: set[int]) -> None:
        async with self._settling:
            for batch in reversed(self._batches.copy()):
                held = [t for t in range(batch.end - 1, batch.done - 1, -1) if t not in batch.gone]
                pattern = "".join("+" if token in tokens else "-" for token in held)
                given = pattern.count("+")
                if not given:
                    continue
                newest = pattern.rstrip("-")
                if "-" not in newest:
                    pattern = newest
                await self._moves.give(batch.member, pattern.encode(), given == len(held))
                batch.gone.update(token for token in held if token in tokens)
                if given == len(held):
                    self._batches.remove(batch)

    async def _give_back(self) -> None:
        self._buffer = []
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        self._moves.link = self._link
        async with self._settling:
            if self._unsure:
                # It may hold values whose reply was lost, or get one still: the lease stays.
                await self._moves.give(self._spare, b"+" * _MOST, False)
            elif self._registered:
                await self._moves.forget([self._spare])
            for batch in reversed(self._batches):
                await self._moves.give(batch.member, b"+" * batch.left(), True)
            self._batches = []


class PopFeed(TakingFeed):
    """Plain pops: what is on its way when the connection breaks or the process dies is lost."""

    _ahead = False

    def __init__(self, side: Side, *args: Any) -> None:
        super().__init__(*args)
        self._left_side = side == "left"
        self._fitting = 8

    async def _take(self, count: int, max_bytes: int) -> list[Received]:
        # Nobody tells how large values are before they are popped: the number grows with those
        # seen, so that small ones come fast and large ones do not fill the memory.
        count = min(count, self._fitting)
        command = "LPOP" if self._left_side else "RPOP"
        found: list[bytes] | None = await self._link.call(command, self._key, count, timeout=ANSWER)
        if not found:
            return []
        largest = max(map(len, found)) or 1
        self._fitting = max(1, min(_MOST, count * 8, max_bytes // largest))
        return self._received(found)

    async def _wait(self, link: RedisLink, seconds: float) -> list[Received]:
        command, timeout = "BLPOP" if self._left_side else "BRPOP", f"{max(0.01, seconds):.3f}"
        replies, error = await link.exchange(pack(command, self._key, timeout), 1, seconds + ANSWER)
        if error is not None:
            raise error
        pair = await self._unless_full(replies[0], seconds)
        return [] if pair is None else self._received([pair[1]])

    async def _give_back(self) -> None:
        values = [message.value or b"" for message in reversed(self._buffer)]
        if values:
            command = "LPUSH" if self._left_side else "RPUSH"
            # This raises when nothing was sent; otherwise a second push could duplicate.
            packed = pack(command, self._key, *values)
            replies, error = await self._link.exchange(packed, 1, ANSWER)
            self._buffer = []
            if error is not None:
                raise error
            if isinstance(replies[0], ReplyError):
                raise await self._link.explain(replies[0])


async def _uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """To its end even if the caller is cancelled: our account must match the server's."""
    return await asyncio.shield(asyncio.create_task(work))
