"""Publishing through any transport: the window in flight, and the account of every message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from .errors import ConnectionLost, ExitCode, MqcliError, Refused, Unsupported
from .message import HeaderValue, Message, Plain, Tagged, contents
from .session import Limits, Session
from .transport import ANY, Outcome, Publishes, Traits

__all__ = ["Counts", "Fates", "Publisher", "refusal"]

_KEPT_ERRORS = 5


class Counts(msgspec.Struct):
    """What became of the messages given to a publisher: ``submitted`` is the sum of
    ``confirmed``, ``refused`` and ``unknown`` once it has finished."""

    submitted: int = 0
    confirmed: int = 0
    refused: int = 0
    unknown: int = 0
    stripped: int = 0
    """Messages of which a part was left out because the destination cannot carry it."""
    unreceived: int = 0
    """Confirmed messages that nobody received (pub/sub)."""
    too_few_receivers: int = 0
    """Confirmed messages that fewer received than were required."""
    resent: int = 0
    """Messages sent again after an unknown fate; each may be a duplicate."""


class Fates(Protocol):
    """Who is told the fate of each message, by its number (from 0). What is never named in the end
    is unknown."""

    def refused(self, number: int, error: MqcliError) -> None: ...

    def confirmed(self, numbers: Sequence[int], positions: Sequence[str] | None) -> None:
        """``positions`` are those of these messages, where the broker tells them."""


def _carried(value: HeaderValue, traits: Traits) -> bool:
    """Whether a header's value can be carried where not all types can."""
    null = traits.headers == "nullable" and isinstance(value, Tagged) and value.t == "null"
    return null or isinstance(value, str | bytes)


def refusal(message: Message, traits: Traits) -> str | None:
    """Why a destination with these traits cannot carry the message, or None."""
    if message.value is None and not traits.tombstones:
        return "a tombstone (no value) cannot be carried"
    if message.key is not None and not traits.keys:
        return "a key cannot be carried"
    if message.headers and traits.headers != "typed":
        if traits.headers == "none":
            return "headers cannot be carried"
        for name, value in message.headers:
            if not _carried(value, traits):
                kind = value.t if isinstance(value, Tagged) else type(value).__name__
                return f"the header {name!r} of type {kind} cannot be carried, only text or bytes"
    if message.properties and traits.properties is not ANY:
        unknown = sorted(message.properties.keys() - traits.properties)
        if unknown:
            return f"the property {unknown[0]!r} cannot be carried"
    if message.timestamp is not None and not traits.timestamps:
        return "a timestamp cannot be set"
    return None


def stripped(message: Message, traits: Traits) -> Message | None:
    """The message without what the destination cannot carry; None where no value would be left."""
    if message.value is None and not traits.tombstones:
        return None
    headers = message.headers
    if traits.headers == "none":
        headers = ()
    elif traits.headers != "typed":
        headers = tuple(pair for pair in headers if _carried(pair[1], traits))
    properties = message.properties
    if properties and traits.properties is not ANY:
        properties = {k: v for k, v in properties.items() if k in traits.properties} or None
    return Message(
        message.value,
        message.key if traits.keys else None,
        headers,
        properties,
        message.timestamp if traits.timestamps else None,
        message.raw_fields,
    )


def remedy(message: Message, traits: Traits) -> str:
    """What would let a refused message through, or "" for one of which nothing would be left."""
    return "--drop-unsupported leaves such parts out" if stripped(message, traits) else ""


