"""``mqcli create``"""

from __future__ import annotations

from ..operations import admin as op
from .admin import once
from .common import AddressArgument, Common, verb
from .env import Env


@verb
def main(env: Env, common: Common, address: AddressArgument) -> int:
    """Make ADDRESS. One that is there, and equal, is left as it is."""
    client = common.client(env, address)

    def tell(made: bool) -> None:
        env.say(f"mqcli: {client.where} {'was created' if made else 'was there already'}")

    return once(env, common, lambda: op.create(client), tell)
