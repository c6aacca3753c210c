"""Values without an envelope: records between delimiters, or all of the input as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..errors import InputError, UsageError
from ..message import Message, Plain, Received, contents
from .base import Decoder, Encoder

__all__ = ["Delimited", "Splitter", "ValueEncoder", "Whole", "parse_delimiter"]

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"0": b"\0", b"\\": b"\\"}


def parse_delimiter(text: str) -> bytes:
    r"""The bytes of a delimiter as typed: UTF-8, with ``\t \n \r \0 \\ \xNN`` understood.

    Raises UsageError for an empty one and for any other escape.
    """

    def unescape(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if len(code) == 3:
            return bytes([int(code[1:], 16)])
        if code not in _ESCAPES:
            raise UsageError(
                f"the delimiter {text!r} has an escape that is not known",
                hint=r"known are \t \n \r \0 \xNN and \\",
            )
        return _ESCAPES[code]

    if not text:
        raise UsageError(
            "the delimiter is empty", hint=r"give one or more characters, or \0 for NUL"
        )
    return _ESCAPE.sub(unescape, text.encode("utf-8", "surrogateescape"))


class Splitter:
    """Cuts a stream at a delimiter, as ``bytes.split`` would cut the whole of it.

    The cost is linear however long a record is and however small the pieces are.
    """

    def __init__(self, delimiter: bytes) -> None:
        assert delimiter
        self._delimiter = delimiter
        self._overlap = len(delimiter) - 1
        self._pieces: list[bytes] = []
        # The end of what is pending, that may be the beginning of a delimiter.
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The records that ``data`` completes, without their delimiters."""
        if self._tail:
            data = self._tail + data
        records = data.split(self._delimiter)
        rest = records.pop()
        if records and self._pieces:
            self._pieces.append(records[0])
            records[0] = b"".join(self._pieces)
            self._pieces = []
        if self._overlap:
            cut = max(len(rest) - self._overlap, 0)
            rest, self._tail = rest[:cut], rest[cut:]
        if rest:
            self._pieces.append(rest)
        return records

    def finish(self) -> bytes:
        """What stands behind the last delimiter."""
        rest = b"".join([*self._pieces, self._tail])
        self._pieces, self._tail = [], b""
        return rest


class _Values(Decoder):
    """Records that are values, or a key and a value with a delimiter between them."""

    def __init__(
        self,
        key_delimiter: bytes | None,
        template: Message | None,
        on_bad: Callable[[InputError], None] | None,
    ) -> None:
        super().__init__(on_bad)
        self._key_delimiter = key_delimiter
        self._template = template
        self._plain = key_delimiter is None and (
            template is None or template == Message(template.value)
        )

    def _messages(self, values: list[bytes]) -> Sequence[Message]:
        if self._key_delimiter is not None:
            return self._keyed(values, self._key_delimiter)
        self.position += len(values)
        t = self._template
        if t is None or self._plain:
            return Plain(values)
        key, headers, properties, timestamp = t.key, t.headers, t.properties, t.timestamp
        return [Message(value, key, headers, properties, timestamp) for value in values]

    def _keyed(self, records: list[bytes], delimiter: bytes) -> list[Message]:
        t = self._template or Message(None)
        headers, properties, timestamp = t.headers, t.properties, t.timestamp
        messages: list[Message] = []
        for record in records:
            self.position += 1
            key, found, value = record.partition(delimiter)
            if found:
                messages.append(Message(value, key, headers, properties, timestamp))
            elif not self._bad(
                InputError(
                    "no key",
                    line=self.position,
                    why=f"the key delimiter {delimiter.decode('utf-8', 'backslashreplace')!r} does"
                    " not occur in it",
                )
            ):
                break
        return messages


class Delimited(_Values):
    """One message for each record that a delimiter ends; the last may do without it.

    The bytes between the delimiters are the value as they are: a CR before a newline belongs to
    it, and nothing between two delimiters is an empty value. No input is no message.
    """

    def __init__(
        self,
        delimiter: bytes,
        key_delimiter: bytes | None = None,
        template: Message | None = None,
        on_bad: Callable[[InputError], None] | None = None,
    ) -> None:
        super().__init__(key_delimiter, template, on_bad)
        self._splitter = Splitter(delimiter)

    def _feed(self, data: bytes) -> Sequence[Message]:
        return self._messages(self._splitter.feed(data))

    def _finish(self) -> Sequence[Message]:
        rest = self._splitter.finish()
        return self._messages([rest]) if rest else []


class Whole(_Values):
    """All of the input is one message, an empty one too: the user said that it is a message."""

    def __init__(
        self,
        key_delimiter: bytes | None = None,
        template: Message | None = None,
        on_bad: Callable[[InputError], None] | None = None,
    ) -> None:
        super().__init__(key_delimiter, template, on_bad)
        self._pieces: list[bytes] = []

    def _feed(self, data: bytes) -> Sequence[Message]:
        self._pieces.append(data)
        return []

    def _finish(self) -> Sequence[Message]:
        value = b"".join(self._pieces)
        self._pieces = []
        return self._messages([value])


class ValueEncoder(Encoder):
    """The value and a delimiter; a tombstone is written like an empty value."""

    def __init__(self, delimiter: bytes) -> None:
        self.ending = delimiter

    def encode(self, messages: Sequence[Received]) -> list[bytes]:
        return contents(messages)
