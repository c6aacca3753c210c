"""Publishing a stream of input: read, decode, submit, settle, count."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..client import Client
from ..errors import ExitCode, InputError, MqcliError, Unsupported, gravest
from ..message import Message
from ..publisher import Counts, Publisher
from ..transport import Inspects, Manages
from .stop import Stop, Stopped
from .streams import ByteSource

if TYPE_CHECKING:
    from .fates import FateLines

__all__ = [
    "BadInput",
    "Batch",
    "Decoder",
    "File",
    "Given",
    "PublishReport",
    "Source",
    "decoded",
    "ensure",
    "exists",
    "new_report",
    "publish",
    "ready",
    "refuse_flags",
    "run",
]

_KEPT = 5
_BATCH = 16_384


class Decoder(Protocol):
    """What ``mqcli.formats`` makes of bytes."""

    error: InputError | None
    """Why reading ended before its end, behind the messages that were returned."""

    def feed(self, data: bytes) -> Sequence[Message]: ...

    def finish(self) -> Sequence[Message]: ...


class Source(Protocol):
    name: str

    async def read(self) -> bytes: ...


class Given:
    """Bytes that are there, as a source."""

    def __init__(self, data: bytes, name: str) -> None:
        self._rest, self.name = data, name

    async def read(self) -> bytes:
        data, self._rest = self._rest, b""
        return data


class File:
    """A file that is opened when its turn comes, or a descriptor that is open already."""

    def __init__(self, file: str | int) -> None:
        self._file = file
        self._source: ByteSource | None = None
        self.name = file if isinstance(file, str) else "standard input"

    async def read(self) -> bytes:
        """Raises InputError."""
        if self._source is None:
            if isinstance(self._file, str):
                self._file = await self._open(self._file)
            self._source = ByteSource(self._file, self.name)
        data = await self._source.read()
        if not data and isinstance(self._file, int) and self._file > 2:
            os.close(self._file)
        return data

    async def _open(self, file: str) -> int:
        try:
            # In a thread, for a named pipe waits for its writer.
            return await asyncio.to_thread(os.open, file, os.O_RDONLY)
        except OSError as exc:
            raise InputError("cannot read", where=file, why=exc.strerror or str(exc)) from exc


class BadInput:
    """How many records could not be messages, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[InputError] = []

    def add(self, error: InputError) -> None:
        """For a decoder's ``on_bad``."""
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(error)


class Batch(msgspec.Struct):
    """Messages on their way, ``size`` bytes of them; see ``Publisher.submit``."""

    messages: Sequence[Message]
    size: int | None = None


