"""RabbitMQ: our bulk paths beside PerfTest and amqp-publish, one message beside aio-pika.

What a run left is counted by aiormq, not by mqcli. Queues are classic and durable.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
from pamqp.common import FieldValue

from tests.brokers import Unavailable
from tests.brokers.maven import class_path

from .harness import MQCLI, Case, Side

BARE = Path(__file__).parent / "bare"
_PIPE = 64 * 1024 // 101 + 1
"""Messages that go into a pipe which nobody reads."""


def perf_test(url: str, *words: str) -> Callable[[], Sequence[str]]:
    """RabbitMQ's own load tool, from Maven Central."""

    def argv() -> Sequence[str]:
        path = class_path("com.rabbitmq:perf-test:2.22.1")
        return ["java", "-cp", path, "com.rabbitmq.perf.PerfTest", "--uri", url, *words]

    return argv


def reported(direction: str) -> Callable[[str], str]:
    """What PerfTest says itself of ``sent`` or ``received``, start-up of the JVM not included."""

    def note(text: str) -> str:
        name = {"sent": "sending", "received": "receiving"}[direction]
        average = re.search(rf"{name} rate avg: (\d+)", text)
        each = [int(rate) for rate in re.findall(rf"\b{direction}: (\d+) msg/s", text)]
        said = f"PerfTest itself says {average[1] if average else '?'}/s on average"
        return said + (f", {statistics.median(each):.0f}/s in its median second" if each else "")

    return note


def fresh(url: str, queue: str, **arguments: int) -> None:
    """The durable queue, new and empty."""

    async def work() -> None:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        await channel.queue_delete(queue)
        made: dict[str, FieldValue] = {
            f"x-{name.replace('_', '-')}": value for name, value in arguments.items()
        }
        await channel.queue_declare(queue, durable=True, arguments=made)
        await connection.close()

    asyncio.run(work())


def left(url: str, queue: str) -> int:
    """Messages in the queue once no consumer holds any of them."""

    async def work() -> int:
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        deadline = time.monotonic() + 5
        while True:
            found = await channel.queue_declare(queue, passive=True)
            if not found.consumer_count or time.monotonic() > deadline:
                await connection.close()
                return found.message_count or 0
            await asyncio.sleep(0.02)

    return asyncio.run(work())


