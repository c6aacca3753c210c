"""``mqcli consume``"""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import MqcliError
from ..operations.read import ReadReport, consume
from ..operations.stop import Stop, Stopped
from ..operations.streams import ByteSink
from ..reader import Reader
from . import reading as r
from .common import AddressArgument, Common, verb
from .env import Env
from .running import run
from .shell import shown


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    reading: r.ReadingFlags,
    group: Annotated[
        str | None,
        typer.Option("--group", "-g", metavar="NAME", help="On a log: share and commit as NAME."),
    ] = None,
) -> int:
    """Take messages from ADDRESS, and write them to standard output.

    A message is acknowledged after it was written. From a queue it is taken for good; on a log
    it is committed for the --group, and without a group reading leaves nothing behind.
    """
    wanted = r.understand(env, reading)
    env.require_stdout()
    client = common.client(env, address, wanted.limits)
    reader = client.consume(wanted.span, group, wanted.until.count, wanted.on_gap)
    acks = reader.traits.ack != "none"
    if env.stderr_tty:
        env.say(f"mqcli: {shown(_announced(reader, group, wanted))}")
    report = ReadReport()

    async def work(stop: Stop) -> int:
        try:
            if reading.wait:
                await r.await_destination(client, stop)
            await consume(
                reader,
                ByteSink(1),
                wanted.encoder,
                wanted.until,
                stop,
                r.Listener(env, wanted.json),
                report,
            )
        except Stopped:
            report.stopped = stop.reason
        except MqcliError as exc:
            report.error = exc
        return r.ended(env, report, client.where, acks=acks)

    return run(
        env,
        common.timeout,
        work,
        bulk=wanted.bulk,
        last_words=lambda: r.summary(report, client.where, acks=acks),
    )


def _announced(reader: Reader, group: str | None, wanted: r.Reading) -> str:
    """What is being taken from where."""
    if group is not None:
        return f"taking messages from {reader.where} for the group {group}"
    if reader.traits.keeps == "until-taken":
        return f"taking messages from {reader.where}: what is written here is gone there"
    return (
        f"reading {reader.where} from {wanted.span.start or 'beginning'}; nothing is taken from it"
    )
