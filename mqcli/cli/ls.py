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
    groups: Annotated[bool, typer.Option("--groups", help="The groups of consumers.")] = False,
    output: FactsFormat = "auto",
) -> int:
    """Show the destinations of a BROKER, and how many messages each holds.

    The first column is what an address has behind the broker's URL and a slash.
    """
    from ..address import Address
    from ..errors import Unsupported, UsageError
    from ..operations import admin as op
    from ..options import nearest
    from ..registry import kinds
    from ..roles import ListsGroups
    from .admin import broker, once
    from .showing import json_line, table

    env.require_stdout()
    cls, target = broker(env, common, url)
    assert target.address.broker is not None
    known = kinds(target.address.broker.scheme)
    if groups:
        if kind is not None:
            raise UsageError("--kind is for destinations, and --groups lists none")
        if not issubclass(cls, ListsGroups):
            raise Unsupported(
                "groups cannot be listed here by themselves",
                where=target.where,
                hint="describe ADDRESS shows those of a destination that has any",
            )
    if kind is not None and kind not in known:
        guess = nearest(kind, known)
        raise UsageError(
            f"there is no kind {kind!r}",
            where=target.where,
            hint=f"did you mean {guess}?" if guess else f"the kinds are {', '.join(sorted(known))}",
        )

    def told(entries: Sequence[Entry]) -> None:
        if output == "json":
            for e in entries:
                json_line(env, {"group": e.name, **e.detail})
        elif entries:
            table(env, [(e.name, e.detail) for e in entries])
        else:
            env.say(f"mqcli: no groups are on {target.where}")

    if groups:
        return once(env, common, lambda: op.groups(cls, target), told)

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
