"""What needs no server: the embedded broker, and start-up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .harness import MQCLI, Case, Side

BARE = Path(__file__).parent / "bare"


def cases(work: Path, lines: Path, scale: float) -> Iterator[Case]:
    """The embedded broker beside bare sqlite3 loops, and start-up beside bare Python."""
    million = int(1_000_000 * scale)
    ours, bare, out = work / "ours.db", work / "bare.db", work / "out.txt"

    def drop(path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)

    publish = [*MQCLI, "publish", f"sqlite://{ours}/t"]
    insert = [sys.executable, str(BARE / "sqlite_insert.py"), str(bare)]
    yield Case(
        "embedded: publish",
        Side("mqcli", publish, lines, before=lambda: drop(ours)),
        Side("bare sqlite3", insert, lines, before=lambda: drop(bare)),
        count=million,
        floor=0.5,
    )

    def same() -> None:
        if out.stat().st_size != million * 101:
            raise RuntimeError(f"{out.stat().st_size} bytes came out, not {million * 101}")

    def filled(path: Path, fill: list[str]) -> None:
        if not path.exists():
            with lines.open("rb") as file:
                subprocess.run(fill, stdin=file, stderr=subprocess.DEVNULL, check=True)

    yield Case(
        "embedded: consume",
        Side(
            "mqcli",
            [*MQCLI, "consume", f"sqlite://{ours}/t", "-e"],
            out=out,
            before=lambda: filled(ours, publish),
            after=same,
        ),
        Side(
            "bare sqlite3",
            [sys.executable, str(BARE / "sqlite_select.py"), str(bare)],
            out=out,
            before=lambda: filled(bare, insert),
            after=same,
        ),
        count=million,
        floor=0.5,
    )
    python = Side("python -c pass", [sys.executable, "-c", "pass"])
    yield Case(
        "start: mqcli --help",
        Side("mqcli", [*MQCLI, "--help"]),
        python,
        floor=15,
        at_most=True,
        runs=15,
    )
    yield Case(
        "start: one completion request",
        Side(
            "mqcli",
            MQCLI,
            env={
                "_MQCLI_COMPLETE": "complete_bash",
                "COMP_WORDS": "mqcli pub",
                "COMP_CWORD": "1",
                "_TYPER_COMPLETE_ARGS": "mqcli pub",
            },
        ),
        python,
        floor=10,
        at_most=True,
        runs=15,
    )
