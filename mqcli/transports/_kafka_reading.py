"""Record batches (format version 2) into messages: the other half of ``_kafka_records``."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import cramjam
from aiokafka.codec import snappy_decode
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from ..message import Headers, HeaderValue, Received, Tagged
from ._kafka_records import CODECS

__all__ = ["RawBatch", "Unreadable", "reading", "split"]

_FRAME = struct.Struct(">qiibIhiqqqhii")
_FRAME_SIZE = 61
_FIXED = 12
_LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL, _CODEC_MASK = 0x08, 0x10, 0x20, 0x07
_NO_HEADERS: Headers = ()
_BLOCK = 1000
_SPACED_TAILS = ["", *(f"{n:03d} " for n in range(_BLOCK))]


class Unreadable(Exception):
    """A batch that is damaged, or in a codec that nobody here knows."""


class RawBatch(Struct, eq=False, gc=False):
    """A batch as it was fetched, not decoded. ``next_offset`` is the one behind it, which may be
    further than its last record when the topic is compacted."""

    base: int
    next_offset: int
    data: memoryview
    magic: int
    attributes: int
    producer: int
    count: int
    stamped: bool

    @property
    def control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def compressed(self) -> bool:
        return bool(self.attributes & _CODEC_MASK) or self.magic < 2

    @property
    def transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def aborts(self) -> bool:
        """Of a control batch: it ends its producer's transaction by throwing it away."""
        key = next(iter(DefaultRecordBatch(bytes(self.data)))).key
        return key is not None and len(key) >= 4 and struct.unpack(">h", key[2:4])[0] == 0


def split(records: memoryview) -> list[RawBatch]:
    """The whole batches in what one fetch gave for one partition; brokers cut the last one off.

    Raises Unreadable where a frame makes no sense.
    """
    found: list[RawBatch] = []
    at, end = 0, len(records)
    while end - at >= _FIXED + 5:
        base, length = struct.unpack_from(">qi", records, at)
        if length < 5:
            raise Unreadable(f"a batch of {length} bytes")
        whole = at + _FIXED + length
        if whole > end:
            break
        data = records[at:whole]
        magic = records[at + 16]
        if magic == 2:
            if length < _FRAME_SIZE - _FIXED:
                raise Unreadable(f"a batch of {length} bytes")
            row = _FRAME.unpack_from(records, at)
            found.append(
                RawBatch(base, base + row[6] + 1, data, 2, row[5], row[9], row[12], row[7] != -1)
            )
        elif magic in (0, 1):
            # The offset of an old compressed set is that of its last message.
            found.append(RawBatch(base, base + 1, data, magic, 0, -1, -1, magic == 1))
        else:
            raise Unreadable(f"record format {magic}, which is not known")
        at = whole
    return found


def decoder(batch: RawBatch, *, check: bool) -> Iterator[Any]:
    """Its records one by one, as aiokafka's objects. Raises Unreadable."""
    data = bytes(batch.data)
    try:
        parsed = DefaultRecordBatch(data) if batch.magic == 2 else MemoryRecords(data).next_batch()
        if check and not parsed.validate_crc():
            raise Unreadable("its checksum is wrong")
        # Its own iterator may be asked for only once, and zip and islice ask again.
        return chain(parsed)
    except Unreadable:
        raise
    except Exception as exc:
        raise Unreadable(str(exc) or type(exc).__name__) from exc


