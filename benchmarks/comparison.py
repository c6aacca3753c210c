"""One comparison of all transports by ``mqcli benchmark``, written into README.md.

    python benchmarks/comparison.py [--rate 1000] [--seconds 5] [--max-seconds 3] [--runs FOLDER]

Each destination is measured by the same two commands: at a fixed rate, for latency, and as fast as
it goes, for throughput. The brokers are those of the tests, one at a time, each a single node with
nothing else to do. What is confirmed differently stands in tables of its own. ``--runs`` keeps the
saved runs, for ``mqcli report``. Without all brokers nothing is written, and the code is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.harness import MQCLI
from mqcli.benchmark.gate import figure
from mqcli.benchmark.result import Report, load
from mqcli.cli.load_text import broker, by_durability, ms, rate
from tests.brokers import Unavailable, kafka, rabbitmq, redis

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- written by make comparison -->\n", "<!-- end of comparison -->\n"
_LIMIT = 120.0
"""Seconds for one command, draining included."""


class Measured(NamedTuple):
    """A destination, in its two runs."""

    name: str
    paced: Report
    fastest: Report


def destinations(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, address) of each; its broker runs until the next is asked for. Raises Unavailable."""
    yield "the embedded broker", f"sqlite://{folder}/comparison.db/bench"
    for start, kinds in _SERVERS:
        server = start()
        try:
            for name, path in kinds:
                yield name, f"{server.url}/{path}"
        finally:
            server.stop()


def _kafka() -> kafka.Kafka:
    """Not the tests' own: that one stands behind a proxy."""
    return kafka.shared() if "MQCLI_TEST_KAFKA" in os.environ else kafka.KafkaServer().start()


class _Server(Protocol):
    @property
    def url(self) -> str: ...
    def stop(self) -> None: ...


_SERVERS: tuple[tuple[Callable[[], _Server], Sequence[tuple[str, str]]], ...] = (
    (
        redis.shared,
        (
            ("Redis stream", "stream:bench"),
            ("Redis list", "list:bench"),
            ("Redis channel", "channel:bench"),
        ),
    ),
    (
        rabbitmq.shared,
        (("RabbitMQ queue, persistent", "queue:bench"), ("RabbitMQ stream", "stream:bench")),
    ),
    (_kafka, (("Kafka topic, acks=all", "bench"),)),
)


def measured(name: str, address: str, settings: argparse.Namespace, folder: Path) -> Measured:
    """Both runs. Raises RuntimeError where one gave no figures."""
    paced = ["--rate", f"{settings.rate:g}", "--duration", f"{settings.seconds:g}s"]
    fastest = ["--max", "--duration", f"{settings.max_seconds:g}s"]
    stem = re.sub(r"\W+", "-", name.lower())
    reports = []
    for model, words in (("rate", paced), ("max", fastest)):
        file = folder / f"{stem}-{model}.json"
        done = subprocess.run(
            [*MQCLI, "benchmark", address, *words, "--warmup", "1s", "-q", "--save", str(file)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=_LIMIT,
        )  # fmt: skip
        # 1 is a result too: that something was lost is told in the table.
        if done.returncode not in (0, 1) or not file.exists():
            raise RuntimeError(f"{name}: {done.returncode}: {done.stderr.decode().strip()}")
        reports += load(file.read_bytes(), str(file))
    return Measured(name, *reports)


def comparison(found: Sequence[Measured], machine: str) -> str:
    """Markdown, from the runs alone."""
    one = found[0]
    paced, fastest = one.paced.settings, one.fastest.settings
    lines = [
        f"{machine}; {_versions(found)}, each a single node beside mqcli {one.paced.mqcli};"
        f" {_day(one.paced)}. Messages of {paced['bytes']} bytes, one producer, one consumer, at"
        f" most {paced['in_flight']:,} messages in flight. The first three columns:"
        f" {fastest['seconds']:g} s as fast as it goes. The others: {paced['seconds']:g} s at"
        f" {paced['rate']}, latencies in ms from the moment when each message was meant to be"
        " sent.",
    ]
    rows = {row.name: row for row in found}
    for words, group in by_durability([(row.name, [row.paced]) for row in found]):
        lines += ["", f"Confirmed means: **{words}**", "", *_HEAD]
        lines += [_row(rows[name]) for name, _ in group]
    lines += ["", "Different durabilities are not ranked with each other."]
    if any(row.fastest.client_limited or row.paced.client_limited for row in found):
        lines.append("\\* CLIENT-LIMITED: mqcli itself was the limit; the broker may do more.")
    if any(_lost(row.fastest) for row in found if row.fastest.durability.level == "listeners"):
        lines.append(
            "What a channel lost as fast as it goes was published faster than its subscriber read,"
            " which the broker then cut off."
        )
    return "\n".join(lines) + "\n"


_HEAD = (
    "| | confirmed/s | received/s | lost | confirm p50 | p99 | end to end p50 | p99 | max | lost |",
    "|---|" + "--:|" * 9,
)


_LATENCIES = ("confirm.p50", "confirm.p99", "end-to-end.p50", "end-to-end.p99", "end-to-end.max")


def _row(row: Measured) -> str:
    cells = [row.name]
    for name in ("confirmed", "received"):
        value = figure(row.fastest, name)
        cells.append(("-" if value is None else rate(value)) + _mark(row.fastest))
    cells.append(f"{_lost(row.fastest):,}")
    cells += [ms(figure(row.paced, name)) + _mark(row.paced) for name in _LATENCIES]
    return f"| {' | '.join([*cells, f'{_lost(row.paced):,}'])} |"


def _mark(report: Report) -> str:
    return r"\*" if report.client_limited else ""


def _lost(report: Report) -> int:
    """Confirmed, and not delivered in the time given."""
    return 0 if report.delivery is None else report.delivery.lost + report.delivery.unseen


def _versions(found: Sequence[Measured]) -> str:
    names = dict.fromkeys(broker(row.paced) for row in found)
    # Kafka's protocol does not tell the release.
    ours = "MQCLI_TEST_KAFKA" not in os.environ
    return ", ".join(
        f"Kafka {kafka.VERSION}" if name == "kafka" and ours else name[:1].upper() + name[1:]
        for name in names
        if name
    )


def _day(report: Report) -> str:
    return report.started.partition("T")[0]


def machine() -> str:
    """Processor, cores, memory and system, without the host's name."""
    processor = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        model = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE)
        processor = model[1] if model is not None else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        system = f"{platform.system()} {platform.release()}"
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, {system},"
        f" Python {platform.python_version()}"
    )


def written(text: str, between: str) -> str:
    """``text`` with what stands between the marks exchanged. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN.strip()} … {END.strip()}")
    return f"{before}{begin}{between}{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=1000, help="messages/s, for latency")
    parser.add_argument("--seconds", type=float, default=5, help="at that rate")
    parser.add_argument("--max-seconds", type=float, default=3, help="as fast as it goes")
    parser.add_argument("--runs", type=Path, help="keep the saved runs in this folder")
    settings = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="mqcli-comparison-") as folder:
        runs = settings.runs or Path(folder)
        runs.mkdir(parents=True, exist_ok=True)
        try:
            for name, address in destinations(Path(folder)):
                print(f"measuring {name}", file=sys.stderr, flush=True)
                found.append(measured(name, address, settings, runs))
        except (Unavailable, RuntimeError, subprocess.TimeoutExpired) as exc:
            print(f"not compared: {exc}", file=sys.stderr)
            return 1
    text = comparison(found, machine())
    README.write_text(written(README.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
