"""The page that ``--html`` and ``report html`` write, as a real browser shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from mqcli.benchmark.exports import as_json
from mqcli.benchmark.histogram import Histogram
from mqcli.benchmark.result import Latency, load
from tests.brokers import need
from tests.brokers.chromium import Chromium, decoded
from tests.brokers.redis import Redis

from .support import Cli

pytestmark = pytest.mark.alone

BACKGROUND = {"light": (255, 255, 255), "dark": (13, 17, 23)}
INK = {"light": (0x1B, 0x1F, 0x24), "dark": (0xE6, 0xED, 0xF3)}

DRAWINGS = """[...document.querySelectorAll('svg')].map(svg => {
    const box = svg.getBoundingClientRect();
    return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height};
})"""
KEYS = """[...document.querySelectorAll('.key')].map(key =>
    [...key.querySelectorAll('i')].map(mark => getComputedStyle(mark).backgroundColor))"""
# Pairs of words in one drawing that lie upon each other, and words that stick out of theirs.
UNREADABLE = """[...document.querySelectorAll('svg')].flatMap(svg => {
    const outer = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll('text')].map(
        text => [text.textContent, text.getBoundingClientRect()]);
    const out = words.filter(([, box]) => box.left < outer.left || box.right > outer.right
        || box.top < outer.top || box.bottom > outer.bottom).map(([word]) => word);
    words.forEach(([one, a], i) => words.slice(i + 1).forEach(([two, b]) => {
        if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
            out.push(one + ' | ' + two);
    }));
    return out;
})"""
SMALLEST = """Math.min(...[...document.querySelectorAll('svg text')].map(
    text => text.getScreenCTM().a * parseFloat(getComputedStyle(text).fontSize)))"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with need("chromium", Chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Path:
    """Where two runs are saved: one at two rates, with its page, and one at saturation that only
    publishes."""
    folder = tmp_path_factory.mktemp("saved")
    cli, address = Cli(folder), f"{redis.url}/stream:t-{uuid4().hex[:12]}"
    cli("benchmark", address, "--variable-rate", "500:1s,1500:1s", "--warmup", "200ms",
        "--interval", "200ms", "--save", "steps.json", "--html", "steps.html").ok()  # fmt: skip
    cli("benchmark", address, "--duration", "1s", "--warmup", "200ms", "--interval", "200ms",
        "--only", "publish", "--save", "full.json").ok()  # fmt: skip
    return folder


def looks_right(
    chromium: Chromium, page: Path, width: int, scheme: Literal["light", "dark"]
) -> list[dict[str, float]]:
    """What holds for every page; where its drawings are."""
    chromium.show(page, width, scheme)
    asked = [event for event in chromium.events if event["method"] == "Network.requestWillBeSent"]
    assert [event["params"]["request"]["url"] for event in asked] == [page.as_uri()]
    wrong = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert not [event for event in chromium.events if event["method"] in wrong]
    assert chromium.evaluate(OVERFLOW) == 0, "wider than the window"
    assert chromium.evaluate(UNREADABLE) == []
    assert chromium.evaluate(SMALLEST) >= 9, "too small to be read"
    drawings = chromium.evaluate(DRAWINGS)
    assert isinstance(drawings, list)
    return drawings


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_shows_its_curves(
    chromium: Chromium, folder: Path, scheme: Literal["light", "dark"]
) -> None:
    # Given the page of a run, when shown in a browser, then nothing is asked for from elsewhere,
    # nothing is complained about, and nothing sticks out
    drawings = looks_right(chromium, folder / "steps.html", 1000, scheme)
    # And it is no blank one: a heading on a ground of the user's taste
    heading = decoded(chromium.screenshot({"x": 0, "y": 0, "width": 1000, "height": 120}))
    assert heading.rows[0][0] == BACKGROUND[scheme]
    assert heading.places(INK[scheme]), "no heading"
    # And there are three drawings, each with the curves that its key names, from side to side
    keys = chromium.evaluate(KEYS)
    assert [len(key) for key in keys[:2]] == [2, 3] and len(drawings) == len(keys) == 3
    pictures = [decoded(chromium.screenshot(drawing)) for drawing in drawings]
    for picture, key in zip(pictures, keys, strict=True):
        assert picture.rows[0][0] == BACKGROUND[scheme]
        for name in key:
            columns = picture.places(rgb(name))
            assert max(columns) - min(columns) > picture.width / 3, name
    # And what was received shows the step from 500 to 1,500 messages a second
    received, width = pictures[1].places(rgb(keys[1][2])), pictures[1].width
    early = min(y for x, y in received.items() if x < width * 0.4)
    late = min(y for x, y in received.items() if x > width * 0.65)
    assert late < early - pictures[1].height / 4


@pytest.mark.parametrize("width", [1000, 390])
def test_two_runs_side_by_side(chromium: Chromium, folder: Path, width: int) -> None:
    # Given a page of two saved runs
    page = folder / "two.html"
    files = [str(folder / f"{name}.json") for name in ("steps", "full")]
    page.write_bytes(Cli(folder)("report", "html", *files).ok().out)
    # When shown, in a window and on a telephone
    drawings = looks_right(chromium, page, width, "light")
    # Then there is one drawing of both, and two of each
    assert len(drawings) == 5
    # And the one of both has a curve of each
    picture = decoded(chromium.screenshot(drawings[0] | {"width": min(width - 16, 900)}))
    (both, *_) = chromium.evaluate(KEYS)
    assert len(both) == 2
    assert all(picture.places(rgb(name)) for name in both)
    assert re.search(r"steps: end to end.*full: confirm", page.read_text(), re.DOTALL)


def test_large_numbers_have_room(chromium: Chromium, folder: Path) -> None:
    # Given a saved run of tens of millions of messages, millions a second
    (run,) = load((folder / "steps.json").read_bytes(), "steps.json")
    many = Histogram()
    for power in range(8):
        many.record(10 ** (9 - power // 2), 10**power)
    run.end_to_end = Latency.of(many)
    for row in run.intervals:
        row.published *= 5000
    (folder / "many.json").write_bytes(as_json([run]))
    page = folder / "many.html"
    page.write_bytes(Cli(folder)("report", "html", str(folder / "many.json")).ok().out)
    # When shown, then what stands at the axes is whole, and can be told apart
    looks_right(chromium, page, 1000, "light")
    assert "99.99999 %" in page.read_text()


def rgb(css: str) -> tuple[int, int, int]:
    """A colour as a browser gives it back."""
    red, green, blue = map(int, re.findall(r"\d+", css))
    return red, green, blue
