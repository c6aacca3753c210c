"""The connection to Redis: every address, every refusal, and replies that stay in step."""

from __future__ import annotations

import asyncio
import inspect
import time
from importlib.metadata import requires, version
from typing import Any

import pytest
import redis.asyncio

from mqcli.address import parse_broker
from mqcli.errors import (
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
from mqcli.message import Message
from mqcli.registry import broker_target
from mqcli.transports import _redis
from mqcli.transports._redis import RedisLink, ReplyError, key_of
from mqcli.transports._redis_errors import from_reply
from mqcli.transports._redis_packing import pack
from mqcli.transports._redis_wire import PublicWire, Wire

from ..brokers.process import free_port
from ..brokers.redis import Redis, RedisCluster, RedisSentinel, RedisServer
from .redis_support import Proxy, Started, opened, run, targeted


async def linked(address: str, **settings: Any) -> RedisLink:
    where = targeted(address, **settings)
    link = RedisLink(where, key_of(where))
    await link.open()
    return link


async def round_trip(address: str, **settings: Any) -> None:
    """A value written and read, and what the broker as a whole says."""
    link = await linked(address, **settings)
    try:
        assert await link.call("SET", key_of(link.target), "v", timeout=5) == b"OK"
        assert await link.call("GET", key_of(link.target), timeout=5) == b"v"
        assert await link.call("CLIENT", "GETNAME", timeout=5) == b"mqcli/test"
    finally:
        await link.aclose()
        await link.aclose()


async def fails(error: type[MqcliError], address: str, **settings: Any) -> MqcliError:
    with pytest.raises(error) as caught:
        await linked(address, **settings)
    assert type(caught.value) is error
    return caught.value


def test_plain_with_a_database(redis: Redis, fresh: str) -> None:
    # Given a server, when its database 3 is named in the path or in the query
    run(round_trip(f"{redis.url}/3/stream:{fresh}", client_name="mqcli/test"))
    run(round_trip(f"{redis.url}/stream:{fresh}?db=4", client_name="mqcli test"))
    # Then the value is there and nowhere else
    assert [redis.cli("GET", fresh, options=["-n", n]) for n in "034"] == [None, b"v", b"v"]


def test_unix_socket(started: Started) -> None:
    server = started(lambda: RedisServer(unix=True))
    run(round_trip(f"{server.url}/stream:x?db=2", client_name="mqcli/test"))
    assert server.cli("GET", "x", options=["-n", "2"]) == b"v"
    error = run(fails(BrokerUnavailable, f"{server.url}.gone/stream:x"))
    assert "does not exist" in str(error)


def test_tls_is_verified_unless_insecure(started: Started) -> None:
    # Given a server with a certificate of an authority of its own
    server = started(lambda: RedisServer(tls=True))
    # When that authority is named, then it works
    address = f"{server.url}/stream:x"
    run(round_trip(f"{address}?ssl_ca_certs={server.certificates.ca}", client_name="mqcli/test"))
    # When it is not, then the certificate is refused, and --insecure passes
    assert "ssl_ca_certs" in str(run(fails(BrokerUnavailable, address)))
    run(round_trip(address, insecure=True, client_name="mqcli/test"))
    # When the file does not exist, then no socket is opened
    run(fails(UsageError, f"{address}?ssl_ca_certs=/no/such/file"))
    # When spoken to in plain, then the error says what to try
    plain = address.replace("rediss:", "redis:")
    assert "use rediss://" in str(run(fails(BrokerUnavailable, plain)))


def test_tls_to_a_port_without_it(redis: Redis) -> None:
    # Given a plain server, which waits for the end of what it takes for a command
    address = redis.url.replace("redis://", "rediss://") + "/stream:x"
    began = time.monotonic()
    error = run(fails(BrokerUnavailable, address, connect_timeout=0.5))
    # Then the time to connect is kept and the hint is given
    assert time.monotonic() - began < 2 and "use redis://" in error.hint


def test_sentinel(started: Started) -> None:
    sentinel = started(RedisSentinel)
    run(round_trip(f"{sentinel.url}/0/stream:x", client_name="mqcli/test"))
    assert sentinel.master.cli("GET", "x") == b"v"
    # When another master is asked for, then those that are known are named
    unknown = sentinel.url.replace("/main", "/other")
    assert "they know: main" in str(run(fails(NotFound, f"{unknown}/stream:x")))
    # When a sentinel before it is dead, then the next one is asked
    hosts = sentinel.url.replace("://", f"://127.0.0.1:{free_port()},")
    run(round_trip(f"{hosts}/stream:x", client_name="mqcli/test"))


@pytest.fixture(scope="module")
def cluster() -> Any:
    from ..brokers import need

    made = RedisCluster()
    need("redis", made.start)
    yield made
    made.stop()


def test_cluster_finds_the_owner(cluster: RedisCluster) -> None:
    for name in ("a", "b", "c", "d", "e{x}"):
        run(round_trip(f"{cluster.url}/stream:{name}", client_name="mqcli/test"))
        assert cluster.cli("GET", name) == b"v"


def test_cluster_follows_redirects_in_order(cluster: RedisCluster, fresh: str) -> None:
    async def test() -> None:
        link = await linked(f"{cluster.url}/stream:{fresh}")
        # Given a link that holds a node for the owner which is not
        right = link.wire.peer
        wrong = next(m for m in link.masters if link._peer(m) != right)
        link._wire = await link._at(wrong)
        # When overlapping calls are all answered with MOVED
        packed = [pack("RPUSH", fresh, n) + pack("RPUSH", fresh, n + 1) for n in range(0, 20, 2)]
        got = await asyncio.gather(*(link.exchange(each, 2, 5) for each in packed))
        # Then each was executed once, in the order called
        assert [replies for replies, _ in got] == [[n + 1, n + 2] for n in range(0, 20, 2)]
        assert link.wire.peer == right
        found = await link.call("LRANGE", fresh, 0, -1, timeout=5)
        assert found == [b"%d" % n for n in range(20)]
        await link.aclose()

    run(test())


def test_cluster_asks_while_a_slot_moves(cluster: RedisCluster, fresh: str) -> None:
    # Given a slot on its way from its owner to another node, and a key that is there already
    slot = cluster.nodes[0].cli("CLUSTER", "KEYSLOT", fresh)
    ids = {node: node.cli("CLUSTER", "MYID").decode() for node in cluster.nodes}
    owner = next(n for n in cluster.nodes if _serves(n, fresh))
    other = next(n for n in cluster.nodes if n is not owner)
    other.cli("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[owner])
    owner.cli("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[other])

    async def test() -> None:
        link = await linked(f"{cluster.url}/stream:{fresh}")
        # When written to, then the commands are done there, and the owner stays the owner
        got, cause = await link.exchange(
            pack("RPUSH", fresh, "a") + pack("RPUSH", fresh, "b"), 2, 5
        )
        assert (got, cause) == ([1, 2], None)
        assert link.wire.peer == f"127.0.0.1:{owner.port}"
        await link.aclose()

    try:
        run(test())
    finally:
        for node in cluster.nodes:
            node.cli("CLUSTER", "SETSLOT", str(slot), "NODE", ids[other])


def _serves(node: RedisServer, key: str) -> bool:
    try:
        node.cli("EXISTS", key)
    except AssertionError:
        return False
    return True


def test_cluster_and_plain_are_told_apart(cluster: RedisCluster, redis: Redis) -> None:
    node = next(n for n in cluster.nodes if not _serves(n, "x"))

    async def test() -> None:
        link = await linked(f"{node.url}/stream:x")
        with pytest.raises(UsageError, match=r"redis\+cluster"):
            await link.call("GET", "x", timeout=5)
        await link.aclose()
        address = redis.url.replace("redis:", "redis+cluster:")
        await fails(UsageError, f"{address}/stream:x")

    run(test())


def test_hosts_are_tried_in_order(redis: Redis, fresh: str) -> None:
    address = redis.url.replace("://", f"://127.0.0.1:{free_port()},")
    run(round_trip(f"{address}/stream:{fresh}", client_name="mqcli/test"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("redis://h/x/stream:s", "not a database"),
        ("redis://h/1/2/stream:s", "too many parts"),
        ("redis://h/1/stream:s?db=2", "two databases"),
        ("redis+cluster://h/1/stream:s", "database 0 only"),
        ("redis+cluster://h/stream:s?db=1", "database 0 only"),
        ("redis+sentinel://h/stream:s", "master is missing"),
        ("redis+sentinel://h/main/x/stream:s", "not a database"),
        ("redis://h/stream:s?ssl_ca_certs=f", "needs TLS"),
        ("redis://h/stream:s?sentinel_password=p", "needs redis\\+sentinel"),
        ("rediss://h/stream:s?ssl_keyfile=f", "without ssl_certfile"),
        ("redis://h/stream:s?db=-1", "does not fit"),
        ("rediss://h/stream:s?ssl_cert_reqs=none", "--insecure"),
    ],
)
def test_a_wrong_address_opens_no_socket(address: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RedisLink(targeted(address))


def test_login(started: Started) -> None:
    # Given a server with a password, and a user that may do little
    server = started(
        lambda: RedisServer(
            "requirepass hunter2",
            "user ann on >s3cret ~own* &* +@read +@write +@connection",
            login=["-a", "hunter2", "--no-auth-warning"],
        )
    )
    host = server.url.removeprefix("redis://")

    async def test() -> None:
        # Then a login is needed, must be right, and works
        for address in (f"redis://{host}", f"redis://:wr0ng@{host}", f"redis://ann:wr0ng@{host}"):
            error = await fails(AccessDenied, f"{address}/stream:x")
            assert "wr0ng" not in str(error) and error.exit_code == 77
        await round_trip(f"redis://:hunter2@{host}/stream:x", client_name="mqcli/test")
        link = await linked(f"redis://ann:s3cret@{host}/stream:own")
        assert await link.call("SET", "own", "1", timeout=5) == b"OK"
        # And what the user may not do is refused as such
        with pytest.raises(AccessDenied, match="permission"):
            await link.call("SET", "others", "1", timeout=5)
        await link.aclose()

    run(test())


def test_no_server_no_name_no_database(redis: Redis) -> None:
    error = run(fails(BrokerUnavailable, f"redis://127.0.0.1:{free_port()}/stream:x"))
    assert "refused" in str(error) and "127.0.0.1" in error.why
    error = run(fails(BrokerUnavailable, "redis://nosuch.invalid/stream:x"))
    assert "nosuch.invalid:6379 does not resolve" in str(error)
    run(fails(NotFound, f"{redis.url}/9999/stream:x"))


def test_no_answer_while_connecting(started: Started) -> None:
    server = started(RedisServer)
    server.pause()
    began = time.monotonic()
    run(fails(BrokerUnavailable, f"{server.url}/stream:x", connect_timeout=0.3))
    server.resume()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("NOAUTH Authentication required.", AccessDenied),
        ("NOPERM this user has no permissions", AccessDenied),
        ("LOADING Redis is loading the dataset in memory", TryAgainLater),
        ("READONLY You can't write against a read only replica.", TryAgainLater),
        ("OOM command not allowed when used memory > 'maxmemory'.", TryAgainLater),
        ("MISCONF Redis is configured to save RDB snapshots", TryAgainLater),
        ("CLUSTERDOWN Hash slot not served", TryAgainLater),
        ("MASTERDOWN Link with MASTER is down", TryAgainLater),
        ("TRYAGAIN Multiple keys request during rehashing of slot", TryAgainLater),
        ("BUSY Redis is busy running a script.", TryAgainLater),
        ("ERR max number of clients reached", TryAgainLater),
        ("WRONGTYPE Operation against a key", UsageError),
        ("NOGROUP No such key", NotFound),
        ("ERR unknown command 'XADD'", Unsupported),
        ("ERR something else", Refused),
    ],
)
def test_error_replies_have_their_meaning(text: str, error: type[MqcliError]) -> None:
    made = from_reply(text, "redis://h/stream:s")
    assert type(made) is error and made.why == text


def test_full_and_read_only_servers_say_try_again(started: Started) -> None:
    server = started(RedisServer)

    async def refused() -> None:
        async with opened(f"{server.url}/stream:s") as stream:
            outcome = await stream.publish([Message(b"a"), Message(b"b")], 5)
            assert outcome.confirmed == 0 and not outcome.unknown
            assert [type(e) for e in outcome.refused.values()] == [TryAgainLater] * 2

    # Given a server at its limit, then at no limit but a replica of a dead master
    server.cli("CONFIG", "SET", "maxmemory", "1")
    run(refused())
    server.cli("CONFIG", "SET", "maxmemory", "0")
    server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
    run(refused())
    # Then nothing was written
    server.cli("REPLICAOF", "NO", "ONE")
    assert server.cli("EXISTS", "s") == 0


def test_a_cancelled_wait_keeps_the_replies_in_step(redis: Redis, fresh: str) -> None:
    """Trap D7, CVE-2023-28858."""

    async def test() -> None:
        link = await linked(f"{redis.url}/stream:{fresh}")
        # Given a command whose reply is on its way when the wait for it is cancelled
        slow = asyncio.create_task(link.call("BLPOP", fresh, "0.3", timeout=5))
        await asyncio.sleep(0)
        slow.cancel()
        # When others follow, then each gets its own reply
        got = await asyncio.gather(*(link.call("ECHO", n, timeout=5) for n in range(50)))
        assert got == [b"%d" % n for n in range(50)]
        await link.aclose()

    run(test())


def test_silence_is_bounded_and_a_slow_reply_is_not(started: Started) -> None:
    server = started(RedisServer)

    async def test() -> None:
        link = await linked(f"{server.url}/stream:x")
        # Given a server that stops, when nothing comes for the time allowed
        server.pause()
        began = time.monotonic()
        first = asyncio.create_task(link.exchange(pack("PING"), 1, 0.3))
        second = asyncio.create_task(link.exchange(pack("PING") * 2, 2, 30))
        got, cause = await first
        # Then all that wait are told, for the link is of no use any more
        assert got == [] and isinstance(cause, ConnectionLost)
        assert isinstance((await second)[1], ConnectionLost)
        assert time.monotonic() - began < 2
        # And nothing more is written
        with pytest.raises(ConnectionLost):
            await link.exchange(pack("PING"), 1, 1)
        await link.aclose()
        server.resume()

    run(test())


def test_a_broken_link_gives_what_came(redis: Redis, fresh: str) -> None:
    port = int(redis.url.rpartition(":")[2].partition("/")[0])

    async def test() -> None:
        async with Proxy(port) as proxy:
            link = await linked(f"redis://127.0.0.1:{proxy.port}/stream:{fresh}")
            # Given two commands, the second of which blocks, when the connection breaks
            packed = pack("INCR", fresh) + pack("BLPOP", f"{fresh}-none", "0")
            waiting = asyncio.create_task(link.exchange(packed, 2, 30))
            while not link.wire._queue or link.wire._queue[0].need == 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            proxy.cut()
            got, cause = await waiting
            # Then the first reply is there, and the cause for the second
            assert got == [1] and isinstance(cause, ConnectionLost)
            await link.aclose()

    run(test())


def test_error_replies_stand_among_the_others(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        link = await linked(f"{redis.url}/stream:{fresh}")
        packed = pack("RPUSH", fresh, "a") + pack("XLEN", fresh) + pack("LLEN", fresh)
        (one, error, length), cause = await link.exchange(packed, 3, 5)
        assert (one, length, cause) == (1, 1, None) and isinstance(error, ReplyError)
        with pytest.raises(UsageError, match=f"use list:{fresh}"):
            await link.call("XLEN", fresh, timeout=5)
        await link.aclose()

    run(test())


def test_opening_costs_one_round_trip(started: Started) -> None:
    server = started(RedisServer)
    server.cli("CONFIG", "RESETSTAT")
    run(round_trip(f"{server.url}/stream:x", client_name="mqcli/test"))
    stats = server.cli("INFO", "commandstats").decode()
    called = {line.partition(":")[0] for line in stats.splitlines() if line.startswith("cmdstat")}
    assert called - {"cmdstat_config|resetstat", "cmdstat_info"} == {
        f"cmdstat_{name}" for name in ("client|setname", "ping", "client|getname", "set", "get")
    }


def test_private_parts_of_redis_py_are_there() -> None:
    """Where this fails a release of redis-py has changed: see ``PRIVATE`` in _redis.py."""
    source = inspect.getsource(redis.asyncio.connection)
    for name in _redis.PRIVATE:
        assert f"self.{name}" in source
    (bound,) = [line for line in requires("mqcli") or [] if line.startswith("redis[")]
    assert "<8.2" in bound and version("redis") < "8.2"


@pytest.mark.parametrize("tls", [False, True])
def test_without_private_parts_the_public_path_does_the_same(
    started: Started, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    # Given a redis-py whose private attribute has another name
    server = started(lambda: RedisServer(tls=tls))
    monkeypatch.setattr(_redis, "PRIVATE", ("_renamed",))
    query = f"?ssl_ca_certs={server.certificates.ca}" if tls else ""

    async def test() -> None:
        link = await linked(f"{server.url}/stream:x{query}")
        assert isinstance(link.wire, PublicWire)
        # Then replies, errors, order and cancelling are the same
        slow = asyncio.create_task(link.call("BLPOP", "x", "0.2", timeout=5))
        await asyncio.sleep(0)
        slow.cancel()
        packed = pack("INCR", "n") + pack("XLEN", "n") + pack("INCR", "n")
        got, cause = await link.exchange(packed, 3, 5)
        assert (got[0], got[2], cause) == (1, 2, None)
        assert str(got[1]).startswith("WRONGTYPE")
        server.pause()
        _, cause = await link.exchange(pack("PING"), 1, 0.2)
        assert isinstance(cause, ConnectionLost)
        server.resume()
        await link.aclose()
        async with opened(f"{server.url}/channel:c{query}") as channel:
            assert (await channel.publish([Message(b"m")], 5)).receivers == [0]

    run(test())


def test_the_usual_path_is_the_fast_one(redis: Redis) -> None:
    async def test() -> None:
        link = await linked(f"{redis.url}/stream:x")
        assert type(link.wire) is Wire
        await link.aclose()

    run(test())


async def listed(url: str, kind: str | None) -> tuple[dict[str, Any], list[Any]]:
    where = parse_broker(url)
    assert not isinstance(where, str)
    cls, made = broker_target(where)
    broker = cls(made)
    await broker.open()
    try:
        return await broker.ping(), list(await broker.ls(kind))
    finally:
        await broker.aclose()


def test_ls_and_ping(started: Started) -> None:
    # Given a stream, a list, another kind of key, and a channel with a listener
    server = started(RedisServer)
    server.cli("XADD", "s", "*", "value", "1")
    server.cli("RPUSH", "l", "1", "2")
    server.cli("SET", "k", "v")
    with server.listening("SUBSCRIBE", "c"):
        told, entries = run(listed(server.url, None))
        _, streams = run(listed(server.url, "stream"))
    # Then what mqcli can speak to is listed, sorted
    assert [(e.kind, e.name, e.messages) for e in entries] == [
        ("channel", "c", None),
        ("list", "l", 2),
        ("stream", "s", 1),
    ]
    assert entries[0].detail == {"subscribers": 1} and streams == entries[2:]
    assert told["server"] == "redis" and told["role"] == "master"


def test_ls_of_a_cluster_covers_all_masters(cluster: RedisCluster) -> None:
    names = {f"ls-{n}" for n in range(20)}
    for name in names:
        cluster.cli("RPUSH", name, "1")
    _, entries = run(listed(cluster.url, "list"))
    assert names <= {entry.name for entry in entries}
