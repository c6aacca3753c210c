"""Many reconnects, large messages, endless input: descriptors and memory stay flat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.brokers.redis import Redis, RedisServer
from tests.cli.support import PROGRAM, Cli, finish, until

from .support import Output, Started, length

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LARGE, MANY = 1 << 20, 120


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _resident(pid: int) -> int:
    """MiB, now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def test_forty_reconnects(cli: Cli, started: Started, fresh: str) -> None:
    # Given readers of all kinds, and a publisher
    server: RedisServer = started(RedisServer)
    server.cli("XADD", f"{fresh}-s", "*", "value", "0")
    commands = [
        ["consume", f"{server.url}/list:{fresh}-l", "-O", "claim_after=1s"],
        ["consume", f"{server.url}/stream:{fresh}-s", "-g", "g"],
        ["tail", f"{server.url}/stream:{fresh}-s"],
        ["tail", f"{server.url}/channel:{fresh}-c"],
    ]
    running = [
        subprocess.Popen(
            [*PROGRAM, *words], env=cli.env, cwd=cli.home, bufsize=0, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for words in commands
    ]  # fmt: skip
    outputs = [Output(process.stdout) for process in running]
    errors = [Output(process.stderr) for process in running]
    before: list[tuple[int, int]] = []
    for turn in range(40):
        # When each gets a message, and then all connections are broken, again and again
        until(lambda: server.cli("PUBLISH", f"{fresh}-c", "probe") == 1)
        word = f"turn {turn}"
        server.cli("RPUSH", f"{fresh}-l", word)
        server.cli("PUBLISH", f"{fresh}-c", word)
        until(lambda: _reads(server, f"{fresh}-s") == 2)
        server.cli("XADD", f"{fresh}-s", "*", "value", word)
        for output in outputs:
            output.expect(word.encode() + b"\n")
        for error in errors:
            error.take(0)
        if turn == 5:
            before = [(_descriptors(p.pid), _resident(p.pid)) for p in running]
        server.kill_clients()
    until(lambda: server.cli("PUBLISH", f"{fresh}-c", "probe") == 1)
    until(lambda: _reads(server, f"{fresh}-s") == 2)
    # Then none has more open, or holds more, than after the first few
    for process, (descriptors, resident) in zip(running, before, strict=True):
        assert _descriptors(process.pid) <= descriptors + 2
        assert _resident(process.pid) <= resident * 1.05 + 2
        process.send_signal(signal.SIGINT)
    results = [finish(process) for process in running]
    for result in results:
        assert result.code == 130, result
        assert "reconnected 40 times" in result.err
    # And every gap of the channel was told, and nobody else had one
    told = [bytes(e.data).decode() + r.err for e, r in zip(errors, results, strict=True)]
    gaps = [text.count("GAP") for text in told]
    assert gaps == [0, 0, 0, 40]
    # And every message of list and stream came
    for output in outputs[:3]:
        assert set(output.lines) >= {b"turn %d" % n for n in range(40)}


def _reads(server: RedisServer, name: str) -> int:
    """How many clients wait for entries."""
    clients = server.cli("CLIENT", "LIST").decode()
    return sum(" cmd=xread" in line and " flags=b" in line for line in clients.splitlines())


_MEASURED = """
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
with open(os.environ["RSS_FILE"], "w") as file:
    file.write(str(usage.ru_maxrss // 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(cli: Cli, *words: str) -> tuple[list[str], Path]:
    """The command that runs mqcli and leaves its largest resident size, in MiB, in a file."""
    file = cli.home / "rss"
    cli.env["RSS_FILE"] = str(file)
    return [sys.executable, "-c", _MEASURED, *PROGRAM, *words], file


def _slowly(cli: Cli, words: Sequence[str], size: int) -> tuple[int, int]:
    """Bytes that were read, in small pieces, and the MiB that it took."""
    command, file = measured(cli, *words)
    read = 0
    with subprocess.Popen(
        command, env=cli.env, cwd=cli.home, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), size):
            read += len(data)
    assert process.returncode == 0
    return read, int(file.read_text())


@pytest.mark.parametrize("kind", ["list", "group", "sqlite"])
def test_large_values_into_a_slow_output(cli: Cli, redis: Redis, fresh: str, kind: str) -> None:
    # Given 120 values of 1 MiB
    address = fresh
    if kind != "sqlite":
        address = f"{redis.url}/{'stream' if kind == 'group' else kind}:{fresh}"
    value = b"x" * (LARGE - 1) + b"\n"
    (cli.home / "values").write_bytes(value * MANY)
    command, file = measured(cli, "publish", address, "-f", "values")
    # When they are published
    subprocess.run(command, env=cli.env, cwd=cli.home, check=True, timeout=60, stderr=-1)
    sent = int(file.read_text())
    # And consumed by a reader that is slow
    words = ["consume", address, "-e", *(["-g", "g"] if kind in ("group", "sqlite") else [])]
    read, got = _slowly(cli, words, 1 << 15)
    redis.cli("DEL", fresh)
    # Then all of it came, and neither held more than 120 MiB and three times the largest
    assert read == LARGE * MANY
    assert max(sent, got) <= 120 + 3, (sent, got)


@pytest.mark.parametrize(("kind", "count"), [("list", 2_000_000), ("stream", 1_000_000)])
def test_millions_of_lines(cli: Cli, started: Started, fresh: str, kind: str, count: int) -> None:
    # Given very many lines on standard input
    server: RedisServer = started(RedisServer)
    address = f"{server.url}/{kind}:{fresh}"
    options = ["-O", "maxlen=1000"] if kind == "stream" else []
    command, file = measured(cli, "publish", address, *options)
    with subprocess.Popen(["seq", str(count)], stdout=subprocess.PIPE) as numbers:
        # When they are published
        done = subprocess.run(
            command, stdin=numbers.stdout, env=cli.env, cwd=cli.home, timeout=60, stderr=-1
        )
    # Then all are there, and memory stayed flat
    assert done.returncode == 0, done
    assert int(file.read_text()) <= 120
    if kind == "list":
        assert length(server, "list", fresh) == count
        # And it stays so when they are consumed
        read, got = _slowly(cli, ["consume", address, "-e"], 1 << 20)
        assert read == sum(9 * 10 ** (n - 1) * (n + 1) for n in range(1, 7)) + 1_000_001 * 8
        assert got <= 120
    else:
        assert server.cli("XINFO", "STREAM", fresh)[11] == count  # entries-added
