"""The connection to RabbitMQ: options, hosts, TLS, login, channels, and the errors of all that.

aiormq (the driver under aio-pika) connects, logs in, sends heartbeats and does the topology;
batches of messages go over the same connection beside it, see ``_amqp_wire``. Nothing reconnects
by itself: that is the client's, so that no gap and no unknown fate is hidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import aiormq
import msgspec
from aiormq.abc import AbstractChannel
from aiormq.channel import Channel
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPChannelError, AMQPError
from msgspec import Meta
from pamqp.base import Frame
from yarl import URL

from .._version import __version__
from ..address import Host
from ..broker import Broker, Entry
from ..errors import AccessDenied, BrokerUnavailable, ConfigError, MqcliError, UsageError
from ..transport import Target
from . import _amqp_errors as errors
from ._amqp_wire import Tap, Wire, open_wire

__all__ = ["AmqpBroker", "AmqpLink", "AmqpOptions", "name_of", "vhost_of"]

T = TypeVar("T")
CLOSE_SECONDS = 2.0

# The driver tells its user through the log what it also raises; without a handler Python would
# print that to stderr.
logging.getLogger("aiormq").addHandler(logging.NullHandler())


class AmqpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The connection's options, named as in RabbitMQ's and aio-pika's URLs."""

    heartbeat: Annotated[
        Annotated[int, Meta(ge=0, le=32767)],
        Meta(description="seconds between heartbeats; after twice that the peer is lost; 0 none"),
    ] = 30
    auth_mechanism: Annotated[
        Literal["plain", "external"], Meta(description="external: by the client's certificate")
    ] = "plain"
    cafile: Annotated[str | None, Meta(description="the authorities to trust, PEM")] = None
    cacertfile: Annotated[str | None, Meta(description="the same, RabbitMQ's name for it")] = None
    certfile: Annotated[str | None, Meta(description="our certificate, PEM")] = None
    keyfile: Annotated[str | None, Meta(description="its private key, PEM")] = None
    name: Annotated[str | None, Meta(description="the connection's name, for operators")] = None
    management: Annotated[
        str | None, Meta(description="URL of the management API; http://HOST:15672 by default")
    ] = None


def vhost_of(target: Target) -> str:
    """The virtual host that the address names. Raises UsageError for a longer path."""
    url = target.address.broker
    assert url is not None
    if len(url.path) > 1:
        raise UsageError(
            f"the path has too many parts: {'/'.join(url.path)}",
            where=target.where,
            hint="at most a virtual host stands before the destination; write / in it as %2F",
        )
    return url.path[0] if url.path else "/"


def name_of(target: Target) -> str:
    return target.address.name


def is_loopback(host: Host) -> bool:
    return host.name in ("localhost", "::1") or host.name.startswith("127.")


def login_of(target: Target) -> tuple[str, str]:
    """User and password. Raises AccessDenied where none are given and none may be assumed."""
    url, options = target.address.broker, target.connection
    assert url is not None
    if options.auth_mechanism == "external":
        return url.username or "", ""
    if url.username is None and url.password is None:
        if all(is_loopback(host) for host in url.hosts):
            return "guest", "guest"
        raise AccessDenied(
            "no user is given, and guest is assumed on this machine only",
            where=target.where,
            hint=f"write {url.scheme}://USER:PASSWORD@HOST, or guest:guest@ if you mean it",
        )
    if not url.password or not url.username:
        missing = "password" if url.username else "user"
        raise AccessDenied(
            f"no {missing} is given",
            where=target.where,
            hint=f"write {url.scheme}://USER:PASSWORD@HOST",
        )
    return url.username, url.password


def tls_of(target: Target) -> ssl.SSLContext | None:
    """None for amqp://. Raises UsageError for options without TLS, ConfigError for their files."""
    url, options = target.address.broker, target.connection
    assert url is not None
    files = ("cafile", "cacertfile", "certfile", "keyfile")
    if url.scheme != "amqps":
        for name in files:
            if getattr(options, name) is not None:
                raise UsageError(
                    f"the option {name!r} needs TLS",
                    where=target.where,
                    hint="write amqps:// for amqp://",
                )
        return None
    if options.keyfile and not options.certfile:
        raise UsageError("keyfile is given without certfile", where=target.where)
    try:
        context = ssl.create_default_context(cafile=options.cafile or options.cacertfile)
        if options.certfile:
            context.load_cert_chain(options.certfile, options.keyfile)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            "a TLS file cannot be used", where=target.where, why=str(exc.strerror or exc)
        ) from exc
    if target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Factory(TransportFactory):
    """aiormq's door to a reader and writer of ours."""

    def __init__(self) -> None:
        self.wire: Wire | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = kwargs.pop("ssl_context_provider")
        if url.scheme == "amqps":
            kwargs["ssl"] = await provider.get_context()
        assert url.host is not None and url.port is not None
        loop = asyncio.get_running_loop()
        self.wire, reader, writer = await open_wire(url.host, url.port, loop, **kwargs)
        return reader, writer


