"""What one consumer received: which message of which producer, in which order, sound or not."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec

from ..message import Received, contents
from .histogram import Histogram
from .sequences import Sequences
from .stamps import CONTROL, RESIDUE, SIZE, STAMP, is_sound, prefix_of, repaired, resembles

__all__ = ["MARK", "First", "Tracker"]

MARK = 1 << 62
"""Control messages with this number or a higher one are closing marks, the others probes."""

Fault = Literal["duplicated", "reordered", "corrupt", "foreign", "lost", "unseen"]


class First(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first message of a kind of fault. ``at_s`` are seconds since the clock started."""

    at_s: float | None = None
    producer: int | None = None
    sequence: int | None = None
    position: str | None = None
    detail: str | None = None


class Tracker:
    """Checks what a consumer receives, batch by batch.

    ``reordered`` is a message that comes after a later one of the same producer where the broker
    promises an order (in all, or by the partition that a position begins with). A message that
    came before is ``duplicated`` and nothing else. ``window`` bounds the intended times whose
    latency counts.
    """

    def __init__(
        self, run: bytes, order: Literal["none", "key", "all"], window: tuple[int, int], start: int
    ) -> None:
        self._prefix = prefix_of(run)
        self._by_partition = order != "all"
        self._window, self._start = window, start
        self._last: defaultdict[tuple[int, str], int] = defaultdict(lambda: -1)
        self.seen: defaultdict[int, Sequences] = defaultdict(Sequences)
        self.damaged: defaultdict[int, Sequences] = defaultdict(Sequences)
        self.latency = Histogram()
        self.sound = 0
        """Messages of this run that are what they were, duplicates included."""
        self.faults: dict[Fault, int] = dict.fromkeys(
            ("duplicated", "reordered", "corrupt", "foreign"), 0
        )
        self.firsts: dict[Fault, First] = {}
        self.probes = 0
        self.mark = False
        """A closing mark came: all that was published before it has been read past."""

    @property
    def unique(self) -> int:
        """Sound messages without their duplicates."""
        return self.sound - self.faults["duplicated"]

    def begin(self, window: tuple[int, int], start: int) -> None:
        """The clock has been set: all are in ns of the run's clock."""
        self._window, self._start = window, start

    def take(self, messages: Sequence[Received], now: int) -> int:
        """Check a batch that arrived at ``now`` (ns, the run's clock): the bytes of its values."""
        try:
            values = contents(messages)
            if set(map(zlib.crc32, values)) != {RESIDUE}:
                return self._take_each(messages, now)
            stamps = list(STAMP.iter_unpack(b"".join([value[-SIZE:] for value in values])))
        except (TypeError, ValueError):  # one shorter than a stamp among them
            return self._take_each(messages, now)
        prefixes, producers, intended, sequences, _ = zip(*stamps, strict=True)
        if set(prefixes) != {self._prefix} or CONTROL in producers:
            return self._take_each(messages, now)
        self.sound += len(values)
        if not self._by_partition and producers.count(producers[0]) == len(producers):
            self._in_sequence(producers[0], "", sequences, messages, now)
        else:
            self._by_domain(messages, producers, sequences, now)
        first, end = self._window
        if min(intended) >= first and max(intended) < end:
            self.latency.record_since(now, intended)
        else:
            self.latency.record_since(now, [t for t in intended if first <= t < end])
        return sum(map(len, values))

    def _by_domain(
        self,
        messages: Sequence[Received],
        producers: Sequence[int],
        sequences: Sequence[int],
        now: int,
    ) -> None:
        domains: defaultdict[tuple[int, str], tuple[list[int], list[Received]]] = defaultdict(
            lambda: ([], [])
        )
        for message, producer, sequence in zip(messages, producers, sequences, strict=True):
            partition = message.position.partition(":") if self._by_partition else ("", "", "")
            numbers, mine = domains[producer, partition[0] if partition[1] else ""]
            numbers.append(sequence)
            mine.append(message)
        for (producer, domain), (numbers, mine) in domains.items():
            self._in_sequence(producer, domain, tuple(numbers), mine, now)

    def _in_sequence(
        self,
        producer: int,
        domain: str,
        sequences: Sequence[int],
        messages: Sequence[Received],
        now: int,
    ) -> None:
        seen, key = self.seen[producer], (producer, domain)
        first, count, last = sequences[0], len(sequences), self._last[key]
        if first > last and sequences == tuple(range(first, first + count)):
            self._last[key] = sequences[-1]
            known = seen.add_run(first, count)
            if known:
                at = seen.first_known
                self._fault("duplicated", known, producer, at, messages[at - first], now)
            return
        for sequence, message in zip(sequences, messages, strict=True):
            if not seen.add(sequence):
                self._fault("duplicated", 1, producer, sequence, message, now)
            elif sequence < last:
                self._fault("reordered", 1, producer, sequence, message, now)
            else:
                last = sequence
        self._last[key] = last

    def _take_each(self, messages: Sequence[Received], now: int) -> int:
        size = 0
        for message in messages:
            value = message.value or b""
            size += len(value)
            if not is_sound(value):
                if resembles(value, self._prefix):
                    self._corrupt(value, message, now)
                else:
                    self._fault("foreign", 1, None, None, message, now)
                continue
            prefix, producer, intended, sequence, _ = STAMP.unpack(value[-SIZE:])
            if prefix != self._prefix:
                self._fault("foreign", 1, None, None, message, now)
            elif producer == CONTROL:
                size -= len(value)  # no message of the load
                self.mark |= sequence >= MARK
                self.probes += sequence < MARK
            else:
                self.sound += 1
                self._by_domain([message], [producer], [sequence], now)
                if self._window[0] <= intended < self._window[1]:
                    self.latency.record(now - intended)
        return size

    def _corrupt(self, value: bytes, message: Received, now: int) -> None:
        found = repaired(value)
        producer, sequence = found if found is not None else (None, None)
        if producer == CONTROL:
            return  # no message of the load
        self._fault("corrupt", 1, producer, sequence, message, now)
        if producer is not None and sequence is not None and sequence < MARK:
            self.damaged[producer].add(sequence)

    def _fault(
        self,
        kind: Fault,
        count: int,
        producer: int | None,
        sequence: int | None,
        message: Received,
        now: int,
    ) -> None:
        self.faults[kind] += count
        if kind not in self.firsts:
            at = round((now - self._start) / 1e9, 3)
            self.firsts[kind] = First(at, producer, sequence, message.position or None)
