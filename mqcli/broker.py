"""A broker as a whole, for ``ls`` and ``ping``: what a plugin adds to its transports if it can."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from .transport import NoOptions, Target

__all__ = ["Broker", "Entry"]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of ``ls``. ``messages`` where the broker tells it cheaply."""

    kind: str
    name: str
    messages: int | None = None
    detail: dict[str, Any] = {}


class Broker(ABC):
    """A broker as a whole, for ``ping`` and ``ls``; ``target.address`` has an empty name."""

    Connection: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    async def open(self) -> None:
        """As ``Transport.open``."""

    @abstractmethod
    async def aclose(self) -> None: ...

    @abstractmethod
    async def ping(self) -> dict[str, Any]:
        """One round trip that needs a working login: what the broker says it is."""

    @abstractmethod
    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """The destinations that the broker can list, sorted by kind and name."""
