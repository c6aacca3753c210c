"""The instrument is tested, not the broker: of faults that are known, the benchmark tells exactly
those."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mqcli.benchmark.result import Latency, Report, load
from tests.brokers.redis import Redis, RedisServer

pytestmark = pytest.mark.alone

PLUGIN = Path(__file__).parent / "faulty"


def benchmark(*arguments: str, code: int | None = 0) -> Report:
    """The report of a whole process; it ended with ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "mqcli", "benchmark", "-q", "-o", "json", *arguments],
        capture_output=True, timeout=120, env={**os.environ, "PYTHONPATH": str(PLUGIN)},
    )  # fmt: skip
    assert code is None or done.returncode == code, (done.returncode, done.stderr[-2000:])
    (report,) = load(done.stdout, "stdout")
    return report


@pytest.fixture(params=["redis", "sqlite"])
def faulty(request: pytest.FixtureRequest, tmp_path: Path, fresh: str) -> str:
    """An address on a lying broker over a real one."""
    if request.param == "sqlite":
        return f"faultysqlite://{tmp_path}/a.db/topic:{fresh}"
    redis: Redis = request.getfixturevalue("redis")
    return f"faultyredis://{redis.url.partition('://')[2]}/stream:{fresh}"


COUNT = 4000
LOAD = ("--count", str(COUNT), "--warmup", "0", "--batch", "100", "--drain", "20s")


def test_no_fault_is_seen_where_there_is_none(faulty: str) -> None:
    # Given a broker that tells the truth, when measured
    found = benchmark(faulty, *LOAD).delivery
    # Then everything arrived, and nothing is wrong with it
    assert found is not None
    assert (found.expected, found.delivered) == (COUNT, COUNT)
    assert not found.firsts
    assert (found.lost, found.unseen, found.duplicated, found.reordered) == (0, 0, 0, 0)
    assert (found.corrupt, found.foreign) == (0, 0)


def test_dropped_messages_are_lost(faulty: str) -> None:
    # Given a broker that confirms every message and drops every hundredth, the very last too
    found = benchmark(faulty, *LOAD, "-O", "drop=100", code=1).delivery
    # Then just these are lost, the first is named, and nothing else is wrong
    assert found is not None
    assert found.lost == COUNT // 100
    assert found.firsts["lost"].sequence == 99
    assert found.delivered == COUNT - found.lost
    assert (found.unseen, found.duplicated, found.reordered, found.corrupt) == (0, 0, 0, 0)


def test_repeated_messages_are_duplicates(faulty: str) -> None:
    # Given a broker that stores every fiftieth message twice, when measured
    found = benchmark(faulty, *LOAD, "-O", "repeat=50").delivery
    # Then just these are duplicates
    assert found is not None
    assert found.duplicated == COUNT // 50
    assert found.firsts["duplicated"].sequence == 49
    assert (found.lost, found.unseen, found.reordered, found.corrupt) == (0, 0, 0, 0)


def test_exchanged_messages_are_reordered(faulty: str) -> None:
    # Given a broker that exchanges every fortieth message with the one before, when measured
    found = benchmark(faulty, *LOAD, "-O", "swap=40").delivery
    # Then one of each two came too late
    assert found is not None
    assert found.reordered == COUNT // 40
    assert found.firsts["reordered"].sequence == 38
    assert (found.lost, found.unseen, found.duplicated, found.corrupt) == (0, 0, 0, 0)


def test_flipped_bits_are_corrupt_messages(faulty: str) -> None:
    # Given a broker that flips one bit of every tenth message, anywhere in it, when measured
    found = benchmark(faulty, *LOAD, "-O", "flip=10", code=1).delivery
    # Then just these are corrupt, wherever the bit was, and not lost or foreign besides
    assert found is not None
    assert found.corrupt == COUNT // 10
    assert found.firsts["corrupt"].sequence == 9
    assert (found.lost, found.unseen, found.foreign, found.duplicated) == (0, 0, 0, 0)


