"""Redis: servers in every form that mqcli speaks to, and redis-cli as the foreign client."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from .process import Process, Program, Unavailable, foreign, free_port, short_folder, wait_until
from .tls import Certificates

IMAGE = "redis:7"
_ITEM = re.compile(r"\s*\d+\) ")


def shared() -> Redis:
    """The server of ``MQCLI_TEST_REDIS``, else a plain one of this process's own."""
    url = os.environ.get("MQCLI_TEST_REDIS")
    return GivenRedis(url) if url else RedisServer().start()


class Redis:
    """A Redis to test against: its address, and redis-cli in front of it."""

    def __init__(self, url: str, login: Sequence[str]) -> None:
        self.url = url
        """The broker URL, with the password if there is one; append ``/kind:name``."""
        self.login = list(login)
        self.client = Program("redis-cli", IMAGE)

    def cli(self, *command: str | bytes, stdin: bytes = b"", options: Sequence[str] = ()) -> Any:
        """One command by redis-cli: bytes, int, None, or lists of these; ``b"OK"`` for a status.
        Raises AssertionError for an error reply. No NUL bytes: those need :meth:`pipe`."""
        words = [word if isinstance(word, str) else os.fsdecode(word) for word in command]
        out = foreign(self.client, [*self.login, "-2", "--no-raw", *options, *words], stdin=stdin)
        return parse_reply(out.decode("latin-1").splitlines())

    def pipe(self, commands: Sequence[Sequence[str | bytes]]) -> None:
        """Many commands of any bytes by ``redis-cli --pipe``. Raises AssertionError on an error."""
        packed = bytearray()
        for command in commands:
            packed += b"*%d\r\n" % len(command)
            for word in command:
                raw = os.fsencode(word) if isinstance(word, str) else word
                packed += b"$%d\r\n%b\r\n" % (len(raw), raw)
        out = foreign(self.client, [*self.login, "--pipe"], stdin=bytes(packed))
        assert b"errors: 0," in out, out

    @contextlib.contextmanager
    def listening(self, verb: str, name: str) -> Iterator[Listener]:
        """redis-cli in SUBSCRIBE or PSUBSCRIBE, already confirmed by the server."""
        listener = Listener(self.client.argv([*self.login, "-2", "--no-raw", verb, name]))
        try:
            listener.next_reply(10)
            yield listener
        finally:
            listener.close()

    def kill_clients(self) -> None:
        """Break every connection to the server but redis-cli's own."""
        for kind in ("normal", "pubsub"):
            self.cli("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def stop(self) -> None:
        """End what was started."""


class GivenRedis(Redis):
    """A server that somebody else runs, from a redis:// URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise Unavailable(f"MQCLI_TEST_REDIS: {parts.scheme}:// is not redis://host")
        login = ["-h", parts.hostname, "-p", str(parts.port or 6379)]
        if parts.password:
            login += ["--no-auth-warning", "-a", unquote(parts.password)]
        if parts.username:
            login += ["--user", unquote(parts.username)]
        if parts.path.strip("/"):
            login += ["-n", parts.path.strip("/")]
        if parts.scheme == "rediss":
            login += ["--tls"]
        super().__init__(url.rstrip("/"), login)
        try:
            self.cli("PING")
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            raise Unavailable(f"MQCLI_TEST_REDIS does not answer: {exc}") from exc


class RedisServer(Redis):
    """A redis-server of our own. ``directives`` are lines of its configuration file.

    ``kill`` then ``start`` brings it back on the same port; its data too when a directive says
    ``appendonly yes``. ``pause`` and ``resume`` stop the process and let it run.
    """

    def __init__(
        self, *directives: str, tls: bool = False, unix: bool = False, login: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self.folder = short_folder()
        self.socket = self.folder / "redis.sock"
        self.certificates: Certificates | None = None
        lines = [
            f"dir {self.folder}", "bind 127.0.0.1", 'save ""', "appendonly no", "daemonize no",
            "port 0" if tls or unix else f"port {self.port}",
        ]  # fmt: skip
        client = ["-p", str(self.port)]
        url = f"redis://127.0.0.1:{self.port}"
        if tls:
            made = self.certificates = Certificates(self.folder)
            lines += [
                f"tls-port {self.port}", f"tls-ca-cert-file {made.ca}",
                f"tls-cert-file {made.cert}", f"tls-key-file {made.key}", "tls-auth-clients no",
            ]  # fmt: skip
            client = ["-h", "localhost", "-p", str(self.port), "--tls", "--cacert", str(made.ca)]
            url = f"rediss://localhost:{self.port}"
        if unix:
            lines += [f"unixsocket {self.socket}"]
            client = ["-s", str(self.socket)]
            url = f"redis+unix://{self.socket}"
        super().__init__(url, [*client, *login])
        config = self.folder / "redis.conf"
        config.write_text("\n".join([*lines, *directives]) + "\n")
        self.process = Process(
            Program("redis-server", IMAGE), [str(config)], self.folder, [self.port]
        )

    def start(self) -> RedisServer:
        self.process.start(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            reply = self.cli("PING")
        except AssertionError as exc:
            return "NOAUTH" in str(exc) or "WRONGPASS" in str(exc)
        return reply == b"PONG"

    def kill(self) -> None:
        self.process.kill()

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def stop(self) -> None:
        self.process.stop()


class RedisCluster:
    """Three masters that share the slots; ``nodes`` in the order of their slots."""

    def __init__(self) -> None:
        self.nodes = [
            RedisServer("cluster-enabled yes", f"cluster-port {free_port()}") for _ in range(3)
        ]
        self.hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
        self.url = f"redis+cluster://{','.join(self.hosts)}"

    def start(self) -> RedisCluster:
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        foreign(first.client, ["--cluster", "create", *self.hosts, "--cluster-yes"])
        wait_until(
            lambda: all(b"cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in self.nodes),
            "the cluster is ok",
        )
        return self

    def cli(self, *command: str | bytes) -> Any:
        """As ``Redis.cli``, following redirections."""
        return self.nodes[0].cli(*command, options=["-c"])

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


class RedisSentinel:
    """A master named ``main``, a replica, and one sentinel that is enough to fail over."""

    def __init__(self) -> None:
        self.master = RedisServer("repl-diskless-sync-delay 0")
        self.replica = RedisServer(
            f"replicaof 127.0.0.1 {self.master.port}", "repl-diskless-sync-delay 0"
        )
        self.sentinel = RedisServer(
            f"sentinel monitor main 127.0.0.1 {self.master.port} 1",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
        )
        self.sentinel.process.arguments.append("--sentinel")
        config = self.sentinel.folder / "redis.conf"
        kept = [line for line in config.read_text().splitlines() if not _server_only(line)]
        config.write_text("\n".join(kept) + "\n")
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/main"

    def start(self) -> RedisSentinel:
        for server in (self.master, self.replica):
            server.start()
        wait_until(
            lambda: b"master_link_status:up" in self.replica.cli("INFO", "replication"),
            "the replica is in step",
        )
        self.sentinel.start()
        wait_until(
            lambda: b"slaves=1" in self.sentinel.cli("INFO", "sentinel"),
            "the sentinel knows the replica",
        )
        return self

    def stop(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.stop()


def _server_only(line: str) -> bool:
    return line.startswith(("save", "appendonly"))


class Listener:
    """A running redis-cli whose replies are read one by one."""

    def __init__(self, argv: list[str]) -> None:
        # A file, for a pipe would have to be drained by a thread.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._seen = 0
        self._popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self._output)

    def next_reply(self, timeout: float) -> list[Any]:
        """The next reply of (p)subscribe. Raises AssertionError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            # Not read(): it would move the offset that redis-cli writes at, which is the same.
            fd = self._output.fileno()
            text = os.pread(fd, os.fstat(fd).st_size, 0).decode("latin-1")
            whole = text[: text.rfind("\n") + 1].splitlines()
            lines = [line for line in whole if _ITEM.match(line)][self._seen :]
            size = 4 if lines and '"pmessage"' in lines[0] else 3
            if len(lines) >= size:
                self._seen += size
                reply = parse_reply(lines[:size])
                assert isinstance(reply, list)
                return reply
            assert time.monotonic() < deadline, f"redis-cli heard nothing in {timeout:g} s"
            assert self._popen.poll() is None, "redis-cli ended"
            time.sleep(0.01)

    def close(self) -> None:
        self._popen.terminate()
        self._popen.wait(10)
        self._output.close()


def parse_reply(lines: Sequence[str]) -> Any:
    """A reply as ``redis-cli --no-raw`` prints it: its form for people is the only one in which
    every release gives arbitrary bytes unambiguously (``--quoted-json`` breaks on quotes)."""
    if not lines:
        return None
    prefix = _ITEM.match(lines[0])
    if prefix is not None:
        width = prefix.end()
        items: list[list[str]] = []
        for line in lines:
            if line[: width - 2].strip():
                items.append([])
            items[-1].append(line[width:])
        return [parse_reply(item) for item in items]
    text = lines[0]
    if text.startswith('"'):
        return ast.literal_eval("b" + text)
    if text.startswith("(integer) "):
        return int(text[10:])
    if text == "(nil)":
        return None
    if text.startswith("(empty"):
        return []
    assert not text.startswith("(error)"), text
    return "\n".join(lines).encode("latin-1")
