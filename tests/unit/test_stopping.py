"""A stop that is asked for in an awkward moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from mqcli.client import Client
from mqcli.errors import ExitCode
from mqcli.message import Message
from mqcli.operations.publish import BadInput, Batch, new_report, publish
from mqcli.operations.stop import Stop


def test_a_stop_in_the_moment_the_input_ends(tmp_path: Path) -> None:
    async def test() -> None:
        # Given input that ends while a signal comes
        stop = Stop()

        async def batches() -> AsyncIterator[Batch]:
            yield Batch([Message(b"x")])
            asyncio.get_running_loop().call_soon(stop.request, ExitCode.INTERRUPTED)

        # When it is published
        async with Client.at(f"sqlite:{tmp_path}/b.db/orders").publisher() as publisher:
            report = new_report(publisher, BadInput())
            await publish(publisher, batches(), stop, report)
        # Then the signal is told, and the message is counted
        assert report.exit_code is ExitCode.INTERRUPTED
        assert report.counts.confirmed == 1

    asyncio.run(test())
