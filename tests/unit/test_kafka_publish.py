"""Publishing to Kafka: partitions, refusals of one message, transactions, and lost brokers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from mqcli.errors import ConnectionLost, NotFound, Refused, UsageError
from mqcli.message import Message, Tagged
from mqcli.position import END
from mqcli.session import Limits
from mqcli.transport import Span

from ..brokers.kafka import Kafka, KafkaCluster, KafkaServer
from .kafka_support import client, make, numbered, publish, read, run, topic, values

Started = Callable[[Callable[[], Any]], Any]
KEYS = [b"%d" % n for n in range(40)] + [b"", b"\xff\x00key", b"a longer key, with more words"]


def test_a_key_lands_where_the_java_client_puts_it(kafka: Kafka, fresh: str) -> None:
    # Given a topic of seven partitions, to which kcat publishes with Java's partitioner
    theirs, ours = f"{fresh}-theirs", f"{fresh}-ours"
    run(make(f"{kafka.url}/{theirs}", 7))
    run(make(f"{kafka.url}/{ours}", 7))
    keys = [key for key in KEYS if b"\x00" not in key and key]
    for key in keys:
        kafka.send(theirs, [Message(b"v", key)], "-X", "partitioner=murmur2_random")
    # When we publish the same keys
    outcome = run(publish(f"{kafka.url}/{ours}", [Message(b"v", key) for key in keys]))
    assert outcome.confirmed == len(keys)
    # Then each key is in the same partition as theirs
    where = [
        {m.key: m.position.partition(":")[0] for m in run(read(f"{kafka.url}/{name}"))}
        for name in (theirs, ours)
    ]
    assert where[0] == where[1] and len(set(where[0].values())) > 3


def test_positions_and_partitions(kafka: Kafka, fresh: str) -> None:
    # Given messages that name a partition, have a key, or neither
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    batch = [
        Message(b"named", properties={"partition": 2}),
        Message(b"wrong", properties={"partition": 3}),
        Message(b"keyed", b"k"),
        Message(b"fixed"),
    ]
    # When published with a partition of the options
    outcome = run(publish(address, batch, partition=1))
    # Then each is where it should be, and is told its position; the wrong one alone is refused
    assert outcome.confirmed == 3 and set(outcome.refused) == {1}
    assert isinstance(outcome.refused[1], Refused)
    there = {m.position: m.value for m in run(read(address))}
    assert outcome.positions is not None
    assert there == {p: m.value for p, m in zip(outcome.positions, batch, strict=True) if p}
    assert outcome.positions[0] == "2:0"
    assert {outcome.positions[2], outcome.positions[3]} == {"1:0", "1:1"}


def test_a_partition_that_is_not_there_is_refused_before_anything_is_sent(
    kafka: Kafka, fresh: str
) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    outcome = run(publish(address, numbered(3), partition=5))
    assert all(isinstance(error, UsageError) for error in outcome.refused.values())
    assert len(outcome.refused) == 3 and run(read(address)) == []


def test_an_unknown_topic_is_refused_and_not_made(kafka: Kafka, fresh: str) -> None:
    # Given a broker that makes topics for whoever asks, and a topic with a similar name
    run(make(f"{kafka.url}/{fresh}"))
    # When something is published to a name with a slip
    outcome = run(publish(f"{kafka.url}/{fresh}x", numbered(2)))
    # Then it is refused with the nearest name, and the topic is not there
    assert isinstance(outcome.refused[0], NotFound)
    assert fresh in outcome.refused[0].hint
    assert f"{fresh}x" not in kafka.topics()


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_kcat_reads_every_codec_and_we_read_its(kafka: Kafka, fresh: str, codec: str) -> None:
    # Given messages with a key, a tombstone, and headers that repeat or are empty
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    sent = [
        Message(b"value" * 100, b"k", (("a", "1"), ("a", "2"), ("empty", ""))),
        Message(None, b"k"),
        *numbered(50),
    ]
    # When we publish them, then kcat reads them; when kcat does, then we do
    assert run(publish(address, sent, compression=codec)).confirmed == len(sent)
    theirs = kafka.read(fresh)
    assert [(m.value, m.key, m.headers) for m in theirs] == [
        (m.value, m.key, m.headers) for m in sent
    ]
    kafka.send(fresh, sent, "-z", codec)
    got = run(read(address))[len(sent) :]
    assert [(m.value, m.key, m.headers) for m in got] == [(m.value, m.key, m.headers) for m in sent]


def test_a_header_may_be_null(kafka: Kafka, fresh: str) -> None:
    # Given headers that are null, empty, and the text null
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    headers = (("n", Tagged("null", None)), ("e", ""), ("t", "null"), ("n", b"\xff"))
    # When published, then Kafka's own consumer tells them apart, and so do we
    assert run(publish(address, [Message(b"v", headers=headers)])).confirmed == 1
    assert kafka.read(fresh)[0].headers == headers
    assert run(read(address))[0].headers == headers


@pytest.mark.parametrize("acks", ["all", "1", "0"])
def test_every_kind_of_acks_stores(kafka: Kafka, fresh: str, acks: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    outcome = run(publish(address, numbered(5000), acks=acks))
    assert outcome.confirmed == 5000
    # With acks=0 nobody says when: what comes behind it on the same wire does.
    run(publish(address, [Message(b"last")]))
    got = values(run(read(address)))
    assert got.count(b"last") == 1 and len(got) == 5001


def test_what_is_too_large_is_refused_alone(kafka: Kafka, fresh: str) -> None:
    # Given a topic with a limit, and messages over and under it
    address = f"{kafka.url}/{fresh}"
    run(make(address, config=("max.message.bytes=20000",)))
    batch = [*numbered(3), Message(b"x" * 30_000), *numbered(2000, 3), Message(b"y" * 50_000)]

    async def test() -> None:
        async with topic(address) as transport:
            # When published, then the others go on, and so does what comes after
            outcome = await transport.publish(batch, 10)
            assert set(outcome.refused) == {3, 2004} and not outcome.unknown
            assert "20000" in outcome.refused[3].why
            assert (await transport.publish([Message(b"after")], 10)).confirmed == 1

    run(test())
    got = values(run(read(address)))
    assert got == [*values(numbered(2003)), b"after"]


def test_what_fits_when_compressed_is_published(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address, config=("max.message.bytes=20000",)))
    assert run(publish(address, [Message(b"x" * 100_000)], compression="zstd")).confirmed == 1
    assert values(run(read(address))) == [b"x" * 100_000]


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_the_broker_refuses_does_not_spoil_the_rest(
    kafka: Kafka, fresh: str, idempotent: bool
) -> None:
    # Given a compacted topic, which takes no message without a key, and many batches in flight
    address = f"{kafka.url}/{fresh}"
    run(make(address, config=("cleanup.policy=compact",)))
    batches = [
        [Message(b"%d-%d" % (b, n), None if n % 7 == b else b"k") for n in range(50)]
        for b in range(7)
    ]

    async def test() -> None:
        async with topic(address, idempotent=idempotent) as transport:
            # When published at once
            outcomes = await asyncio.gather(*(transport.publish(b, 10) for b in batches))
            # Then the messages to blame are refused by index, and all others are confirmed
            for number, outcome in enumerate(outcomes):
                wrong = {n for n in range(50) if n % 7 == number}
                assert (set(outcome.refused), outcome.confirmed) == (wrong, 50 - len(wrong))
                assert not outcome.unknown and outcome.cause is None
            assert (await transport.publish([Message(b"after", b"k")], 10)).confirmed == 1

    run(test())
    got = values(run(read(address)))
    wanted = [m.value for batch in batches for m in batch if m.key is not None]
    assert sorted(got, key=repr) == sorted([*wanted, b"after"], key=repr)
    if idempotent:
        within = [v for v in got if v is not None and v.startswith(b"3-")]
        assert within == [m.value for m in batches[3] if m.key is not None]


def test_a_transaction_is_all_or_nothing(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address, 2))

    async def attempt(first: int, commit: bool) -> None:
        async with topic(address) as transport:
            await transport.begin()
            for start in (first, first + 10):
                assert (await transport.publish(numbered(10, start), 10)).confirmed == 10
            # While it is open nobody sees it who reads committed messages
            assert len(await read(address)) == before
            await (transport.commit(10) if commit else transport.abort(10))

    # Given one transaction that is aborted, and one that is committed
    before = 0
    run(attempt(100, False))
    run(attempt(200, True))
    # Then only the second can be read, by us and by kcat, at once; and -e ends behind the markers
    wanted = sorted(m.value or b"" for m in numbered(20, 200))
    assert sorted(v or b"" for v in values(run(read(address)))) == wanted
    theirs = kafka.read(fresh, "-X", "isolation.level=read_committed")
    assert sorted(m.value or b"" for m in theirs) == wanted
    assert len(run(read(address, isolation="read_uncommitted"))) == 40


def test_a_broker_that_stands_still_is_given_up_in_time(started: Started, fresh: str) -> None:
    """K1: aiokafka's idempotent producer would wait for ever, and so would its stop()."""
    server: KafkaServer = started(KafkaServer)
    address = f"{server.url}/{fresh}"
    run(make(address))

    async def test() -> None:
        async with topic(address) as transport:
            assert (await transport.publish(numbered(10), 10)).confirmed == 10
            # Given a broker that does not answer any more
            server.process.pause()
            began = time.monotonic()
            try:
                # When published, then the fate is unknown after the time that was given
                outcome = await transport.publish(numbered(10, 10), 2)
                assert list(outcome.unknown) == list(range(10))
                assert isinstance(outcome.cause, ConnectionLost)
                # and nothing more is taken
                with pytest.raises(ConnectionLost):
                    await transport.publish(numbered(1, 20), 2)
            finally:
                server.process.resume()
            assert time.monotonic() - began < 4

    run(test())


