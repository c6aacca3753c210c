"""Brokers that lie in a known way: transports over the real ones that drop, repeat, exchange,
damage or delay what is published, and say that all is well. A plugin for tests of the benchmark.

``-O drop=100`` drops every hundredth message of the load; likewise ``repeat``, ``swap`` (with the
one before it, of the same batch) and ``flip`` (one bit, another place each time); ``refuse`` is no
lie: those are not published, and it is said. ``delay`` is how long each publish is held up,
``block`` how long each one blocks the whole event loop; ``bug`` raises what no transport may.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from mqcli.errors import MqcliError, Refused
from mqcli.message import Message
from mqcli.options import Duration
from mqcli.transport import Outcome, Target
from mqcli.transports.redis_stream import RedisStream, StreamOptions
from mqcli.transports.sqlite_topic import SqliteTopic, SqliteTopicOptions

_PRODUCER_SEQUENCE = struct.Struct("<10sHqQI")
_CONTROL = 0xFFFF


class _Faults:
    """Over a transport: what its ``publish`` does to the load, by the number of each message."""

    target: Target

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        options = self.target.options
        out: list[Message] = []
        refused: dict[int, MqcliError] = {}
        for index, message in enumerate(batch):
            value = message.value or b""
            _, producer, _, number, _ = _PRODUCER_SEQUENCE.unpack(value[-32:])
            if producer == _CONTROL:
                out.append(message)
                continue
            if _hit(options.refuse, number):
                refused[index] = Refused("refused on purpose")
                continue
            if _hit(options.drop, number):
                continue
            if _hit(options.flip, number):
                damaged, bit = bytearray(value), number * 7919 % (len(value) * 8)
                damaged[bit >> 3] ^= 1 << (bit & 7)
                message = replace(message, value=bytes(damaged))
            out.append(message)
            if _hit(options.repeat, number):
                out.append(message)
            if _hit(options.swap, number) and len(out) > 1:
                out[-1], out[-2] = out[-2], out[-1]
        if options.bug:
            raise RuntimeError("a bug on purpose")
        if options.block:
            time.sleep(options.block)  # noqa: ASYNC251 - this is the fault
        if options.delay:
            await asyncio.sleep(options.delay)
        done: Outcome = await super().publish(out, timeout)  # type: ignore[misc]
        assert done.confirmed == len(out), done
        return Outcome(len(batch) - len(refused), refused)


def _hit(every: int, number: int) -> bool:
    return every > 0 and number % every == every - 1


class FaultyTopicOptions(SqliteTopicOptions, frozen=True, forbid_unknown_fields=True):
    drop: int = 0
    repeat: int = 0
    swap: int = 0
    flip: int = 0
    refuse: int = 0
    bug: bool = False
    delay: Duration = Duration(0)
    block: Duration = Duration(0)


class FaultyTopic(_Faults, SqliteTopic):
    Options: Any = FaultyTopicOptions


class FaultyStreamOptions(StreamOptions, frozen=True, forbid_unknown_fields=True):
    drop: int = 0
    repeat: int = 0
    swap: int = 0
    flip: int = 0
    refuse: int = 0
    bug: bool = False
    delay: Duration = Duration(0)
    block: Duration = Duration(0)


class FaultyStream(_Faults, RedisStream):
    Options: Any = FaultyStreamOptions
