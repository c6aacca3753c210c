"""``mqcli seek``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .env import Env
from .flags import AddressArgument, FactsFormat, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    group: Annotated[
        str, typer.Option("--group", "-g", metavar="NAME", help="The group.", show_default=False)
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="START",
            help="beginning, end, +N, -N, a position (repeatable by partition), or @TIME.",
            show_default=False,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Commit it.")] = False,
    output: FactsFormat = "auto",
) -> int:
    """Move the place of a --group on ADDRESS, which must have no members.

    Shows what it would commit for each partition, and commits it with --yes.
    """
    from ..errors import UsageError
    from ..operations import admin as op
    from ..position import parse_range
    from ..roles import Seeks
    from .admin import once
    from .showing import json_line, table

    env.require_stdout()
    try:
        start, stop = parse_range(to)
    except UsageError as exc:
        raise UsageError(f"--to: {exc.what}", why=exc.why, hint=exc.hint) from None
    if start is None or stop is not None:
        raise UsageError(f"--to {to[0]} is a range", hint="give one place, or one by partition")
    client = common.client(env, address)
    client.make(Seeks)
    client.check_group(group)

    def tell(rows: list[dict[str, Any]]) -> None:
        if output == "json":
            for row in rows:
                json_line(env, {"group": group, **row, "done": yes})
        elif rows:
            names = list(rows[0])
            table(env, [names, *([row[name] for name in names] for row in rows)])
        if yes:
            env.say(f"mqcli: committed for the group {group}")
        else:
            env.say("mqcli: nothing was committed; --yes does it")

    return once(env, common, lambda: op.seek(client, group, start, commit=yes), tell)
