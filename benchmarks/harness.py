"""Runs whole processes in turn, ours and the peer's, and compares their medians.

A case is run ``runs`` times after one warm-up, ours and the peer's by turns, so that a machine
whose speed drifts slows both alike. Time is wall time from start to exit; memory is the peak
resident size that the operating system accounts to the finished process.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

MQCLI = [sys.executable, "-m", "mqcli"]
_console = Path(sys.executable).with_name("mqcli")
if _console.exists():
    MQCLI = [str(_console)]


@dataclass(frozen=True)
class Side:
    """A command; ``feed`` names a file for standard input or a command whose output it is."""

    name: str
    argv: Sequence[str]
    feed: Path | Sequence[str] | None = None
    out: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None

    @property
    def missing(self) -> str | None:
        """The program that is not installed, if any."""
        return None if shutil.which(self.argv[0]) else self.argv[0]


@dataclass(frozen=True)
class Case:
    """``floor`` bounds the ratio ours to peer: of rates from below, of times from above
    (``at_most``). With ``memory`` (MB) there is no peer. ``after`` checks what a run left."""

    name: str
    ours: Side
    peer: Side | None = None
    count: int = 1
    floor: float = 0.0
    at_most: bool = False
    memory: float | None = None
    runs: int | None = None
    after: Callable[[], None] | None = None
    stall: float | None = None
    """Seconds that our output is not read, before the process is ended."""


@dataclass
class Run:
    seconds: float
    megabytes: float


def run_once(side: Side, stall: float | None = None) -> Run:
    """One whole process. Raises RuntimeError when it fails."""
    if side.before is not None:
        side.before()
    with ExitStack() as stack:
        feeder = None
        stdin: object = subprocess.DEVNULL
        if isinstance(side.feed, Path):
            stdin = stack.enter_context(side.feed.open("rb"))
        elif side.feed is not None:
            feeder = stack.enter_context(subprocess.Popen(side.feed, stdout=subprocess.PIPE))
            stdin = feeder.stdout
        stdout: object = subprocess.DEVNULL
        if stall is not None:
            stdout = subprocess.PIPE
        elif side.out is not None:
            stdout = stack.enter_context(side.out.open("wb"))
        errors = stack.enter_context(Path(os.devnull).open("wb"))
        began = time.perf_counter()
        process = subprocess.Popen(
            list(side.argv),
            stdin=stdin,  # type: ignore[arg-type]
            stdout=stdout,  # type: ignore[arg-type]
            stderr=errors,
            env={**os.environ, **side.env},
        )
        if feeder is not None and feeder.stdout is not None:
            feeder.stdout.close()
        if stall is not None:
            time.sleep(stall)
            process.terminate()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode != 0 and stall is None:
        raise RuntimeError(f"{' '.join(side.argv)} ended with {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_maxrss * scale / 1e6)


@dataclass
class Result:
    case: Case
    ours: list[Run]
    peers: list[Run]
    error: str = ""

    @property
    def ratio(self) -> float | None:
        """Median of the ratios run by run: of rates, or of times for ``at_most``."""
        if not self.peers:
            return None
        pairs = zip(self.ours, self.peers, strict=True)
        if self.case.at_most:
            return statistics.median(mine.seconds / other.seconds for mine, other in pairs)
        return statistics.median(other.seconds / mine.seconds for mine, other in pairs)

    @property
    def met(self) -> bool | None:
        if self.error:
            return False
        if self.case.memory is not None:
            return max(run.megabytes for run in self.ours) <= self.case.memory
        if self.ratio is None:
            return None
        return self.ratio <= self.case.floor if self.case.at_most else self.ratio >= self.case.floor

    def line(self) -> str:
        case = self.case
        if self.error:
            return f"{case.name:<46} FAILED {self.error}"
        mark = {True: "met", False: "NOT MET", None: "no peer"}[self.met]
        mine = statistics.median(run.seconds for run in self.ours)
        memory = max(run.megabytes for run in self.ours)
        if case.memory is not None:
            return f"{case.name:<46} {memory:8.0f} MB   at most {case.memory:.0f} MB   {mark}"
        text = f"{case.name:<46} {_figure(case, mine)} {memory:5.0f} MB"
        if self.peers and case.peer is not None:
            theirs = statistics.median(run.seconds for run in self.peers)
            sign = "<=" if case.at_most else ">="
            text += (
                f" | {case.peer.name}: {_figure(case, theirs)}"
                f" | ratio {self.ratio:.2f} ({sign} {case.floor:g}) {mark}"
            )
        return text


def _figure(case: Case, seconds: float) -> str:
    if case.at_most:
        return f"{seconds * 1000:8.1f} ms"
    return f"{case.count / seconds:11,.0f}/s"


def run_case(case: Case, runs: int) -> Result:
    """Warm up once, then ours and the peer's by turns."""
    result = Result(case, [], [])
    peer = case.peer
    if peer is not None and peer.missing:
        print(f"{case.name}: {peer.missing} is not installed, so it is left out", file=sys.stderr)
        peer = None
    runs = case.runs or runs
    try:
        for number in range(runs + (case.memory is None)):
            mine = run_once(case.ours, case.stall)
            if case.after is not None:
                case.after()
            other = run_once(peer) if peer is not None else None
            if number or case.memory is not None:
                result.ours.append(mine)
                if other is not None:
                    result.peers.append(other)
    except (RuntimeError, OSError) as exc:
        result.error = str(exc)
    return result
