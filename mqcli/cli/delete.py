"""``mqcli delete``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .env import Env
from .flags import AddressArgument, YesFlag, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(env: Env, common: Common, address: AddressArgument, yes: YesFlag = False) -> int:
    """Remove ADDRESS with all its messages. Asks first, or takes --yes."""
    from ..errors import ExitCode
    from ..operations import admin as op
    from .admin import agreed, once

    client = common.client(env, address)
    if not agreed(env, client, yes, "the removal"):
        return ExitCode.NOT_ALL

    def tell(_: None) -> None:
        env.say(f"mqcli: {client.where} was removed")

    return once(env, common, lambda: op.delete(client), tell)
