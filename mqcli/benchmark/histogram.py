"""Latencies, lossless to three significant digits from 1 µs to 1 h, mergeable without loss.

The layout is that of HdrHistogram (Gil Tene, https://hdrhistogram.org) with a lowest discernible
value of 1 ns, a highest of 1 h and 3 significant digits, so that its own tools read what
:meth:`Histogram.encode` and :func:`log_lines` write. Values below 2,048 ns have a counter each;
from there every power of two has 1,024 of equal width, at most 1/1024 of the value.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Self

__all__ = ["HIGHEST", "PERCENTILES", "Histogram", "log_lines"]

HIGHEST = 3_600_000_000_000
"""Nanoseconds in an hour: what lasts longer is counted there, and in ``clipped``."""
PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)

_HALF_BITS = 10  # 1,024 counters for each power of two
_COOKIE = 0x1C849303 | 0x10
_COMPRESSED_COOKIE = 0x1C849304 | 0x10
_HEAD = struct.Struct(">iiiiqqd")
_COMPRESSED_HEAD = struct.Struct(">ii")
_DIGITS = 3
_FEW = 16


def _index(value: int) -> int:
    shift = max(0, value.bit_length() - _HALF_BITS - 1)
    return (shift << _HALF_BITS) + (value >> shift)


def _bounds(index: int) -> tuple[int, int]:
    """The lowest and the highest value that share a counter."""
    shift = max(0, (index >> _HALF_BITS) - 1)
    low = (index - (shift << _HALF_BITS)) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts of durations in nanoseconds.

    A negative one (two clocks that disagree) counts as 0, and in ``negative``. Equality is that
    of all counts.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.negative = 0
        self.clipped = 0

    def record(self, value: int, count: int = 1) -> None:
        """``count`` times the same duration."""
        if not 0 <= value <= HIGHEST:
            value = self._confined(value, count)
        self._counts[_index(value)] += count

    def record_since(self, now: int, starts: Sequence[int]) -> None:
        """The durations from each of ``starts`` to ``now``: the fast way for a batch."""
        mine = self._counts
        known = mine.get  # a Counter asks a method of its own for what it has not got
        # Many are counted first: at saturation a batch has few different starts.
        few = len(starts) < _FEW
        for start, count in zip(starts, repeat(1)) if few else Counter(starts).items():
            value = now - start
            if not 0 <= value <= HIGHEST:
                value = self._confined(value, count)
            shift = value.bit_length() - 11
            index = (shift << 10) + (value >> shift) if shift > 0 else value
            mine[index] = known(index, 0) + count

    def _confined(self, value: int, count: int) -> int:
        if value < 0:
            self.negative += count
            return 0
        self.clipped += count
        return HIGHEST

    def take(self) -> dict[int, int]:
        """All counts as a plain mapping, for :meth:`add`; this one is empty thereafter."""
        taken, self._counts = dict(self._counts), Counter()
        return taken

    def add(self, counts: Mapping[int, int]) -> None:
        """Add what ``take`` gave elsewhere."""
        self._counts.update(counts)

    def merge(self, other: Histogram) -> None:
        """Add all counts of ``other``: the same as if its durations had been recorded here."""
        self._counts.update(other._counts)
        self.negative += other.negative
        self.clipped += other.clipped

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine = (self._counts, self.negative, self.clipped)
        return mine == (other._counts, other.negative, other.clipped)

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int:
        return self._counts.total()

    @property
    def min(self) -> int:
        """The shortest, in ns, to three digits; 0 without any."""
        return _bounds(min(self._counts))[0] if self._counts else 0

    @property
    def max(self) -> int:
        """The longest, in ns, to three digits from above; 0 without any."""
        return _bounds(max(self._counts))[1] if self._counts else 0

    @property
    def mean(self) -> float:
        total = self.count
        if not total:
            return 0.0
        return sum(sum(_bounds(i)) / 2 * n for i, n in self._counts.items()) / total

    def percentiles(self, wanted: Sequence[float]) -> list[int]:
        """For each of the ascending ``wanted`` (0 to 100): the duration in ns that this share did
        not pass, to three digits from above. 0 without any."""
        found: list[int] = []
        seen, total, entries = 0, self.count, sorted(self._counts.items())
        at = iter(entries)
        high = 0
        for percentile in wanted:
            # As HdrHistogram: at least one, and rounded so that 50 % of 2 is the first.
            needed = max(1, min(total, -int(-(percentile / 100 * total) // 1)))
            while seen < needed:
                entry = next(at, None)
                if entry is None:
                    break
                seen += entry[1]
                high = _bounds(entry[0])[1]
            found.append(high)
        return found

    def above(self, value: int) -> int:
        """How many lasted longer than ``value`` ns (to three digits)."""
        return sum(n for index, n in self._counts.items() if _bounds(index)[0] > value)

    def spectrum(self) -> list[tuple[float, int]]:
        """(percentile, ns) at each half of what was left, for a drawing of latency by
        percentile."""
        total = self.count
        wanted, left = [0.0], 50.0
        while total and left / 100 * total >= 0.5:
            wanted += [100 - left * 2 + left * 2 * step / 4 for step in (1, 2, 3)]
            wanted.append(100 - left)
            left /= 2
        wanted = sorted({*wanted, 100.0})
        return list(zip(wanted, self.percentiles(wanted), strict=True)) if total else []

    def encode(self) -> bytes:
        """HdrHistogram's V2 encoding, compressed. ``negative`` and ``clipped`` are not in it."""
        body = bytearray()
        last = -1
        for index, count in sorted(self._counts.items()):
            gap = index - last - 1
            if gap:
                _put(body, -gap if gap > 1 else 0)
            _put(body, count)
            last = index
        head = _HEAD.pack(_COOKIE, len(body), 0, _DIGITS, 1, HIGHEST, 1.0)
        packed = zlib.compress(head + bytes(body), 6)
        return _COMPRESSED_HEAD.pack(_COMPRESSED_COOKIE, len(packed)) + packed

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``. Raises ValueError for what is not of this layout."""
        try:
            cookie, length = _COMPRESSED_HEAD.unpack_from(data)
            if cookie != _COMPRESSED_COOKIE:
                raise ValueError("not a compressed V2 histogram")
            start = _COMPRESSED_HEAD.size
            raw = zlib.decompress(data[start : start + length])
            head = _HEAD.unpack_from(raw)
        except (struct.error, zlib.error) as exc:
            raise ValueError(f"a damaged histogram: {exc}") from exc
        if head[0] != _COOKIE or head[2:6] != (0, _DIGITS, 1, HIGHEST):
            raise ValueError("a histogram of another range or precision")
        made, index = cls(), 0
        for value in _values(raw[_HEAD.size : _HEAD.size + head[1]]):
            if value < 0:
                index -= value
            else:
                if value:
                    made._counts[index] = value
                index += 1
        return made


def _put(body: bytearray, value: int) -> None:
    """ZigZag LEB128, at most 9 bytes, as HdrHistogram has it."""
    rest = (value << 1) if value >= 0 else ((-value << 1) - 1)
    for _ in range(8):
        if rest < 0x80:
            body.append(rest)
            return
        body.append((rest & 0x7F) | 0x80)
        rest >>= 7
    body.append(rest & 0xFF)


def _values(body: bytes) -> Iterable[int]:
    value = shift = 0
    for byte in body:
        if shift == 56:
            value |= byte << shift
        else:
            value |= (byte & 0x7F) << shift
            if byte & 0x80:
                shift += 7
                continue
        yield (value >> 1) ^ -(value & 1)
        value = shift = 0
    if shift:
        raise ValueError("a damaged histogram: cut off")


def log_lines(
    started: float, interval: float, tagged: Mapping[str, Sequence[bytes]]
) -> Iterable[str]:
    """The lines of an ``.hlog`` file, version 1.3: for each tag the encoded histograms of
    consecutive intervals. ``started`` is in seconds since 1970, ``interval`` in seconds; the
    column of maxima is in milliseconds, as that of HdrHistogram's own logs of nanoseconds."""
    yield "#[Histogram log format version 1.3]"
    yield f"#[StartTime: {started:.3f} (seconds since epoch)]"
    yield '"StartTimestamp","Interval_Length","Interval_Max","HdrHistogram_in_ns"'
    for i in range(max(map(len, tagged.values()), default=0)):
        for tag, encoded in tagged.items():
            if i < len(encoded) and encoded[i]:
                longest = Histogram.decode(encoded[i]).max / 1e6
                text = base64.b64encode(encoded[i]).decode()
                yield f"Tag={tag},{i * interval:.3f},{interval:.3f},{longest:.3f},{text}"