def test_a_killed_broker_that_comes_back_loses_and_doubles_nothing(
    started: Started, fresh: str
) -> None:
    # Given a publisher in the middle of its work
    server: KafkaServer = started(KafkaServer)
    address = f"{server.url}/{fresh}"
    run(make(address))
    total, size = 60_000, 500

    async def test() -> Any:
        async with client(address, Limits(confirm_timeout=60)).publisher() as publisher:
            for start in range(0, total, size):
                await publisher.submit(numbered(size, start))
                if start == total // 2:
                    # When the broker is killed and started again
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
            await publisher.finish()
            return publisher.counts

    counts = run(test())
    # Then the batches that were in flight are sent again, under their numbers
    assert (counts.confirmed, counts.refused, counts.unknown) == (total, 0, 0)
    assert values(run(read(address))) == values(numbered(total))


def test_a_killed_leader_is_replaced_in_mid_publish(started: Started, fresh: str) -> None:
    # Given a topic with copies on three brokers
    cluster: KafkaCluster = started(KafkaCluster)
    address = f"{cluster.url}/{fresh}"
    run(make(address, replication_factor=3))
    total, size = 100_000, 1000

    async def test() -> Any:
        async with client(address, Limits(confirm_timeout=60)).publisher() as publisher:
            for start in range(0, total, size):
                await publisher.submit(numbered(size, start))
                if start == total // 2:
                    # When the leader is killed
                    leader = await asyncio.to_thread(cluster.leader, fresh)
                    await asyncio.to_thread(cluster.nodes[leader].kill)
            await publisher.finish()
            return publisher.counts

    counts = run(test())
    # Then every message has a fate, none is missing that was confirmed, and none is there twice
    assert counts.confirmed + counts.refused + counts.unknown == total
    got = values(run(read(address)))
    assert len(got) == len(set(got))
    assert counts.confirmed <= len(got) <= counts.confirmed + counts.unknown
    assert counts.confirmed == total, counts


