"""Nothing that comes from a broker drives a terminal; the view and the dump."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.formats import make_encoder
from mqcli.formats.terminal import escape
from mqcli.message import Message, Received, Tagged

UNSAFE = frozenset(
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Cs")
)


def received(value: bytes | None, **fields: object) -> Received:
    return Received(value, source="redis://h/stream:s", position="1-0", **fields)  # type: ignore[arg-type]


def view(message: Received, width: int = 80) -> str:
    (chunk,) = make_encoder("terminal", width=width).encode([message])
    return chunk.decode()


def test_every_character_that_could_drive_a_terminal_is_escaped() -> None:
    # Given all of Unicode
    # When each character stands between two others
    changed = {
        chr(code)
        for code in range(sys.maxunicode + 1)
        if escape(f"a{chr(code)}b") != f"a{chr(code)}b"
    }
    # Then just the unsafe ones are changed: those not yet assigned here may be too
    assert changed >= UNSAFE
    assert {char for char in changed - UNSAFE if unicodedata.category(char) != "Cn"} == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b2J\x7f\u202egnp\u2066\u200f\ufeff", r"\u009b2J\x7f\u202egnp\u2066\u200f\ufeff"),
        ("\U000e0041", r"\U000e0041"),
        (b"ok\xff\xc3(\x00", r"ok\xff\xc3(\x00"),
        ("from argv \udcff", r"from argv \xff"),
        ("lone \ud800", r"lone \ud800"),
        ("[/bold][red]", "[/bold][red]"),
        ("", ""),
    ],
)
def test_escapes_are_readable(text: str | bytes, shown: str) -> None:
    assert escape(text) == shown


def test_kept_newlines_and_tabs_are_all_that_is_kept() -> None:
    assert escape("a\tb\r\nc\x1b\rd", keep_newlines=True) == "a\tb\\r\nc\\x1b\\rd"


@given(st.one_of(st.text(), st.binary()), st.booleans())
def test_what_is_escaped_is_safe_and_can_be_encoded(text: str | bytes, keep: bool) -> None:
    shown = escape(text, keep_newlines=keep)
    shown.encode("utf-8")
    assert not (set(shown) & UNSAFE) - (set("\n\t") if keep else set())


names = st.one_of(st.text(max_size=9), st.binary(max_size=9))


@given(
    st.none() | st.binary(max_size=40) | st.text(max_size=40).map(str.encode),
    st.none() | st.binary(max_size=9),
    st.lists(st.tuples(names, names), max_size=2).map(tuple),
    st.text(max_size=9),
    st.sampled_from(["terminal", "hex", "json"]),
)
def test_no_content_drives_a_terminal_or_passes_for_another_line(
    value: bytes | None, key: bytes | None, headers: tuple[tuple[str, str]], name: str, format: str
) -> None:
    # Given a message that is hostile everywhere
    message = Received(value, key, headers, {name: name}, 1, source=name, position=name)
    # When it is shown in colours
    (chunk,) = make_encoder(format, colour=True).encode([message])  # type: ignore[arg-type]
    # Then there is no control character but the tab, newline and our own colour, and each line
    # after the first is indented or a line of the dump
    text = chunk.decode()
    assert text.endswith("\n")
    first, *rest = text.removesuffix("\n").split("\n")
    if format != "json":
        assert first.startswith("\x1b[2m")
        assert first.endswith("\x1b[0m")
        first = first.removeprefix("\x1b[2m").removesuffix("\x1b[0m")
    assert not set(first) & UNSAFE
    assert not (set("".join(rest)) & UNSAFE) - {"\t"}
    assert all(re.match(r"  |[0-9a-f]{8}(  |$)", line) for line in rest)
    assert format != "json" or not rest


def test_the_first_line_says_all_but_the_value() -> None:
    # Given a message with everything
    message = Received(
        b'{"id": 7}',
        b"7",
        (
            ("trace", "a b"),
            (b"\xff", b"\xfe"),
            ("n", -5),
            ("yes", True),
            ("half", 0.5),
            ("small", Tagged("u8", 5)),
            ("price", Tagged("decimal", "12.50")),
            ("at", Tagged("time", 1_769_860_800)),
            ("never", Tagged("time", 253402300800000)),
            ("none", Tagged("null", None)),
            ("t", Tagged("table", (("a", Tagged("list", (1, b"\x00"))),))),
            ("empty", ""),
        ),
        {"content_type": "application/json", "id": b"\xff"},
        1_769_860_800_123,
        False,
        "redis://h/stream:s",
        "1-0",
        True,
    )
    # Then all of it stands there once
    assert view(message) == (
        "2026-01-31T12:00:00.123Z  redis://h/stream:s  1-0  key 7"
        '  trace="a b"  \\xff=\\xfe  n=-5  yes=true  half=0.5  small=5  price=12.50'
        "  at=2026-01-31T12:00:00Z  never=253402300800000"
        '  none={"t":"null"}'
        '  t={"t":"table","v":[["a",{"t":"list","v":[1,{"t":"bytes","v":"AA=="}]}]]}'
        '  empty=""'
        '  content_type: "application/json"  id: {"t":"bytes","v":"/w=="}'
        "  redelivered\n"
        '  {"id": 7}\n'
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "redis://h/stream:s  1-0  tombstone\n"),
        (b"", "redis://h/stream:s  1-0  empty\n"),
        (b"tombstone", "redis://h/stream:s  1-0\n  tombstone\n"),
        (b"a\nb\n", "redis://h/stream:s  1-0\n  a\n  b\n  \n"),
        (b"a\r\x00\xff", "redis://h/stream:s  1-0\n  a\\r\\x00\\xff\n"),
        (b'{"a":1}', 'redis://h/stream:s  1-0\n  {"a":1}\n'),
        (b'{"a":\n1.00}', 'redis://h/stream:s  1-0\n  {\n    "a": 1.00\n  }\n'),
        (b'{"a":\n1', 'redis://h/stream:s  1-0\n  {"a":\n  1\n'),
        (b"[" * 5000 + b"\n", "redis://h/stream:s  1-0\n  " + "[" * 5000 + "\n  \n"),
    ],
)
def test_values_on_a_terminal(value: bytes | None, expected: str) -> None:
    assert view(received(value)) == expected


def test_json_that_does_not_fit_is_laid_out_as_written() -> None:
    # Given JSON of 24 columns with a long number, an escape and a control character in a string
    value = '{"a":1.10,"b":["\\u0041\x9b"]}'.encode()
    # When the terminal is narrow
    shown = view(received(value), width=20)
    # Then it is laid out, and number and text are the message's own
    assert shown == (
        'redis://h/stream:s  1-0\n  {\n    "a": 1.10,\n    "b": [\n'
        '      "\\u0041\\u009b"\n    ]\n  }\n'
    )


def test_without_colours_there_is_no_escape_character() -> None:
    for format in ("terminal", "hex"):
        (chunk,) = make_encoder(format).encode([received(b"\x1b[2J\x1b")])  # type: ignore[arg-type]
        assert b"\x1b" not in chunk


def test_the_dump_is_that_of_hexdump() -> None:
    # Given a value of more than a line
    message = received(b"0123456789abcdef\x00\xff|\n", key=b"k")
    # When it is dumped
    (chunk,) = make_encoder("hex").encode([message])
    # Then the lines below the first are those of hexdump -C
    assert chunk.decode() == (
        "redis://h/stream:s  1-0  key k\n"
        "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n"
        "00000010  00 ff 7c 0a                                       |..|.|\n"
        "00000014\n"
    )
    assert make_encoder("hex").encode([received(None)]) == [b"redis://h/stream:s  1-0  tombstone\n"]
    assert make_encoder("hex").encode([received(b"")])[0].endswith(b"empty\n00000000\n")


@given(st.binary(max_size=70))
def test_the_dump_holds_every_byte(value: bytes) -> None:
    (chunk,) = make_encoder("hex").encode([received(value)])
    rows = chunk.decode().splitlines()[1:]
    assert bytes.fromhex("".join(row[10:58] for row in rows)) == value
    assert int(rows[-1], 16) == len(value)


def test_messages_without_provenance_can_be_shown() -> None:
    assert view(Received(b"v")) == "\n  v\n"
    assert isinstance(Received(b"v"), Message)
