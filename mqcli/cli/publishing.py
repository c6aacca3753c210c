"""Publishing: what the flags mean, where messages come from, and how it ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..client import Client, Limits
from ..errors import ExitCode, InputError, NotFound, UsageError
from ..formats import Decoder, InputFormat, make_decoder
from ..message import Message
from ..operations import publish as op
from ..operations.stop import Stop
from ..publisher import Publisher
from .common import Common, some_seconds
from .env import Env
from .flags import InputFlags, PartFlags, SendingFlags
from .running import await_destination, run
from .shell import shown, trace

if TYPE_CHECKING:
    from ..operations.fates import FateLines
    from ..operations.spool import Spooled

__all__ = ["send"]


def send(
    env: Env,
    common: Common,
    address: str,
    values: list[str],
    reading: InputFlags,
    parts: PartFlags,
    sending: SendingFlags,
) -> int:
    """The verb; its exit code. Raises UsageError, and InputError for a closed stdin."""
    format = _format(reading, values, parts)
    if sending.atomic and sending.retry:
        raise UsageError("--atomic is all or nothing, so there is nothing to send again (--retry)")
    limits = Limits(
        some_seconds("--confirm-timeout", sending.confirm_timeout),
        some_seconds("--reconnect-for", sending.reconnect_for),
    )
    bad = op.BadInput()
    client = common.client(env, address, limits)
    template = _template(parts, client)
    make = _decoders(reading, format, template, bad.add if reading.skip_bad else None)
    make()  # refuses what cannot be meant together, before anything is opened
    fates = _fates(env, sending, client)
    publisher = client.publisher(
        atomic=sending.atomic,
        drop_unsupported=parts.drop_unsupported,
        retry=sending.retry,
        require_receivers=sending.require_receivers,
        fates=fates,
    )
    if not parts.drop_unsupported:
        op.refuse_flags(
            client, msgspec.structs.replace(template, value=None) if parts.null else template
        )
    spools: list[Spooled] | None = [] if sending.atomic else None
    batches, bulk = _batches(env, reading, values, parts, template, make, spools)
    report = op.new_report(publisher, bad)

    async def prepare(stop: Stop) -> None:
        await _prepare(env, client, sending, stop)
        for spool in spools or ():
            await stop.guard(spool.spool())

    async def work(stop: Stop) -> int:
        progress = asyncio.create_task(_progress(env, publisher)) if env.stderr_tty else None
        if fates is not None:
            fates.start(stop)
        try:
            await op.run(
                publisher,
                batches,
                stop,
                report,
                lambda: prepare(stop),
                then=_concluding(publisher, stop, report),
                fates=fates,
            )
        finally:
            if progress is not None:
                progress.cancel()
                env.progress("")
        if isinstance(report.error, NotFound):
            from ..operations.near import point_out

            await point_out(client, report.error)
        if fates is not None:
            shown = _state(publisher) in (None, "committed")
            error = await fates.finish(report.counts.submitted, stop, shown=shown)
            report.codes.update([error.exit_code] if error is not None else ())
            report.error = report.error or error
        return _ended(env, report, client, publisher)

    return run(
        env,
        common.timeout,
        work,
        bulk=bulk,
        last_words=lambda: _summary(report, client.where, publisher),
    )


def _fates(env: Env, sending: SendingFlags, client: Client) -> FateLines | None:
    """Who writes what became of each message, where that is asked for."""
    if sending.report is None:
        return None
    env.require_stdout()
    from ..operations.fates import FateLines

    sure = "sent" if client.traits().confirm == "none" else "confirmed"
    return FateLines(1, sure=sure, held=sending.atomic)


def _concluding(
    publisher: Publisher, stop: Stop, report: op.PublishReport
) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """What ends a transaction; None where there is none."""
    if _state(publisher) is None:
        return None
    from ..atomic import AtomicPublisher
    from ..operations.atomic import conclude

    assert isinstance(publisher, AtomicPublisher)
    return partial(conclude, publisher, stop, report)


def _state(publisher: Publisher) -> str | None:
    """Of the transaction of an atomic publisher."""
    found: str | None = getattr(publisher, "state", None)
    return found


def _format(reading: InputFlags, values: list[str], parts: PartFlags) -> InputFormat:
    """How input is cut. Raises UsageError for flags that do not go together."""
    named: list[InputFormat] = []
    if reading.input is not None:
        named.append(reading.input)
    if reading.nul:
        named.append("nul")
    if reading.whole:
        named.append("whole")
    if len(set(named)) > 1:
        raise UsageError(
            f"input cannot be both {named[0]} and {named[1]}", hint="give one of -i, --nul, --whole"
        )
    if values and not reading.file:
        framing = {
            "--nul": reading.nul,
            "--whole": reading.whole,
            "--delimiter": reading.delimiter is not None,
            "--key-delimiter": reading.key_delimiter is not None,
        }
        for flag, given in framing.items():
            if given:
                raise UsageError(
                    f"{flag} says how input is cut, but each VALUE is a message as it is",
                    hint="leave it out, or send the values through standard input",
                )
    if parts.null and (values or reading.file or named or reading.delimiter is not None):
        raise UsageError("--null sends one message without a value, so there is no other input")
    if parts.key is not None and reading.key_delimiter is not None:
        raise UsageError("--key gives every message the same key, and --key-delimiter its own")
    return named[0] if named else "lines"


def _template(parts: PartFlags, client: Client) -> Message:
    from .headers import parse_headers, parse_properties

    return Message(
        b"",
        None if parts.key is None else os.fsencode(parts.key),
        parse_headers(parts.header or ()),
        parse_properties(parts.property or (), _types(client)),
        None if parts.timestamp is None else _time(parts.timestamp),
    )


def _types(client: Client) -> dict[str, Any]:
    """Of the properties that the transport has options for, by the same names."""
    options, names = client.target.options, client.traits().properties
    return {f.name: f.type for f in msgspec.structs.fields(options) if f.name in names}


def _time(text: str) -> int:
    from ..position import parse_time

    try:
        return parse_time(text.removeprefix("@"))
    except UsageError as exc:
        raise UsageError(f"--timestamp: {exc.what}", hint=exc.hint) from None


def _decoders(
    reading: InputFlags,
    format: InputFormat,
    template: Message,
    on_bad: Callable[[InputError], None] | None,
) -> Callable[[], Decoder]:
    from ..formats.framing import parse_delimiter

    delimiter = None if reading.delimiter is None else parse_delimiter(reading.delimiter)
    key = None if reading.key_delimiter is None else parse_delimiter(reading.key_delimiter)
    return lambda: make_decoder(
        format,
        delimiter=delimiter,
        key_delimiter=key,
        template=template,
        on_bad=on_bad,
        keep_timestamp=reading.keep_timestamp,
        keep_partition=reading.keep_partition,
    )


def _batches(
    env: Env,
    reading: InputFlags,
    values: list[str],
    parts: PartFlags,
    template: Message,
    make: Callable[[], Decoder],
    spools: list[Spooled] | None,
) -> tuple[AsyncIterator[op.Batch], bool]:
    """All that will be sent, and whether it may be much; what is to be read to its end first is
    among ``spools``. Raises UsageError for a missing file."""
    if parts.null:
        return op.ready([msgspec.structs.replace(template, value=None)]), False
    names = reading.file or (() if values else ("-",))
    sources = [_source(env, name) for name in names]
    if spools is not None:
        from ..operations.spool import Spooled

        spools += [Spooled(source) for source in sources]
        sources = [*spools]
    given = [os.fsencode(value) for value in values]
    if reading.input == "json":
        first = [op.Given(data, f"VALUE {i + 1}") for i, data in enumerate(given)]
        return op.decoded([*first, *sources], make), bool(sources)
    t = template
    ready = [Message(data, t.key, t.headers, t.properties, t.timestamp) for data in given]
    return op.ready(ready, op.decoded(sources, make)), bool(sources)


def _source(env: Env, name: str) -> op.Source:
    if name != "-":
        # Not by opening it: closing a named pipe again would break its writer.
        path = Path(name)
        if not os.access(path, os.R_OK) or path.is_dir():
            why = (
                "a directory"
                if path.is_dir()
                else "no permission"
                if path.exists()
                else "no such file"
            )
            raise UsageError("cannot read", where=name, why=why)
        return op.File(name)
    env.require_stdin()
    if env.stdin_tty:
        env.say("mqcli: reading from the terminal; Ctrl-D on an empty line ends it")
    return op.File(0)


async def _prepare(env: Env, client: Client, sending: SendingFlags, stop: Stop) -> None:
    """What must be there before the first message. Raises MqcliError, Stopped."""
    if sending.create and await stop.guard(op.ensure(client)):
        env.detail(f"mqcli: created {client.where}")
    if sending.wait:
        await await_destination(client, stop)
    if env.verbose and client.traits().missing == "creates":
        there = await stop.guard(op.exists(client))
        if there is False:
            env.detail(f"mqcli: {client.where} does not exist yet; publishing creates it")


async def _progress(env: Env, publisher: Publisher) -> None:
    """Once more than a moment passes, keep a line up to date on the terminal."""
    counts, last, loop = publisher.counts, 0, asyncio.get_running_loop()
    await asyncio.sleep(1.0)
    before = loop.time() - 1.0
    while True:
        now = loop.time()
        rate = (counts.confirmed - last) / (now - before)
        env.progress(f"{counts.confirmed:,} confirmed, {rate:,.0f}/s")
        last, before = counts.confirmed, now
        await asyncio.sleep(0.5)


def _ended(env: Env, report: op.PublishReport, client: Client, publisher: Publisher) -> int:
    """Say how it ended; the exit code."""
    for error in report.bad.first:
        env.error(f"mqcli: skipped {shown(error)}")
    for line in report.errors:
        env.error(f"mqcli: {shown(line)}")
    if report.error is not None:
        trace(env, report.error)
        if not any(str(report.error) in line for line in report.errors):
            env.error(f"mqcli: {shown(report.error)}")
    code = report.exit_code
    counts = report.counts
    text = f"mqcli: {_summary(report, client.where, publisher)}"
    if not counts.submitted and report.error is not None:
        return code  # it never began
    if code is not ExitCode.OK:
        env.error(text)
    elif counts.unreceived or counts.stripped or counts.resent or env.stderr_tty:
        env.say(text)
    else:
        env.detail(text)
    return code


_STATES = {
    "open": "in a transaction that is not committed",
    "committed": "committed as one transaction",
    "undone": "the transaction was undone, so that nothing of it was published",
    "unknown": "whether the transaction was committed is not known",
}


def _summary(report: op.PublishReport, where: str, publisher: Publisher) -> str:
    """All the counts."""
    c = report.counts
    waiting = c.submitted - c.confirmed - c.refused - c.unknown
    parts = [f"{c.confirmed} confirmed", f"{c.refused} refused", f"{c.unknown + waiting} unknown"]
    if c.unreceived:
        parts.append(f"{c.unreceived} received by nobody")
    if c.too_few_receivers:
        parts.append(f"{c.too_few_receivers} received by too few")
    if c.stripped:
        parts.append(f"{c.stripped} without the parts that cannot be carried")
    if c.resent:
        parts.append(f"{c.resent} sent again and perhaps doubled")
    state = _state(publisher)
    if state is not None:
        parts.append(_STATES[state])
    if report.bad.count:
        parts.append(f"{report.bad.count} bad inputs skipped")
    return f"published {c.submitted} to {where}: {', '.join(parts)}"
