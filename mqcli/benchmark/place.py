"""The destination of a run: made for it and removed after it, or somebody's, and left as it is."""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from ..client import Client
from ..errors import MqcliError, NotFound, Unsupported
from ..transport import Manages
from .plan import Where

__all__ = ["Place", "named"]


def named(client: Client, where: Where, name: str) -> Where:
    """``where`` with another destination, on the same broker and with the same parameters."""
    address = replace(client.target.address, name=name)
    return replace(where, address=address.text(masked=False))


class Place:
    """``async with`` creates what must be created, and removes what was made unless ``keep``."""

    def __init__(self, where: Where, *, own: bool, keep: bool) -> None:
        self.where = where
        self._client = where.client()
        self._own, self._keep = own, keep
        self.left: MqcliError | None = None
        """Why it could not be removed."""

    async def __aenter__(self) -> Place:
        if self._own and self._client.traits().missing != "undetectable":
            with contextlib.suppress(Unsupported):  # what cannot be made comes by itself
                await self._client.create()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._own or self._keep or not self._client.supports(Manages):
            return
        try:
            await self._client.once(Manages, lambda transport: transport.delete())
        except (NotFound, Unsupported):  # gone, or nothing that could be removed
            pass
        except MqcliError as exc:  # what was measured is worth more than this
            self.left = exc
