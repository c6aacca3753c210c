"""Text that cannot drive a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

__all__ = ["escape", "escape_json"]

# Unicode's categories Cc, Cf, Zl, Zp and Cs: what moves the cursor, starts a sequence, reorders or
# hides text, or is no character. First and last code points; a test holds them to unicodedata.
_UNSAFE = (
    (0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD),
    (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x180E, 0x180E), (0x200B, 0x200F),
    (0x2028, 0x202E), (0x2060, 0x206F), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A), (0xE0000, 0xE007F),
)  # fmt: skip
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@cache
def _pattern(keep: str) -> re.Pattern[str]:
    members = [char for char in _chars(0, 0x20) if char not in keep]
    members += [f"{chr(low)}-{chr(high)}" for low, high in _UNSAFE[1:]]
    return re.compile(f"[{''.join(members)}]")


def _chars(low: int, end: int) -> Iterator[str]:
    return map(chr, range(low, end))


@cache
def _utf8_pattern() -> tuple[re.Pattern[bytes], list[bytes]]:
    """The same but C0 and surrogates, in UTF-8, and the beginnings of all that it matches: to
    look for these is much faster."""
    lasts: dict[bytes, bytes] = {}
    for low, high in _UNSAFE[1:]:
        for char in _chars(low, high + 1) if low != 0xD800 else ():
            data = char.encode()
            lasts[data[:-1]] = lasts.get(data[:-1], b"") + data[-1:]
    pattern = b"|".join(
        re.escape(lead) + b"[" + re.escape(last) + b"]" for lead, last in lasts.items()
    )
    return re.compile(pattern), sorted({lead[:2] or last for lead, last in lasts.items()})


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, kept by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape(text: str | bytes, keep_newlines: bool = False) -> str:
    r"""``text`` with everything visible and nothing obeyed by a terminal.

    Control characters (C0, DEL, C1), text direction and other format characters, line separators
    and bytes that are not UTF-8 become ``\xNN``, ``\uNNNN``, ``\n`` and the like. With
    ``keep_newlines`` newline and tab stay; a CR never does. Backslashes stay as they are: this is
    for the eye, and cannot be reversed. The result can always be encoded as UTF-8.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return _pattern("\n\t" if keep_newlines else "").sub(_escaped, text)


def _escaped_json(match: re.Match[bytes]) -> bytes:
    units = match[0].decode().encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)).encode()


def escape_json(chunks: list[bytes]) -> list[bytes]:
    r"""The same JSON with every character that could drive a terminal as ``\uNNNN``.

    In JSON these stand inside strings only, where an escape means the same. C0 is escaped there
    by every encoder.
    """
    whole = b"".join(chunks)
    if whole.isascii() and b"\x7f" not in whole:
        return chunks
    pattern, leads = _utf8_pattern()
    if not any(lead[:1] in whole and lead in whole for lead in leads):
        return chunks
    return [pattern.sub(_escaped_json, chunk) for chunk in chunks]
