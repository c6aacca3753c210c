"""What consume and tail share: their flags understood, their output, their last line."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import msgspec

from ..client import Client, Limits
from ..errors import ExitCode, GapFound, MqcliError, NotFound, UsageError
from ..formats import Encoder, OutputFormat, make_encoder
from ..message import Received
from ..operations.read import Delivery, ReadReport, Wanted
from ..operations.stop import Stop, Stopped
from ..operations.streams import ByteSink
from ..operations.tail import tail
from ..position import END, Start, parse_range
from ..reader import OnGap, Reader
from ..transport import Gap, Span
from .common import seconds, some_seconds
from .env import Env
from .flags import ReadingFlags
from .running import await_destination, run
from .shell import shown, trace

__all__ = ["Reading", "adapted", "deliver", "understand"]


class Reading(msgspec.Struct):
    """The flags of reading, understood: what to read, when to end, how to write it."""

    span: Span
    until: Wanted
    on_gap: OnGap
    limits: Limits
    encoder: Encoder
    json: bool

    @property
    def bulk(self) -> bool:
        """Many messages may come."""
        return self.until.count is None or self.until.count > 1000


def understand(env: Env, flags: ReadingFlags) -> Reading:
    """Raises UsageError for what cannot be meant together."""
    if flags.last is not None and flags.from_:
        raise UsageError("--last says where to start, and so does --from", hint="give one of them")
    if flags.end and flags.to is not None:
        raise UsageError("--end says where to stop, and so does --to", hint="give one of them")
    start, stop = _places(flags.from_ or [], flags.to)
    if flags.last is not None:
        start = Start("last", count=flags.last)
    if flags.end:
        if stop is not None:
            raise UsageError("--end says where to stop, and so does the range", hint="give one")
        stop = END
    idle = seconds("--idle", flags.idle)
    if idle == 0:
        raise UsageError("--idle must be longer than 0")
    encoder, json = _encoder(env, flags)
    return Reading(
        Span(start, stop),
        Wanted(flags.count, stop is not None, idle),
        flags.on_gap or ("fail" if flags.end and not flags.skip_bad else "report"),
        Limits(reconnect_for=some_seconds("--reconnect-for", flags.reconnect_for)),
        encoder,
        json,
    )


def _places(from_: list[str], to: str | None) -> tuple[Start | None, Start | None]:
    flag = "--from"
    try:
        parse_range(from_)
        flag = "--to"
        return parse_range(from_, to)
    except UsageError as exc:
        raise UsageError(f"{flag}: {exc.what}", why=exc.why, hint=exc.hint) from None


class _Shown(Encoder):
    """Values on a terminal: they cannot drive it."""

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner

    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        from ..formats.escaping import escape

        end = self._inner.ending
        chunks = self._inner.encode(messages)
        return [escape(chunk + end, keep_newlines=True).encode() for chunk in chunks]


def _encoder(env: Env, flags: ReadingFlags) -> tuple[Encoder, bool]:
    """The encoder of the output, and whether it writes JSON."""
    if flags.nul and flags.delimiter is not None:
        raise UsageError("--nul and --delimiter both say what ends a value", hint="give one")
    end = b"\0" if flags.nul else b"\n"
    if flags.delimiter is not None:
        from ..formats.framing import parse_delimiter

        end = parse_delimiter(flags.delimiter)
    name: OutputFormat = "value"
    if flags.output != "auto":
        name = flags.output
    elif env.stdout_tty and end == b"\n":
        # Who says how values end wants values, on a terminal too.
        name = "terminal"
    encoder = make_encoder(
        name,
        embed_json=flags.embed_json,
        delimiter=end,
        colour=env.color,
        width=shutil.get_terminal_size().columns if env.stdout_tty else 80,
    )
    if env.stdout_tty and name in ("value", "raw"):
        encoder = _Shown(encoder)
    return encoder, name == "json"


class Listener:
    """Tells on stderr what happens beside the messages."""

    def __init__(self, env: Env, json: bool) -> None:
        self._env, self._json = env, json

    def gap(self, gap: Gap) -> None:
        """A JSON line under ``-o json``, else a line of text; ``--quiet`` does not hide it."""
        if self._json:
            from ..formats.envelope_writer import encode_gap

            self._env.raw(encode_gap(gap).decode())
            return
        self._env.error(f"mqcli: GAP: {shown(gap_text(gap))}")

    def note(self, text: str) -> None:
        self._env.say(f"mqcli: {shown(text)}")


def gap_text(gap: Gap) -> str:
    """The gap in words."""
    from ..formats.rfc3339 import format_ms

    parts = [f"messages of {gap.source} may have passed unseen"]
    if gap.since_ms is not None and gap.until_ms is not None:
        parts.append(f"from {format_ms(gap.since_ms)} to {format_ms(gap.until_ms)}")
    if gap.after is not None:
        parts.append(f"behind {gap.after}")
    if gap.before is not None:
        parts.append(f"before {gap.before}")
    if gap.count is not None:
        parts.append(f"{gap.count} of them")
    return f"{', '.join(parts)}: {gap.reason}"


def adapted(client: Client, flags: ReadingFlags) -> Client:
    """The client with the flags that are options of its transport. Raises Unsupported."""
    if flags.ordered:
        client = client.ordered()
    if flags.skip_bad:
        client = client.with_options("--skip-bad", skip_unreadable=True)
    return client


def deliver(
    env: Env,
    timeout: float | None,
    flags: ReadingFlags,
    wanted: Reading,
    clients: Sequence[Client],
    readers: Sequence[Reader],
) -> int:
    """Read from the readers, which are of these clients, to standard output; the exit code."""
    where = clients[0].where if len(clients) == 1 else f"{len(clients)} addresses"
    acks = any(reader.acks for reader in readers)
    report = ReadReport()

    async def work(stop: Stop) -> int:
        try:
            if flags.wait:
                for client in clients:
                    await await_destination(client, stop)
            listener = Listener(env, wanted.json)
            to = Delivery(ByteSink(1), wanted.encoder, wanted.until, stop, listener, report)
            await tail(readers, to)
        except Stopped:
            report.stopped = stop.reason
        except MqcliError as exc:
            report.error = exc
        for client in clients:
            await point_out(client, report)
        incomplete(report, flags)
        return ended(env, report, where, acks=acks)

    return run(
        env,
        timeout,
        work,
        bulk=wanted.bulk,
        last_words=lambda: summary(report, where, acks=acks),
    )


def incomplete(report: ReadReport, flags: ReadingFlags) -> None:
    """What was skipped because it could not be decoded is a failure in the end."""
    if flags.skip_bad and report.gaps and report.error is None:
        report.error = GapFound("not all could be read: see the gaps")


async def point_out(client: Client, report: ReadReport) -> None:
    """Let an error about a name that does not exist say the nearest one that does."""
    if isinstance(report.error, NotFound):
        from ..operations import near

        await near.point_out(client, report.error)


def ended(env: Env, report: ReadReport, where: str, *, acks: bool) -> int:
    """Say how reading ended; its exit code."""
    code = report.exit_code
    if report.output_closed:
        done = f", {report.settled} of them acknowledged" if acks else ""
        env.say(
            f"mqcli: the reader of standard output went away: {_messages(report.delivered)} from"
            f" {where} written{done}; the last may not have been read"
        )
    if report.error is not None:
        trace(env, report.error)
        env.error(f"mqcli: {shown(report.error)}")
    text = f"mqcli: {summary(report, where, acks=acks)}"
    if not report.delivered and report.error is not None:
        return code
    if code not in (ExitCode.OK, ExitCode.TIME_LIMIT) or report.late:
        env.error(text)
    elif not report.output_closed:
        (env.say if env.stderr_tty or code else env.detail)(text)
    return code


def summary(report: ReadReport, where: str, *, acks: bool) -> str:
    """All the counts."""
    parts = [f"{_messages(report.delivered)} from {where} written"]
    if acks:
        parts.append(f"{report.settled - report.late} acknowledged")
        if report.late:
            parts.append(f"{report.late} too late, so that they will be delivered again")
        if report.given_back:
            parts.append(f"{report.given_back} given back")
    if report.gaps:
        parts.append(f"{report.gaps} gap{'s' if report.gaps != 1 else ''}")
    if report.reconnects:
        parts.append(f"reconnected {report.reconnects} times")
    return ", ".join(parts)


def _messages(count: int) -> str:
    return f"{count} message{'s' if count != 1 else ''}"
