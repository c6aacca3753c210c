"""amqp-tools and mqcli on both sides of a queue, and what a failure leaves in one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest

from tests.brokers.rabbitmq import Rabbit
from tests.cli.support import Cli, until

ODD = [
    b"plain",
    b"",
    b"two\nlines\r\n",
    b"\x00nul\x00",
    bytes(range(256)),
    "caf\u00e9 \u202e \U0001f407".encode(),
    b"x" * 300_000,
]


def test_amqp_consume_reads_what_we_publish(
    cli: Cli, rabbitmq: Rabbit, fresh: str, tmp_path: Any
) -> None:
    # Given messages that mqcli published, with properties and typed headers
    queue = rabbitmq.at(f"queue:{fresh}")
    cli("create", queue).ok()
    for number, one in enumerate(ODD):
        (tmp_path / f"{number}").write_bytes(one)
        cli(
            "publish", queue, "-H", "n:i64=5", "-O", "message_id=7", "--whole",
            "-f", str(tmp_path / f"{number}"),
        ).ok()  # fmt: skip
    # When amqp-consume takes them, each by a command of its own
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "script"  # a file, for amqp-consume takes an option -c for its own
    script.write_text(f"cat > {out}/$(ls {out} | wc -l)\n")
    rabbitmq.tool("amqp-consume", f"--queue={fresh}", f"--count={len(ODD)}", "sh", str(script))
    # Then it ends well, every byte is there, and the queue is empty: each was acknowledged
    assert [(out / f"{n}").read_bytes() for n in range(len(ODD))] == ODD
    assert cli("consume", queue, "-e").ok().out == b""


def test_we_read_what_amqp_publish_sends(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given messages that amqp-publish sent, one with properties, others line by line
    queue = rabbitmq.at(f"queue:{fresh}")
    cli("create", queue).ok()
    rabbitmq.tool(
        "amqp-publish", f"--routing-key={fresh}", "--content-type=a/b", "--persistent",
        "--header=trace: abc", stdin=bytes(range(256)),
    )  # fmt: skip
    rabbitmq.tool("amqp-publish", f"--routing-key={fresh}", "-l", stdin=b"one\ntwo\n")
    # When they are taken, then they are what was sent
    first, *lines = map(
        json.loads, cli("consume", queue, "-c", "3", "-o", "json").ok().out.splitlines()
    )
    assert (first["headers"], first["properties"]) == (
        [["trace", "abc"]], {"content_type": "a/b", "delivery_mode": 2},
    )  # fmt: skip
    assert "value_base64" in first
    assert [line["value"] for line in lines] == ["one\n", "two\n"]


def test_what_amqp_consume_leaves_unacknowledged_comes_to_us(
    cli: Cli, rabbitmq: Rabbit, fresh: str
) -> None:
    # Given a command of amqp-consume's that has a message and does not end
    queue = rabbitmq.at(f"queue:{fresh}")
    cli("publish", queue, "--create", "again").ok()
    process = subprocess.Popen(
        ["amqp-consume", "--server=127.0.0.1", f"--port={rabbitmq.port}", f"--queue={fresh}",
         "sleep", "1000"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: rabbitmq.unacknowledged(fresh) == 1)
    finally:  # When it is killed with the message in its hands
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    # Then we get it, marked
    (message,) = map(
        json.loads, cli("consume", queue, "-c", "1", "-o", "json").ok().out.splitlines()
    )
    assert (message["value"], message["meta"]["redelivered"]) == ("again", True)


# --- what a failure leaves ------------------------------------------------------------------------


@pytest.fixture
def pair(cli: Cli, rabbitmq: Rabbit, fresh: str) -> tuple[str, str]:
    """A queue of 4,000 messages of a kilobyte, and the one for what it rejects."""
    queue, dead = rabbitmq.at(f"queue:{fresh}"), rabbitmq.at(f"queue:{fresh}-dead")
    cli("create", dead).ok()
    letter = ["-O", "dead_letter_exchange=", "-O", f"dead_letter_key={fresh}-dead"]
    cli("create", queue, *letter).ok()
    lines = b"".join(b"%04d" % n + b"x" * 996 + b"\n" for n in range(4000))
    cli("publish", queue, stdin=lines).ok()
    return queue, dead


def numbers(out: bytes) -> list[int]:
    return [int(line[:4]) for line in out.splitlines()]


def test_a_reader_that_goes_away_is_no_failure(cli: Cli, pair: tuple[str, str]) -> None:
    # Given a consumer that is to drop what a failure leaves, when who reads it goes away
    queue, dead = pair
    with cli.start("consume", queue, "--nack", "drop") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"0000")
        process.stdout.close()
        assert process.wait(15) == 0
    # Then nothing is dropped: what was not written is there again, in order
    assert cli("consume", dead, "-e").ok().out == b""
    left = numbers(cli("consume", queue, "-e").ok().out)
    assert left == list(range(left[0], 4000))


def test_an_interrupt_is_no_failure(cli: Cli, pair: tuple[str, str]) -> None:
    # Given a consumer whose output stands still, when it is interrupted
    queue, dead = pair
    with cli.start("consume", queue, "--nack", "drop") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"0000")
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    # Then nothing is dropped
    assert cli("consume", dead, "-e").ok().out == b""
    left = numbers(cli("consume", queue, "-e").ok().out)
    assert left == list(range(left[0], 4000))


def test_a_failure_drops_what_was_handed_out_and_nothing_else(
    cli: Cli, pair: tuple[str, str]
) -> None:
    # Given a consumer that is to drop what a failure leaves, and a full disk
    queue, dead = pair
    with open("/dev/full", "wb") as full:
        assert cli("consume", queue, "--nack", "drop", stdout=full).code == 74
    # Then the messages of the write that failed are dead letters; all behind them stayed
    lost = numbers(cli("consume", dead, "-e").ok().out)
    left = numbers(cli("consume", queue, "-e").ok().out)
    assert lost and lost + left == list(range(4000))
    assert len(lost) <= 2000, "more than one batch was dropped"