def test_all_faults_at_once(faulty: str) -> None:
    # Given all of it, on messages that differ, of two producers in two processes
    found = benchmark(
        faulty, *LOAD, "--producers", "2", "--processes", "2",
        "-O", "drop=100", "-O", "repeat=90", "-O", "flip=41", code=1,
    ).delivery  # fmt: skip
    # Then each producer's are counted, and the sums are exact
    numbers = range(COUNT // 2)
    dropped = {n for n in numbers if n % 100 == 99}
    damaged = {n for n in numbers if n % 41 == 40} - dropped
    twice = {n for n in numbers if n % 90 == 89} - dropped
    assert found is not None
    assert found.lost == 2 * len(dropped)
    assert found.duplicated == 2 * len(twice - damaged)
    assert found.corrupt == 2 * (len(damaged) + len(damaged & twice))
    assert (found.unseen, found.foreign) == (0, 0)


def test_refused_messages_are_in_the_latencies_with_their_whole_timeout(faulty: str) -> None:
    # Given a broker that refuses every tenth message at once
    report = benchmark(faulty, *LOAD, "-O", "refuse=10", "--confirm-timeout", "20s", code=1)
    # Then these are counted, with the reason, and are not missed where they never went
    assert (report.rates.published, report.rates.confirmed) == (COUNT, COUNT * 9 // 10)
    assert (report.rates.refused, report.rates.unknown) == (COUNT // 10, 0)
    assert any("refused on purpose" in error for error in report.errors)
    assert report.delivery is not None and report.delivery.sound
    assert report.delivery.expected == report.delivery.delivered == COUNT * 9 // 10
    # And that they failed quickly makes no percentile better: they took the timeout
    for latency in (report.confirm, report.service):
        found = latency.decoded()
        assert found.count == COUNT
        assert found.above(19_900_000_000) == COUNT // 10


def assert_held_up(report: Report, *latencies: Latency) -> None:
    """By 80 ms, in each of these 400 messages."""
    for latency in latencies:
        assert latency.count == 400
        # the loop's own timer is a millisecond exact
        assert latency.min is not None and latency.min >= 79
        middle = latency.percentiles["p50"]
        assert middle is not None and 80 <= middle < 130
    # And it is the broker's, not ours
    assert report.publish_delay.percentiles["p50"] is not None
    assert report.publish_delay.percentiles["p50"] < 20


def test_a_known_delay_is_in_every_percentile(faulty: str) -> None:
    # Given a broker that holds every message up for 80 ms
    rate = ("--rate", "200", "--duration", "2s", "--warmup", "200ms")
    # When measured at a fixed rate
    report = benchmark(faulty, *rate, "-O", "delay=80ms")
    # Then no latency is shorter, and the middle is not much longer
    assert_held_up(report, report.confirm, report.service, report.end_to_end)


def test_a_slow_client_says_so(faulty: str) -> None:
    # Given a client whose driver blocks its event loop for 60 ms at each publish
    rate = ("--rate", "200", "--duration", "2s", "--warmup", "0")
    # When it has to keep a schedule
    report = benchmark(faulty, *rate, "-O", "block=60ms")
    # Then it says that it was itself the limit
    assert report.client_limited is not None
    # And the lateness is in the latencies, for they count from the intended time
    assert report.publish_delay.max is not None and report.publish_delay.max > 40


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stopped_broker_makes_every_message_late_that_was_due(
    started: Callable[[Callable[[], RedisServer]], RedisServer], processes: str
) -> None:
    # Given a Redis that is stopped for two seconds in the middle of 1,000 messages/s
    server = started(RedisServer)
    beginning = int(server.cli("INFO", "commandstats").count(b"xadd"))
    assert beginning == 0
    stalled = threading.Event()

    def stall() -> None:
        deadline = time.monotonic() + 60
        while b"calls=" not in _xadds(server):
            assert time.monotonic() < deadline, "no load came"
            time.sleep(0.02)
        time.sleep(1.5)  # into the time that counts
        server.pause()
        time.sleep(2.0)
        server.resume()
        stalled.set()

    thread = threading.Thread(target=stall)
    thread.start()
    # When measured
    report = benchmark(
        f"{server.url}/stream:omission", "--rate", "1000", "--duration", "5s", "--warmup", "0",
        "--processes", processes,
    )  # fmt: skip
    thread.join()
    # Then all that was due meanwhile is late, evenly from two seconds down to nothing: a closed
    # loop would have reported one late message
    assert stalled.is_set()
    for latency in (report.confirm, report.end_to_end):
        found = latency.decoded()
        assert found.count == 5000
        assert 1.9 < found.max / 1e9 < 2.6
        assert 1700 < found.above(200_000_000) < 2400
        assert 800 < found.above(1_000_000_000) < 1600
    # And it was the broker, which mqcli does not take upon itself (a busy machine may make some
    # other messages late, but not as many as the stall)
    own = re.match(r"(\d+) of 5000 messages", report.client_limited or "")
    assert own is None or int(own[1]) < 500
    assert report.delivery is not None and report.delivery.delivered == 5000


def test_a_bug_of_a_transport_ends_the_run(faulty: str) -> None:
    # Given a transport that raises what none may raise, when measured
    done = subprocess.run(
        [sys.executable, "-m", "mqcli", "benchmark", "-q", faulty, *LOAD, "--only", "publish",
         "-O", "bug=true"],
        capture_output=True, timeout=30, env={**os.environ, "PYTHONPATH": str(PLUGIN)},
    )  # fmt: skip
    # Then nobody waits for what will not come, and it is called a bug
    assert done.returncode == 70, (done.returncode, done.stderr[-2000:])
    assert b"a bug on purpose" in done.stderr


def _xadds(server: RedisServer) -> bytes:
    found = [
        line
        for line in server.cli("INFO", "commandstats").splitlines()
        if line.startswith(b"cmdstat_xadd:")
    ]
    return found[0] if found else b""


def test_a_lost_broker_ends_the_run_with_what_was_measured(
    started: Callable[[Callable[[], RedisServer]], RedisServer],
) -> None:
    # Given a Redis that dies in the middle
    server = started(RedisServer)

    def kill() -> None:
        deadline = time.monotonic() + 60
        while b"calls=" not in _xadds(server):
            assert time.monotonic() < deadline, "no load came"
            time.sleep(0.02)
        time.sleep(1.0)
        server.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    # When measured
    report = benchmark(
        f"{server.url}/stream:gone", "--rate", "500", "--duration", "30s", "--warmup", "0",
        "--only", "publish", code=69,
    )  # fmt: skip
    thread.join()
    # Then the report has what was confirmed until then, says why it ended, and is not complete
    assert report.rates.confirmed > 100
    assert not report.complete
    assert report.errors and report.exit_code == 69
