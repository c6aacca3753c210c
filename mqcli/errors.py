"""What can go wrong, and the exit code that each of it means.

::

    MqcliError
    ├── UsageError             2   bad flags, bad address, what this broker cannot do
    │   └── Unsupported        2   refused because of a guarantee (before a socket opens)
    ├── InputError            65   bad input data, with its line number
    ├── NotFound              66   the destination does not exist
    ├── BrokerUnavailable     69   unreachable, or lost for longer than allowed
    │   └── ConnectionLost    69   an open connection broke; a reconnect may help
    ├── OutputError           74   our output could not be written
    ├── TryAgainLater         75   the broker refuses for now (alarm, loading, read-only, memory)
    ├── AccessDenied          77   login or permission refused
    ├── ConfigError           78   configuration file wrong
    ├── TimeLimitReached     124   a time limit came before the count or the end asked for
    └── NotAllDone             1   finished, but not all as asked
        ├── Refused            1   one message was refused, by mqcli or by the broker
        └── GapFound           1   messages may have passed unseen and the user asked to fail

A driver maps the errors of its library to these once, most specific first,
``raise … from exc``. Act upon the type, never upon the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "AccessDenied",
    "BrokerUnavailable",
    "ConfigError",
    "ConnectionLost",
    "ExitCode",
    "GapFound",
    "InputError",
    "MqcliError",
    "NotAllDone",
    "NotFound",
    "OutputError",
    "Refused",
    "TimeLimitReached",
    "TryAgainLater",
    "Unsupported",
    "UsageError",
    "gravest",
]


class ExitCode(IntEnum):
    """The process exit codes; those from 65 to 78 are the ones of BSD sysexits(3)."""

    OK = 0
    NOT_ALL = 1
    USAGE = 2
    DATA = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    BUG = 70
    OUTPUT = 74
    TRY_LATER = 75
    DENIED = 77
    CONFIG = 78
    TIME_LIMIT = 124
    INTERRUPTED = 130
    TERMINATED = 143


_GRAVEST_FIRST = (70, 130, 143, 74, 78, 2, 77, 66, 65, 75, 69, 124, 1, 0)


def gravest(codes: Iterable[int]) -> ExitCode:
    """The exit code that stands when several apply; ``OK`` when there is none.

    Raises ValueError for a code that is none of ours."""
    present = {ExitCode(code) for code in codes}
    return ExitCode(next((code for code in _GRAVEST_FIRST if code in present), 0))


class MqcliError(Exception):
    """One line for the user: what failed, where, why, and what to try.

    ``where`` is an address already masked; ``why`` the broker's or the system's own words.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.what, self.where, self.why) if part)
        return f"{line}; {self.hint}" if self.hint else line


class UsageError(MqcliError):
    """Wrong flags or a wrong address."""

    exit_code = ExitCode.USAGE


class Unsupported(UsageError):
    """Something this broker, or this kind of destination, cannot do; the hint names what would."""


class InputError(MqcliError):
    """Input data that cannot be a message. ``line`` counts from 1; 0 where there are no lines."""

    exit_code = ExitCode.DATA

    def __init__(
        self, what: str, *, line: int = 0, where: str = "", why: str = "", hint: str = ""
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {super().__str__()}" if self.line else super().__str__()


class NotFound(MqcliError):
    """The destination (or the broker's vhost, database, group) does not exist."""

    exit_code = ExitCode.NOT_FOUND


class BrokerUnavailable(MqcliError):
    """The broker cannot be reached, or did not answer within its deadline."""

    exit_code = ExitCode.UNAVAILABLE


class ConnectionLost(BrokerUnavailable):
    """A connection that had been open broke; opening a new one may succeed."""


class OutputError(MqcliError):
    """Our output could not be written; what was not written is not acknowledged."""

    exit_code = ExitCode.OUTPUT


class TryAgainLater(MqcliError):
    """The broker refuses for now: memory or disk alarm, loading, read-only, out of memory."""

    exit_code = ExitCode.TRY_LATER


class AccessDenied(MqcliError):
    """Login or permission refused."""

    exit_code = ExitCode.DENIED


class ConfigError(MqcliError):
    """A configuration file is wrong."""

    exit_code = ExitCode.CONFIG


class TimeLimitReached(MqcliError):
    """A time limit came before the count or the end that was asked for."""

    exit_code = ExitCode.TIME_LIMIT


class NotAllDone(MqcliError):
    """Finished, but not all as asked."""

    exit_code = ExitCode.NOT_ALL


class Refused(NotAllDone):
    """One message was refused: it was certainly not published."""


class GapFound(NotAllDone):
    """Messages may have passed unseen, and ``--on-gap fail`` asked to end there."""
