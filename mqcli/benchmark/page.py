"""Saved runs as one self-contained HTML page: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .result import Latency, Report

__all__ = ["page"]

_WIDTH, _HEIGHT = 860, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 48, 14, 40
# Okabe and Ito's colours, told apart by colour-blind eyes.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_PERCENTILES = ("p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99")
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --bg: #fff;
  --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --bg: #0d1117; --card: #151b23; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--bg);
  max-width: 920px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .25rem 0; color: var(--soft) }
.limited { color: #fff; background: #b3261e; padding: .4rem .7rem; border-radius: 6px }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 .8rem;
  font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
thead th { color: var(--soft); font-weight: 500 }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .5rem }
dl div { background: var(--card); border-radius: 6px; padding: .45rem .7rem }
dt { color: var(--soft); font-size: .8rem } dd { margin: 0; overflow-wrap: anywhere }
svg { width: 100%; min-width: 45rem; height: auto; display: block }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
.grid { stroke: var(--line); stroke-width: 1 } .axis { stroke: var(--soft) }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.2rem; margin: .25rem 0 0; color: var(--soft) }
.key i { display: inline-block; width: 1.2rem; height: .25rem; border-radius: 2px;
  margin-right: .4rem; vertical-align: middle }
"""

Line = tuple[str, list[tuple[float, float]]]
"""A name and its points."""


def page(runs: Sequence[tuple[str, Report]]) -> str:
    """The page; each run with the name that it has in the keys of the charts."""
    named = [(name or _short(run, i, len(runs)), run) for i, (name, run) in enumerate(runs)]
    first = named[0][1]
    title = first.address if len(named) == 1 else f"{len(named)} benchmarks"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>mqcli benchmark: {_text(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
    ]
    if len(named) == 1:
        parts += _head(first)
    levels = {run.durability.level for _, run in named}
    if len(levels) > 1:
        parts.append(
            "<p>These runs confirm different things; they are not ranked with each other.</p>"
        )
    parts += _figures(named)
    parts += _latency_by_percentile(named)
    for name, run in named:
        parts += _over_time(name if len(named) > 1 else "", run)
    if len(named) > 1:
        for name, run in named:
            parts += [f"<h2>{_text(name)}</h2>", *_head(run)]
    for name, run in named:
        parts += _settings(name if len(named) > 1 else "", run)
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _text(text: object) -> str:
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))
    return escape(shown)


def _short(run: Report, number: int, total: int) -> str:
    name = run.address.rpartition(".mqcli-")[0] or run.address
    return name.rpartition("/")[2] + (f" #{number + 1}" if total > 1 else "")


def _head(run: Report) -> list[str]:
    model = {
        "open-loop": "Open loop: latency counts from the intended send time.",
        "saturation": "At saturation: throughput counts; latency is that of full queues.",
        "backlog": "Filled, then drained against the clock.",
    }[run.model]
    found = [f"<p>{model} Confirmed means: {_text(run.durability.words)}.</p>"]
    if run.client_limited:
        found.append(f'<p class="limited">CLIENT-LIMITED: {_text(run.client_limited)}</p>')
    if not run.complete:
        found.append("<p>Not complete: it was stopped before its end.</p>")
    found += [f"<p>{_text(text)}</p>" for text in (*run.notes, *run.errors)]
    if run.end_to_end_note:
        found.append(f"<p>End to end: {_text(run.end_to_end_note)}.</p>")
    return found


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _figures(named: Sequence[tuple[str, Report]]) -> list[str]:
    rows, latencies, faults = [], [], []
    for name, run in named:
        rates = run.rates
        rows.append(
            [name, *(_number(v) for v in (
                rates.published_per_s, rates.confirmed_per_s, rates.received_per_s,
                rates.published_mb_per_s, rates.refused, rates.unknown, rates.unsent,
            ))]
        )  # fmt: skip
        for words, latency in _stages(run):
            if latency.count:
                label = words if len(named) == 1 else f"{name}: {words}"
                cells = [_number(latency.percentiles.get(p)) for p in _PERCENTILES]
                latencies.append([label, _number(latency.min), *cells, _number(latency.max)])
        if run.delivery is not None:
            d = run.delivery
            counts = (d.expected, d.delivered, d.lost, d.unseen, d.duplicated, d.reordered,
                      d.corrupt, d.foreign)  # fmt: skip
            faults.append([name, *(f"{count:,}" for count in counts)])
    head = ["messages", "published/s", "confirmed/s", "received/s", "MB/s", "refused", "unknown",
            "unsent"]  # fmt: skip
    found = ["<h2>Figures</h2>", _table(head, rows)]
    if latencies:
        found.append(_table(["latency, ms", "min", *_PERCENTILES, "max"], latencies))
    if faults:
        names = ["delivery", "expected", "delivered", "lost", "not yet seen", "duplicated",
                 "reordered", "corrupt", "foreign"]  # fmt: skip
        found.append(_table(names, faults))
    return found


