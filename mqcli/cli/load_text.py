"""Benchmark reports as text for people: aligned, escaped, without colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..benchmark.gate import Spread, compared, spread, steps, unlike
from ..benchmark.result import Latency, Report
from ..formats.escaping import escape

__all__ = ["Side", "broker", "by_durability", "comparison", "ms", "rate", "repeated", "report"]

Side: TypeAlias = tuple[str, Sequence[Report]]
"""A name, and its runs."""

_NAMES = ("p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99")
_COMPARED = (
    ("confirmed/s", "confirmed"), ("received/s", "received"),
    ("end to end p50 ms", "end-to-end.p50"), ("end to end p99 ms", "end-to-end.p99"),
    ("end to end max ms", "end-to-end.max"), ("confirm p50 ms", "confirm.p50"),
    ("confirm p99 ms", "confirm.p99"), ("confirm max ms", "confirm.max"),
    ("backlog", "backlog"), ("lost", "lost"), ("duplicated", "duplicated"), ("client CPU %", "cpu"),
)  # fmt: skip


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def broker(run: Report) -> str:
    """Its name and version, as far as it tells them."""
    told = (run.broker.get(name) for name in ("server", "product", "broker", "version"))
    return " ".join(str(word) for word in told if word)


def ms(value: float | None) -> str:
    """Three digits, as the histograms hold; - for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *rest]).rstrip())
    return lines


def report(run: Report) -> str:
    """All figures of one run."""
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in run.settings.items()
    )
    on = broker(run)
    lines = [
        f"{run.address}" + (f" on {on}" if on else ""),
        f"{_model(run)}; {settings}" if settings else _model(run),
        f"confirmed means: {run.durability.words}",
        "",
        *_rates(run),
        "",
        *_latencies(run),
        "",
        *_delivery(run),
    ]
    for machine in run.machines:
        ring = machine.lag_p99_ms
        late = f", timers within {ms(ring)} ms (p99)" if ring is not None else ""
        lines.append(
            f"client {machine.host}: {machine.cpu_percent:.0f} % of a core, {machine.memory_mb:.0f}"
            f" MB, in {machine.processes} process{'es' * (machine.processes != 1)}{late}"
        )
    if run.client_limited:
        lines.append(f"CLIENT-LIMITED: {run.client_limited}")
    if not run.complete:
        lines.append("not complete: it was stopped before its end")
    lines += [f"note: {note}" for note in run.notes]
    lines += [f"error: {error}" for error in run.errors]
    return "\n".join(escape(line) for line in lines) + "\n"


def _model(run: Report) -> str:
    return {
        "open-loop": "open loop: latency counts from the intended send time",
        "saturation": "at saturation: throughput counts, latency is that of full queues",
        "backlog": "filled, then drained against the clock",
    }[run.model]


def _rates(run: Report) -> list[str]:
    rates = run.rates
    rows = [["", "messages", "per second", "MB/s"]]
    mb = {"published": rates.published_mb_per_s, "received": rates.received_mb_per_s}
    for name in ("published", "confirmed", "received"):
        count = getattr(rates, name)
        if count or name != "received":
            per_s = getattr(rates, f"{name}_per_s")
            cell = f"{mb[name]:.3g}" if name in mb else ""
            rows.append([name, f"{count:,}", rate(per_s), cell])
    failed = [(name, getattr(rates, name)) for name in ("refused", "unknown", "unsent")]
    rows += [[name, f"{count:,}", "", ""] for name, count in failed if count]
    return _aligned(rows)


def _latencies(run: Report) -> list[str]:
    head = "latency ms" + (" at saturation" if run.model != "open-loop" else "")
    rows = [[head, "min", *_NAMES, "max"]]
    named: list[tuple[str, Latency]] = [
        ("end to end", run.end_to_end),
        ("confirm", run.confirm),
        ("service time", run.service),
        ("publish delay", run.publish_delay),
    ]
    for name, latency in named:
        if latency.count:
            cells = [ms(latency.percentiles.get(p)) for p in _NAMES]
            rows.append([name, ms(latency.min), *cells, ms(latency.max)])
    lines = _aligned(rows) if len(rows) > 1 else ["no latency was measured"]
    if run.end_to_end_note:
        lines.append(f"end to end: {run.end_to_end_note}")
    return lines


