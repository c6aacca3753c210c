"""mqcli and the peer tools on the same machine, the same input, whole processes.

    python benchmarks/peers.py [--runs 5] [--only TEXT] [--scale 1.0] [--json FILE]

Prints the medians and the ratio of each case, with the floor that is asked for; exits 1 when a
floor is not met. The brokers are those of the tests: named by MQCLI_TEST_REDIS
and the like, or started on private ports and stopped at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import load_cases, local_cases, redis_cases
from benchmarks.harness import Case, Result, run_case
from tests.brokers import Unavailable
from tests.brokers import redis as redis_server


def write_lines(path: Path, count: int) -> Path:
    """``count`` lines of 100 bytes, each different."""
    block = 10_000
    with path.open("wb") as file:
        for start in range(0, count, block):
            numbers = range(start, min(start + block, count))
            file.write(b"".join(b"%012d%s\n" % (number, b"x" * 88) for number in numbers))
    return path


def all_cases(arguments: argparse.Namespace, work: Path) -> Iterator[Case]:
    scale = arguments.scale
    lines = write_lines(work / "lines.txt", int(1_000_000 * scale))
    yield from local_cases.cases(work, lines, scale)
    many = write_lines(work / "many.txt", int(5_000_000 * scale))
    try:
        server = redis_server.shared()
    except Unavailable as exc:
        print(f"the Redis cases are left out: {exc}", file=sys.stderr)
        return
    try:
        yield from redis_cases.cases(server.url, work, lines, many, scale)
        yield from load_cases.cases(server.url, scale)
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="of the message counts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mqcli-peers-") as folder:
        for case in all_cases(arguments, Path(folder)):
            if arguments.only in case.name:
                results.append(run_case(case, arguments.runs))
                print(results[-1].line(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([_plain(result) for result in results], indent=1))
    return 1 if any(result.met is False for result in results) else 0


def _plain(result: Result) -> dict[str, object]:
    return {
        "case": result.case.name,
        "seconds": statistics.median(run.seconds for run in result.ours) if result.ours else None,
        "megabytes": max((run.megabytes for run in result.ours), default=None),
        "peer": result.case.peer.name if result.peers and result.case.peer else None,
        "ratio": result.ratio,
        "floor": result.case.memory or result.case.floor,
        "met": result.met,
        "error": result.error,
    }


if __name__ == "__main__":
    sys.exit(main())
