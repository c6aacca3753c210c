"""Record batches (format version 2) into messages: the other half of ``_kafka_records``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import cramjam
from aiokafka.codec import snappy_decode
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from ..message import Arrivals, Headers, HeaderValue, Received, Tagged
from ._kafka_records import CODECS

__all__ = ["RawBatch", "Records", "Run", "Unreadable", "by_token", "reading", "split"]

_FRAME = struct.Struct(">qiibIhiqqqhii")
_FRAME_SIZE = 61
_FIXED = 12
_LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL, _CODEC_MASK = 0x08, 0x10, 0x20, 0x07
_NO_HEADERS: Headers = ()
_BLOCK = 2000


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


class Run(Struct, eq=False):
    """Consecutive records of one partition, as aiokafka's objects."""

    records: list[Any]
    partition: int
    source: str
    stamped: bool = True
    token: Any = None

    @property
    def last(self) -> int:
        """The offset of the last one."""
        return int(self.records[-1].offset)

    def cut(self, start: int, stop: int) -> Run:
        """Those from place ``start`` to before ``stop``."""
        return self.holding(self.records[start:stop])

    def holding(self, records: list[Any]) -> Run:
        """The same with other records."""
        return Run(records, self.partition, self.source, self.stamped, self.token)

    def received(self) -> list[Received]:
        """As messages."""
        partition, source, stamped, token = self.partition, self.source, self.stamped, self.token
        return [
            Received(
                r.value, r.key, _headers(h) if (h := r.headers) else _NO_HEADERS, None,
                r.timestamp if stamped else None, False, source, f"{partition}:{r.offset}", False,
                None, token,
            )
            for r in self.records
        ]  # fmt: skip


class Records(Arrivals):
    """What a feed hands out: runs, one behind the other."""

    __slots__ = ("runs",)

    def __init__(self, runs: list[Run], values: list[bytes | None] | None = None) -> None:
        super().__init__(
            [r.value for run in runs for r in run.records] if values is None else values
        )
        self.runs = runs

    def made(self) -> list[Received]:
        return [message for run in self.runs for message in run.received()]

    def part(self, start: int, stop: int) -> Records:
        runs: list[Run] = []
        at = 0
        for run in self.runs:
            low, high = max(start - at, 0), min(stop - at, len(run.records))
            if low < high:
                runs.append(run.cut(low, high))
            at += len(run.records)
        return Records(runs, self.values[start:stop])


def reading(
    batch: RawBatch, partition: int, source: str, first: int, *, check: bool, token: Any = None
) -> Iterator[Run]:
    """Its records from offset ``first`` on, at most ``_BLOCK`` at a time. Raises Unreadable."""

    def run(records: list[Any]) -> Run:
        return Run(records, partition, source, batch.stamped, token)

    try:
        records = decoder(batch, check=check)
        while some := list(islice(records, _BLOCK)):
            last = some[-1].offset
            if some[0].offset < first:
                some = [record for record in some if record.offset >= first]
            if some:
                first = last + 1
                yield run(some)
    except Unreadable:
        raise
    except UnicodeDecodeError:
        if left := [record for record in _by_hand(batch) if record.offset >= first]:
            yield run(left)
    except Exception as exc:
        raise Unreadable(str(exc) or type(exc).__name__) from exc


class _Place(Struct):
    offset: int


def by_token(messages: Sequence[Received]) -> Iterable[tuple[Any, Sequence[Any]]]:
    """What a feed has handed out, in order: things that have an ``offset``."""
    if isinstance(messages, Records):
        return [(run.token, run.records) for run in messages.runs]
    found: dict[Any, list[_Place]] = {}
    for message in messages:
        offset = int(message.position.rpartition(":")[2])
        found.setdefault(message.token, []).append(_Place(offset))
    return found.items()


def text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def header_value(data: bytes | None) -> HeaderValue:
    return Tagged("null", None) if data is None else text_or_bytes(data)


def _headers(pairs: Sequence[tuple[str | bytes, bytes | None]]) -> Headers:
    return tuple([(name, header_value(value)) for name, value in pairs])


class _Record(Struct):
    """As aiokafka's, but for the names of the headers."""

    value: bytes | None
    key: bytes | None
    headers: list[tuple[str | bytes, bytes | None]]
    timestamp: int
    offset: int


def _by_hand(batch: RawBatch) -> list[_Record]:
    """All records where aiokafka gives up: header names that are not UTF-8."""
    data = bytes(batch.data)
    first_stamp, max_stamp = struct.unpack_from(">qq", data, 27)
    body = data[_FRAME_SIZE:]
    codec = batch.attributes & _CODEC_MASK
    if codec:
        body = decompress(body, codec)
    at = 0
    made: list[_Record] = []

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
        headers = [(text_or_bytes(piece() or b""), piece()) for _ in range(number())]
        made.append(_Record(value, key, headers, stamp, offset))
    return made


def decompress(data: bytes, codec: int) -> bytes:
    if codec == CODECS["gzip"]:
        return bytes(cramjam.gzip.decompress(data))
    if codec == CODECS["snappy"]:
        return bytes(snappy_decode(data))
    if codec == CODECS["lz4"]:
        return bytes(cramjam.lz4.decompress(data))
    return bytes(cramjam.zstd.decompress(data))