def reading(
    batch: RawBatch, partition: int, source: str, first: int, *, check: bool, token: Any = None
) -> Iterator[list[Received]]:
    """Its messages from offset ``first`` on, by lists of at most ``_BLOCK``. Raises Unreadable."""
    try:
        records = decoder(batch, check=check)
        # Without holes the offsets are known, and their texts are made many at a time.
        dense = batch.magic == 2 and batch.count == batch.next_offset - batch.base
        offset = batch.base
        if dense and first > offset:
            for _ in islice(records, first - offset):
                pass
            offset = first
        while True:
            room = _BLOCK - offset % _BLOCK if dense else _BLOCK
            if dense:
                made = _dense(records, partition, source, token, offset, room)
            else:
                made = _sparse(records, partition, source, token, room)
            if not made:
                return
            offset += len(made)
            if not batch.stamped:
                for message in made:
                    message.timestamp = None
            if not dense:
                if first > batch.base:
                    made = [m for m in made if int(m.position.partition(":")[2]) >= first]
                if not made:
                    continue
            yield made
    except Unreadable:
        raise
    except UnicodeDecodeError:
        yield [m for m in _by_hand(batch, partition, source, token) if _offset(m) >= first]
    except Exception as exc:
        raise Unreadable(str(exc) or type(exc).__name__) from exc


def _offset(message: Received) -> int:
    return int(message.position.partition(":")[2])


def _dense(
    records: Iterator[Any], partition: int, source: str, token: Any, offset: int, room: int
) -> list[Received]:
    low = offset % _BLOCK
    tails = _SPACED_TAILS if room == _BLOCK else ["", *_SPACED_TAILS[low + 1 :]]
    block = offset // _BLOCK
    if block:
        positions = f"{partition}:{block}".join(tails).split(" ")
    else:
        positions = [f"{partition}:{n}" for n in range(offset, _BLOCK)]
    return [
        Received(
            r.value, r.key, _headers(h) if (h := r.headers) else _NO_HEADERS, None, r.timestamp,
            False, source, position, False, None, token,
        )
        for position, r in zip(positions[:room], records, strict=False)
    ]  # fmt: skip


def _sparse(
    records: Iterator[Any], partition: int, source: str, token: Any, room: int
) -> list[Received]:
    return [
        Received(
            r.value, r.key, _headers(h) if (h := r.headers) else _NO_HEADERS, None, r.timestamp,
            False, source, f"{partition}:{r.offset}", False, None, token,
        )
        for r in islice(records, room)
    ]  # fmt: skip


def text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def header_value(data: bytes | None) -> HeaderValue:
    return Tagged("null", None) if data is None else text_or_bytes(data)


def _headers(pairs: Sequence[tuple[str, bytes | None]]) -> Headers:
    return tuple([(name, header_value(value)) for name, value in pairs])


def _by_hand(batch: RawBatch, partition: int, source: str, token: Any = None) -> list[Received]:
    """As :func:`reading`, where aiokafka gives up: header names that are not UTF-8."""
    data = bytes(batch.data)
    first_stamp, max_stamp = struct.unpack_from(">qq", data, 27)
    body = data[_FRAME_SIZE:]
    codec = batch.attributes & _CODEC_MASK
    if codec:
        body = decompress(body, codec)
    at, made = 0, []

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 128:
                return (value >> 1) ^ -(value & 1)

    def piece() -> bytes | None:
        nonlocal at
        size = number()
        if size < 0:
            return None
        at += size
        return body[at - size : at]

    for _ in range(batch.count):
        number()
        at += 1
        stamp = first_stamp + number()
        if batch.attributes & _LOG_APPEND_TIME:
            stamp = max_stamp
        offset = batch.base + number()
        key, value = piece(), piece()
        headers = tuple(
            (text_or_bytes(piece() or b""), header_value(piece())) for _ in range(number())
        )
        position = f"{partition}:{offset}"
        made.append(
            Received(
                value, key, headers, None, stamp if batch.stamped else None, False, source, position
            )
        )
    return made


def decompress(data: bytes, codec: int) -> bytes:
    if codec == CODECS["gzip"]:
        return bytes(cramjam.gzip.decompress(data))
    if codec == CODECS["snappy"]:
        return bytes(snappy_decode(data))
    if codec == CODECS["lz4"]:
        return bytes(cramjam.lz4.decompress(data))
    return bytes(cramjam.zstd.decompress(data))
