"""Messages into record batches (format version 2); ``_kafka_reading`` is the way back.

aiokafka's compiled builder and parser do the records; the frame of 61 bytes around them is read
and written by us, for it holds what a producer changes (sequence numbers) and a reader needs
without decoding (offsets, who wrote it, whether it is a control batch).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import cramjam
from aiokafka.codec import snappy_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from msgspec import Struct

from ..message import Headers, Message, Plain, Tagged

__all__ = ["CODECS", "Chunk", "Columns", "Packing", "build", "columns", "murmur2", "wire_headers"]

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

FRAME_SIZE = 61
"""Bytes of a batch before its records."""
_FIXED = 12
_PRODUCER = struct.Struct(">qhi")
_PRODUCER_AT = 43
_CRC_AT, _COVERED_FROM = 17, 21
_ATTRIBUTES_AT = 21
_MAX_OVERHEAD = 36
"""Of a record: length, attributes, timestamp, offset, lengths of key and value, headers' count."""
_NONE: list[Any] = []
_CACHED = 500
"""So many messages stay in the processor's cache while their parts are taken one after another."""


class Columns(Struct, eq=False):
    """Messages by their parts; a part that no message has is None. Made once for a batch, so that
    all that follows works on whole lists."""

    values: Sequence[bytes | None]
    keys: list[bytes | None] | None
    headers: list[Any] | None
    stamps: list[int | None] | None
    properties: list[Any] | None = None
    bytes: int = -1

    def __len__(self) -> int:
        return len(self.values)

    def pick(self, indices: Sequence[int]) -> Columns:
        def some(part: list[Any] | None) -> list[Any] | None:
            return None if part is None else [part[i] for i in indices]

        return Columns(
            [self.values[i] for i in indices],
            some(self.keys),
            some(self.headers),
            some(self.stamps),
        )

    def cut(self, start: int, end: int) -> Columns:
        return Columns(
            self.values[start:end],
            None if self.keys is None else self.keys[start:end],
            None if self.headers is None else self.headers[start:end],
            None if self.stamps is None else self.stamps[start:end],
        )

    def size(self) -> int:
        """Bytes that they take in a batch, rather too many than too few."""
        if self.bytes >= 0:
            return self.bytes
        try:
            total = sum(map(len, self.values))  # type: ignore[arg-type]
        except TypeError:  # a tombstone among them
            total = sum([len(value or b"") for value in self.values])
        total += _MAX_OVERHEAD * len(self.values)
        if self.keys is not None:
            total += sum([len(key) for key in self.keys if key])
        if self.headers is not None:
            for pairs in self.headers:
                for name, value in pairs:
                    total += 10 + len(name.encode()) + len(value or b"")
        self.bytes = total
        return total


def columns(messages: Sequence[Message]) -> Columns:
    """Headers as they are in the messages: see :func:`wire_headers`."""
    if isinstance(messages, Plain):
        return Columns(messages.values, None, None, None)
    values: list[bytes | None] = []
    keys: list[bytes | None] = []
    headers: list[Any] = []
    stamps: list[int | None] = []
    properties: list[Any] = []
    for start in range(0, len(messages), _CACHED):
        some = messages[start : start + _CACHED]
        values += [m.value for m in some]
        keys += [m.key for m in some]
        headers += [m.headers for m in some]
        stamps += [m.timestamp for m in some]
        properties += [m.properties for m in some]
    count = len(values)
    return Columns(
        values,
        None if keys.count(None) == count else keys,
        headers if any(headers) else None,
        None if stamps.count(None) == count else stamps,
        properties if any(properties) else None,
    )


class Chunk(Struct, eq=False):
    """Messages on their way to one partition, as one batch. ``indices`` are their places in what
    was given to ``publish``."""

    partition: int
    indices: Sequence[int]
    data: bytearray
    builder: Any = None
    """Holds the records until the first :meth:`stamp`, which spares a second checksum."""
    sequence: int = -1

    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.data) if self.builder is None else int(self.builder.size())

    def stamp(self, producer: int, epoch: int, sequence: int) -> None:
        """Say who sends it, for the broker to recognise a repetition."""
        self.sequence = sequence
        if self.builder is not None:
            self.builder.set_producer_state(producer, epoch, sequence)
            self.data, self.builder = self.builder.build(), None
            return
        data = self.data
        _PRODUCER.pack_into(data, _PRODUCER_AT, producer, epoch, sequence)
        struct.pack_into(">I", data, _CRC_AT, calc_crc32c(memoryview(data)[_COVERED_FROM:]))


