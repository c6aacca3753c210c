"""Commands as RESP bytes, single and in bulk (*Redis serialization protocol specification*)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hiredis

__all__ = ["pack", "pack_alike", "pack_variadic"]

pack: Callable[..., bytes] = lambda *args: hiredis.pack_command(args)  # noqa: E731
"""One command as RESP bytes; arguments are bytes, str (UTF-8) or int."""


def bulks(values: Sequence[bytes], lengths: set[int], before: bytes = b"") -> bytes:
    """Values (at least one) of these ``lengths`` as RESP bulk strings, ``before`` in front of each:
    several times faster than packing each, and fastest where there is one length."""
    starts = {n: b"\r\n%b$%d\r\n" % (before, n) for n in lengths}
    if len(starts) == 1:
        (between,) = starts.values()
        parts = list(values)
        parts[0] = between[2:] + parts[0]
    else:
        between = b""
        parts = [part for value in values for part in (starts[len(value)], value)]
        parts[0] = parts[0][2:]
    parts[-1] += b"\r\n"
    return between.join(parts)


def pack_alike(
    command: Sequence[bytes | str | int], values: Sequence[bytes], lengths: set[int]
) -> bytes:
    """Commands that differ in their last argument only, one for each of ``values``."""
    return bulks(values, lengths, pack(*command, b"")[: -len(b"$0\r\n\r\n")])


def pack_variadic(
    command: Sequence[bytes | str | int], values: Sequence[bytes], lengths: set[int]
) -> bytes:
    """One command with all the ``values`` behind its other arguments."""
    start = pack(*command).partition(b"\r\n")[2]
    return b"*%d\r\n%b%b" % (len(command) + len(values), start, bulks(values, lengths))