def _stages(run: Report) -> list[tuple[str, Latency]]:
    return [
        ("end to end", run.end_to_end), ("confirm", run.confirm),
        ("service time", run.service), ("publish delay", run.publish_delay),
    ]  # fmt: skip


def _latency_by_percentile(named: Sequence[tuple[str, Report]]) -> list[str]:
    """The horizontal axis is the number of nines, as HdrHistogram's plots have it."""
    lines: list[Line] = []
    for name, run in named:
        stages = _stages(run)[:2] if len(named) == 1 else [
            next(((words, one) for words, one in _stages(run)[:2] if one.count), ("", Latency()))
        ]  # fmt: skip
        for words, latency in stages:
            spectrum = latency.decoded().spectrum()
            points = [
                (math.log10(100 / (100 - p)), value / 1e6) for p, value in spectrum if p < 100
            ]
            if points:
                lines.append((words if len(named) == 1 else f"{name}: {words}", points))
    if not lines:
        return []
    nines = max(1, math.ceil(max(x for _, points in lines for x, _ in points)))
    ticks = [(0.0, "0"), *((float(n), _percent(n)) for n in range(1, nines + 1))]
    chart = _chart(lines, "milliseconds", ticks, float(nines), logarithmic=True)
    return ["<h2>Latency by percentile</h2>", chart, _key([name for name, _ in lines])]


def _percent(nines: int) -> str:
    return f"{100 - 100 / 10**nines:.10g} %"


def _over_time(name: str, run: Report) -> list[str]:
    rows = list(run.intervals)
    while rows and not (rows[-1].published or rows[-1].received > run.rates.received_per_s / 10):
        rows.pop()  # the last of the drain, in which next to nothing comes
    if len(rows) < 2:
        return []
    of = f", {_text(name)}" if name else ""
    end = len(rows) * run.interval_s
    step = max(1, math.ceil(len(rows) / 10)) * run.interval_s
    ticks = [(n * step, f"{n * step:g} s") for n in range(int(end / step) + 1)]
    rates: list[Line] = [
        (what, [(row.at_s + run.interval_s / 2, getattr(row, what) / run.interval_s)
                for row in rows])
        for what in ("published", "confirmed", "received")
    ]  # fmt: skip
    rates = [(what, points) for what, points in rates if any(y for _, y in points)]
    found = []
    if rates:
        found += [f"<h2>Messages per second{of}</h2>", _chart(rates, "messages/s", ticks, end),
                  _key([what for what, _ in rates])]  # fmt: skip
    stage = "end_to_end" if run.end_to_end.count else "confirm"
    latencies: list[Line] = []
    for what in ("p50", "p99", "max"):
        points = []
        for row in rows:
            latency: Latency = getattr(row, stage)
            value = latency.max if what == "max" else latency.percentiles.get(what)
            if value:
                points.append((row.at_s + run.interval_s / 2, value))
        if points:
            latencies.append((what, points))
    if latencies:
        title = f"Latency over time, {stage.replace('_', ' ')}{of}"
        found += [f"<h2>{title}</h2>",
                  _chart(latencies, "milliseconds", ticks, end, logarithmic=True),
                  _key([what for what, _ in latencies])]  # fmt: skip
    return found


