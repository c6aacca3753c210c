"""The benchmark verb as an instrument: how much load it makes with stamps on, and how exactly.

The first cases are whole processes beside redis-benchmark, start-up of ours included. The others
have no peer: they fail when mqcli's own gate does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

from .harness import MQCLI, Case, Side
from .redis_cases import VALUE


def cases(url: str, scale: float) -> Iterator[Case]:
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
            f"benchmark {kind}: at saturation, publish only",
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
        ("benchmark: 20,000/s on schedule, p99 within 1 ms", 20_000, "delay.p99>1ms"),
        ("benchmark: end to end at 1,000/s, median within 1 ms", 1_000, "p50>1ms"),
    ):
        seconds = max(2, round(5 * scale))
        yield Case(
            name,
            Side(
                "mqcli",
                [*MQCLI, "benchmark", "-q", f"{url}/stream:ours", "--rate", str(rate),
                 "--duration", f"{seconds}s", "--processes", "2", "--fail-if", rule],
            ),
            count=rate * seconds,
            runs=3,
        )  # fmt: skip
