"""Kafka: our bulk paths beside kcat and the broker's own tools, one message beside aiokafka.

What a run left is counted by aiokafka, not by mqcli. Topics have one partition; those that are
read were filled by kcat where that is installed.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import count as counter
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from tests.brokers.kafka import jars

from .harness import MQCLI, Case, Side

BARE = Path(__file__).parent / "bare"
_TUNED = ["-X", "queued.min.messages=1000000", "-X", "fetch.wait.max.ms=10"]


def java(tool: str, *words: str) -> Callable[[], Sequence[str]]:
    """One of the broker's tools, with the memory that its own script gives it."""

    def argv() -> Sequence[str]:
        level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", "-Xmx512m", "-XX:+UseG1GC", level, "-cp", jars(),
                f"org.apache.kafka.tools.{tool}", *words]  # fmt: skip

    return argv


def producer_perf(hosts: str, topic: str, count: int) -> Callable[[], Sequence[str]]:
    """kafka-producer-perf-test, acks=all."""
    return java(
        "ProducerPerformance", "--topic", topic, "--num-records", str(count),
        "--record-size", "100", "--throughput", "-1",
        "--producer-props", f"bootstrap.servers={hosts}", "acks=all",
    )  # fmt: skip


def reported(text: str) -> str:
    """The last line of kafka-producer-perf-test, which does not include the JVM's start."""
    rates = re.findall(r"([\d.]+) records/sec", text)
    return f"perf-test itself says {float(rates[-1]):.0f}/s" if rates else ""


def fresh(hosts: str, topic: str) -> None:
    """The topic, new and empty."""

    async def work(admin: AIOKafkaAdminClient) -> None:
        answer = await admin.delete_topics([topic])
        code = answer.topic_error_codes[0][1]
        if code not in (0, UnknownTopicOrPartitionError.errno):
            raise RuntimeError(f"{topic} cannot be removed: {code}")
        # What is deleted takes its place on the disk for a minute, by default.
        made = NewTopic(topic, 1, 1, topic_configs={"file.delete.delay.ms": "1000"})
        await admin.create_topics([made])

    _administer(hosts, work)


def expect(hosts: str, topic: str, number: int) -> None:
    """Raises RuntimeError when the topic's only partition does not end there."""

    async def work() -> int:
        partition = TopicPartition(topic, 0)
        async with AIOKafkaConsumer(bootstrap_servers=hosts) as consumer:
            return int((await consumer.end_offsets([partition]))[partition])

    if (found := asyncio.run(work())) != number:
        raise RuntimeError(f"{topic} ends at {found}, not {number}")


def _administer(hosts: str, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=hosts)
        await admin.start()
        try:
            await work(admin)
        finally:
            await admin.close()

    asyncio.run(all_of_it())


