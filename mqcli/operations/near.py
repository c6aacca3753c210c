"""What a name that does not exist was probably meant to be."""

from __future__ import annotations

import asyncio

import msgspec

from ..address import Address
from ..client import Client
from ..errors import MqcliError, NotFound
from ..options import nearest
from ..registry import load_broker

__all__ = ["point_out"]

_SECONDS = 2.0
_SAID = "did you mean"


async def point_out(client: Client, error: MqcliError | None) -> None:
    """Add the nearest name to the hint of a NotFound, if there is one, where the broker lists its
    destinations soon. Only where a destination is made on purpose: elsewhere there may be millions
    of names, and none of them is a list of what there could be."""
    address = client.target.address
    if (
        not isinstance(error, NotFound)
        or error.where != client.where
        or _SAID in error.hint
        or client.traits().missing != "refused"
        or address.broker is None
    ):
        return
    try:
        cls = load_broker(address.broker)
        if cls.Connection is not client.cls.Connection:
            return
        target = msgspec.structs.replace(
            client.target, address=Address("", broker=address.broker), options=None
        )
        broker = cls(target)
        async with asyncio.timeout(_SECONDS):
            try:
                await broker.open()
                names = [entry.name for entry in await broker.ls(address.kind)]
            finally:
                await broker.aclose()
    except (MqcliError, TimeoutError):
        return
    guess = None if address.name in names else nearest(address.name, names)
    if guess is not None:
        meant = f"{_SAID} {address.with_name(guess).destination}?"
        error.hint = f"{meant} {error.hint}".rstrip()
