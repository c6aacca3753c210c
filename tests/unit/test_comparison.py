"""The comparison in the README: what is written there from saved runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.comparison import BEGIN, END, README, Measured, comparison, written
from mqcli.benchmark.delivery import Delivery
from mqcli.benchmark.result import Durability, Rates, Report


def run(level: str, confirmed: float, *, limited: str | None = None, lost: int = 0) -> Report:
    return Report(
        run="00", started="2026-01-31T12:00:00Z", mqcli="1.2.3", address="redis://h/list:x",
        model="saturation", durability=Durability(level, f"words of {level}"),
        settings={"bytes": "100", "in_flight": 5000, "seconds": 3, "rate": "1000/s"},
        broker={"server": "redis", "version": "7.0"}, client_limited=limited,
        rates=Rates(confirmed_per_s=confirmed), delivery=Delivery(lost=lost),
    )  # fmt: skip


def row(name: str, level: str, confirmed: float, **more: int | str) -> Measured:
    return Measured(name, run(level, 1), run(level, confirmed, **more))  # type: ignore[arg-type]


def test_different_durabilities_stand_in_tables_of_their_own() -> None:
    # Given three destinations, the first and the last of which confirm the same
    rows = [row("a", "disk", 10), row("b", "memory", 9_000, limited="why"), row("c", "disk", 30)]
    # When compared
    text = comparison(rows, "A machine")
    # Then these share a table, and the other has its own, with its limit told
    first, second = text.split("Confirmed means: ")[1:]
    assert first.startswith("**words of disk**")
    assert "| a | 10 " in first and "| c | 30 " in first and "| b " not in first
    assert r"| b | 9,000\* " in second
    assert "CLIENT-LIMITED" in second and "not ranked" in second
    # And machine, versions and day are named
    assert text.startswith(
        "A machine; Redis 7.0, each a single node beside mqcli 1.2.3; 2026-01-31"
    )


def test_what_was_lost_is_told() -> None:
    # Given a channel that lost messages at full speed
    text = comparison([row("channel", "listeners", 100, lost=1234)], "M")
    # Then the count is in its row, and the reason below
    assert "| 1,234 | - | - | - | - | - | 0 |" in text
    assert "cut off" in text


def test_only_what_stands_between_the_marks_is_exchanged() -> None:
    # Given a text with marks, when written, then the rest stays, however often
    text = f"before\n{BEGIN}old\n{END}after\n"
    once = written(text, "new\n")
    assert once == written(once, "new\n") == f"before\n{BEGIN}new\n{END}after\n"
    # And without them nothing is made up
    for broken in ("before\n", f"{BEGIN}old\n", f"old\n{END}"):
        with pytest.raises(ValueError, match="make comparison"):
            written(broken, "new\n")


def test_the_readme_compares_every_transport() -> None:
    # Given the README
    text = Path(README).read_text(encoding="utf-8")
    # Then its comparison, made by the tool, has each of them and says what is not ranked
    between = text.partition(BEGIN)[2].partition(END)[0]
    for name in (
        "the embedded broker", "Redis stream", "Redis list", "Redis channel",
        "RabbitMQ queue, persistent", "RabbitMQ stream", "Kafka topic, acks=all",
    ):  # fmt: skip
        assert f"| {name} | " in between
    assert "cores" in between and "not ranked" in between
