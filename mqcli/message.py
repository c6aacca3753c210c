"""Messages as values, and their lossless JSON envelope.

A message is what a broker carries, byte for byte: nothing is added to it and nothing is
interpreted. The envelope (DESIGN section 3) is one line of JSON for one message; encoding and
decoding are exact inverses for ``key``, ``value``, ``headers`` and ``properties``.

Structs are made with ``gc=False`` because a message never refers back to itself: millions of
them then cost the garbage collector nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, overload

import msgspec

__all__ = [
    "Arrivals",
    "Header",
    "HeaderValue",
    "Headers",
    "Message",
    "Plain",
    "Properties",
    "Received",
    "Tagged",
    "contents",
]

HeaderTag: TypeAlias = Literal[
    "bytes", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64",
    "f32", "f64", "decimal", "time", "table", "list", "null",
]  # fmt: skip


class Tagged(msgspec.Struct, gc=False, frozen=True):
    """A header value of a type that Python and JSON have no own name for.

    ``v`` by tag: ``i8`` … ``u64`` an int; ``f32`` a float that is exact in 32 bits; ``decimal``
    its decimal text (``"12.50"`` keeps the scale); ``time`` whole seconds since 1970; ``table`` a
    tuple of (name, value) pairs; ``list`` a tuple of values; ``null`` None. The tag ``bytes``
    exists in the envelope only: in memory bytes are ``bytes``. Likewise ``i64`` is ``int`` and
    ``f64`` is ``float`` in memory; the tags exist for what JSON cannot write (NaN, infinity).
    """

    t: HeaderTag
    v: Any


HeaderValue: TypeAlias = str | bytes | bool | int | float | Tagged
"""``str`` is text, ``bytes`` what is not; ``int`` is signed 64-bit, ``float`` is 64-bit."""

Header: TypeAlias = tuple[str | bytes, HeaderValue]
"""A name and a value. The name is ``bytes`` only where it is not UTF-8."""

Headers: TypeAlias = tuple[Header, ...]
"""Ordered, repeats allowed."""

Properties: TypeAlias = dict[str, Any]
"""What a broker types apart from headers; the values are plain JSON (and ``bytes``)."""


class Message(msgspec.Struct, gc=False):
    """What is published: bytes, and what the broker carries beside them.

    ``value`` None is a tombstone. ``timestamp`` is a wish, in milliseconds since 1970: None, the
    default, lets the broker stamp. ``raw_fields`` says that ``headers`` hold the whole entry and
    ``value`` is only its rendering (a Redis stream entry without a value field): a broker that
    knows such entries recreates the fields, every other publishes value and headers.
    """

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    properties: Properties | None = None
    timestamp: int | None = None
    raw_fields: bool = False


class Plain(Sequence[Message]):
    """A batch of values alone, none a tombstone: no need to look at each message, nor to make it
    before somebody asks for it. ``values`` is not copied, and not to be changed."""

    __slots__ = ("values",)

    def __init__(self, values: list[bytes]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Plain: ...
    def __getitem__(self, index: int | slice) -> Message | Plain:
        if isinstance(index, slice):
            return Plain(self.values[index])
        return Message(self.values[index])

    def __iter__(self) -> Iterator[Message]:
        return map(Message, self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Received(Message, gc=False):
    """A message as it came from a broker, and where it came from.

    ``timestamp`` is the broker's own, in milliseconds, or None where it keeps none (never "now").
    ``source`` is the canonical, masked address of this very message, ``position`` its printable
    place there. ``redelivered`` is the broker's word that it was delivered before. ``extra`` holds
    further entries of the envelope's ``meta``. ``token`` is the driver's own, for acknowledging.
    """

    source: str = ""
    position: str = ""
    redelivered: bool = False
    extra: dict[str, Any] | None = None
    token: Any = None


class Arrivals(Sequence[Received]):
    """Received messages of which the values are at hand. The rest is made when somebody asks for
    messages, each time anew: who wants values alone (:func:`contents`) does not pay for it."""

    __slots__ = ("values",)

    def __init__(self, values: list[bytes | None]) -> None:
        self.values = values

    @abstractmethod
    def made(self) -> list[Received]:
        """All of them, whole."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Arrivals:
        """Those from ``start`` to before ``stop``, which lie within."""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Received]:
        return iter(self.made())

    @overload
    def __getitem__(self, index: int) -> Received: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Received]: ...
    def __getitem__(self, index: int | slice) -> Received | Sequence[Received]:
        if isinstance(index, int):
            at = range(len(self))[index]
            return self.part(at, at + 1).made()[0]
        start, stop, step = index.indices(len(self))
        return self.part(start, max(start, stop)) if step == 1 else self.made()[index]


def contents(batch: Sequence[Message]) -> list[bytes]:
    """The values of a batch; a tombstone's is empty."""
    if isinstance(batch, Plain):
        return batch.values
    if isinstance(batch, Arrivals):
        values = batch.values
        return [v or b"" for v in values] if None in values else values  # type: ignore[return-value]
    return [m.value or b"" for m in batch]
