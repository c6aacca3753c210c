"""Where reading starts and stops, how long things may take: the syntax, without a broker.

``START`` and ``STOP`` are the same everywhere (DESIGN section 4). A broker position stays text
here, since only its transport can read it.
"""

from __future__ import annotations

import re
import time
from datetime import UTC
from typing import Literal

import msgspec

from .errors import UsageError

__all__ = ["Start", "StartKind", "parse_duration", "parse_range", "parse_start", "parse_time"]

StartKind = Literal["beginning", "end", "skip", "last", "at", "time", "after"]
"""``skip`` is ``+N``, ``last`` is ``-N``, ``at`` a broker position, ``after`` the place behind one
(never typed by a user: it is how a reader goes on after a reconnect)."""


class Start(msgspec.Struct, frozen=True, gc=False):
    """One START or STOP. ``count`` is for skip and last, ``token`` for at and after, ``ms`` for
    time (milliseconds since 1970)."""

    kind: StartKind
    count: int = 0
    token: str = ""
    ms: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "skip":
                return f"+{self.count}"
            case "last":
                return f"-{self.count}"
            case "time":
                if 0 <= self.ms < 10**13:
                    return f"@{self.ms:013d}"
                from datetime import UTC, datetime, timedelta

                moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.ms)
                return f"@{moment.isoformat(timespec='milliseconds')}"
            case "at" | "after":
                return self.token
            case kind:
                return kind


BEGINNING = Start("beginning")
END = Start("end")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_SIGNED = re.compile(r"[+-]\d{1,18}", re.ASCII)
_LONGEST = 1e10  # seconds: some 300 years, and every sum with a date still is one


def parse_duration(text: str) -> float:
    """Seconds in ``250ms``, ``30s``, ``5m``, ``1h30m``, ``2d``; a unit is required, except for 0.
    At most 300 years.

    Raises UsageError.
    """
    if text == "0":
        return 0.0
    total, end = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != end:
            break
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if not text or end != len(text) or total > _LONGEST:
        raise UsageError(
            f"{text!r} is not a duration", hint="write 250ms, 30s, 5m or 1h30m, with the unit"
        )
    return total


def parse_time(text: str, now_ms: int | None = None) -> int:
    """Milliseconds since 1970 of the text behind an ``@``.

    RFC 3339 (without a zone: local time), a date, 10 digits (seconds), 13 digits (milliseconds),
    or a duration back from now. Raises UsageError.
    """
    if text.isascii() and text.isdigit():
        if len(text) == 10:
            return int(text) * 1000
        if len(text) == 13:
            return int(text)
    elif _PART.match(text):
        now = int(time.time() * 1000) if now_ms is None else now_ms
        return now - round(parse_duration(text) * 1000)
    else:
        from datetime import datetime, timedelta

        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone()
        except (ValueError, OverflowError, OSError):
            pass
        else:
            epoch = datetime(1970, 1, 1, tzinfo=UTC)
            return (moment - epoch) // timedelta(milliseconds=1)
    raise UsageError(
        f"{text!r} is not a time",
        hint="write @2026-01-31, @2026-01-31T12:00:00Z, @1767225600 (seconds), 13 digits for"
        " milliseconds, or @15m for a quarter of an hour ago",
    )


def parse_start(text: str, now_ms: int | None = None) -> Start:
    """One START or STOP, not a range. Raises UsageError."""
    if text in ("beginning", "end"):
        return BEGINNING if text == "beginning" else END
    if text.startswith("@"):
        return Start("time", ms=parse_time(text[1:], now_ms))
    if _SIGNED.fullmatch(text):
        kind: StartKind = "skip" if text[0] == "+" else "last"
        return Start(kind, count=int(text[1:]))
    if not text or text[0] in "+-" or not text.isprintable() or " " in text:
        raise UsageError(
            f"{text!r} is not a position",
            hint="write beginning, end, +N, -N, a broker position such as 42, 0:42 or 1717-0,"
            " @TIME, or A..B for a range",
        )
    return Start("at", token=text)


def parse_range(
    starts: list[str], stop: str | None = None, now_ms: int | None = None
) -> tuple[Start | None, Start | None]:
    """``--from`` (repeated for partitions, or one ``A..B``) and ``--to`` as (start, stop).

    Several positions become one token, joined by commas. Either end of ``A..B`` may be left out.
    Raises UsageError.
    """
    if stop is not None and ".." in stop:
        raise UsageError(f"{stop!r} is a range", hint="give the range to --from")
    ranges = [text for text in starts if ".." in text]
    if ranges:
        if len(starts) > 1 or stop is not None:
            raise UsageError(
                f"the range {ranges[0]} says both ends", hint="give it alone, without --to"
            )
        first, _, last = ranges[0].partition("..")
        if ".." in last:
            raise UsageError(f"the range {ranges[0]} has more than two ends", hint="write A..B")
        return (
            parse_start(first, now_ms) if first else BEGINNING,
            parse_start(last, now_ms) if last else None,
        )
    parsed = [parse_start(text, now_ms) for text in starts]
    end = None if stop is None else parse_start(stop, now_ms)
    if len(parsed) <= 1:
        return (parsed[0] if parsed else None), end
    if any(start.kind != "at" or ":" not in start.token for start in parsed):
        raise UsageError(
            "several positions must be one for each partition",
            hint="write --from 0:42 --from 1:50",
        )
    return Start("at", token=",".join(start.token for start in parsed)), end
