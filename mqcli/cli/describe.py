"""``mqcli describe``"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..operations import admin as op
from ..transport import Inspects
from .admin import once
from .common import AddressArgument, Common, verb
from .env import Env
from .showing import Format, facts, json_line


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="NAME", help="This group on it.")
    ] = None,
    output: Format = "auto",
) -> int:
    """Show what is known of ADDRESS, or of a group on it."""
    env.require_stdout()
    client = common.client(env, address)
    client.make(Inspects)

    def tell(said: dict[str, Any]) -> None:
        show = json_line if output == "json" else facts
        show(env, {"address": client.where, **said})

    return once(env, common, lambda: op.describe(client, group), tell)
