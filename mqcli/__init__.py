"""mqcli: one command line, and one small library, for every message broker.

The public names are loaded on first use, so that the command line starts without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .address import Address, BrokerURL, parse_address, parse_broker
    from .client import Client, Limits
    from .errors import MqcliError
    from .message import Message, Received, Tagged

__all__ = [
    "Address",
    "BrokerURL",
    "Client",
    "Limits",
    "Message",
    "MqcliError",
    "Received",
    "Tagged",
    "__version__",
    "parse_address",
    "parse_broker",
]

_HOMES = {
    "Address": "address",
    "BrokerURL": "address",
    "parse_address": "address",
    "parse_broker": "address",
    "Client": "client",
    "Limits": "client",
    "MqcliError": "errors",
    "Message": "message",
    "Received": "message",
    "Tagged": "message",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
