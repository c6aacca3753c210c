"""Text that cannot drive a terminal."""

from __future__ import annotations

import re
from functools import cache

__all__ = ["escape", "unsafe"]

# Unicode's categories Cc, Cf, Zl, Zp and Cs: what moves the cursor, starts a sequence, reorders or
# hides text, or is no character. A test holds this against unicodedata.
_RANGES = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@cache
def unsafe(keep_newlines: bool = False) -> re.Pattern[str]:
    """Matches one character that may not reach a terminal; newline and tab may, if kept."""
    return re.compile(f"[{_RANGES}]" if keep_newlines else f"[\\t\\n{_RANGES}]")


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
    return unsafe(keep_newlines).sub(_escaped, text)
