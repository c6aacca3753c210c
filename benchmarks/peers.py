"""mqcli and the peer tools on the same machine, the same input, whole processes.

    python benchmarks/peers.py [--runs 5] [--only TEXT] [--scale 1.0] [--json FILE]

Prints the medians and the ratio of each case, with the floor that is asked for; exits 1 when a
floor is not met. ``--only`` takes a part of a name, such as redis, rabbitmq, kafka, embedded,
benchmark or memory; only the brokers that these cases need are started. They are those of the
tests: named by MQCLI_TEST_REDIS and the like, or started on private ports and stopped at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import kafka_cases, load_cases, local_cases, rabbit_cases, redis_cases
from benchmarks.harness import Case, Result, run_case
from tests.brokers import Unavailable, kafka, rabbitmq, redis


class Server(Protocol):
    """A broker that was found or started."""

    url: str

    def stop(self) -> None: ...


class Group(NamedTuple):
    """Cases of one broker. Making them does nothing, so that their names are known before any
    broker is started."""

    name: str
    start: Callable[[], Server] | None
    scheme: str
    cases: Callable[[str], Iterator[Case]]


def write_lines(path: Path, count: int) -> Path:
    """``count`` lines of 100 bytes, each different, unless they are there."""
    if path.exists():
        return path
    block = 10_000
    with path.open("wb") as file:
        for start in range(0, count, block):
            numbers = range(start, min(start + block, count))
            file.write(b"".join(b"%012d%s\n" % (number, b"x" * 88) for number in numbers))
    return path


def direct_kafka() -> Server:
    """As the tests have it, without the proxy, which would be what is measured."""
    given = os.environ.get("MQCLI_TEST_KAFKA")
    return kafka.GivenKafka(given) if given else kafka.KafkaServer().start()


def groups(work: Path, scale: float) -> list[Group]:
    """In the order in which they are measured."""
    lines, many = work / "lines.txt", work / "many.txt"

    def of_redis(url: str) -> Iterator[Case]:
        yield from redis_cases.cases(url, work, lines, many, scale)
        yield from load_cases.redis(url, scale)

    def of_rabbitmq(url: str) -> Iterator[Case]:
        yield from rabbit_cases.cases(url, work, lines, scale)
        yield from load_cases.rabbitmq(url, scale)

    def of_kafka(url: str) -> Iterator[Case]:
        yield from kafka_cases.cases(url, work, many, scale)
        yield from load_cases.kafka(url, scale)

    return [
        Group("local", None, "sqlite", lambda _: local_cases.cases(work, lines, scale)),
        Group("Redis", redis.shared, "redis", of_redis),
        Group("RabbitMQ", rabbitmq.shared, "amqp", of_rabbitmq),
        Group("Kafka", direct_kafka, "kafka", of_kafka),
    ]


def chosen_cases(only: str, work: Path, scale: float) -> Iterator[Case]:
    """Those whose names contain ``only``, each group's while its broker runs."""
    for group in groups(work, scale):

        def chosen(url: str, group: Group = group) -> list[Case]:
            return [case for case in group.cases(url) if only.lower() in case.name.lower()]

        if not chosen(f"{group.scheme}://nowhere:1"):
            continue
        write_lines(work / "lines.txt", int(1_000_000 * scale))
        if group.start is not None and group.name != "RabbitMQ":
            write_lines(work / "many.txt", int(5_000_000 * scale))
        if group.start is None:
            yield from chosen("")
            continue
        try:
            server = group.start()
        except Unavailable as exc:
            print(f"the {group.name} cases are left out: {exc}", file=sys.stderr)
            continue
        try:
            yield from chosen(server.url)
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
        for case in chosen_cases(arguments.only, Path(folder), arguments.scale):
            results.append(run_case(case, arguments.runs))
            print(results[-1].line(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([_plain(result) for result in results], indent=1))
    return 1 if any(result.met is False for result in results) else 0


def _plain(result: Result) -> dict[str, object]:
    figures = [run.figure for run in result.ours if run.figure is not None]
    return {
        "case": result.case.name,
        "seconds": statistics.median(run.seconds for run in result.ours) if result.ours else None,
        "figure": statistics.median(figures) if figures else None,
        "megabytes": max((run.megabytes for run in result.ours), default=None),
        "peer": result.peer.name if result.peers and result.peer else None,
        "ratio": result.ratio,
        "floor": result.case.memory or result.case.floor,
        "met": result.met,
        "notes": [runs[-1].note for runs in (result.ours, result.peers) if runs],
        "error": result.error,
    }


if __name__ == "__main__":
    sys.exit(main())
