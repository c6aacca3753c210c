"""``mqcli ping``"""

from __future__ import annotations

from typing import Any

from ..operations import admin as op
from .admin import BrokerArgument, broker, once
from .common import Common, verb
from .env import Env
from .showing import Format, facts, json_line


@verb
def main(env: Env, common: Common, url: BrokerArgument = None, output: Format = "auto") -> int:
    """See whether a BROKER answers and lets us in, and how long one round trip takes."""
    env.require_stdout()
    cls, target = broker(env, common, url)

    def tell(said: dict[str, Any]) -> None:
        show = json_line if output == "json" else facts
        show(env, {"broker": target.where, **said})

    return once(env, common, lambda: op.ping(cls, target), tell)
