"""Runs whole processes in turn, ours and the peer's, and compares their medians.

A case is run ``runs`` times after one warm-up, ours and the peer's by turns, so that a machine
whose speed drifts slows both alike. Time is wall time from start to exit; memory is the peak
resident size that the operating system accounts to the finished process (on Linux never less than
that of this program, which was forked for it). Load tools are compared by the figures that they
report themselves; these have their own first seconds left out, so there is no warm-up run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.brokers import Unavailable

MQCLI = [sys.executable, "-m", "mqcli"]
_console = Path(sys.executable).with_name("mqcli")
if _console.exists():
    MQCLI = [str(_console)]


@dataclass(frozen=True)
class Side:
    """A command, or what makes one for each run and raises Unavailable where that cannot be.
    ``feed`` names a file for standard input or a command whose output it is. ``before`` and
    ``after`` are not timed; ``after`` raises RuntimeError when a run did not leave what it should.
    """

    name: str
    argv: Sequence[str] | Callable[[], Sequence[str]]
    feed: Path | Sequence[str] | None = None
    out: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    figure: Callable[[str], float] | None = None
    """Reads what is compared from standard output: messages/s, or milliseconds if at most."""
    note: Callable[[str], str] | None = None
    """Reads from standard output what is shown beside the figures and not compared."""
    otherwise: Side | None = None
    """Takes the place where this one is not to be had."""

    def command(self) -> list[str]:
        return list(self.argv() if callable(self.argv) else self.argv)

    @property
    def missing(self) -> str | None:
        """Why this one is not to be had here, if so."""
        try:
            program = self.command()[0]
        except Unavailable as exc:
            return str(exc)
        return None if shutil.which(program) else f"{program} is not installed"


@dataclass(frozen=True)
class Case:
    """``floor`` bounds the ratio ours to peer: of rates from below, of times from above
    (``at_most``); an ``aim`` is told and not required. With ``memory`` (MB) there is no peer."""

    name: str
    ours: Side
    peer: Side | None = None
    count: int = 1
    floor: float = 0.0
    at_most: bool = False
    aim: bool = False
    memory: float | None = None
    runs: int | None = None
    stall: float | None = None
    """Seconds that our output is not read, before the process is ended."""
    during: Callable[[], None] | None = None
    """Called at the end of the stall; raises RuntimeError."""


@dataclass
class Run:
    seconds: float
    megabytes: float
    figure: float | None = None
    note: str = ""


def run_once(
    side: Side, stall: float | None = None, during: Callable[[], None] | None = None
) -> Run:
    """One whole process. Raises RuntimeError when it fails."""
    text = ""
    if side.before is not None:
        side.before()
    argv = side.command()
    with ExitStack() as stack:
        feeder = None
        stdin: int | IO[bytes] | None = subprocess.DEVNULL
        if isinstance(side.feed, Path):
            stdin = stack.enter_context(side.feed.open("rb"))
        elif side.feed is not None:
            feeder = stack.enter_context(subprocess.Popen(side.feed, stdout=subprocess.PIPE))
            stdin = feeder.stdout
        stdout: int | IO[bytes] = subprocess.DEVNULL
        reported = side.figure is not None or side.note is not None
        if stall is not None or reported:
            stdout = subprocess.PIPE
        elif side.out is not None:
            stdout = stack.enter_context(side.out.open("wb"))
        errors = stack.enter_context(tempfile.TemporaryFile())
        began = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=errors,
            env={**os.environ, **side.env},
        )
        if feeder is not None and feeder.stdout is not None:
            feeder.stdout.close()
        if stall is not None:
            time.sleep(stall)
            try:
                if during is not None:
                    during()
            finally:
                process.terminate()
        elif reported and process.stdout is not None:
            text = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.stdout is not None:
            process.stdout.close()
        errors.seek(0)
        said = errors.read()[-500:].decode(errors="replace").strip()
    if process.returncode != 0 and stall is None:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {said}")
    if side.after is not None:
        side.after()
    scale = 1 if sys.platform == "darwin" else 1024
    return Run(
        seconds,
        usage.ru_maxrss * scale / 1e6,
        None if side.figure is None else side.figure(text),
        "" if side.note is None else side.note(text),
    )


@dataclass
class Result:
    case: Case
    ours: list[Run]
    peers: list[Run]
    peer: Side | None = None
    error: str = ""

    @property
    def ratio(self) -> float | None:
        """Median of the ratios run by run: of rates, or of times for ``at_most``."""
        if not self.peers:
            return None
        pairs = zip(self.ours, self.peers, strict=True)
        return statistics.median(self._ratio(mine, other) for mine, other in pairs)

    def _ratio(self, mine: Run, other: Run) -> float:
        if mine.figure is not None and other.figure is not None:
            return mine.figure / other.figure
        if self.case.at_most:
            return mine.seconds / other.seconds
        return other.seconds / mine.seconds

    @property
    def met(self) -> bool | None:
        """None where nothing is required, or there is no peer."""
        if self.error:
            return False
        if self.case.memory is not None:
            return max(run.megabytes for run in self.ours) <= self.case.memory
        return None if self.case.aim else self._reached

    @property
    def _reached(self) -> bool | None:
        if self.ratio is None:
            return None
        return self.ratio <= self.case.floor if self.case.at_most else self.ratio >= self.case.floor

    def line(self) -> str:
        case = self.case
        if self.error:
            return f"{case.name:<56} FAILED {self.error}"
        memory = max(run.megabytes for run in self.ours)
        if case.memory is not None:
            mark = "met" if self.met else "NOT MET"
            return f"{case.name:<56} {memory:8.0f} MB   at most {case.memory:.0f} MB   {mark}"
        text = f"{case.name:<56} {_figure(case, self.ours)} {memory:5.0f} MB"
        if self.peers and self.peer is not None:
            mark = {True: "met", False: "NOT MET", None: ""}[self._reached]
            sign = ("aim " if case.aim else "") + ("<=" if case.at_most else ">=")
            text += (
                f" | {self.peer.name}: {_figure(case, self.peers)}"
                f" | ratio {self.ratio:.2f} ({sign} {case.floor:g}) {mark}"
            )
        elif case.peer is not None:
            text += " no peer"
        notes = [runs[-1].note for runs in (self.ours, self.peers) if runs and runs[-1].note]
        return " | ".join([text, *notes])


def _figure(case: Case, runs: Sequence[Run]) -> str:
    seconds = statistics.median(run.seconds for run in runs)
    figures = [run.figure for run in runs if run.figure is not None]
    if case.at_most:
        return f"{statistics.median(figures) if figures else seconds * 1000:8.2f} ms"
    return f"{statistics.median(figures) if figures else case.count / seconds:11,.0f}/s"


def run_case(case: Case, runs: int) -> Result:
    """Warm up once where whole processes are compared, then ours and the peer's by turns."""
    peer = case.peer
    while peer is not None and (why := peer.missing) is not None:
        print(f"{case.name}: {peer.name} is left out: {why}", file=sys.stderr)
        peer = peer.otherwise
    result = Result(case, [], [], peer)
    warm_up = case.memory is None and case.ours.figure is None
    try:
        for number in range((case.runs or runs) + warm_up):
            mine = run_once(case.ours, case.stall, case.during)
            other = run_once(peer) if peer is not None else None
            if number or not warm_up:
                result.ours.append(mine)
                if other is not None:
                    result.peers.append(other)
    except (RuntimeError, OSError) as exc:
        result.error = str(exc)
    return result
