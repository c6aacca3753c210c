"""Saved runs for other programs: JSON, CSV by interval, HdrHistogram logs, Prometheus text."""

from __future__ import annotations

import base64
import calendar
import time
from collections.abc import Iterator, Sequence

import msgspec

from .histogram import log_lines
from .result import Latency, Report

__all__ = ["as_csv", "as_hlog", "as_json", "as_prometheus"]

_COUNTS = (
    "published", "confirmed", "refused", "unknown", "received", "published_bytes",
    "received_bytes", "backlog",
)  # fmt: skip
_PERCENTILES = ("p50", "p99", "p99.9")


def as_json(runs: Sequence[Report]) -> bytes:
    """One run as an object, several under ``runs``; what ``load`` reads."""
    whole = runs[0] if len(runs) == 1 else {"runs": list(runs)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def as_csv(runs: Sequence[Report]) -> str:
    """A line for each interval, and a header. Latencies in milliseconds, empty where unknown."""
    latencies = [
        f"{kind}_{name}_ms" for kind in ("confirm", "end_to_end") for name in (*_PERCENTILES, "max")
    ]
    lines = [",".join(["run", "at_s", "seconds", "phase", *_COUNTS, *latencies])]
    for run in runs:
        for row in run.intervals:
            cells = [run.run, f"{row.at_s:.12g}", f"{run.interval_s:.12g}", row.phase]
            cells += [_cell(getattr(row, name)) for name in _COUNTS]
            for latency in (row.confirm, row.end_to_end):
                cells += [_cell(latency.percentiles.get(name)) for name in _PERCENTILES]
                cells.append(_cell(latency.max))
            lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def as_hlog(run: Report) -> str:
    """The intervals of one run as an HdrHistogram log, tagged ``confirm`` and ``end_to_end``."""
    began = calendar.timegm(time.strptime(run.started, "%Y-%m-%dT%H:%M:%SZ"))
    tagged = {
        name: [base64.b64decode(getattr(row, name).histogram) for row in run.intervals]
        for name in ("confirm", "end_to_end")
    }
    return "\n".join(log_lines(float(began), run.interval_s, tagged)) + "\n"


def as_prometheus(runs: Sequence[Report]) -> str:
    """The text format for a node exporter's textfile collector. Seconds and bytes, as is usual
    there; labels ``address``, ``run`` and ``durability``."""
    lines: list[str] = []

    def metric(name: str, help: str, samples: Iterator[tuple[str, float | None]]) -> None:
        found = [(labels, value) for labels, value in samples if value is not None]
        if found:
            lines.append(f"# HELP mqcli_benchmark_{name} {help}")
            lines.append(f"# TYPE mqcli_benchmark_{name} gauge")
            lines.extend(
                f"mqcli_benchmark_{name}{{{labels}}} {value:.12g}" for labels, value in found
            )

    def latencies() -> Iterator[tuple[str, float | None]]:
        for run in runs:
            for stage in ("end_to_end", "confirm", "service", "publish_delay"):
                latency: Latency = getattr(run, stage)
                for name, value in latency.percentiles.items():
                    if value is not None:
                        quantile = float(name[1:]) / 100
                        yield f'{_labels(run)},stage="{stage}",quantile="{quantile:g}"', value / 1e3
                if latency.max is not None:
                    yield f'{_labels(run)},stage="{stage}",quantile="1"', latency.max / 1e3

    metric("latency_seconds", "Latency by stage, from the intended send time.", latencies())
    metric(
        "messages_per_second",
        "Rate of what counts.",
        (
            (f'{_labels(run)},what="{what}"', getattr(run.rates, f"{what}_per_s"))
            for run in runs
            for what in ("published", "confirmed", "received")
        ),
    )
    metric(
        "faults",
        "Messages whose delivery was not as it should be.",
        (
            (f'{_labels(run)},kind="{kind}"', getattr(run.delivery, kind))
            for run in runs
            if run.delivery is not None
            for kind in ("lost", "unseen", "duplicated", "reordered", "corrupt", "foreign")
        ),
    )
    metric(
        "client_limited",
        "1 where mqcli itself was the limit.",
        ((_labels(run), float(run.client_limited is not None)) for run in runs),
    )
    return "\n".join(lines) + "\n"


def _labels(run: Report) -> str:
    pairs = {"address": run.address, "run": run.run, "durability": run.durability.level}
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
