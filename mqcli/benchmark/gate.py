"""Rules that a run must not break: ``p99>20ms``, ``lost>0``, ``rate<5000``, and against saved
runs ``p99>+10%``. A rule says what is a failure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from ..errors import UsageError
from .result import Report

__all__ = [
    "FIGURES",
    "Rule",
    "Spread",
    "Verdict",
    "compared",
    "figure",
    "judge_rules",
    "parse_rule",
    "steps",
    "unlike",
]

_RULE = re.compile(
    r"\s*(?P<name>[a-z0-9_.-]+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<relative>[+-])?(?P<number>\d+(\.\d+)?)"
    r"\s*(?P<unit>us|µs|ms|s|%)?\s*"
)
_UNITS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}
_LATENCIES = {"": "end_to_end", "confirm": "confirm", "service": "service",
              "delay": "publish_delay", "end-to-end": "end_to_end"}  # fmt: skip
_OF_LATENCY = ("min", "mean", "p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99", "max")
_RATES = {
    "rate": "received_per_s", "published": "published_per_s", "confirmed": "confirmed_per_s",
    "received": "received_per_s",
}  # fmt: skip
_COUNTS = ("refused", "unknown", "unsent")
_DELIVERY = ("lost", "unseen", "duplicated", "reordered", "corrupt", "foreign")
FIGURES = (*_OF_LATENCY, *_RATES, *_COUNTS, *_DELIVERY, "backlog", "cpu")
"""What a rule may name, a latency also behind ``confirm.``, ``service.`` or ``delay.``: without, it
is end to end, or that of the confirm where nothing was consumed. ``rate`` is what was received, or
else what was confirmed."""


class Rule(msgspec.Struct, frozen=True):
    """``name sign bound``; ``relative`` bounds are percent of the saved run, above or below it."""

    text: str
    name: str
    sign: Literal[">", "<", ">=", "<="]
    bound: float
    relative: bool


class Verdict(msgspec.Struct, frozen=True):
    """``broken`` is a failure; so is a rule that could not be judged. ``words`` say why."""

    rule: str
    broken: bool
    words: str


class Spread(msgspec.Struct, frozen=True):
    """A figure over several runs."""

    median: float
    low: float
    high: float
    count: int

    @property
    def percent(self) -> float:
        """From the lowest to the highest, of the median."""
        return (self.high - self.low) / self.median * 100 if self.median else 0.0


def parse_rule(text: str) -> Rule:
    """Raises UsageError."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--fail-if {text!r} is not a rule",
            hint="write p99>20ms, lost>0, rate<5000, or with --compare p99>+10%",
        )
    name, sign, unit = match["name"], match["sign"], match["unit"]
    is_latency = _latency(name) is not None
    if not is_latency and name not in FIGURES:
        raise UsageError(
            f"--fail-if {text!r}: there is no figure {name!r}",
            hint="p50 … p99.99, max, confirm.p99, rate, published, confirmed, received, lost,"
            " unseen, duplicated, reordered, corrupt, foreign, refused, unknown, backlog, cpu",
        )
    bound = float(match["number"])
    if unit == "%" and match["relative"]:
        bound = bound if match["relative"] == "+" else -bound
        return Rule(text, name, sign, bound, True)  # type: ignore[arg-type]
    if match["relative"] or unit == "%" or (unit is None) == is_latency:
        need = "a unit, as in 20ms, or a change, as in +10%" if is_latency else "a plain number"
        raise UsageError(f"--fail-if {text!r}: {name} needs {need}")
    return Rule(text, name, sign, bound * _UNITS.get(unit or "", 1.0), False)  # type: ignore[arg-type]


def _latency(name: str) -> tuple[str, str] | None:
    """(which latency, which figure of it), or None for what is none."""
    if name in _OF_LATENCY:
        return "", name
    prefix, _, rest = name.partition(".")
    return (prefix, rest) if prefix in _LATENCIES and rest in _OF_LATENCY else None


def figure(report: Report, name: str) -> float | None:
    """The figure of a run, in ms or messages; None where it has none (or too few samples)."""
    # Where something was to be received and nothing was, the confirmations are no substitute.
    consumed = report.delivery is not None or report.rates.received > 0
    if name == "rate":
        name = "received" if consumed else "confirmed"
    if name in _RATES:
        return float(getattr(report.rates, _RATES[name]))
    if name in _COUNTS:
        return float(getattr(report.rates, name))
    if name in _DELIVERY:
        return None if report.delivery is None else float(getattr(report.delivery, name))
    if name == "backlog":
        return None if report.max_backlog is None else float(report.max_backlog)
    if name == "cpu":
        return max((machine.cpu_percent for machine in report.machines), default=None)
    found_name = _latency(name)
    assert found_name is not None, name
    prefix, rest = found_name
    latency = getattr(report, _LATENCIES[prefix])
    if prefix == "" and not consumed and report.end_to_end_note is None:
        latency = report.confirm
    found = latency.percentiles.get(rest) if rest.startswith("p") else getattr(latency, rest)
    return None if found is None else float(found)


