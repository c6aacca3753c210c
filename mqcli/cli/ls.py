"""``mqcli ls``"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .env import Env
from .flags import BrokerArgument, FactsFormat, verb

if TYPE_CHECKING:
    from ..broker import Entry
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    url: BrokerArgument = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only destinations of this kind.")
    ] = None,
    output: FactsFormat = "auto",
) -> int:
    """Show the destinations of a BROKER, and how many messages each holds.

    The first column is what an address has behind the broker's URL and a slash.
    """
    from ..address import Address
    from ..errors import UsageError
    from ..operations import admin as op
    from ..options import nearest
    from ..registry import kinds
    from .admin import broker, once
    from .showing import json_line, table

    env.require_stdout()
    cls, target = broker(env, common, url)
    assert target.address.broker is not None
    known = kinds(target.address.broker.scheme)
    if kind is not None and kind not in known:
        guess = nearest(kind, known)
        raise UsageError(
            f"there is no kind {kind!r}",
            where=target.where,
            hint=f"did you mean {guess}?" if guess else f"the kinds are {', '.join(sorted(known))}",
        )

    def tell(entries: Sequence[Entry]) -> None:
        named = [
            (Address(e.name, e.kind if len(known) > 1 else None).destination, e) for e in entries
        ]
        if output == "json":
            for destination, e in named:
                line = {"destination": destination, "kind": e.kind, "name": e.name}
                counted = {} if e.messages is None else {"messages": e.messages}
                json_line(env, {**line, **counted, **e.detail})
        elif named:
            table(env, [(destination, e.messages, e.detail) for destination, e in named])
        else:
            env.say(f"mqcli: nothing is on {target.where}")

    return once(env, common, lambda: op.ls(cls, target, kind), tell)
