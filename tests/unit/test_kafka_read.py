"""Reading Kafka: starts and stops over partitions, order, gaps, groups, logins."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from mqcli.address import parse_broker
from mqcli.errors import (
    AccessDenied,
    BrokerUnavailable,
    InputError,
    MqcliError,
    NotFound,
    Refused,
    UsageError,
)
from mqcli.message import Message
from mqcli.position import BEGINNING, END, Start, parse_start
from mqcli.registry import broker_target
from mqcli.session import Limits
from mqcli.transport import Span
from mqcli.transports._kafka_log import LogFeed
from mqcli.transports.kafka_topic import KafkaTopic

from ..brokers.kafka import Kafka, KafkaServer
from .kafka_support import (
    client,
    everything,
    make,
    numbered,
    publish,
    read,
    run,
    topic,
    values,
)

Started = Callable[[Callable[[], Any]], Any]


def spread(count: int, partitions: int, stamp: int = 1_700_000_000_000) -> list[Message]:
    """Messages over all partitions, a millisecond apart."""
    return [
        Message(b"%07d" % n, None, (), {"partition": n * 7 % partitions}, stamp + n)
        for n in range(count)
    ]


def positions(start: str) -> Start:
    return parse_start(start)


# -- places


def test_partitions_can_be_chosen(kafka: Kafka, fresh: str) -> None:
    # Given messages in six partitions
    address = f"{kafka.url}/{fresh}"
    run(make(address, 6))
    run(publish(address, spread(600, 6)))
    # When some are read, then the messages of these come
    got = run(read(address, partitions="0,3-4"))
    assert {m.position.partition(":")[0] for m in got} == {"0", "3", "4"} and len(got) == 300
    # and a partition that is not there, or no range, is an error
    with pytest.raises(NotFound):
        run(read(address, partitions="5,6"))
    for wrong in ("1-", "3-1", "x"):
        with pytest.raises(UsageError):
            run(read(address, partitions=wrong))


def test_ordered_is_by_time_and_never_against_a_partition(kafka: Kafka, fresh: str) -> None:
    # Given messages spread over partitions, one of them with a clock that jumps back
    address = f"{kafka.url}/{fresh}"
    run(make(address, 4))
    batch = spread(2000, 4)
    run(publish(address, batch))
    late = Message(b"late", None, (), {"partition": 1}, 1_600_000_000_000)
    run(publish(address, [late]))
    # When read in order of time
    got = run(read(address, ordered=True))
    # Then that is their order, and the late one stands behind those of its own partition
    assert [v for v in values(got) if v != b"late"] == [m.value for m in batch]
    own = [m for m in got if m.position.startswith("1:")]
    assert own[-1].value == b"late"


@pytest.mark.parametrize("start", ["-10", "-1"])
def test_the_last_are_the_last_over_all_partitions(kafka: Kafka, fresh: str, start: str) -> None:
    # Given messages of which the newest are not spread evenly
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    batch = spread(90, 3)
    run(publish(address, batch))
    # When the last N are read, then they are the newest
    got = run(read(address, Span(positions(start), END), ordered=True))
    assert values(got) == [m.value for m in batch[int(start) :]]


def test_the_last_are_found_behind_holes(kafka: Kafka, fresh: str) -> None:
    # Given a log whose end is full of aborted messages
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(5)))

    async def aborted() -> None:
        async with topic(address) as transport:
            await transport.begin()
            assert (await transport.publish(numbered(500, 100), 10)).confirmed == 500
            await transport.abort(10)

    run(aborted())
    # When the last three are read, then they are found before the hole
    assert values(run(read(address, Span(positions("-3"), END)))) == values(numbered(3, 2))


def test_places_can_be_named_for_each_partition(kafka: Kafka, fresh: str) -> None:
    # Given 30 messages in each of three partitions
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    run(publish(address, spread(90, 3)))
    # When a place names partitions, then only these are read, from there to the stop
    got = run(read(address, Span(positions("0:10,2:29"), positions("0:12,2:30"))))
    assert sorted(m.position for m in got) == ["0:10", "0:11", "2:29"]
    # and a bare offset is meant in every partition
    assert len(run(read(address, Span(positions("28"), END)))) == 6
    assert len(run(read(address, Span(positions("+29"), END)))) == 3
    at = Start("time", ms=1_700_000_000_000 + 80)
    assert values(run(read(address, Span(at, END), ordered=True))) == [
        b"%07d" % n for n in range(80, 90)
    ]
    # A place behind the end, or for no partition, is an error of use
    for wrong in ("31", "0:31", "3:0", "x", "0:x"):
        with pytest.raises(UsageError):
            run(read(address, Span(positions(wrong), END)))


def test_what_retention_removed_is_a_gap(kafka: Kafka, fresh: str) -> None:
    # Given a topic of which the beginning was deleted
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(10)))

    async def test() -> None:
        async with topic(address) as transport:
            assert await transport.purge() == 10
            assert (await transport.publish(numbered(2, 10), 10)).confirmed == 2
            # When read from a place that is gone
            feed = await transport.subscribe(Span(positions("4"), END), None, None)
            # Then the gap says from where to where, and the rest comes
            assert values(await everything(feed)) == values(numbered(2, 10))
            (gap,) = feed.gaps
            assert (gap.after, gap.before, gap.count) == ("0:3", "0:10", 6)
            await feed.aclose()

    run(test())


def test_what_is_removed_while_reading_is_a_gap(kafka: Kafka, fresh: str) -> None:
    # Given a reader that has read two of four, and stands still
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(4)))

    async def test() -> None:
        async with topic(address) as transport, topic(address) as other:
            feed = await transport.subscribe(Span(positions("2")), None, None)
            assert len(await feed.receive(10, 1 << 20, 10)) == 2
            assert isinstance(feed, LogFeed)
            await feed.fetcher.aclose()
            await other.publish(numbered(4, 4), 10)
            await other.purge()
            await other.publish(numbered(1, 8), 10)
            # When it goes on behind what was deleted meanwhile
            resumed = feed.resume()
            assert resumed is not None
            await feed.aclose()
            feed = await transport.subscribe(resumed, None, None)
            gaps, got = [], []
            deadline = time.monotonic() + 20
            while not got and time.monotonic() < deadline:
                got += values(await feed.receive(10, 1 << 20, 1))
                gaps += feed.gaps
                feed.gaps.clear()
            # Then that is a gap, and nothing is skipped in silence (K9)
            assert got == [b"0000008"]
            assert [(g.after, g.before) for g in gaps] == [("0:3", "0:8")]
            await feed.aclose()

    run(test())


def test_a_damaged_batch_is_named_and_can_be_skipped(started: Started, fresh: str) -> None:
    # Given a log of which one batch was damaged on the disk
    server: KafkaServer = started(KafkaServer)
    address = f"{server.url}/{fresh}"
    run(make(address))
    for first in (0, 10, 20):
        run(publish(address, numbered(10, first)))
    server.kill()
    (log,) = (server.folder / "data").glob(f"{fresh}-0/*.log")
    data = log.read_bytes()
    # Recovery after a kill looks at checksums; what it has looked at before it does not.
    (server.folder / "data" / ".kafka_cleanshutdown").write_text('{"version":0,"brokerEpoch":-1}')
    log.write_bytes(data.replace(b"0000014", b"00x0014"))
    server.start()
    # When read, then the place is named
    with pytest.raises(InputError, match="0:10"):
        run(read(address))
    # and all the rest comes when that is asked for
    got = values(run(read(address, skip_unreadable=True)))
    assert got == [*values(numbered(10)), *values(numbered(10, 20))]


def test_a_deleted_topic_ends_the_reading(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address))

    async def test() -> None:
        async with topic(address) as transport, topic(address) as other:
            feed = await transport.tail(Span())
            async with aclosing(feed):
                await other.delete()
                # When its topic is deleted, then the reader says so and does not make it anew
                with pytest.raises(NotFound):
                    for _ in range(20):
                        await feed.receive(10, 1 << 20, 1)
            assert not await other.exists()

    run(test())
    assert fresh not in kafka.topics()


def test_reading_an_unknown_topic_creates_nothing(kafka: Kafka, fresh: str) -> None:
    """K12, V5."""
    address = f"{kafka.url}/{fresh}"

    async def test() -> None:
        async with topic(address) as transport:
            for attempt in (
                transport.subscribe(Span(), None, None),
                transport.subscribe(Span(), "g", None),
                transport.tail(Span()),
                transport.describe(None),
            ):
                with pytest.raises(NotFound):
                    await attempt

    run(test())
    assert fresh not in kafka.topics()


# -- watching


def test_a_tail_picks_up_new_topics_that_match(
    kafka: Kafka, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mqcli.transports import _kafka_log

    monkeypatch.setattr(_kafka_log, "LOOK_AGAIN", 0.2)
    run(make(f"{kafka.url}/{fresh}-one", 2))

    async def test() -> None:
        async with topic(f"{kafka.url}/{fresh}-(one|two)", regex=True) as transport:
            # Given a tail of every topic that matches
            feed = await transport.tail(Span())
            await publish(f"{kafka.url}/{fresh}-one", [Message(b"1")])
            # When another one appears
            await make(f"{kafka.url}/{fresh}-two")
            await make(f"{kafka.url}/{fresh}-twox")
            for name in ("two", "twox"):
                await publish(f"{kafka.url}/{fresh}-{name}", [Message(b"2")])
            # Then its messages come too, with their own address
            got = []
            deadline = time.monotonic() + 20
            while len(got) < 2 and time.monotonic() < deadline:
                got += await feed.receive(10, 1 << 20, 0.2)
            assert {m.source: m.value for m in got} == {
                f"{kafka.url}/topic:{fresh}-one": b"1",
                f"{kafka.url}/topic:{fresh}-two": b"2",
            }
            await feed.aclose()

    run(test())


# -- groups


def test_members_come_and_go_and_nothing_is_lost(kafka: Kafka, fresh: str) -> None:
    """F17: three partitions, 200,000 messages, members that join and leave all the time."""
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    total = 200_000
    got: Counter[bytes | None] = Counter()
    late = 0

    async def member(seconds: float) -> None:
        nonlocal late
        async with client(address, claim_after="6s").consume(group="g") as reader:
            until = time.monotonic() + seconds
            while time.monotonic() < until and len(got) < total:
                messages = await reader.receive(400, 1 << 20, 0.1)
                got.update(values(messages))
                await asyncio.sleep(0.004)
                await reader.settle(len(messages))
            late += reader.late

    async def test() -> None:
        async def sender() -> None:
            async with topic(address) as transport:
                for first in range(0, total, 2000):
                    batch = [Message(m.value, m.value) for m in numbered(2000, first)]
                    assert (await transport.publish(batch, 10)).confirmed == 2000
                    await asyncio.sleep(0.02)

        sending = asyncio.create_task(sender())
        deadline = time.monotonic() + 90
        members = [asyncio.create_task(member(30))]
        while len(got) < total and time.monotonic() < deadline:
            members.append(asyncio.create_task(member(3)))
            await asyncio.wait(members, timeout=2)
        await sending
        await asyncio.gather(*members)

    # When members join and leave every two seconds while messages flow
    run(test())
    # Then the union is complete, and what came twice is what was not yet settled at a handover
    assert len(got) == total, f"{total - len(got)} are missing"
    assert sum(got.values()) - total <= 20_000
    assert run(lag(address)) == 0


async def lag(address: str) -> int:
    async with topic(address) as transport:
        found: int = (await transport.describe("g"))["lag"]
        return found


def test_the_end_works_in_a_group_and_commits_behind_holes(kafka: Kafka, fresh: str) -> None:
    # Given messages in three partitions, one of which ends with a transaction's marker
    address = f"{kafka.url}/{fresh}"
    run(make(address, 3))
    run(publish(address, spread(300, 3)))

    async def test() -> None:
        async with topic(address, partition=1) as transport:
            await transport.begin()
            await transport.publish(numbered(5, 1000), 10)
            await transport.commit(10)
        # When a member reads to the end that stands now
        async with client(address).consume(Span(None, END), "g") as reader:
            count = 0
            while not reader.ended:
                messages = await reader.receive()
                await reader.settle(len(messages))
                count += len(messages)
        # Then it has ended, and the group has no lag
        assert count == 305
        assert await lag(address) == 0

    run(test())


def test_a_new_group_at_the_end_stays_there(kafka: Kafka, fresh: str) -> None:
    # Given a group that begins at the end and gets nothing
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(3)))

    async def look(start: Start | None) -> list[bytes | None]:
        async with client(address).consume(Span(start), "g") as reader:
            got: list[bytes | None] = []
            deadline = time.monotonic() + 5
            while not got and time.monotonic() < deadline:
                messages = await reader.receive(wait=0.5)
                await reader.settle(len(messages))
                got += values(messages)
                if start is not None and time.monotonic() > deadline - 3:
                    break
            return got

    assert run(look(END)) == []
    # When messages come and a later member asks for nothing, then it gets those
    run(publish(address, numbered(2, 10)))
    assert run(look(None)) == values(numbered(2, 10))


def test_a_group_can_be_moved_while_nobody_is_in_it(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    run(make(address, 2))
    run(publish(address, spread(20, 2)))

    async def test() -> None:
        async with topic(address) as transport:
            # Given a look at what would be, then nothing is changed
            plan = await transport.seek("g", Start("skip", count=4), commit=False)
            assert plan == [{"partition": n, "committed": None, "to": 4} for n in (0, 1)]
            with pytest.raises(NotFound):
                await transport.describe("g")
            # When it is done, then the group stands there
            await transport.seek("g", Start("skip", count=4), commit=True)
            assert (await transport.describe("g"))["lag"] == 12
            # and while it has members it is refused
            async with client(address).consume(group="g") as reader:
                while not await reader.receive():
                    pass
                with pytest.raises(Refused, match="in use"):
                    await transport.seek("g", BEGINNING, commit=True)
                shown = await transport.describe("g")
                assert len(shown["members"]) == 1 and shown["state"] == "Stable"

    run(test())


def test_partitions_are_not_chosen_in_a_group(kafka: Kafka) -> None:
    with pytest.raises(UsageError):
        client(f"{kafka.url}/x", partitions="0").consume(group="g")


# -- looking and preparing


def test_a_topic_is_made_as_asked_and_told_apart(kafka: Kafka, fresh: str) -> None:
    address = f"{kafka.url}/{fresh}"
    settings = ("retention.ms=60000", "cleanup.policy=compact")
    run(make(address, 3, config=settings))

    async def test() -> None:
        async with topic(address, num_partitions=3, config=settings) as same:
            # The same again is no error, another one is
            assert not await same.create()
            shown = await same.describe(None)
            assert (shown["partitions"], shown["config"]["retention.ms"]) == (3, "60000")
            assert shown["partition"][2] == {
                "partition": 2, "leader": 1, "replicas": [1], "isr": [1],
                "earliest": 0, "latest": 0,
            }  # fmt: skip
        for given in ({"num_partitions": 4}, {"config": ("retention.ms=1",)}):
            async with topic(address, **given) as different:
                with pytest.raises(Refused, match="different"):
                    await different.create()
        for wrong in ({"config": ("no.such=1",)}, {"replication_factor": 3}, {"config": ("x",)}):
            async with topic(f"{address}-other", **wrong) as bad:
                with pytest.raises(UsageError):
                    await bad.create()

    run(test())
    assert kafka.topics()[fresh] == 3 and f"{fresh}-other" not in kafka.topics()


def test_the_cluster_is_listed(kafka: Kafka, fresh: str) -> None:
    run(make(f"{kafka.url}/{fresh}", 2))

    async def test() -> None:
        url = parse_broker(kafka.url)
        assert not isinstance(url, str)
        cls, target = broker_target(url)
        broker = cls(target)
        try:
            await broker.open()
            assert (await broker.ping())["server"] == "kafka"
            found = {entry.name: entry for entry in await broker.ls(None)}
            assert found[fresh].detail["partitions"] == 2
            assert "__consumer_offsets" not in found
            assert all(entry.kind == "group" for entry in await broker.ls("group"))
        finally:
            await broker.aclose()

    run(test())


# -- connections


async def opened(address: str, **given: object) -> None:
    async with topic(address, **given):
        pass


def failure(address: str, **given: object) -> MqcliError:
    began = time.monotonic()
    with pytest.raises(MqcliError) as caught:
        run(opened(address, **given))
    assert time.monotonic() - began < 12
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


def test_logins_with_scram_and_plain(started: Started, fresh: str) -> None:
    # Given a broker that wants a login
    users = {"alice": "secret"}
    server: KafkaServer = started(lambda: KafkaServer(users=users))
    host = server.url.partition("@")[2]
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", None):
        given = {"sasl_mechanism": mechanism} if mechanism else {}
        # When the password is right, then it opens
        run(opened(f"kafka://alice:secret@{host}/x", **given))
        # When it is wrong, then that is told in the broker's words (K11)
        error = failure(f"kafka://alice:secretx@{host}/x", **given)
        assert isinstance(error, AccessDenied) and "SASL_AUTHENTICATION_FAILED" in error.why
    # Without a login nothing answers, and the error says what may be missing
    error = failure(f"kafka://{host}/x")
    assert isinstance(error, BrokerUnavailable) and "login" in error.hint


def test_tls(started: Started, fresh: str) -> None:
    # Given a broker with TLS
    server: KafkaServer = started(lambda: KafkaServer(tls=True, users={"alice": "secret"}))
    made = server.certificates
    assert made is not None
    address = f"{server.url}/{fresh}"
    # When its authority is named, then everything works
    run(make(address, ssl_ca_certs=made.ca))
    assert run(publish(address, numbered(1000), ssl_ca_certs=made.ca)).confirmed == 1000
    assert len(run(read(address, ssl_ca_certs=made.ca))) == 1000
    assert len(server.read(fresh)) == 1000
    # When not, or not as TLS, then the reason is named
    error = failure(address)
    assert isinstance(error, BrokerUnavailable) and "not trusted" in error.why
    error = failure(address.replace("kafkas://", "kafka://"))
    assert isinstance(error, BrokerUnavailable) and "TLS" in error.hint
    # and --insecure goes without
    from mqcli.client import Client

    transport = Client.at(address, insecure=True).make(KafkaTopic)
    run(_open_and_close(transport))


async def _open_and_close(transport: KafkaTopic) -> None:
    try:
        await transport.open()
    finally:
        await transport.aclose()


def test_what_the_broker_advertises_is_named_when_it_cannot_be_reached(
    started: Started, fresh: str
) -> None:
    # Given a broker that tells its clients a name that leads nowhere
    server: KafkaServer = started(lambda: KafkaServer(advertised="broker.invalid:9092"))
    address = f"kafka://127.0.0.1:{server.port}/{fresh}"

    async def test() -> None:
        async with topic(address, num_partitions=1) as transport:
            # When something needs it, then the name and its origin are told
            with pytest.raises(BrokerUnavailable) as caught:
                await transport.create()
            assert "broker.invalid:9092" in str(caught.value)
            assert "advertised.listeners" in caught.value.hint

    run(test())


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("kafka://u:hunter2@example.org", {"sasl_mechanism": "PLAIN"}),
        ("kafka://localhost", {"sasl_mechanism": "PLAIN"}),
        ("kafka://localhost", {"sasl_mechanism": "OAUTHBEARER"}),
        ("kafka://localhost", {"ssl_ca_certs": "x"}),
        ("kafka://localhost/path", {}),
        ("kafkas://localhost", {"ssl_keyfile": "x"}),
    ],
)
def test_a_login_that_cannot_be_is_refused_before_a_socket_opens(
    url: str, given: dict[str, object]
) -> None:
    with pytest.raises(UsageError) as caught:
        client(f"{url}/x", **given).make(KafkaTopic)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", ".", "x" * 250, "%C3%A9"])
def test_a_name_that_no_topic_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        client(f"kafka://localhost/{name}").make(KafkaTopic)


def test_the_second_host_is_used_when_the_first_is_dead(kafka: Kafka, fresh: str) -> None:
    host = kafka.url.removeprefix("kafka://")
    run(opened(f"kafka://127.0.0.1:9,{host}/x"))
    error = failure("kafka://127.0.0.1:9,127.0.0.1:11/x")
    assert isinstance(error, BrokerUnavailable) and "127.0.0.1" in error.why


def test_a_reader_stands_still_without_losing_its_place_in_the_group(
    kafka: Kafka, fresh: str
) -> None:
    # Given a member whose output stands still for longer than its session
    address = f"{kafka.url}/{fresh}"
    run(make(address))
    run(publish(address, numbered(2000)))

    async def test() -> None:
        limits = Limits()
        async with client(address, limits, claim_after="1s").consume(group="g") as reader:
            messages = []
            while not messages:
                messages = list(await reader.receive(100))
            await asyncio.to_thread(time.sleep, 3)  # what is tested is that time passes
            # When it goes on, then what it had is still its own
            await reader.settle(len(messages))
            assert reader.late == 0
        assert await lag(address) == 1900

    run(test())
