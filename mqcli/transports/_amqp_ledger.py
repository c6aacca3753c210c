"""The account of published messages: what the broker's answers say of each.

Messages are numbered by the broker in the order in which they are written; a confirm names a
number, or all up to it. A message that no queue took comes back (``mandatory``) without a number,
before its confirm: it is attributed to the oldest unconfirmed message with the same routing key,
properties and body, which is right even where messages are identical, for then they are
interchangeable. Messages come back in the order in which they were written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import MqcliError
from ..message import Message
from ..transport import Outcome

__all__ = ["CONFIRMED", "NACKED", "Call", "Ledger", "Part"]

_PENDING, CONFIRMED, NACKED = 0, 1, 2
_SETTLE = {state: bytes((state,)) + bytes(range(1, 256)) for state in (CONFIRMED, NACKED)}


class Call:
    """One call of ``publish``: what has become of its messages so far."""

    def __init__(self, batch: Sequence[Message], future: asyncio.Future[None]) -> None:
        self.batch = batch
        self.open = len(batch)
        self.refused: dict[int, MqcliError] = {}
        self.unknown: list[int] = []
        self.cause: MqcliError | None = None
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        """Until the next look whether the broker still answers. It stands here because a closure
        that names itself would keep the batch until the garbage collector comes."""

    def settle(self, count: int) -> None:
        """So many more have their fate; those in neither list were confirmed."""
        self.open -= count
        if self.open == 0 and not self.future.done():
            self.future.set_result(None)

    def refuse(self, index: int, error: MqcliError) -> None:
        self.refused[index] = error
        self.settle(1)

    def outcome(self) -> Outcome:
        confirmed = len(self.batch) - len(self.refused) - len(self.unknown)
        return Outcome(confirmed, self.refused, sorted(self.unknown), self.cause)


class Part:
    """Messages of one call written in a row: the delivery tags from ``first`` on."""

    def __init__(self, call: Call, indices: Sequence[int], first: int) -> None:
        self.call, self.indices, self.first = call, indices, first
        self.last = first + len(indices) - 1
        self.states = bytearray(len(indices))
        self.left = len(indices)
        self.low = 0
        self.searched = 0
        self.returned: dict[int, MqcliError] = {}

    def message(self, position: int) -> Message:
        return self.call.batch[self.indices[position]]

    def mark(self, start: int, end: int, state: int) -> None:
        """The pending ones from ``start`` to ``end`` (exclusive) have this state now."""
        states = self.states
        self.left -= states.count(_PENDING, start, end)
        states[start:end] = states[start:end].translate(_SETTLE[state])

    def pending(self) -> list[int]:
        """The positions without an answer; those that came back have one."""
        returned = self.returned
        return [i for i, state in enumerate(self.states) if not state and i not in returned]

    def close(self, nacked: MqcliError) -> None:
        """No answer is awaited any more: tell the call."""
        call = self.call
        if self.states.count(NACKED):
            for i, state in enumerate(self.states):
                if state == NACKED:
                    call.refused[self.indices[i]] = nacked
        for i, error in self.returned.items():
            call.refused[self.indices[i]] = error
        call.settle(len(self.states))


class Ledger:
    """Everything written on one channel that is not settled."""

    def __init__(self, nacked: MqcliError) -> None:
        self.parts: deque[Part] = deque()
        self.any_confirmed = False
        self._nacked = nacked
        self._next_tag = 1

    def write(self, call: Call, indices: Sequence[int]) -> None:
        part = Part(call, indices, self._next_tag)
        self._next_tag = part.last + 1
        self.parts.append(part)

    def restart(self) -> None:
        """A new channel numbers from 1."""
        self._next_tag = 1

    def confirm(self, tag: int, multiple: bool, state: int) -> None:
        parts = self.parts
        self.any_confirmed = True
        if multiple:
            while parts and parts[0].last <= tag:
                part = parts.popleft()
                part.mark(part.low, len(part.states), state)
                part.close(self._nacked)
            if parts and parts[0].first <= tag:
                part = parts[0]
                done = tag - part.first + 1
                part.mark(part.low, done, state)
                part.low = max(part.low, done)
        else:
            for part in parts:
                if part.first <= tag <= part.last:
                    position = tag - part.first
                    part.mark(position, position + 1, state)
                    break
        while parts and parts[0].left == 0:
            parts.popleft().close(self._nacked)

    def came_back(self, same: Callable[[Message], bool], error: MqcliError) -> bool:
        """The oldest message that is ``same`` was returned. False when there is none."""
        parts = self.parts
        for n, part in enumerate(parts):
            states, returned = part.states, part.returned
            for i in range(part.searched, len(states)):
                if not states[i] and i not in returned and same(part.message(i)):
                    returned[i] = error
                    part.searched = i + 1
                    for earlier in range(n):
                        parts[earlier].searched = len(parts[earlier].states)
                    return True
        return False

    def give_up(self, parts: Sequence[Part], cause: MqcliError, certain: bool = False) -> None:
        """What is pending of these is unknown, or ``certain`` not to have been taken."""
        for part in parts:
            self.parts.remove(part)
            pending = part.pending()
            if certain:
                part.returned |= dict.fromkeys(pending, cause)
            elif pending:
                part.call.unknown += [part.indices[i] for i in pending]
                part.call.cause = part.call.cause or cause
            part.close(self._nacked)

    def split(
        self, guilty: Part, position: int, refusal: MqcliError
    ) -> list[tuple[Call, list[int]]]:
        """The broker closed the channel for this message: those before it are unknown. Returns
        those behind it, which were not taken, for writing again."""
        again: list[tuple[Call, list[int]]] = []
        parts = list(self.parts)
        place = parts.index(guilty)
        guilty.returned[position] = refusal
        for n, part in enumerate(parts):
            behind = [i for i in part.pending() if n > place or (n == place and i > position)]
            if behind:
                for i in behind:
                    part.states[i] = CONFIRMED
                part.call.open += len(behind)  # what close() will count: they are open still
                again.append((part.call, [part.indices[i] for i in behind]))
            self.give_up([part], refusal)
        return again
