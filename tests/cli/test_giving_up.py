"""A broker that is lost and stays away, and a user who does not want to wait for it."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.brokers.redis import RedisServer

from .support import Cli, finish, until

Started = Callable[[Callable[[], RedisServer]], RedisServer]


@pytest.mark.parametrize("lines", [b"two\n", b"".join(b"%d\n" % n for n in range(2, 9000))])
def test_a_publisher_that_reconnects_is_interrupted_at_once(
    cli: Cli, started: Started, fresh: str, lines: bytes
) -> None:
    # Given a publisher with --retry whose server went away before it was told more
    server = started(RedisServer)
    words = ["publish", f"{server.url}/list:{fresh}", "--retry"]
    with cli.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"1\n")
        until(lambda: server.cli("LLEN", fresh) == 1)
        server.kill()
        process.stdin.write(lines)
        # When it is interrupted while it connects again
        with socket.create_server(("127.0.0.1", server.port)) as silent:
            silent.settimeout(20)
            connection, _ = silent.accept()
            with connection:
                began = time.monotonic()
                process.send_signal(signal.SIGINT)
                result = finish(process)
    # Then it does not try any longer, and everything that it had read is counted
    assert time.monotonic() - began < 2
    assert result.code == 130, result
    told = result.lines[-1].replace(",", "").split()
    submitted, confirmed, refused, unknown = (int(told[i]) for i in (2, -6, -4, -2))
    assert confirmed == 1 and submitted > 1, result
    assert refused + unknown == submitted - 1, result
