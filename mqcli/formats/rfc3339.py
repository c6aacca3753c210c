"""Milliseconds since 1970 as text, and back.

RFC 3339 with milliseconds and ``Z``; a bare number where its four-digit years end (before year 1,
after 9999), which brokers do deliver.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

__all__ = ["FIRST_MS", "LAST_MS", "format_ms", "format_second", "parse_ms"]

FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# RFC 3339 section 5.6; a zone is required.
_FORM = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@lru_cache(64)
def format_second(second: int) -> str:
    """``2026-01-31T12:00:00``, in UTC, for a second of the years 1 to 9999."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


def format_ms(ms: int) -> str | int:
    """``2026-01-31T12:00:00.123Z``, or ``ms`` itself when it is outside the years 1 to 9999."""
    if not FIRST_MS <= ms <= LAST_MS:
        return ms
    second, rest = divmod(ms, 1000)
    return f"{format_second(second)}.{rest:03d}Z"


@lru_cache(64)
def _second_ms(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def parse_ms(text: str) -> int:
    """Milliseconds, what is finer cut off. Raises ValueError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time with its zone")
    second, fraction, zone = match.groups("")
    return _second_ms((second + zone).upper()) + int((fraction + "000")[:3])