class Publisher(Session):
    """A window of batches in flight, and the account of what became of them.

    ``retry`` sends again, after a reconnect, what has an unknown fate: it may duplicate.
    ``on_outcome`` is called with the number of the batch's first message (from 0), the batch, and
    its outcome; ``fates`` is told of each message. After a failure that concerns the destination
    (``failure``), ``submit`` raises it.
    """

    def __init__(
        self,
        transport: Publishes,
        traits: Traits,
        limits: Limits,
        *,
        window: int = 8,
        window_bytes: int = 8 << 20,
        drop_unsupported: bool = False,
        retry: bool = False,
        require_receivers: int = 0,
        on_outcome: Callable[[int, Sequence[Message], Outcome], None] | None = None,
        fates: Fates | None = None,
    ) -> None:
        super().__init__(transport, limits)
        self._traits = traits
        self._window, self._window_bytes = window, window_bytes
        self._drop, self._retry = drop_unsupported, retry
        self._require = require_receivers
        self._on_outcome = on_outcome
        self._fates = fates
        self._loop: asyncio.AbstractEventLoop
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """By the number of the batch's first message."""
        self._in_flight = 0
        self._room = asyncio.Event()
        self._trouble = asyncio.Event()
        """Apart from ``_room``, which every batch rings."""
        self._lost: list[tuple[int, list[Message]]] = []
        self.counts = Counts()
        self.errors: list[str] = []
        """The first few refusals, in words."""
        self.codes: set[ExitCode] = set()
        """The exit codes of all refusals."""
        self.failure: MqcliError | None = None
        self._bug: Exception | None = None
        if require_receivers and self._traits.confirm != "reached":
            raise Unsupported(
                "--require-receivers needs a broker that counts receivers", where=self.where
            )

    async def __aenter__(self) -> Self:
        await self._open()
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.abandon()
        await self._transport.aclose()

    async def submit(self, batch: Sequence[Message], *, size: int | None = None) -> None:
        """Send the batch when the window has room; does not wait for its confirmation.

        ``size`` is its bytes, where the caller knows them. Raises the failure of an earlier batch;
        then none of this one was sent or counted.
        """
        if size is None:
            size = sum(map(len, contents(batch)))
            if not isinstance(batch, Plain):
                size += sum(len(m.key) for m in batch if m.key)
        while self._tasks and (
            len(self._tasks) >= self._window or self._in_flight + size > self._window_bytes
        ):
            self._room.clear()
            await self._room.wait()
        await self.mend()
        if self.failure is not None:
            raise self.failure
        first = self.counts.submitted
        self.counts.submitted += len(batch)
        numbers: Sequence[int] = range(first, first + len(batch))
        if not isinstance(batch, Plain):
            batch, numbers = self._vetted(batch, numbers)
        if batch:
            self._in_flight += size
            self._tasks[first] = self._loop.create_task(self._send(first, batch, numbers, size))

    def _vetted(
        self, batch: Sequence[Message], numbers: Sequence[int]
    ) -> tuple[Sequence[Message], Sequence[int]]:
        traits = self._traits
        reasons = {
            i: reason for i, m in enumerate(batch) if (reason := refusal(m, traits)) is not None
        }
        if not reasons:
            return batch, numbers
        kept: list[Message] = []
        kept_numbers: list[int] = []
        for i, message in enumerate(batch):
            fitting: Message | None = message
            if i in reasons:
                fitting = stripped(message, traits) if self._drop else None
                if fitting is None:
                    hint = remedy(message, traits)
                    self._refuse(numbers[i], Refused(reasons[i], where=self.where, hint=hint))
                    continue
                self.counts.stripped += 1
            assert fitting is not None
            kept.append(fitting)
            kept_numbers.append(numbers[i])
        return kept, kept_numbers

    def _refuse(self, number: int, error: MqcliError) -> None:
        self.counts.refused += 1
        self.codes.add(error.exit_code)
        if len(self.errors) < _KEPT_ERRORS:
            self.errors.append(f"message {number + 1} refused: {error}")
        if self._fates is not None:
            self._fates.refused(number, error)

    async def _send(
        self, first: int, batch: Sequence[Message], numbers: Sequence[int], size: int
    ) -> None:
        try:
            outcome = await self._publish(batch)
            self._settle(outcome, batch, numbers)
        except Exception as exc:  # nobody awaits this task: whoever waits for its end raises it
            self._bug = exc
        finally:
            self._in_flight -= size
            del self._tasks[first]
            self._room.set()
            if self._in_trouble:
                self._trouble.set()

    async def _publish(self, batch: Sequence[Message]) -> Outcome:
        assert isinstance(self._transport, Publishes)
        try:
            return await self._transport.publish(batch, self._limits.confirm_timeout)
        except ConnectionLost as exc:  # nothing was sent
            return Outcome(0, dict.fromkeys(range(len(batch)), exc), cause=exc)
        except BaseException:
            self.counts.unknown += len(batch)
            raise

    def _settle(self, outcome: Outcome, batch: Sequence[Message], numbers: Sequence[int]) -> None:
        counts = self.counts
        counts.confirmed += outcome.confirmed
        if outcome.cause is None and not outcome.refused and outcome.receivers is None:
            if self._fates is not None:
                self._fates.confirmed(numbers, outcome.positions)
            if self._on_outcome is not None:
                self._on_outcome(numbers[0], batch, outcome)
            return
        receivers = outcome.receivers
        if receivers is not None:
            failed = set(outcome.refused) | set(outcome.unknown)
            got = [n for i, n in enumerate(receivers) if i not in failed] if failed else receivers
            counts.unreceived += got.count(0)
            if self._require:
                counts.too_few_receivers += sum(n < self._require for n in got)
        lost = self._retry and isinstance(outcome.cause, ConnectionLost)
        again: list[int] = []
        for i, error in outcome.refused.items():
            if lost and isinstance(error, ConnectionLost):
                again.append(i)
                continue
            self._refuse(numbers[i], error)
            if not isinstance(error, Refused) and self.failure is None:
                self.failure = error
        if lost:
            again += outcome.unknown
            counts.resent += len(outcome.unknown)
            self._lost += [(numbers[i], [batch[i]]) for i in sorted(again)]
        else:
            counts.unknown += len(outcome.unknown)
            if outcome.cause is not None and self.failure is None:
                self.failure = outcome.cause
        if self._fates is not None:
            not_so = {*outcome.refused, *outcome.unknown}
            sure = [i for i in range(len(batch)) if i not in not_so]
            places = outcome.positions
            self._fates.confirmed([numbers[i] for i in sure], places and [places[i] for i in sure])
        if self._on_outcome is not None:
            self._on_outcome(numbers[0], batch, outcome)

    async def _resend(self) -> None:
        """Reconnect and send again, in order, what was lost with the connection."""
        since = time.monotonic()
        while self._lost and self.failure is None:
            while self._tasks:
                self._room.clear()
                await self._room.wait()
            try:
                await self._again(since, ConnectionLost("connection lost"), _nothing)
            except MqcliError as exc:
                self.failure = exc
                return
            lost, self._lost = sorted(self._lost, key=lambda pair: pair[0]), []
            batch = [message for _, messages in lost for message in messages]
            numbers = [number for number, _ in lost]
            outcome = await self._publish(batch)
            if outcome.confirmed:
                since = time.monotonic()
            self._settle(outcome, batch, numbers)

    async def finish(self, *, mend: bool = True) -> None:
        """Return once the fate of everything submitted is settled. Raises nothing but a bug: see
        ``counts`` and ``failure``. Lasts at most ``confirm_timeout`` without progress, and with
        ``mend`` as long as a lost broker is tried again."""
        while self._tasks or (mend and self._lost and self.failure is None):
            if self._tasks:
                self._room.clear()
                await self._room.wait()
            else:
                await self._resend()
        self._give_up_lost()
        self._raise_bug()

    async def abandon(self) -> None:
        """Stop waiting: everything still in flight becomes unknown."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up_lost()

    def _raise_bug(self) -> None:
        if self._bug is not None:
            raise self._bug

    def _give_up_lost(self) -> None:
        self.counts.unknown += sum(len(messages) for _, messages in self._lost)
        self._lost = []

    async def wait_for_failure(self) -> None:
        """Return when ``failure`` is set, or ``mend`` has something to do; for a race with slow
        input."""
        while not self._in_trouble:
            self._trouble.clear()
            await self._trouble.wait()

    @property
    def _in_trouble(self) -> bool:
        return self.failure is not None or self._bug is not None or bool(self._lost)

    async def mend(self) -> None:
        """Send again now what is waiting for a reconnect (else the next ``submit`` does)."""
        self._raise_bug()
        if self._lost and self.failure is None:
            await self._resend()


async def _nothing() -> None:
    return None
