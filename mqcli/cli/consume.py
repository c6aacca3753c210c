"""``mqcli consume``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .env import Env
from .flags import AddressArgument, GroupFlag, ReadingFlags, verb

if TYPE_CHECKING:
    from ..reader import Reader
    from .common import Common
    from .reading import Reading


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    reading: ReadingFlags,
    group: GroupFlag = None,
    peek: Annotated[
        bool, typer.Option("--peek", help="Show what stands in a queue, and give it back.")
    ] = False,
    nack: Annotated[
        Literal["requeue", "drop"] | None,
        typer.Option(
            "--nack",
            metavar="ACTION",
            help="What a failure leaves unwritten: requeue, or drop (as the broker rejects).",
        ),
    ] = None,
) -> int:
    """Take messages from ADDRESS, and write them to standard output.

    A message is acknowledged after it was written. From a queue it is taken for good; on a log
    it is committed for the --group, and without a group reading leaves nothing behind.
    """
    from ..errors import UsageError
    from . import reading as r
    from .shell import shown

    wanted = r.understand(env, reading)
    env.require_stdout()
    client = common.client(env, address, wanted.limits)
    client = r.adapted(client, reading)
    if nack is not None:
        client = client.nacking(nack)
    if peek:
        if group is not None:
            raise UsageError("--peek takes nothing, so there is nothing to share in a --group")
        reader = client.peek(wanted.span, wanted.until.count, wanted.on_gap)
        env.say(f"mqcli: peeking at {shown(reader.where)}: all is given back in its order")
    else:
        reader = client.consume(wanted.span, group, wanted.until.count, wanted.on_gap)
    if env.stderr_tty and not peek:
        env.say(f"mqcli: {shown(_announced(reader, group, wanted))}")
    return r.deliver(env, common.timeout, reading, wanted, [client], [reader])


def _announced(reader: Reader, group: str | None, wanted: Reading) -> str:
    """What is being taken from where."""
    if group is not None:
        return f"taking messages from {reader.where} for the group {group}"
    if reader.traits.keeps == "until-taken":
        return f"taking messages from {reader.where}: what is written here is gone there"
    return (
        f"reading {reader.where} from {wanted.span.start or 'beginning'}; nothing is taken from it"
    )
