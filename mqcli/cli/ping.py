"""``mqcli ping``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .env import Env
from .flags import BrokerArgument, FactsFormat, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(env: Env, common: Common, url: BrokerArgument = None, output: FactsFormat = "auto") -> int:
    """See whether a BROKER answers and lets us in, and how long one round trip takes."""
    from ..operations import admin as op
    from .admin import broker, once
    from .showing import facts, json_line

    env.require_stdout()
    cls, target = broker(env, common, url)

    def tell(said: dict[str, Any]) -> None:
        show = json_line if output == "json" else facts
        show(env, {"broker": target.where, **said})

    return once(env, common, lambda: op.ping(cls, target), tell)
