"""Publishing a stream of input: read, decode, submit, settle, count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from ..client import Client
from ..errors import ExitCode, InputError, MqcliError, gravest
from ..message import Message
from ..publisher import Counts, Publisher
from .stop import Stop, Stopped

__all__ = ["Decoder", "PublishReport", "decoded", "publish"]


class Decoder(Protocol):
    """What ``mqcli.formats`` makes of bytes."""

    plain: bool
    """Every message is a value alone."""
    error: InputError | None
    """Why reading ended before its end, behind the messages that were returned."""

    def feed(self, data: bytes) -> list[Message]: ...

    def finish(self) -> list[Message]: ...


class Source(Protocol):
    async def read(self) -> bytes: ...


class Batch(msgspec.Struct):
    """Messages on their way, ``size`` bytes of them; see ``Publisher.submit``."""

    messages: Sequence[Message]
    plain: bool = False
    size: int | None = None


class PublishReport(msgspec.Struct):
    """What became of everything that was read."""

    counts: Counts
    errors: list[str]
    codes: set[ExitCode]
    bad: int = 0
    """Input records that were skipped."""
    bad_errors: list[str] = []
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
        if self.counts.unknown or self.counts.too_few_receivers or self.bad:
            codes.add(ExitCode.NOT_ALL)
        return gravest(codes)


async def decoded(sources: Sequence[Source], make: Callable[[], Decoder]) -> AsyncIterator[Batch]:
    """The messages of each source, each with a decoder of its own. Raises InputError, behind the
    messages that came before."""
    for source in sources:
        decoder = make()
        while data := await source.read():
            if messages := decoder.feed(data):
                yield Batch(messages, decoder.plain, len(data))
            if decoder.error is not None:
                raise decoder.error
        if messages := decoder.finish():
            yield Batch(messages, decoder.plain)
        if decoder.error is not None:
            raise decoder.error


async def publish(
    publisher: Publisher, batches: AsyncIterator[Batch], stop: Stop, report: PublishReport
) -> None:
    """Publish everything, through an open publisher, and fill the report. Memory stays flat: no
    more is read than the publisher's window has room for. Does not raise for what went wrong with
    messages, input or broker: the report says it."""
    try:
        while (batch := await _next(publisher, batches, stop)) is not None:
            await stop.guard(publisher.submit(batch.messages, plain=batch.plain, size=batch.size))
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
                await publisher.mend()
                if publisher.failure is not None:
                    raise publisher.failure
            failing.cancel()
        return reading.result()
    finally:
        reading.cancel()
        if failing is not None:
            failing.cancel()


async def _finish(publisher: Publisher, stop: Stop, report: PublishReport) -> None:
    try:
        if stop.reason is None:
            await stop.guard(publisher.finish())
            return
    except Stopped:
        report.stopped = stop.reason
    try:
        async with asyncio.timeout(stop.grace):
            await publisher.finish()
    except TimeoutError:
        await publisher.abandon()


def new_report(publisher: Publisher) -> PublishReport:
    """A report that shares the publisher's account, so that it is right at every moment."""
    return PublishReport(publisher.counts, publisher.errors, publisher.codes)


def refuse_flags(client: Client, template: Message) -> str | None:
    """Why the destination cannot carry what the flags put into every message, or None."""
    from ..publisher import refusal

    return refusal(template, client.traits())
