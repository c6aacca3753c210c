"""``mqcli create``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .env import Env
from .flags import AddressArgument, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(env: Env, common: Common, address: AddressArgument) -> int:
    """Make ADDRESS. One that is there, and equal, is left as it is."""
    from ..operations import admin as op
    from .admin import once

    client = common.client(env, address)

    def tell(made: bool) -> None:
        env.say(f"mqcli: {client.where} {'was created' if made else 'was there already'}")

    return once(env, common, lambda: op.create(client), tell)
