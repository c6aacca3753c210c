"""Methods of AMQP 0-9-1 that say exactly what we mean.

pamqp's own are narrower than the broker: a name there has at most 127 characters of a few kinds,
where RabbitMQ takes any text of up to 255 bytes; and their tables lose types (see _amqp_codec).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from ..errors import UsageError
from ..message import Header
from ._amqp_codec import encode_table, short

__all__ = ["exchange_there", "method", "named", "queue_there"]

_EMPTY_TABLE = b"\0\0\0\0"
_NAMES = {
    "queue": "the name of the queue",
    "exchange": "the name of the exchange",
    "source": "the name of the exchange",
    "destination": "the name of the exchange",
    "exchange_type": "the type of the exchange",
    "routing_key": "the routing key",
}


def method(kind: type[Frame], arguments: Iterable[Header] = (), **fields: Any) -> Any:
    """A method of this kind whose table, its last field, has exactly the types given.

    Raises UsageError for a text of more than 255 bytes, or that is not UTF-8, and for arguments
    that no table can hold.
    """
    for name, value in fields.items():
        if isinstance(value, str):
            _check(value, _NAMES.get(name, name))
    exact = type(kind.__name__, (kind,), {"validate": lambda self: None})
    frame = exact(**fields)
    table = tuple(arguments)
    if table:
        raw = frame.marshal()
        assert raw.endswith(_EMPTY_TABLE)
        try:
            made = raw[: -len(_EMPTY_TABLE)] + encode_table(table)
        except ValueError as exc:
            raise UsageError(f"an argument does not fit: {exc}") from exc
        exact.marshal = lambda self: made  # type: ignore[attr-defined]
    return frame


def _check(text: str, what: str, where: str = "") -> None:
    try:
        text.encode()
        short(text, what)
    except UnicodeEncodeError as exc:
        raise UsageError(f"{what} is not UTF-8", where=where) from exc
    except ValueError as exc:
        raise UsageError(str(exc), where=where) from exc


def named(name: str, what: str, where: str) -> str:
    """The name, which ``what`` calls by its kind. Raises UsageError for one that cannot be."""
    _check(name, what, where)
    if "\n" in name or "\r" in name:
        raise UsageError(
            f"{what} has a line break", where=where, why="RabbitMQ takes it out on declaring"
        )
    return name


def queue_there(name: str) -> Any:
    """Is there such a queue? The answer counts its messages and consumers."""
    return method(commands.Queue.Declare, queue=name, passive=True)


def exchange_there(name: str) -> Any:
    """Is there such an exchange?"""
    return method(commands.Exchange.Declare, exchange=name, passive=True)
