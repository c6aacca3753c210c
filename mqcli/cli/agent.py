"""``mqcli agent``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .env import Env
from .flags import AddressArgument, verb

if TYPE_CHECKING:
    from ..operations.stop import Stop
    from .common import Common


@verb
def main(env: Env, common: Common, address: AddressArgument) -> int:
    """Make load for mqcli benchmark --agents N ADDRESS, which runs elsewhere and leads.

    Started on each machine with the same ADDRESS and -O, before or after the benchmark, it ends
    when that does. They meet through the broker alone.
    """
    from ..benchmark.plan import Where
    from ..errors import ExitCode
    from ..operations.agent import agent
    from .running import run

    (found,) = common.addresses(env, [address])
    where = Where(
        found.text(masked=False),
        common.options,
        common.connect_timeout,
        common.insecure,
        common.client_name,
    )
    where.client()  # refuses what is wrong with the address before anything is opened

    async def work(stop: Stop) -> int:
        runs = await agent(where, stop, lambda text: env.say(f"mqcli: {text}"))
        env.detail(f"mqcli: took part in {runs} runs")
        if stop.reason is not None and stop.reason is not ExitCode.OK:
            return stop.reason
        return ExitCode.OK

    return run(env, common.timeout, work, bulk=True)
