"""``-H NAME=VALUE``, ``-H NAME:TYPE=VALUE`` and ``-P NAME=VALUE``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from ..errors import UsageError
from ..message import Header, Headers, HeaderTag, Properties

__all__ = ["parse_headers", "parse_properties"]

_TYPES = frozenset({*get_args(HeaderTag), "bool"})


def parse_headers(texts: Sequence[str]) -> Headers:
    """The headers as typed. What stands behind the last colon of a name is a type only where it is
    one of the envelope's, or ``bool``. Raises UsageError."""
    return tuple(_parse(text) for text in texts)


def parse_properties(
    texts: Sequence[str], types: Mapping[str, Any] | None = None
) -> Properties | None:
    """The properties, None without any. One of ``types`` is of that type; another is JSON where the
    value is that (``3``, ``true``, ``"3"``), and text otherwise. Raises UsageError."""
    known = types or {}
    found: Properties = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"-P {text} is not NAME=VALUE")
        if name in found:
            raise UsageError(f"-P {name} is given twice")
        if name in known:
            try:
                found[name] = msgspec.convert(value, known[name], strict=False)
            except msgspec.ValidationError as exc:
                raise UsageError(f"-P {text} does not fit", why=str(exc)) from exc
            continue
        try:
            found[name] = msgspec.json.decode(os.fsencode(value))
        except (msgspec.DecodeError, UnicodeDecodeError):
            found[name] = value
    return found or None


def _parse(text: str) -> Header:
    left, equals, value = text.partition("=")
    if not equals or not left:
        raise UsageError(f"-H {text} is not NAME=VALUE")
    name, _, type_ = left.rpartition(":")
    if not name or type_ not in _TYPES:
        return _text(left), _text(value)
    from ..formats.tagged import headers_from_json

    try:
        ((_, typed),) = headers_from_json([["", _json(type_, value)]])
    except ValueError as exc:
        raise UsageError(f"-H {text}: the value does not fit", why=str(exc)) from exc
    return _text(name), typed


def _text(text: str) -> str | bytes:
    """``text``, or its bytes where they are not UTF-8."""
    try:
        data = os.fsencode(text)
        return data.decode()
    except UnicodeDecodeError:
        return data


def _json(type_: str, value: str) -> Any:
    """What the envelope has for it. Raises ValueError."""
    match type_:
        case "bool":
            if value not in ("true", "false"):
                raise ValueError("a bool is true or false")
            return value == "true"
        case "f32" | "f64":
            return {
                "t": type_,
                "v": value if value in ("nan", "inf", "-inf") else _number(float, value),
            }
        case "time":
            from ..position import parse_time

            try:
                return {"t": type_, "v": _number(int, value)}
            except ValueError:
                pass
            try:
                return {"t": type_, "v": parse_time(value) // 1000}
            except UsageError as exc:
                raise ValueError(str(exc)) from None
        case "null":
            if value:
                raise ValueError("a null has no value; write NAME:null=")
            return {"t": type_}
        case "table" | "list":
            try:
                return {"t": type_, "v": msgspec.json.decode(value)}
            except msgspec.DecodeError as exc:
                raise ValueError(f"not JSON: {exc}") from None
        case "bytes" | "decimal":
            return {"t": type_, "v": value}
        case _:
            return {"t": type_, "v": _number(int, value)}


def _number(kind: type[int] | type[float], value: str) -> int | float:
    """As JSON writes it, so that nothing is rounded to infinity. Raises ValueError."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError:
        what = "whole number" if kind is int else "number that fits"
        raise ValueError(f"{value!r} is not a {what}") from None
