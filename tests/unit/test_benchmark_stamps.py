"""Stamps and what is made of them: sequences, the tracker, the schedule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.benchmark.delivery import judge
from mqcli.benchmark.plan import Consumed, Produced
from mqcli.benchmark.schedule import Phase, Schedule
from mqcli.benchmark.sequences import Sequences
from mqcli.benchmark.stamps import CONTROL, SIZE, Payloads, Sizes, Stamper, repaired
from mqcli.benchmark.tracker import MARK, Tracker
from mqcli.message import Received

RUN = b"\x11\x22\x33\x44\x55\x66\x77\x88"


def stamper(producer: int = 0, size: int = 100, run: bytes = RUN) -> Stamper:
    return Stamper(run, producer, Payloads(Sizes(((size, size, 1.0),)), 0.0, (), 1))


def tracker(order: str = "all") -> Tracker:
    return Tracker(RUN, order, (0, 1 << 62), 0)  # type: ignore[arg-type]


def received(values: list[bytes], partition: str = "") -> list[Received]:
    return [Received(value, position=f"{partition}{i}") for i, value in enumerate(values)]


def flipped(value: bytes, bit: int) -> bytes:
    damaged = bytearray(value)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)


@pytest.mark.parametrize("size", [SIZE, 33, 100, 5000])
def test_any_flipped_bit_is_corrupt_and_its_message_known(size: int) -> None:
    # Given messages, and every bit of one of them, or many
    value = stamper(3, size).times([10, 20, 30, 40])[2]
    bits = range(size * 8) if size <= 100 else random.Random(1).sample(range(size * 8), 300)
    for bit in bits:
        # When that bit is flipped
        seen = tracker()
        seen.take(received([flipped(value, bit)]), 50)
        # Then it is corrupt, neither foreign nor sound, and it is known which message it was
        assert seen.faults["corrupt"] == 1
        assert seen.sound == seen.faults["foreign"] == 0
        assert repaired(flipped(value, bit)) == (3, 2)


def test_the_two_ways_of_stamping_agree() -> None:
    # Given two stampers of the same producer, when one stamps for one moment, the other for each
    one, other = stamper(), stamper()
    # Then they make the same bytes
    assert one.at(5, 3) + one.at(6, 2) == other.times([5, 5, 5, 6, 6])


def test_what_is_not_ours_is_foreign() -> None:
    # Given messages of another run, of another program, tombstones and short ones among ours
    seen = tracker()
    others = [stamper(run=b"another!").at(1, 1)[0], b"x" * 100, b"", b"short", b"mq" * 40]
    # When taken together
    seen.take([*received(stamper().at(1, 10)), *received(others), Received(None)], 2)
    # Then each is counted as what it is
    assert seen.faults["foreign"] == 6
    assert seen.sound == 10


def test_truncated_messages_are_corrupt() -> None:
    # Given a message cut at its end and one that grew, when taken
    value = stamper().at(1, 1)[0]
    seen = tracker()
    seen.take(received([value[:-3], value + b"!"]), 2)
    # Then both are corrupt
    assert seen.faults["corrupt"] == 2


def test_control_messages_are_none_of_the_load() -> None:
    # Given a probe and a closing mark, when taken
    seen, control = tracker(), stamper(CONTROL)
    probe = control.at(1, 1)
    control.sequence = MARK
    seen.take(received(probe + control.at(1, 1)), 2)
    # Then they are known as such
    assert (seen.probes, seen.mark, seen.sound) == (1, True, 0)


@given(st.data())
def test_counts_are_exact(data: st.DataObject) -> None:
    # Given the messages of two producers, some dropped, repeated, or exchanged with the next
    count = data.draw(st.integers(4, 60))
    rng = data.draw(st.randoms(use_true_random=False))
    values = [list(stamper(p).at(7, count)) for p in (0, 1)]
    sent, lost, duplicated, reordered = [], 0, 0, 0
    for mine in values:
        last = mine.pop()
        i = 0
        out: list[bytes] = []
        while i < len(mine):
            match rng.choice(["keep", "keep", "drop", "twice", "swap"]):
                case "drop":
                    lost += 1
                case "twice":
                    out += [mine[i], mine[i]]
                    duplicated += 1
                case "swap" if i + 1 < len(mine):
                    out += [mine[i + 1], mine[i]]
                    reordered += 1
                    i += 1
                case _:
                    out.append(mine[i])
            i += 1
        sent.append([*out, last])
    # When they arrive in batches of any size, the two mixed
    order = rng.sample([0] * len(sent[0]) + [1] * len(sent[1]), len(sent[0]) + len(sent[1]))
    mixed = [sent[p].pop(0) for p in order]
    seen = tracker()
    while mixed:
        size = rng.randint(1, len(mixed))
        seen.take(received(mixed[:size]), 9)
        mixed = mixed[size:]
    # Then every fault is counted once, as what it is
    verdict = judge(
        [Produced(p, count, Sequences().encode(), Sequences().encode()) for p in (0, 1)],
        [_consumed(seen)], shared=False, ordered=True, complete=True,
    )  # fmt: skip
    assert verdict.lost == lost
    assert verdict.duplicated == duplicated
    assert verdict.reordered == reordered
    assert verdict.expected == 2 * count
    assert verdict.delivered == 2 * count - lost
    assert verdict.unseen == verdict.corrupt == verdict.foreign == 0


def _consumed(seen: Tracker, number: int = 0) -> Consumed:
    return Consumed(
        number, seen.sound, 0, 0, dict(seen.faults), dict(seen.firsts),  # type: ignore[arg-type]
        {p: s.encode() for p, s in seen.seen.items()},
        {p: s.encode() for p, s in seen.damaged.items()}, seen.mark,
    )  # fmt: skip


def test_lost_and_not_yet_seen_are_told_apart() -> None:
    # Given ten messages of which the third and the last two did not arrive
    values = stamper().at(1, 10)
    nothing = Sequences().encode()
    produced = [Produced(0, 10, nothing, nothing)]
    for mark, expected in ((False, (1, 2)), (True, (3, 0))):
        seen = tracker()
        seen.take(received(values[:2] + values[3:8]), 2)
        # When a closing mark was read behind them, or was not
        seen.mark = mark
        found = judge(produced, [_consumed(seen)], shared=False, ordered=True, complete=True)
        # Then what was read past is lost, the rest may still come
        assert (found.lost, found.unseen) == expected
        assert found.firsts["lost"].sequence == 2
    # And when reading was stopped, nothing can be called lost
    found = judge(produced, [_consumed(seen)], shared=False, ordered=True, complete=False)
    assert (found.lost, found.unseen) == (0, 3)


def test_consumers_that_share_are_judged_together() -> None:
    # Given two consumers that share, and one message that both got
    values = stamper().at(1, 10)
    first, second = tracker(), tracker()
    first.take(received(values[:6]), 2)
    second.take(received(values[5:]), 2)
    nothing = Sequences().encode()
    produced = [Produced(0, 10, nothing, nothing)]
    both = [_consumed(first), _consumed(second, 1)]
    # When judged as sharing, then it is a duplicate
    found = judge(produced, both, shared=True, ordered=True, complete=True)
    assert (found.duplicated, found.lost, found.delivered) == (1, 0, 10)
    # When each should have had everything, then much is missing
    found = judge(produced, both, shared=False, ordered=True, complete=True)
    assert (found.duplicated, found.expected, found.lost + found.unseen) == (0, 20, 9)


def test_refused_and_unknown_messages_are_not_missed() -> None:
    # Given ten messages, of which one was refused and one has an unknown fate
    refused, unknown = Sequences(), Sequences()
    refused.add(3)
    unknown.add(4)
    values = stamper().at(1, 10)
    seen = tracker()
    seen.take(received(values[:3] + values[5:]), 2)
    # When judged, then nothing is missing
    produced = [Produced(0, 10, refused.encode(), unknown.encode())]
    found = judge(produced, [_consumed(seen)], shared=False, ordered=True, complete=True)
    assert (found.expected, found.lost, found.unseen) == (8, 0, 0)


def test_partitions_have_an_order_each() -> None:
    # Given a producer's messages by turns in two partitions, read one after the other
    values = stamper().at(1, 10)
    seen = tracker("key")
    # When taken
    seen.take(received(values[::2], "0:") + received(values[1::2], "1:"), 2)
    # Then nothing is out of order
    assert seen.faults["reordered"] == 0
    assert seen.sound == 10


runs = st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 3000)), max_size=20)


@given(runs, runs)
def test_sequences_are_a_set(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    # Given two sets of runs of numbers
    mine, theirs = Sequences(), Sequences()
    plain: list[set[int]] = [set(), set()]
    for made, numbers, chosen in ((mine, plain[0], one), (theirs, plain[1], two)):
        for first, count in chosen:
            run = set(range(first, first + count))
            known = made.add_run(first, count)
            # Then each addition knows what was there
            assert known == len(numbers & run)
            if known:
                assert made.first_known == min(numbers & run)
            numbers |= run
    # And counting, the highest, encoding, the difference and the union are those of sets
    assert len(mine) == len(plain[0])
    assert mine.highest == max(plain[0], default=-1)
    assert Sequences.decode(mine.encode()) == mine
    missing = mine.missing(100_000, theirs)
    assert len(missing) == len(set(range(100_000)) - plain[0] - plain[1])
    assert mine.below(50_000) == len([n for n in plain[0] if n < 50_000])
    assert mine.merge(theirs) == len(plain[0] & plain[1])
    assert len(mine) == len(plain[0] | plain[1])


phases = st.lists(
    st.builds(Phase, st.sampled_from([0.0, 0.5, 333.0, 1000.0, 7777.7]), st.floats(0.05, 3)),
    min_size=1, max_size=4,
)  # fmt: skip


@given(phases, st.integers(1, 5))
def test_a_schedule_is_kept_by_all_producers_together(chosen: list[Phase], count: int) -> None:
    # Given phases and some producers
    schedules = [Schedule(chosen, count, p) for p in range(count)]
    # When all their times are put together
    times = [s.times(0, s.total + 10) for s in schedules]
    # Then they are as many as the phases say, each in order, within the phases
    assert sum(map(len, times)) == sum(phase.messages for phase in chosen)
    for schedule, mine in zip(schedules, times, strict=True):
        assert len(mine) == schedule.total
        assert mine == sorted(mine)
        for i, moment in list(enumerate(mine))[:: max(1, len(mine) // 20)]:
            # And each is due exactly from its time on
            assert schedule.due(moment) >= i + 1
            assert schedule.due(moment - 1) <= i
            assert schedule.times(i, 1) == [moment]


def test_a_schedule_is_even() -> None:
    # Given 1,000 messages/s for a second among two producers
    schedules = [Schedule([Phase(1000.0, 1.0)], 2, p) for p in range(2)]
    # When put together, then there is one every millisecond
    times = sorted(t for s in schedules for t in s.times(0, s.total))
    assert times == [n * 1_000_000 for n in range(1000)]
