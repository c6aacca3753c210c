"""What a confirmed message survives, in words, so that only like is compared with like.

From the traits of the transport, and for the built-in brokers from their options. What the server
itself is set to (appendfsync, replicas) is beyond what a client sees, and is said so.
"""

from __future__ import annotations

from typing import Any

from ..client import Client
from .result import Durability

__all__ = ["durability"]


def durability(client: Client) -> Durability:
    """Of a publish that was confirmed. Opens nothing."""
    traits, options = client.traits(), client.target.options
    address = client.target.address
    scheme = address.broker.scheme if address.broker is not None else ""
    if traits.confirm == "none":
        return Durability("none", "sent, and confirmed by nobody")
    if traits.keeps == "nothing":
        return Durability("listeners", "in memory, only for who listens at that moment")
    match scheme.partition("+")[0]:
        case "redis" | "rediss":
            return Durability(
                "server-memory",
                "in one server's memory; on disk and on replicas when that server is set to",
            )
        case "amqp" | "amqps":
            return _amqp(address.kind, options)
        case "kafka" | "kafkas":
            return _kafka(str(getattr(options, "acks", "all")))
        case "sqlite":
            if getattr(options, "sync", "normal") == "full":
                return Durability("disk", "one file, flushed to disk before each confirmation")
            return Durability(
                "file", "one file; survives the process, not a loss of power in the last moments"
            )
    if traits.confirm == "stored":
        return Durability("stored", "in the broker's store, whatever that survives")
    return Durability("reached", "the broker has it, and promises no more")


def _amqp(kind: str | None, options: Any) -> Durability:
    if not getattr(options, "persistent", True) and kind != "stream":
        return Durability("server-memory", "in one node's memory (not persistent)")
    match kind, getattr(options, "queue_type", None):
        case "queue", "quorum":
            return Durability("replicated", "flushed to disk by a majority of the queue's nodes")
        case "stream", _:
            return Durability("replicated-memory", "in the page cache of a majority of its nodes")
        case "exchange", _:
            return Durability("routed", "taken over by every queue that it was routed to")
    return Durability("disk", "written to one node's disk (persistent; a classic queue)")


def _kafka(acks: str) -> Durability:
    if acks == "0":
        return Durability("none", "sent, and confirmed by nobody")
    if acks == "1":
        return Durability("server-memory", "in the page cache of the partition's leader (acks=1)")
    return Durability(
        "replicated-memory", "in the page cache of all replicas in sync (acks=all), not flushed"
    )
