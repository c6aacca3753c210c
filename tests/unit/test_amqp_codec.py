"""AMQP's field tables, properties and frames: exact both ways, with pamqp as the witness."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, decode, encode, frame, header

from mqcli.message import Tagged
from mqcli.transports._amqp_codec import (
    PROPERTY_NAMES,
    Marshaller,
    decode_content,
    decode_table,
    encode_properties,
    encode_table,
    short,
)

_RANGES = {
    "i8": (-(2**7), 2**7 - 1), "u8": (0, 2**8 - 1),
    "i16": (-(2**15), 2**15 - 1), "u16": (0, 2**16 - 1),
    "i32": (-(2**31), 2**31 - 1), "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1), "time": (0, 2**64 - 1),
}  # fmt: skip

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = text.filter(lambda name: len(name.encode()) <= 255)
simple: st.SearchStrategy[Any] = st.one_of(
    text,
    st.binary(max_size=30),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just(Tagged("null", None)),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda v: Tagged("f32", v)),
    st.decimals(-1000, 1000, places=3).map(lambda v: Tagged("decimal", f"{v:f}")),
    *[
        st.integers(*bounds).map(lambda v, tag=tag: Tagged(tag, v))  # type: ignore[misc]
        for tag, bounds in _RANGES.items()
    ],
)
anything: st.SearchStrategy[Any] = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda v: Tagged("list", tuple(v))),
        st.lists(st.tuples(names, inner), max_size=4).map(lambda v: Tagged("table", tuple(v))),
    ),
    max_leaves=8,
)
tables = st.lists(st.tuples(names, anything), max_size=6).map(tuple)


@given(tables)
def test_every_table_comes_back_with_all_types_order_and_repeats(pairs: Any) -> None:
    # Given headers of every type, when encoded and decoded, then nothing has changed
    raw = encode_table(pairs)
    assert decode_table(raw) == (pairs, len(raw))
    # and encoded again they are the same bytes
    assert encode_table(decode_table(raw)[0]) == raw


def test_the_types_on_the_wire_are_rabbitmqs() -> None:
    # Given one value of each type, when encoded, then it has RabbitMQ's letter and size
    wanted = {
        b"S\x00\x00\x00\x01a": "a", b"x\x00\x00\x00\x01\xff": b"\xff", b"t\x01": True,
        b"l" + struct.pack(">q", 5): 5, b"d" + struct.pack(">d", 0.1): 0.1,
        b"b\xff": Tagged("i8", -1), b"B\xff": Tagged("u8", 255),
        b"s\xff\xfe": Tagged("i16", -2), b"u\xff\xfe": Tagged("u16", 65534),
        b"I\xff\xff\xff\xff": Tagged("i32", -1), b"i\x00\x00\x00\x01": Tagged("u32", 1),
        b"L" + b"\xff" * 8: Tagged("u64", 2**64 - 1), b"V": Tagged("null", None),
        b"f" + struct.pack(">f", 1.5): Tagged("f32", 1.5),
        b"D\x02\x00\x00\x04\xe2": Tagged("decimal", "12.50"),
        b"D\x03" + struct.pack(">i", -5): Tagged("decimal", "-0.005"),
        b"T" + struct.pack(">Q", 253402300800000): Tagged("time", 253402300800000),
        b"A\x00\x00\x00\x02t\x00": Tagged("list", (False,)),
        b"F\x00\x00\x00\x03\x01nV": Tagged("table", (("n", Tagged("null", None)),)),
    }  # fmt: skip
    for raw, value in wanted.items():
        assert encode_table([("h", value)]) == struct.pack(">I", len(raw) + 2) + b"\x01h" + raw
        assert decode_table(struct.pack(">I", len(raw) + 2) + b"\x01h" + raw)[0] == (("h", value),)


def test_pamqp_reads_what_we_write() -> None:
    # Given a table, when another implementation decodes it, then it sees the same
    _, found = decode.field_table(
        encode_table([("a", "x"), ("n", 5), ("d", 0.1), ("b", True), ("l", Tagged("list", (1, 2)))])
    )
    assert found == {"a": "x", "n": 5, "d": 0.1, "b": True, "l": [1, 2]}
    # and the other way
    assert decode_table(encode.field_table({"a": "x", "b": True}))[0] == (("a", "x"), ("b", True))


@pytest.mark.parametrize(
    "value",
    [2**63, Tagged("i8", 128), Tagged("u8", -1), Tagged("u8", "x"), Tagged("decimal", "1e5"),
     Tagged("decimal", "99999999999"), Tagged("time", -1), None, ("a",)],
)  # fmt: skip
def test_what_no_table_holds_is_refused_in_words(value: Any) -> None:
    # Given a value out of range, when encoded, then one line says so
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        encode_table([("h", value)])


def test_names_and_nesting_have_their_limits() -> None:
    # Given a name of 256 bytes, or nesting without end, when encoded, then it is refused
    with pytest.raises(ValueError, match="256 bytes"):
        encode_table([("é" * 128, 1)])
    deep: Any = 1
    for _ in range(40):
        deep = Tagged("list", (deep,))
    with pytest.raises(ValueError, match="nested"):
        encode_table([("h", deep)])


@given(tables, st.data())
def test_damaged_tables_are_an_error_and_nothing_else(pairs: Any, data: Any) -> None:
    # Given a table cut off or with a changed byte, when decoded, then it is read or ValueError
    raw = bytearray(encode_table(pairs))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    for damaged in (bytes(raw), bytes(raw[:place])):
        try:
            decode_table(damaged)
        except ValueError as exc:
            assert "\n" not in str(exc)


properties_ = st.fixed_dictionaries(
    {},
    optional={
        **{
            name: st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
            for name in PROPERTY_NAMES - {"delivery_mode", "priority", "timestamp", "expiration"}
        },
        "expiration": st.integers(0, 2**32 - 1).map(str),
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**64 - 1),
    },
)


@given(tables, properties_)
def test_properties_come_back(pairs: Any, properties: Any) -> None:
    # Given any properties, when encoded and decoded, then they are the same
    content = decode_content(encode_properties(pairs, properties))
    assert content.headers == pairs
    assert (content.properties or {}) == properties
    if "timestamp" in properties:
        assert content.timestamp == properties["timestamp"] * 1000


def test_pamqp_reads_our_properties() -> None:
    # Given all properties, when another implementation decodes them, then it sees the same
    given_ = {
        "content_type": "a", "content_encoding": "b", "delivery_mode": 2, "priority": 9,
        "correlation_id": "c", "reply_to": "d", "expiration": "60000", "message_id": "e",
        "type": "f", "user_id": "g", "app_id": "h",
    }  # fmt: skip
    raw = encode_properties((("k", "v"),), given_)
    found = header.ContentHeader()
    found.unmarshal(struct.pack(">HHQ", 60, 0, 0) + raw)
    seen = {
        name: getattr(found.properties, "message_type" if name == "type" else name)
        for name in given_
    }
    assert seen == given_
    assert found.properties.headers == {"k": "v"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("priority", 256), ("priority", "x"), ("delivery_mode", True), ("delivery_mode", 3),
     ("reply_to", "amq.rabbitmq.reply-to"), ("timestamp", -1),
     ("timestamp", 1.5), ("expiration", "soon"), ("expiration", "-1"), ("expiration", 2**32),
     ("content_type", 5), ("message_id", "x" * 256), ("app_id", ["a"])],
)  # fmt: skip
def test_a_property_of_the_wrong_type_is_refused_by_its_name(name: str, value: Any) -> None:
    # Given a wrong value, when encoded, then the words name the property
    with pytest.raises(ValueError, match=name):
        encode_properties((), {name: value})


def _marshaller(frame_max: int = 131072) -> Marshaller:
    return Marshaller(3, b"ex", frame_max, True, encode_properties)


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(16, 64))
def test_published_frames_are_what_pamqp_reads(values: list[bytes], small: int) -> None:
    # Given messages in frames as small as they may be, when another implementation reads them
    marshal = _marshaller(small + 8)
    raw = b"".join(marshal.message(value, b"key", b"\x00\x00") for value in values)
    got: list[bytes] = []
    left = 0
    while raw:
        size, channel, found = frame.unmarshal(raw)
        raw = raw[size:]
        assert channel == 3
        if isinstance(found, commands.Basic.Publish):
            assert (found.exchange, found.routing_key, found.mandatory) == ("ex", "key", True)
        elif isinstance(found, header.ContentHeader):
            assert not left
            left = found.body_size
            got.append(b"")
        else:
            assert 0 < len(found.value) <= small
            got[-1] += found.value
            left -= len(found.value)
    # Then they are the messages, whole
    assert got == values and not left


def test_plain_batches_are_the_same_bytes_as_single_messages() -> None:
    # Given values, when marshalled as a batch and one by one, then the bytes are equal
    marshal = _marshaller()
    values = [b"", b"a", b"bb", b"a", b"x" * 70_000]
    default = marshal.properties((), None)
    single = b"".join(marshal.message(value, b"k", default) for value in values)
    assert marshal.plain(values, b"k") == single
    assert marshal.plain(values, b"other") != single


def test_headers_that_fit_no_frame_are_refused() -> None:
    # Given headers larger than a frame, when encoded for publishing, then that is refused
    with pytest.raises(ValueError, match="fit into a frame of 131064"):
        _marshaller().properties((("h", "x" * 131_072),), None)
    with pytest.raises(ValueError, match="256 bytes, at most 255"):
        _marshaller().method(b"k" * 256)
    assert short("k" * 255, "the key")[0] == 255
