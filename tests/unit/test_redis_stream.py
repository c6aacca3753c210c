"""Redis streams: what is promised in docs/redis.md, against real servers and redis-cli.

One file beyond the usual length: log and group are two readings of the same entries, and share
the helpers that write and look at them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import ConnectionLost, NotFound, Refused, UsageError
from mqcli.message import Message, Received
from mqcli.position import Start
from mqcli.transport import Span
from mqcli.transports._redis_stream_feed import Decoder, Id, parse_id
from mqcli.transports._redis_stream_group import RETURNED

from ..brokers.redis import Redis, RedisCluster, RedisServer
from .redis_support import (
    REST,
    Proxy,
    Started,
    closing,
    opened,
    run,
    some,
    targeted,
    to_end,
    until,
    values,
)

WHOLE = Span()
TO_END = Span(stop=Start("end"))


def filled(redis: Redis, name: str, *ids: str) -> None:
    redis.pipe([["XADD", name, place, "value", place] for place in ids])


def pending(redis: Redis, name: str, group: str = "g") -> list[Any]:
    found: list[Any] = redis.cli("XPENDING", name, group, "-", "+", "100")
    return found


def consumers(redis: Redis, name: str, group: str = "g") -> list[bytes]:
    return [one[1] for one in redis.cli("XINFO", "CONSUMERS", name, group)]


# publishing


def test_redis_cli_sees_exactly_the_fields(redis: Redis, fresh: str) -> None:
    hostile = b"\x00\xff\r\n\x1b]52;[/b]"
    messages = [
        Message(b"plain"),
        Message(b"", headers=(("trace", "abc"), ("trace", "again"), (b"\xff", hostile))),
        Message(hostile, b"k-7"),
        Message(b"{}", headers=(("a", "1"), ("value", "2")), raw_fields=True),
    ]

    async def test() -> list[str]:
        address = f"{redis.url}/stream:{fresh}?key_field=key"
        async with opened(address) as stream:
            # When a batch of all sorts is published
            outcome = await stream.publish(messages, 5)
            assert (outcome.confirmed, outcome.refused) == (4, {})
            return list(outcome.positions)

    positions = run(test())
    # Then the entries have these fields and no others, in order, under the ids reported
    found = redis.cli("XRANGE", fresh, "-", "+")
    assert [place.decode() for place, _ in found] == positions
    assert [fields for _, fields in found] == [
        [b"value", b"plain"],
        [b"value", b"", b"trace", b"abc", b"trace", b"again", b"\xff", hostile],
        [b"key", b"k-7", b"value", hostile],
        [b"a", b"1", b"value", b"2"],
    ]


def test_each_refusal_has_its_index_and_harms_no_other(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}?key_field=key") as stream:
            # Given messages that cannot be entries among those that can
            outcome = await stream.publish(
                [
                    Message(b"1", properties={"id": "5-1"}),
                    Message(None),
                    Message(b"x", headers=(("value", "reserved"),)),
                    Message(b"x", headers=(("key", "reserved"),)),
                    Message(b"x", properties={"id": "5-1"}),
                    Message(b"x", properties={"id": "what"}),
                    Message(b"x", raw_fields=True),
                    Message(b"x", timestamp=-1),
                    Message(b"2", properties={"id": "6-*"}),
                    Message(b"3", timestamp=7),
                ],
                5,
            )
            # Then each is refused by index, one of them by the server, and the others are there
            assert sorted(outcome.refused) == [1, 2, 3, 4, 5, 6, 7]
            assert all(type(error) is Refused for error in outcome.refused.values())
            assert "equal or smaller" in str(outcome.refused[4])
            assert outcome.confirmed == 3 and not outcome.unknown and outcome.cause is None
            assert [outcome.positions[i] for i in (0, 8, 9)] == ["5-1", "6-0", "7-0"]

    run(test())
    assert [f[1] for _, f in redis.cli("XRANGE", fresh, "-", "+")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("option", "left"), [("maxlen=2", 2), ("minid=3", 3), ("minid=3-0", 3), ("maxlen=0", 0)]
)
def test_publishing_trims(redis: Redis, fresh: str, option: str, left: int) -> None:
    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}?{option}&approx=false") as stream:
            batch = [Message(b"x", properties={"id": f"{n}-0"}) for n in range(1, 6)]
            assert (await stream.publish(batch, 5)).confirmed == 5

    run(test())
    assert redis.cli("XLEN", fresh) == left


@pytest.mark.parametrize(
    "query", ["maxlen=1&minid=1", "key_field=value", "maxlen=-1", "minid=x", "claim_after=0"]
)
def test_options_that_make_no_sense_are_refused(query: str) -> None:
    with pytest.raises(UsageError):
        where = targeted(f"redis://h/stream:s?{query}")
        from mqcli.transports.redis_stream import RedisStream

        RedisStream.traits(where.options, None)


def test_keys_need_a_field() -> None:
    from mqcli.transports.redis_stream import RedisStream

    plain, keyed = (
        RedisStream.traits(targeted(f"redis://h/stream:s{query}").options, None)
        for query in ("", "?key_field=k")
    )
    assert (plain.keys, keyed.keys) == (False, True)


def test_a_value_past_the_servers_limit_is_refused_before_it_is_sent(started: Started) -> None:
    # Given a server that hangs up on more than a megabyte
    server = started(lambda: RedisServer("proto-max-bulk-len 1mb"))

    async def test() -> None:
        for kind in ("stream", "channel"):
            async with opened(f"{server.url}/{kind}:s") as transport:
                small, large = Message(b"s"), Message(b"x" * (1 << 21))
                # When such a value stands among others, in overlapping calls
                first, second = await asyncio.gather(
                    transport.publish([small, large, small], 5), transport.publish([small], 5)
                )
                # Then it alone is refused
                assert list(first.refused) == [1] and "1048576" in str(first.refused[1])
                assert (first.confirmed, second.confirmed) == (2, 1)

    run(test())
    assert server.cli("XLEN", "s") == 3


def test_a_large_value_comes_through(redis: Redis, fresh: str) -> None:
    value = os.urandom(1 << 20) * 64

    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            assert (await stream.publish([Message(value), Message(b"small")], 30)).confirmed == 2
            async with closing(stream.subscribe(TO_END, None, None)) as feed:
                got = await to_end(feed)
                assert values(got) == [value, b"small"]

    run(test())
    redis.cli("DEL", fresh)


def test_a_lost_reply_is_unknown_and_written_once(redis: Redis, fresh: str) -> None:
    """Trap D1, fault F9."""
    port = int(redis.url.rpartition(":")[2])

    async def test() -> None:
        async with (
            Proxy(port) as proxy,
            opened(f"redis://127.0.0.1:{proxy.port}/stream:{fresh}") as stream,
        ):
            # Given a link that swallows replies, when a batch is published
            assert (await stream.publish([Message(b"0")], 5)).confirmed == 1
            proxy.mute = True
            outcome = await stream.publish([Message(b"1"), Message(b"2")], 0.3)
            # Then its fate is unknown
            assert (outcome.confirmed, outcome.refused) == (0, {})
            assert list(outcome.unknown) == [0, 1]
            assert isinstance(outcome.cause, ConnectionLost)
            # And afterwards nothing is sent, which is another thing
            with pytest.raises(ConnectionLost):
                await stream.publish([Message(b"3")], 1)

    run(test())
    # And it is there once
    assert [f[1] for _, f in redis.cli("XRANGE", fresh, "-", "+")] == [b"0", b"1", b"2"]


def test_a_dying_server_leaves_every_message_accounted_for(started: Started) -> None:
    server = started(lambda: RedisServer("appendonly yes", "appendfsync always"))

    async def test() -> tuple[int, int]:
        async with opened(f"{server.url}/stream:s") as stream:
            tasks = [
                asyncio.create_task(stream.publish([Message(b"%d" % n)] * 100, 10))
                for n in range(200)
            ]
            await tasks[3]
            server.kill()
            outcomes = await asyncio.gather(*tasks)
            for outcome in outcomes:
                assert outcome.confirmed + len(outcome.unknown) == 100 and not outcome.refused
            return sum(o.confirmed for o in outcomes), sum(len(o.unknown) for o in outcomes)

    confirmed, unknown = run(test())
    server.start()
    assert confirmed <= server.cli("XLEN", "s") <= confirmed + unknown == 20_000


# what an entry becomes


def test_entries_of_others_become_messages(redis: Redis, fresh: str) -> None:
    redis.pipe(
        [
            ["XADD", fresh, "1-1", "value", b"\xff\x00"],
            ["XADD", fresh, "1-2", "a", "1", "value", "v", b"\xfe", b"\xfd", "value", "twice"],
            ["XADD", fresh, "2-0", "id", "7", "name", "Ada \u00e9"],
            ["XADD", fresh, "3-0", "key", "k", "value", "v"],
            ["XADD", fresh, "4-0", "x", b"\xff"],
        ]
    )

    async def test() -> list[Received]:
        async with (
            opened(f"{redis.url}/stream:{fresh}?key_field=key") as stream,
            closing(stream.subscribe(TO_END, None, None)) as feed,
        ):
            return await to_end(feed)

    one, two, three, four, five = run(test())
    where = f"{redis.url}/stream:{fresh}"
    assert (one.value, one.headers, one.key, one.raw_fields) == (b"\xff\x00", (), None, False)
    assert (one.source, one.position, one.timestamp) == (where, "1-1", 1)
    assert two.value == b"v"
    assert two.headers == (("a", "1"), (b"\xfe", b"\xfd"), ("value", "twice"))
    # An entry without the value field is its own value, as JSON, and can be written again
    assert three.raw_fields and three.extra == {"raw_fields": True}
    assert three.value == '{"id":"7","name":"Ada é"}'.encode()
    assert three.headers == (("id", "7"), ("name", "Ada é"))
    assert (four.key, four.value, four.headers) == (b"k", b"v", ())
    assert five.value == b'{"x":"\\\\xff"}' and five.headers == (("x", b"\xff"),)


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=200))
def test_decoding_in_runs_is_decoding_one_by_one(shape: list[tuple[int, bool]]) -> None:
    ids, ms = [], 1_700_000_000_000
    for seq, (step, _) in enumerate(shape):
        ms += step // 20  # mostly the same millisecond
        ids.append(b"%d-%d" % (ms, seq))
    entries = [
        [raw, [b"value", b"v"] if plain else [b"value", b"v", b"h", b"1"]]
        for raw, (_, plain) in zip(ids, shape, strict=True)
    ]
    decoder = Decoder("redis://h/stream:s", "value", None)
    made = decoder.messages(entries)
    assert made == [decoder.messages([entry])[0] for entry in entries]
    assert [m.timestamp for m in made] == [int(raw.partition(b"-")[0]) for raw in ids]
    assert [m.token for m in made] == ids


@given(st.builds(Id, st.integers(0, 2**64 - 2), st.integers(0, 2**64 - 1)))
def test_ids_have_neighbours(place: Id) -> None:
    assert place.behind().before() == place and place < place.behind()
    assert parse_id(str(place)) == place


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1-2-3", "1 ", "99999999999999999999"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_id(text)


# positions

IDS = ("1000-0", "1000-1", "2000-0", "3000-0", "3000-5")


@pytest.mark.parametrize(
    ("start", "stop", "wanted"),
    [
        (None, Start("end"), IDS),
        (Start("beginning"), Start("end"), IDS),
        (Start("end"), Start("end"), ()),
        (Start("skip", count=0), Start("end"), IDS),
        (Start("skip", count=2), Start("end"), IDS[2:]),
        (Start("skip", count=9), Start("end"), ()),
        (Start("last", count=0), Start("end"), ()),
        (Start("last", count=2), Start("end"), IDS[3:]),
        (Start("last", count=9), Start("end"), IDS),
        (Start("at", token="1000-1"), Start("end"), IDS[1:]),
        (Start("at", token="2000"), Start("end"), IDS[2:]),
        (Start("after", token="1000-1"), Start("end"), IDS[2:]),
        (Start("time", ms=1001), Start("end"), IDS[2:]),
        (None, Start("beginning"), ()),
        (None, Start("at", token="2000"), IDS[:2]),
        (None, Start("at", token="3000-4"), IDS[:4]),
        (None, Start("time", ms=3000), IDS[:3]),
        (None, Start("last", count=2), IDS[:3]),
        (Start("last", count=3), Start("at", token="3000-5"), IDS[2:4]),
        (Start("end"), Start("at", token="1"), ()),
    ],
)
@pytest.mark.parametrize("way", ["alone", "tail", "group"])
def test_reading_starts_and_stops_where_told(
    redis: Redis, fresh: str, start: Start | None, stop: Start, wanted: tuple[str, ...], way: str
) -> None:
    filled(redis, fresh, *IDS)
    if way == "tail" and start is None:
        start = Start("beginning")

    async def test() -> list[Received]:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            span = Span(start, stop)
            made = stream.tail(span) if way == "tail" else stream.subscribe(span, _group(way), None)
            async with closing(made) as feed:
                return await to_end(feed)

    assert tuple(m.position for m in run(test())) == wanted


@pytest.mark.parametrize("after_ms", [-1, 400], ids=["past", "soon"])
@pytest.mark.parametrize("way", ["alone", "tail", "group"])
def test_a_time_to_stop_at_is_reached_by_the_clock(
    redis: Redis, fresh: str, way: str, after_ms: int
) -> None:
    """Nobody may be writing any more: ``--from @1h..@15m`` of a quiet stream ends."""
    filled(redis, fresh, *IDS)
    span = Span(Start("beginning"), Start("time", ms=int(time.time() * 1000) + after_ms))

    async def test() -> list[Received]:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            made = stream.tail(span) if way == "tail" else stream.subscribe(span, _group(way), None)
            async with closing(made) as feed:
                if way != "group":
                    assert feed.resume() == Span(Start("after", token="0-0"), span.stop)
                return await to_end(feed)

    assert tuple(m.position for m in run(test())) == IDS


def _group(way: str) -> str | None:
    return "g" if way == "group" else None


def test_a_tail_begins_at_the_end_and_goes_on_behind_what_it_gave(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0")

    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            # Given a tail without a start
            async with closing(stream.tail(WHOLE)) as feed:
                assert not await feed.receive(10, REST, 0.01)
                filled(redis, fresh, "2-0", "3-0", "4-0")
                # When it gives out one of three that came
                (one,) = await feed.receive(1, REST, 5)
                span = feed.resume()
            # Then another one goes on behind that
            async with closing(stream.tail(span)) as feed:
                rest = await some(feed, 2)
            assert [m.position for m in (one, *rest)] == ["2-0", "3-0", "4-0"]

    run(test())


def test_an_idle_reader_makes_few_calls_and_wakes_at_once(started: Started) -> None:
    server = started(RedisServer)
    filled(server, "s", "1-0")

    async def test() -> None:
        async with (
            opened(f"{server.url}/stream:s") as stream,
            closing(stream.tail(WHOLE)) as feed,
        ):
            server.cli("CONFIG", "RESETSTAT")
            assert not await feed.receive(10, REST, 0.5)
            stats = server.cli("INFO", "commandstats").decode()
            assert "xread:calls=1," in stats or "xread" not in stats
            server.cli("XADD", "s", "*", "value", "x")
            began = time.monotonic()
            await some(feed, 1)
            assert time.monotonic() - began < 0.3

    run(test())


def test_a_missing_stream_is_not_found_and_not_made(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            for reading in (
                stream.tail(WHOLE),
                stream.subscribe(WHOLE, None, None),
                stream.subscribe(WHOLE, "g", None),
                stream.describe(None),
                stream.purge(),
                stream.delete(),
            ):
                with pytest.raises(NotFound):
                    await reading

    run(test())
    assert redis.cli("EXISTS", fresh) == 0


def test_another_kind_of_key_is_named(redis: Redis, fresh: str) -> None:
    redis.cli("RPUSH", fresh, "1")

    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            for doing in (stream.tail(WHOLE), stream.describe(None), stream.delete()):
                with pytest.raises(UsageError, match=f"use list:{fresh}"):
                    await doing
            outcome = await stream.publish([Message(b"x")], 5)
            assert type(outcome.refused[0]) is UsageError

    run(test())
    assert redis.cli("LRANGE", fresh, "0", "-1") == [b"1"]


@pytest.mark.parametrize("group", [None, "g"])
def test_a_stream_that_is_deleted_meanwhile_is_told(
    redis: Redis, fresh: str, group: str | None
) -> None:
    filled(redis, fresh, "1-0")

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(WHOLE, group, None)) as feed,
        ):
            await some(feed, 1)
            redis.cli("DEL", fresh)
            with pytest.raises(NotFound):
                await some(feed, 1)

    run(test())
    assert redis.cli("EXISTS", fresh) == 0


# groups


def test_a_group_remembers_and_shares(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, *(f"{n}-0" for n in range(1, 101)))

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as one,
            opened(f"{redis.url}/stream:{fresh}") as two,
            closing(one.subscribe(WHOLE, "g", 60)) as first,
            closing(two.subscribe(TO_END, "g", None)) as second,
        ):
            # Given two readers of a group, when both read to the end
            left, right = await some(first, 60), await to_end(second)
            # Then each message came to one of them, and acknowledging counts
            assert len(left) == 60 and len(right) == 40
            got = sorted(int((m.value or b"").split(b"-")[0]) for m in left + right)
            assert got == list(range(1, 101))
            assert await first.ack(left) == 60 and await second.ack(right[:-1]) == 39
            assert [entry[0] for entry in pending(redis, fresh)] == [right[-1].token]

    run(test())


def test_a_clean_reader_leaves_only_the_group(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0")

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(TO_END, "g", None)) as feed,
        ):
            await feed.ack(await to_end(feed))

    run(test())
    assert consumers(redis, fresh) == []
    assert redis.cli("XINFO", "GROUPS", fresh)[0][5] == 0  # pending


def test_from_is_used_once(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0", "3-0")

    async def read(start: Start | None) -> tuple[list[str], list[str]]:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(Span(start, Start("end")), "g", None)) as feed,
        ):
            messages = await to_end(feed)
            await feed.ack(messages)
            return [m.position for m in messages], feed.notes

    # Given a group made at a position, when it is read again from another one
    assert run(read(Start("at", token="2-0"))) == (["2-0", "3-0"], [])
    again, notes = run(read(Start("beginning")))
    # Then it goes on from where it stands and says so; without --from there is nothing to say
    assert again == [] and len(notes) == 1 and "'g'" in notes[0]
    assert run(read(None)) == ([], [])


def test_no_more_is_held_than_is_wanted(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, *(f"{n}-0" for n in range(1, 11)))

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(WHOLE, "g", 1)) as feed,
        ):
            (one,) = await some(feed, 1)
            assert not await feed.receive(10, REST, 0.05)
            assert len(pending(redis, fresh)) == 1
            await feed.ack([one])

    run(test())
    # A foreign reader finds the other nine, delivered for the first time
    found = redis.cli("XREADGROUP", "GROUP", "g", "other", "STREAMS", fresh, ">")[0][1]
    assert len(found) == 9
    assert {entry[3] for entry in pending(redis, fresh)} == {1}


def test_what_is_not_acknowledged_comes_to_the_next_at_once(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0", "3-0")
    address = f"{redis.url}/stream:{fresh}?claim_after=1h"

    async def test() -> None:
        # Given a reader that took three, acknowledged one, gave one back, and closed
        async with opened(address) as stream:
            async with closing(stream.subscribe(WHOLE, "g", 3)) as feed:
                one, _, three = await some(feed, 3)
                await feed.ack([one])
                await feed.nack([three])
            assert consumers(redis, fresh) == [RETURNED.encode()]
        # When another reads, then it gets the two, in order and marked, however long the lease
        async with (
            opened(address) as stream,
            closing(stream.subscribe(TO_END, "g", None)) as feed,
        ):
            again = await to_end(feed)
            assert [(m.position, m.redelivered, m.extra) for m in again] == [
                ("2-0", True, {"delivery_count": 2}),
                ("3-0", True, {"delivery_count": 2}),
            ]
            assert await feed.ack(again) == 2

    run(test())


def test_given_back_comes_to_a_waiting_reader(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0")
    address = f"{redis.url}/stream:{fresh}?claim_after=1h"

    async def test() -> None:
        async with (
            opened(address) as one,
            opened(address) as two,
            closing(one.subscribe(WHOLE, "g", 1)) as first,
            closing(two.subscribe(WHOLE, "g", None)) as second,
        ):
            taken = await some(first, 1)
            assert not await second.receive(1, REST, 0.05)
            await first.nack(taken)
            began = time.monotonic()
            assert values(await some(second, 1)) == [b"1-0"]
            assert time.monotonic() - began < 4

    run(test())


def test_a_slow_output_keeps_what_it_holds(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0")
    address = f"{redis.url}/stream:{fresh}?claim_after=300ms"

    async def test() -> None:
        async with (
            opened(address) as one,
            opened(address) as two,
            closing(one.subscribe(WHOLE, "g", 2)) as first,
            closing(two.subscribe(WHOLE, "g", None)) as second,
        ):
            # Given a reader that holds two for four times as long as others would wait
            held = await some(first, 2)
            assert not await second.receive(10, REST, 1.2)
            # Then they are still its own, delivered once
            assert {entry[3] for entry in pending(redis, fresh)} == {1}
            assert await first.ack(held) == 2

    run(test())


KILLED = """
import asyncio, sys
from mqcli.address import parse_address
from mqcli.registry import target
from mqcli.transport import Span
async def main():
    cls, where = target(parse_address(sys.argv[1]))
    stream = cls(where)
    await stream.open()
    feed = await stream.subscribe(Span(), "g", None)
    messages = await feed.receive(3, 1 << 20, 10)
    await feed.ack(messages[:1])
    print(len(messages), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_what_a_killed_reader_held_comes_again(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0", "3-0")
    address = f"{redis.url}/stream:{fresh}?claim_after=500ms"
    # Given a reader that was killed with three taken and one acknowledged
    with subprocess.Popen([sys.executable, "-c", KILLED, address], stdout=subprocess.PIPE) as dead:
        assert dead.stdout is not None and dead.stdout.readline() == b"3\n"
        dead.send_signal(signal.SIGKILL)
    (name,) = consumers(redis, fresh)

    async def test() -> None:
        async with (
            opened(address) as stream,
            closing(stream.subscribe(WHOLE, "g", None)) as feed,
        ):
            # When the lease is over, then the rest comes again, marked
            again = await some(feed, 2)
            assert [(m.position, m.redelivered) for m in again] == [("2-0", True), ("3-0", True)]
            assert await feed.ack(again) == 2

    run(test())
    # And the dead consumer, which may still be somebody's, was not deleted
    assert consumers(redis, fresh) == [name]


def test_trimmed_entries_are_a_gap(redis: Redis, fresh: str) -> None:
    """Trap D10."""
    filled(redis, fresh, "1-0", "2-0", "3-0")
    redis.cli("XGROUP", "CREATE", fresh, "g", "0")
    redis.cli("XREADGROUP", "GROUP", "g", "dead", "STREAMS", fresh, ">")
    # Given entries that were trimmed while a dead consumer held them
    redis.cli("XTRIM", fresh, "MAXLEN", "1")

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}?claim_after=10ms") as stream,
            closing(stream.subscribe(WHOLE, "g", None)) as feed,
        ):
            assert [m.position for m in await some(feed, 1)] == ["3-0"]
            await until(lambda: bool(feed.gaps))
            (gap,) = feed.gaps
            assert (gap.count, gap.after) == (2, "1-0")

    run(test())