def wire_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Raises ValueError for a name or a value that Kafka has no form for."""
    out: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if not isinstance(name, str):
            raise ValueError(f"the header name {name!r} is not text")
        if isinstance(value, str):
            data: bytes | None = value.encode("utf-8", "surrogateescape")
        elif isinstance(value, bytes):
            data = value
        elif isinstance(value, Tagged) and value.t == "null":
            data = None
        else:
            raise ValueError(f"the header {name!r} is neither text nor bytes nor null")
        name.encode()  # a lone surrogate is no text either: UnicodeEncodeError is a ValueError
        out.append((name, data))
    return out


class Packing(Struct, frozen=True):
    """How batches are made: at most ``limit`` bytes each, before compression."""

    limit: int
    codec: int = 0
    level: int | None = None
    transactional: bool = False


def build(
    partition: int, indices: Sequence[int], parts: Columns, how: Packing, now_ms: int
) -> list[Chunk]:
    """The messages as batches, in order. Each must fit by itself, or it becomes a batch that is
    too large; headers must have been made by :func:`wire_headers`."""
    count = len(parts)
    pieces = -(-(parts.size() + FRAME_SIZE) // how.limit)
    size = -(-count // max(1, pieces))
    made: list[Chunk] = []
    for start in range(0, count, size):
        places = indices[start : start + size]
        some = parts if size >= count else parts.cut(start, start + size)
        builder = _builder(how)
        appended = list(
            map(
                builder.append,
                range(len(some)),
                repeat(now_ms)
                if some.stamps is None
                else [now_ms if stamp is None else stamp for stamp in some.stamps],
                repeat(None) if some.keys is None else some.keys,
                some.values,
                repeat(_NONE) if some.headers is None else some.headers,
            )
        )
        if None in appended:  # sizes too uneven for equal parts
            made += _one_by_one(partition, places, some, how, now_ms)
        else:
            made.append(_chunk(partition, places, builder, how))
    return made


def _builder(how: Packing) -> Any:
    return DefaultRecordBatchBuilder(2, 0, how.transactional, -1, -1, -1, how.limit)


def _one_by_one(
    partition: int, indices: Sequence[int], parts: Columns, how: Packing, now_ms: int
) -> list[Chunk]:
    made: list[Chunk] = []
    builder, start = _builder(how), 0
    for at, value in enumerate(parts.values):
        stamp = None if parts.stamps is None else parts.stamps[at]
        row = (
            now_ms if stamp is None else stamp,
            None if parts.keys is None else parts.keys[at],
            value,
            _NONE if parts.headers is None else parts.headers[at],
        )
        if builder.append(at - start, *row) is None:
            made.append(_chunk(partition, indices[start:at], builder, how))
            builder, start = _builder(how), at
            builder.append(0, *row)
    made.append(_chunk(partition, indices[start:], builder, how))
    return made


def _chunk(partition: int, indices: Sequence[int], builder: Any, how: Packing) -> Chunk:
    if how.codec:
        return Chunk(partition, indices, compress(builder.build(), how.codec, how.level))
    return Chunk(partition, indices, bytearray(), builder)


def compress(data: bytearray, codec: int, level: int | None = None) -> bytearray:
    """The batch with its records compressed; the checksum is left to :meth:`Chunk.stamp`."""
    body = bytes(memoryview(data)[FRAME_SIZE:])
    if codec == CODECS["gzip"]:
        packed = bytes(cramjam.gzip.compress(body, level=6 if level is None else level))
    elif codec == CODECS["snappy"]:
        packed = snappy_encode(body)
    elif codec == CODECS["lz4"]:
        # Linked blocks are a thing that brokers do not read (KIP-57).
        compressor = cramjam.lz4.Compressor(
            level=1 if level is None else level, content_checksum=False, block_linked=False
        )
        compressor.compress(body)
        packed = bytes(compressor.finish())
    else:
        packed = bytes(cramjam.zstd.compress(body, level=3 if level is None else level))
    out = data[:FRAME_SIZE]
    out += packed
    struct.pack_into(">i", out, 8, len(out) - _FIXED)
    out[_ATTRIBUTES_AT + 1] |= codec
    return out


@lru_cache(maxsize=1 << 16)
def murmur2(key: bytes) -> int:
    """The hash that the Java client partitions by, already positive."""
    size = len(key)
    h = 0x9747B28C ^ size
    whole = size & ~3
    for (k,) in struct.iter_unpack("<I", key[:whole]):
        k = (k * 0x5BD1E995) & 0xFFFFFFFF
        k = ((k ^ (k >> 24)) * 0x5BD1E995) & 0xFFFFFFFF
        h = ((h * 0x5BD1E995) & 0xFFFFFFFF) ^ k
    if size > whole:
        h ^= int.from_bytes(key[whole:], "little")
        h = (h * 0x5BD1E995) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0x5BD1E995) & 0xFFFFFFFF
    return (h ^ (h >> 15)) & 0x7FFFFFFF
