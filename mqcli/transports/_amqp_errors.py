"""What RabbitMQ and aiormq say, made into ``mqcli.errors`` once, the most specific first."""

from __future__ import annotations

import os
import socket
import ssl

from aiormq.exceptions import AMQPChannelError, AMQPError, AuthenticationError, ChannelClosed

from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    Refused,
    TryAgainLater,
    Unsupported,
)

__all__ = ["alarm", "code_of", "from_connect", "from_reply", "lost"]


def from_reply(code: int, text: str, where: str) -> MqcliError:
    """The error that a reply code with its text means (a closed channel, or connection)."""
    words = text.lower()
    match code:
        case 404:
            return NotFound("does not exist", where=where, why=text)
        case 403 if "in exclusive use" in words:
            return TryAgainLater("in use by another consumer", where=where, why=text)
        case 403:
            what = "login refused" if "login" in words else "permission refused"
            return AccessDenied(what, where=where, why=text)
        case 405:
            return TryAgainLater("it belongs to another connection", where=where, why=text)
        case 406:
            return Refused("the broker refused it", where=where, why=text)
        case 530 if "not found" in words:
            return NotFound("no such virtual host", where=where, why=text)
        case 530 if "limit" in words or "is down" in words:
            return TryAgainLater("refused for now", where=where, why=text)
        case 530:
            return AccessDenied("permission refused", where=where, why=text)
        case 503 | 540:
            return Unsupported("the broker cannot do this", where=where, why=text)
    return ConnectionLost("the broker closed the connection", where=where, why=text or str(code))


_CODES = {
    "ChannelAccessRefused": 403,
    "ChannelNotFoundEntity": 404,
    "ChannelLockedResource": 405,
    "ChannelPreconditionFailed": 406,
}


def code_of(exc: AMQPChannelError) -> tuple[int, str]:
    """Reply code and text of a channel that the broker closed."""
    name = type(exc).__name__
    if name in _CODES:
        return _CODES[name], str(exc.args[0]) if exc.args else ""
    if isinstance(exc, ChannelClosed) and len(exc.args) == 2 and exc.args[0] is not None:
        return int(exc.args[0]), str(exc.args[1])
    return 0, str(exc) or name


def from_connect(exc: BaseException, closed_by: tuple[int, str] | None, where: str) -> MqcliError:
    """Why a connection could not be opened. ``closed_by`` is the broker's own word, if any."""
    if closed_by is not None:
        error = from_reply(*closed_by, where)
        if isinstance(error, ConnectionLost):
            return BrokerUnavailable(
                "the broker refused the connection", where=where, why=error.why
            )
        return error
    if isinstance(exc, AuthenticationError):
        return AccessDenied(
            "login refused",
            where=where,
            why=f"the broker offers {exc.args[0] if exc.args else 'other mechanisms'}",
            hint="?auth_mechanism=plain or external says which to use",
        )
    if isinstance(exc, ssl.SSLCertVerificationError):
        return BrokerUnavailable(
            "the broker's certificate was not accepted",
            where=where,
            why=exc.verify_message,
            hint="?cafile=FILE names the authority to trust",
        )
    if isinstance(exc, ssl.SSLError):
        return BrokerUnavailable(
            "TLS failed", where=where, why=exc.reason or str(exc), hint="is this the port of TLS?"
        )
    if isinstance(exc, OSError) and not isinstance(exc, AMQPError):
        plain = exc.errno is not None and not isinstance(exc, socket.gaierror)
        why = os.strerror(exc.errno) if plain and exc.errno else exc.strerror or str(exc)
        return BrokerUnavailable("cannot connect", where=where, why=why)
    return BrokerUnavailable(
        "no AMQP 0-9-1 session came to be",
        where=where,
        why=str(exc) or type(exc).__name__,
        hint="does the broker want a certificate of ours? ?certfile=FILE shows one"
        if where.startswith("amqps")
        else "is this the broker's AMQP port, and is TLS (amqps://) wanted there?",
    )


def lost(why: str | None, where: str) -> ConnectionLost:
    return ConnectionLost("the connection was lost", where=where, why=why or "")


def alarm(reason: str, where: str) -> TryAgainLater:
    """The broker blocks publishers."""
    return TryAgainLater(
        "the broker takes no messages for now",
        where=where,
        why=f"blocked: {reason or 'no reason given'}",
        hint="it goes on when its alarm is over",
    )
