"""Record batches: there and back, and what aiokafka gives for it. No broker."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.message import Message, Plain, Received, Tagged, contents
from mqcli.transports import _kafka
from mqcli.transports._kafka_reading import (
    Records,
    Unreadable,
    by_token,
    reading,
    split,
)
from mqcli.transports._kafka_records import (
    CODECS,
    Chunk,
    Packing,
    build,
    columns,
    murmur2,
    wire_headers,
)


def encoded(messages: list[Message], how: Packing | None = None, base: int = 0) -> list[bytes]:
    parts = columns(messages)
    if parts.headers is not None:
        parts.headers = [wire_headers(headers) for headers in parts.headers]
    made = []
    for chunk in build(3, range(len(messages)), parts, how or Packing(1 << 20), 1_700_000_000_000):
        chunk.stamp(7, 1, 5)
        made.append(struct.pack(">q", base) + bytes(chunk.data[8:]))
        base += len(chunk.indices)
    return made


def decoded(data: bytes, first: int = 0) -> list[Received]:
    return [
        message
        for batch in split(memoryview(data))
        for run in reading(batch, 3, "source", first, check=True)
        for message in run.received()
    ]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
raws = st.binary(max_size=40)
bodies = st.builds(
    Message,
    value=st.none() | raws,
    key=st.none() | raws,
    headers=st.lists(st.tuples(texts, raws | st.just(Tagged("null", None))), max_size=3).map(tuple),
    timestamp=st.none() | st.integers(0, 1 << 45),
)


def as_read(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@given(
    st.lists(bodies, min_size=1, max_size=20),
    st.sampled_from(sorted(CODECS)),
    st.sampled_from([0, 5, 998, 123_456_789]),
)
def test_messages_come_back_as_they_were(messages: list[Message], codec: str, base: int) -> None:
    # Given any messages, when made into batches in any codec and read
    data = b"".join(encoded(messages, Packing(1 << 20, CODECS[codec]), base))
    got = decoded(data, base)
    # Then they are equal, and their positions count on
    assert [(m.value, m.key) for m in got] == [(m.value, m.key) for m in messages]
    assert [m.headers for m in got] == [
        tuple((name, as_read(value)) for name, value in m.headers) for m in messages
    ]
    assert [m.timestamp for m in got] == [
        1_700_000_000_000 if m.timestamp is None else m.timestamp for m in messages
    ]
    assert [m.position for m in got] == [f"3:{base + n}" for n in range(len(messages))]


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=60), st.integers(200, 2000))
def test_batches_keep_to_the_limit(values: list[bytes], limit: int) -> None:
    # Given values of uneven sizes, when built
    messages = Plain(values)
    chunks = build(0, range(len(values)), columns(messages), Packing(limit), 0)
    # Then every batch fits, unless one message alone is larger, and nothing is lost or moved
    for chunk in chunks:
        assert chunk.size() <= limit or len(chunk.indices) == 1
    assert [index for chunk in chunks for index in chunk.indices] == list(range(len(values)))
    got = []
    for chunk in chunks:
        chunk.stamp(-1, -1, -1)
        got += [m.value for m in decoded(bytes(chunk.data))]
    assert got == values


def test_reading_may_begin_inside_a_batch() -> None:
    # Given a batch of 2500 from offset 990 on
    (data,) = encoded([Message(b"%d" % n) for n in range(2500)], base=990)
    # When read from 1500 on, then it begins there
    got = decoded(data, 1500)
    assert (got[0].value, got[0].position) == (b"510", "3:1500")
    assert got[-1].position == "3:3489" and len(got) == 1990


def test_a_batch_stamped_again_is_valid() -> None:
    # Given a batch that was stamped, as for a first try
    parts = columns([Message(b"x")])
    chunk: Chunk = build(0, range(1), parts, Packing(1000), 0)[0]
    chunk.stamp(1, 0, 10)
    # When it gets other numbers, then its checksum is right again
    chunk.stamp(1, 0, 4)
    assert [m.value for m in decoded(bytes(chunk.data))] == [b"x"]
    assert struct.unpack_from(">qhi", chunk.data, 43) == (1, 0, 4)


def test_header_names_that_are_not_text_can_be_read() -> None:
    # Given a batch whose header name another client wrote in Latin-1
    (data,) = encoded([Message(b"v", b"k", (("nXme", "1"),)), Message(None)])
    broken = bytearray(data.replace(b"nXme", b"n\xe4me"))
    from aiokafka.record.util import calc_crc32c

    struct.pack_into(">I", broken, 17, calc_crc32c(memoryview(broken)[21:]))
    # When read, then the name is bytes, and all else as ever
    first, second = decoded(bytes(broken))
    assert first.headers == ((b"n\xe4me", "1"),)
    assert (first.value, first.key, first.position) == (b"v", b"k", "3:0")
    assert (second.value, second.position) == (None, "3:1")


def test_such_a_name_deep_in_a_batch_repeats_nothing() -> None:
    # Given a batch of which only the last record has such a name
    many = [Message(str(n).encode()) for n in range(4500)]
    (data,) = encoded([*many, Message(b"last", None, (("nXme", "1"),))])
    broken = bytearray(data.replace(b"nXme", b"n\xe4me"))
    from aiokafka.record.util import calc_crc32c

    struct.pack_into(">I", broken, 17, calc_crc32c(memoryview(broken)[21:]))
    # When read from a place within, then each message comes once
    got = decoded(bytes(broken), 100)
    assert [m.position for m in got] == [f"3:{n}" for n in range(100, 4501)]
    assert got[-1].headers == ((b"n\xe4me", "1"),)


def places(messages: Sequence[Received]) -> list[tuple[object, list[int]]]:
    return [(token, [place.offset for place in found]) for token, found in by_token(messages)]


def test_parts_of_what_arrived() -> None:
    # Given messages of several batches as a feed hands them out
    runs = []
    for data in encoded([Message(str(n).encode(), b"k") for n in range(7)], Packing(90)):
        (batch,) = split(memoryview(data))
        runs += list(reading(batch, 3, "source", 0, check=True, token=len(runs)))
    assert len(runs) > 2
    whole = Records(runs)
    every = whole.made()
    # When parts are taken, then they are what the list of messages would give
    for start in range(8):
        for stop in range(8):
            assert list(whole[start:stop]) == every[start:stop]
            assert contents(whole[start:stop]) == [m.value for m in every[start:stop]]
    assert [whole[n] for n in (0, 3, -1)] == [every[0], every[3], every[-1]]
    assert list(whole[::2]) == every[::2]
    # And their places are the same, however they are held
    for part in (whole[1:6], whole[:]):
        assert places(part) == places(list(part))


@pytest.mark.parametrize("place", [70, 25, 100])
def test_damage_is_found(place: int) -> None:
    # Given a batch with one bit flipped, when read, then it is not taken for good
    (data,) = encoded([Message(b"x" * 100)])
    broken = bytearray(data)
    broken[place] ^= 1
    with pytest.raises(Unreadable):
        decoded(bytes(broken))


def test_a_cut_off_batch_is_left_for_the_next_fetch() -> None:
    # Given what a broker sends: the last batch is cut off anywhere
    one, two = encoded([Message(b"1")]), encoded([Message(b"2")], base=1)
    whole = one[0] + two[0]
    for end in range(len(one[0]), len(whole)):
        # When split, then only what is whole is there
        assert [m.value for m in decoded(whole[:end])] == [b"1"]


@pytest.mark.parametrize(
    ("key", "java"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_java(key: bytes, java: int) -> None:
    # Given the vectors of Kafka's own UtilsTest, when hashed, then ours is theirs, made positive
    assert murmur2(key) == java & 0x7FFFFFFF


def test_header_names_must_be_text() -> None:
    for name in (b"\xff", "\udcff"):
        with pytest.raises(ValueError):
            wire_headers(((name, "x"),))
    with pytest.raises(ValueError):
        wire_headers((("n", 7),))
    assert wire_headers((("a", ""), ("a", Tagged("null", None)))) == [("a", b""), ("a", None)]


USED = {
    "aiokafka.conn": ["ScramAuthenticator", "SaslPlainAuthenticator"],
    "aiokafka.codec": ["snappy_encode", "snappy_decode"],
    "aiokafka.record.util": ["calc_crc32c"],
    "aiokafka.record.default_records": ["DefaultRecordBatch", "DefaultRecordBatchBuilder"],
    "aiokafka.record.memory_records": ["MemoryRecords"],
    "aiokafka.coordinator.assignors.range": ["RangePartitionAssignor"],
    "aiokafka.coordinator.assignors.roundrobin": ["RoundRobinPartitionAssignor"],
    "aiokafka.coordinator.protocol": [
        "ConsumerProtocolMemberAssignment",
        "ConsumerProtocolMemberMetadata",
    ],
    "aiokafka.protocol.admin": [
        "ApiVersionRequest", "SaslAuthenticateRequest", "SaslHandShakeRequest",
        "CreateTopicsRequest_v3", "CreateTopicsResponse_v3", "DeleteRecordsRequest",
        "DeleteTopicsRequest", "DescribeConfigsRequest", "DescribeGroupsRequest",
        "ListGroupsRequest",
    ],
    "aiokafka.protocol.api": ["RequestStruct"],
    "aiokafka.protocol.commit": ["OffsetCommitRequest", "OffsetFetchRequest"],
    "aiokafka.protocol.coordination": ["FindCoordinatorRequest"],
    "aiokafka.protocol.fetch": ["FetchRequest"],
    "aiokafka.protocol.group": [
        "HeartbeatRequest", "JoinGroupRequest", "LeaveGroupRequest", "SyncGroupRequest",
    ],
    "aiokafka.protocol.metadata": ["MetadataRequest"],
    "aiokafka.protocol.offset": ["OffsetRequest"],
    "aiokafka.protocol.produce": [f"ProduceResponse_v{version}" for version in range(3, 9)],
    "aiokafka.protocol.transaction": [
        "AddPartitionsToTxnRequest", "EndTxnRequest", "InitProducerIdRequest",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", USED)
def test_what_is_used_of_aiokafka_is_there(module: str) -> None:
    """The guard: none of this is documented as public."""
    assert module.startswith(_kafka.PRIVATE)
    loaded = importlib.import_module(module)
    for name in USED[module]:
        assert hasattr(loaded, name), f"{module}.{name}"


def test_asking_for_metadata_creates_nothing() -> None:
    # Given the request as we make it, when encoded in the newest form
    from aiokafka.protocol.metadata import MetadataRequest

    made = MetadataRequest(["t"], allow_auto_topic_creation=False).prepare({3: (0, 12)})
    # Then it says that no topic may be made
    assert made.encode()[-1:] == b"\x00"
