"""Options as they are typed, made into the structs of a transport."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.errors import UsageError
from mqcli.options import Duration, described, nearest, parse_options


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    heartbeat: int = 60
    ssl_ca_certs: str | None = None
    password: Annotated[str, msgspec.Meta(max_length=3)] = ""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    claim_after: Annotated[Duration, msgspec.Meta(description="a lease")] = Duration(30)
    side: Literal["left", "right"] = "right"
    maxlen: Annotated[int, msgspec.Meta(ge=1)] | None = None
    persistent: bool = True
    ratio: float = 0.5
    arg: tuple[str, ...] = ()


def parse(*pairs: tuple[str, str]) -> tuple[Connection, Options]:
    connection, options = parse_options(pairs, Connection, Options, where="redis://h/list:x")
    return connection, options


def test_each_option_reaches_the_struct_that_has_it() -> None:
    # Given options of every type, of both structs, in any order
    connection, options = parse(
        ("maxlen", "5"), ("heartbeat", "10"), ("claim_after", "1m30s"), ("side", "left"),
        ("persistent", "false"), ("ratio", "1"), ("arg", "a"), ("arg", "b"), ("arg", "a"),
        ("ssl_ca_certs", "/a=b"),
    )  # fmt: skip
    # Then each has its type, and what may be repeated is in order
    assert connection == Connection(10, "/a=b")
    assert options == Options(Duration(90), "left", 5, False, 1.0, ("a", "b", "a"))
    assert isinstance(options.claim_after, Duration)


def test_without_options_all_are_as_usual() -> None:
    assert parse() == (Connection(), Options())
    assert parse_options([], where="x") == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("sid", "left", "unknown option 'sid': redis://h/list:x; did you mean 'side'?"),
        ("zzz", "1", "unknown option 'zzz': redis://h/list:x; known here: arg, claim_after,"),
        ("maxlen", "many", "the option maxlen=many does not fit: redis://h/list:x: "
         "it takes a whole number of 1 or more"),
        ("maxlen", "0", "the option maxlen=0 does not fit: redis://h/list:x: it takes a"),
        ("maxlen", "1" * 5000, "does not fit"),
        ("maxlen", "", "the option maxlen= does not fit"),
        ("side", "up", "the option side=up does not fit: redis://h/list:x: it takes left or right"),
        ("persistent", "maybe", "does not fit: redis://h/list:x: it takes true or false"),
        ("ratio", "nan", "the option ratio=nan does not fit"),
        ("claim_after", "30", "the option claim_after=30 does not fit: redis://h/list:x: "
         "'30' is not a duration; write 250ms, 30s, 5m or 1h30m, with the unit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(name: str, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse((name, text))
    assert told in str(caught.value)


def test_options_are_described_for_people() -> None:
    # When the options of a struct are described
    told = {option.name: option for option in described(Options)}
    # Then each says what it takes, and what it is by default
    assert list(told) == list(Options.__struct_fields__)
    assert told["claim_after"] == ("claim_after", "a duration", "30s", "a lease")
    assert told["side"].takes == "left or right"
    assert (told["maxlen"].takes, told["maxlen"].default) == ("a whole number of 1 or more", "")
    assert (told["persistent"].takes, told["persistent"].default) == ("true or false", "true")
    assert (told["ratio"].takes, told["ratio"].default) == ("a number", "0.5")
    assert (told["arg"].takes, told["arg"].default) == ("text", "")


def test_an_option_is_given_once() -> None:
    with pytest.raises(UsageError, match="the option 'maxlen' is given twice: redis://h/list:x"):
        parse(("maxlen", "1"), ("maxlen", "1"))


@pytest.mark.parametrize(
    "name", ["no_verify_ssl", "ssl_cert_reqs", "verify", "ssl_check_hostname", "insecure"]
)
def test_verification_is_not_turned_off_by_an_option(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse((name, "1"))
    assert "is refused" in str(caught.value)
    assert "use --insecure if that is what you want" in str(caught.value)


def test_a_secret_that_does_not_fit_is_not_told() -> None:
    with pytest.raises(UsageError) as caught:
        parse(("password", "hunter2"))
    assert "the option password does not fit" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_required_option_is_asked_for() -> None:
    class Needs(msgspec.Struct):
        must: str

    with pytest.raises(UsageError, match="required field `must`"):
        parse_options([], Needs, where="x")


@given(st.lists(st.tuples(st.sampled_from(Options.__struct_fields__), st.text()), max_size=3))
def test_any_values_fit_or_are_a_usage_error(pairs: list[tuple[str, str]]) -> None:
    try:
        parse(*pairs)
    except UsageError as exc:
        assert "redis://h/list:x" in str(exc)


def test_the_nearest_word() -> None:
    assert nearest("strem", ["stream", "list"]) == "stream"
    assert nearest("xyzzy", ["stream", "list"]) is None
    assert nearest("a", []) is None