def test_a_stop_leaves_the_rest_untouched(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, *(f"{n}-0" for n in range(1, 301)))

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(TO_END, "g", None)) as feed,
        ):
            # Given an end, when more comes after reading began
            first = list(await feed.receive(1000, REST, 5))
            filled(redis, fresh, *(f"{n}-0" for n in range(301, 401)))
            # Then reading ends at that end
            messages = first + await to_end(feed)
            assert len(messages) == 300
            assert await feed.ack(messages) == 300

    run(test())
    assert len(redis.cli("XREADGROUP", "GROUP", "g", "o", "STREAMS", fresh, ">")[0][1]) == 100
    assert {entry[3] for entry in pending(redis, fresh)} == {1}


def test_a_deletion_in_the_stream_does_not_move_the_end(redis: Redis, fresh: str) -> None:
    # Given a stream of which Redis cannot count what lies ahead of the group
    filled(redis, fresh, *(f"{n}-0" for n in range(1, 301)))
    redis.cli("XGROUP", "CREATE", fresh, "g", "7-0")
    redis.cli("XDEL", fresh, "100-0", "300-0")

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(TO_END, "g", None)) as feed,
        ):
            assert len(await to_end(feed)) == 291

    run(test())


def test_closing_ends_a_blocked_read(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0")

    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            feed = await stream.subscribe(Span(Start("end")), "g", None)
            assert not await feed.receive(1, REST, 0.05)
            began = time.monotonic()
            await feed.aclose()
            assert time.monotonic() - began < 0.5

    run(test())
    # And the consumer is gone, so no message can be delivered to it
    assert consumers(redis, fresh) == []


def test_a_group_on_a_cluster(started: Started) -> None:
    cluster = started(RedisCluster)

    async def test() -> None:
        for name in ("a", "b", "c"):
            async with opened(f"{cluster.url}/stream:{name}") as stream:
                assert (await stream.publish([Message(b"1"), Message(b"2")], 5)).confirmed == 2
                async with closing(stream.subscribe(TO_END, "g", None)) as feed:
                    messages = await to_end(feed)
                    assert values(messages) == [b"1", b"2"]
                    assert await feed.ack(messages) == 2
            assert cluster.cli("XLEN", name) == 2

    run(test())


def test_a_lost_connection_is_told_after_what_had_come(redis: Redis, fresh: str) -> None:
    filled(redis, fresh, "1-0", "2-0", "3-0")

    async def test() -> None:
        async with (
            opened(f"{redis.url}/stream:{fresh}") as stream,
            closing(stream.subscribe(WHOLE, "g", None)) as feed,
        ):
            assert len(await feed.receive(2, REST, 5)) == 2
            redis.kill_clients()
            assert len(await feed.receive(2, REST, 5)) == 1
            with pytest.raises(ConnectionLost):
                await feed.receive(2, REST, 5)

    run(test())


# managing


def test_create_purge_describe_delete(redis: Redis, fresh: str) -> None:
    async def test() -> None:
        async with opened(f"{redis.url}/stream:{fresh}") as stream:
            assert await stream.exists() is False
            assert (await stream.create(), await stream.create()) == (True, False)
            told = await stream.describe(None)
            assert (told["length"], told["first_id"], told["groups"]) == (0, None, [])
            filled(redis, fresh, "1-0", "2-0")
            redis.cli("XGROUP", "CREATE", fresh, "g", "0")
            redis.cli("XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", fresh, ">")
            told = await stream.describe("g")
            assert (told["length"], told["first_id"], told["last_id"]) == (2, "1-0", "2-0")
            (group,) = told["groups"]
            assert (group["name"], group["pending"], group["lag"]) == ("g", 1, 1)
            assert [(c["name"], c["pending"]) for c in group["consumers"]] == [("c", 1)]
            with pytest.raises(NotFound):
                await stream.describe("other")
            assert await stream.purge() == 2 and await stream.exists()
            await stream.delete()
            assert not await stream.exists()

    run(test())


# rights


def test_the_rights_in_the_documentation_are_enough(started: Started) -> None:
    # Given users who may do what docs/redis.md lists, and nothing else
    group = "+xgroup +xreadgroup +xack +xclaim +xautoclaim +xpending +xrange"
    server = started(
        lambda: RedisServer(
            "user pub on >pw ~s +xadd",
            "user alone on >pw ~s +xread +exists +xinfo +xrange +xrevrange",
            f"user shared on >pw ~s +xread +exists +xinfo {group}",
        )
    )

    def at(user: str) -> str:
        return f"{server.url.replace('://', f'://{user}:pw@')}/stream:s"

    async def test() -> None:
        async with opened(at("pub")) as stream:
            assert (await stream.publish([Message(b"1"), Message(b"2")], 5)).confirmed == 2
        async with opened(at("alone")) as stream:
            span = Span(Start("last", count=2), Start("end"))
            async with closing(stream.tail(span)) as feed:
                assert values(await to_end(feed)) == [b"1", b"2"]
        # Then each works, and a group's reader leaves things as clean as any
        async with opened(at("shared")) as stream:
            async with closing(stream.subscribe(TO_END, "g", None)) as feed:
                assert await feed.ack((await to_end(feed))[:1]) == 1
            async with closing(stream.subscribe(WHOLE, "g", None)) as feed:
                assert values(await some(feed, 1)) == [b"2"]
                assert await feed.receive(1, REST, 0.05) == ()

    run(test())
    assert consumers(server, "s") == [RETURNED.encode()]
