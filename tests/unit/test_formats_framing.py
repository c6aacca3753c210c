"""Records between delimiters, whole inputs, keys, templates, and the plain output formats."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import InputError, UsageError
from mqcli.formats import Decoder, Encoder, make_decoder, make_encoder
from mqcli.formats.framing import parse_delimiter
from mqcli.message import Message, Plain, Received


def decode(decoder: Decoder, data: bytes, cuts: list[int] | None = None) -> list[Message]:
    """All messages of ``data``, fed in pieces that are cut at ``cuts``."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    messages: list[Message] = []
    for start, end in pairwise(edges):
        messages += decoder.feed(data[start:end])
    return [*messages, *decoder.finish()]


def output(encoder: Encoder, messages: list[Received]) -> bytes:
    """What is to be written of these messages."""
    return b"".join(chunk + encoder.ending for chunk in encoder.encode(messages))


def values(messages: list[Message]) -> list[bytes | None]:
    return [message.value for message in messages]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        (b"\x00\xff\x1b[2J\nlast", [b"\x00\xff\x1b[2J", b"last"]),
    ],
)
def test_lines_are_values_byte_for_byte(data: bytes, expected: list[bytes]) -> None:
    # Given lines, the last one perhaps without its newline
    decoder = make_decoder("lines")
    # When they are read
    found = decode(decoder, data)
    # Then each is a value as it is, and all are counted
    assert found == [Message(value) for value in expected]
    assert decoder.position == len(expected)


def test_only_values_alone_are_a_plain_batch() -> None:
    # Given a template that adds nothing, one that does, and keys in the lines
    nothing, header = Message(None), Message(None, headers=(("h", "v"),))
    # When lines are read with each
    batch = make_decoder("lines", template=nothing).feed(b"a=1\nb=2\n")
    headed = make_decoder("lines", template=header).feed(b"a=1\n")
    keyed = make_decoder("lines", key_delimiter=b"=").feed(b"a=1\n")
    # Then the first is plain, and a sequence of messages like any other
    assert isinstance(batch, Plain)
    assert batch == [Message(b"a=1"), Message(b"b=2")]
    assert (batch[1], batch[:1], len(batch)) == (Message(b"b=2"), [Message(b"a=1")], 2)
    assert not isinstance(headed, Plain)
    assert not isinstance(keyed, Plain)


def test_nul_leaves_newlines_in_the_values() -> None:
    assert values(decode(make_decoder("nul"), b"a\nb\0\0c\n")) == [b"a\nb", b"", b"c\n"]


@pytest.mark.parametrize("data", [b"", b"a\nb\n", b"\0"])
def test_whole_is_one_message_even_of_nothing(data: bytes) -> None:
    decoder = make_decoder("whole")
    assert values(decode(decoder, data, [1])) == [data]
    assert decoder.position == 1


@given(
    st.lists(st.binary(max_size=12), max_size=12),
    st.binary(min_size=1, max_size=4),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=20),
)
def test_any_cut_gives_what_the_whole_gives(
    records: list[bytes], delimiter: bytes, ended: bool, cuts: list[int]
) -> None:
    # Given records of any bytes behind one another, delimiters within them too
    data = delimiter.join(records) + (delimiter if ended else b"")
    # When the bytes come in pieces cut anywhere
    found = values(decode(make_decoder("lines", delimiter=delimiter), data, cuts))
    # Then they are the records of the whole, without an empty one after the last delimiter
    expected = data.split(delimiter)
    if not expected[-1]:
        expected.pop()
    assert found == expected


@given(st.binary(max_size=60), st.sampled_from([b"aa", b"aab", b"abab", b"\r\n"]))
def test_single_bytes_give_what_the_whole_gives(data: bytes, delimiter: bytes) -> None:
    # Given a delimiter that overlaps itself, and bytes made of its letters
    data = bytes(b"ab\r\n"[byte % 4] for byte in data)
    # When they come one by one
    found = values(decode(make_decoder("lines", delimiter=delimiter), data, list(range(99))))
    # Then nothing differs from all at once
    assert found == values(decode(make_decoder("lines", delimiter=delimiter), data))


@given(st.lists(st.binary(max_size=30).map(lambda v: v.replace(b"\n", b""))))
def test_value_output_read_as_lines_is_the_same(contents: list[bytes]) -> None:
    written = output(make_encoder("value"), [Received(value) for value in contents])
    assert values(decode(make_decoder("lines"), written)) == contents


