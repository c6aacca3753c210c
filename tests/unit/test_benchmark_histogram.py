"""Latencies: nothing lost to three digits, and the same however they are cut up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.benchmark.histogram import HIGHEST, Histogram, log_lines
from mqcli.benchmark.result import Latency, enough
from tests.brokers import need
from tests.brokers.hdrhistogram import LogProcessor

durations = st.integers(0, HIGHEST)


def of(values: list[int]) -> Histogram:
    made = Histogram()
    made.record_since(0, [-value for value in values])
    return made


@given(durations)
def test_three_digits_are_kept(value: int) -> None:
    # Given one duration of up to an hour, when recorded
    found = of([value])
    # Then its limits are the duration, to a thousandth from 1 µs on and exactly below
    assert found.min <= value <= found.max
    assert found.max - found.min <= value / 1000


@given(st.lists(durations, min_size=1, max_size=200), st.integers(0, 200))
def test_merging_equals_the_union(values: list[int], cut: int) -> None:
    # Given durations that were recorded in two places
    left, right = of(values[:cut]), of(values[cut:])
    # When merged, through their encoding as between machines
    left.merge(Histogram.decode(right.encode()))
    # Then they are as if recorded in one place, one by one
    whole = Histogram()
    for value in values:
        whole.record(value)
    assert left == whole
    assert left.count == len(values)


@given(st.lists(durations, max_size=100))
def test_taking_and_adding_loses_nothing(values: list[int]) -> None:
    # Given a histogram, when its counts are taken out and added elsewhere
    first, second = of(values), Histogram()
    second.add(first.take())
    # Then all are there, and the first is empty
    assert second == of(values)
    assert first.count == 0


@given(st.lists(durations, min_size=1, max_size=300), st.floats(0.1, 100))
def test_percentiles_are_those_of_the_sorted_list(values: list[int], percentile: float) -> None:
    # Given durations, when a percentile is asked for
    (found,) = of(values).percentiles([percentile])
    # Then it is the duration at that rank, to three digits from above
    exact = sorted(values)[max(1, math.ceil(percentile / 100 * len(values) - 1e-9)) - 1]
    assert exact <= found <= exact * 1.001 + 1


def test_what_does_not_fit_is_counted_and_not_dropped() -> None:
    # Given a negative duration, of two clocks that disagree, and one longer than an hour
    found = Histogram()
    # When recorded
    found.record_since(10, [11, 12])
    found.record(HIGHEST * 2, 3)
    # Then they are there, at the ends, and said to be
    assert (found.count, found.negative, found.clipped) == (5, 2, 3)
    assert found.min == 0
    assert found.max >= HIGHEST


def test_a_percentile_needs_samples_beyond_it() -> None:
    # Given 999 durations
    found = Latency.of(of(list(range(1_000, 1_999))))
    # Then the 95th percentile stands, and the 99th does not
    assert found.percentiles["p95"] is not None
    assert found.percentiles["p99"] is None
    assert [enough(p) for p in (50.0, 99.0, 99.9)] == [20, 1000, 10000]


@pytest.mark.parametrize("data", [b"", b"abc", b"\0" * 40])
def test_damaged_encodings_are_refused(data: bytes) -> None:
    # Given bytes that are no histogram, when decoded, then that is said
    with pytest.raises(ValueError, match="histogram"):
        Histogram.decode(data)


def test_hdrhistograms_own_tools_read_our_logs(tmp_path: Path) -> None:
    # Given HdrHistogram from Maven Central, and a log of two intervals under two tags
    processor = need("hdrhistogram", LogProcessor)
    first, second = [1_000 * n for n in range(1, 5001)], [3_000_000, 2_000_000_000, HIGHEST]
    log = tmp_path / "a.hlog"
    encoded = [of(first).encode(), of(second).encode()]
    lines = log_lines(1_700_000_000.0, 1.0, {"end_to_end": encoded, "confirm": encoded[:1]})
    log.write_text("\n".join(lines) + "\n")
    # When its log processor sums up one tag
    found = processor(log, "end_to_end")
    # Then it counts what we count, and its percentiles are ours, in µs
    whole = of(first + second)
    assert found.count == whole.count
    for share, value in found.values.items():
        (ours,) = whole.percentiles([share * 100])
        assert value == pytest.approx(ours / 1000, rel=0.001)
    assert max(found.values.values()) == pytest.approx(HIGHEST / 1000, rel=0.001)
