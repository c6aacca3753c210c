"""Rules, comparisons and joined runs: what must not be compared or added up is not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from mqcli.benchmark.delivery import Delivery
from mqcli.benchmark.gate import judge_rules, parse_rule
from mqcli.benchmark.histogram import Histogram
from mqcli.benchmark.merge import merged
from mqcli.benchmark.result import Durability, Latency, Rates, Report
from mqcli.cli.load_text import comparison
from mqcli.errors import UsageError


def latency(ms: float, count: int = 1000) -> Latency:
    histogram = Histogram()
    histogram.record(round(ms * 1e6), count)
    return Latency.of(histogram)


def run(
    *, rate: float = 1000, p99: float = 10, lost: int = 0, **changed: Any
) -> Report:  # fmt: skip
    made = Report(
        run="0011223344556677", started="2026-01-31T12:00:00Z", mqcli="1.2.3",
        address="redis://h/list:x.mqcli-00112233", model="open-loop",
        durability=Durability("memory", "in memory"), settings={"rate": "1000/s", "bytes": "100"},
        rates=Rates(seconds=10, confirmed_per_s=rate, received=9, received_per_s=rate),
        confirm=latency(p99 / 2), end_to_end=latency(p99), delivery=Delivery(lost=lost),
    )  # fmt: skip
    return replace(made, **changed)


def broken(rule: str, now: list[Report], saved: list[Report] | None = None) -> list[bool]:
    return [each.broken for each in judge_rules([parse_rule(rule)], now, saved or [])]


def words(rule: str, now: list[Report], saved: list[Report]) -> str:
    return " / ".join(each.words for each in judge_rules([parse_rule(rule)], now, saved))


NOTHING_CAME: dict[str, Any] = {
    "rates": Rates(confirmed_per_s=9000), "end_to_end": Latency(),
    "delivery": Delivery(expected=10, unseen=10),
}  # fmt: skip


def test_confirmations_do_not_stand_for_what_never_arrived() -> None:
    # Given a run of which everything was confirmed and nothing received
    found = run(**NOTHING_CAME)
    # When rate and latency are judged, then by what was received: there is none
    assert broken("rate<5000", [found]) == [True]
    assert broken("p99>60s", [found]) == [True]
    # Unless nothing was to be received
    published = replace(found, delivery=None)
    assert broken("rate<5000", [published]) == [False]
    assert broken("p99>60s", [published]) == [False]


@pytest.mark.parametrize("rule", ["p99>20ms", "p99 > 20 ms", " p99>20000us", "p99>=0.02s"])
def test_a_rule_has_room_for_spaces(rule: str) -> None:
    # Given a limit in several spellings, when judged, then it is the same limit
    assert broken(rule, [run(p99=19)]) == [False]
    assert broken(rule, [run(p99=21)]) == [True]


def test_other_load_models_are_not_compared() -> None:
    # Given a saved run at saturation, when an open loop is held against it, then it is refused
    with pytest.raises(UsageError, match="load model"):
        broken("p99>+10%", [run()], [run(model="saturation")])
    # And side by side they have tables of their own
    text = comparison([("a", [run()]), ("b", [run(model="saturation")])])
    assert text.count("confirmed means:") == 2 and "%" not in text.replace("CPU %", "")
    assert "not ranked" in text


def test_what_was_not_alike_is_told() -> None:
    # Given two runs of other sizes, when compared, then it is said what differs
    other = run(settings={"rate": "1000/s", "bytes": "1000"})
    assert "not alike: bytes 100 (a), 1000 (b)" in comparison([("a", [run()]), ("b", [other])])
    assert "the load was another one: bytes" in words("p99>+10%", [other], [run()])
    assert "not alike" not in comparison([("a", [run()]), ("b", [run()])])
    assert "another one" not in words("p99>+10%", [run()], [run()])
    # And who was stopped
    assert "not complete: b" in comparison([("a", [run()]), ("b", [run(complete=False)])])


def test_more_than_nothing_is_beyond_any_percentage() -> None:
    # Given a saved run without losses, when held against it
    # Then none is no change, and one is beyond whatever was allowed
    assert broken("lost>+10%", [run()], [run()]) == [False]
    assert broken("lost>+10%", [run(lost=1)], [run()]) == [True]
    assert broken("lost>+10%", [run(lost=21)], [run(lost=20)]) == [False]


def searched(*latencies: float) -> list[Report]:
    return [
        run(p99=p99, settings={"rate": f"{p99 * share}/s", "share_of_highest": share})
        for p99, share in zip(latencies, (0.5, 0.7, 0.9), strict=True)
    ]


def test_the_steps_of_a_search_are_judged_each() -> None:
    # Given a search whose last step only is slow
    found = searched(1, 2, 30)
    # When held against a limit, then no median of different rates hides it
    assert broken("p99>20ms", found) == [False, False, True]
    assert words("p99>20ms", found, []).startswith("at 50% of the highest rate: p99>20ms kept")
    # And against a saved search, then each step against the one like it
    assert broken("p99>+10%", found, searched(1, 2, 30)) == [False, False, False]
    assert broken("p99>+10%", found, searched(1, 1, 30)) == [False, True, False]
    # And side by side
    text = comparison([("a", found), ("b", found)])
    assert text.count("confirmed means:") == 3 and "not alike" not in text


def test_joined_runs_say_what_a_sum_does_not_show() -> None:
    # Given two runs at the same time, when joined, then the settings are those of each
    one, two = run(), run(started="2026-01-31T12:00:05Z", address="redis://h/list:x.mqcli-0a0a0a0a")
    whole = merged([one, two])
    assert whole.settings["runs_joined"] == 2
    assert whole.address == "redis://h/list:x"
    assert whole.notes == [] and whole.end_to_end_note is None
    # And one after the other, their rates do not add up
    (note,) = merged([one, run(started="2026-01-31T12:00:30Z")]).notes
    assert "did not all go on at the same time" in note
    # And other destinations and sizes stand side by side
    other = run(address="redis://h/list:y.mqcli-0b0b0b0b", settings={"rate": "9/s", "bytes": "100"})
    whole = merged([one, other])
    assert whole.address == "redis://h/list:x + redis://h/list:y"
    assert whole.settings["rate"] == "1000/s | 9/s"
    # And what one of them did not measure is no figure of all
    part = run(end_to_end=Latency(), end_to_end_note="withheld: clocks", delivery=None)
    whole = merged([one, part])
    assert whole.end_to_end_note == "of 1 of the 2 runs only; withheld: clocks"
    assert "delivery was verified in 1 of the 2 runs only" in whole.notes
