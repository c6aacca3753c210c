"""What Kafka brokers answer, made into ``mqcli.errors`` once, the most specific first.

The numbers and names are those of the protocol guide, *Error Codes*.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

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
from ..options import nearest

OK = 0
OFFSET_OUT_OF_RANGE = 1
CORRUPT_MESSAGE = 2
UNKNOWN_TOPIC = 3
LEADER_NOT_AVAILABLE = 5
NOT_LEADER = 6
REQUEST_TIMED_OUT = 7
MESSAGE_TOO_LARGE = 10
COORDINATOR_LOADING = 14
COORDINATOR_NOT_AVAILABLE = 15
NOT_COORDINATOR = 16
NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
ILLEGAL_GENERATION = 22
UNKNOWN_MEMBER = 25
REBALANCE_IN_PROGRESS = 27
UNSUPPORTED_VERSION = 35
TOPIC_EXISTS = 36
OUT_OF_ORDER_SEQUENCE = 45
DUPLICATE_SEQUENCE = 46
CONCURRENT_TRANSACTIONS = 51
SASL_FAILED = 58
GROUP_NOT_FOUND = 69
FENCED_LEADER_EPOCH = 74
MEMBER_ID_REQUIRED = 79
INVALID_RECORD = 87
UNKNOWN_TOPIC_ID = 100

NAMES = {
    -1: "UNKNOWN_SERVER_ERROR", 1: "OFFSET_OUT_OF_RANGE", 2: "CORRUPT_MESSAGE",
    3: "UNKNOWN_TOPIC_OR_PARTITION", 5: "LEADER_NOT_AVAILABLE", 6: "NOT_LEADER_OR_FOLLOWER",
    7: "REQUEST_TIMED_OUT", 8: "BROKER_NOT_AVAILABLE", 9: "REPLICA_NOT_AVAILABLE",
    10: "MESSAGE_TOO_LARGE", 13: "NETWORK_EXCEPTION", 14: "COORDINATOR_LOAD_IN_PROGRESS",
    15: "COORDINATOR_NOT_AVAILABLE", 16: "NOT_COORDINATOR", 17: "INVALID_TOPIC_EXCEPTION",
    18: "RECORD_LIST_TOO_LARGE", 19: "NOT_ENOUGH_REPLICAS",
    20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", 21: "INVALID_REQUIRED_ACKS",
    22: "ILLEGAL_GENERATION", 23: "INCONSISTENT_GROUP_PROTOCOL", 24: "INVALID_GROUP_ID",
    25: "UNKNOWN_MEMBER_ID", 26: "INVALID_SESSION_TIMEOUT", 27: "REBALANCE_IN_PROGRESS",
    28: "INVALID_COMMIT_OFFSET_SIZE", 29: "TOPIC_AUTHORIZATION_FAILED",
    30: "GROUP_AUTHORIZATION_FAILED", 31: "CLUSTER_AUTHORIZATION_FAILED",
    32: "INVALID_TIMESTAMP", 33: "UNSUPPORTED_SASL_MECHANISM", 34: "ILLEGAL_SASL_STATE",
    35: "UNSUPPORTED_VERSION", 36: "TOPIC_ALREADY_EXISTS", 37: "INVALID_PARTITIONS",
    38: "INVALID_REPLICATION_FACTOR", 39: "INVALID_REPLICA_ASSIGNMENT", 40: "INVALID_CONFIG",
    41: "NOT_CONTROLLER", 42: "INVALID_REQUEST", 43: "UNSUPPORTED_FOR_MESSAGE_FORMAT",
    44: "POLICY_VIOLATION", 45: "OUT_OF_ORDER_SEQUENCE_NUMBER",
    46: "DUPLICATE_SEQUENCE_NUMBER", 47: "INVALID_PRODUCER_EPOCH", 48: "INVALID_TXN_STATE",
    49: "INVALID_PRODUCER_ID_MAPPING", 50: "INVALID_TRANSACTION_TIMEOUT",
    51: "CONCURRENT_TRANSACTIONS", 52: "TRANSACTION_COORDINATOR_FENCED",
    53: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", 54: "SECURITY_DISABLED",
    56: "KAFKA_STORAGE_ERROR", 58: "SASL_AUTHENTICATION_FAILED", 59: "UNKNOWN_PRODUCER_ID",
    68: "NON_EMPTY_GROUP", 69: "GROUP_ID_NOT_FOUND", 72: "LISTENER_NOT_FOUND",
    73: "TOPIC_DELETION_DISABLED", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH",
    76: "UNSUPPORTED_COMPRESSION_TYPE", 78: "OFFSET_NOT_AVAILABLE", 79: "MEMBER_ID_REQUIRED",
    81: "GROUP_MAX_SIZE_REACHED", 82: "FENCED_INSTANCE_ID", 87: "INVALID_RECORD",
    88: "UNSTABLE_OFFSET_COMMIT", 89: "THROTTLING_QUOTA_EXCEEDED", 90: "PRODUCER_FENCED",
    100: "UNKNOWN_TOPIC_ID",
}  # fmt: skip

RETRIABLE = frozenset({3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 72, 74, 75, 78, 88})
"""Refused for now and not done; asking again, or another broker, may succeed. After 7, 13 and 20
a batch may nevertheless be stored: see ``MAYBE_STORED``."""

MAYBE_STORED = frozenset({-1, 7, 13, 20})

STALE = frozenset({3, 5, 6, 8, 9, 13, 56, 72, 74, 75, 100})
"""What we know of leaders is out of date."""

_DENIED = frozenset({29, 30, 31, 33, 34, 53, 58})
_LATER = frozenset({14, 19, 20, 51, 56, 81, 89})
_UNREACHED = frozenset({5, 6, 7, 8, 9, 13, 15, 16, 41, 72, 74, 75, 78})
_USAGE = frozenset({17, 21, 24, 26, 37, 38, 39, 40, 42, 50})

_HINTS = {
    19: "fewer replicas are in sync than min.insync.replicas asks for",
    20: "fewer replicas are in sync than min.insync.replicas asks for",
    30: "the broker's ACLs decide who may use this group",
    31: "the broker's ACLs decide; for a plain publish, -O idempotent=false needs fewer rights",
    29: "the broker's ACLs decide who may use this topic",
    33: "-O sasl_mechanism= names another one",
    89: "the broker's quota for topic changes is used up",
}


def text(code: int, message: str | None = None) -> str:
    """The broker's words."""
    name = NAMES.get(code, f"error {code}")
    return f"{name}: {message}" if message else name