class _Loop:
    """The event loop as aiormq gets it: remembers its tasks, for some outlive its ``close``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.tasks: set[asyncio.Task[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coro, **kwargs)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it has been told by other ways

    async def rest(self) -> None:
        """Return when all is over, or after a while."""
        deadline = self._loop.time() + CLOSE_SECONDS
        while self.tasks and (left := deadline - self._loop.time()) > 0:
            await asyncio.wait(self.tasks, timeout=left)
        # What it shielded from a cancellation has nothing left to wait for but its turn.
        for _ in range(5):
            await asyncio.sleep(0)


class AmqpLink:
    """One connection. Making one opens nothing and raises UsageError for what cannot be meant."""

    def __init__(self, target: Target) -> None:
        self.target, self.where = target, target.where
        self.vhost = vhost_of(target)
        self.options: AmqpOptions = target.connection
        self.user: str | None = None
        """Whom the broker takes us for; None where a certificate says it."""
        self._connection: Any = None
        self._wire: Wire | None = None
        self._loop: _Loop | None = None

    @property
    def wire(self) -> Wire:
        assert self._wire is not None, "the transport is not open"
        return self._wire

    @property
    def frame_max(self) -> int:
        return int(self._connection.connection_tune.frame_max)

    @property
    def server(self) -> dict[str, Any]:
        """What the broker said of itself when it was connected to."""
        return dict(self._connection.server_properties)

    @property
    def version(self) -> tuple[int, ...]:
        """Of the broker; (0,) where it does not tell."""
        numbers = str(self.server.get("version", "")).split(".")[:3]
        return tuple(int(n) for n in numbers if n.isascii() and n.isdigit()) or (0,)

    async def open(self) -> None:
        """Connect to the first host that answers, in their order, within ``connect_timeout`` in
        all. Raises BrokerUnavailable, AccessDenied, NotFound (vhost), TryAgainLater, ConfigError.
        """
        url = self.target.address.broker
        assert url is not None
        login, context = login_of(self.target), tls_of(self.target)
        self.user = login[0] or None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.target.connect_timeout
        error: MqcliError | None = None
        for number, host in enumerate(url.hosts):
            share = (deadline - loop.time()) / (len(url.hosts) - number)
            try:
                await self._connect(host, login, context, share)
                return
            except BrokerUnavailable as exc:
                error = exc
        assert error is not None
        raise error

    async def _connect(
        self, host: Host, login: tuple[str, str], context: ssl.SSLContext | None, seconds: float
    ) -> None:
        url = self.target.address.broker
        assert url is not None
        factory = _Factory()
        external = self.options.auth_mechanism == "external"
        made = URL.build(
            scheme=url.scheme, user=login[0] or None, password=login[1] or None, host=host.name,
            port=host.port or (5671 if context else 5672),
            query={"heartbeat": str(self.options.heartbeat),
                   "auth": "external" if external else "plain",
                   "name": self.options.name or self.target.client_name},
        )  # fmt: skip
        loop = _Loop(asyncio.get_running_loop())
        connection = aiormq.Connection(
            made, loop=cast(asyncio.AbstractEventLoop, loop), context=context,
            transport_factory=factory,
            client_properties={"product": "mqcli", "version": __version__},
        )  # fmt: skip
        connection.vhost = self.vhost
        where = f"{self.where} ({host})" if len(url.hosts) > 1 else self.where
        try:
            async with asyncio.timeout(seconds):
                await connection.connect()
        except BaseException as exc:
            with contextlib.suppress(AMQPError, OSError):
                await connection.close()
            wire = factory.wire
            if wire is not None and wire.transport is not None:
                wire.transport.abort()
            await loop.rest()
            if isinstance(exc, TimeoutError):
                raise BrokerUnavailable(f"no answer within {seconds:.3g} s", where=where) from exc
            if not isinstance(exc, Exception):
                raise
            raise errors.from_connect(exc, wire.closed_by if wire else None, where) from exc
        self._connection, self._wire, self._loop = connection, factory.wire, loop
        if self.options.heartbeat:
            self.wire.watch(2.0 * self.options.heartbeat)

    async def aclose(self) -> None:
        """Say goodbye to the broker, within a few seconds. Safe twice."""
        connection, wire = self._connection, self._wire
        if connection is None or wire is None:
            return
        self._connection = None
        try:
            if wire.blocked is None and wire.lost is None:
                await self._goodbye(connection)
        finally:
            if wire.transport is not None:
                wire.transport.abort()
            await self._goodbye(connection)
            if self._loop is not None:
                await self._loop.rest()

    @staticmethod
    async def _goodbye(connection: Any) -> None:
        with contextlib.suppress(AMQPError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()

    # --- channels and topology --------------------------------------------------------------------

    def check(self) -> None:
        """Raises ConnectionLost when the connection is gone."""
        if self._wire is not None and self._wire.lost is not None:
            raise errors.lost(self._wire.lost, self.where)
        if self._connection is None:
            raise errors.lost("it was closed", self.where)

    async def channel(self, tap: Tap | None = None) -> AbstractChannel:
        """A new channel; with ``tap`` its content goes there."""
        channel: AbstractChannel = await self.ask(
            lambda: self._connection.channel(publisher_confirms=False)
        )
        if tap is not None:
            tap.number = channel.number
            self.wire.tap(tap)
        return channel

    async def ask(self, question: Callable[[], Awaitable[T]], where: str = "") -> T:
        """The answer of one method. Raises what the broker's refusal means, ConnectionLost,
        BrokerUnavailable when nothing came within the time to connect, TryAgainLater then if the
        broker is blocked."""
        self.check()
        where = where or self.where
        seconds = self.target.connect_timeout
        try:
            async with asyncio.timeout(seconds):
                with self.wire.answering():
                    return await question()
        except AMQPChannelError as exc:
            if self.wire.lost is not None or self.wire.closed_by is not None:
                raise self._gone(where) from exc
            code, text = errors.code_of(exc)
            raise errors.from_reply(code, text, where) from exc
        except TimeoutError as exc:
            if self.wire.lost is None and self.wire.blocked is not None:
                raise errors.alarm(self.wire.blocked, where) from exc
            raise BrokerUnavailable(f"no answer within {seconds:g} s", where=where) from exc
        except (AMQPError, OSError, RuntimeError) as exc:
            raise self._gone(where, str(exc)) from exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._gone(where) from exc  # the driver cancels what waits when it closes

    def _gone(self, where: str, why: str = "") -> MqcliError:
        wire = self.wire
        if wire.closed_by is not None:
            return errors.from_reply(*wire.closed_by, where)
        return errors.lost(wire.lost or why, where)

    @staticmethod
    async def rpc(channel: AbstractChannel, frame: Frame) -> Any:
        """A method that aiormq's own calls cannot express, as a question for ``ask``."""
        assert isinstance(channel, Channel)
        return await channel.rpc(frame)

    async def once(self, frame: Frame) -> Any:
        """One method on a channel of its own, which a refusal closes. Raises as ``ask``."""
        channel = await self.channel()
        try:
            return await self.ask(lambda: self.rpc(channel, frame))
        finally:
            await self.close_channel(channel)

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Safe when it, or the connection, is closed already."""
        if self._wire is None or self._wire.lost is not None or self._connection is None:
            return
        with contextlib.suppress(AMQPError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await channel.close()


class AmqpBroker(Broker):
    """A RabbitMQ server, for ``ping`` and ``ls``."""

    Connection = AmqpOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._link = AmqpLink(target)

    async def open(self) -> None:
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def ping(self) -> dict[str, Any]:
        """A channel opened and closed: nothing else needs no permission."""
        link = self._link
        channel = await link.channel()
        await link.close_channel(channel)
        server = link.server
        found = {
            "product": server.get("product"),
            "version": server.get("version"),
            "cluster": server.get("cluster_name"),
            "platform": server.get("platform"),
            "vhost": link.vhost,
            "frame_max": link.frame_max,
            "heartbeat": link.options.heartbeat,
        }
        return {name: value for name, value in found.items() if value is not None}

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """From the management API: AMQP itself cannot list. Raises BrokerUnavailable where that
        does not answer."""
        from ._amqp_management import Management

        return await Management(self.target).ls(kind)
