"""The benchmark verb as an instrument: how much load it makes with stamps on, and how exactly.

On Redis the first cases are whole processes beside redis-benchmark, start-up of ours included. On
RabbitMQ and Kafka the figures that the tools themselves report are compared. A case without a peer
fails when mqcli's own gate does.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from . import kafka_cases, rabbit_cases
from .harness import MQCLI, Case, Side
from .redis_cases import VALUE


def redis(url: str, scale: float) -> Iterator[Case]:
    """Against the Redis at ``url``."""
    parts = urlsplit(url)
    login = ["-h", parts.hostname or "127.0.0.1", "-p", str(parts.port or 6379)]
    million = int(2_000_000 * scale)

    def drop() -> None:
        subprocess.run(["redis-cli", *login, "DEL", "peers"], check=True, capture_output=True)

    for kind, command in (
        ("stream", ("XADD", "peers", "*", "value", VALUE)),
        ("channel", ("PUBLISH", "peers", VALUE)),
    ):
        yield Case(
            f"benchmark redis {kind}: at saturation, publish only",
            Side(
                "mqcli",
                [*MQCLI, "benchmark", "-q", f"{url}/{kind}:ours", "--only", "publish",
                 "--warmup", "0", "-c", str(million)],
            ),
            Side(
                f"redis-benchmark {command[0]}",
                ["redis-benchmark", *login, "-P", "100", "-c", "1", "-n", str(million), "-q",
                 *command],
                before=drop,
            ),
            count=million,
            floor=0.5,
        )  # fmt: skip
    for name, rate, rule in (
        ("benchmark redis: 20,000/s on schedule, p99 within 1 ms", 20_000, "delay.p99>1ms"),
        ("benchmark redis: end to end at 1,000/s, median <= 1 ms", 1_000, "p50>1ms"),
    ):
        yield _gate(name, f"{url}/stream:ours", rate, rule, scale)


def rabbitmq(url: str, scale: float) -> Iterator[Case]:
    """Against the RabbitMQ at ``url``, beside PerfTest by what both report: one producer, one
    consumer, persistent, the same window and prefetch, the first seconds left out on both sides.
    """
    warm_up, seconds = (5, 10) if scale >= 1 else (2, 3)
    runs = 3
    ours = [*MQCLI, "benchmark", "-q", "-o", "json", f"{url}/queue:ours", "--warmup", f"{warm_up}s",
            "--duration", f"{seconds}s", "--in-flight", "2000", "-O", "prefetch=2000",
            "-O", "ack_every=500"]  # fmt: skip
    theirs = ["-x", "1", "-y", "1", "-c", "2000", "-q", "2000", "-A", "500", "-f", "persistent",
              "-s", "100", "-p", "-e", "", "-k", "peer", "-u", "peer",
              "-z", str(warm_up + seconds)]  # fmt: skip

    def new() -> None:
        rabbit_cases.fresh(url, "peer")

    yield Case(
        "benchmark rabbitmq: at saturation, received",
        Side("mqcli", ours, figure=_rate("received_per_s")),
        Side(
            "PerfTest -x 1 -y 1",
            rabbit_cases.perf_test(url, *theirs),
            before=new,
            figure=lambda text: statistics.mean(
                float(found[1])
                for line in _seconds(text, warm_up)
                if (found := re.search(r"received: (\d+) msg/s", line))
            ),
        ),
        floor=1.0,
        runs=runs,
    )

    def theirs_at(index: int) -> Callable[[str], float]:
        def figure(text: str) -> float:
            return statistics.median(
                int(found[1].split("/")[index]) / 1000
                for line in _seconds(text, warm_up)
                if (found := re.search(r"confirm latency: ([\d/]+) µs", line))
            )

        return figure

    def ours_at(percentile: str) -> Callable[[str], float]:
        def figure(text: str) -> float:
            each = [
                interval["confirm"]["percentiles"][percentile]
                for interval in json.loads(text)["intervals"]
                if interval["phase"] == "measured" and interval["confirm"]["count"] >= 2_500
            ]
            return float(statistics.median(each))

        return figure

    def in_whole(text: str) -> str:
        found = json.loads(text)
        return "; ".join(
            f"mqcli's {what} of all its seconds, {since}: p50 {shown['p50']:.2f} ms,"
            f" p99 {shown['p99']:.2f} ms"
            for what, since in (("confirm", "since due"), ("service", "since sent"))
            if (shown := found[what]["percentiles"])
        )

    for percentile, index in (("p50", 1), ("p99", 4)):
        yield Case(
            f"benchmark rabbitmq: confirm {percentile} at 5,000/s, median second",
            Side("mqcli", [*ours, "--rate", "5000"], figure=ours_at(percentile), note=in_whole),
            Side(
                "PerfTest --rate 5000",
                rabbit_cases.perf_test(url, *theirs, "--rate", "5000"),
                before=new,
                figure=theirs_at(index),
            ),
            floor=1.5,
            at_most=True,
            runs=runs,
        )
    yield _gate(
        "benchmark rabbitmq: end to end at 1,000/s, median <= 3 ms",
        f"{url}/queue:ours", 1_000, "p50>3ms", scale,
    )  # fmt: skip


def kafka(url: str, scale: float) -> Iterator[Case]:
    """Against the Kafka at ``url``, by what both tools report."""
    hosts = url.removeprefix("kafka://")
    count = int(5_000_000 * scale)
    yield Case(
        "benchmark kafka: at saturation, publish only, acks=all",
        Side(
            "mqcli",
            [*MQCLI, "benchmark", "-q", "-o", "json", f"{url}/ours", "--only", "publish",
             "-c", str(count)],
            figure=_rate("confirmed_per_s"),
        ),
        Side(
            "kafka-producer-perf-test, as it reports",
            kafka_cases.producer_perf(hosts, "peer", count),
            before=lambda: kafka_cases.fresh(hosts, "peer"),
            after=lambda: kafka_cases.expect(hosts, "peer", count),
            figure=lambda text: _reports(text)[-1],
            # It has no warm-up of its own, so that the whole run tells less than it can.
            note=lambda text: f"its best 5 s: {max(_reports(text)):.0f}/s",
        ),
        floor=3.0,
        runs=3,
    )  # fmt: skip
    yield _gate(
        "benchmark kafka: end to end at 1,000/s, median <= 3 ms",
        f"{url}/ours", 1_000, "p50>3ms", scale,
    )  # fmt: skip


def _reports(text: str) -> list[float]:
    return [float(rate) for rate in re.findall(r"([\d.]+) records/sec", text)]


def _gate(name: str, address: str, rate: int, rule: str, scale: float) -> Case:
    """Ours alone, failed by its own gate."""
    seconds = max(2, round(5 * scale))

    def shown(text: str) -> str:
        found = json.loads(text)
        return ", ".join(
            f"{what} p50 {at['p50']:.2f} ms, p99 {at['p99']:.2f} ms"
            for what in ("end_to_end", "publish_delay")
            if (at := found[what]["percentiles"])
        )

    return Case(
        name,
        Side(
            "mqcli",
            [*MQCLI, "benchmark", "-q", "-o", "json", address, "--rate", str(rate),
             "--duration", f"{seconds}s", "--processes", "2", "--fail-if", rule],
            note=shown,
        ),
        count=rate * seconds,
        runs=3,
    )  # fmt: skip


def _rate(name: str) -> Callable[[str], float]:
    return lambda text: float(json.loads(text)["rates"][name])


def _seconds(text: str, warm_up: int) -> list[str]:
    """PerfTest's lines of one second each, those of its first seconds left out."""
    return [
        line
        for line in text.splitlines()
        if (found := re.search(r", time ([\d.]+) s,", line)) and float(found[1]) > warm_up + 0.5
    ]
