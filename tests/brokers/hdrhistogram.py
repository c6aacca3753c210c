"""HdrHistogram's own Java tools, from Maven Central: the readers that an ``.hlog`` is made for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from .maven import jar
from .process import Unavailable


class Processed(NamedTuple):
    """One tag of a log, all intervals together: how many values, and by share (0 to 1) the value,
    in microseconds where the log has nanoseconds."""

    count: int
    values: dict[float, float]


class LogProcessor:
    """``org.HdrHistogram.HistogramLogProcessor``. Raises Unavailable."""

    def __init__(self) -> None:
        if shutil.which("java") is None:
            raise Unavailable("no java on the PATH")
        self._jar = jar("org.hdrhistogram:HdrHistogram:2.2.2")

    def __call__(self, log: Path, tag: str) -> Processed:
        done = subprocess.run(
            ["java", "-cp", str(self._jar), "org.HdrHistogram.HistogramLogProcessor", "-i",
             str(log), "-tag", tag, "-csv", "-outputValueUnitRatio", "1000"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        rows = [line.split(",") for line in done.stdout.splitlines() if line[:1].isdigit()]
        return Processed(int(rows[-1][2]), {float(row[1]): float(row[0]) for row in rows})
