"""The view of a running benchmark on a terminal: the only place that loads rich for it."""

from __future__ import annotations

import asyncio
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..benchmark.conductor import Progress
from ..benchmark.histogram import Histogram
from ..benchmark.plan import Plan
from ..formats.escaping import escape
from .env import Env
from .load_text import rate

__all__ = ["LiveView"]

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


class LiveView:
    """Draws on stderr a few times a second, in the conductor's process: the workers that make and
    time the load do not notice."""

    def __init__(self, env: Env, where: str) -> None:
        self._where = where
        self._progress = Progress()
        self._plan: Plan | None = None
        self._said: list[str] = []
        self._task: asyncio.Task[None] | None = None
        color = env.stderr_tty and env.color
        self._console = Console(file=sys.stderr, no_color=not color, highlight=False, markup=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._drawn
        )

    def update(self, progress: Progress, plan: Plan) -> None:
        self._progress, self._plan = progress, plan

    def say(self, text: str) -> None:
        self._said.append(text)

    async def __aenter__(self) -> LiveView:
        self._live.start()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._live.stop()

    async def _run(self) -> None:
        while True:
            self._live.refresh()
            await asyncio.sleep(0.25)

    def _drawn(self) -> Text:
        progress, plan = self._progress, self._plan
        text = Text(no_wrap=True, overflow="crop")
        text.append(f"{escape(self._where)}  {progress.phase}\n", "bold")
        for said in self._said[-8:]:
            text.append(f"{escape(said)}\n", "dim")
        if plan is None or not progress.start:
            return text
        gone = (time.monotonic_ns() - progress.start) / 1e9
        whole = plan.warmup + plan.lasts
        if progress.phase == "draining":
            text.append("waiting for the last messages\n", "dim")
        elif gone < plan.warmup:
            text.append("warming up: this does not count\n", "dim")
        elif plan.count is None:
            done = round(_WIDTH * max(0.0, min(1.0, gone / whole)))
            text.append("━" * done, "green")
            text.append(f"{'━' * (_WIDTH - done)}", "dim")
            text.append(f" {min(gone, whole):.0f} of {whole:g} s\n")
        else:
            text.append(f"{progress.confirmed:,} of {plan.count:,}\n")
        numbers = [number for number in sorted(progress.ticks) if number >= 0]
        # The latest is not over yet.
        numbers = numbers[:-1] if progress.phase == "running" else numbers
        if numbers:
            self._rows(text, progress, plan, numbers)
        return text

    def _rows(self, text: Text, progress: Progress, plan: Plan, numbers: list[int]) -> None:
        text.append(_row("", ["per s", "p50 ms", "p99 ms", "max ms"]) + "\n", "dim")
        last = progress.ticks[numbers[-1]]
        for name, histogram in (
            ("published", None), ("confirmed", last.confirm), ("received", last.end_to_end),
        ):  # fmt: skip
            values = [getattr(progress.ticks[n], name) / plan.interval for n in numbers[-_WIDTH:]]
            text.append(_row(name, [rate(values[-1]), *_percentiles(histogram)]))
            text.append(f"  {_sparkline(values)}\n", "cyan")
        if plan.only == "both":
            waiting = max(0, progress.expected - progress.sound)
            text.append(_row("backlog", [f"{waiting:,}"]) + "\n")


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<10}" + "".join(f"{cell:>10}" for cell in cells)


def _percentiles(counts: dict[int, int] | None) -> list[str]:
    if not counts:
        return ["", "", ""]
    histogram = Histogram()
    histogram.add(counts)
    middle, high = histogram.percentiles((50.0, 99.0))
    return [f"{value / 1e6:.3g}" for value in (middle, high, histogram.max)]


def _sparkline(values: list[float]) -> str:
    top = max(values, default=0) or 1
    return "".join(_BARS[min(7, int(value / top * 7.999))] for value in values)
