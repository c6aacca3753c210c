"""``mqcli bind``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .env import Env
from .flags import AddressArgument, BindingFlags, DestinationArgument, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    destination: DestinationArgument,
    binding: BindingFlags,
) -> int:
    """Let ADDRESS, an exchange, route to DESTINATION, a queue or exchange on the same broker.

    With which routing key or pattern -k says, and -H which headers a headers exchange looks at.
    """
    from .binding import change

    return change(env, common, address, destination, binding, bound=True)
