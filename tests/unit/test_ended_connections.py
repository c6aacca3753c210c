"""A connection that ended a moment ago is written to: with uvloop that may be an error of its own,
and must be a lost connection like any other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop

from mqcli.errors import ConnectionLost
from mqcli.transports import _amqp_wire, _kafka_wire, _redis_wire
from mqcli.transports._redis_packing import pack

from .redis_support import until


@contextmanager
def listening() -> Iterator[int]:
    """The port of a peer that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class NoConnection:
    """Of redis-py, whose socket has been taken over."""

    async def disconnect(self, nowait: bool) -> None:
        return None


@pytest.mark.parametrize("told", [False, True], ids=["before", "after"])
def test_redis_is_lost_where_its_connection_ended_before_the_first_command(told: bool) -> None:
    async def test() -> None:
        with listening() as port:
            # Given a connection that ended before it was taken over, whose former owner has been
            # told so, or not yet
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.abort()
            if told:
                with pytest.raises(ConnectionError):
                    await writer.drain()
                    await asyncio.sleep(0)
                    await writer.drain()
            # When it is taken over, then the first command ends with a lost connection
            wire = _redis_wire.Wire("redis://x", "x", NoConnection(), writer.transport)
            with pytest.raises(ConnectionLost):
                wire.send(pack("PING"), 1, 5)
            await wire.aclose()

    uvloop.run(test())


def test_redis_is_lost_where_its_connection_ends_between_two_commands() -> None:
    async def test() -> None:
        with listening() as port:
            # Given an open connection that has just ended
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            wire = _redis_wire.Wire("redis://x", "x", NoConnection(), writer.transport)
            writer.transport.abort()
            # When a command is sent, then what it waits for is a lost connection
            got, cause = await wire.send(pack("PING"), 1, 5)
            assert got == []
            assert isinstance(cause, ConnectionLost)
            await wire.aclose()

    uvloop.run(test())


def test_rabbitmq_is_lost_where_its_connection_ends_between_two_frames() -> None:
    async def test() -> None:
        with listening() as port:
            # Given an open connection that has just ended
            wire, _, _ = await _amqp_wire.open_wire("127.0.0.1", port, asyncio.get_running_loop())
            assert wire.transport is not None
            wire.transport.abort()
            # When a frame is written, then that passes, and the connection is lost
            wire.write(b"frame")
            await until(lambda: wire.lost is not None)

    uvloop.run(test())


def test_kafka_is_lost_where_its_connection_ends_between_two_requests() -> None:
    async def test() -> None:
        with listening() as port:
            # Given an open connection that has just ended
            wire = _kafka_wire.Wire("kafka://x", "x", "test")
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: wire, "127.0.0.1", port
            )
            transport.abort()
            # When a request is sent, then what it waits for is a lost connection
            with pytest.raises(ConnectionLost):
                await wire.answer(wire.write([b"request"]), 5)

    uvloop.run(test())
