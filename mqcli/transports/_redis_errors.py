"""What Redis and redis-py say, made into ``mqcli.errors`` once, the most specific first."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    Refused,
    TryAgainLater,
    Unsupported,
    UsageError,
)

_DENIED = {
    "NOAUTH": "the server wants a login: write redis://USER:PASSWORD@HOST",
    "WRONGPASS": "",
    "NOPERM": "the ACL of this user decides (ACL WHOAMI, ACL GETUSER)",
}
_LATER = {
    "LOADING": "the server is loading its data; try again soon",
    "READONLY": "this server is a read-only replica; use the master, or redis+sentinel://",
    "OOM": "the server is at its maxmemory limit",
    "MISCONF": "the server cannot save to disk and refuses writes",
    "CLUSTERDOWN": "the cluster does not cover all slots",
    "MASTERDOWN": "this replica has lost its master",
    "TRYAGAIN": "the slot of this key is being moved",
    "BUSY": "a script is running too long on the server",
    "NOREPLICAS": "the server has fewer replicas than min-replicas-to-write wants",
}
_DENIED_WORDS = ("without any password configured", "no password is set", "invalid password")


def reply_text(exc: RedisError) -> str:
    """An error reply as the server wrote it: redis-py cuts the code off into ``status_code``."""
    code = getattr(exc, "status_code", None)
    return f"{code} {exc}" if code and not str(exc).startswith(str(code)) else str(exc)


def from_reply(text: str, where: str) -> MqcliError:
    """The error that an error reply means."""
    code = text.partition(" ")[0]
    if code in _DENIED or any(words in text for words in _DENIED_WORDS):
        what = "permission refused" if code == "NOPERM" else "login refused"
        return AccessDenied(what, where=where, why=text, hint=_DENIED.get(code, ""))
    if code in _LATER:
        return TryAgainLater("refused for now", where=where, why=text, hint=_LATER[code])
    if "max number of clients" in text:
        return TryAgainLater("refused for now", where=where, why=text, hint="CONFIG GET maxclients")
    if code == "WRONGTYPE":
        return UsageError("the key holds another kind of value", where=where, why=text)
    if code in ("MOVED", "ASK") or "not allowed in cluster mode" in text:
        return UsageError(
            "this server is part of a cluster", where=where, why=text, hint="use redis+cluster://"
        )
    if "cluster support disabled" in text:
        return UsageError("this server is no cluster", where=where, why=text, hint="use redis://")
    if code == "CROSSSLOT":
        return UsageError("the keys are on different cluster nodes", where=where, why=text)
    if code == "NOGROUP":
        return NotFound("no such stream or group", where=where, why=text)
    if "DB index" in text:
        return NotFound("no such database", where=where, why=text)
    if "unknown command" in text or "unknown subcommand" in text:
        return Unsupported(
            "this server lacks a command",
            where=where,
            why=text,
            hint="Redis 7.0 or newer is needed",
        )
    return Refused("the server refused", where=where, why=text)


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def from_connect(exc: BaseException, where: str, peer: str, tls: bool) -> MqcliError:
    """The error that a failed connect or login means. ``peer`` is host:port or a path."""
    causes = list(_chain(exc))
    for cause in causes:
        if isinstance(cause, MqcliError):
            return cause
        if isinstance(cause, AuthenticationError | NoPermissionError):
            return AccessDenied("login refused", where=where, why=reply_text(cause))
        if isinstance(cause, ResponseError):
            return from_reply(reply_text(cause), where)
    what, hint, why = "cannot connect", "", ""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"the TLS certificate of {peer} is not trusted: {cause.verify_message}"
            hint = "name its authority with ssl_ca_certs=FILE, or use --insecure"
        elif isinstance(cause, ssl.SSLError):
            reason = str(cause.reason or cause).lower().replace("_", " ")
            why = f"TLS with {peer} failed: {reason}"
            if "wrong version" in reason or "record layer" in reason or "packet length" in reason:
                hint = "the port does not seem to speak TLS; try redis:// in place of rediss://"
        elif isinstance(cause, socket.gaierror):
            why = f"the name of {peer} does not resolve: {cause.strerror}"
        elif isinstance(cause, ConnectionRefusedError):
            why, hint = f"{peer} refused the connection", "is the server running there?"
        elif isinstance(cause, TimeoutError):
            why, hint = f"{peer} did not answer in time", silent_hint(tls)
        elif isinstance(cause, FileNotFoundError):
            why = f"{peer} does not exist"
        if why:
            return BrokerUnavailable(what, where=where, why=why, hint=hint)
    last = next((c for c in reversed(causes) if isinstance(c, OSError)), exc)
    why = f"{peer}: {last}"
    if "closed by server" in str(last).lower() or isinstance(last, ConnectionResetError):
        hint = _closed_hint(tls)
    elif "refused" in str(last).lower() or "Connect call failed" in str(last):
        why, hint = f"{peer} refused the connection", "is the server running there?"
    return BrokerUnavailable(what, where=where, why=why, hint=hint)


def _closed_hint(tls: bool) -> str:
    return "" if tls else "if the port speaks TLS, use rediss:// in place of redis://"


def silent_hint(tls: bool) -> str:
    """A plain Redis waits for ever for the end of what TLS said to it."""
    return "if the port does not speak TLS, use redis:// in place of rediss://" if tls else ""


def farewell(said: bytes, where: str, peer: str, tls: bool) -> MqcliError:
    """The peer hung up on us; ``said`` is what it said before it was asked anything."""
    if said.startswith(b"-"):
        return from_reply(said[1:].decode("utf-8", "replace").strip(), where)
    return BrokerUnavailable(
        "cannot connect", where=where, why=f"{peer} closed the connection", hint=_closed_hint(tls)
    )


def ends_login(text: str) -> bool:
    """Whether an error reply to the first commands, whose answers matter to nobody, says that no
    other command will succeed. A server that cannot save (MISCONF) can be read all the same."""
    return "max number of clients" in text or not text.startswith(("NOPERM", "ERR", "MISCONF"))


def lost(where: str, why: str) -> ConnectionLost:
    return ConnectionLost("the connection broke", where=where, why=why)
