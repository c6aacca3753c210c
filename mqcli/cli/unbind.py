"""``mqcli unbind``"""

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
    """Undo a bind: the same ADDRESS, DESTINATION, key and headers."""
    from .binding import change

    return change(env, common, address, destination, binding, bound=False)
