"""A set of sequence numbers that mostly come in order: one number while nothing is missing, a bit
for each where something is, and set algebra at the speed of long integers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Self

import msgspec

__all__ = ["Sequences"]

_SHIFT = 16
_PAGE = 1 << _SHIFT
_LOW = _PAGE - 1
_FULL = (1 << _PAGE) - 1


class _Packed(msgspec.Struct, array_like=True):
    floor: int
    full: list[int]
    pages: dict[int, bytes]


class Sequences:
    """Numbers from 0 on. All below ``floor`` are in it; above, a byte for each in pages."""

    def __init__(self) -> None:
        self._floor = 0
        self._pages: dict[int, bytearray] = {}
        self._left: dict[int, int] = {}
        self._full: set[int] = set()
        self.first_known = 0
        """The first number of the latest ``add_run`` that was there already, if any was."""

    def add_run(self, first: int, count: int) -> int:
        """Add ``count`` numbers from ``first`` on; how many were there already."""
        if first == self._floor and not self._pages and not self._full:
            self._floor += count
            return 0
        known = min(count, max(0, self._floor - first))
        self.first_known = first
        first, end = first + known, first + count
        while first < end:
            number, low = first >> _SHIFT, first & _LOW
            size = min(end - first, _PAGE - low)
            if number in self._full:
                self.first_known = self.first_known if known else first
                known += size
                first += size
                continue
            page = self._page(number)
            there = page.count(1, low, low + size)
            if there and not known:
                self.first_known = first + page.find(1, low) - low
            known += there
            first += size
            if there < size:
                page[low : low + size] = b"\1" * size
                self._filled(number, size - there)
        return known

    def add(self, number: int) -> bool:
        """Add one; whether it is new."""
        return not self.add_run(number, 1)

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            # The part of the floor that reaches into this page is in the page, too.
            low = min(_PAGE, max(0, self._floor - (number << _SHIFT)))
            page = self._pages[number] = bytearray(b"\1" * low + bytes(_PAGE - low))
            self._left[number] = _PAGE - low
        return page

    def _filled(self, number: int, count: int) -> None:
        self._left[number] -= count
        if self._left[number]:
            return
        del self._pages[number], self._left[number]
        self._full.add(number)
        while (number := self._floor >> _SHIFT) in self._full:
            self._full.discard(number)
            self._floor = (number + 1) << _SHIFT

    def _bits(self, number: int) -> int:
        """The page as an integer: bit i says whether the page's i-th number is in."""
        if number in self._full:
            return _FULL
        page = self._pages.get(number)
        if page is None:
            return (1 << min(_PAGE, max(0, self._floor - (number << _SHIFT)))) - 1
        digits = page.translate(_TO_DIGITS)
        digits.reverse()
        return int(digits, 2)

    def _numbers(self) -> Iterable[int]:
        """Those of all pages in which something is."""
        low = range((self._floor + _LOW) >> _SHIFT)
        return sorted({*low, *self._full, *self._pages})

    def __len__(self) -> int:
        return sum(self._bits(number).bit_count() for number in self._numbers())

    def __bool__(self) -> bool:
        return bool(self._floor or self._pages or self._full)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequences):
            return NotImplemented
        pages = {*self._numbers(), *other._numbers()}
        return all(self._bits(number) == other._bits(number) for number in pages)

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[int]:
        for number in self._numbers():
            yield from _positions(self._bits(number), number << _SHIFT)

    @property
    def highest(self) -> int:
        """The highest number, -1 when there is none."""
        last = max(self._numbers(), default=0)
        return (last << _SHIFT) + self._bits(last).bit_length() - 1

    def merge(self, other: Sequences) -> int:
        """Add all of ``other``; how many were in both."""
        both = 0
        merged = Sequences()
        for number in sorted({*self._numbers(), *other._numbers()}):
            mine, theirs = self._bits(number), other._bits(number)
            both += (mine & theirs).bit_count()
            merged._put(number, mine | theirs)
        self.__dict__.update(merged.__dict__)
        return both

    def _put(self, number: int, bits: int) -> None:
        """Set a whole page; pages come in ascending order."""
        if bits == _FULL:
            if self._floor == number << _SHIFT:
                self._floor += _PAGE
            else:
                self._full.add(number)
        elif bits:
            digits = bytearray(f"{bits:0{_PAGE}b}", "ascii")
            digits.reverse()
            self._pages[number] = digits.translate(_FROM_DIGITS)
            self._left[number] = _PAGE - bits.bit_count()

    def missing(self, end: int, *excused: Sequences) -> Sequences:
        """Those below ``end`` that are neither here nor in ``excused``."""
        found = Sequences()
        for number in range((end + _LOW) >> _SHIFT):
            bits = (1 << min(_PAGE, end - (number << _SHIFT))) - 1
            bits &= ~self._bits(number)
            for other in excused:
                bits &= ~other._bits(number)
            if bits:
                found._put(number, bits)
        return found

    def below(self, end: int) -> int:
        """How many are lower than ``end``."""
        total = 0
        for number in self._numbers():
            left = end - (number << _SHIFT)
            if left > 0:
                total += (self._bits(number) & ((1 << min(_PAGE, left)) - 1)).bit_count()
        return total

    def encode(self) -> bytes:
        size = _PAGE // 8
        pages = {number: self._bits(number).to_bytes(size, "little") for number in self._pages}
        packed = _Packed(self._floor, sorted(self._full), pages)
        return zlib.compress(msgspec.msgpack.encode(packed), 1)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        packed = msgspec.msgpack.decode(zlib.decompress(data), type=_Packed)
        made = cls()
        made._floor = packed.floor
        made._full = set(packed.full)
        for number, bits in packed.pages.items():
            made._put(number, int.from_bytes(bits, "little"))
        return made


_TO_DIGITS = bytes((48, 49)) + bytes(254)
_FROM_DIGITS = bytes(48) + bytes((0, 1)) + bytes(206)


def _positions(bits: int, base: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield base + low.bit_length() - 1
        bits ^= low
