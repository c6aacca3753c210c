"""Facts about brokers and destinations: as JSON lines, or as aligned text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..formats.envelope_writer import encode_line
from ..formats.escaping import escape
from .env import Env

__all__ = ["facts", "json_line", "table"]


def json_line(env: Env, value: Mapping[str, Any]) -> None:
    """One line of JSON on stdout."""
    env.write(encode_line(_unicode(value)))


def _unicode(value: Any) -> Any:
    """``value`` with names that are not UTF-8 made writable."""
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case Mapping():
            return {_unicode(name): _unicode(item) for name, item in value.items()}
        case list() | tuple():
            return [_unicode(item) for item in value]
        case _:
            return value


def _word(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{name} {_word(item)}" for name, item in value.items())
        case list() | tuple():
            return ", ".join(_word(item) for item in value) or "-"
        case _:
            return escape(str(_unicode(value)))


def facts(env: Env, values: Mapping[str, Any]) -> None:
    """One line for each; below it one for each part of a list."""
    width = max((len(name) for name in values), default=0)
    lines = []
    for name, value in values.items():
        label = escape(name.replace("_", " ")).ljust(width)
        if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            lines.append(label.rstrip())
            lines += [f"  {_word(item)}" for item in value]
        else:
            lines.append(f"{label}  {_word(value)}")
    env.write("".join(line + "\n" for line in lines).encode())


def table(env: Env, rows: Sequence[Sequence[Any]]) -> None:
    """Aligned columns, numbers to the right."""
    words = [[_word(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    lines = []
    for row, given in zip(words, rows, strict=True):
        cells = [
            text.rjust(width) if isinstance(cell, int) else text.ljust(width)
            for text, width, cell in zip(row, widths, given, strict=True)
        ]
        lines.append("  ".join(cells).rstrip() + "\n")
    env.write("".join(lines).encode())
