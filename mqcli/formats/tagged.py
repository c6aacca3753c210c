"""Header and property values as JSON, exactly: what JSON has no type for is tagged.

``{"t": TYPE, "v": VALUE}`` stands for a value whose type JSON lacks (DESIGN section 3). In
properties, whose values are JSON themselves, bytes are tagged the same way; an object that looks
like a tagged value is written as a ``table`` there, so that nothing is mistaken.
"""

from __future__ import annotations

import math
import re
import struct
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any, get_args

from ..message import Headers, HeaderTag, HeaderValue, Properties, Tagged

__all__ = [
    "base64_bytes",
    "base64_text",
    "headers_from_json",
    "headers_to_json",
    "plain_to_json",
    "properties_from_json",
    "properties_to_json",
    "value_to_json",
]

_TAGS: frozenset[str] = frozenset(get_args(HeaderTag))
_INTEGERS = {
    **{f"i{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
    # Seconds since 1970: AMQP has them unsigned in 64 bits, others signed.
    "time": (-(1 << 63), (1 << 64) - 1),
}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_DECIMAL = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def base64_text(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")


def base64_bytes(text: str) -> bytes:
    """Raises ValueError for all but RFC 4648 base64 with its padding."""
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as exc:
        raise ValueError(f"not base64: {exc}") from None


def _tagged_bytes(data: bytes) -> dict[str, str]:
    return {"t": "bytes", "v": base64_text(data)}


def _float_to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def value_to_json(value: HeaderValue) -> Any:
    """What JSON writes for a header's value."""
    match value:
        case bytes():
            return _tagged_bytes(value)
        case float():
            plain = _float_to_json(value)
            return plain if plain is value else {"t": "f64", "v": plain}
        case Tagged(t="null"):
            return {"t": "null"}
        case Tagged(t="table"):
            return {"t": "table", "v": headers_to_json(value.v)}
        case Tagged(t="list"):
            return {"t": "list", "v": [value_to_json(item) for item in value.v]}
        case Tagged(t="f32"):
            return {"t": "f32", "v": _float_to_json(value.v)}
        case Tagged():
            return {"t": value.t, "v": value.v}
        case _:
            return value


def headers_to_json(headers: Headers) -> list[tuple[Any, Any]]:
    return [
        (
            name if name.__class__ is str else _tagged_bytes(name),  # type: ignore[arg-type]
            value if value.__class__ is str else value_to_json(value),
        )
        for name, value in headers
    ]


def plain_to_json(value: Any) -> Any:
    """What JSON writes for a property's value, or for a part of it."""
    match value:
        case bytes():
            return _tagged_bytes(value)
        case float():
            plain = _float_to_json(value)
            return plain if plain is value else {"t": "f64", "v": plain}
        case list() | tuple():
            return [plain_to_json(item) for item in value]
        case dict() if value.keys() == {"t", "v"} and isinstance(value["t"], str):
            pairs = [(name, plain_to_json(item)) for name, item in value.items()]
            return {"t": "table", "v": pairs}
        case dict():
            return {name: plain_to_json(item) for name, item in value.items()}
        case _:
            return value


def properties_to_json(properties: Properties) -> dict[str, Any]:
    return {name: plain_to_json(value) for name, value in properties.items()}


def _number(tag: str, value: Any) -> float:
    if value.__class__ is str and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if value.__class__ not in (int, float):
        raise ValueError(f'the value of a {tag} is a number, "nan", "inf" or "-inf"')
    try:
        number = float(value)
        if tag == "f32":
            (number,) = struct.unpack("<f", struct.pack("<f", number))
    except OverflowError:
        raise ValueError(f"{value} is too large for a {tag}") from None
    return number


def _split_tag(value: dict[str, Any]) -> tuple[str, Any]:
    tag = value.get("t")
    if not isinstance(tag, str) or not value.keys() <= {"t", "v"}:
        raise ValueError('an object here is {"t": TYPE, "v": VALUE} and nothing else')
    if tag not in _TAGS:
        raise ValueError(f"unknown type {tag!r}; known are {', '.join(sorted(_TAGS))}")
    if "v" not in value and tag != "null":
        raise ValueError(f'a value of type {tag} needs its "v"')
    return tag, value.get("v")


def _bytes_from_json(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("the value of type bytes is a string of base64")
    return base64_bytes(value)


def _tagged_from_json(whole: dict[str, Any]) -> HeaderValue:
    tag, value = _split_tag(whole)
    if tag in _INTEGERS:
        low, high = _INTEGERS[tag]
        if value.__class__ is not int or not low <= value <= high:
            raise ValueError(f"{value!r} is not an integer of type {tag}")
        return value if tag == "i64" else Tagged(tag, value)  # type: ignore[arg-type]
    match tag:
        case "bytes":
            return _bytes_from_json(value)
        case "f64":
            return _number(tag, value)
        case "f32":
            return Tagged("f32", _number(tag, value))
        case "decimal":
            if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
                raise ValueError('the value of a decimal is text such as "12.50"')
            return Tagged("decimal", value)
        case "table":
            return Tagged("table", headers_from_json(value, "a table"))
        case "list":
            if not isinstance(value, list):
                raise ValueError("the value of a list is an array")
            return Tagged("list", tuple(_value_from_json(item) for item in value))
        case _:
            if value is not None:
                raise ValueError("the value of a null is null")
            return Tagged("null", None)


def _value_from_json(value: Any) -> HeaderValue:
    match value:
        case str() | bool() | float():
            return value
        case int():
            low, high = _INTEGERS["i64"]
            if not low <= value <= high:
                raise ValueError(f'{value} is outside 64 bits; up to 2^64 write {{"t": "u64", …}}')
            return value
        case dict():
            return _tagged_from_json(value)
        case None:
            raise ValueError('null here is written {"t": "null"}')
        case _:
            raise ValueError('an array here is written {"t": "list", "v": […]}')


def _name_from_json(name: Any) -> str | bytes:
    if isinstance(name, str):
        return name
    if isinstance(name, dict) and name.get("t") == "bytes":
        data = _bytes_from_json(_split_tag(name)[1])
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    raise ValueError('a name is a string, or {"t": "bytes", "v": BASE64}')


def headers_from_json(value: Any, what: str = "headers") -> Headers:
    """Headers, or a table, from their JSON array. Raises ValueError."""
    if isinstance(value, dict):
        raise ValueError(
            f'{what} must be an array of pairs, as [["name", "value"], …], not an object:'
            " names may repeat and their order counts"
        )
    if not isinstance(value, list):
        raise ValueError(f'{what} must be an array of pairs, as [["name", "value"], …]')
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"each of {what} is an array of two, a name and a value")
    return tuple((_name_from_json(name), _value_from_json(item)) for name, item in value)


def _property_from_json(value: Any) -> Any:
    match value:
        case list():
            return [_property_from_json(item) for item in value]
        case dict() if value.keys() == {"t", "v"} and isinstance(value["t"], str):
            tag, inner = _split_tag(value)
            match tag:
                case "bytes":
                    return _bytes_from_json(inner)
                case "f64":
                    return _number(tag, inner)
                case "table":
                    return _table_from_json(inner)
            raise ValueError(f"a property cannot have the type {tag}; bytes, f64 and table can be")
        case dict():
            return {name: _property_from_json(item) for name, item in value.items()}
        case _:
            return value


def _table_from_json(pairs: Any) -> dict[str, Any]:
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    ):
        raise ValueError("a table is an array of pairs of a name and a value")
    return {name: _property_from_json(item) for name, item in pairs}


def properties_from_json(value: Any) -> Properties:
    """Properties from their JSON object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError('properties must be an object, as {"priority": 3}')
    return {name: _property_from_json(item) for name, item in value.items()}
