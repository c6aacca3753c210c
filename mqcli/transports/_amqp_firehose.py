"""RabbitMQ's firehose: copies of all messages on ``amq.rabbitmq.trace``, while tracing is on
(``rabbitmqctl trace_on``). https://www.rabbitmq.com/docs/firehose

A copy has the message's body; where it was published and its properties stand in headers.
"""

from __future__ import annotations

from typing import Any

from ..message import Headers, HeaderValue, Properties, Received, Tagged

__all__ = ["FIREHOSE", "unwrapped"]

FIREHOSE = "amq.rabbitmq.trace"


def unwrapped(copy: Received) -> Received:
    """The message that was traced, in place of its copy; a copy that looks otherwise is kept."""
    told = dict(copy.headers)
    inner = told.get("properties")
    if not isinstance(inner, Tagged) or inner.t != "table":
        return copy
    headers: Headers = ()
    properties: Properties = {}
    for name, value in inner.v:
        if name == "headers" and isinstance(value, Tagged) and value.t == "table":
            headers = value.v
        else:
            properties[str(name)] = _plain(value)
    event, _, queue = (copy.key or b"").decode("utf-8", "backslashreplace").partition(".")
    extra: dict[str, Any] = {"exchange": _plain(told.get("exchange_name", "")), "event": event}
    if event == "deliver":
        extra["queue"] = queue
    key = copy.key
    keys = told.get("routing_keys")
    if isinstance(keys, Tagged) and keys.t == "list" and keys.v:
        first = keys.v[0]
        key = first if isinstance(first, bytes) else str(first).encode("utf-8", "surrogateescape")
        extra["routing_key"] = key.decode("utf-8", "backslashreplace")
    seconds = properties.get("timestamp")
    return Received(
        copy.value, key, headers, properties or None,
        seconds * 1000 if isinstance(seconds, int) else None, False,
        copy.source, copy.position, bool(_plain(told.get("redelivered", False))), extra,
    )  # fmt: skip


def _plain(value: HeaderValue) -> Any:
    return value.v if isinstance(value, Tagged) else value
