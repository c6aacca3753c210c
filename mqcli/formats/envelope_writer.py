"""Messages to JSON envelopes, one on each line. The format is described in docs/envelope.md.

The envelope is put together from pieces because that is faster than a struct for each message:
most pieces are the same from message to message, and only texts need an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..message import Headers, Received
from .base import Encoder
from .escaping import escape_json
from .rfc3339 import FIRST_MS, LAST_MS, format_ms, format_second
from .tagged import base64_text, headers_to_json, plain_to_json, properties_to_json

__all__ = ["EnvelopeEncoder", "encode_gap", "encode_line"]

_json = msgspec.json.Encoder().encode
_MAX_SOURCES = 1024
_VALUE = b'{"value":'
_POSITION = b',"position":'
_AGAIN = b',"redelivered":true}}\n'
_FIRST = b',"redelivered":false}}\n'
_META = frozenset({"source", "position", "timestamp", "redelivered", "raw_fields"})


def encode_line(value: Any) -> bytes:
    """``value`` as one line of JSON that cannot drive a terminal."""
    return escape_json([_json(value) + b"\n"])[0]


def encode_gap(gap: msgspec.Struct) -> bytes:
    """A line ``{"gap": {…}}`` with the fields of ``gap`` that are known.

    A field in milliseconds, ``…_ms``, is written as a time, under its name without the ending.
    """
    fields: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(gap).items():
        if value is None:
            continue
        if name.endswith("_ms"):
            fields[name[:-3]] = format_ms(value)
        else:
            fields[name] = value
    return encode_line({"gap": fields})


def _embeddable(value: bytes) -> bytes | None:
    """The compact JSON of a value that is a JSON object or array; None for any other.

    Compact, because a newline in it would end the line; its numbers and strings stay as written.
    """
    if value.lstrip(b" \t\r\n")[:1] not in (b"{", b"["):
        return None
    try:
        value.decode()
        return msgspec.json.format(value, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class EnvelopeEncoder(Encoder):
    """One line of JSON for each message, ended by a newline.

    With ``embed_json`` a value that is a JSON object or array is written as such: easier to work
    on, but no longer the same bytes when it is published again (spaces between tokens are gone).
    """

    def __init__(self, embed_json: bool = False) -> None:
        self._embed_json = embed_json
        self._sources: dict[str, bytes] = {}
        self._millis = [b'.%03dZ"' % ms for ms in range(1000)]
        self._base, self._second_json = self._second(0)

    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        sources, embed, millis = self._sources, self._embed_json, self._millis
        base, second_json = self._base, self._second_json
        chunks: list[bytes] = []
        add = chunks.append
        for message in messages:
            value, key, timestamp = message.value, message.key, message.timestamp
            headers = message.headers
            try:
                if (
                    value is None
                    or embed
                    or message.properties
                    or message.extra
                    or message.raw_fields
                ):
                    add(self._any(message))
                    continue
                source = sources.get(message.source) or self._source_json(message.source)
                if position := message.position:
                    place = _json(position)
                else:
                    source, place = source[: -len(_POSITION)], b""
                if timestamp is None:
                    start = milli = b""
                else:
                    # One subtraction for most: division of such numbers costs much more.
                    if not 0 <= (after := timestamp - base) < 1000:
                        if not FIRST_MS <= timestamp <= LAST_MS:
                            add(self._any(message))
                            continue
                        base, second_json = self._second(timestamp)
                        after = timestamp - base
                    start, milli = second_json, millis[after]
                add(
                    b"".join(
                        (
                            _VALUE if key is None else b'{"key":%b,"value":' % _json(key.decode()),
                            _json(value.decode()),
                            _headers_json(headers) if headers else b"",
                            source,
                            place,
                            start,
                            milli,
                            _AGAIN if message.redelivered else _FIRST,
                        )
                    )
                )
            except UnicodeDecodeError:
                add(self._any(message))
        self._base, self._second_json = base, second_json
        return escape_json(chunks)

    def _source_json(self, source: str) -> bytes:
        if len(self._sources) >= _MAX_SOURCES:
            self._sources.clear()
        made = b',"meta":{"source":%b%b' % (_json(source), _POSITION)
        self._sources[source] = made
        return made

    def _second(self, ms: int) -> tuple[int, bytes]:
        """The millisecond where the second of ``ms`` begins, and the beginning of its JSON."""
        second = ms // 1000
        return second * 1000, b',"timestamp":"' + format_second(second).encode()

    def _any(self, message: Received) -> bytes:
        """The envelope of any message whatever."""
        parts = [b"{"]
        if message.key is not None:
            parts += (_bytes_json("key", message.key), b",")
        value = message.value
        if value is None:
            parts.append(b'"value":null')
        elif self._embed_json and (embedded := _embeddable(value)) is not None:
            parts += (b'"value":', embedded)
        else:
            parts.append(_bytes_json("value", value))
        if message.headers:
            parts.append(_headers_json(message.headers))
        if message.properties:
            parts += (b',"properties":', _json(properties_to_json(message.properties)))
        parts += (b',"meta":{"source":', _json(message.source))
        if message.position:
            parts += (_POSITION, _json(message.position))
        if message.timestamp is not None:
            parts += (b',"timestamp":', _json(format_ms(message.timestamp)))
        parts.append(b',"redelivered":true' if message.redelivered else b',"redelivered":false')
        if message.raw_fields:
            parts.append(b',"raw_fields":true')
        for name, value in (message.extra or {}).items():
            if name not in _META:
                parts += (b",", _json(name), b":", _json(plain_to_json(value)))
        parts.append(b"}}\n")
        return b"".join(parts)


def _bytes_json(name: str, data: bytes) -> bytes:
    try:
        return b'"%b":%b' % (name.encode(), _json(data.decode()))
    except UnicodeDecodeError:
        return b'"%b_base64":"%b"' % (name.encode(), base64_text(data).encode())


def _headers_json(headers: Headers) -> bytes:
    for name, value in headers:
        if name.__class__ is not str or value.__class__ is not str:
            return b',"headers":' + _json(headers_to_json(headers))
    return b',"headers":' + _json(headers)
