"""Every command line of the README is run here, as it stands, on real brokers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.kafka import Kafka
from tests.brokers.rabbitmq import RabbitServer
from tests.brokers.redis import Redis, RedisServer

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(<!-- (?P<mark>\w+) -->\n)?```sh\n(?P<lines>.*?)```", re.DOTALL)
SETUP = {"make demo", "make test", "pipx install ."}


def blocks() -> list[tuple[str, str | None]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [(match["lines"], match["mark"]) for match in BLOCK.finditer(text)]


def commands(block: str) -> list[str]:
    return [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MQCLI", "XDG", "PYTHON"))}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(home), "PATH": programs}


def with_brokers(script: str, redis: Redis, rabbitmq: RabbitServer, kafka: Kafka) -> str:
    """On our ports; where the management API is follows from the usual one only."""
    script = re.sub(r"amqp://localhost/([^\s']+)", lambda m: f"'{rabbitmq.at(m[1])}'", script)
    return script.replace("redis://localhost", redis.url).replace("kafka://localhost", kafka.url)


def test_recipes_in_order(
    started: Callable[[Callable[[], RedisServer]], RedisServer],
    home: Path,
    environment: dict[str, str],
    rabbitmq: RabbitServer,
    kafka: Kafka,
) -> None:
    # Given the recipes, in the order of the README, with a fresh home and brokers without their
    # names
    redis = started(RedisServer)
    recipes = [(b, mark) for b, mark in blocks() if not SETUP & set(commands(b))]
    assert len(recipes) >= 10

    # When each is run by a shell that stops at the first failure
    for block, mark in recipes:
        script = with_brokers(block, redis, rabbitmq, kafka)
        if mark == "interrupted":
            interrupted(script, home, environment, redis)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=home, env=environment, capture_output=True, timeout=120,
        )  # fmt: skip

        # Then it succeeds, and says nothing of an error
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr

    # And the recipes did what they say
    assert len((home / "part1.txt").read_text().splitlines()) == 400
    parts = (home / "part1.txt").read_text() + (home / "part2.txt").read_text()
    assert parts.splitlines() == [str(n) for n in range(1, 1001)]
    assert len((home / "rest.ndjson").read_text().splitlines()) == 90
    assert redis.cli("LLEN", "jobs") == 0
    assert len((home / "in-order.txt").read_text().splitlines()) == 1001
    assert len((home / "billing.txt").read_text().splitlines()) == 1001
    assert b"two" in {message.value for message in kafka.read("orders")}


def interrupted(script: str, home: Path, environment: dict[str, str], redis: Redis) -> None:
    """Run a recipe that goes on until Ctrl-C: send it something to show, see it, interrupt it."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {script}"],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        deadline = time.monotonic() + 20
        while not redis.cli("PUBLISH", "news", "breaking"):
            assert time.monotonic() < deadline, "nobody subscribed"
        while process.stdout.readline() != b"breaking\n":
            assert time.monotonic() < deadline, "the message did not come"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.communicate()


def test_set_up_commands(tmp_path: Path, environment: dict[str, str]) -> None:
    # Given the commands of the README that set mqcli up
    found = {c for block, _ in blocks() for c in commands(block)} & SETUP
    assert found == SETUP

    # Then make test is what the build runs (it runs this test)
    assert "make test" in (ROOT / ".ci/run").read_text()

    # And make demo works in a fresh copy of the project
    copy = tmp_path / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={sys.executable}"],
        cwd=copy, env=environment, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert (copy / ".venv/bin/mqcli").exists()

    # And pipx installs a working program
    places = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    done = subprocess.run(
        ["pipx", "install", "--python", sys.executable, "."],
        cwd=copy, env={**environment, **places}, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    out = subprocess.check_output([tmp_path / "bin/mqcli", "--version"], env=environment)
    assert b"mqcli" in out