def test_the_key_is_what_stands_before_the_first_delimiter() -> None:
    # Given records with a key, an empty key, an empty value, and the delimiter in the value
    data = b"k::v\n::v\nk::\nk::a::b\n"
    # When they are split at a delimiter of two bytes
    found = decode(make_decoder("lines", key_delimiter=b"::"), data)
    # Then key and value are as written, an empty key being a key
    assert [(m.key, m.value) for m in found] == [
        (b"k", b"v"),
        (b"", b"v"),
        (b"k", b""),
        (b"k", b"a::b"),
    ]


def test_a_record_without_a_key_ends_reading_and_loses_nothing() -> None:
    # Given a record without the delimiter in the middle of one piece
    decoder = make_decoder("lines", key_delimiter=b":")
    # When the piece is read
    found = decoder.feed(b"a:1\nb:2\nnone\nc:3\n")
    # Then what came before is there, the error names the line, and going on raises it
    assert values(found) == [b"1", b"2"]
    assert decoder.error is not None
    assert decoder.error.line == 3 == decoder.position
    assert str(decoder.error) == "line 3: no key: the key delimiter ':' does not occur in it"
    with pytest.raises(InputError, match="line 3"):
        decoder.feed(b"d:4\n")
    with pytest.raises(InputError, match="line 3"):
        decoder.finish()


def test_bad_records_can_be_skipped() -> None:
    # Given somebody who wants to hear of bad records
    bad: list[InputError] = []
    decoder = make_decoder("lines", key_delimiter=b":", on_bad=bad.append)
    # When two of four are bad, the last without its newline
    found = decode(decoder, b"x\na:1\nb:2\ny")
    # Then the others came through and each bad one was told with its number
    assert values(found) == [b"1", b"2"]
    assert [error.line for error in bad] == [1, 4]
    assert decoder.error is None
    assert decoder.position == 4


def test_a_template_gives_what_a_line_has_not() -> None:
    # Given key, headers, properties and a time for all
    template = Message(None, b"k", (("h", "v"),), {"priority": 3}, 5)
    # When lines are read, with and without keys of their own
    (plain,) = decode(make_decoder("lines", template=template), b"v")
    (keyed,) = decode(make_decoder("lines", key_delimiter=b"=", template=template), b"own=v")
    (whole,) = decode(make_decoder("whole", template=template), b"v\n")
    # Then the line's own key wins
    assert plain == Message(b"v", b"k", (("h", "v"),), {"priority": 3}, 5)
    assert keyed == Message(b"v", b"own", (("h", "v"),), {"priority": 3}, 5)
    assert whole.key == b"k"


def test_a_long_line_in_small_pieces_costs_linear_time() -> None:
    # Given one line in pieces, the second time four times as long
    def seconds(pieces: int) -> float:
        best = 9e9
        for _ in range(3):
            decoder = make_decoder("lines", delimiter=b"\r\n")
            start = time.perf_counter()
            for _ in range(pieces):
                decoder.feed(b"x" * 1024)
            assert decoder.finish()[0].value == b"x" * (1024 * pieces)
            best = min(best, time.perf_counter() - start)
        return best

    # Then it takes about four times as long: quadratic would be sixteen
    assert seconds(32_000) < 11 * seconds(8_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (",", b","),
        (r"\t", b"\t"),
        (r"\n\r\0", b"\n\r\0"),
        (r"\x1f\xFF", b"\x1f\xff"),
        (r"\\n", b"\\n"),
        ("||", b"||"),
        ("é", "é".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_delimiters_as_typed(text: str, expected: bytes) -> None:
    assert parse_delimiter(text) == expected


@pytest.mark.parametrize("text", ["", "\\", r"\q", r"\x1", r"\xgg", "a\\"])
def test_wrong_delimiters_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="delimiter"):
        parse_delimiter(text)


def test_flags_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="delimiter does not apply to the input format nul"):
        make_decoder("nul", delimiter=b",")
    with pytest.raises(UsageError, match="key delimiter does not apply"):
        make_decoder("json", key_delimiter=b":")
    with pytest.raises(UsageError, match="need envelopes"):
        make_decoder("lines", keep_timestamp=True)
    with pytest.raises(UsageError, match="-o json only"):
        make_encoder("value", embed_json=True)
    with pytest.raises(UsageError, match="output format json"):
        make_encoder("json", delimiter=b"\0")


def test_value_and_raw_write_the_bytes_alone() -> None:
    # Given every kind of value
    messages = [Received(b"a\n\xff\0"), Received(b""), Received(None), Received(b"\x1b[2J", b"key")]
    # Then value ends each, raw adds nothing, and a tombstone is written as nothing
    assert output(make_encoder("value"), messages) == b"a\n\xff\0\n\n\n\x1b[2J\n"
    assert output(make_encoder("value", delimiter=b"\0"), messages[1:3]) == b"\0\0"
    assert output(make_encoder("raw"), messages) == b"a\n\xff\0\x1b[2J"
