"""AMQP 0-9-1 on the wire: field tables, basic properties, frames, both ways.

Our own codec because the driver's is not exact: it writes a double as 32-bit, the smallest integer
that fits, refuses bytes, and dies of a timestamp behind the year 9999. Here a header that was read
is written again with the same bytes.

Types are those of RabbitMQ (https://www.rabbitmq.com/amqp-0-9-1-errata.html#section_3)::

    S str   x bytes   t bool   l int   d float   b i8   B u8   s i16   u u16   I i32   i u32
    L u64   f f32   D decimal   T time   F table   A list   V null

A text that is not UTF-8 is read as ``bytes``, which is written as ``x``: the one loss.

What RabbitMQ answers by closing the channel, or the whole connection, is not written at all: with
it would go what others have published before.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from ..message import Header, Headers, HeaderValue, Properties, Tagged

__all__ = [
    "FRAME_END",
    "PROPERTY_NAMES",
    "Content",
    "decode_content",
    "decode_table",
    "encode_properties",
    "encode_table",
    "method_frame",
    "read_short",
    "short",
]

FRAME_END = b"\xce"
METHOD, HEADER, BODY = 1, 2, 3
CONTENT = Struct(">HHQ")  # class, weight, body size: the beginning of a content header's payload
FRAME = Struct(">BHI")

_MAX_DEPTH = 32
_DECIMAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?", re.ASCII)

_NUMBERS: dict[str, tuple[bytes, Struct]] = {
    "i8": (b"b", Struct(">b")), "u8": (b"B", Struct(">B")),
    "i16": (b"s", Struct(">h")), "u16": (b"u", Struct(">H")),
    "i32": (b"I", Struct(">i")), "u32": (b"i", Struct(">I")),
    "i64": (b"l", Struct(">q")), "u64": (b"L", Struct(">Q")),
    "f32": (b"f", Struct(">f")), "f64": (b"d", Struct(">d")),
    "time": (b"T", Struct(">Q")),
}  # fmt: skip
_BY_CODE = {code[0]: (tag, number) for tag, (code, number) in _NUMBERS.items()}
_LONG, _DOUBLE = Struct(">q"), Struct(">d")
_SIZE = Struct(">I")
_SCALED = Struct(">Bi")


class Content(NamedTuple):
    """The decoded properties of a message: ``timestamp`` is in milliseconds."""

    headers: Headers
    properties: Properties | None
    timestamp: int | None


def short(text: str | bytes, what: str) -> bytes:
    """A short string with its length. Raises ValueError when it has more than 255 bytes."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if len(raw) > 255:
        raise ValueError(f"{what} has {len(raw)} bytes, at most 255 are possible")
    return bytes((len(raw),)) + raw


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def read_short(data: bytes, at: int) -> tuple[bytes, int]:
    """The short string at ``at``, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end], end


# --- field tables ---------------------------------------------------------------------------------


def encode_table(headers: Iterable[tuple[str | bytes, Any]]) -> bytes:
    """A field table with its length. Raises ValueError for what no table can hold."""
    body = b"".join(
        [short(name, f"the name of header {name!r}") + _encode(value, 0) for name, value in headers]
    )
    return _SIZE.pack(len(body)) + body


def _encode(value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
        return b"S" + _SIZE.pack(len(raw)) + raw
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return _number("i64", value)
    if isinstance(value, float):
        return b"d" + _DOUBLE.pack(_finite(value))
    if isinstance(value, bytes):
        return b"x" + _SIZE.pack(len(value)) + value
    if isinstance(value, Tagged):
        return _encode_tagged(value, depth)
    raise ValueError(f"a header of type {type(value).__name__} cannot be carried")


def _number(tag: str, value: Any) -> bytes:
    code, number = _NUMBERS[tag]
    if isinstance(value, float):
        _finite(value)
    try:
        return code + number.pack(value)
    except (struct.error, OverflowError) as exc:
        raise ValueError(f"{value!r} does not fit into {tag}") from exc


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be carried: RabbitMQ has finite numbers only")
    return value


def _encode_tagged(value: Tagged, depth: int) -> bytes:
    if depth > _MAX_DEPTH:
        raise ValueError(f"headers are nested deeper than {_MAX_DEPTH}")
    inner = value.v
    if value.t in _NUMBERS:
        return _number(value.t, inner)
    match value.t:
        case "null":
            return b"V"
        case "bytes":
            return b"x" + _SIZE.pack(len(inner)) + bytes(inner)
        case "decimal":
            return b"D" + _decimal(str(inner))
        case "table":
            body = b"".join([short(n, "a name") + _encode(v, depth + 1) for n, v in inner])
            return b"F" + _SIZE.pack(len(body)) + body
        case "list":
            body = b"".join([_encode(item, depth + 1) for item in inner])
            return b"A" + _SIZE.pack(len(body)) + body
    raise ValueError(f"a header of type {value.t} cannot be carried")


def _decimal(text: str) -> bytes:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a decimal number")
    fraction = match[3] or ""
    unscaled = int(match[1] + match[2] + fraction)
    if len(fraction) > 255 or not -(2**31) <= unscaled < 2**31:
        raise ValueError(f"{text} does not fit into a decimal (32 bits and a scale up to 255)")
    return _SCALED.pack(len(fraction), unscaled)


def decode_table(data: bytes, at: int = 0) -> tuple[Headers, int]:
    """The field table at ``at``, and where it ends. Raises ValueError when it is damaged."""
    try:
        end = at + 4 + int(_SIZE.unpack_from(data, at)[0])
        if end > len(data):
            raise ValueError("a field table is longer than its frame")
        return _pairs(data, at + 4, end, 0), end
    except (struct.error, IndexError) as exc:
        raise ValueError("a field table is damaged") from exc


def _pairs(data: bytes, at: int, end: int, depth: int) -> Headers:
    pairs: list[Header] = []
    while at < end:
        name, at = read_short(data, at)
        value, at = _decode(data, at, depth)
        pairs.append((_text(name), value))
    if at != end:
        raise ValueError("a field table is damaged")
    return tuple(pairs)


def _decode(data: bytes, at: int, depth: int) -> tuple[HeaderValue, int]:
    code = data[at]
    at += 1
    match code:
        case 0x53 | 0x78:  # S, x
            start = at + 4
            end = start + int(_SIZE.unpack_from(data, at)[0])
            raw = data[start:end]
            if len(raw) != end - start:
                raise ValueError("a header is longer than its table")
            return (_text(raw) if code == 0x53 else raw), end
        case 0x6C:  # l
            return _LONG.unpack_from(data, at)[0], at + 8
        case 0x74:  # t
            return data[at] != 0, at + 1
        case 0x64:  # d
            return _DOUBLE.unpack_from(data, at)[0], at + 8
        case 0x56:  # V
            return Tagged("null", None), at
        case 0x44:  # D
            scale, unscaled = _SCALED.unpack_from(data, at)
            return Tagged("decimal", _decimal_text(scale, unscaled)), at + 5
        case 0x46 | 0x41:  # F, A
            if depth >= _MAX_DEPTH:
                raise ValueError(f"headers are nested deeper than {_MAX_DEPTH}")
            start = at + 4
            end = start + int(_SIZE.unpack_from(data, at)[0])
            if end > len(data):
                raise ValueError("a header is longer than its frame")
            if code == 0x46:
                return Tagged("table", _pairs(data, start, end, depth + 1)), end
            items = []
            while start < end:
                item, start = _decode(data, start, depth + 1)
                items.append(item)
            return Tagged("list", tuple(items)), end
    if code in _BY_CODE:
        tag, number = _BY_CODE[code]
        return Tagged(tag, number.unpack_from(data, at)[0]), at + number.size  # type: ignore[arg-type]
    raise ValueError(f"a header has the unknown type {chr(code)!r}")


def _decimal_text(scale: int, unscaled: int) -> str:
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    sign = "-" if unscaled < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else f"{sign}{digits}"


# --- basic properties -----------------------------------------------------------------------------

_HEADERS_BIT = 1 << 13
_TEXTS = (
    ("content_type", 1 << 15), ("content_encoding", 1 << 14),
    ("correlation_id", 1 << 10), ("reply_to", 1 << 9), ("expiration", 1 << 8),
    ("message_id", 1 << 7), ("type", 1 << 5), ("user_id", 1 << 4), ("app_id", 1 << 3),
    ("cluster_id", 1 << 2),
)  # fmt: skip
# The order on the wire is from the highest bit to the lowest.
_FIELDS: tuple[tuple[int, str], ...] = tuple(
    sorted(
        [
            *((bit, name) for name, bit in _TEXTS),
            (_HEADERS_BIT, "headers"),
            (1 << 12, "delivery_mode"),
            (1 << 11, "priority"),
            (1 << 6, "timestamp"),
        ],
        reverse=True,
    )
)
PROPERTY_NAMES = frozenset(name for _, name in _FIELDS) - {"headers"}
_MAX_EXPIRATION = 2**32 - 1


def encode_properties(headers: Headers, properties: Properties) -> bytes:
    """Flags and values, as they stand behind the body size in a content header.

    Raises ValueError, in words for the user, for a value that the property cannot have.
    """
    flags = 0
    parts: list[bytes] = []
    for bit, name in _FIELDS:
        if bit == _HEADERS_BIT:
            if headers:
                _check_copies(headers)
                flags |= bit
                parts.append(encode_table(headers))
            continue
        value = properties.get(name)
        if value is None:
            continue
        flags |= bit
        parts.append(_property(name, value))
    return flags.to_bytes(2, "big") + b"".join(parts)


def _property(name: str, value: Any) -> bytes:
    if name == "delivery_mode" and value not in (1, 2):
        raise ValueError(f"the property delivery_mode is 1 or 2 (persistent), not {value!r}")
    if name in ("delivery_mode", "priority"):
        return _integer(name, value, 255).to_bytes(1, "big")
    if name == "timestamp":
        return _integer(name, value, 2**64 - 1).to_bytes(8, "big")
    if name == "expiration":
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        ascii_digits = isinstance(value, str) and value.isascii() and value.isdigit()
        if not ascii_digits or int(value) > _MAX_EXPIRATION:
            raise ValueError(f"the property expiration is milliseconds as digits, not {value!r}")
    if not isinstance(value, str | bytes):
        raise ValueError(f"the property {name} is text, not {value!r}")
    if name == "reply_to" and value == "amq.rabbitmq.reply-to":
        raise ValueError(f"the property {name} {value} is for who reads the replies on one channel")
    return short(value, f"the property {name}")


def _check_copies(headers: Headers) -> None:
    """https://www.rabbitmq.com/docs/sender-selected"""
    for name, value in headers:
        if name in ("CC", "BCC") and not (isinstance(value, Tagged) and value.t == "list"):
            raise ValueError(f"the header {name} is a list of routing keys, not {value!r}")


