"""Messages for the eye: the view on a terminal, and the dump in hexadecimal.

Each message is a line about it and its value below. Everything that came from a broker is
escaped (:func:`escape`), and a value is indented, so that no content can pass for another line.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import msgspec

from ..message import HeaderValue, Received, Tagged
from .base import Encoder
from .escaping import escape
from .rfc3339 import format_ms
from .tagged import plain_to_json, value_to_json

__all__ = ["HexEncoder", "TerminalEncoder", "escape", "headline"]

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_INDENT = "  "
# Beyond this a value is shown as it is: nobody reads it, and it should not be held twice.
_MAX_PRETTY = 1 << 16


def _word(text: str | bytes) -> str:
    """``text`` as one word: quoted where its end, or what it is, would not be clear."""
    shown = escape(text)
    if not shown or any(char in shown for char in ' "=') or not shown.strip():
        return '"' + shown.replace('"', '\\"') + '"'
    return shown


def _header_word(value: HeaderValue) -> str:
    match value:
        case str() | bytes():
            return _word(value)
        case Tagged(t="time", v=seconds):
            shown = format_ms(seconds * 1000)
            return str(seconds) if isinstance(shown, int) else shown.replace(".000Z", "Z")
        case Tagged(t="table" | "list" | "null"):
            return escape(msgspec.json.encode(value_to_json(value)))
        case Tagged():
            return _word(str(value.v))
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)


def headline(message: Received) -> str:
    """One line about ``message``: time, source, position, key, headers, properties, state."""
    parts = [] if message.timestamp is None else [str(format_ms(message.timestamp))]
    parts += [escape(part) for part in (message.source, message.position) if part]
    if message.key is not None:
        parts.append(f"key {_word(message.key)}")
    parts += [f"{_word(name)}={_header_word(value)}" for name, value in message.headers]
    for name, value in (message.properties or {}).items():
        shown = msgspec.json.encode(plain_to_json(value))
        parts.append(f"{_word(name)}: {escape(shown)}")
    if message.redelivered:
        parts.append("redelivered")
    if message.value is None:
        parts.append("tombstone")
    elif not message.value:
        parts.append("empty")
    return "  ".join(parts)


def _pretty(value: bytes) -> bytes:
    """A JSON object or array over several lines, its numbers and strings as written."""
    if len(value) <= _MAX_PRETTY and value.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        try:
            return msgspec.json.format(value, indent=2)
        except (msgspec.DecodeError, RecursionError):
            pass
    return value


class _Viewed(Encoder):
    def __init__(self, colour: bool) -> None:
        self._before, self._after = (_DIM, _PLAIN) if colour else ("", "")

    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        return [
            f"{self._before}{headline(message)}{self._after}\n{self._body(message.value)}".encode()
            for message in messages
        ]

    @abstractmethod
    def _body(self, value: bytes | None) -> str:
        """The lines below the first, each with its newline."""


class TerminalEncoder(_Viewed):
    """The line about a message, then its value, each line indented.

    A JSON object or array that does not fit into one line of ``width`` columns, or came in
    several, is laid out. ``colour`` dims the first line.
    """

    def __init__(self, colour: bool = False, width: int = 80) -> None:
        super().__init__(colour)
        self._room = width - len(_INDENT)

    def _body(self, value: bytes | None) -> str:
        if not value:
            return ""
        if len(value) > self._room or b"\n" in value:
            value = _pretty(value)
        shown = escape(value, keep_newlines=True).replace("\n", "\n" + _INDENT)
        return f"{_INDENT}{shown}\n"


class HexEncoder(_Viewed):
    """The line about a message, then its value as ``hexdump -C`` prints it, up to the length."""

    def _body(self, value: bytes | None) -> str:
        if value is None:
            return ""
        lines = []
        for start in range(0, len(value), 16):
            row = value[start : start + 16]
            left, right = row[:8].hex(" "), row[8:].hex(" ")
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            lines.append(f"{start:08x}  {left:<23}  {right:<23}  |{text}|\n")
        lines.append(f"{len(value):08x}\n")
        return "".join(lines)