def cases(url: str, work: Path, many_lines: Path, scale: float) -> Iterator[Case]:
    """All Kafka cases against the broker at ``url``; ``many_lines`` holds 5,000,000 lines of 100
    bytes (times ``scale``)."""
    hosts = url.removeprefix("kafka://")
    count = int(5_000_000 * scale)
    out, hello = work / "kafka.out", work / "hello.txt"
    kcat = ["kcat", "-b", hosts, "-t", "peer"]

    def new(topic: str) -> None:
        fresh(hosts, topic)

    ours = Side(
        "mqcli",
        [*MQCLI, "publish", f"{url}/ours"],
        many_lines,
        before=lambda: new("ours"),
        after=lambda: expect(hosts, "ours", count),
    )
    yield Case(
        "kafka: publish, acks=all",
        ours,
        Side(
            "kcat -P -l",
            [*kcat, "-P", "-l", str(many_lines)],
            before=lambda: new("peer"),
            after=lambda: expect(hosts, "peer", count),
        ),
        count=count,
        floor=0.7,
    )
    yield Case(
        "kafka: publish, acks=all, beside the broker's own tool",
        ours,
        Side(
            "kafka-producer-perf-test",
            producer_perf(hosts, "peer", count),
            before=lambda: new("peer"),
            after=lambda: expect(hosts, "peer", count),
            note=reported,
        ),
        count=count,
        floor=3.0,
    )
    filled = False

    def fill() -> None:
        nonlocal filled
        if filled:
            return
        new("log")
        if shutil.which("kcat"):
            command = ["kcat", "-b", hosts, "-t", "log", "-P", "-l", str(many_lines)]
        else:
            command = [*MQCLI, "publish", "-q", f"{url}/log", "-f", str(many_lines)]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        expect(hosts, "log", count)
        filled = True

    def same() -> None:
        if out.stat().st_size != count * 101:
            raise RuntimeError(f"{out.stat().st_size} bytes came out, not {count * 101}")

    consume = [*MQCLI, "consume", f"{url}/log", "-e"]
    groupless = Side("mqcli", consume, out=out, before=fill, after=same)
    read = ["kcat", "-b", hosts, "-t", "log", "-C", "-o", "beginning", "-e", "-q"]
    for name, words, aim in (("kcat -C -e -q", [], False), ("kcat, tuned", _TUNED, True)):
        yield Case(
            "kafka: consume to a file" + (", beside kcat tuned" if aim else ""),
            groupless,
            Side(name, [*read, *words], out=out, before=fill, after=same),
            count=count,
            floor=1.0,
            aim=aim,
        )
    numbers = counter(1)
    group = ""

    def grouped() -> list[str]:
        return [*consume, "--group", group]

    def next_group() -> None:
        nonlocal group
        fill()
        group = f"bench-{next(numbers)}"

    def committed() -> None:
        same()

        async def check(admin: AIOKafkaAdminClient) -> None:
            found = await admin.list_consumer_group_offsets(group)
            offset = found[TopicPartition("log", 0)].offset
            if offset != count:
                raise RuntimeError(f"{offset} is committed, not {count}")

        _administer(hosts, check)

    yield Case(
        "kafka: consume with a group, committed",
        Side("mqcli", grouped, out=out, before=next_group, after=committed),
        Side("mqcli without a group", consume, out=out, before=fill, after=same),
        count=count,
        floor=0.9,
    )
    hello.write_text("hello\n")
    one = Side(
        "mqcli",
        [*MQCLI, "publish", f"{url}/ours", "hello"],
        before=lambda: new("ours"),
        after=lambda: expect(hosts, "ours", 1),
    )
    yield Case(
        "kafka: one message, start to exit",
        one,
        Side(
            "bare aiokafka",
            [sys.executable, str(BARE / "aiokafka_publish.py"), hosts, "peer", "hello"],
            before=lambda: new("peer"),
            after=lambda: expect(hosts, "peer", 1),
        ),
        floor=1.5,
        at_most=True,
        runs=15,
    )
    yield Case(
        "kafka: one message, beside kafka-console-producer",
        one,
        Side(
            "kafka-console-producer",
            java("ConsoleProducer", "--bootstrap-server", hosts, "--topic", "peer"),
            hello,
            before=lambda: new("peer"),
            after=lambda: expect(hosts, "peer", 1),
        ),
        floor=0.334,
        at_most=True,
    )
    ten_million = int(10_000_000 * scale)
    yield Case(
        "kafka: memory, 10 million lines to a topic",
        Side(
            "mqcli",
            [*MQCLI, "publish", f"{url}/ours"],
            ["sh", "-c", f"yes {'x' * 100} | head -n {ten_million}"],
            before=lambda: new("ours"),
            after=lambda: expect(hosts, "ours", ten_million),
        ),
        memory=150,
        runs=1,
    )
    yield Case("kafka: memory, consume to a file", groupless, memory=150, runs=1)

    def is_member() -> None:
        async def check(admin: AIOKafkaAdminClient) -> None:
            described = await admin.describe_consumer_groups([group])
            state, members = described[0].groups[0][2], described[0].groups[0][5]
            if len(members) != 1 or state != "Stable":
                raise RuntimeError(f"the group is {state} with {len(members)} members, not one")

        _administer(hosts, check)

    yield Case(
        "kafka: memory, consume with a group, output standing still",
        Side(
            "mqcli",
            lambda: [*MQCLI, "consume", f"{url}/log", "--group", group],
            before=next_group,
        ),
        memory=150,
        runs=1,
        stall=max(3.0, 60.0 * min(scale, 1.0)),
        during=is_member,
    )
