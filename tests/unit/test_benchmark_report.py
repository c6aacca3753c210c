"""From what workers hand in to a report: nothing that bears on a figure is kept quiet."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mqcli.benchmark.conductor import Heard
from mqcli.benchmark.histogram import Histogram
from mqcli.benchmark.plan import Plan, Ready, Tidy, Where
from mqcli.benchmark.processes import Link
from mqcli.benchmark.result import Report
from mqcli.benchmark.run import Job, report_of
from mqcli.benchmark.schedule import Phase


class Far:
    """What a report needs of a worker on another host: in what doubt its clock is (ns)."""

    def __init__(self, doubt: int) -> None:
        self.doubt = doubt


def reported(*, negative: int = 0, clipped: int = 0, doubt: int = 0, host: str = "a") -> Report:
    """The report of one worker that measured a hundred messages of 500 ms."""
    latencies = Histogram()
    latencies.record(500_000_000, 100)
    taken = latencies.take()
    tidy = Tidy([], [], taken, taken, {}, taken, {}, negative, clipped, 0.5, 1.0, 1 << 20, 0.0)
    plan = Plan(run=b"12345678", where=Where("redis://h/list:x"), phases=(Phase(100, 1),))
    heard = Heard([Ready(host, {"host": host})], [tidy], {}, 0, 10**9, 10**9, [], True, [])
    links = cast("list[Link]", [Far(doubt)]) if doubt else []
    return report_of(Job(plan=plan), heard, 0.0, links)


@pytest.mark.parametrize("doubt", [0, 2_000_000])
def test_negative_latencies_are_told(doubt: int) -> None:
    # Given latencies that were negative, with clocks that are compared or one
    report = reported(negative=3, doubt=doubt)
    # Then they are told, whether the rest is shown or not
    assert report.end_to_end.count == 100
    assert "3 latencies were negative: clocks disagree" in report.notes
    assert "negative" not in " ".join(reported(doubt=doubt).notes)


def test_what_is_longer_than_the_longest_is_told() -> None:
    # Given latencies beyond what a histogram holds, then the report says how many
    assert any("2 latencies were longer than an hour" in n for n in reported(clipped=2).notes)
    assert reported().notes == []


def test_the_cores_of_another_host_are_not_made_up() -> None:
    # Given a worker elsewhere, then its cores are not those of this machine
    (machine,) = reported(host="elsewhere").machines
    facts: dict[str, Any] = machine.facts
    assert "cores" not in facts