def test_reading_survives_the_loss_of_a_leader(started: Started, fresh: str) -> None:
    # Given a reader of a topic with copies on three brokers, in mid-reading
    cluster: KafkaCluster = started(KafkaCluster)
    address = f"{cluster.url}/{fresh}"
    run(make(address, 3, replication_factor=3))
    run(publish(address, [Message(m.value, m.value) for m in numbered(20_000)]))

    async def test() -> list[bytes | None]:
        got: list[bytes | None] = []
        async with client(address).consume(Span(None, END)) as reader:
            while not reader.ended:
                got += values(await reader.receive(500))
                if len(got) == 500:
                    leader = await asyncio.to_thread(cluster.leader, fresh)
                    # When a leader is killed
                    await asyncio.to_thread(cluster.nodes[leader].kill)
        return got

    # Then all comes, once
    assert sorted(v or b"" for v in run(test())) == values(numbered(20_000))


def test_a_null_header_goes_through_the_client_and_other_types_do_not(
    kafka: Kafka, fresh: str
) -> None:
    # Given headers that are null and of a type that Kafka does not have
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    null, number = ("n", Tagged("null", None)), ("i", 7)

    async def test() -> Any:
        async with client(address).publisher(drop_unsupported=True) as publisher:
            await publisher.submit([Message(b"1", headers=(null, number))])
            await publisher.finish()
        async with client(address).publisher() as publisher:
            await publisher.submit(
                [Message(b"2", headers=(null,)), Message(b"3", headers=(number,))]
            )
            await publisher.finish()
            return publisher.counts

    # When published, then null is carried, and the other is left out or refused
    counts = run(test())
    assert (counts.confirmed, counts.refused) == (1, 1)
    assert [(m.value, m.headers) for m in run(read(address))] == [(b"1", (null,)), (b"2", (null,))]
