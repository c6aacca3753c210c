"""The instrument is tested through the network: between the benchmark and a real Redis stands a
proxy that does known harm to the load alone, and just that is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqcli.benchmark.delivery import Delivery
from tests.brokers import need
from tests.brokers.redis import RedisServer

from .resp_proxy import RespProxy
from .test_benchmark_truth import COUNT, LOAD, assert_held_up, benchmark

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = need("redis", lambda: RedisServer().start())
    yield running
    running.stop()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[RespProxy]:
    with RespProxy(server.port) as made:
        yield made


def behind(proxy: RespProxy, name: str) -> str:
    return f"redis://127.0.0.1:{proxy.port}/stream:{name}"


def only(found: Delivery | None, **counts: int) -> Delivery:
    """The delivery, in which these faults were counted and no others."""
    assert found is not None
    names = ("lost", "unseen", "duplicated", "reordered", "corrupt", "foreign")
    told = {name: getattr(found, name) for name in names}
    assert told == {**dict.fromkeys(names, 0), **counts}
    return found


def test_an_honest_proxy_is_not_noticed(proxy: RespProxy, fresh: str) -> None:
    # Given a proxy that does no harm, when measured through it
    found = only(benchmark(behind(proxy, fresh), *LOAD).delivery)
    # Then it saw every message of the load, and everything arrived
    assert proxy.load == found.expected == found.delivered == COUNT


def test_dropped_messages_are_lost(proxy: RespProxy, fresh: str) -> None:
    # Given a proxy that keeps every hundredth message to itself and says that it is stored
    proxy.drop = 100
    # When measured
    report = benchmark(behind(proxy, fresh), *LOAD, code=1)
    # Then all are confirmed, for so it was said, and just those are lost, the very last too
    assert report.rates.confirmed == COUNT
    assert proxy.done == {"drop": COUNT // 100}
    found = only(report.delivery, lost=COUNT // 100)
    assert found.firsts["lost"].sequence == 99
    assert found.delivered == COUNT - COUNT // 100


def test_what_is_stored_twice_is_duplicated(proxy: RespProxy, fresh: str) -> None:
    # Given a proxy that has every fiftieth message stored twice, when measured
    proxy.repeat = 50
    found = only(benchmark(behind(proxy, fresh), *LOAD).delivery, duplicated=COUNT // 50)
    # Then just those are duplicates
    assert proxy.done == {"repeat": COUNT // 50}
    assert found.firsts["duplicated"].sequence == 49


def test_exchanged_messages_are_reordered(proxy: RespProxy, fresh: str) -> None:
    # Given a proxy that exchanges every fortieth message with the one before, when measured
    proxy.swap = 40
    found = only(benchmark(behind(proxy, fresh), *LOAD).delivery, reordered=COUNT // 40)
    # Then one of each two came too late, the earlier one
    assert proxy.done == {"swap": COUNT // 40}
    assert found.firsts["reordered"].sequence == 38


def test_flipped_bits_are_corrupt_messages(proxy: RespProxy, fresh: str) -> None:
    # Given a proxy that flips one bit of every tenth message, when measured
    proxy.flip = 10
    found = only(benchmark(behind(proxy, fresh), *LOAD, code=1).delivery, corrupt=COUNT // 10)
    # Then just those are corrupt, wherever the bit was, and not lost or foreign besides
    assert proxy.done == {"flip": COUNT // 10}
    assert found.firsts["corrupt"].sequence == 9


def test_all_harm_at_once(proxy: RespProxy, fresh: str) -> None:
    # Given all of it, done to two producers in two processes
    proxy.drop, proxy.repeat, proxy.swap, proxy.flip = 100, 90, 30, 41
    # When measured
    report = benchmark(
        behind(proxy, fresh), *LOAD, "--producers", "2", "--processes", "2", code=1
    )  # fmt: skip
    # Then each producer's are counted, and the sums are exact
    numbers = range(COUNT // 2)
    dropped = {n for n in numbers if n % 100 == 99}
    damaged = {n for n in numbers if n % 41 == 40} - dropped
    twice = {n for n in numbers if n % 90 == 89} - dropped
    held = {n for n in numbers if n % 30 == 28} - dropped - damaged
    behind_of = {n: n + 2 if n + 1 in dropped else n + 1 for n in held}
    only(
        report.delivery,
        lost=2 * len(dropped),
        corrupt=2 * (len(damaged) + len(damaged & twice)),
        duplicated=2 * len(twice - damaged),
        # Nothing is late behind one that is damaged: whose place that was is not believed.
        reordered=2 * sum(later not in damaged for later in behind_of.values()),
    )


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_known_delay_is_in_the_latencies_that_it_belongs_to(
    proxy: RespProxy, fresh: str, way: str
) -> None:
    # Given a proxy that holds every message up for 80 ms, or every confirmation
    setattr(proxy, way, 0.08)
    # When measured at a fixed rate
    report = benchmark(
        behind(proxy, fresh), "--rate", "200", "--duration", "2s", "--warmup", "200ms"
    )  # fmt: skip
    # Then no confirmation is quicker, the middle is not much slower, and it is the broker's
    assert_held_up(report, report.confirm, report.service)
    # And end to end has it just where the message itself was late
    assert report.end_to_end.min is not None and report.end_to_end.count == 400
    middle = report.end_to_end.percentiles["p50"]
    assert middle is not None
    if way == "there":
        assert report.end_to_end.min >= 79 and 80 <= middle < 130
    else:
        assert middle < 40


def test_an_unknown_fate_is_in_the_latencies_with_its_whole_timeout(
    proxy: RespProxy, fresh: str
) -> None:
    # Given a proxy that loses the confirmations from the 300th message on
    proxy.silent_from = 300
    # When measured with a timeout of two seconds
    report = benchmark(
        behind(proxy, fresh), "--rate", "500", "--duration", "20s", "--warmup", "0",
        "--batch", "1", "--confirm-timeout", "2s", code=69,
    )  # fmt: skip
    # Then the first 300 are confirmed (one message in a batch: a batch counts as a whole), and all
    # that was sent since has an unknown fate
    rates = report.rates
    assert rates.confirmed == 300
    assert rates.unknown == rates.published - 300 > 10
    # And each of these is in the latencies, with the timeout at least, also the last one sent
    for latency in (report.confirm, report.service):
        found = latency.decoded()
        assert found.count == rates.published
        assert found.above(1_990_000_000) == rates.unknown
    # And unsent is what was due until the end, not the whole rest of the schedule
    assert 500 < rates.published + rates.unsent < 500 * (rates.seconds + 2)
    # And that they did arrive is no fault: nobody said that they would not
    only(report.delivery)