def cases(url: str, work: Path, lines: Path, scale: float) -> Iterator[Case]:
    """All RabbitMQ cases against the broker at ``url``; ``lines`` holds 100-byte lines, of which
    the first 200,000 (times ``scale``) are used."""
    count = max(1000, int(200_000 * scale))
    some, out = work / "rabbit.txt", work / "rabbit.out"
    ours = f"{url}/queue:ours"

    def new(queue: str) -> None:
        if not some.exists():
            with lines.open("rb") as file:
                some.write_bytes(file.read(count * 101))
        fresh(url, queue)

    def expect(queue: str, number: int) -> None:
        # What amqp-publish sent last may still be on its way from the channel to the queue.
        deadline = time.monotonic() + 5
        while (found := left(url, queue)) != number:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} messages are in {queue}, not {number}")

    def fill(queue: str) -> None:
        new(queue)
        with some.open("rb") as file:
            subprocess.run(
                [*MQCLI, "publish", "-q", f"{url}/queue:{queue}"], stdin=file, check=True
            )
        expect(queue, count)

    def same() -> None:
        if out.stat().st_size != count * 101:
            raise RuntimeError(f"{out.stat().st_size} bytes came out, not {count * 101}")
        expect("ours", 0)

    def publish(name: str, *options: str) -> Side:
        return Side(
            name,
            [*MQCLI, "publish", ours, *options],
            some,
            before=lambda: new("ours"),
            after=lambda: expect("ours", count),
        )

    yield Case(
        "rabbitmq: publish, confirmed, persistent",
        publish("mqcli"),
        Side(
            "PerfTest -c 2000",
            perf_test(url, "-x", "1", "-y", "0", "-c", "2000", "-f", "persistent", "-s", "100",
                      "-C", str(count), "-p", "-e", "", "-k", "peer", "-u", "peer"),
            before=lambda: new("peer"),
            after=lambda: expect("peer", count),
            note=reported("sent"),
        ),
        count=count,
        floor=1.0,
    )  # fmt: skip
    yield Case(
        "rabbitmq: publish, confirmed, transient",
        publish("mqcli", "-O", "persistent=false"),
        Side(
            "amqp-publish -l",
            ["amqp-publish", f"--url={url}", "-r", "peer", "-l"],
            some,
            before=lambda: new("peer"),
            after=lambda: expect("peer", count),
        ),
        count=count,
        floor=0.8,
    )
    parts = urlsplit(url)
    yield Case(
        "rabbitmq: publish, confirmed, transient, beside bare frames",
        publish("mqcli", "-O", "persistent=false"),
        Side(
            "bare frames, confirmed",
            [sys.executable, str(BARE / "amqp_frames.py"), str(parts.hostname), str(parts.port),
             "peer", str(count)],
            before=lambda: new("peer"),
            after=lambda: expect("peer", count),
        ),
        count=count,
        floor=0.85,
    )  # fmt: skip
    yield Case(
        "rabbitmq: consume, acknowledged, to a file",
        Side(
            "mqcli",
            [*MQCLI, "consume", ours, "-e"],
            out=out,
            before=lambda: fill("ours"),
            after=same,
        ),
        Side(
            "PerfTest -q 2000 -A 500",
            perf_test(url, "-x", "0", "-y", "1", "-q", "2000", "-A", "500", "-D", str(count),
                      "-p", "-u", "peer"),
            before=lambda: fill("peer"),
            # It ends without acknowledging a last part of fewer than -A.
            after=lambda: expect("peer", count % 500),
            note=reported("received"),
        ),
        count=count,
        floor=1.0,
    )  # fmt: skip

    @cache
    def environment() -> str:
        return str(_environment(work / "aio-pika", "aio-pika"))

    yield Case(
        "rabbitmq: one message, start to exit",
        Side("mqcli", [*MQCLI, "publish", ours, "hello"], before=lambda: fresh(url, "ours"),
             after=lambda: expect("ours", 1)),
        Side(
            "bare aio-pika",
            lambda: [environment(), str(BARE / "aio_pika_publish.py"), url, "peer", "hello"],
            before=lambda: fresh(url, "peer"),
            after=lambda: expect("peer", 1),
            otherwise=Side(
                "bare aiormq",
                [sys.executable, str(BARE / "aiormq_publish.py"), url, "peer", "hello"],
                before=lambda: fresh(url, "peer"),
                after=lambda: expect("peer", 1),
            ),
        ),
        floor=1.5,
        at_most=True,
        runs=15,
    )  # fmt: skip
    kept, number = 10_000, max(20_000, int(2_000_000 * scale))
    yield Case(
        "rabbitmq: memory, 2 million lines to a queue that drops",
        Side(
            "mqcli",
            [*MQCLI, "publish", ours],
            ["sh", "-c", f"yes {'x' * 100} | head -n {number}"],
            before=lambda: fresh(url, "ours", max_length=kept),
            after=lambda: expect("ours", kept),
        ),
        memory=120,
        runs=1,
    )

    def none_lost() -> None:
        if (found := left(url, "ours")) < count - _PIPE:
            raise RuntimeError(f"of {count} messages {found} are left, and a pipe holds {_PIPE}")

    yield Case(
        "rabbitmq: memory, consume, output standing still",
        Side("mqcli", [*MQCLI, "consume", ours], before=lambda: fill("ours"), after=none_lost),
        memory=120,
        runs=1,
        stall=60.0 * min(scale, 1.0),
    )


def _environment(folder: Path, package: str) -> Path:
    """The Python of a new virtual environment with ``package``. Raises Unavailable."""
    python = folder / "bin" / "python"
    try:
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", package],
        ):
            subprocess.run(
                command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300
            )
    except (OSError, subprocess.SubprocessError) as exc:
        raise Unavailable(f"{package} cannot be installed: {exc}") from exc
    return python