def _integer(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"the property {name} is an integer from 0 to {most}, not {value!r}")
    return value


def decode_content(data: bytes) -> Content:
    """What :func:`encode_properties` made. Raises ValueError when it is damaged."""
    try:
        flags = int.from_bytes(data[:2], "big")
        at = 2
        headers: Headers = ()
        properties: Properties = {}
        timestamp = None
        for bit, name in _FIELDS:
            if not flags & bit:
                continue
            if bit == _HEADERS_BIT:
                headers, at = decode_table(data, at)
            elif name in ("delivery_mode", "priority"):
                properties[name] = data[at]
                at += 1
            elif name == "timestamp":
                seconds = int.from_bytes(data[at : at + 8], "big")
                properties[name] = seconds
                timestamp = seconds * 1000
                at += 8
            else:
                raw, at = read_short(data, at)
                properties[name] = _text(raw)
    except IndexError as exc:
        raise ValueError("the properties of a message are damaged") from exc
    return Content(headers, properties or None, timestamp)


# --- frames ---------------------------------------------------------------------------------------


def method_frame(channel: int, class_id: int, method_id: int, arguments: bytes) -> bytes:
    """A whole method frame."""
    return (
        FRAME.pack(METHOD, channel, 4 + len(arguments))
        + class_id.to_bytes(2, "big")
        + method_id.to_bytes(2, "big")
        + arguments
        + FRAME_END
    )


