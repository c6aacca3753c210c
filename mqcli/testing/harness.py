"""What the author of a transport writes to have it tested: a broker, and its vendor's client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from ..client import Client
from ..message import Message
from ..session import Limits

__all__ = ["Harness"]


class Harness(ABC):
    """One kind of destination on a real broker, and another client beside ours.

    The *foreign* methods must not use mqcli: they are the other witness. They are called from a
    thread, may block, and raise AssertionError when the other client fails. A message of theirs
    has what that client can show or send; the suite asks only for what the traits promise.
    """

    options: ClassVar[Sequence[tuple[str, str]]] = ()
    """``-O`` for every client of the suite; subclass the harness for another set of them."""
    quick_claim: ClassVar[Sequence[tuple[str, str]]] = ()
    """``-O`` under which the broker soon (within five seconds) gives what a dead reader held to
    others. Needed where messages are acknowledged, unless the broker notices by itself."""

    @abstractmethod
    def fresh(self) -> str:
        """The ADDRESS of a destination that nobody has used: nothing is there."""

    @abstractmethod
    def unreachable(self) -> str:
        """An ADDRESS of this kind on a broker that is not there: ``open`` must fail."""

    @abstractmethod
    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        """Send in order, and return when the broker has them."""

    def foreign_read(self, address: str) -> list[Message]:
        """All that stands there, in order, taking nothing. Where messages are kept."""
        raise NotImplementedError("needed where the traits say that messages are kept")

    @contextmanager
    def foreign_listen(self, address: str) -> Iterator[Callable[[int], list[Message]]]:
        """Listening from here on; the callable waits for that many. Where nothing is kept."""
        raise NotImplementedError("needed where the traits say that nothing is kept")
        yield

    @abstractmethod
    def disrupt(self, address: str) -> bool:
        """Break the connections of our clients to this broker, and return when they are broken.
        False where there is no connection that could break (a file): nothing may be lost then."""

    def client(
        self, address: str, *options: tuple[str, str], limits: Limits | None = None
    ) -> Client:
        """Our client of ``address``; it opens nothing."""
        return Client.at(address, [*self.options, *options], limits)
