"""Further roles: what some brokers can do beside moving, showing and keeping messages.

Most transports need none of them. They follow the rules of ``mqcli.transport``: a class inherits
the roles that its broker really has, and what it lacks is refused before a socket opens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from .broker import Broker, Entry
from .message import Header
from .position import Start
from .transport import Feed, Publishes, Transport

__all__ = ["Binds", "Drops", "ListsGroups", "Seeks", "Transacts"]


class Binds(Transport):
    """Gets messages by being bound to a destination that routes (and keeps nothing itself)."""

    @abstractmethod
    async def bind(self, source: str, key: str, arguments: Sequence[Header], /) -> None:
        """Route from ``source``, a name on the same broker, to here; also done when it was bound
        so already. Raises NotFound when either is missing, Refused, Unsupported."""

    @abstractmethod
    async def unbind(self, source: str, key: str, arguments: Sequence[Header], /) -> None:
        """The opposite; also done when it was not bound so. Raises as ``bind``."""


class Drops(Feed):
    """A reading whose closing may reject for good what a failure left, where an option says so."""

    @abstractmethod
    def spare(self) -> None:
        """Nothing has failed: closing is to give back everything that is held."""


class Seeks(Transport):
    """A log on which the place of a group can be moved from outside."""

    @abstractmethod
    async def seek(self, group: str, start: Start, *, commit: bool) -> Sequence[dict[str, Any]]:
        """Where ``start`` is for the group: a row of plain values for each partition, with
        ``committed``, its place now (None: it has none), and ``to``, the new one, which is
        committed if asked, for a group that is new as well. Raises NotFound, UsageError, and
        Refused while the group has members, asked or not: a plan would be void."""


class Transacts(Publishes):
    """Can publish all or nothing."""

    @abstractmethod
    async def begin(self) -> None:
        """Called once, behind ``open`` and before the first ``publish``: nothing published from
        now on can be seen before ``commit``. Raises UsageError for options that do not go with a
        transaction, NotFound, AccessDenied, BrokerUnavailable."""

    @abstractmethod
    async def commit(self, timeout: float) -> None:
        """Return when all of it can be read. Raises ConnectionLost when its fate is unknown, any
        other BrokerUnavailable when it is committed but cannot be read yet, and other errors when
        it is undone."""

    @abstractmethod
    async def abort(self, timeout: float) -> None:
        """Nothing of it will ever be seen. Safe before anything was published, and twice. Raises
        BrokerUnavailable where the broker could not be told and will undo it by itself."""


class ListsGroups(Broker):
    """A broker that can list its groups by themselves: ``mqcli ls --groups``."""

    @abstractmethod
    async def groups(self) -> Sequence[Entry]:
        """All groups that we may see, of the kind ``group``, sorted by name."""
