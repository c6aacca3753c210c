"""The brokers that other tests stand on: each variant starts, answers, and goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .process import wait_until
from .redis import Redis, RedisCluster, RedisSentinel, RedisServer, parse_reply

Started = Callable[[Callable[[], Any]], Any]


def test_redis_cli_carries_any_bytes_both_ways(redis: Redis, fresh: str) -> None:
    # Given values that a command line or a line of output cannot hold
    values = [b"", b"\x00", b'quo"te \\ back', b"line\nline\r\n", bytes(range(256)), b"1) fake"]
    # When redis-cli pushes and reads them
    redis.pipe([["RPUSH", fresh, *values]])
    # Then they are the same
    assert redis.cli("LRANGE", fresh, "0", "-1") == values


def test_nested_replies_of_many_items_are_parsed(redis: Redis, fresh: str) -> None:
    # Given a stream of more entries than have one-digit numbers
    redis.pipe([["XADD", fresh, f"{n}-1", "value", b"1) \xff", "k", "v"] for n in range(1, 13)])
    # When it is read
    entries = redis.cli("XRANGE", fresh, "-", "+")
    # Then its shape is kept
    assert entries == [
        [f"{n}-1".encode(), [b"value", b"1) \xff", b"k", b"v"]] for n in range(1, 13)
    ]


def test_scalar_replies_are_parsed() -> None:
    # Given what redis-cli prints, when parsed, then it has Python's types
    assert parse_reply(["(integer) 4"]) == 4
    assert parse_reply(["(nil)"]) is None
    assert parse_reply(["(empty array)"]) == []
    assert parse_reply(["OK"]) == b"OK"


def test_listening_hears_messages_and_patterns(redis: Redis, fresh: str) -> None:
    # Given redis-cli subscribed to a channel and to a pattern
    with redis.listening("SUBSCRIBE", fresh) as one, redis.listening("PSUBSCRIBE", "t-*") as all_:
        # When two messages are published, then both hear them in order
        redis.pipe([["PUBLISH", fresh, b"a\n\xff"], ["PUBLISH", fresh, b""]])
        name = fresh.encode()
        assert [one.next_reply(10) for _ in "ab"] == [
            [b"message", name, b"a\n\xff"],
            [b"message", name, b""],
        ]
        assert all_.next_reply(10)[1:] == [b"t-*", name, b"a\n\xff"]


def test_a_killed_server_comes_back_with_its_data(started: Started, fresh: str) -> None:
    # Given a server that writes every command to disk
    server = started(lambda: RedisServer("appendonly yes", "appendfsync always"))
    server.cli("RPUSH", fresh, "kept")
    # When it is killed and started again
    server.kill()
    server.start()
    # Then the same address has the same data
    assert server.cli("LRANGE", fresh, "0", "-1") == [b"kept"]


def test_tls_unix_socket_and_login_variants(started: Started) -> None:
    # Given each way in, when redis-cli uses it, then the server answers
    tls = started(lambda: RedisServer(tls=True))
    unix = started(lambda: RedisServer(unix=True))
    acl = started(
        lambda: RedisServer(
            "user default off", "user alice on >secret ~* &* +@all",
            login=["--user", "alice", "-a", "secret", "--no-auth-warning"],
        )
    )  # fmt: skip
    for server in (tls, unix, acl):
        assert server.cli("PING") == b"PONG"
    assert tls.url.startswith("rediss://localhost:") and tls.certificates.ca.exists()
    assert unix.url == f"redis+unix://{unix.socket}"


def test_a_cluster_takes_keys_of_all_slots(started: Started) -> None:
    # Given a cluster
    cluster = started(RedisCluster)
    # When keys of many slots are written, then each can be read by redirection
    for n in range(8):
        assert cluster.cli("RPUSH", f"key{n}", "v") == 1


def test_a_sentinel_names_the_master(started: Started) -> None:
    # Given a sentinel
    made = started(RedisSentinel)
    # When it is asked, then it names the master
    answer = made.sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
    assert answer == [b"127.0.0.1", str(made.master.port).encode()]


def test_a_broker_is_gone_when_the_tests_are_killed() -> None:
    # Given a test process with a broker of its own
    code = (
        "import time; from tests.brokers.redis import RedisServer\n"
        "s = RedisServer().start(); print(s.process._popen.pid, s.folder, flush=True)\n"
        "time.sleep(600)"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert tests.stdout is not None
    pid, folder = tests.stdout.readline().decode().split()
    # When it is killed without a chance to clean up
    tests.kill()
    tests.wait()
    tests.stdout.close()
    # Then its broker and its folder go away

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return not Path(folder).exists()
        return _is_zombie(pid)

    wait_until(gone, "broker and folder gone", 15)


def _is_zombie(pid: str) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True).stdout
    return state.strip().startswith(b"Z")


def test_a_missing_broker_fails_where_brokers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import Unavailable, need

    def none() -> None:
        raise Unavailable("none here")

    # Given no broker
    for required, outcome in [("all", "Failed"), ("kafka,redis", "Failed"), ("", "Skipped")]:
        monkeypatch.setenv("MQCLI_REQUIRE_BROKERS", required)
        # When a test needs it, then it fails or skips as asked, with the reason
        with pytest.raises(BaseException, match="none here") as caught:
            need("redis", none)
        assert type(caught.value).__name__ == outcome