def spread(reports: Sequence[Report], name: str) -> Spread | None:
    """The figure over some runs; None where one of them has none."""
    values = [figure(report, name) for report in reports]
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    return Spread(statistics.median(present), min(present), max(present), len(present))


def judge_rules(
    rules: Sequence[Rule], reports: Sequence[Report], saved: Sequence[Report]
) -> list[Verdict]:
    """Each rule against the median of the runs; those of a search are of different rates, so there
    it is each step against the saved one like it. Raises UsageError for a relative rule without
    saved runs, and where the saved ones had another durability or load model."""
    if any(rule.relative for rule in rules):
        _check_comparable(rules, reports, saved)
    before = dict(steps(saved))
    found = []
    for rule in rules:
        for step, alike in steps(reports):
            verdict = _judge(rule, alike, before.get(step, []))
            words = f"{step}: {verdict.words}" if step else verdict.words
            found.append(Verdict(rule.text, verdict.broken, words))
    return found


def steps(reports: Sequence[Report]) -> list[tuple[str, list[Report]]]:
    """The runs, those of one step of a search together; what is of none has an empty name."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        share = report.settings.get("share_of_highest")
        name = f"at {share:.0%} of the highest rate" if isinstance(share, float) else ""
        found.setdefault(name, []).append(report)
    return list(found.items())


def unlike(sides: Sequence[Sequence[Report]]) -> dict[str, list[str]]:
    """By name what differs in the settings of the sides' first runs, as each of them has it. The
    rate of a search is what it found, and no difference."""
    settings = [
        {name: value for name, value in side[0].settings.items()
         if name != "rate" or "share_of_highest" not in side[0].settings}
        for side in sides
    ]  # fmt: skip
    names = dict.fromkeys(name for each in settings for name in each)
    found = {name: [str(each.get(name, "-")) for each in settings] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _check_comparable(
    rules: Sequence[Rule], reports: Sequence[Report], saved: Sequence[Report]
) -> None:
    if not saved:
        text = next(rule.text for rule in rules if rule.relative)
        raise UsageError(f"--fail-if {text!r} compares", hint="give --compare FILE")
    if {one.durability.level for one in saved} != {one.durability.level for one in reports}:
        raise UsageError(
            "the saved run had another durability, so it is not compared",
            why=f"{saved[0].durability.words} / {reports[0].durability.words}",
        )
    if {one.model for one in saved} != {one.model for one in reports}:
        raise UsageError(
            "the saved run had another load model, so it is not compared",
            why=f"{saved[0].model} / {reports[0].model}",
        )


def _judge(rule: Rule, reports: Sequence[Report], saved: Sequence[Report]) -> Verdict:
    now = spread(reports, rule.name)
    if now is None:
        return Verdict(
            rule.text, True, f"{rule.text} cannot be judged: {rule.name} was not measured,"
            " or with too few samples",
        )  # fmt: skip
    if not rule.relative:
        broken = _passes(now.median, rule.sign, rule.bound)
        word = "broken" if broken else "kept"
        return Verdict(rule.text, broken, f"{rule.text} {word}: {rule.name} is {now.median:.4g}")
    before = spread(saved, rule.name) if saved else None
    if before is None:
        return Verdict(rule.text, True, f"{rule.text} cannot be judged: not in the saved run")
    if before.median:
        change = (now.median - before.median) / before.median * 100
    else:  # more than nothing is beyond any percentage
        change = math.inf if now.median else 0.0
    differing = ", ".join(unlike([saved, reports]))
    note = f"; the load was another one: {differing}" if differing else ""
    broken = _passes(change, rule.sign, rule.bound)
    word = "broken" if broken else "kept"
    return Verdict(
        rule.text,
        broken,
        f"{rule.text} {word}: {rule.name} went from {before.median:.4g} to {now.median:.4g}"
        f" ({change:+.1f} %); {compared(before, now)}{note}",
    )


def _passes(value: float, sign: str, bound: float) -> bool:
    match sign:
        case ">":
            return value > bound
        case "<":
            return value < bound
        case ">=":
            return value >= bound
        case _:
            return value <= bound


def compared(before: Spread, now: Spread) -> str:
    """Whether a difference is beyond what the runs differ among themselves."""
    if min(before.count, now.count) < 2:
        return "one run only: whether that is more than chance, --repeat would tell"
    if now.low > before.high or now.high < before.low:
        return "beyond the spread of the runs"
    return "within the spread of the runs"