def _delivery(run: Report) -> list[str]:
    found = run.delivery
    if found is None:
        return ["delivery was not verified: nothing was read, or not by its stamps"]
    counts = ", ".join(
        f"{getattr(found, name):,} {word}"
        for name, word in (
            ("lost", "lost"), ("unseen", "not yet seen"), ("duplicated", "duplicated"),
            ("reordered", "reordered"), ("corrupt", "corrupt"), ("foreign", "foreign"),
        )
    )  # fmt: skip
    lines = [f"delivered {found.delivered:,} of {found.expected:,} (warm-up included): {counts}"]
    for kind, first in found.firsts.items():
        parts = []
        if first.producer is not None:
            parts.append(f"producer {first.producer} sequence {first.sequence or 0}")
        if first.position:
            parts.append(f"position {first.position}")
        if first.at_s is not None:
            parts.append(f"after {first.at_s:g} s")
        if first.detail:
            parts.append(first.detail)
        word = "not yet seen" if kind == "unseen" else kind
        lines.append(f"  first {word}: {', '.join(parts)}")
    extra = []
    if run.max_backlog is not None:
        extra.append(f"highest backlog {run.max_backlog:,}")
    if run.drain_s is not None:
        extra.append(f"drained in {run.drain_s:g} s")
    return [*lines, ", ".join(extra)] if extra else lines


def repeated(runs: Sequence[Report]) -> str:
    """Median and spread of several runs alike."""
    rows = [[f"{len(runs)} runs", "median", "lowest", "highest", "spread"]]
    for words, name in _COMPARED:
        found = spread(runs, name)
        if found is not None:
            rows.append([words, *_cells(found)])
    return "\n".join(_aligned(rows)) + "\n"


def _cells(found: Spread) -> list[str]:
    values = [ms(value) for value in (found.median, found.low, found.high)]
    return [*values, f"{found.percent:.0f} %"]


def by_durability(sides: Sequence[Side]) -> list[tuple[str, list[Side]]]:
    """Those that confirm the same together, with what it means in words."""
    levels: dict[str, list[Side]] = {}
    for side in sides:
        levels.setdefault(side[1][0].durability.level, []).append(side)
    return [(group[0][1][0].durability.words, group) for group in levels.values()]


def comparison(sides: Sequence[Side]) -> str:
    """Saved runs side by side. Those of different durabilities, load models or steps of a search
    stand in tables of their own, for they do not do the same."""
    parts = []
    durabilities = by_durability(sides)
    groups = [
        (f"{words}{what}", alike)
        for words, group in durabilities
        for what, alike in _by_load(group)
    ]
    for words, group in groups:
        rows = [[f"confirmed means: {words}", *(name for name, _ in group)]]
        difference = len(group) == 2
        if difference:
            rows[0] += ["change", ""]
        for title, name in _COMPARED:
            found = [spread(runs, name) for _, runs in group]
            if not any(found):
                continue
            cells = ["-" if one is None else ms(one.median) for one in found]
            if difference:
                cells += _change(found[0], found[1])
            rows.append([title, *cells])
        for name, runs in group:
            if any(run.client_limited for run in runs):
                rows.append([f"{name}: CLIENT-LIMITED", *([""] * (len(rows[0]) - 1))])
        lines = _aligned(rows)
        for setting, values in unlike([runs for _, runs in group]).items():
            pairs = zip(values, group, strict=True)
            told = ", ".join(f"{value} ({name})" for value, (name, _) in pairs)
            lines.append(f"not alike: {setting.replace('_', ' ')} {told}")
        for name, runs in group:
            if not all(run.complete for run in runs):
                lines.append(f"not complete: {name} was stopped before its end")
        parts.append("\n".join(escape(line) for line in lines) + "\n")
    if len(durabilities) > 1:
        parts.append("Different durabilities are not ranked with each other.\n")
    if len(groups) > len(durabilities):
        parts.append("Different load models and steps are not ranked with each other.\n")
    return "\n".join(parts)


def _by_load(sides: Sequence[Side]) -> list[tuple[str, list[Side]]]:
    """Those with the same load model, and step of a search, together."""
    found: dict[tuple[str, str], list[Side]] = {}
    for name, runs in sides:
        for step, alike in steps(runs):
            found.setdefault((alike[0].model, step), []).append((name, alike))
    if len(found) == 1:
        return [("", next(iter(found.values())))]
    return [(f"; {model} {step}".rstrip(), group) for (model, step), group in found.items()]


def _change(before: Spread | None, now: Spread | None) -> list[str]:
    if before is None or now is None or not before.median:
        return ["", ""]
    change = (now.median - before.median) / before.median * 100
    words = compared(before, now)
    return [f"{change:+.1f} %", words if min(before.count, now.count) > 1 else ""]
