"""Starts, stops, times and durations as they are typed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import UsageError
from mqcli.position import Start, parse_duration, parse_range, parse_start, parse_time

NOW = 1_769_860_800_000


@pytest.fixture
def newfoundland() -> Iterator[None]:
    """A zone that is no whole hour off."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "NST3:30"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1w", 604_800),
     ("1.5s", 1.5), ("0s", 0), ("0", 0), ("1m500ms", 60.5)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", "-5s", "5x", "5S", "s5", "1h30", "1e3s", "nan", "inf", "٣s", "5s ",
     "9" * 400 + "w", ".5s", "5.s"],
)  # fmt: skip
def test_wrong_durations_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="duration; write 250ms, 30s, 5m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1769860800", NOW),
        ("1769860800123", NOW + 123),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31 12:00:00.5+00:00", NOW + 500),
        ("2026-01-31T13:00:00.0009+01:00", NOW),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("15m", NOW - 900_000),
        ("1h30m", NOW - 5_400_000),
        ("250ms", NOW - 250),
    ],
)
def test_times(text: str, ms: int) -> None:
    assert parse_time(text, NOW) == ms
    assert parse_start(f"@{text}", NOW) == Start("time", ms=ms)


@pytest.mark.usefixtures("newfoundland")
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-31", NOW - 12 * 3_600_000 + 12_600_000),
        ("2026-01-31T12:00", NOW + 12_600_000),
        ("2026-01-31T12:00:00Z", NOW),
    ],
)
def test_a_time_without_a_zone_is_local(text: str, ms: int) -> None:
    assert parse_time(text) == ms


def test_a_duration_counts_back_from_now() -> None:
    before = int(time.time() * 1000)
    found = parse_time("1s")
    assert before - 1000 <= found <= int(time.time() * 1000) - 999


@pytest.mark.parametrize(
    "text",
    ["", "now", "1", "176986080", "17698608001234", "2026", "2026-02-30", "2026-01-31T25:00",
     "12:00", "1h30", "-15m", "１７６９８６０８００", "9" * 20 + "w", "9" * 400 + "w"],
)  # fmt: skip
def test_wrong_times_are_told(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a (time|duration); write"):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", Start("beginning")),
        ("end", Start("end")),
        ("+0", Start("skip", count=0)),
        ("+10", Start("skip", count=10)),
        ("-10", Start("last", count=10)),
        ("42", Start("at", token="42")),
        ("0:42", Start("at", token="0:42")),
        ("1717-0", Start("at", token="1717-0")),
        ("@1769860800", Start("time", ms=NOW)),
    ],
)
def test_starts(text: str, start: Start) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize(
    "text", ["", "+", "-", "+x", "-1.5", "+1 ", "a b", "\x1b[2J", "4\n2", "+" + "9" * 19, "+٣"]
)
def test_wrong_starts_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="is not a position; write beginning, end") as caught:
        parse_start(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("starts", "stop", "expected"),
    [
        ([], None, (None, None)),
        ([], "end", (None, Start("end"))),
        (["5"], "+10", (Start("at", token="5"), Start("skip", count=10))),
        (["5..9"], None, (Start("at", token="5"), Start("at", token="9"))),
        (["5.."], None, (Start("at", token="5"), None)),
        (["..9"], None, (Start("beginning"), Start("at", token="9"))),
        ([".."], None, (Start("beginning"), None)),
        (["@2026-01-31T12:00:00.5Z..@1769860801"], None,
         (Start("time", ms=NOW + 500), Start("time", ms=NOW + 1000))),
        (["-5..end"], None, (Start("last", count=5), Start("end"))),
        (["0:42", "1:50"], None, (Start("at", token="0:42,1:50"), None)),
        (["0:42", "1:50"], "end", (Start("at", token="0:42,1:50"), Start("end"))),
    ],
)  # fmt: skip
def test_ranges(
    starts: list[str], stop: str | None, expected: tuple[Start | None, Start | None]
) -> None:
    assert parse_range(starts, stop) == expected


@pytest.mark.parametrize(
    ("starts", "stop", "told"),
    [
        (["1..2"], "3", "the range 1..2 says both ends; give it alone, without --to"),
        (["1..2", "3"], None, "says both ends"),
        ([], "1..2", "'1..2' is a range; give the range to --from"),
        (["1", "2"], None, "several positions must be one for each partition; write --from 0:42"),
        (["0:1", "beginning"], None, "several positions must be one for each partition"),
        (["x y..2"], None, "is not a position"),
        (["1..@never"], None, "is not a time"),
    ],
)
def test_wrong_ranges_are_told(starts: list[str], stop: str | None, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_range(starts, stop)
    assert told in str(caught.value)


@given(
    st.sampled_from(["beginning", "end"]).map(lambda kind: Start(kind))  # type: ignore[arg-type]
    | st.integers(0, 10**18 - 1).map(lambda count: Start("skip", count=count))
    | st.integers(0, 10**18 - 1).map(lambda count: Start("last", count=count))
    | st.integers(-62_135_596_800_000, 253_402_300_799_999).map(lambda ms: Start("time", ms=ms))
    | st.from_regex(r"[0-9a-z][0-9a-z:-]*", fullmatch=True)
    .filter(lambda token: token not in ("beginning", "end"))
    .map(lambda token: Start("at", token=token))
)
def test_what_is_written_is_parsed_again(start: Start) -> None:
    assert parse_start(str(start)) == start


@given(st.text(max_size=30))
def test_any_text_is_a_start_or_a_usage_error(text: str) -> None:
    for parse in (parse_start, parse_time, parse_duration, lambda text: parse_range([text])):
        for given_text in (text, f"@{text}", f"+{text}", f"{text}s", f"2026-01-31T{text}"):
            try:
                parse(given_text)
            except UsageError as exc:
                assert str(exc)
