"""The view of a running benchmark on a terminal: the only place that loads rich for it."""

from __future__ import annotations

import asyncio
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..benchmark.conductor import Progress
from ..benchmark.histogram import Histogram
from ..benchmark.plan import Plan
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
        color = env.stderr_tty and env.color
        self._console = Console(file=sys.stderr, no_color=not color, highlight=False, markup=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, get_renderable=self._drawn
        )
        self._progress, self._plan = Progress(), None
        self._said: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._began = time.monotonic()

    def update(self, progress: Progress, plan: Plan) -> None:
        self._progress, self._plan = progress, plan  # type: ignore[assignment]

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

    def _drawn(self) -> Group:
        progress, plan = self._progress, self._plan
        parts: list[Text | Table | ProgressBar] = [
            Text(f"{self._where}  {progress.phase}", style="bold")
        ]
        parts += [Text(text, style="dim") for text in self._said[-8:]]
        if plan is None or not progress.start:
            return Group(*parts)
        whole = plan.warmup + plan.lasts
        gone = (time.monotonic_ns() - progress.start) / 1e9
        if plan.count is None or plan.phases:
            parts.append(ProgressBar(total=whole, completed=max(0.0, min(whole, gone)), width=60))
        numbers = [number for number in sorted(progress.ticks) if number >= 0]
        # The latest is not over yet.
        numbers = numbers[:-1] if progress.phase == "running" else numbers
        if not numbers:
            return Group(*parts)
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        for name in ("", "/s", "p50 ms", "p99 ms", "max ms"):
            table.add_column(name, justify="left" if not name else "right")
        table.add_column("")
        last = progress.ticks[numbers[-1]]
        for name, histogram in (
            ("published", None), ("confirmed", last.confirm), ("received", last.end_to_end),
        ):  # fmt: skip
            values = [getattr(progress.ticks[n], name) / plan.interval for n in numbers[-_WIDTH:]]
            table.add_row(
                Text(name), rate(values[-1]), *_percentiles(histogram), Text(_sparkline(values))
            )
        parts.append(table)
        waiting = max(0, progress.expected - progress.sound)
        if plan.only == "both":
            parts.append(Text(f"backlog {waiting:,}"))
        if gone < plan.warmup:
            parts.append(Text("warming up: this does not count", style="dim"))
        return Group(*parts)


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
