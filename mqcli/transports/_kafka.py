"""The connection to a Kafka cluster: options, bootstrap, metadata, requests to the right broker.

aiokafka gives the requests and answers of the protocol, the record format and the login steps
(``PRIVATE`` names the modules, which are not documented as public; a test names each thing used).
The client above them is our own, for guarantees that aiokafka's producer and consumer cannot give:
every wait has a deadline (its idempotent producer waits for ever for a broker that died), a login's
refusal comes with the broker's words, asking for metadata never creates a topic, a batch that the
broker refuses does not spoil the ones behind it, and an offset out of range is never skipped over
in silence.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from msgspec import Meta, Struct

from ..errors import BrokerUnavailable, ConnectionLost, MqcliError, NotFound, UsageError
from ..transport import Target
from . import _kafka_errors as errors
from ._kafka_wire import STRONGEST_FIRST, Login, NoMechanism, Wire

__all__ = ["Cluster", "KafkaOptions", "Partition", "topic_name"]

PRIVATE = (
    "aiokafka.codec",
    "aiokafka.conn",
    "aiokafka.coordinator",
    "aiokafka.protocol",
    "aiokafka.record",
)
"""Modules of aiokafka that are used below its documented interface."""

PORT = 9092
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_RETRY_PAUSE = 0.1

# At the level DEBUG aiokafka logs whole requests, with passwords and content.
_log = logging.getLogger("aiokafka")
_log.addHandler(logging.NullHandler())
_log.setLevel(logging.INFO)


class KafkaOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The connection's options."""

    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None,
        Meta(description="how to log in; by default the strongest that the broker knows"),
    ] = None
    oauth_token_file: Annotated[
        str | None,
        Meta(description="file that holds the token for OAUTHBEARER, read at each login"),
    ] = None
    allow_plaintext_login: Annotated[
        bool, Meta(description="send the password unencrypted to another machine (PLAIN, no TLS)")
    ] = False
    ssl_ca_certs: Annotated[
        str | None, Meta(description="file of the authorities to trust, PEM")
    ] = None
    ssl_certfile: Annotated[str | None, Meta(description="file of our certificate, PEM")] = None
    ssl_keyfile: Annotated[str | None, Meta(description="file of its private key, PEM")] = None
    ssl_password: Annotated[str | None, Meta(description="passphrase of the private key")] = None


class Partition(Struct, frozen=True):
    """What the metadata say of a partition; leader -1 is none."""

    leader: int
    replicas: tuple[int, ...] = ()
    isr: tuple[int, ...] = ()


def topic_name(target: Target) -> str:
    """The topic of the address. Raises UsageError for what no topic can be called."""
    name = target.address.name
    legal = name.isascii() and all(char.isalnum() or char in "._-" for char in name)
    if not legal or not 0 < len(name) < 250 or name in (".", ".."):
        raise UsageError(
            f"{name!r} cannot be the name of a topic",
            where=target.where,
            hint="Kafka allows letters, digits, '.', '_' and '-', at most 249 of them",
        )
    return name


def login(target: Target) -> Login | None:
    """How to log in; None for not at all. Raises UsageError for options that do not fit, and for a
    password that would travel unencrypted."""
    url, options = target.address.broker, target.connection
    assert url is not None
    where, tls = target.where, url.scheme == "kafkas"
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_password"):
        if getattr(options, name) is not None and not tls:
            raise UsageError(
                f"the option {name!r} needs TLS", where=where, hint="write kafkas:// for kafka://"
            )
    if options.ssl_keyfile and not options.ssl_certfile:
        raise UsageError("ssl_keyfile is given without ssl_certfile", where=where)
    if url.path:
        raise UsageError(f"the path has too many parts: {'/'.join(url.path)}", where=where)
    mechanism = options.sasl_mechanism
    if options.oauth_token_file is not None and mechanism is None:
        mechanism = "OAUTHBEARER"
    if mechanism == "OAUTHBEARER":
        if options.oauth_token_file is None:
            raise UsageError("OAUTHBEARER needs -O oauth_token_file=FILE", where=where)
    elif options.oauth_token_file is not None:
        raise UsageError(f"oauth_token_file does not go with {mechanism}", where=where)
    elif url.username is None:
        if mechanism is not None:
            raise UsageError(
                f"{mechanism} needs a login", where=where, hint="write kafka://USER:PASSWORD@HOST"
            )
        return None
    open_line = not tls and any(host.name not in _LOOPBACK for host in url.hosts)
    guarded = open_line and not options.allow_plaintext_login
    if guarded and mechanism in ("PLAIN", "OAUTHBEARER"):
        raise UsageError(
            f"{mechanism} without TLS would send the secret readable over the network",
            where=where,
            hint="write kafkas://, or -O sasl_mechanism=SCRAM-SHA-512, or allow it with"
            " -O allow_plaintext_login=true",
        )
    usable = tuple(m for m in STRONGEST_FIRST if not (guarded and m == "PLAIN"))
    return Login(
        (mechanism,) if mechanism else usable,
        url.username or "",
        url.password or "",
        options.oauth_token_file or "",
    )


