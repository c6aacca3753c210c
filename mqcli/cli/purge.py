"""``mqcli purge``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .env import Env
from .flags import AddressArgument, YesFlag, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(env: Env, common: Common, address: AddressArgument, yes: YesFlag = False) -> int:
    """Remove all messages of ADDRESS, and keep it. Asks first, or takes --yes."""
    from ..errors import ExitCode
    from ..operations import admin as op
    from .admin import agreed, once

    client = common.client(env, address)
    if not agreed(env, client, yes, "the purge"):
        return ExitCode.NOT_ALL

    def tell(count: int | None) -> None:
        many = "all messages" if count is None else f"{count} message{'s' if count != 1 else ''}"
        env.say(f"mqcli: {many} of {client.where} removed")

    return once(env, common, lambda: op.purge(client), tell)
