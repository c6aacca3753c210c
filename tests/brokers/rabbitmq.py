"""RabbitMQ: servers of our own, rabbitmqctl, and amqp-tools as the foreign clients.

Natively the broker runs as the user rabbitmq when the tests run as root (it refuses its data
folder otherwise), with a node name, a cookie, an epmd and ports of its own.
``MQCLI_TEST_RABBITMQ=amqp://127.0.0.1:5672`` is a broker that somebody else runs (in Docker, say),
on this machine, with the user guest and the management API: it is used where nothing has to be
killed or alarmed; ``?management=http://…`` says where that API is, if not on port 15672.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from .process import Process, Program, Unavailable, free_port, short_folder
from .tls import Certificates

START_SECONDS = 60.0
_BIN = Path("/usr/lib/rabbitmq/bin")


def shared() -> Rabbit:
    """The broker of ``MQCLI_TEST_RABBITMQ``, else a server of this process's own."""
    url = os.environ.get("MQCLI_TEST_RABBITMQ")
    return GivenRabbit(url) if url else RabbitServer().start()


class _Native(Program):
    """rabbitmq-server run directly: Debian's wrapper is a shell that would outlive signals."""

    def __init__(self, environment: dict[str, str]) -> None:
        if shutil.which("rabbitmq-server") is None:
            raise Unavailable("rabbitmq-server is not on the PATH")
        self.name = "rabbitmq-server"
        self.image = ""
        self.in_docker = False
        self.environment = environment

    def argv(self, arguments: Sequence[str], **_: Any) -> list[str]:
        line = [f"{name}={value}" for name, value in self.environment.items()]
        own = _BIN / self.name
        return [*_as_rabbitmq(), "env", *line, str(own if own.exists() else self.name), *arguments]

    def run(self, name: str, *arguments: str) -> str:
        """One of the command-line tools. Raises AssertionError with what it said."""
        line = [f"{key}={value}" for key, value in self.environment.items()]
        own = _BIN / name
        done = subprocess.run(
            [*_as_rabbitmq(), "env", *line, str(own if own.exists() else name), *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (name, arguments, done.stdout[-800:], done.stderr[-800:])
        return done.stdout


def _as_rabbitmq() -> list[str]:
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--init-groups"]


class Rabbit:
    """A RabbitMQ to test against, as guest on 127.0.0.1: its address, its management API, and
    amqp-tools in front of it."""

    def __init__(self, port: int, management_port: int, scheme: str = "amqp") -> None:
        self.port, self.management_port = port, management_port
        host = "localhost" if scheme == "amqps" else "127.0.0.1"
        self.url = f"{scheme}://{host}:{port}"

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The management API as guest. Raises OSError (urllib's HTTPError is one)."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q=", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def at(self, destination: str, vhost: str = "") -> str:
        """The ADDRESS of a destination here, with where the management API is."""
        path = f"/{quote(vhost, '')}" if vhost else ""
        return f"{self.url}{path}/{destination}?management=http://127.0.0.1:{self.management_port}"

    def declare(self, queue: str, vhost: str = "/", **arguments: Any) -> None:
        """A durable queue; ``type="quorum"`` and the like become ``x-…`` arguments."""
        made = {"x-queue-type" if k == "type" else f"x-{k}": v for k, v in arguments.items()}
        self.api(
            "PUT",
            f"/api/queues/{quote(vhost, '')}/{quote(queue, '')}",
            {"durable": True, "arguments": {k.replace("_", "-"): v for k, v in made.items()}},
        )

    def vhost(self, name: str) -> None:
        """A new virtual host, of which guest may do everything."""
        self.api("PUT", f"/api/vhosts/{quote(name, '')}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/api/permissions/{quote(name, '')}/guest", everything)

    def trace(self, on: bool) -> None:
        """Whether the firehose of the virtual host ``/`` runs."""
        self.api("PUT", "/api/vhosts/%2F", {"tracing": on})

    def unacknowledged(self, queue: str) -> int:
        """How many messages its consumers hold, as the broker counted them last."""
        found: int = self.api("GET", f"/api/queues/%2F/{quote(queue, '')}").get(
            "messages_unacknowledged", -1
        )
        return found

    def close_connections(self) -> None:
        """As an administrator does it: every client is told CONNECTION_FORCED."""
        # Connections have a name there a few seconds after they were opened, but a user at once.
        self.api("DELETE", "/api/connections/username/guest")

    def tool(self, name: str, *arguments: str, stdin: bytes = b"") -> bytes:
        """amqp-publish, amqp-get and the like, against this server. Raises AssertionError."""
        if shutil.which(name) is None:
            raise Unavailable(f"{name} (amqp-tools) is not on the PATH")
        done = subprocess.run(
            [name, "--server=127.0.0.1", f"--port={self.port}", *arguments],
            input=stdin, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (name, arguments, done.stderr[-500:])
        return done.stdout

    def stop(self) -> None:
        """End what was started."""


class GivenRabbit(Rabbit):
    """A broker that somebody else runs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        here = parts.hostname in ("127.0.0.1", "localhost") and parts.username is None
        if parts.scheme != "amqp" or not here or parts.path.strip("/"):
            raise Unavailable(
                f"MQCLI_TEST_RABBITMQ: {parts.scheme}://{parts.hostname} is not amqp://127.0.0.1"
                " with an optional port (the tests log in as guest, on this machine)"
            )
        (management,) = parse_qs(parts.query).get("management", ["http://127.0.0.1:15672"])
        super().__init__(parts.port or 5672, urlsplit(management).port or 80)
        try:
            self.api("GET", "/api/overview")
        except OSError as exc:
            raise Unavailable(f"MQCLI_TEST_RABBITMQ: {management} does not answer: {exc}") from exc


class RabbitServer(Rabbit):
    """``kill`` then ``start`` brings it back on the same ports with its durable data. ``settings``
    are lines of rabbitmq.conf."""

    def __init__(self, *settings: str, tls: bool = False) -> None:
        super().__init__(free_port(), free_port(), "amqps" if tls else "amqp")
        self.folder = short_folder()
        self.tls = tls
        self.certificates: Certificates | None = None
        dist, self._epmd_port = free_port(), free_port()
        lines = [
            f"management.tcp.port = {self.management_port}", "management.tcp.ip = 127.0.0.1",
            "log.file = false", "log.console = true", "log.console.level = error",
            "disk_free_limit.absolute = 10MB", "vm_memory_high_watermark.relative = 0.6",
            "management_agent.disable_metrics_collector = false",
            "collect_statistics_interval = 1000",
        ]  # fmt: skip
        if tls:
            made = self.certificates = Certificates(self.folder)
            lines += [
                "listeners.tcp = none", f"listeners.ssl.1 = 127.0.0.1:{self.port}",
                f"ssl_options.cacertfile = {made.ca}", f"ssl_options.certfile = {made.cert}",
                f"ssl_options.keyfile = {made.key}", "ssl_options.verify = verify_none",
                "ssl_options.fail_if_no_peer_cert = false",
            ]  # fmt: skip
        else:
            lines.append(f"listeners.tcp.1 = 127.0.0.1:{self.port}")
        (self.folder / "rabbitmq.conf").write_text("\n".join([*lines, *settings]) + "\n")
        (self.folder / "plugins").write_text("[rabbitmq_management].\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text("MQCLITEST" + os.urandom(8).hex().upper())
        cookie.chmod(0o400)
        self.program = _Native(
            {
                "HOME": str(self.folder),
                "RABBITMQ_NODENAME": f"t{self.port}@localhost",
                "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
                "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
                "RABBITMQ_LOG_BASE": str(self.folder / "log"),
                "RABBITMQ_DIST_PORT": str(dist),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none"
                " -kernel inet_dist_use_interface {127,0,0,1}",
                "ERL_EPMD_PORT": str(self._epmd_port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RUNNING_UNDER_SYSTEMD": "1",
                "LANG": "C.UTF-8",
            }
        )
        if os.getuid() == 0:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, "rabbitmq", "rabbitmq")
        self.process = Process(self.program, [], self.folder, [self.port, self.management_port])
        self._epmd: subprocess.Popen[bytes] | None = None

    def start(self) -> RabbitServer:
        deadline = time.monotonic() + START_SECONDS
        if self._epmd is None:
            # Started by the node it would be a daemon that nobody ends.
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

        def ready() -> bool:
            assert time.monotonic() < deadline, self.process.log
            try:
                self.api("GET", "/api/overview")
            except OSError:
                time.sleep(0.1)
                return False
            return True

        self.process.start(ready)
        return self

    def kill(self) -> None:
        self.process.kill()

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def stop(self) -> None:
        self.process.stop()
        if self._epmd is not None:
            self._epmd.send_signal(signal.SIGTERM)
            self._epmd.wait(10)
            self._epmd = None

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl (about a second). Raises AssertionError with what it said."""
        return self.program.run("rabbitmqctl", "-q", *arguments)

    def close_connections(self) -> None:
        """As an administrator does it: every client is told CONNECTION_FORCED."""
        self.ctl("close_all_connections", "test")

    def unacknowledged(self, queue: str) -> int:
        """Now: rabbitmqctl asks the queue itself."""
        found = self.ctl("list_queues", "name", "messages_unacknowledged", "--no-table-headers")
        return int(dict(line.split("\t") for line in found.splitlines())[queue])

    def __enter__(self) -> RabbitServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.stop()
