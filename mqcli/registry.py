"""Which class is behind an address. Names are listed without loading; exactly one is loaded.

A plugin registers in the entry-point group ``mqcli.transports.v1``: the name ``SCHEME:KIND`` for a
transport, and ``SCHEME`` for a :class:`mqcli.broker.Broker` if ``ls`` and ``ping`` shall work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from .address import Address, BrokerURL
from .broker import Broker
from .errors import Unsupported, UsageError
from .options import nearest, parse_options
from .transport import Target, Transport

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "GROUP", "broker_target", "kinds", "load", "load_broker", "resolve", "schemes", "target",
    "topics",
]  # fmt: skip

GROUP = "mqcli.transports.v1"


class Known(NamedTuple):
    """Where a class is, and a line for people."""

    path: str
    summary: str


_KNOWN: dict[str, Known] = {
    "amqp": Known("mqcli.transports._amqp:AmqpBroker", "RabbitMQ 3.10 or newer"),
    "amqp:exchange": Known(
        "mqcli.transports.amqp_exchange:AmqpExchange", "exchange, routes to queues"
    ),
    "amqp:queue": Known("mqcli.transports.amqp_queue:AmqpQueue", "queue, classic or quorum"),
    "amqp:stream": Known("mqcli.transports.amqp_stream:AmqpStream", "stream, a log without groups"),
    "kafka": Known("mqcli.transports._kafka_broker:KafkaBroker", "Kafka 2.4 or newer"),
    "kafka:topic": Known(
        "mqcli.transports.kafka_topic:KafkaTopic", "topic, a log in partitions with groups"
    ),
    "redis": Known("mqcli.transports._redis_broker:RedisBroker", "Redis 7 or newer"),
    "redis:channel": Known("mqcli.transports.redis_channel:RedisChannel", "pub/sub channel"),
    "redis:list": Known("mqcli.transports.redis_list:RedisList", "list as a reliable queue"),
    "redis:pattern": Known(
        "mqcli.transports.redis_channel:RedisPattern", "pub/sub channels by pattern, read only"
    ),
    "redis:stream": Known("mqcli.transports.redis_stream:RedisStream", "stream, a log with groups"),
    "sqlite": Known("mqcli.transports._sqlite:SqliteBroker", "the embedded broker, one file"),
    "sqlite:topic": Known("mqcli.transports.sqlite_topic:SqliteTopic", "topic, a log with groups"),
}

_FAMILIES = {
    "amqp": "amqp",
    "amqps": "amqp",
    "kafka": "kafka",
    "kafkas": "kafka",
    "redis": "redis",
    "rediss": "redis",
    "redis+unix": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+cluster": "redis",
    "sqlite": "sqlite",
}


@cache
def _plugins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def schemes(*, plugins: bool = True) -> list[str]:
    """Every scheme an address may begin with. Finding the plugins takes a while: completion asks
    without them first."""
    found = set(_FAMILIES)
    if plugins:
        found.update(name.partition(":")[0] for name in _plugins())
    return sorted(found)


def _family(scheme: str) -> str:
    if scheme in _FAMILIES:
        return _FAMILIES[scheme]
    if any(name.partition(":")[0] == scheme for name in _plugins()):
        return scheme
    guess = nearest(scheme, schemes())
    raise UsageError(
        f"unknown broker scheme {scheme!r}",
        hint=f"did you mean {guess}://?" if guess else f"known: {', '.join(schemes())}",
    )


def kinds(scheme: str) -> dict[str, str]:
    """The kinds of destination on a broker, with a line each. Raises UsageError."""
    family = _family(scheme)
    found = {
        name.partition(":")[2]: known.summary
        for name, known in _KNOWN.items()
        if name.startswith(family + ":")
    }
    if not found or scheme not in _FAMILIES:
        found |= {
            name.partition(":")[2]: f"plugin {point.value}"
            for name, point in _plugins().items()
            if name.startswith(family + ":")
        }
    return found


def topics() -> dict[str, str]:
    """Every SCHEME:KIND there is, with a line each. Loads none."""
    found = {name: known.summary for name, known in _KNOWN.items() if ":" in name}
    plugins = {n: f"plugin {point.value}" for n, point in _plugins().items() if ":" in n}
    return plugins | found


def resolve(address: Address) -> Address:
    """``address`` with its kind. Raises UsageError where it is unknown or must be named."""
    assert address.broker is not None, "the default broker is resolved before the kind"
    known = kinds(address.broker.scheme)
    if address.kind is None:
        if len(known) == 1:
            return address.with_kind(next(iter(known)))
        options = ", ".join(f"{kind}:{address.name or 'NAME'}" for kind in sorted(known))
        raise UsageError(
            f"{address} does not say what kind of destination it is",
            hint=f"write one of {options}",
        )
    if address.kind not in known:
        guess = nearest(address.kind, known) or sorted(known)[0]
        whole = f"{guess}:{address.kind}:{address.name}"
        raise UsageError(
            f"unknown kind {address.kind!r} in {address}",
            hint=f"did you mean {guess}:{address.name}? For a name with a colon write {whole}"
            f" (kinds here: {', '.join(sorted(known))})",
        )
    return address


def _load(name: str) -> type:
    known = _KNOWN.get(name)
    if known is None:
        loaded = _plugins()[name].load()
    else:
        module, _, attribute = known.path.partition(":")
        loaded = getattr(import_module(module), attribute)
    assert isinstance(loaded, type)
    return loaded


def load(address: Address) -> type[Transport]:
    """The transport class of a resolved address; this imports its driver."""
    assert address.broker is not None
    loaded = _load(f"{_family(address.broker.scheme)}:{address.kind}")
    assert issubclass(loaded, Transport), loaded
    return loaded


def load_broker(url: BrokerURL) -> type[Broker]:
    """The broker class of a URL. Raises Unsupported for a plugin that has none."""
    family = _family(url.scheme)
    if family not in _KNOWN and family not in _plugins():
        raise Unsupported(
            "this broker cannot be listed or pinged as a whole",
            where=str(url),
            hint="use describe with one of its destinations",
        )
    loaded = _load(family)
    assert issubclass(loaded, Broker), loaded
    return loaded


def target(
    address: Address,
    pairs: Sequence[tuple[str, str]] = (),
    *,
    connect_timeout: float = 10.0,
    insecure: bool = False,
    client_name: str = "mqcli",
) -> tuple[type[Transport], Target]:
    """The class behind an address, and what to make it from. ``pairs`` are those of ``-O``; the
    address's own parameters come before them. Opens nothing. Raises UsageError."""
    address = resolve(address)
    cls = load(address)
    assert address.broker is not None
    where = str(address.with_name(address.name))
    connection, options = parse_options(
        [*address.broker.query, *address.query, *pairs], cls.Connection, cls.Options, where=where
    )
    cls = cls.variant(options)
    return cls, Target(address, connection, options, connect_timeout, insecure, client_name)


def broker_target(
    url: BrokerURL,
    pairs: Sequence[tuple[str, str]] = (),
    *,
    connect_timeout: float = 10.0,
    insecure: bool = False,
    client_name: str = "mqcli",
) -> tuple[type[Broker], Target]:
    """As :func:`target`, for a broker as a whole."""
    cls = load_broker(url)
    (connection,) = parse_options([*url.query, *pairs], cls.Connection, where=str(url))
    address = Address("", broker=url)
    return cls, Target(address, connection, None, connect_timeout, insecure, client_name)
