"""JSON envelopes, one on each line, to messages. The format is described in docs/envelope.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import msgspec

from ..errors import InputError
from ..message import Headers, Message, Properties
from .base import Decoder
from .framing import Splitter
from .rfc3339 import parse_ms
from .tagged import base64_bytes, headers_from_json, properties_from_json

__all__ = ["EnvelopeDecoder"]

_FIELDS = (
    "key", "key_base64", "value", "value_base64", "headers", "properties", "meta", "to",
)  # fmt: skip

_PARTITION = re.compile(r"(\d{1,10}):", re.ASCII)


class _Meta(msgspec.Struct, gc=False):
    """What is looked at in every ``meta``; its other fields are skipped without a look."""

    raw_fields: bool = False


class _KeptMeta(_Meta, gc=False):
    timestamp: str | Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    position: str | None = None


V = TypeVar("V")
M = TypeVar("M", bound=_Meta)


class _Common(msgspec.Struct, Generic[V, M], gc=False, forbid_unknown_fields=True):
    """The usual envelopes: text alone, but for the value. All others are for ``_read``."""

    value: V
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    headers: tuple[tuple[str, str], ...] = ()
    properties: dict[str, str | int | bool | None] | None = None
    meta: M | None = None


T = TypeVar("T")

_FAILS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_meta = msgspec.json.Decoder(_Meta)
_kept_meta = msgspec.json.Decoder(_KeptMeta)


class EnvelopeDecoder(Decoder):
    """One message for each line of JSON; blank lines are skipped, but counted.

    Of a field that occurs twice the last counts, as in nearly every JSON reader.
    """

    def __init__(
        self,
        template: Message | None = None,
        on_bad: Callable[[InputError], None] | None = None,
        keep_timestamp: bool = False,
        keep_partition: bool = False,
    ) -> None:
        super().__init__(on_bad)
        self._splitter = Splitter(b"\n")
        self._template = template or Message(None)
        self._templated = template is not None and template != Message(template.value)
        self._keep_timestamp = keep_timestamp
        self._keep_partition = keep_partition
        self._keeps = keep_timestamp or keep_partition
        self._decode = self._decoder(str | None)
        self._values_are_text = True

    def _decoder(self, value: Any) -> Callable[[bytes], Any]:
        meta = _KeptMeta if self._keeps else _Meta
        return msgspec.json.Decoder(_Common[value, meta]).decode  # type: ignore[valid-type]

    def _feed(self, data: bytes) -> list[Message]:
        return self._messages(self._splitter.feed(data))

    def _finish(self) -> list[Message]:
        rest = self._splitter.finish()
        return self._messages([rest]) if rest else []

    def _messages(self, lines: list[bytes]) -> list[Message]:
        decode, simple = self._decode, not (self._keeps or self._templated)
        unset = msgspec.UNSET
        messages: list[Message] = []
        add, position = messages.append, self.position
        for line in lines:
            position += 1
            try:
                common = decode(line)
                value, key, meta = common.value, common.key, common.meta
                message = Message(
                    value.encode()
                    if value.__class__ is str
                    else None
                    if value is None
                    else _json_or_text(bytes(value)),
                    key.encode() if key.__class__ is str else None,
                    common.headers,
                    common.properties,
                    None,
                    meta is not None and meta.raw_fields,
                )
                if not simple:
                    self._complete(message, key is not unset, meta)
            except (*_FAILS, ValueError):
                self.position = position
                try:
                    read = self._read(line)
                except InputError as bad:
                    if not self._bad(bad):
                        break
                    continue
                if read is None:
                    continue
                message, decode = read, self._decode
            add(message)
        self.position = position
        return messages

    def _complete(self, message: Message, has_key: bool, meta: _Meta | None) -> None:
        """Add what the template gives and what is kept of ``meta``. Raises ValueError."""
        template = self._template
        message.timestamp = template.timestamp
        if not has_key:
            message.key = template.key
        if template.headers:
            message.headers += template.headers
        if template.properties:
            message.properties = {**template.properties, **(message.properties or {})}
        if isinstance(meta, _KeptMeta):
            if self._keep_timestamp and meta.timestamp is not None:
                at = meta.timestamp
                message.timestamp = parse_ms(at) if isinstance(at, str) else at
            if self._keep_partition and (partition := _partition(meta)) is not None:
                message.properties = {**(message.properties or {}), "partition": partition}

    def _read(self, line: bytes) -> Message | None:
        """Any envelope; None for a blank line. Raises InputError, which says what is wrong."""
        if not line.strip(b" \t\r\n"):
            return None
        try:
            fields = _raw_fields.decode(line)
        except msgspec.ValidationError:
            self._fail("an envelope is a JSON object", hint='write {"value": …}')
        except msgspec.DecodeError as exc:
            self._fail("not JSON", str(exc))
        except UnicodeDecodeError as exc:
            self._fail("not JSON", f"not UTF-8: {exc.reason}")
        except RecursionError:
            self._fail("not JSON that can be read", "nested too deeply")
        self._check_names(fields)
        if self._values_are_text and bytes(fields.get("value", b"n"))[:1] not in b'"n':
            # Where one value is no text the next will be none: have them read quickly too.
            self._values_are_text = False
            self._decode = self._decoder(msgspec.Raw)
        message = Message(
            self._bytes(fields, "value", _json_or_text),
            self._bytes(fields, "key", _only_text),
            self._part(fields, "headers", _headers, ()),
            self._part(fields, "properties", _properties, None),
        )
        meta = self._read_meta(fields)
        message.raw_fields = meta.raw_fields
        try:
            self._complete(message, "key" in fields or "key_base64" in fields, meta)
        except ValueError as exc:
            self._fail('"meta" does not fit', str(exc))
        return message

    def _check_names(self, fields: dict[str, msgspec.Raw]) -> None:
        if "to" in fields:
            self._fail('"to" is reserved', hint="publish to one destination, without this field")
        for name in fields:
            if name not in _FIELDS:
                from difflib import get_close_matches

                near = get_close_matches(name, _FIELDS[:-1], n=1, cutoff=0.5)
                hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(_FIELDS[:-1])}"
                self._fail(f"unknown field {name!r}", hint=hint)
        for name in ("key", "value"):
            if name in fields and f"{name}_base64" in fields:
                self._fail(f'"{name}" and "{name}_base64" are both given', hint="give one of them")
        if "value" not in fields and "value_base64" not in fields:
            self._fail(
                'no "value"', hint='for a message without one (a tombstone) write "value": null'
            )

    def _bytes(
        self, fields: dict[str, msgspec.Raw], name: str, read: Callable[[bytes], bytes | None]
    ) -> bytes | None:
        encoded = f"{name}_base64"
        if encoded in fields:
            return self._part(fields, encoded, _base64, None)
        return self._part(fields, name, read, None)

    def _part(
        self, fields: dict[str, msgspec.Raw], name: str, read: Callable[[bytes], T], absent: T
    ) -> T:
        if name not in fields:
            return absent
        try:
            return read(bytes(fields[name]))
        except UnicodeDecodeError as exc:
            self._fail(f'"{name}" is not UTF-8', exc.reason, f"bytes go under {_base64_of(name)}")
        except RecursionError:
            self._fail(f'"{name}" cannot be read', "nested too deeply")
        except (msgspec.DecodeError, ValueError) as exc:
            self._fail(f'"{name}" does not fit', str(exc))

    def _read_meta(self, fields: dict[str, msgspec.Raw]) -> _Meta:
        raw = bytes(fields.get("meta", b"{}"))
        # It is ignored but for what is asked for: another program's may be anything.
        if not raw.startswith(b"{"):
            return _Meta()
        try:
            return (_kept_meta if self._keeps else _meta).decode(raw)
        except msgspec.ValidationError as exc:
            self._fail('"meta" does not fit', str(exc))
        except UnicodeDecodeError as exc:
            self._fail('"meta" is not UTF-8', exc.reason)

    def _fail(self, what: str, why: str = "", hint: str = "") -> NoReturn:
        raise InputError(what, line=self.position, why=why, hint=hint)


def _base64_of(name: str) -> str:
    return f'"{name}_base64"' if name in ("key", "value") else '{"t": "bytes", "v": BASE64}'


def _partition(meta: _KeptMeta) -> int | None:
    """The partition that ``meta`` names, or that its position (``3:1042``) begins with."""
    if meta.partition is not None:
        return meta.partition
    match = _PARTITION.match(meta.position or "")
    return int(match[1]) if match else None


def _string(raw: bytes) -> str:
    if not raw.startswith(b'"'):
        raise ValueError("it must be a string")
    return _text.decode(raw)


def _base64(raw: bytes) -> bytes | None:
    return base64_bytes(_string(raw))


def _only_text(raw: bytes) -> bytes | None:
    return None if raw == b"null" else _string(raw).encode()


def _json_or_text(raw: bytes) -> bytes | None:
    """The bytes of a ``value``: a text as it is, all else as compact JSON with every number and
    string as it was written."""
    if raw.startswith(b'"'):
        return _text.decode(raw).encode()
    if raw == b"null":
        return None
    raw.decode()
    return msgspec.json.format(raw, indent=-1)


def _headers(raw: bytes) -> Headers:
    return headers_from_json(msgspec.json.decode(raw))


def _properties(raw: bytes) -> Properties | None:
    value = msgspec.json.decode(raw)
    return None if value is None else properties_from_json(value)
