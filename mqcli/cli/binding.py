"""What bind and unbind share."""

from __future__ import annotations

from functools import partial

from ..client import Client
from ..errors import Unsupported, UsageError
from ..roles import Binds
from ..transport import Publishes
from .admin import once
from .common import Common
from .env import Env
from .flags import BindingFlags
from .shell import shown

__all__ = ["change"]


def change(
    env: Env, common: Common, address: str, destination: str, flags: BindingFlags, *, bound: bool
) -> int:
    """Bind or unbind; the exit code. Raises UsageError."""
    from ..operations import admin as op
    from .headers import parse_headers

    source, client = _ends(env, common, address, destination)
    key, arguments = flags.key or "", parse_headers(flags.header or ())
    name = source.target.address.name
    action = partial(op.bind if bound else op.unbind, client, name, key, arguments)

    def tell(_: None) -> None:
        state = "is bound to" if bound else "is not bound to"
        headers = f" and {len(arguments)} headers" if arguments else ""
        text = f"{client.where} {state} {source.where} with the key {key!r}{headers}"
        env.say(f"mqcli: {shown(text)}")

    return once(env, common, action, tell)


def _ends(env: Env, common: Common, address: str, destination: str) -> tuple[Client, Client]:
    """The source and the destination. Raises UsageError for what cannot be bound."""
    from ..address import parse_destination
    from ..registry import target

    if "://" in destination or destination.startswith("@"):
        raise UsageError(
            f"the destination of a binding is on the broker of {address.partition('?')[0]}",
            hint="write its kind and name alone, as in queue:jobs",
        )
    source = common.client(env, address)
    kind, name = parse_destination(destination)
    beside = source.target.address
    whole = type(beside)(name, kind, beside.broker)
    client = Client(
        *target(
            whole,
            common.options,
            connect_timeout=common.connect_timeout,
            insecure=common.insecure,
            client_name=common.client_name,
        )
    )
    client.make(Binds)
    routes = source.supports(Publishes) and source.traits().keeps == "nothing"
    if not routes:
        raise Unsupported(
            f"a {source.target.address.kind} keeps its messages, so it routes them nowhere",
            where=source.where,
            hint="the exchange comes first: mqcli bind amqp://HOST/exchange:NAME queue:NAME",
        )
    return source, client
