"""The JSON envelope: an exact inverse in both directions, and clear words for what is wrong.

One file beyond the usual length: most of it is tables of what must be equal or refused, which
both directions read.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import InputError
from mqcli.formats import make_decoder, make_encoder
from mqcli.formats.envelope_writer import encode_gap
from mqcli.formats.rfc3339 import FIRST_MS, LAST_MS, format_ms, parse_ms
from mqcli.message import Header, HeaderValue, Message, Received, Tagged


def read(line: bytes | str, **flags: Any) -> Message:
    """The one message of one line."""
    data = line if isinstance(line, bytes) else line.encode()
    decoder = make_decoder("json", **flags)
    messages = decoder.feed(data + b"\n") + (decoder.finish() if decoder.error is None else [])
    if decoder.error is not None:
        raise decoder.error
    (message,) = messages
    return message


def write(message: Received, **flags: Any) -> bytes:
    (chunk,) = make_encoder("json", **flags).encode([message])
    return chunk


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type, NaN being equal to NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other) or one != one != other
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, Tagged):
        return one.t == other.t and same(one.v, other.v)
    return bool(one == other)


contents = st.binary(max_size=40) | st.text(max_size=40).map(str.encode)
not_text = st.binary(min_size=1, max_size=9).filter(lambda data: not is_text(data))
names = st.text(max_size=9) | not_text


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def tagged(tag: str, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Tagged]:
    return inner.map(lambda value: Tagged(tag, value))  # type: ignore[arg-type]


integers = [
    tagged(f"{sign}{bits}", st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
           if sign == "i" else st.integers(0, 2**bits - 1))
    for sign, bits in [("i", 8), ("i", 16), ("i", 32), ("u", 8), ("u", 16), ("u", 32), ("u", 64)]
]  # fmt: skip
scalars: st.SearchStrategy[HeaderValue] = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=True),
    *integers,
    tagged("f32", st.floats(width=32)),
    tagged("decimal", st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    tagged("time", st.integers(0, 2**64 - 1)),
    st.just(Tagged("null", None)),
)
header_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        tagged("list", st.lists(inner, max_size=3).map(tuple)),
        tagged("table", st.lists(st.tuples(names, inner), max_size=3).map(tuple)),
    ),
    max_leaves=8,
)
header_lists: st.SearchStrategy[tuple[Header, ...]] = st.lists(
    st.tuples(names, st.text(max_size=9) | header_values), max_size=4
).map(tuple)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from("tv"), inner, max_size=3)
        | st.fixed_dictionaries({"t": st.text(max_size=5) | st.just("bytes"), "v": inner})
    ),
    max_leaves=6,
)
messages = st.builds(
    Received,
    value=st.none() | contents,
    key=st.none() | contents,
    headers=header_lists,
    properties=st.none()
    | st.dictionaries(st.text(max_size=9), json_values, min_size=1, max_size=3),
    timestamp=st.none() | st.integers(-(2**62), 2**62) | st.integers(FIRST_MS, LAST_MS),
    raw_fields=st.booleans(),
    source=st.text(max_size=9),
    position=st.text(max_size=9),
    redelivered=st.booleans(),
    extra=st.none() | st.dictionaries(st.text(max_size=9), json_values, max_size=2),
)


@given(messages, st.booleans())
def test_any_message_comes_back_as_it_was(message: Received, kept: bool) -> None:
    # Given any message, of any bytes and all types of headers and properties
    # When it is written and read again
    line = write(message)
    found = read(line.removesuffix(b"\n"), keep_timestamp=kept)
    # Then what belongs to the message is the same, and the line is one line of JSON
    assert line.count(b"\n") == 1
    for name in ("value", "key", "headers", "properties", "raw_fields"):
        assert same(getattr(found, name), getattr(message, name)), name
    assert found.timestamp == (message.timestamp if kept else None)
    meta = json.loads(line)["meta"]
    assert meta["source"] == message.source
    assert meta.get("position", "") == message.position
    assert meta["redelivered"] is message.redelivered


@given(st.lists(messages, max_size=8))
def test_a_batch_is_the_lines_of_each(batch: list[Received]) -> None:
    # Given one encoder that has seen other messages before
    encoder = make_encoder("json")
    encoder.encode(batch[::-1])
    # Then its chunks are those that a new one writes
    assert encoder.encode(batch) == [write(message) for message in batch]


@given(messages)
def test_both_ways_to_read_agree(message: Received) -> None:
    # Given a line that the quick way may be able to read
    line = write(message).removesuffix(b"\n")
    # When "value" is written so that only the thorough way can, with the same meaning
    fields = json.loads(line)
    if message.value is not None and "value" in fields:
        fields["value_base64"] = msgspec.json.encode(fields.pop("value").encode()).decode()[1:-1]
    # Then the message is the same
    assert same(
        msgspec.structs.astuple(read(json.dumps(fields))), msgspec.structs.astuple(read(line))
    )


@given(st.lists(messages, max_size=4), st.booleans())
def test_a_value_that_is_no_text_changes_nothing_for_the_next(
    batch: list[Received], kept: bool
) -> None:
    # Given a line with an object as its value before others, and a bad line among them
    lines = [b'{"value":{"a": 1.0}}\n', *map(write, batch), b'{"value":["\xff"]}\n']
    # When one decoder reads them all
    decoder = make_decoder("json", keep_timestamp=kept)
    found = decoder.feed(b"".join(lines) + b'{"value":"never"}\n')
    # Then each is what it is alone
    assert found[0] == Message(b'{"a":1.0}')
    for message, line in zip(found[1:], lines[1:-1], strict=True):
        alone = read(line[:-1], keep_timestamp=kept)
        assert same(msgspec.structs.astuple(message), msgspec.structs.astuple(alone))
    assert decoder.error is not None
    assert decoder.error.line == len(lines)
    assert "not UTF-8" in str(decoder.error)


def test_the_envelope_is_the_one_of_the_design() -> None:
    # Given the example of the documentation
    message = Received(
        b'{"id": 7}', b"7", (("trace", "abc"),), {"priority": 3}, 1_769_860_800_123, False,
        "amqp://h/queue:orders", "42",
    )  # fmt: skip
    # Then its line is this one, byte for byte
    assert write(message) == (
        b'{"key":"7","value":"{\\"id\\": 7}","headers":[["trace","abc"]],'
        b'"properties":{"priority":3},"meta":{"source":"amqp://h/queue:orders","position":"42",'
        b'"timestamp":"2026-01-31T12:00:00.123Z","redelivered":false}}\n'
    )
    # And what a message has not is not there
    assert write(Received(None)) == b'{"value":null,"meta":{"source":"","redelivered":false}}\n'
    assert write(Received(b"", source="s", redelivered=True)) == (
        b'{"value":"","meta":{"source":"s","redelivered":true}}\n'
    )


def test_further_meta_is_written_and_cannot_replace_what_is_ours() -> None:
    message = Received(
        b"v", source="s", raw_fields=True, extra={"source": "x", "partition": 3, "id": b"\xff"}
    )
    assert json.loads(write(message))["meta"] == {
        "source": "s",
        "redelivered": False,
        "raw_fields": True,
        "partition": 3,
        "id": {"t": "bytes", "v": "/w=="},
    }


def test_what_could_drive_a_terminal_is_escaped_and_means_the_same() -> None:
    # Given DEL, C1, text direction, a tag outside the first plane, and harmless text beside them
    text = "\x7f\x9b2J\u202e\u2066\u200f\ufeff\U000e0041 é日本😀 \x1b\x00"
    # When it is written everywhere
    line = write(Received(text.encode(), text.encode(), ((text, text),), source=text))
    # Then only the harmless stands there as it is
    assert {char for char in line.decode() if ord(char) > 126} == set("é日本😀")
    assert b"\\u009b2J\\u202e" in line
    assert b"\\udb40\\udc41" in line
    assert read(line[:-1]) == Message(text.encode(), text.encode(), ((text, text),))


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_769_860_800_123, "2026-01-31T12:00:00.123Z"),
        (FIRST_MS, "0001-01-01T00:00:00.000Z"),
        (LAST_MS, "9999-12-31T23:59:59.999Z"),
        (FIRST_MS - 1, FIRST_MS - 1),
        (LAST_MS + 1, LAST_MS + 1),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
    ],
)
def test_times_are_rfc_3339_or_a_number(ms: int, shown: str | int) -> None:
    # Given a time that may be outside the years 1 to 9999
    # Then all that write it write the same, and it is kept when asked for
    assert format_ms(ms) == shown
    for message in (Received(b"v", timestamp=ms), Received(None, timestamp=ms)):
        line = write(message)
        assert json.loads(line)["meta"]["timestamp"] == shown
        assert read(line[:-1], keep_timestamp=True).timestamp == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31t12:00:00.5z", 1_769_860_800_500),
        ("2026-01-31 13:00:00.123999999+01:00", 1_769_860_800_123),
        ("1969-12-31T23:59:59.9999Z", -1),
    ],
)
def test_times_of_others_are_understood(text: str, ms: int) -> None:
    assert parse_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-01-31T12:00Z",
     "2026-01-31T12:00:00,5Z", "0000-01-01T00:00:00Z", "٢026-01-31T12:00:00Z"],
)  # fmt: skip
def test_a_time_without_a_zone_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_ms(text)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"text"', b"text"),
        ('""', b""),
        ("null", None),
        ('"\\u0000\\ud83d\\ude00"', b"\0\xf0\x9f\x98\x80"),
        ('{"b": 1,\t"a": [1.00, 1E5, -0, 123456789012345678901234567890, 1e999]}',
         b'{"b":1,"a":[1.00,1E5,-0,123456789012345678901234567890,1e999]}'),
        ('{"a": 1, "a": "\\u0041 \\/"}', b'{"a":1,"a":"\\u0041 \\/"}'),
        ("[ ]", b"[]"),
        ("1.10", b"1.10"),
        ("12345678901234567890123", b"12345678901234567890123"),
        ("true", b"true"),
        ("false", b"false"),
    ],
)  # fmt: skip
def test_values_that_are_no_text_are_sent_as_compact_json(
    written: str, value: bytes | None
) -> None:
    assert read(f'{{"value": {written}}}').value == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"a"', "a"),
        ("true", True),
        ("1", 1),
        ("1.0", 1.0),
        ("-0.0", -0.0),
        ("1e5", 1e5),
        (str(2**63 - 1), 2**63 - 1),
        ('{"t":"i64","v":5}', 5),
        ('{"t":"f64","v":5}', 5.0),
        ('{"t":"f64","v":"-inf"}', -math.inf),
        ('{"t":"f32","v":0.1}', Tagged("f32", 0.10000000149011612)),
        ('{"t":"u64","v":18446744073709551615}', Tagged("u64", 2**64 - 1)),
        ('{"t":"null"}', Tagged("null", None)),
        ('{"t":"null","v":null}', Tagged("null", None)),
        ('{"t":"bytes","v":"YWI="}', b"ab"),
        ('{"t":"time","v":0}', Tagged("time", 0)),
        ('{"t":"table","v":[["a",1],[{"t":"bytes","v":"/w=="},true],["a",2]]}',
         Tagged("table", (("a", 1), (b"\xff", True), ("a", 2)))),
        ('{"t":"list","v":["a",{"t":"list","v":[]}]}', Tagged("list", ("a", Tagged("list", ())))),
    ],
)  # fmt: skip
def test_header_values(written: str, value: HeaderValue) -> None:
    found = read(f'{{"value":"","headers":[["h",{written}]]}}').headers
    assert same(found, (("h", value),))


def test_names_of_bytes_that_are_text_are_text() -> None:
    line = '{"value":"","headers":[[{"t":"bytes","v":"YWI="},"x"],[{"t":"bytes","v":"/w=="},"y"]]}'
    assert read(line).headers == (("ab", "x"), (b"\xff", "y"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nonsense", "not JSON: JSON is malformed: invalid character"),
        ('{"value":1', "not JSON: Input data was truncated"),
        ('{"value":1} {"value":2}', "not JSON: JSON is malformed: trailing characters"),
        ('{"value":"\\ud800 alone"}', "not JSON: JSON is malformed"),
        ('{"value":nan}', "not JSON"),
        ("[1]", 'an envelope is a JSON object; write {"value": …}'),
        ('"text"', 'an envelope is a JSON object; write {"value": …}'),
        ("{}", 'no "value"; for a message without one (a tombstone) write "value": null'),
        ('{"key":"a"}', 'no "value"'),
        ('{"vlaue":"a"}', "unknown field 'vlaue'; did you mean \"value\"?"),
        ('{"value":"a","Header":[]}', "unknown field 'Header'; did you mean \"headers\"?"),
        ('{"value":"a","\\u001b[2J":[]}',
         "unknown field '\\x1b[2J'; known: key, key_base64, value, value_base64, headers,"
         " properties, meta"),
        ('{"value":"a","to":"x"}', '"to" is reserved; publish to one destination'),
        ('{"value":"a","value_base64":"YQ=="}', '"value" and "value_base64" are both given'),
        ('{"value":null,"value_base64":"YQ=="}', '"value" and "value_base64" are both given'),
        ('{"value":"","key":"a","key_base64":"YQ=="}', '"key" and "key_base64" are both given'),
        ('{"value_base64":"Y Q=="}', '"value_base64" does not fit: not base64'),
        ('{"value_base64":"YQ"}', '"value_base64" does not fit: not base64'),
        ('{"value_base64":"Yé=="}', '"value_base64" does not fit: not base64'),
        ('{"value_base64":null}', '"value_base64" does not fit: it must be a string'),
        ('{"value":"","key":7}', '"key" does not fit: it must be a string'),
        ('{"value":"","headers":{"a":"b"}}',
         '"headers" does not fit: headers must be an array of pairs, as [["name", "value"], …],'
         " not an object: names may repeat and their order counts"),
        ('{"value":"","headers":null}', "headers must be an array of pairs"),
        ('{"value":"","headers":[["a"]]}', "each of headers is an array of two"),
        ('{"value":"","headers":["ab"]}', "each of headers is an array of two"),
        ('{"value":"","headers":[[1,"a"]]}', 'a name is a string, or {"t": "bytes"'),
        ('{"value":"","headers":[["a",null]]}', 'null here is written {"t": "null"}'),
        ('{"value":"","headers":[["a",[1]]]}', 'an array here is written {"t": "list"'),
        ('{"value":"","headers":[["a",{"b":1}]]}', 'an object here is {"t": TYPE, "v": VALUE}'),
        ('{"value":"","headers":[["a",{"t":"u8","v":1,"x":1}]]}', "and nothing else"),
        ('{"value":"","headers":[["a",{"t":"u9","v":1}]]}', "unknown type 'u9'; known are bytes,"),
        ('{"value":"","headers":[["a",{"t":"u8"}]]}', 'a value of type u8 needs its "v"'),
        ('{"value":"","headers":[["a",{"t":"u8","v":256}]]}', "256 is not an integer of type u8"),
        ('{"value":"","headers":[["a",{"t":"i8","v":true}]]}', "True is not an integer of type i8"),
        ('{"value":"","headers":[["a",{"t":"i8","v":1.0}]]}', "1.0 is not an integer of type i8"),
        ('{"value":"","headers":[["a",9223372036854775808]]}', "is outside 64 bits"),
        ('{"value":"","headers":[["a",1e999]]}', "Number out of range"),
        ('{"value":"","headers":[["a",{"t":"f32","v":1e39}]]}', "is too large for a f32"),
        ('{"value":"","headers":[["a",{"t":"f64","v":"NaN"}]]}', "the value of a f64 is a number"),
        ('{"value":"","headers":[["a",{"t":"f64","v":1' + "0" * 400 + "}]]}",
         "is too large for a f64"),
        ('{"value":"","headers":[["a",{"t":"decimal","v":12.5}]]}', "the value of a decimal is"),
        ('{"value":"","headers":[["a",{"t":"decimal","v":"1,5"}]]}', "the value of a decimal is"),
        ('{"value":"","headers":[["a",{"t":"bytes","v":"?"}]]}', "not base64"),
        ('{"value":"","headers":[["a",{"t":"bytes","v":1}]]}', "is a string of base64"),
        ('{"value":"","headers":[["a",{"t":"table","v":{"a":1}}]]}',
         "a table must be an array of pairs"),
        ('{"value":"","headers":[["a",{"t":"list","v":1}]]}', "the value of a list is an array"),
        ('{"value":"","headers":[["a",{"t":"null","v":1}]]}', "the value of a null is null"),
        ('{"value":"","properties":[1]}',
         '"properties" does not fit: properties must be an object'),
        ('{"value":"","properties":{"a":{"t":"u8","v":1}}}', "a property cannot have the type u8"),
        ('{"value":"","properties":{"a":{"t":"table","v":[1]}}}', "a table is an array of pairs"),
        ('{"value":"","meta":{"raw_fields":1}}', '"meta" does not fit: Expected `bool`, got `int`'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(line: str, told: str) -> None:
    # Given a good line, a blank one, and a wrong one, in one piece
    decoder = make_decoder("json")
    # When they are read
    found = decoder.feed(f'{{"value":"good"}}\n\n{line}\n{{"value":"never"}}\n'.encode())
    # Then the good one is there and the error says where and why
    assert found == [Message(b"good")]
    assert decoder.error is not None
    assert decoder.error.line == 3
    assert str(decoder.error).startswith("line 3: ")
    assert told in str(decoder.error)
    with pytest.raises(InputError):
        decoder.finish()


@pytest.mark.parametrize(
    "line",
    [
        b'{"value":"\xff"}',
        b'{"key":"\xed\xa0\x80","value":""}',
        b'{"value":["\xff"]}',
        b'{"value":"","headers":[["\xff","a"]]}',
        b'{"value":"","\xff":1}',
        b'{"value":"","properties":{"a":"\xff"}}',
    ],
)
def test_text_that_is_not_utf_8_is_told(line: bytes) -> None:
    with pytest.raises(InputError, match=r"line 1: .*not (JSON: not )?UTF-8"):
        read(line)


@pytest.mark.parametrize("field", ["value", "headers", "properties", "meta"])
def test_nesting_without_end_is_told(field: str) -> None:
    # Given JSON that is nested deeper than any stack, and a good line after it
    bad: list[InputError] = []
    decoder = make_decoder("json", on_bad=bad.append)
    line = f'{{"{field}":{"[" * 100_000}{"]" * 100_000}}}\n'.encode()
    # Then it is a bad line like any other
    assert decoder.feed(line + b'{"value":"good"}\n') == [Message(b"good")]
    assert "nested too deeply" in str(bad[0])


def test_bad_lines_can_be_skipped_and_blank_ones_are() -> None:
    # Given blank lines (a CR and spaces too) and bad ones between good ones
    bad: list[InputError] = []
    decoder = make_decoder("json", on_bad=bad.append)
    # When all is read in pieces, the last line without its newline
    data = b'\n{"value":"1"}\r\nbad\n \t\r\n{"value":"2"}\n{}\n{"value":"3"}'
    found = [message for i in range(0, len(data), 5) for message in decoder.feed(data[i : i + 5])]
    found += decoder.finish()
    # Then the good ones came, and numbers count every line
    assert [message.value for message in found] == [b"1", b"2", b"3"]
    assert [error.line for error in bad] == [3, 6]
    assert decoder.position == 7


def test_no_input_is_no_message() -> None:
    for data in (b"", b"\n", b" \n\n\t"):
        decoder = make_decoder("json")
        assert [*decoder.feed(data), *decoder.finish()] == []


def test_the_last_of_equal_fields_counts() -> None:
    for line in ('{"value":"a","value":"b"}', '{"value":1,"value":"b"}'):
        assert read(line).value == b"b"


def test_a_template_fills_what_the_envelope_has_not() -> None:
    # Given key, headers, properties and a time for all
    flags = {"template": Message(None, b"k", (("h", "t"),), {"a": 1, "b": 2}, 5)}
    # When an envelope has nothing, all, and a null key; each read the quick and the thorough way
    for value in ('"v"', "1"):
        bare = read(f'{{"value":{value}}}', **flags)
        full = read(
            f'{{"key":"own","value":{value},"headers":[["h","e"]],"properties":{{"b":3}}}}', **flags
        )
        none = read(f'{{"key":null,"value":{value}}}', **flags)
        # Then its own wins, and headers are appended
        assert (bare.key, bare.headers, bare.properties) == (b"k", (("h", "t"),), {"a": 1, "b": 2})
        assert (full.key, full.headers) == (b"own", (("h", "e"), ("h", "t")))
        assert full.properties == {"a": 1, "b": 3}
        assert none.key is None
        assert {bare.timestamp, full.timestamp, none.timestamp} == {5}


@pytest.mark.parametrize("value", ['"v"', "1"])
def test_of_meta_only_what_is_asked_for_is_kept(value: str) -> None:
    # Given an envelope with time and place
    line = (
        f'{{"value":{value},"properties":{{"a":1}},"meta":{{"timestamp":"1970-01-01T00:00:01Z",'
        '"position":"3:1042","other":[1]}}'
    )
    # Then without a flag nothing is taken, and with one just that
    assert read(line) == Message(read(line).value, properties={"a": 1})
    assert read(line, keep_timestamp=True).timestamp == 1000
    assert read(line, keep_timestamp=True).properties == {"a": 1}
    assert read(line, keep_partition=True).properties == {"a": 1, "partition": 3}
    assert read(line, keep_partition=True).timestamp is None


@pytest.mark.parametrize(
    ("meta", "timestamp", "partition"),
    [
        ('{"timestamp":-5,"partition":7,"position":"3:1"}', -5, 7),
        ('{"timestamp":null,"position":"1717-0"}', None, None),
        ('{"position":""}', None, None),
        ("{}", None, None),
        ("null", None, None),
        ("5", None, None),
    ],
)
def test_what_meta_has_not_is_not_kept(
    meta: str, timestamp: int | None, partition: int | None
) -> None:
    found = read(f'{{"value":"v","meta":{meta}}}', keep_timestamp=True, keep_partition=True)
    assert found.timestamp == timestamp
    assert (found.properties or {}).get("partition") == partition


@pytest.mark.parametrize(
    "meta",
    ['{"timestamp":"yesterday"}', '{"timestamp":1.5}', '{"timestamp":9223372036854775808}',
     '{"partition":-1}', '{"partition":"3"}', '{"position":3}'],
)  # fmt: skip
def test_a_meta_that_cannot_be_kept_is_an_error_only_when_asked_for(meta: str) -> None:
    line = f'{{"value":"v","meta":{meta}}}'
    assert read(line) == Message(b"v")
    with pytest.raises(InputError, match='line 1: "meta" does not fit'):
        read(line, keep_timestamp=True, keep_partition=True)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b'{"a": 1.00,\n "b": [1e5]}', b'{"a":1.00,"b":[1e5]}'),
        (b" [ ] ", b"[]"),
        (b'["\xc2\x9b"]', b'["\\u009b"]'),
        (b"1", b'"1"'),
        (b"true", b'"true"'),
        (b'"s"', b'"\\"s\\""'),
        (b"{bad}", b'"{bad}"'),
        (b'{"a":"\n"}', b'"{\\"a\\":\\"\\n\\"}"'),
        (b"[1]\n[2]", b'"[1]\\n[2]"'),
        (b"[" * 5000 + b"]" * 5000, b'"' + b"[" * 5000 + b"]" * 5000 + b'"'),
        (b"", b'""'),
        (None, b"null"),
    ],
)
def test_embedded_json_stays_one_line_with_numbers_as_written(
    value: bytes | None, written: bytes
) -> None:
    # Given a value that is, or looks like, JSON
    line = write(Received(value), embed_json=True)
    # Then objects and arrays stand as such, compact; all else is a string
    assert line == b'{"value":%b,"meta":{"source":"","redelivered":false}}\n' % written
    # And read again it means the same
    found = read(line[:-1]).value
    assert found == value or json.loads(found or b"") == json.loads(value or b"")


def test_embedded_json_that_is_not_utf_8_is_base64() -> None:
    value = b'["\xff"]'
    line = write(Received(value), embed_json=True)
    assert b'"value_base64":' in line
    assert read(line[:-1]).value == value


class Gap(msgspec.Struct):
    source: str
    reason: str
    since_ms: int | None = None
    until_ms: int | None = None
    count: int | None = None


def test_a_gap_is_one_line_of_what_is_known() -> None:
    # Given a gap with a time, a number, and a hostile reason
    gap = Gap("redis://h/channel:c", "\x9b lost\n", since_ms=1000, count=0)
    # Then the line says these and nothing that is not known
    assert encode_gap(gap) == (
        b'{"gap":{"source":"redis://h/channel:c","reason":"\\u009b lost\\n",'
        b'"since":"1970-01-01T00:00:01.000Z","count":0}}\n'
    )
