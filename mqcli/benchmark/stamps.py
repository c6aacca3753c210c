"""The stamp that every benchmark message ends with, made and read in batches.

Thirty-two bytes behind the payload, little-endian::

    2  magic "mq"          8  run            2  producer
    8  intended time, nanoseconds on the run's clock
    8  sequence            4  CRC-32 of all before it

It stands at the end so that the checksum of what is alike in a batch (payload, run, producer) is
taken once, and so that the CRC-32 of a whole sound message is one constant, whatever is in it. A
control message (a probe, a closing mark) has producer 65535.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import cycle, islice

import msgspec

__all__ = ["CONTROL", "SIZE", "STAMP", "Payloads", "Sizes", "Stamper", "prefix_of", "repaired"]

SIZE = 32
"""Bytes of a stamp: the least that a message has."""
CONTROL = 0xFFFF
"""The producer number of control messages; producers have lower ones."""
RESIDUE = 0x2144DF1C
"""The CRC-32 of anything that ends with its own CRC-32, little-endian (ISO 3309)."""
STAMP = struct.Struct("<10sHqQI")
"""magic and run, producer, intended time, sequence, checksum"""
MAGIC = b"mq"

_PREFIX = struct.Struct("<10sH")
_TIME_SEQUENCE = struct.Struct("<qQ")
_TIME = struct.Struct("<q")
_SEQUENCE = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_TAIL = struct.Struct("12s")
"""sequence and checksum"""
_POOL = 256
_BLOCK = 1 << 16


@cache
def _changes() -> bytes:
    """For each number below ``_BLOCK``, by which bits its sequence and its checksum differ from
    those of 0."""
    zero = zlib.crc32(bytes(8))
    pack = struct.Struct("<QI").pack
    crc32, number = zlib.crc32, _SEQUENCE.pack
    return b"".join([pack(n, crc32(number(n)) ^ zero) for n in range(_BLOCK)])


class Sizes(msgspec.Struct, frozen=True):
    """How long messages are, stamp included: weighted ranges, each uniform from the first to the
    second number, both included. One fixed size is one range of one."""

    ranges: tuple[tuple[int, int, float], ...] = ((100, 100, 1.0),)

    @property
    def fixed(self) -> bool:
        return len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1]

    @property
    def largest(self) -> int:
        return max(SIZE, *(high for _, high, _ in self.ranges))

    def draw(self, rng: random.Random) -> int:
        low, high, _ = rng.choices(self.ranges, [weight for _, _, weight in self.ranges])[0]
        return max(SIZE, rng.randint(low, high))


class Payloads:
    """What stands before the stamps: a pool that is made before the clock starts, used in turn.

    ``samples`` are contents to send; without them a payload is ``random_ratio`` random bytes (which
    a broker cannot compress) and a pattern for the rest.
    """

    def __init__(
        self, sizes: Sizes, random_ratio: float, samples: Sequence[bytes], seed: int
    ) -> None:
        rng = random.Random(seed)
        self.pool = list(samples)
        for _ in range(0 if samples else 1 if sizes.fixed and not random_ratio else _POOL):
            length = sizes.draw(rng) - SIZE
            noise = round(length * random_ratio)
            self.pool.append(rng.randbytes(noise) + b"x" * (length - noise))
        self.mean = SIZE + sum(map(len, self.pool)) / len(self.pool)


class Stamper:
    """Makes the values of one producer, in the order of their sequence."""

    def __init__(self, run: bytes, producer: int, payloads: Payloads) -> None:
        prefix = _PREFIX.pack(prefix_of(run), producer)
        self._pool = [
            (base, zlib.crc32(base)) for base in (payload + prefix for payload in payloads.pool)
        ]
        self._turns = cycle(self._pool)
        self.sequence = 0
        """Of the next message."""
        _changes()  # made now, and not when the clock runs

    def at(self, intended: int, count: int) -> list[bytes]:
        """The next ``count`` values, all meant for the same moment: the fastest way."""
        if len(self._pool) > 1:
            return self.times([intended] * count)
        first = self.sequence
        self.sequence = first + count
        base, summed = self._pool[0]
        moment = _TIME.pack(intended)
        base += moment
        summed = zlib.crc32(moment, summed)
        made: list[bytes] = []
        while count:
            # A checksum is linear: that of a number is that of its high part, changed by what the
            # low part changes. So a whole run is made by one "exclusive or".
            low = first % _BLOCK
            size = min(count, _BLOCK - low)
            high = _SEQUENCE.pack(first - low)
            tail = high + _CRC.pack(zlib.crc32(high, summed))
            changes = _changes()[low * len(tail) : (low + size) * len(tail)]
            mixed = int.from_bytes(changes, "little") ^ int.from_bytes(tail * size, "little")
            tails = mixed.to_bytes(len(changes), "little")
            made += [base + tail for (tail,) in _TAIL.iter_unpack(tails)]
            first += size
            count -= size
        return made

    def times(self, intended: Sequence[int]) -> list[bytes]:
        """The next values, one for each intended time."""
        first = self.sequence
        self.sequence = first + len(intended)
        crc32, pack, crc = zlib.crc32, _TIME_SEQUENCE.pack, _CRC.pack
        return [
            base + (rest := pack(t, s)) + crc(crc32(rest, summed))
            for s, t, (base, summed) in zip(
                range(first, self.sequence),
                intended,
                islice(self._turns, len(intended)),
                strict=True,
            )
        ]


def prefix_of(run: bytes) -> bytes:
    """The ten bytes that every stamp of a run begins with."""
    return MAGIC + run


def is_sound(value: bytes) -> bool:
    return len(value) >= SIZE and zlib.crc32(value) == RESIDUE


def resembles(value: bytes, prefix: bytes) -> bool:
    """Whether a value is of this run although it is damaged: most of its stamp's first ten bytes
    are right, wherever a lost or added end has put them."""
    if prefix in value:
        return True
    return sum(map(int.__eq__, value[-SIZE : 10 - SIZE], prefix)) >= 7


def repaired(value: bytes) -> tuple[int, int] | None:
    """The (producer, sequence) that a damaged value had, where that can be told: one flipped bit
    in the stamp is found by the checksum; else the stamp is believed."""
    if len(value) < SIZE:
        return None
    stamp, before = bytearray(value[-SIZE:]), zlib.crc32(value[:-SIZE])
    for bit in range(SIZE * 8):
        stamp[bit >> 3] ^= 1 << (bit & 7)
        if zlib.crc32(stamp, before) == RESIDUE:
            break
        stamp[bit >> 3] ^= 1 << (bit & 7)
    _, producer, _, sequence, _ = STAMP.unpack(stamp)
    return producer, sequence
