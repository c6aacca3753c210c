"""The account of published messages, against a model that keeps it message by message."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import Refused
from mqcli.message import Message
from mqcli.transports._amqp_ledger import CONFIRMED, NACKED, Call, Ledger

NACK, BACK, LOST = Refused("nack"), Refused("came back"), Refused("lost")


def in_loop(test: Any) -> None:
    async def run() -> None:
        test(asyncio.get_running_loop())

    asyncio.run(run())


def calls_of(loop: asyncio.AbstractEventLoop, ledger: Ledger, *sizes: int) -> list[Call]:
    made = []
    for n, size in enumerate(sizes):
        call = Call([Message(b"%d-%d" % (n, i)) for i in range(size)], loop.create_future())
        ledger.write(call, range(size))
        made.append(call)
    return made


answers = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 10**6)), max_size=40)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), answers, st.sets(st.integers(0, 29)))
def test_every_message_has_the_fate_that_was_answered(
    sizes: list[int], told: list[tuple[bool, bool, int]], back: set[int]
) -> None:
    def test(loop: asyncio.AbstractEventLoop) -> None:
        # Given messages of several calls, some of which come back first, in order
        ledger = Ledger(NACK)
        calls = calls_of(loop, ledger, *sizes)
        total = sum(sizes)
        flat = [(call, i) for call in calls for i in range(len(call.batch))]
        model = ["open"] * total
        returned = sorted(n for n in back if n < total)
        for n in returned:
            value = flat[n][0].batch[flat[n][1]].value
            assert ledger.came_back(lambda m, v=value: m.value == v, BACK)  # type: ignore[misc]
        # When confirms come, single or multiple, positive or not, as no broker would repeat them
        for multiple, positive, pick in told:
            unsettled = [n for n in range(total) if model[n] == "open"]
            if not unsettled:
                break
            n = unsettled[pick % len(unsettled)]
            state = CONFIRMED if positive else NACKED
            ledger.confirm(n + 1, multiple, state)
            for m in unsettled if multiple else [n]:
                if m <= n:
                    model[m] = "yes" if positive else "no"
        # and the rest is given up
        ledger.give_up(list(ledger.parts), LOST)
        # Then each call has its own account
        place = 0
        for call, size in zip(calls, sizes, strict=True):
            assert call.future.done()
            outcome = call.outcome()
            for i in range(size):
                n = place + i
                if n in returned:
                    assert outcome.refused[i] is BACK
                elif model[n] == "no":
                    assert outcome.refused[i] is NACK
                else:
                    assert i not in outcome.refused
                    assert (i in outcome.unknown) == (model[n] == "open")
            assert outcome.confirmed + len(outcome.refused) + len(outcome.unknown) == size
            assert (outcome.cause is LOST) == bool(outcome.unknown)
            place += size

    in_loop(test)


def test_what_came_before_the_guilty_is_unknown_and_what_came_after_is_written_again() -> None:
    def test(loop: asyncio.AbstractEventLoop) -> None:
        # Given three calls of which the first message is confirmed
        ledger = Ledger(NACK)
        calls = calls_of(loop, ledger, 3, 3, 2)
        ledger.confirm(1, False, CONFIRMED)
        # When the broker closes the channel for the second message of the second call
        again = ledger.split(ledger.parts[1], 1, LOST)
        # Then those behind it are to be written again, and their calls are open
        assert again == [(calls[1], [2]), (calls[2], [0, 1])]
        assert [call.future.done() for call in calls] == [True, False, False]
        first = calls[0].outcome()
        assert (first.confirmed, list(first.unknown)) == (1, [1, 2])
        # and when that is done and confirmed on a new channel, all is settled
        ledger.restart()
        for call, indices in again:
            ledger.write(call, indices)
        ledger.confirm(3, True, CONFIRMED)
        second, third = calls[1].outcome(), calls[2].outcome()
        assert (second.confirmed, dict(second.refused), list(second.unknown)) == (1, {1: LOST}, [0])
        assert (third.confirmed, third.cause) == (2, None)

    in_loop(test)


def test_identical_messages_are_interchangeable_and_equal_ids_are_not() -> None:
    def test(loop: asyncio.AbstractEventLoop) -> None:
        # Given messages of which two are identical
        ledger = Ledger(NACK)
        batch = [Message(b"a"), Message(b"b"), Message(b"a"), Message(b"c")]
        call = Call(batch, loop.create_future())
        ledger.write(call, range(4))
        # When both of the identical ones come back, and one that was never sent
        assert ledger.came_back(lambda m: m.value == b"a", BACK)
        assert ledger.came_back(lambda m: m.value == b"a", BACK)
        assert not ledger.came_back(lambda m: m.value == b"a", BACK)
        ledger.confirm(4, True, CONFIRMED)
        # Then exactly those are refused
        assert set(call.outcome().refused) == {0, 2}

    in_loop(test)
