"""Reading through any transport: settling once and in order, reconnecting, gaps."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from .errors import ConnectionLost, GapFound, Unsupported
from .message import Received
from .position import END, Start
from .roles import Drops
from .session import Limits, Session
from .transport import Consumes, Feed, Gap, Span, Tails, Traits, Transport

__all__ = ["OnGap", "Reader"]

OnGap = Literal["report", "fail", "earliest", "latest"]


class Reader(Session):
    """An open reading that survives the loss of its connection.

    ``receive`` hands out messages in order; ``settle(n)`` says that the first ``n`` of those not
    yet settled have been written, which acknowledges them where there is something to acknowledge.
    Closing gives back the rest.
    """

    def __init__(
        self,
        transport: Transport,
        traits: Traits,
        limits: Limits,
        span: Span,
        limit: int | None,
        on_gap: OnGap,
        group: str | None = None,
        *,
        tail: bool = False,
    ) -> None:
        super().__init__(transport, limits)
        self.traits = traits
        self._group, self._tail, self._on_gap = group, tail, on_gap
        self.acks = traits.ack != "none" and not tail
        """Settling tells the broker."""
        for name, place in (("--from", span.start), ("--to", span.stop)):
            self._check(name, place)
        self._check_on_gap()
        if span.stop is not None and span.stop.kind == "skip":  # N after START is a count
            limit = span.stop.count if limit is None else min(limit, span.stop.count)
            span = Span(span.start)
            self.ends_by_count = True
        else:
            self.ends_by_count = False
        self._span = span
        self._limit = limit
        self._feed: Feed | None = None
        self._outstanding: deque[tuple[Feed, Sequence[Received]]] = deque()
        self._alive_ms = 0
        self.received = 0
        self.settled = 0
        self.late = 0
        """Settled messages that the broker no longer counted as ours: they come again."""
        self.reconnects = 0
        self.gaps: list[Gap] = []
        self.notes: list[str] = []
        """Both are for the caller to show and empty."""

    def _check(self, flag: str, place: Start | None) -> None:
        if place is None:
            return
        keeps, possible = self.traits.keeps, set(self.traits.starts)
        if flag == "--to":
            if keeps == "nothing":
                shown = "--end" if place.kind == "end" else f"--to {place}"
                raise Unsupported(
                    f"{shown} cannot be used here: nothing is kept, so there is no end",
                    where=self.where,
                    hint="use --count, --idle or --timeout",
                )
            possible = {*possible, "end", "skip"} if keeps == "log" else {"end"}
        if place.kind in possible:
            return
        also = f" (-n {place.count})" if place.kind == "last" and flag == "--from" else ""
        can = ", ".join(sorted(_SPELLED[kind] for kind in possible if kind in _SPELLED))
        raise Unsupported(
            f"{flag} {place}{also} cannot be used here",
            where=self.where,
            why="a queue has one end to take from" if keeps == "until-taken" else "",
            hint=f"possible: {can}" if can else f"leave out {flag}",
        )

    def _check_on_gap(self) -> None:
        """Raises Unsupported where reading cannot go on from another place."""
        log, latest = self.traits.keeps == "log", self._on_gap == "latest"
        if self._on_gap in ("report", "fail") or (log and not (latest and self._group)):
            return
        raise Unsupported(
            f"--on-gap {self._on_gap} cannot be used here",
            where=self.where,
            why="a group goes on where it stands" if log else "only a log has other places",
            hint="possible: report, fail" + (", earliest" if log else ""),
        )

    @property
    def ended(self) -> bool:
        """The stop or the limit was reached: ``receive`` will hand out nothing more."""
        return self.left == 0 or (self._feed is not None and self._feed.ended)

    @property
    def left(self) -> int | None:
        """How many messages may still come, None without a limit."""
        return None if self._limit is None else max(0, self._limit - self.received)

    @property
    def unsettled(self) -> int:
        return sum(len(messages) for _, messages in self._outstanding)

    async def __aenter__(self) -> Self:
        await self._open()
        try:
            await self._attach()
        except BaseException:
            await self._transport.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if self._feed is not None:
                await self._feed.aclose()
        finally:
            await self._transport.aclose()

    async def _attach(self) -> None:
        if self._tail:
            assert isinstance(self._transport, Tails)
            self._feed = await self._transport.tail(self._span)
        else:
            assert isinstance(self._transport, Consumes)
            self._feed = await self._transport.subscribe(self._span, self._group, self.left)
        self._alive_ms = _now_ms()

    async def receive(
        self, max_messages: int = 1000, max_bytes: int = 1 << 20, wait: float = 1.0
    ) -> Sequence[Received]:
        """The next messages; empty when ``wait`` seconds passed, after a reconnect, or ``ended``.

        Raises BrokerUnavailable when the broker stayed away for ``reconnect_for``, GapFound,
        NotFound, AccessDenied, TryAgainLater. Cancelling loses nothing.
        """
        feed = self._feed
        assert feed is not None, "the reader is not open"
        left = self.left
        if left is not None:
            if left == 0:
                return ()
            max_messages = min(max_messages, left)
        try:
            messages = await feed.receive(max_messages, max_bytes, wait)
        except ConnectionLost as exc:
            await self._reconnect(exc)
            messages = ()
            feed = self._feed
            assert feed is not None
        else:
            self._alive_ms = _now_ms()
        if messages:
            self.received += len(messages)
            if self.acks:
                self._outstanding.append((feed, messages))
        if feed.notes:
            self.notes += feed.notes
            feed.notes.clear()
        if feed.gaps or self.gaps:
            self.gaps += feed.gaps
            feed.gaps.clear()
            if self._on_gap == "latest":
                self.received -= len(messages)
                messages = ()
                await self._skip_to_end()
        return messages

    def check_gaps(self) -> None:
        """Raises GapFound when gaps are to be failures and one was found; call it after the
        messages of ``receive`` and the gaps have been dealt with."""
        if self._on_gap == "fail" and self.gaps:
            gap = self.gaps[0]
            raise GapFound(
                "messages may have passed unseen",
                where=gap.source,
                why=gap.reason,
                hint="--on-gap report goes on",
            )

    async def _skip_to_end(self) -> None:
        assert self._feed is not None
        await self._feed.aclose()
        self._span = Span(END, self._span.stop)
        await self._attach()

    async def _reconnect(self, cause: ConnectionLost) -> None:
        assert self._feed is not None
        lost_ms = self._alive_ms
        resumed = self._feed.resume()
        await self._feed.aclose()
        if resumed is not None:
            self._span = resumed
        else:  # a group stands where it stood, and what listens begins anew
            self._span = Span(None, self._span.stop)
        await self._again(time.monotonic(), cause, self._attach)
        self.reconnects += 1
        if self.traits.keeps == "nothing":
            self.gaps.append(
                Gap(self.where, f"reconnected: {cause.why or cause.what}", lost_ms, _now_ms())
            )

    def spare(self) -> None:
        """Nothing has failed, the reading just ends: what is not settled is given back then, also
        where a failure would drop it (``--nack drop``)."""
        if isinstance(self._feed, Drops):
            self._feed.spare()

    async def settle(self, count: int) -> None:
        """The first ``count`` messages not yet settled are written: acknowledge them.

        Messages of a connection that has been lost since cannot be acknowledged: they are counted
        in ``late``. Raises the errors of the feed; ConnectionLost is counted likewise and not
        raised, for the next ``receive`` deals with it.
        """
        self.settled += count
        if not self.acks:
            return
        while count > 0:
            feed, messages = self._outstanding[0]
            done = messages if count >= len(messages) else messages[:count]
            count -= len(done)
            if len(done) == len(messages):
                self._outstanding.popleft()
            else:
                self._outstanding[0] = (feed, messages[len(done) :])
            if feed is not self._feed:
                self.late += len(done)
                continue
            try:
                async with asyncio.timeout(self._limits.confirm_timeout):
                    ours = await feed.ack(done)
            except (ConnectionLost, TimeoutError):
                ours = 0
            self.late += len(done) - ours


_SPELLED = {
    "beginning": "beginning",
    "end": "end",
    "skip": "+N",
    "last": "-N",
    "at": "a position",
    "time": "@TIME",
}


def _now_ms() -> int:
    return int(time.time() * 1000)
