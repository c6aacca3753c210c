"""What is on its way to Kafka: batches in lanes, one for each partition, in order.

The rules are the broker's (*ProducerStateManager*): a batch it refused did not use up its sequence
numbers, so those behind it are numbered anew; one whose fate is unknown keeps its numbers until the
broker knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from ..errors import MqcliError
from ..message import Message
from ..transport import Outcome
from ._kafka_records import Chunk, Columns

__all__ = ["Batch", "Lane", "Positions", "Sent"]


class Batch:
    """What one call of ``publish`` gave, and what became of it."""

    def __init__(self, messages: Sequence[Message], parts: Columns) -> None:
        self.messages, self.parts = messages, parts
        self.refused: dict[int, MqcliError] = {}
        self.unknown: list[int] = []
        self.cause: MqcliError | None = None
        self.confirmed = 0
        self.places: list[tuple[Sequence[int], int, int]] = []
        self.open = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self, count: int = 1) -> None:
        self.open -= count
        if self.open <= 0 and not self.done.done():
            self.done.set_result(None)

    def outcome(self) -> Outcome:
        positions = Positions(len(self.messages), self.places) if self.places else None
        return Outcome(self.confirmed, self.refused, self.unknown, self.cause, positions=positions)


class Positions(Sequence[str]):
    """``partition:offset`` by index; empty where the broker did not tell. Costs nothing until it
    is looked at."""

    def __init__(self, count: int, places: list[tuple[Sequence[int], int, int]]) -> None:
        self._count, self._places = count, places
        self._texts: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._made()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def _made(self) -> list[str]:
        if self._texts is None:
            self._texts = [""] * self._count
            for indices, partition, base in self._places:
                for place, index in enumerate(indices):
                    self._texts[index] = f"{partition}:{base + place}"
        return self._texts


class Sent(Struct, eq=False):
    """A chunk on its way. ``doubtful``: it may be stored although nobody said so."""

    chunk: Chunk
    batch: Batch
    number: int
    doubtful: bool = False
    error: MqcliError | None = None


class Lane:
    """One partition: what waits, what flies, and what came back to be sent again."""

    def __init__(self, partition: int, leader: int) -> None:
        self.partition, self.leader = partition, leader
        self.waiting: deque[Sent] = deque()
        self.flying: list[Sent] = []
        self.back: list[Sent] = []
        self.holding = False
        """Something came back: nothing more leaves until all that flies has been answered."""
        self.renumber_from: tuple[int, int] | None = None
        """A batch that was refused: what stands behind it takes over its sequence numbers."""
        self.sequence = 0
        self.not_before = 0.0

    def all(self) -> Iterator[Sent]:
        yield from self.flying
        yield from self.back
        yield from self.waiting

    def busy(self) -> bool:
        return bool(self.flying or self.back or self.waiting)

    def ready(self, now: float, most: int) -> bool:
        return (
            bool(self.waiting)
            and not self.holding
            and len(self.flying) < most
            and self.leader >= 0
            and now >= self.not_before
        )

    def settle(self) -> None:
        """Once nothing flies any more: put back what came back, in its old order."""
        if self.flying or not self.holding:
            return
        self.back.sort(key=lambda sent: sent.number)
        if self.renumber_from is not None:
            number, self.sequence = self.renumber_from
            for sent in self.back:
                if sent.number > number:
                    sent.chunk.sequence = -1
            self.renumber_from = None
        self.waiting.extendleft(reversed(self.back))
        self.back.clear()
        self.holding = False
