"""``mqcli delete``"""

from __future__ import annotations

from ..errors import ExitCode
from ..operations import admin as op
from .admin import Yes, agreed, once
from .common import AddressArgument, Common, verb
from .env import Env


@verb
def main(env: Env, common: Common, address: AddressArgument, yes: Yes = False) -> int:
    """Remove ADDRESS with all its messages. Asks first, or takes --yes."""
    client = common.client(env, address)
    if not agreed(env, client, yes, "the removal"):
        return ExitCode.NOT_ALL

    def tell(_: None) -> None:
        env.say(f"mqcli: {client.where} was removed")

    return once(env, common, lambda: op.delete(client), tell)
