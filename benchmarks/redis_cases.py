"""Redis: our bulk paths beside redis-cli --pipe and redis-benchmark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .harness import MQCLI, Case, Side

VALUE = "x" * 100


def cases(url: str, work: Path, lines: Path, many_lines: Path, scale: float) -> Iterator[Case]:
    """All Redis cases against the server at ``url``; ``lines`` holds 1,000,000 lines of 100 bytes
    and ``many_lines`` 5,000,000 (times ``scale``)."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", str(parts.port or 6379)
    cli = ["redis-cli", "-h", host, "-p", port]
    million, five = int(1_000_000 * scale), int(5_000_000 * scale)

    def redis(*command: str) -> str:
        done = subprocess.run([*cli, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def drop(*keys: str) -> None:
        redis("DEL", *keys)

    def expect(command: tuple[str, ...], count: int) -> None:
        found = redis(*command)
        if found != str(count):
            raise RuntimeError(f"{' '.join(command)} says {found}, not {count}")

    def bench(*command: str) -> list[str]:
        return [
            "redis-benchmark", "-h", host, "-p", port, "-P", "100", "-c", "1",
            "-n", str(million), "-q", *command,
        ]  # fmt: skip

    resp = work / "rpush.resp"

    def ready_made() -> None:
        drop("peerl")
        if not resp.exists():
            command = f"*3\r\n$5\r\nRPUSH\r\n$5\r\npeerl\r\n$100\r\n{VALUE}\r\n".encode()
            with resp.open("wb") as file:
                for _ in range(five // 10_000):
                    file.write(command * 10_000)

    yield Case(
        "redis: publish list: from standard input",
        Side(
            "mqcli",
            [*MQCLI, "publish", f"{url}/list:ours"],
            many_lines,
            before=lambda: drop("ours", "peerl"),
            after=lambda: expect(("LLEN", "ours"), five),
        ),
        Side("redis-cli --pipe", [*cli, "--pipe"], resp, before=ready_made),
        count=five,
        floor=0.8,
    )
    yield Case(
        "redis: publish channel:",
        Side("mqcli", [*MQCLI, "publish", f"{url}/channel:c"], lines),
        Side("redis-benchmark PUBLISH", bench("PUBLISH", "c", VALUE)),
        count=million,
        floor=1.2,
    )
    xadd = Side(
        "redis-benchmark XADD",
        bench("XADD", "peers", "*", "value", VALUE),
        before=lambda: drop("peers"),
    )
    yield Case(
        "redis: publish stream:",
        Side(
            "mqcli",
            [*MQCLI, "publish", f"{url}/stream:ours"],
            lines,
            before=lambda: drop("ours", "peers"),
            after=lambda: expect(("XLEN", "ours"), million),
        ),
        xadd,
        count=million,
        floor=1.2,
    )

    def fill(kind: str) -> None:
        drop("ours", "peers")
        with lines.open("rb") as file:
            subprocess.run(
                [*MQCLI, "publish", f"{url}/{kind}:ours"],
                stdin=file,
                stderr=subprocess.DEVNULL,
                check=True,
            )

    out = work / "out.txt"

    def same(left: tuple[str, ...]) -> None:
        if out.stat().st_size != million * 101:
            raise RuntimeError(f"{out.stat().st_size} bytes came out, not {million * 101}")
        expect(left, 0)

    pending = ("EVAL", "return redis.call('XPENDING',KEYS[1],'g')[1]", "1", "ours")
    yield Case(
        "redis: consume stream: with a group, acknowledged",
        Side(
            "mqcli",
            [*MQCLI, "consume", f"{url}/stream:ours", "-g", "g", "-c", str(million)],
            out=out,
            before=lambda: fill("stream"),
            after=lambda: same(pending),
        ),
        xadd,
        count=million,
        floor=250 / 650,
    )
    yield Case(
        "redis: consume list: reliably",
        Side(
            "mqcli",
            [*MQCLI, "consume", f"{url}/list:ours", "-e"],
            out=out,
            before=lambda: fill("list"),
            after=lambda: same(("LLEN", "ours")),
        ),
        xadd,
        count=million,
        floor=400 / 650,
    )
    yield Case(
        "redis: one message, start to exit",
        Side("mqcli", [*MQCLI, "publish", f"{url}/list:one", "hello"]),
        Side(
            "bare redis.asyncio",
            [sys.executable, str(Path(__file__).parent / "bare/redis_rpush.py"), url, "one", "h"],
        ),
        floor=1.5,
        at_most=True,
        runs=15,
    )
    ten_million = ["sh", "-c", f"yes {VALUE} | head -n {int(10_000_000 * scale)}"]
    yield Case(
        "redis: memory, 10 million lines to channel:",
        Side("mqcli", [*MQCLI, "publish", f"{url}/channel:c"], ten_million),
        memory=120,
        runs=1,
    )
    stall = 60.0 * min(scale, 1.0)
    for kind, extra in (("list", ()), ("stream", ("-g", "stalled"))):
        yield Case(
            f"redis: memory, consume {kind}:, output standing still",
            Side(
                "mqcli",
                [*MQCLI, "consume", f"{url}/{kind}:ours", *extra],
                before=lambda kind=kind: fill(kind),  # type: ignore[misc]
            ),
            memory=120,
            runs=1,
            stall=stall,
        )
