"""Kafka in KRaft mode, one broker or several, and kcat as the foreign client.

The broker's jars come from Maven Central the first time and are kept in the user's cache folder
(``MQCLI_KAFKA_JARS`` names another place that has them already).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mqcli.message import Header, Message, Tagged

from .maven import copied
from .process import Process, Program, Unavailable, foreign, free_port, short_folder, wait_until
from .tls import Certificates

VERSION = "4.1.0"
IMAGE = f"apache/kafka:{VERSION}"
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>mqcli</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
<version>{VERSION}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>
<version>1.7.36</version></dependency></dependencies></project>"""
_JAVA = ["-Xmx512m", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]
_DELIMITER = b"@@end of message@@"


def shared() -> Kafka:
    """The broker of ``MQCLI_TEST_KAFKA``, else one of this process's own, behind a proxy."""
    url = os.environ.get("MQCLI_TEST_KAFKA")
    return GivenKafka(url) if url else KafkaServer(proxied=True).start()


def jars() -> str:
    """The class path of the broker. Raises Unavailable where it cannot be had."""
    given = os.environ.get("MQCLI_KAFKA_JARS")
    if given:
        return f"{given}/*"
    return copied(f"kafka-{VERSION}", _POM)


class Kafka:
    """A Kafka to test against: its address, and kcat in front of it."""

    def __init__(self, url: str, hosts: str, settings: Sequence[str] = ()) -> None:
        self.url = url
        """The broker URL; append ``/TOPIC``."""
        self.client = Program("kcat", "edenhill/kcat:1.7.1")
        self._base = ["-b", hosts, *(word for pair in settings for word in ("-X", pair))]

    def kcat(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Standard output of kcat. Raises AssertionError when it fails."""
        return foreign(self.client, [*self._base, *arguments], stdin=stdin)

    def send(self, topic: str, messages: Sequence[Message], *options: str) -> None:
        """By kcat, in order: a key, headers and null values as they are."""
        start = 0
        while start < len(messages):
            first = messages[start]
            alike = (first.key, first.headers, first.value is None)
            end = start
            while end < len(messages) and alike == (
                messages[end].key, messages[end].headers, messages[end].value is None
            ) and (end == start or b"" not in (first.value, messages[end].value)):  # fmt: skip
                end += 1
            self._send_alike(topic, messages[start:end], options)
            start = end

    def _send_alike(self, topic: str, messages: Sequence[Message], options: Sequence[str]) -> None:
        first = messages[0]
        if first.value == b"" and len(messages) == 1 and first.key is None and not first.headers:
            return self._send_empty(topic)
        words = ["-P", "-t", topic, *options, "-X", "message.max.bytes=100000000"]
        for name, value in first.headers:
            words += ["-H", f"{name}=" + os.fsdecode(_raw(value))]
        if first.value is None:
            # kcat makes null of an empty message only behind a key that stands with it.
            assert first.key is not None, "kcat sends no tombstone without a key"
            lines = (first.key + b"@@key@@" + _DELIMITER) * len(messages)
            self.kcat(*words, "-Z", "-K", "@@key@@", "-D", _DELIMITER.decode(), stdin=lines)
            return None
        if first.key is not None:
            words += ["-k", os.fsdecode(first.key)]
        values = [message.value or b"" for message in messages]
        if any(not value or _DELIMITER in value for value in values) or len(values) == 1:
            # Whole files: kcat takes no empty message from its input.
            with tempfile.TemporaryDirectory() as folder:
                for number, value in enumerate(values):
                    (Path(folder) / f"{number:06}").write_bytes(value)
                self.kcat(*words, *(f"{folder}/{number:06}" for number in range(len(values))))
        else:
            self.kcat(*words, "-D", _DELIMITER.decode(), stdin=_DELIMITER.join(values))
        return None

    def _send_empty(self, topic: str) -> None:
        """By Kafka's own console producer: kcat sends no empty message, only null."""
        self._java("org.apache.kafka.tools.ConsoleProducer", "--topic", topic, stdin=b"\n")

    def read(self, topic: str, *options: str) -> list[Message]:
        """All that stands in the topic, by kcat, partition by partition in order."""
        out = self.kcat(
            "-C", "-t", topic, "-o", "beginning", "-e", "-q", *options,
            "-f", r"%p %K %S %T\n%k%s%h\x01\x02\x03\n",
        )  # fmt: skip
        found: list[tuple[int, Message]] = []
        at, has_headers = 0, False
        while at < len(out):
            end = out.index(b"\n", at)
            partition, key_size, size, stamp = map(int, out[at:end].split())
            at = end + 1
            key = None if key_size < 0 else out[at : at + key_size]
            at += max(0, key_size)
            value = None if size < 0 else out[at : at + size]
            at += max(0, size)
            end = out.index(b"\x01\x02\x03\n", at)
            has_headers = has_headers or end > at
            at = end + 4
            found.append((partition, Message(value, key, timestamp=stamp)))
        messages = [message for _, message in sorted(found, key=lambda pair: pair[0])]
        if has_headers:
            for message, headers in zip(messages, self._headers(topic, len(messages)), strict=True):
                message.headers = headers
        return messages

    def _headers(self, topic: str, count: int) -> list[tuple[Header, ...]]:
        """By Kafka's own console consumer: kcat shows a header's value up to a NUL, and cannot
        tell null from empty."""
        words = ["--from-beginning", "--max-messages", str(count), "--topic", topic]
        for name, value in {
            "print.headers": "true", "print.partition": "true", "print.offset": "true",
            "print.value": "false", "headers.separator": ";", "null.literal": "<null>",
            "headers.deserializer": "org.apache.kafka.common.serialization.BytesDeserializer",
        }.items():  # fmt: skip
            words += ["--property", f"{name}={value}"]
        out = self._java("org.apache.kafka.tools.consumer.ConsoleConsumer", *words)
        rows = []
        for line in out.decode().splitlines():
            partition, offset, text = line.split("\t")[:3]
            headers: tuple[Header, ...] = ()
            for pair in text.split(";") if text != "NO_HEADERS" else ():
                name, _, value = pair.partition(":")
                raw = re.sub(rb"\\x(..)", lambda m: bytes.fromhex(m[1].decode()), value.encode())
                headers += ((name, Tagged("null", None) if value == "<null>" else _text(raw)),)
            rows.append((int(partition.split(":")[1]), int(offset.split(":")[1]), headers))
        return [headers for _, _, headers in sorted(rows, key=lambda row: row[:2])]

    def _java(self, tool: str, *words: str, stdin: bytes = b"") -> bytes:
        program = Program("java", IMAGE)
        classes = "/opt/kafka/libs/*" if program.in_docker else jars()
        return foreign(
            program, [*_JAVA, classes, tool, "--bootstrap-server", self._base[1], *words],
            stdin=stdin,
        )  # fmt: skip

    def topics(self) -> dict[str, int]:
        """Name to number of partitions."""
        out = self.kcat("-L").decode()
        return {
            line.split('"')[1]: int(line.split(" with ")[1].split()[0])
            for line in out.splitlines()
            if line.startswith("  topic ")
        }

    def break_connections(self) -> None:
        """Break every connection of clients to the broker."""
        raise Unavailable("the connections to a broker that somebody else runs cannot be broken")

    def stop(self) -> None:
        """End what was started."""


class GivenKafka(Kafka):
    """A broker that somebody else runs, from a kafka:// URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "kafka" or not parts.netloc:
            raise Unavailable(f"MQCLI_TEST_KAFKA: {parts.scheme}:// is not kafka://host")
        super().__init__(url.rstrip("/"), parts.netloc)
        try:
            self.topics()
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            raise Unavailable(f"MQCLI_TEST_KAFKA does not answer: {exc}") from exc


class KafkaServer(Kafka):
    """A broker of our own. ``properties`` are lines of its configuration.

    ``users`` (name to password) turns on SCRAM and PLAIN; ``tls`` encrypts;
    ``proxied`` puts a proxy before it whose connections :meth:`break_connections` breaks.
    """

    def __init__(
        self,
        *properties: str,
        tls: bool = False,
        users: dict[str, str] | None = None,
        proxied: bool = False,
        advertised: str | None = None,
        voters: str | None = None,
        node: int = 1,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.port, controller = ports or (free_port(), free_port())
        self.folder = short_folder()
        self.users = users or {}
        self.certificates: Certificates | None = None
        self.proxy = Proxy(self.port) if proxied else None
        front = self.proxy.port if self.proxy else self.port
        layer = ("SASL_" if users else "") + ("SSL" if tls else "PLAINTEXT")
        lines = [
            "process.roles=broker,controller", f"node.id={node}",
            f"controller.quorum.voters={voters or f'{node}@127.0.0.1:{controller}'}",
            f"listeners=OUT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            f"advertised.listeners=OUT://{advertised or f'localhost:{front}'}",
            "controller.listener.names=CONTROLLER", "inter.broker.listener.name=OUT",
            f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,OUT:{layer}",
            f"log.dirs={self.folder}/data", "num.partitions=1",
            "offsets.topic.num.partitions=4", "transaction.state.log.num.partitions=4",
            "group.initial.rebalance.delay.ms=0", "group.min.session.timeout.ms=500",
            "log.cleaner.dedupe.buffer.size=2097152",
            # Tests write messages of long ago, which are to stay.
            "log.retention.ms=-1",
            "num.network.threads=2", "num.io.threads=2", "background.threads=2",
        ]  # fmt: skip
        if voters is None:
            lines += [
                "offsets.topic.replication.factor=1", "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
            ]  # fmt: skip
        settings: list[str] = []
        url = f"kafka://localhost:{front}"
        if tls:
            made = self.certificates = Certificates(self.folder)
            store = self.folder / "keystore.pem"
            store.write_text(made.key.read_text() + made.cert.read_text())
            lines += ["ssl.keystore.type=PEM", f"ssl.keystore.location={store}"]
            lines += ["ssl.truststore.type=PEM", f"ssl.truststore.location={made.ca}"]
            settings += [f"ssl.ca.location={made.ca}"]
            url = url.replace("kafka://", "kafkas://")
        if users:
            name, password = next(iter(users.items()))
            mechanisms = ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"]
            module = "org.apache.kafka.common.security"
            login = f'username="{name}" password="{password}"'
            lines += [
                "sasl.enabled.mechanisms=" + ",".join(mechanisms),
                "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-256",
                f"super.users=User:{name}",
            ]
            for mechanism in mechanisms[:2]:
                lines.append(
                    f"listener.name.out.{mechanism.lower()}.sasl.jaas.config="
                    f"{module}.scram.ScramLoginModule required {login};"
                )
            known = " ".join(f'user_{n}="{p}"' for n, p in users.items())
            lines.append(
                "listener.name.out.plain.sasl.jaas.config="
                f"{module}.plain.PlainLoginModule required {login} {known};"
            )
            # kcat as Debian has it (librdkafka 2.0) fails at the last step of SCRAM with Kafka 4.1.
            settings += ["sasl.mechanism=PLAIN", f"sasl.username={name}"]
            settings += [f"sasl.password={password}"]
            scheme, rest = url.split("://")
            url = f"{scheme}://{name}:{password}@{rest}"
        if tls or users:
            settings.append(f"security.protocol={layer}")
        super().__init__(url, f"localhost:{front}", settings)
        self._config = self.folder / "server.properties"
        self._config.write_text("\n".join([*lines, *properties]) + "\n")
        program = Program("java", IMAGE)
        self._classes = "/opt/kafka/libs/*" if program.in_docker else jars()
        self.process = Process(
            program, [*_JAVA, self._classes, "kafka.Kafka", str(self._config)], self.folder,
            [self.port, controller],
        )  # fmt: skip

    def start(self) -> KafkaServer:
        """Formatted if new, started, and answering."""
        self.begin()
        return self

    def begin(self, *, wait: bool = True) -> None:
        """As :meth:`start`; without ``wait`` a member of a cluster does not wait for the rest."""
        if not (self.folder / "data").exists():
            words = ["-cp", self._classes, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID]
            for name, password in self.users.items():
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                    words += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
            done = subprocess.run(
                self.process.program.argv([*words, "-c", str(self._config)], folder=self.folder),
                capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip
            if done.returncode:
                raise Unavailable(f"Kafka's storage cannot be made: {done.stderr[-500:].decode()}")
        self.process.start(self._answers if wait else lambda: True)
        if self.proxy is not None:
            self.proxy.start()

    def _answers(self) -> bool:
        """A broker that listens may still be fenced: then it has no leaders yet."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return "started (kafka.server.KafkaRaftServer)" in self.process.log or self._lists()
        return False

    def _lists(self) -> bool:
        if self.proxy is not None:
            self.proxy.start()
        try:
            return b" 1 brokers" in self.kcat("-L", "-m", "2") or self.process.program.in_docker
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    def kill(self) -> None:
        """As ``kill -9``; ``start`` brings it back with its data."""
        self.process.kill()

    def break_connections(self) -> None:
        assert self.proxy is not None
        self.proxy.break_all()

    def stop(self) -> None:
        if self.proxy is not None:
            self.proxy.stop()
        self.process.stop()


class KafkaCluster(Kafka):
    """Three brokers; topics have three copies, and two are enough."""

    def __init__(self) -> None:
        ports = [(free_port(), free_port()) for _ in range(3)]
        voters = ",".join(f"{n + 1}@127.0.0.1:{c}" for n, (_, c) in enumerate(ports))
        self.nodes = {
            n + 1: KafkaServer(
                "default.replication.factor=3", "min.insync.replicas=2",
                "broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500",
                "offsets.topic.replication.factor=3", "transaction.state.log.replication.factor=3",
                voters=voters, node=n + 1, ports=pair,
            )
            for n, pair in enumerate(ports)
        }  # fmt: skip
        hosts = ",".join(f"localhost:{port}" for port, _ in ports)
        super().__init__(f"kafka://{hosts}", hosts)

    def start(self) -> KafkaCluster:
        for node in self.nodes.values():
            node.begin(wait=False)
        wait_until(self._whole, "three brokers", 60)
        return self

    def _whole(self) -> bool:
        try:
            return b" 3 brokers" in self.kcat("-L", "-m", "3")
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    def leader(self, topic: str) -> int:
        """The node that leads partition 0."""
        out = self.kcat("-L", "-t", topic).decode()
        line = next(line for line in out.splitlines() if "partition 0," in line)
        return int(line.split("leader ")[1].split(",")[0])

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()


class Proxy:
    """Passes bytes to a port of 127.0.0.1 until its connections are broken."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._running = False
        self._lock = threading.Lock()

    def start(self) -> None:
        if not self._running:
            self._running = True
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while self._running:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to), 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._pairs.append((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    def break_all(self) -> None:
        """Every connection ends now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        time.sleep(0.05)

    def stop(self) -> None:
        self._running = False
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.break_all()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


if __name__ == "__main__":  # get the jars before a test waits for them
    try:
        jars()
    except Unavailable as exc:
        print(f"tests/brokers: {exc}", file=sys.stderr)