def _chart(
    lines: Sequence[Line],
    unit: str,
    ticks: Sequence[tuple[float, str]],
    end: float,
    *,
    logarithmic: bool = False,
) -> str:
    values = [y for _, points in lines for _, y in points]
    low, high, marks = _scale(values, logarithmic)

    def x_of(x: float) -> float:
        return _LEFT + x / end * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        if logarithmic:
            share = (math.log10(max(y, low)) - math.log10(low)) / (
                math.log10(high) - math.log10(low)
            )
        else:
            share = (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<div class="wide"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{_text(unit)}">'
    ]
    for mark in marks:
        y = y_of(mark)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}"/>')  # fmt: skip
        parts.append(f'<text x="{_LEFT - 14}" y="{y + 4:.1f}" text-anchor="end">{mark:,.7g}</text>')
    bottom = _HEIGHT - _BOTTOM
    for x, label in ticks:
        at = x_of(x)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" '
                     f'y2="{bottom + 4}"/>')  # fmt: skip
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{_text(label)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" '
                 f'y2="{bottom}"/>')  # fmt: skip
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{_text(unit)}</text>')
    for number, (name, points) in enumerate(lines):
        color = _COLORS[number % len(_COLORS)]
        # Lines that lie upon each other show as bands.
        width = 2 + 2 * (len(lines) - 1 - number)
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"'
            f' stroke-linejoin="round"><title>{_text(name)}</title></polyline>'
        )
    return "".join([*parts, "</svg></div>"])


def _scale(values: Sequence[float], logarithmic: bool) -> tuple[float, float, list[float]]:
    """(lowest, highest, marks) of an axis that holds all values."""
    top, bottom = max(values), min(values)
    if logarithmic:
        first = math.floor(math.log10(max(bottom, 1e-6)))
        last = max(first + 1, math.ceil(math.log10(max(top, 1e-6)) + 1e-9))
        decades = [10.0**n for n in range(first, last + 1)]
        if last - first <= 2:
            decades = sorted([*decades, *(d * m for d in decades[:-1] for m in (2, 5))])
        return 10.0**first, 10.0**last, decades
    step = 10 ** math.floor(math.log10(top)) if top > 0 else 1.0
    while top / step < 4:
        step /= 2
    count = math.ceil(top / step - 1e-9)
    while count > 8:
        step *= 2
        count = math.ceil(top / step - 1e-9)
    return 0.0, step * max(1, count), [step * n for n in range(max(1, count) + 1)]


def _key(names: Sequence[str]) -> str:
    items = "".join(
        f'<span><i style="background:{_COLORS[i % len(_COLORS)]}"></i>{_text(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<div class="key">{items}</div>'


def _settings(name: str, run: Report) -> list[str]:
    pairs: dict[str, object] = {
        "started": run.started, "mqcli": run.mqcli, "run": run.run, **run.settings,
    }  # fmt: skip
    pairs |= {f"broker {key}": value for key, value in run.broker.items()}
    for number, machine in enumerate(run.machines):
        of = f"client {number + 1}" if len(run.machines) > 1 else "client"
        pairs[of] = machine.host
        pairs |= {f"{of} {key}": value for key, value in machine.facts.items()}
        pairs[f"{of} CPU"] = f"{machine.cpu_percent:.0f} % of a core"
        pairs[f"{of} memory"] = f"{machine.memory_mb:.0f} MB"
        if machine.lag_p99_ms is not None:
            pairs[f"{of} timers, p99"] = f"{_number(machine.lag_p99_ms)} ms late"
    items = "".join(
        f"<div><dt>{_text(key.replace('_', ' '))}</dt><dd>{_text(value)}</dd></div>"
        for key, value in pairs.items()
    )
    return [f"<h2>Settings{', ' + _text(name) if name else ''}</h2>", f"<dl>{items}</dl>"]