class PublishReport(msgspec.Struct):
    """What became of everything that was read."""

    counts: Counts
    errors: list[str]
    codes: set[ExitCode]
    bad: BadInput
    """Input records that were skipped."""
    error: MqcliError | None = None
    """What ended it before the input did."""
    stopped: ExitCode | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The gravest of everything that happened."""
        codes = set(self.codes)
        if self.error is not None:
            codes.add(self.error.exit_code)
        if self.stopped is not None:
            codes.add(self.stopped)
        if self.counts.unknown or self.counts.too_few_receivers or self.bad.count:
            codes.add(ExitCode.NOT_ALL)
        return gravest(codes)


async def decoded(sources: Sequence[Source], make: Callable[[], Decoder]) -> AsyncIterator[Batch]:
    """The messages of each source, each with a decoder of its own. Raises InputError, behind the
    messages that came before."""
    for source in sources:
        decoder = make()
        while data := await source.read():
            messages = decoder.feed(data)
            if len(messages) <= _BATCH:
                if messages:
                    yield Batch(messages, len(data))
            else:
                # Of tiny ones, what is in flight must still be settled soon after a stop.
                each = len(data) // len(messages) + 1
                for first in range(0, len(messages), _BATCH):
                    part = messages[first : first + _BATCH]
                    yield Batch(part, each * len(part))
            _check(decoder, source)
        if messages := decoder.finish():
            yield Batch(messages)
        _check(decoder, source)


def _check(decoder: Decoder, source: Source) -> None:
    if decoder.error is not None:
        decoder.error.where = decoder.error.where or source.name
        raise decoder.error


async def ready(
    messages: Sequence[Message], then: AsyncIterator[Batch] | None = None
) -> AsyncIterator[Batch]:
    """Messages that are there already, then the rest."""
    if messages:
        yield Batch(messages)
    if then is not None:
        async for batch in then:
            yield batch


async def run(
    publisher: Publisher,
    batches: AsyncIterator[Batch],
    stop: Stop,
    report: PublishReport,
    prepare: Callable[[], Awaitable[None]],
    *,
    then: Callable[[], Awaitable[None]] | None = None,
    fates: FateLines | None = None,
) -> None:
    """``prepare``, open the publisher, ``publish``, ``then``, close it. Does not raise for what
    went wrong: the report says it."""
    async with AsyncExitStack() as stack:
        try:
            await prepare()
            await stop.guard(stack.enter_async_context(publisher))
        except Stopped:
            report.stopped = stop.reason
            return
        except MqcliError as exc:
            report.error = exc
            return
        await publish(publisher, batches, stop, report, fates)
        if then is not None:
            await then()


async def publish(
    publisher: Publisher,
    batches: AsyncIterator[Batch],
    stop: Stop,
    report: PublishReport,
    fates: FateLines | None = None,
) -> None:
    """Publish everything, through an open publisher, and fill the report. Memory stays flat: no
    more is read than the publisher's window has room for. Does not raise for what went wrong with
    messages, input or broker: the report says it."""
    try:
        while (batch := await _next(publisher, batches, stop)) is not None:
            await stop.guard(publisher.submit(batch.messages, size=batch.size))
            if fates is not None:
                await stop.guard(fates.room())
    except Stopped:
        report.stopped = stop.reason
    except InputError as exc:
        report.error = exc
    except MqcliError as exc:
        report.error = exc
    await _finish(publisher, stop, report)
    if publisher.failure is not None and report.error is None:
        report.error = publisher.failure


async def _next(publisher: Publisher, batches: AsyncIterator[Batch], stop: Stop) -> Batch | None:
    """The next batch, unless the broker is lost while the input keeps us waiting.
    Raises the loss, InputError, Stopped."""

    async def following() -> Batch | None:
        return await anext(batches, None)

    reading = asyncio.create_task(stop.guard(following()))
    failing: asyncio.Task[None] | None = None
    try:
        await asyncio.sleep(0)
        while not reading.done():
            failing = asyncio.create_task(publisher.wait_for_failure())
            await asyncio.wait((reading, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                await stop.guard(publisher.mend())
                if publisher.failure is not None:
                    raise publisher.failure
            failing.cancel()
        return reading.result()
    finally:
        reading.cancel()
        if failing is not None:
            failing.cancel()


async def _finish(publisher: Publisher, stop: Stop, report: PublishReport) -> None:
    if stop.reason is None:
        try:
            await stop.guard(publisher.finish())
            return
        except Stopped:
            pass
    report.stopped = stop.reason  # also where the input ended in the same moment
    try:
        async with asyncio.timeout(stop.grace):
            await publisher.finish(mend=False)
    except TimeoutError:
        await publisher.abandon()


def new_report(publisher: Publisher, bad: BadInput) -> PublishReport:
    """A report that shares the publisher's account, so that it is right at every moment."""
    return PublishReport(publisher.counts, publisher.errors, publisher.codes, bad)


async def exists(client: Client) -> bool | None:
    """Whether the destination is there; None where that cannot be known."""
    if not client.supports(Inspects) or client.traits().missing == "undetectable":
        return None
    return await client.once(Inspects, lambda transport: transport.exists())


async def ensure(client: Client) -> bool:
    """See that the destination is there; True when it was made now. One that is there stays as it
    is, however it was made. Raises Unsupported, Refused."""
    if client.supports(Manages) and await exists(client):
        return False
    return await client.create()


def refuse_flags(client: Client, template: Message) -> None:
    """Raises Unsupported for what the flags put into every message and the destination cannot
    carry, before a socket opens."""
    from ..publisher import refusal, remedy

    traits = client.traits()
    if (reason := refusal(template, traits)) is not None:
        raise Unsupported(reason, where=client.where, hint=remedy(template, traits))
