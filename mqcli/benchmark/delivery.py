"""The verdict on delivery: what was confirmed, against what arrived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from .plan import Consumed, Produced
from .sequences import Sequences
from .tracker import First

__all__ = ["Delivery", "judge"]


class Delivery(msgspec.Struct, omit_defaults=False):
    """Counts of messages, warm-up included. ``expected`` are those confirmed, once for each
    consumer that gets everything; a ``lost`` one was read past, an ``unseen`` one may still come.
    A damaged message is ``corrupt``, and not lost besides."""

    expected: int = 0
    delivered: int = 0
    lost: int = 0
    unseen: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupt: int = 0
    foreign: int = 0
    firsts: dict[str, First] = {}

    @property
    def sound(self) -> bool:
        """Nothing is wrong (what nobody promised an order for may come in any)."""
        return not (self.lost or self.unseen or self.duplicated or self.corrupt or self.foreign)


def judge(
    produced: Sequence[Produced],
    consumed: Sequence[Consumed],
    *,
    shared: bool,
    ordered: bool,
    complete: bool,
) -> Delivery:
    """``shared``: the consumers divide the messages among them. ``ordered``: in one order for all,
    so that who has read a closing mark has read all before it. Not ``complete``: reading was
    stopped, so that nothing can be called lost."""
    found = Delivery()
    for reader in consumed:
        for kind, count in reader.faults.items():
            setattr(found, kind, getattr(found, kind) + count)
        for kind, first in reader.firsts.items():
            known = found.firsts.get(kind)
            if known is None or (first.at_s or 0) < (known.at_s or 0):
                found.firsts[kind] = first
    groups = [list(consumed)] if shared else [[one] for one in consumed]
    for group in groups if consumed else []:
        seen, damaged = _union(group, found)
        marked = ordered and any(reader.mark for reader in group)
        for one in produced:
            excused = [Sequences.decode(one.refused), Sequences.decode(one.unknown)]
            expected = one.sent - len(excused[0]) - len(excused[1])
            mine = seen[one.producer]
            missing = mine.missing(one.sent, *excused)
            found.expected += expected
            found.delivered += expected - len(missing)
            missing = mine.missing(one.sent, *excused, damaged[one.producer])
            if not missing:
                continue
            total = len(missing)
            lost = missing.below(one.sent if marked else mine.highest) if complete else 0
            found.lost += lost
            found.unseen += total - lost
            number = next(iter(missing))
            if lost:
                found.firsts.setdefault("lost", First(producer=one.producer, sequence=number))
            if total > lost:
                number = next(n for n in missing if n >= mine.highest or not complete)
                found.firsts.setdefault("unseen", First(producer=one.producer, sequence=number))
    return found


def _union(
    group: Sequence[Consumed], found: Delivery
) -> tuple[dict[int, Sequences], dict[int, Sequences]]:
    """What the group has seen, and what came damaged; what two of them had is a duplicate."""
    seen: defaultdict[int, Sequences] = defaultdict(Sequences)
    damaged: defaultdict[int, Sequences] = defaultdict(Sequences)
    for one in group:
        for producer, encoded in one.seen.items():
            both = seen[producer].merge(Sequences.decode(encoded))
            if both:
                found.duplicated += both
                found.firsts.setdefault(
                    "duplicated", First(producer=producer, detail="by two consumers")
                )
        for producer, encoded in one.damaged.items():
            damaged[producer].merge(Sequences.decode(encoded))
    return seen, damaged
