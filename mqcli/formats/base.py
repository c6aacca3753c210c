"""What every format is: a decoder of input, an encoder of output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from ..errors import InputError
from ..message import Message, Received

__all__ = ["Decoder", "Encoder"]


class Decoder(ABC):
    """Cuts one stream of bytes, fed in pieces of any size, into messages.

    Where a record cannot be a message there are two ways. With ``on_bad`` it is told, left out,
    and reading goes on. Without, the call returns the messages before it (none is lost) and sets
    ``error``; the caller looks there after each call, and a further call raises it.
    """

    position: int = 0
    """The number, from 1, of the last record that was fully read; blank and bad ones count."""
    error: InputError | None = None
    """Why reading ended before its end. Set once, never with ``on_bad``."""

    def __init__(self, on_bad: Callable[[InputError], None] | None) -> None:
        self._on_bad = on_bad

    def feed(self, data: bytes) -> Sequence[Message]:
        """The messages that ``data`` completes, in order. Raises InputError after an error."""
        if self.error is not None:
            raise self.error
        return self._feed(data)

    def finish(self) -> Sequence[Message]:
        """The input has ended: what is left is a record too. Call once.
        Raises InputError after an error."""
        if self.error is not None:
            raise self.error
        return self._finish()

    @abstractmethod
    def _feed(self, data: bytes) -> Sequence[Message]: ...

    @abstractmethod
    def _finish(self) -> Sequence[Message]: ...

    def _bad(self, error: InputError) -> bool:
        """Whether reading goes on behind this bad record."""
        if self._on_bad is None:
            self.error = error
            return False
        self._on_bad(error)
        return True


class Encoder(ABC):
    """Makes messages into bytes for one output."""

    ending: bytes = b""
    """To be written behind each chunk."""

    @abstractmethod
    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        """Exactly one chunk for each message, in order: written one after another, each with
        ``ending`` behind it, they are the output. Content never makes it fail."""
