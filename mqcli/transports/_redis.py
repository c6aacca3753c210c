"""The connection to Redis: options, topology, and packed commands with their replies in batches.

redis-py resolves, connects, does TLS, logs in and selects the database. Then its socket is handed
to a protocol of our own, which writes commands that are packed already and parses replies with
hiredis by the chunk; redis-py's own path costs a task switch a reply. This is the one file that
touches a private part of redis-py (``PRIVATE``); where that is missing, the public path is taken.

Nothing is ever sent twice, except what a cluster node answered with a redirect, which it did not
execute. The protocol is RESP2: redis-py would change the shapes of replies behind our back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple

import hiredis
import redis.asyncio
from hiredis import ReplyError
from msgspec import Meta, Struct
from redis.crc import key_slot
from redis.exceptions import RedisError

from ..errors import (
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    Refused,
    UsageError,
)
from ..transport import Target
from . import _redis_errors as errors
from ._redis_packing import pack
from ._redis_wire import PublicWire, Replies, Wire, unasked

__all__ = ["RedisLink", "RedisOptions", "ReplyError", "key_of", "plan"]

PRIVATE = ("_writer", "_reader")
"""What is used of redis-py's connection although it is private."""

_MAX_REDIRECTS = 16
DURABLE = (
    "server-memory: in one server's memory; on disk and on replicas when that server is set to"
)
# proto-max-bulk-len: its least possible value and its default (redis.conf).
_SMALLEST_LIMIT, _USUAL_LIMIT = 1 << 20, 512 << 20


class RedisOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The connection's options, named as in redis-py's URLs."""

    db: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="database number, 0 by default")
    ] = None
    ssl_ca_certs: Annotated[
        str | None, Meta(description="file of the authorities to trust, PEM")
    ] = None
    ssl_ca_path: Annotated[
        str | None, Meta(description="folder of the authorities to trust, hashed names")
    ] = None
    ssl_certfile: Annotated[str | None, Meta(description="file of our certificate, PEM")] = None
    ssl_keyfile: Annotated[str | None, Meta(description="file of its private key, PEM")] = None
    ssl_password: Annotated[str | None, Meta(description="passphrase of the private key")] = None
    sentinel_username: Annotated[
        str | None, Meta(description="login at the sentinels, if theirs is another one")
    ] = None
    sentinel_password: Annotated[str | None, Meta(description="password at the sentinels")] = None


class Plan(NamedTuple):
    """Where to connect and how, as the address says."""

    mode: str
    peers: tuple[tuple[str, int], ...]
    tls: bool
    db: int
    master: str = ""
    path: str = ""


def _database(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is not a database number", where=where)
    return int(text)


def plan(target: Target) -> Plan:
    """Pure. Raises UsageError for a path or an option that the scheme has no place for."""
    url, options = target.address.broker, target.connection
    assert url is not None
    where, pieces = target.where, url.path
    tls = url.scheme.startswith("rediss")
    mode = url.scheme.partition("+")[2] or "single"
    given = [name for name in RedisOptions.__struct_fields__ if getattr(options, name) is not None]
    for name in given:
        if name.startswith("ssl_") and not tls:
            raise UsageError(
                f"the option {name!r} needs TLS", where=where, hint="write rediss:// for redis://"
            )
        if name.startswith("sentinel_") and mode != "sentinel":
            raise UsageError(f"the option {name!r} needs redis+sentinel://", where=where)
    if options.ssl_keyfile and not options.ssl_certfile:
        raise UsageError("ssl_keyfile is given without ssl_certfile", where=where)
    port = 26379 if mode == "sentinel" else 6379
    peers = tuple((host.name, host.port or port) for host in url.hosts)
    if mode == "unix":
        return Plan(mode, ((url.file, 0),), False, options.db or 0, path=url.file)
    master = ""
    if mode == "sentinel":
        if not pieces or not pieces[0]:
            raise UsageError(
                "the name of the master is missing",
                where=where,
                hint="write redis+sentinel://HOST,HOST/MASTER[/DB]/KIND:NAME",
            )
        master, pieces = pieces[0], pieces[1:]
    if len(pieces) > 1:
        raise UsageError(
            f"the path has too many parts: {'/'.join(pieces)}",
            where=where,
            hint="at most a database number stands before the destination",
        )
    db = _database(pieces[0], where) if pieces else None
    if db is not None and options.db is not None and db != options.db:
        raise UsageError(f"two databases are named: {db} and {options.db}", where=where)
    db = db if db is not None else options.db or 0
    if mode == "cluster" and db:
        raise UsageError("a cluster has the database 0 only", where=where)
    return Plan(mode, peers, tls, db, master)


def key_of(target: Target) -> bytes:
    """The key or channel that the address names, as bytes."""
    return target.address.name.encode("utf-8", "surrogateescape")


class RedisLink:
    """One connection to the node that owns ``key`` (to any node, where there is no key)."""

    def __init__(self, target: Target, key: str | bytes | None = None) -> None:
        """Opens nothing. Raises UsageError as :func:`plan` does."""
        self.target, self.where = target, target.where
        self.plan = plan(target)
        self.masters: list[tuple[str, int]] = []
        """Of a cluster, once open: the nodes that own slots."""
        self._key = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
        self._wire: Wire | None = None
        self._wires: dict[tuple[str, int], Wire] = {}
        self._tail: asyncio.Future[None] | None = None
        self._moving = False
        self._max_bulk: int | None = None
        self._learning: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and log in. Raises BrokerUnavailable within the target's ``connect_timeout``,
        AccessDenied, NotFound (database, master), TryAgainLater, UsageError (TLS files)."""
        limit = self.target.connect_timeout
        try:
            async with asyncio.timeout(limit):
                await {"sentinel": self._open_sentinel, "cluster": self._open_cluster}.get(
                    self.plan.mode, self._open_any
                )()
        except TimeoutError as exc:
            await self.aclose()
            raise BrokerUnavailable(
                "cannot connect",
                where=self.where,
                why=f"no answer within {limit:g} s",
                hint=errors.silent_hint(self.plan.tls),
            ) from exc
        except BaseException:
            await self.aclose()
            raise

    async def _open_any(self) -> None:
        self._wire = self._wires[self.plan.peers[0]] = await self._first(
            self.plan.peers, self._connect
        )

    async def sibling(self, peer: tuple[str, int]) -> RedisLink:
        """A view of this open link on another node of the cluster; close only this one."""
        link = RedisLink(self.target)
        link._wire = await self._at(peer)
        return link

    async def _first(
        self,
        peers: Sequence[tuple[str, int]],
        attempt: Callable[[tuple[str, int]], Awaitable[Any]],
    ) -> Any:
        """What the first peer that can be reached gives; each gets its share of the time."""
        last: MqcliError | None = None
        deadline = asyncio.get_running_loop().time() + self.target.connect_timeout
        for left, peer in zip(range(len(peers), 0, -1), peers, strict=True):
            share = (deadline - asyncio.get_running_loop().time()) / left
            try:
                async with asyncio.timeout(share):
                    return await attempt(peer)
            except BrokerUnavailable as exc:
                last = exc
            except TimeoutError:
                last = BrokerUnavailable(
                    "cannot connect",
                    where=self.where,
                    why=f"{self._peer(peer)} did not answer within {share:.3g} s",
                    hint=errors.silent_hint(self.plan.tls),
                )
        assert last is not None
        raise last

    def _peer(self, peer: tuple[str, int]) -> str:
        host, port = peer
        return self.plan.path or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    async def _connect(self, peer: tuple[str, int], *, sentinel: bool = False) -> Wire:
        url, options = self.target.address.broker, self.target.connection
        assert url is not None
        name, where = self._peer(peer), self.where
        settings: dict[str, Any] = {
            "username": options.sentinel_username if sentinel else url.username,
            "password": options.sentinel_password if sentinel else url.password,
            "db": 0 if sentinel else self.plan.db,
            "protocol": 2,
            "driver_info": None,
        }
        connection: Any
        if self.plan.path:
            connection = redis.asyncio.UnixDomainSocketConnection(path=self.plan.path, **settings)
        elif not self.plan.tls:
            connection = redis.asyncio.Connection(
                host=peer[0], port=peer[1], socket_keepalive=True, **settings
            )
        else:
            connection = redis.asyncio.SSLConnection(
                host=peer[0],
                port=peer[1],
                socket_keepalive=True,
                ssl_cert_reqs="none" if self.target.insecure else "required",
                ssl_check_hostname=not self.target.insecure,
                ssl_ca_certs=options.ssl_ca_certs,
                ssl_ca_path=options.ssl_ca_path,
                ssl_certfile=options.ssl_certfile,
                ssl_keyfile=options.ssl_keyfile,
                ssl_password=options.ssl_password,
                **settings,
            )
            try:
                connection.ssl_context.get()
            except OSError as exc:
                raise UsageError(
                    "the TLS files cannot be used", where=where, why=str(exc.strerror or exc)
                ) from exc
        try:
            await connection.connect()
            writer, reader = (getattr(connection, PRIVATE[i], None) for i in (0, -1))
            said = await unasked(reader)
            if said is not None:
                raise errors.farewell(said, where, name, self.plan.tls)
            if writer is None:
                wire: Wire = PublicWire(where, name, connection, None)
            else:
                wire = Wire(where, name, connection, writer.transport)
        except (RedisError, OSError) as exc:
            await connection.disconnect(nowait=True)
            raise errors.from_connect(exc, where, name, self.plan.tls) from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        try:
            # One round trip, so that a missing login is found now and not by the first message;
            # the ping finds a server that is still loading, which would take a name.
            client = self.target.client_name.replace(" ", "/")
            packed = pack("CLIENT", "SETNAME", client) + pack("PING")
            if wire.broken is not None:  # it ended before it was ours
                raise errors.farewell(b"", where, name, self.plan.tls) from wire.broken
            got, cause = await wire.send(packed, 2, 3600)
            for reply in got:
                if isinstance(reply, ReplyError) and errors.ends_login(str(reply)):
                    raise errors.from_reply(str(reply), where)
            if cause is not None:
                said = await unasked(reader) or b""
                raise errors.farewell(said, where, name, self.plan.tls) from cause
        except BaseException:
            await wire.aclose()
            raise
        return wire

    async def _open_sentinel(self) -> None:
        master = await self._first(self.plan.peers, self._ask_sentinel)
        self._wire = await self._at(master)
        # The sentinels' word may be old: only the server itself knows its role.
        role = (await self.call("ROLE", timeout=self.target.connect_timeout))[0].decode()
        if role != "master":
            raise BrokerUnavailable(
                "the sentinels name a server that is no master now",
                where=self.where,
                why=f"{self._peer(master)} is a {role}",
                hint="a failover may be under way; try again",
            )

    async def _ask_sentinel(self, peer: tuple[str, int]) -> tuple[str, int]:
        wire = await self._connect(peer, sentinel=True)
        name = self.plan.master
        try:
            packed = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name) + pack("SENTINEL", "MASTERS")
            got, cause = await wire.send(packed, 2, 3600)
        finally:
            await wire.aclose()
        if cause is not None:
            raise cause
        if isinstance(got[0], ReplyError):
            raise errors.from_reply(str(got[0]), self.where)
        if got[0] is None:
            known = got[1] if isinstance(got[1], list) else []
            names = ", ".join(sorted(entry[1].decode("utf-8", "replace") for entry in known))
            raise NotFound(
                f"the sentinels know no master {name!r}",
                where=self.where,
                hint=f"they know: {names}" if names else "",
            )
        return got[0][0].decode(), int(got[0][1])

    async def _open_cluster(self) -> None:
        wire = self._wire = await self._first(self.plan.peers, self._connect)
        here = wire.peer.rpartition(":")[0].strip("[]")
        owner, slot = None, None if self._key is None else key_slot(self._key)
        try:
            slots = await self.call("CLUSTER", "SLOTS", timeout=self.target.connect_timeout)
            for first, last, node, *_ in slots:
                # Without a preferred endpoint the host is null: it is the one that was asked.
                master = (node[0].decode() if node[0] else here, int(node[1]))
                if master not in self.masters:
                    self.masters.append(master)
                if slot is not None and first <= slot <= last:
                    owner = master
        finally:
            self._wires[(here, int(wire.peer.rpartition(":")[2]))] = wire
        if slot is not None:
            if owner is None:
                raise errors.from_reply(f"CLUSTERDOWN nobody serves slot {slot}", self.where)
            self._wire = await self._at(owner)

    async def _at(self, peer: tuple[str, int]) -> Wire:
        wire = self._wires.get(peer)
        if wire is None or wire.broken is not None:
            if wire is not None:
                await wire.aclose()
            wire = self._wires[peer] = await self._connect(peer)
        return wire

    @property
    def wire(self) -> Wire:
        """The socket in use, for pub/sub. Raises ConnectionLost when there is none."""
        if self._wire is None:
            raise ConnectionLost("the connection is closed", where=self.where)
        return self._wire

    async def call(self, *args: bytes | str | int, timeout: float) -> Any:
        """One command and its reply. An error reply is raised as what it means; no reply within
        ``timeout`` seconds, or a broken connection, as ConnectionLost. Cancelling is safe, but the
        reply is then dropped: shield what takes something."""
        got, cause = await self.exchange(pack(*args), 1, timeout)
        if not got:
            assert cause is not None
            raise cause
        if isinstance(got[0], ReplyError):
            raise await self.explain(got[0])
        return got[0]

    async def exchange(self, packed: bytes, replies: int, timeout: float) -> Replies:
        """Write commands that are packed already, and wait for that many replies.

        Returns the replies that came, error replies as ReplyError among them, and the cause if
        some did not: the connection broke, or ``timeout`` seconds passed without a byte.
        Overlapping calls are written in the order called. Raises ConnectionLost when nothing was
        written.
        """
        if self.plan.mode != "cluster":
            return await self.wire.send(packed, replies, timeout)
        before, mine = self._tail, asyncio.get_running_loop().create_future()
        self._tail = mine
        try:
            if self._moving and before is not None:
                await asyncio.wait((before,))
            got, cause = await self.wire.send(packed, replies, timeout)
            if any(_redirects(reply) for reply in got):
                self._moving = True
                if before is not None:  # what was called earlier is sent again earlier
                    await asyncio.wait((before,))
                return await self._redirect(packed, got, cause, timeout)
            return got, cause
        finally:
            mine.set_result(None)
            if self._tail is mine:
                self._tail, self._moving = None, False

    async def _redirect(
        self, packed: bytes, got: list[Any], cause: MqcliError | None, timeout: float
    ) -> Replies:
        parser = hiredis.Reader()
        parser.feed(packed)
        commands = [parser.gets() for _ in got]
        transaction = [command[0] for command in commands[:1]] == [b"MULTI"]
        for _ in range(_MAX_REDIRECTS):
            moved = [i for i, reply in enumerate(got) if _redirects(reply)]
            if not moved:
                return got, cause
            word, _, place = str(got[moved[0]]).split(" ")[:3]
            asking = word == "ASK"
            if transaction:
                if asking or not isinstance(got[-1], ReplyError):
                    break
                moved = list(range(len(got)))  # refused as a whole: sent again as a whole
            host, _, port = place.rpartition(":")
            here = self.wire.peer.rpartition(":")[0]
            try:
                wire = await self._at((host.strip("[]") or here.strip("[]"), int(port)))
                prefix = pack("ASKING") if asking else b""
                again = b"".join(prefix + pack(*commands[i]) for i in moved)
                answers, lost = await wire.send(again, len(moved) * (1 + asking), timeout)
            except BrokerUnavailable as exc:
                return got[: moved[0]], exc
            if not asking:
                self._wire = wire
            else:
                answers = answers[1::2]
            for i, answer in zip(moved, answers, strict=False):
                got[i] = answer
            if lost is not None:
                return got[: moved[len(answers)]], lost
        return got, cause

    async def max_bulk(self, largest: int) -> int:
        """Bytes that one value may have; the server hangs up on a longer one. It is asked only
        when ``largest`` makes that worth while. Overlapping callers go on in the order called."""
        if self._max_bulk is None and (largest > _SMALLEST_LIMIT or self._learning is not None):
            if self._learning is None:
                self._learning = asyncio.create_task(self._learn())
            await asyncio.shield(self._learning)
        return self._max_bulk or _USUAL_LIMIT

    async def too_long(self, values: Sequence[bytes], lengths: set[int]) -> dict[int, MqcliError]:
        """Refusals, by index, of what the server would hang up on (:meth:`max_bulk`)."""
        longest = max(lengths, default=0)
        limit = await self.max_bulk(longest)
        if longest <= limit:
            return {}
        reason = f"it is longer than {limit} bytes, the server's proto-max-bulk-len"
        return {
            i: Refused(reason, where=self.where)
            for i, value in enumerate(values)
            if len(value) > limit
        }

    async def _learn(self) -> None:
        got, _ = await self.exchange(pack("CONFIG", "GET", "proto-max-bulk-len"), 1, 10.0)
        told = got[0] if got and isinstance(got[0], list) else []
        self._max_bulk = int(told[1]) if len(told) == 2 else _USUAL_LIMIT

    def error(self, reply: ReplyError) -> MqcliError:
        """What an error reply means."""
        return errors.from_reply(str(reply), self.where)

    async def explain(self, reply: ReplyError) -> MqcliError:
        """As :meth:`error`; for a key of another type the server is asked which."""
        error = self.error(reply)
        if str(reply).startswith("WRONGTYPE") and self._key is not None:
            got, _ = await self.exchange(pack("TYPE", self._key), 1, 5.0)
            if got and isinstance(got[0], bytes):
                kind, address = got[0].decode(), self.target.address
                hint = f"use {kind}:{address.name}" if kind in ("stream", "list") else ""
                what = f"{address.name!r} is a {kind}, no {address.kind}"
                return UsageError(what, where=self.where, hint=hint)
        return error

    async def aclose(self) -> None:
        """Safe twice, after a failed open, and when cancelled. Awaited replies get the cause."""
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        wires = {id(wire): wire for wire in (*self._wires.values(), self._wire) if wire}
        self._wires, self._wire = {}, None
        for wire in wires.values():
            await wire.aclose()


def _redirects(reply: Any) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith(("MOVED ", "ASK "))