def failure(code: int, where: str, message: str | None = None, *, what: str = "") -> MqcliError:
    """The error that an answer's code means."""
    why, hint = text(code, message), _HINTS.get(code, "")
    if code in _DENIED:
        login = code in (33, 34, SASL_FAILED)
        return AccessDenied(
            "login refused" if login else "permission refused", where=where, why=why, hint=hint
        )
    if code in (UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID):
        return NotFound(what or "no such topic or partition", where=where, why=why)
    if code == GROUP_NOT_FOUND:
        return NotFound(what or "no such group", where=where, why=why)
    if code in _LATER:
        return TryAgainLater(what or "refused for now", where=where, why=why, hint=hint)
    if code in _UNREACHED:
        return ConnectionLost(what or "no broker could do it", where=where, why=why, hint=hint)
    if code in _USAGE:
        return UsageError(what or "the broker refuses this", where=where, why=why, hint=hint)
    if code == UNSUPPORTED_VERSION:
        return Unsupported(what or "this broker is too old for it", where=where, why=why)
    if code == -1:
        return BrokerUnavailable(what or "the broker failed", where=where, why=why)
    return Refused(what or "the broker refuses it", where=where, why=why, hint=hint)


def no_topic(name: str, known: Sequence[str], where: str) -> NotFound:
    """An unknown topic, with the nearest name of those that exist."""
    guess = nearest(name, known)
    return NotFound(
        f"there is no topic {name!r}",
        where=where,
        hint=f"did you mean {guess!r}?" if guess else "mqcli create makes it",
    )


def cannot_connect(exc: BaseException, where: str, peer: str, tls: bool) -> MqcliError:
    """What kept us from a broker at ``peer`` (host:port)."""
    if isinstance(exc, MqcliError):
        return exc
    hint = ""
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = f"the certificate of {peer} is not trusted: {exc.verify_message}"
        hint = "ssl_ca_certs= names the authority; --insecure goes without"
    elif isinstance(exc, ssl.SSLError):
        why = f"{peer}: {exc.reason or exc}"
        hint = silent_hint(tls)
    elif isinstance(exc, socket.gaierror):
        why = f"{peer}: {exc.strerror}"
    elif isinstance(exc, TimeoutError):
        why, hint = f"{peer} did not answer in time", silent_hint(tls)
    elif isinstance(exc, OSError):
        told = exc.strerror or str(exc)
        why = f"{peer}: {told or 'it closed the connection'}"
        # A refused or unroutable port has a number; one that hung up may speak otherwise.
        hint = "" if exc.errno else silent_hint(tls)
    else:
        why = f"{peer}: {exc}"
    return BrokerUnavailable("cannot connect", where=where, why=why, hint=hint)


def silent_hint(tls: bool) -> str:
    """What may be wrong with a peer that does not speak to us."""
    return (
        "is this port one with TLS? kafka:// is without"
        if tls
        else "is this port one with TLS or a login? then write kafkas://, or USER:PASSWORD@"
    )
