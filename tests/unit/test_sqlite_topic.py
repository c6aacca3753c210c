"""Topics of the embedded broker: exact round trips, guarantees, options."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import Refused, UsageError
from mqcli.message import Headers, HeaderValue, Message, Received, Tagged
from mqcli.options import Duration
from mqcli.transport import ANY, Span
from mqcli.transports._sqlite import SqliteConnection
from mqcli.transports.sqlite_topic import SqliteTopic, SqliteTopicOptions

from . import sqlite_support
from .sqlite_support import (
    END,
    consume,
    drain,
    make,
    numbers,
    opened,
    publish,
    run,
    values,
)

reaped = sqlite_support.reaped


# Round trips

int64 = st.integers(-(2**63), 2**63 - 1)
plain = st.one_of(st.text(), st.binary(), st.booleans(), int64, st.floats(allow_nan=False))
tagged = st.one_of(
    st.builds(Tagged, st.sampled_from(["i8", "u64", "time"]), st.integers(0, 2**64 - 1)),
    st.builds(Tagged, st.just("decimal"), st.text("0123456789.", max_size=9)),
    st.builds(Tagged, st.just("f32"), st.floats(width=32, allow_nan=False)),
    st.just(Tagged("null", None)),
)
header_values: st.SearchStrategy[HeaderValue] = st.recursive(
    st.one_of(plain, tagged),
    lambda inner: st.one_of(
        st.builds(Tagged, st.just("list"), st.lists(inner, max_size=3).map(tuple)),
        st.builds(
            Tagged,
            st.just("table"),
            st.lists(st.tuples(st.text(), inner), max_size=3).map(tuple),
        ),
    ),
    max_leaves=6,
)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.one_of(st.text(), st.binary()), header_values), max_size=3
).map(tuple)
properties = st.dictionaries(
    st.text(),
    st.recursive(
        st.one_of(plain, st.none()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=3,
)
messages = st.builds(
    Message,
    st.none() | st.binary(),
    st.none() | st.binary(),
    headers,
    st.none() | properties,
    st.none() | int64,
)


def exact(value: Any) -> Any:
    """With the type of everything, for 1 == True == 1.0."""
    if isinstance(value, Tagged):
        return ("tagged", value.t, exact(value.v))
    if isinstance(value, list | tuple):
        return (type(value).__name__, [exact(item) for item in value])
    if isinstance(value, dict):
        return ("dict", [(exact(k), exact(v)) for k, v in value.items()])
    return (type(value).__name__, value, math.copysign(1, value) if value == 0.0 else 1)


def content(message: Message) -> Any:
    return exact([message.value, message.key, message.headers, message.properties])


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sqlite") / "b.db"


@given(batch=st.lists(messages, min_size=1, max_size=6))
def test_every_part_of_a_message_comes_back_exactly(
    shared_file: Path, batch: list[Message]
) -> None:
    async def main() -> None:
        # Given any messages
        async with opened(shared_file, uuid4().hex) as transport:
            before = time.time_ns() // 1_000_000
            # When they are published and read again
            outcome = await transport.publish(batch, 10)
            feed = await transport.subscribe(Span(None, END), None, None)
            found = await drain(feed, count=4)
            # Then they are the same to the last type
            assert outcome.confirmed == len(batch)
            assert [content(m) for m in found] == [content(m) for m in batch]
            for sent, got in zip(batch, found, strict=True):
                if sent.timestamp is not None:
                    assert got.timestamp == sent.timestamp
                else:
                    assert got.timestamp is not None
                    assert before <= got.timestamp <= time.time_ns() // 1_000_000
            assert not any(m.raw_fields or m.redelivered or m.extra for m in found)

    run(main())


def test_not_a_number_and_infinity(tmp_path: Path) -> None:
    sent = Message(b"", headers=(("a", math.nan), ("b", math.inf)), properties={"c": -math.inf})
    run(publish(tmp_path / "b.db", sent))
    (got,) = run(consume(tmp_path / "b.db"))
    assert isinstance(got.headers[0][1], float) and math.isnan(got.headers[0][1])
    assert got.headers[1] == ("b", math.inf) and got.properties == {"c": -math.inf}


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000, 2047, 5000])
def test_batches_of_all_sizes(tmp_path: Path, count: int) -> None:
    # Given two batches, the second with keys, so that both ways of storing meet in one topic
    file = tmp_path / "b.db"
    run(publish(file, *numbers(0, count)))
    run(publish(file, *(Message(value, b"k") for value in numbers(count, 2 * count))))
    # When they are read, then order, offsets and the address of each are right
    found = run(consume(file))
    assert values(found) == numbers(0, 2 * count)
    assert [m.position for m in found] == [str(i) for i in range(2 * count)]
    assert [m.key for m in found] == [None] * count + [b"k"] * count
    assert {m.source for m in found} == {f"sqlite://{file}/topic:t"}


def test_large_and_hostile_values_and_bounded_batches(tmp_path: Path) -> None:
    # Given 64 MB among small ones, and bytes of every kind
    large = os.urandom(1 << 20) * 64
    sent = [b"", b"\0\xff\x1b]52;c;\x07\n", large, *numbers(0, 50), bytes(300_000), bytes(800_000)]
    file = tmp_path / "b.db"
    run(publish(file, *sent))

    async def main() -> None:
        async with opened(file) as transport:
            for group in (None, "g"):
                feed = await transport.subscribe(Span(None, END), group, None)
                found: list[Received] = []
                while not feed.ended:
                    # When they are received a megabyte at a time
                    some = await feed.receive(1000, 1 << 20, 5)
                    # Then only a single message passes that bound
                    size = sum(len(v) for v in values(some))
                    assert len(some) <= 1 or size <= 1 << 20
                    found += some
                assert values(found) == sent

    run(main())


def test_what_cannot_be_stored_is_refused_by_index(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "b.db") as transport:
            # Given a limit that one message passes, and others that no format carries
            transport._limit = 10_000
            batch = [
                Message(b"0"),
                Message(bytes(10_001)),
                Message(b"2", properties={"big": 2**70}),
                Message(b"3", headers=(("a", "\ud800"),)),
                Message(b"4", timestamp=2**63),
                Message(b"5", b"key"),
            ]
            # When they are published together
            outcome = await transport.publish(batch, 10)
            # Then the fitting ones are stored, and the others are known exactly
            assert outcome.confirmed == 2
            assert sorted(outcome.refused) == [1, 2, 3, 4]
            assert all(isinstance(e, Refused) for e in outcome.refused.values())
            assert list(outcome.positions or ()) == ["0", "", "", "", "", "1"]
            # And a batch of nothing else makes no difference
            outcome = await transport.publish(batch[1:2], 10)
            assert (outcome.confirmed, sorted(outcome.refused)) == (0, [0])
        assert [(m.value, m.key) for m in await consume(tmp_path / "b.db")] == [
            (b"0", None),
            (b"5", b"key"),
        ]

    run(main())


# Guarantees and options


def test_traits_need_nothing_opened(tmp_path: Path) -> None:
    alone = SqliteTopic.traits(SqliteTopicOptions(), None)
    shared = SqliteTopic.traits(SqliteTopicOptions(), "g")
    assert (alone.confirm, alone.ack, alone.nack, alone.shares) == ("stored", "none", False, False)
    assert (shared.ack, shared.nack, shared.shares) == ("each", True, True)
    assert alone.properties is ANY
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_is_too_short() -> None:
    with pytest.raises(UsageError, match="100ms is the shortest"):
        SqliteTopic.traits(SqliteTopicOptions(claim_after=Duration(0.01)), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sync": "off"},
        {"max_age": "10"},
        {"max_messages": "many"},
        {"max_messages": "-1"},
        {"claim": "1s"},
    ],
    ids=str,
)
def test_options_that_are_wrong(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        make(tmp_path / "b.db", **wrong)


def test_every_option_is_described() -> None:
    names = set()
    for struct in (SqliteConnection, SqliteTopicOptions):
        for field in msgspec.structs.fields(struct):
            assert field.name not in names
            names.add(field.name)
            info = msgspec.inspect.type_info(field.type)
            assert isinstance(info, msgspec.inspect.Metadata)
            assert (info.extra_json_schema or {})["description"]


def test_full_sync_is_what_sqlite_runs_with(tmp_path: Path) -> None:
    async def main(**options: str) -> tuple[Any, Any]:
        async with opened(tmp_path / "b.db", **options) as transport:
            await transport.publish([Message(b"x")], 10)
            assert transport._writer is not None
            return await transport._writer.submit(ask, 10)

    def ask(connection: sqlite3.Connection) -> tuple[Any, Any]:
        names = ("synchronous", "fullfsync")
        first, second = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return first, second

    assert run(main()) == (1, 0)
    assert run(main(sync="full")) == (2, 1)


def test_closing_is_safe_at_any_time(tmp_path: Path) -> None:
    async def main() -> None:
        transport = make(tmp_path / "b.db")
        await transport.aclose()
        await transport.aclose()
        transport = make(tmp_path / "b.db")
        await transport.open()
        await transport.publish([Message(b"x")], 10)
        feed = await transport.tail(Span())
        await transport.aclose()
        await feed.aclose()
        await feed.aclose()
        await transport.aclose()

    run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["b.db"]
