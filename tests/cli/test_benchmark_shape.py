"""What the load of ``mqcli benchmark`` is made of, as it stands in the destination afterwards."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from mqcli.benchmark.result import Report, load
from tests.brokers.kafka import Kafka
from tests.brokers.redis import Redis

from .support import Cli

pytestmark = pytest.mark.alone

STAMP = 32


class Kept:
    """A list that was filled and kept, and is removed at the end."""

    def __init__(self, redis: Redis, address: str) -> None:
        self._redis = redis
        self.address = address

    def publish(self, cli: Cli, *arguments: str) -> tuple[Report, list[bytes]]:
        done = cli("benchmark", self.address, "--only", "publish", "--keep", "--warmup", "0",
                   *arguments, "-o", "json").ok()  # fmt: skip
        (run,) = load(done.out, "stdout")
        name = run.address.rpartition(":")[2]
        values = self._redis.cli("LRANGE", name, "0", "-1")
        self._redis.cli("DEL", name)
        return run, values


@pytest.fixture
def kept(redis: Redis, fresh: str) -> Kept:
    return Kept(redis, f"{redis.url}/list:{fresh}")


def test_sizes_are_drawn_from_the_distribution(cli: Cli, kept: Kept) -> None:
    # Given nine small messages to a large one, of no fixed size
    _, values = kept.publish(cli, "-c", "2000", "--size", "50-60:9,1000:1")
    # Then every size is of one of the two, in about that share
    sizes = [len(value) for value in values]
    assert len(sizes) == 2000
    assert all(50 <= size <= 60 or size == 1000 for size in sizes)
    assert 100 < sizes.count(1000) < 350
    assert len(set(sizes)) > 5


def test_a_payload_goes_in_front_of_the_stamp(cli: Cli, kept: Kept, tmp_path: Path) -> None:
    # Given a file of any bytes
    content = bytes(range(1, 256)).replace(b'"', b"").replace(b"\\", b"")
    (tmp_path / "p.bin").write_bytes(content)
    # When it is the payload
    _, values = kept.publish(cli, "-c", "20", "--payload", str(tmp_path / "p.bin"))
    # Then each message is that, and a stamp of its own
    assert {value[:-STAMP] for value in values} == {content}
    assert len({value[-STAMP:] for value in values}) == 20


@pytest.mark.parametrize(
    ("ratio", "low", "high"), [("0", 0, 0.1), ("0.5", 0.35, 0.8), ("1", 0.9, 2)]
)
def test_the_random_part_does_not_compress(
    cli: Cli, kept: Kept, ratio: str, low: float, high: float
) -> None:
    # Given a share of random bytes in large messages
    _, values = kept.publish(cli, "-c", "5", "--size", "20000", "--random-ratio", ratio)
    # Then about that share is left when they are compressed
    body = values[0][:-STAMP]
    assert low <= len(zlib.compress(body)) / len(body) < high


def test_a_variable_rate_has_its_phases(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a second at 200/s and then a second at 1,000/s
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", "--variable-rate", "200:1s,1000:1s",
               "--warmup", "0", "--interval", "1s", "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then both have been sent, each in its time
    assert run.model == "open-loop"
    assert (run.rates.published, run.rates.confirmed) == (1200, 1200)
    assert run.delivery is not None and run.delivery.delivered == 1200
    first, second = [interval.published for interval in run.intervals[:2]]
    # (a busy machine counts an interval's end late, but not by a third of a second)
    assert 190 <= first <= 530 and 670 <= second <= 1010


def test_a_slow_consumer_builds_a_backlog(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a consumer that needs 5 ms for each message, of which there are 500 in a second
    done = cli("benchmark", f"{redis.url}/list:{fresh}", "--rate", "500", "--duration", "1s",
               "--warmup", "0", "--consumer-delay", "5ms", "--interval", "200ms",
               "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then a backlog grew, was drained after the last one was sent, and shows in the latencies
    assert run.max_backlog is not None and run.max_backlog > 150
    assert run.drain_s is not None and run.drain_s > 0.7
    assert run.end_to_end.max is not None and run.end_to_end.max > 700
    assert run.delivery is not None and run.delivery.delivered == 500
    # And the confirmations did not wait for it
    assert run.confirm.percentiles["p50"] is not None and run.confirm.percentiles["p50"] < 200


def test_reading_alone_takes_what_stands_there(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a stream with 300 entries of somebody's
    redis.pipe([("XADD", fresh, "*", "value", str(number)) for number in range(300)])
    # When consuming alone is measured, for half a second
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", "--only", "consume", "--use-existing",
               "--duration", "500ms", "--warmup", "0", "-o", "json")  # fmt: skip
    # Then all of it was read, and still stands
    (run,) = load(done.ok().out, "stdout")
    assert (run.rates.published, run.rates.received) == (0, 300)
    assert redis.cli("XLEN", fresh) == 300


def test_no_more_is_in_flight_than_allowed(cli: Cli, kept: Kept) -> None:
    # Given one message in flight, and one in a batch
    run, values = kept.publish(cli, "-c", "300", "--in-flight", "1", "--batch", "1")
    # Then each waited for the one before: the sum of all service times is no more than the whole
    assert len(values) == 300
    assert run.service.mean is not None
    assert run.service.mean * 300 / 1000 <= run.rates.seconds * 1.02


def test_latencies_stand_in_the_interval_of_their_messages(
    cli: Cli, redis: Redis, fresh: str
) -> None:
    # Given thirty intervals, whose ends the event loop's timers ring a little early or late
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", "--rate", "2000", "--duration", "4s",
               "--warmup", "0", "--interval", "130ms", "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then in each as many latencies are counted as messages
    assert sum(row.received for row in run.intervals) == run.end_to_end.count == 8000
    assert len(run.intervals) >= 30
    for row in run.intervals:
        assert (row.confirmed, row.received) == (row.confirm.count, row.end_to_end.count), row.at_s


@pytest.fixture
def keys_of(cli: Cli, redis: Redis, fresh: str) -> Callable[..., list[str]]:
    """The keys, in order, of a stream that was filled with these flags; without those of the
    probes, which have none."""

    def filled(*arguments: str) -> list[str]:
        name = f"{fresh}-{uuid4().hex[:6]}"
        cli("benchmark", f"{redis.url}/stream:{name}", "-O", "key_field=k", "--keep",
            "--warmup", "0s", *arguments, "-q").ok()  # fmt: skip
        (kept,) = redis.cli("KEYS", f"{name}*")
        entries = redis.cli("XRANGE", kept, "-", "+")
        redis.cli("DEL", kept)
        fields = [dict(zip(row[1][::2], row[1][1::2], strict=True)) for row in entries]
        return [each[b"k"].decode() for each in fields if b"k" in each]

    return filled


def test_keys_in_sequence_take_turns(keys_of: Callable[..., list[str]]) -> None:
    # Given keys in sequence, when thirty messages are sent at a rate
    found = keys_of("--keys", "sequence:3", "-c", "30", "--rate", "1000")
    # Then they take turns, over the ends of batches too
    assert found == [f"key-{n % 3}" for n in range(30)]


def test_random_keys_are_all_as_frequent(keys_of: Callable[..., list[str]]) -> None:
    # Given ten keys at random, when 5,000 messages of two producers carry them
    found = keys_of("--keys", "random:10", "-c", "5000", "--producers", "2", "--only", "publish")
    # Then all occur, each about as often (five standard deviations are 106), in no fixed turn
    times = Counter(found)
    assert set(times) == {f"key-{n}" for n in range(10)} and times.total() == 5000
    assert all(394 < count < 606 for count in times.values()), times
    assert 0 < sum(one == other for one, other in pairwise(found)) < 1000


def test_zipf_keys_are_as_frequent_as_their_rank(keys_of: Callable[..., list[str]]) -> None:
    # Given a hundred keys by Zipf's law, when 20,000 messages carry them
    found = keys_of("--keys", "zipf:100", "-c", "20000", "--only", "publish")
    # Then the n-th has 1/n of the first one's share, as near as chance lets it (five deviations)
    times, whole = Counter(found), sum(1 / n for n in range(1, 101))
    assert times.total() == 20_000
    for rank in (1, 2, 3, 5, 10, 50):
        share = 1 / rank / whole
        near = 5 * math.sqrt(20_000 * share * (1 - share))
        assert abs(times[f"key-{rank - 1}"] - 20_000 * share) < near, (rank, times)
    # And the rare ones are there as well
    assert len(times) > 95


def test_keys_go_to_their_partitions(cli: Cli, kafka: Kafka, fresh: str) -> None:
    # Given a topic with four partitions, where order is promised by key
    cli("create", f"{kafka.url}/{fresh}", "-O", "num_partitions=4").ok()
    # When messages with keys are measured there
    done = cli("benchmark", f"{kafka.url}/{fresh}", "--use-existing", "--keys", "sequence:40",
               "-c", "4000", "--warmup", "0", "-o", "json").ok()  # fmt: skip
    # Then each key is in one partition, as every client has it, and nothing is out of order
    (run,) = load(done.out, "stdout")
    assert run.delivery is not None and run.delivery.delivered == 4000
    assert run.delivery.reordered == 0
    entries = cli("consume", f"{kafka.url}/{fresh}", "-e", "-o", "json").ok()
    homes: dict[str, set[str]] = {}
    for line in entries.out.splitlines():
        entry = json.loads(line)
        if entry.get("key") is not None:
            homes.setdefault(entry["key"], set()).add(entry["meta"]["position"].partition(":")[0])
    assert len(homes) == 40 and all(len(home) == 1 for home in homes.values()), homes
    assert len(set.union(*homes.values())) == 4


def test_a_rate_that_cannot_be_reached_is_over_the_time_that_it_took(
    cli: Cli, redis: Redis, fresh: str
) -> None:
    # Given more messages than can be sent in 100 ms, in which hardly any is received
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", "--rate", "5000000", "--duration",
               "100ms", "--warmup", "0", "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then both rates are of all of them and of all the time, and nothing came faster than it went
    assert run.rates.confirmed == run.rates.received == 500_000
    assert run.rates.seconds > 0.7
    assert run.rates.received_per_s <= run.rates.confirmed_per_s
    assert run.rates.received_per_s > 1000
    # And the settings name it in full
    assert run.settings["rate"] == "5000000/s"


def test_what_the_measurement_itself_sends_is_not_in_the_bytes(
    cli: Cli, redis: Redis, fresh: str
) -> None:
    # Given three messages of 100 bytes, beside probes and a closing mark
    done = cli("benchmark", f"{redis.url}/list:{fresh}", "--rate", "30", "--duration", "100ms",
               "--warmup", "0", "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then 300 bytes were received
    assert run.delivery is not None and run.delivery.delivered == 3
    assert sum(row.received_bytes for row in run.intervals) == 300