class Marshaller:
    """Messages as publish frames for one channel, exchange and set of default properties.

    Parts are made once for what repeats: all messages of the same length without properties of
    their own cost one look-up each.
    """

    def __init__(
        self, channel: int, exchange: bytes, frame_max: int, mandatory: bool,
        prepare: Callable[[Headers, Properties], bytes],
    ) -> None:  # fmt: skip
        self._channel = channel
        self._exchange = short(exchange, "the exchange's name")
        self.body_max = (frame_max or 1 << 31) - 8
        self._tail = b"\x01" if mandatory else b"\x00"
        self._prepare = prepare
        self._publish: dict[bytes, bytes] = {}
        self._plain: dict[bytes, dict[int, bytes]] = {}
        self._default = prepare((), {})

    def for_channel(self, channel: int) -> None:
        self._channel = channel
        self._publish.clear()
        self._plain.clear()

    def method(self, routing_key: bytes) -> bytes:
        """The basic.publish frame. Raises ValueError for a routing key over 255 bytes."""
        found = self._publish.get(routing_key)
        if found is None:
            arguments = b"\0\0" + self._exchange + short(routing_key, "the routing key")
            found = method_frame(self._channel, 60, 40, arguments + self._tail)
            if len(self._publish) > 1000:
                self._publish.clear()
            self._publish[routing_key] = found
        return found

    def properties(self, headers: Headers, properties: Properties | None) -> bytes:
        """The wire form. Raises ValueError for what does not fit, a frame included."""
        if not headers and not properties:
            return self._default
        made = self._prepare(headers, properties or {})
        if len(made) + 12 > self.body_max:
            raise ValueError(
                f"headers and properties have {len(made)} bytes, and have to fit into a frame of"
                f" {self.body_max}"
            )
        return made

    def plain(self, values: Sequence[bytes], routing_key: bytes) -> bytes:
        """Values without anything else of their own, none longer than ``body_max``."""
        heads = self._plain.get(routing_key)
        if heads is None or len(heads) > 5000:
            if len(self._plain) > 100:
                self._plain.clear()
            heads = self._plain[routing_key] = {}
        frames: list[bytes] = []
        extend = frames.extend
        for value in values:
            size = len(value)
            head = heads.get(size)
            if head is None:
                head = heads[size] = self._head(size, routing_key, self._default)
            extend((head, value, FRAME_END) if size else (head,))
        return b"".join(frames)

    def message(self, value: bytes, routing_key: bytes, properties: bytes) -> bytes:
        """One message of any size."""
        size = len(value)
        most = self.body_max
        if size <= most:
            head = self._head(size, routing_key, properties)
            return head + value + FRAME_END if size else head
        frames = [self._head(0, routing_key, properties, size)]
        for at in range(0, size, most):
            piece = value[at : at + most]
            frames += (FRAME.pack(BODY, self._channel, len(piece)), piece, FRAME_END)
        return b"".join(frames)

    def _head(self, size: int, routing_key: bytes, properties: bytes, total: int = 0) -> bytes:
        """All before the body; with a body of one frame also that frame's beginning."""
        head = (
            self.method(routing_key)
            + FRAME.pack(HEADER, self._channel, 12 + len(properties))
            + CONTENT.pack(60, 0, total or size)
            + properties
            + FRAME_END
        )
        return head + FRAME.pack(BODY, self._channel, size) if size else head
