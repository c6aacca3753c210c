"""Three Kafka brokers of which one dies: too few copies, and a group without its coordinator."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mqcli.errors import ExitCode
from mqcli.message import Message
from mqcli.position import END
from mqcli.session import Limits
from mqcli.transport import Span
from tests.brokers.kafka import KafkaCluster
from tests.cli.support import Cli, until
from tests.unit.kafka_support import client, make, numbered, publish, read, run, topic, values

Started = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def cluster(started: Started) -> Iterator[KafkaCluster]:
    made: KafkaCluster = started(KafkaCluster)
    yield made


async def _copies(address: str) -> list[int]:
    async with topic(address) as transport:
        found: list[int] = (await transport.describe(None))["partition"][0]["isr"]
        return found


async def _coordinator(address: str, group: str) -> int:
    async with topic(address) as transport:
        return await transport._cluster.coordinator(group)


def test_too_few_copies_are_refused_for_now_and_counted(
    cli: Cli, cluster: KafkaCluster, fresh: str
) -> None:
    # Given a topic of two copies that wants both, of which one is lost
    address = f"{cluster.url}/{fresh}"
    run(make(address, replication_factor=2, config=("min.insync.replicas=2",)))
    assert run(publish(address, numbered(10))).confirmed == 10
    leader = cluster.leader(fresh)
    copies = run(_copies(address))
    (other,) = [node for node in copies if node != leader]
    cluster.nodes[other].kill()
    until(lambda: run(_copies(address)) == [leader], 60)
    # When published, one batch after the other
    began = time.monotonic()

    async def test() -> Any:
        async with client(address, Limits(confirm_timeout=2)).publisher() as publisher:
            for first in range(100, 400, 100):
                await publisher.submit(numbered(100, first))
            await publisher.finish()
            return publisher

    done = run(test())
    # Then it ends in time, nothing is taken for published, and the broker's reason is told
    assert time.monotonic() - began < 20
    assert (done.counts.confirmed, done.counts.refused, done.counts.unknown) == (0, 300, 0)
    assert done.failure is not None and "NOT_ENOUGH_REPLICAS" in str(done.failure)
    assert done.failure.exit_code == ExitCode.TRY_LATER
    shown = cli("publish", address, "x", "--confirm-timeout", "2s")
    assert shown.code == 75, shown
    assert "NOT_ENOUGH_REPLICAS" in shown.err and "min.insync.replicas" in shown.err
    assert "0 confirmed, 1 refused, 0 unknown" in shown.err
    # and what was refused is not there
    assert values(run(read(address))) == values(numbered(10))
    # When the copy comes back in time, then nothing is refused
    with cli.start("publish", address, "--confirm-timeout", "60s", "y") as process:
        cluster.nodes[other].begin(wait=False)
        assert process.wait(70) == 0
    assert values(run(read(address)))[-1] == b"y"


def test_a_group_outlives_its_coordinator(cluster: KafkaCluster, fresh: str) -> None:
    # Given a group that reads three partitions
    address = f"{cluster.url}/{fresh}"
    total = 30_000
    run(make(address, 3, replication_factor=3))
    run(publish(address, [Message(m.value, m.value) for m in numbered(total)]))
    got: Counter[bytes | None] = Counter()

    async def test() -> None:
        killed = False
        async with client(address, Limits(reconnect_for=60), claim_after="6s").consume(
            Span(None, END), fresh
        ) as reader:
            while not reader.ended:
                messages = await reader.receive(500)
                got.update(values(messages))
                await reader.settle(len(messages))
                if len(got) > total // 3 and not killed:
                    killed = True
                    # When the broker that keeps the group is killed
                    node = await _coordinator(address, fresh)
                    await asyncio.to_thread(cluster.nodes[node].kill)
            assert killed
            # Then the last offsets were committed to the broker that has taken over
            assert reader.late == sum(got.values()) - len(got)

    run(test())
    # Then nothing is lost, and what came twice is little
    assert len(got) == total, f"{total - len(got)} are missing"
    assert sum(got.values()) - total <= 3000

    async def left() -> int:
        async with topic(address) as transport:
            lag: int = (await transport.describe(fresh))["lag"]
            return lag

    # and the group has committed all of it
    assert run(left()) == 0
