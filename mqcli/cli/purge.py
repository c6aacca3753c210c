"""``mqcli purge``"""

from __future__ import annotations

from ..errors import ExitCode
from ..operations import admin as op
from .admin import Yes, agreed, once
from .common import AddressArgument, Common, verb
from .env import Env


@verb
def main(env: Env, common: Common, address: AddressArgument, yes: Yes = False) -> int:
    """Remove all messages of ADDRESS, and keep it. Asks first, or takes --yes."""
    client = common.client(env, address)
    if not agreed(env, client, yes, "the purge"):
        return ExitCode.NOT_ALL

    def tell(count: int | None) -> None:
        many = "all messages" if count is None else f"{count} message{'s' if count != 1 else ''}"
        env.say(f"mqcli: {many} of {client.where} removed")

    return once(env, common, lambda: op.purge(client), tell)
