"""``mqcli tail``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .env import Env
from .flags import AddressesArgument, ReadingFlags, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    addresses: AddressesArgument,
    reading: ReadingFlags,
    bind: Annotated[
        list[str] | None,
        typer.Option("--bind", metavar="PATTERN", help="What to watch of an exchange; repeatable."),
    ] = None,
) -> int:
    """Watch one or more ADDRESSes, from now on, and take nothing from anyone.

    What several of them see is merged in one view, as it arrives.
    """
    from . import reading as r

    wanted = r.understand(env, reading)
    env.require_stdout()
    clients = common.clients(env, addresses, wanted.limits)
    if bind:
        clients = [
            client.with_options("--bind", bind=(*getattr(client.target.options, "bind", ()), *bind))
            for client in clients
        ]
    clients = [r.adapted(client, reading) for client in clients]
    # What one reader alone may fetch is bounded; of several nobody knows who will deliver.
    limit = wanted.until.count if len(clients) == 1 else None
    readers = [client.tail(wanted.span, limit, wanted.on_gap) for client in clients]
    return r.deliver(env, common.timeout, reading, wanted, clients, readers)