def _tls(target: Target) -> ssl.SSLContext:
    options = target.connection
    try:
        context = ssl.create_default_context(cafile=options.ssl_ca_certs)
        if options.ssl_certfile:
            context.load_cert_chain(
                options.ssl_certfile, options.ssl_keyfile, options.ssl_password or ""
            )
    except OSError as exc:
        raise UsageError(
            "the TLS files cannot be used", where=target.where, why=str(exc.strerror or exc)
        ) from exc
    if target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Cluster:
    """The brokers behind an address, and one connection to each that is needed."""

    def __init__(self, target: Target) -> None:
        """Opens nothing. Raises UsageError."""
        self.target, self.where = target, target.where
        self.cluster_id: str | None = None
        self.controller = -1
        self.nodes: dict[int, tuple[str, int]] = {}
        self._login = login(target)
        self._tls: ssl.SSLContext | None = None
        self._wires: dict[tuple[int, bool], Wire] = {}
        self._bootstrap: Wire | None = None
        self._locks: dict[tuple[int, bool], asyncio.Lock] = {}
        self._client = target.client_name.replace(" ", "/").replace("/", "-", 1)

    @property
    def patience(self) -> float:
        """Seconds for what is neither a publish nor a read."""
        return self.target.connect_timeout

    async def open(self) -> None:
        """Connect to the first host that answers, and learn the brokers. Raises
        BrokerUnavailable within ``connect_timeout``, AccessDenied, UsageError (TLS files)."""
        url = self.target.address.broker
        assert url is not None
        if url.scheme == "kafkas" and self._tls is None:
            self._tls = _tls(self.target)
        deadline = time.monotonic() + self.patience
        last: MqcliError | None = None
        for left, host in zip(range(len(url.hosts), 0, -1), url.hosts, strict=True):
            share = max(0.01, (deadline - time.monotonic()) / left)
            try:
                self._bootstrap = await self._connect(host.name, host.port or PORT, share)
                await self.metadata([], share)
                self._adopt(host.name, host.port or PORT)
                return
            except ConnectionLost as exc:  # it hung up on the first real request
                hint = errors.silent_hint(self._tls is not None)
                last = BrokerUnavailable("cannot connect", where=self.where, why=exc.why, hint=hint)
            except BrokerUnavailable as exc:
                last = exc
        assert last is not None
        raise last

    def _adopt(self, host: str, port: int) -> None:
        """Use the first connection for the broker behind it, where the names are the same."""
        for node, place in self.nodes.items():
            if place == (host, port) and self._bootstrap is not None:
                self._wires[node, False], self._bootstrap = self._bootstrap, None

    async def aclose(self) -> None:
        """Safe twice, and after a failed open."""
        wires = [*self._wires.values(), *([self._bootstrap] if self._bootstrap else [])]
        self._wires.clear()
        self._bootstrap = None
        await asyncio.gather(*(wire.aclose() for wire in wires))

    async def _connect(self, host: str, port: int, timeout: float) -> Wire:
        while True:
            try:
                return await Wire.connect(
                    self.where, host, port, self._client, self._tls, self._login, timeout
                )
            except NoMechanism:
                assert self._login is not None
                if len(self._login.mechanisms) == 1:
                    raise
                rest = self._login.mechanisms[1:]
                self._login = Login(rest, self._login.username, self._login.password)

    async def wire(self, node: int, *, apart: bool = False) -> Wire:
        """The connection to a broker; ``apart`` is a second one, for requests that a broker answers
        late, and everything behind them with it. Raises ConnectionLost that names what the broker
        advertises, AccessDenied."""
        key = (node, apart)
        found = self._wires.get(key)
        if found is not None and found.broken is None:
            return found
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._wires.get(key)
            if found is not None and found.broken is None:
                return found
            if node not in self.nodes:
                raise ConnectionLost(f"the cluster has no broker {node} now", where=self.where)
            if found is not None:
                await found.aclose()
            host, port = self.nodes[node]
            try:
                made = await self._connect(host, port, self.patience)
            except ConnectionLost:
                raise
            except BrokerUnavailable as exc:
                raise ConnectionLost(
                    f"broker {node} cannot be reached",
                    where=self.where,
                    why=exc.why,
                    hint=f"{host}:{port} is what the broker itself advertises"
                    " (advertised.listeners)",
                ) from exc
            self._wires[key] = made
            return made

    def ready_wire(self, node: int) -> Wire | None:
        """The connection to a broker if there is one now."""
        found = self._wires.get((node, False))
        return found if found is not None and found.broken is None else None

    async def any_wire(self) -> Wire:
        """A connection to whichever broker can be reached. Raises ConnectionLost, AccessDenied."""
        ours = [wire for (_, apart), wire in self._wires.items() if not apart]
        for wire in (self._bootstrap, *ours):
            if wire is not None and wire.broken is None:
                return wire
        last: MqcliError | None = None
        for node in random.sample(sorted(self.nodes), len(self.nodes)):
            try:
                return await self.wire(node)
            except BrokerUnavailable as exc:
                last = exc
        raise last or ConnectionLost("not connected", where=self.where)

    async def call(
        self, request: Any, node: int | None = None, timeout: float = 0, *, apart: bool = False
    ) -> Any:
        """The answer of broker ``node`` (None: of any). Raises ConnectionLost, AccessDenied,
        Unsupported."""
        wire = await (self.any_wire() if node is None else self.wire(node, apart=apart))
        return await wire.call(request, timeout or self.patience)

    async def metadata(self, topics: Sequence[str] | None, timeout: float = 0) -> Any:
        """The cluster's description with these topics (None: all, empty: none); never creates one.
        Raises ConnectionLost, AccessDenied."""
        request = MetadataRequest(
            None if topics is None else list(topics), allow_auto_topic_creation=False
        )
        answer = await self.call(request, timeout=timeout)
        if answer.brokers:
            self.nodes = {node: (host, port) for node, host, port, _ in answer.brokers}
        self.controller = answer.controller_id
        self.cluster_id = answer.cluster_id
        return answer

    async def topic(self, name: str) -> dict[int, Partition]:
        """The partitions of a topic. Raises NotFound (with the nearest name), AccessDenied,
        ConnectionLost."""
        answer = await self.metadata([name])
        code, _, _, partitions = answer.topics[0]
        if code in (errors.UNKNOWN_TOPIC, errors.UNKNOWN_TOPIC_ID):
            raise errors.no_topic(name, await self.names(), self.where)
        if code and code != errors.LEADER_NOT_AVAILABLE:
            raise errors.failure(code, self.where)
        return _partitions(partitions)

    async def topics(self) -> dict[str, tuple[bool, dict[int, Partition]]]:
        """All topics that we may see: whether each is the broker's own, and its partitions."""
        answer = await self.metadata(None)
        return {
            name: (internal, _partitions(partitions))
            for code, name, internal, partitions in answer.topics
            if code in (errors.OK, errors.LEADER_NOT_AVAILABLE)
        }

    async def names(self) -> list[str]:
        """The names of all topics that are not the broker's own."""
        return sorted(name for name, (internal, _) in (await self.topics()).items() if not internal)

    async def coordinator(self, key: str, *, transaction: bool = False) -> int:
        """The broker that keeps a group, or a transaction. Waits while it is being elected.
        Raises ConnectionLost, AccessDenied."""
        deadline = time.monotonic() + self.patience
        while True:
            answer = await self.call(FindCoordinatorRequest(key, int(transaction)))
            if answer.error_code == errors.OK:
                self.nodes.setdefault(answer.coordinator_id, (answer.host, answer.port))
                return int(answer.coordinator_id)
            if answer.error_code not in errors.RETRIABLE or time.monotonic() > deadline:
                raise errors.failure(
                    answer.error_code, self.where, getattr(answer, "error_message", None)
                )
            await asyncio.sleep(_RETRY_PAUSE)


def _partitions(rows: Iterable[Any]) -> dict[int, Partition]:
    found = {row[1]: Partition(row[2], tuple(row[3]), tuple(row[4])) for row in rows}
    return dict(sorted(found.items()))


async def leaders(cluster: Cluster, name: str, wanted: Iterable[int]) -> dict[int, int]:
    """The leader of each wanted partition. Waits while one is being elected.
    Raises NotFound, ConnectionLost, AccessDenied."""
    deadline = time.monotonic() + cluster.patience
    wanted = list(wanted)
    while True:
        known = await cluster.topic(name)
        missing = [number for number in wanted if number not in known]
        if missing:
            raise NotFound(
                f"the topic has no partition {missing[0]}",
                where=cluster.where,
                hint=f"it has {len(known)}, counted from 0",
            )
        headless = [number for number in wanted if known[number].leader < 0]
        if not headless:
            return {number: known[number].leader for number in wanted}
        if time.monotonic() > deadline:
            raise ConnectionLost(
                f"partition {headless[0]} has no leader",
                where=cluster.where,
                why="the brokers that hold it are down",
            )
        await asyncio.sleep(_RETRY_PAUSE)
