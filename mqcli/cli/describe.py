"""``mqcli describe``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .env import Env
from .flags import AddressArgument, FactsFormat, GroupFlag, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    group: GroupFlag = None,
    output: FactsFormat = "auto",
) -> int:
    """Show what is known of ADDRESS, or of a group on it."""
    from ..operations import admin as op
    from ..transport import Inspects
    from .admin import once
    from .showing import facts, json_line

    env.require_stdout()
    client = common.client(env, address)
    client.make(Inspects)
    client.check_group(group)

    def tell(said: dict[str, Any]) -> None:
        show = json_line if output == "json" else facts
        show(env, {"address": client.where, **said})

    return once(env, common, lambda: op.describe(client, group), tell)
