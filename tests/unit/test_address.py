"""Addresses: every row of the table in the design, both ways, and no password in any error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcli.address import (
    Address,
    BrokerURL,
    Host,
    parse_address,
    parse_broker,
    parse_destination,
)
from mqcli.errors import UsageError


def url(text: str) -> BrokerURL:
    found = parse_broker(text)
    assert isinstance(found, BrokerURL)
    return found


H = (Host("h"),)
TWO = (Host("h1", 26379), Host("h2", 26379))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h", BrokerURL("redis", H)),
        ("redis://h/", BrokerURL("redis", H)),
        ("redis://user:pw@h:6379/2", BrokerURL("redis", (Host("h", 6379),), "user", "pw", ("2",))),
        ("redis://:pw@h", BrokerURL("redis", H, None, "pw")),
        ("redis://user@h", BrokerURL("redis", H, "user")),
        ("REDISS://h", BrokerURL("rediss", H)),
        ("redis+unix:///run/r.sock?db=2",
         BrokerURL("redis+unix", path=("", "run", "r.sock"), query=(("db", "2"),))),
        ("redis+sentinel://h1,h2:26379/main/0",
         BrokerURL("redis+sentinel", TWO, path=("main", "0"))),
        ("rediss+sentinel://h1:1,h2:26379/main",
         BrokerURL("rediss+sentinel", (Host("h1", 1), Host("h2", 26379)), path=("main",))),
        ("redis+cluster://h1,h2", BrokerURL("redis+cluster", (Host("h1"), Host("h2")))),
        ("rediss+cluster://[::1]:7000,[fe80::1%25eth0]",
         BrokerURL("rediss+cluster", (Host("::1", 7000), Host("fe80::1%eth0")))),
        ("amqp://u:p%40%2F%3A@h", BrokerURL("amqp", H, "u", "p@/:")),
        ("amqps://h/a%2Fb?heartbeat=5&x=a%26b",
         BrokerURL("amqps", H, path=("a/b",), query=(("heartbeat", "5"), ("x", "a&b")))),
        ("kafka://h1,h2:9092", BrokerURL("kafka", (Host("h1", 9092), Host("h2", 9092)))),
        ("kafkas://h", BrokerURL("kafkas", H)),
        ("sqlite:///abs/f.db", BrokerURL("sqlite", path=("", "abs", "f.db"))),
        ("sqlite:./rel/f.db", BrokerURL("sqlite", path=(".", "rel", "f.db"))),
        ("sqlite:f.db", BrokerURL("sqlite", path=("f.db",))),
    ],
)  # fmt: skip
def test_broker_urls(text: str, expected: BrokerURL) -> None:
    assert url(text) == expected
    assert url(url(text).text(masked=False)) == expected


@pytest.mark.parametrize(
    ("text", "broker", "kind", "name"),
    [
        ("redis://h/stream:orders", "redis://h", "stream", "orders"),
        ("redis://h/2/list:jobs", "redis://h/2", "list", "jobs"),
        ("redis://h/pattern:a*b", "redis://h", "pattern", "a*b"),
        ("redis+unix:///run/r.sock/list:x?db=2", "redis+unix:///run/r.sock?db=2", "list", "x"),
        ("redis+sentinel://h1,h2/main/0/stream:s", "redis+sentinel://h1,h2/main/0", "stream", "s"),
        ("redis+cluster://h1,h2/stream:s", "redis+cluster://h1,h2", "stream", "s"),
        ("amqp://h/queue:jobs", "amqp://h", "queue", "jobs"),
        ("amqp://h/prod/queue:jobs", "amqp://h/prod", "queue", "jobs"),
        ("amqp://h/a%2Fb/exchange:x", "amqp://h/a%2Fb", "exchange", "x"),
        ("amqp://h/exchange:", "amqp://h", "exchange", ""),
        ("kafka://h1,h2/orders", "kafka://h1,h2", None, "orders"),
        ("kafka://h/topic:orders", "kafka://h", "topic", "orders"),
        ("sqlite:///abs/f.db/orders", "sqlite:///abs/f.db", None, "orders"),
        ("sqlite:./f.db/orders", "sqlite:./f.db", None, "orders"),
        ("redis://h/queue:foo:bar", "redis://h", "queue", "foo:bar"),
        ("redis://h/list:a%2Fb%3Fc%23d%25e%3Af", "redis://h", "list", "a/b?c#d%e:f"),
        ("kafka://h/a%3Ab", "kafka://h", None, "a:b"),
        ("redis://h/list:%FF", "redis://h", "list", "\udcff"),
    ],
)
def test_addresses_with_a_broker(text: str, broker: str, kind: str | None, name: str) -> None:
    # Given a row of the design's table
    # When it is parsed
    found = parse_address(text)
    # Then broker and destination are told apart, and its canonical text means the same
    assert found == Address(name, kind, url(broker))
    assert parse_address(found.text(masked=False)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", Address("orders")),
        ("topic:orders", Address("orders", "topic")),
        ("orders?x=1", Address("orders", query=(("x", "1"),))),
        ("@staging/orders", Address("orders", named="staging")),
        ("@a.b-c_1/list:x?y=%20", Address("x", "list", named="a.b-c_1", query=(("y", " "),))),
    ],
)
def test_addresses_on_another_broker(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


def test_the_name_of_a_configured_broker() -> None:
    assert parse_broker("@staging") == "staging"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the address is empty"),
        ("redis://h", "no destination; append /DESTINATION"),
        ("redis://h/", "the destination is missing"),
        ("sqlite:f.db", "no destination"),
        ("redis+unix:///list:x", "names no host"),
        ("a/b", "a '/' or '#' in a name; percent-encode it: / as %2F"),
        ("redis://h/list:a#b", "# as %23"),
        ("orders#1", "percent-encode it as %23"),
        ("orders?x", "'orders?x': 'x' is a parameter without a value; write ?name=value"),
        ("orders?=x", "without a value"),
        ("50%", "a % that is no percent-encoding; write % as %25"),
        ("@staging", "the destination is missing"),
        ("@/orders", "is not a broker's name; write @NAME/DESTINATION"),
        ("@a b/orders", "is not a broker's name"),
        ("redis://h:0/list:x", "has a wrong port"),
        ("redis://h:65536/list:x", "'h:65536' has a wrong port; ports go from 1 to 65535"),
        ("redis://h:６３７９/list:x", "has a wrong port"),
        (f"redis://h:{'9' * 5000}/list:x", "has a wrong port"),
        ("redis://h:/list:x", "has a wrong port"),
        ("redis://,h/list:x", "empty host name"),
        ("redis://h,/list:x", "empty host name"),
        ("redis://::1/list:x", "has too many colons for a host; write IPv6 in brackets"),
        ("redis://[::1/list:x", "'[::1' has a bracket that is not closed"),
        ("redis://[::1]x/list:x", "is not closed"),
        ("redis:///list:x", "names no host"),
        ("sqlite://rel/f.db/x", "write three slashes for an absolute path: sqlite:///path"),
        ("redis+unix://h/run/r.sock/x", "names a host where a path belongs"),
    ],
)
def test_wrong_addresses_are_told(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("localhost:6379", "is not a broker URL; write for example redis://localhost:6379"),
        ("sqlite:", "sqlite: names no file"),
        ("redis://", "names no host"),
        ("redis://h#x", "has a '#'"),
    ],
)
def test_wrong_broker_urls_are_told(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_broker(text)
    assert told in str(caught.value)


def test_passwords_are_masked_wherever_an_address_is_shown() -> None:
    # Given an address with a password in its login and one in a parameter
    text = "redis://user:hunter2@h/list:x?ssl_password=hunter2&db=1&auth_token=hunter2"
    address = parse_address(text)
    assert address.broker is not None
    # Then neither is shown, and both are there when asked for
    masked = "redis://user:***@h/list:x?ssl_password=***&db=1&auth_token=***"
    assert str(address) == masked
    assert repr(address) == f"Address({masked!r})"
    assert "hunter2" not in str(address.broker) + repr(address.broker)
    assert "hunter2" not in str(address.with_name("y")) + repr(address.with_kind("list"))
    assert address.text(masked=False) == text


@pytest.mark.parametrize("text", ["orders?password=hunter2", "@staging/orders?password=hunter2"])
def test_parameters_of_a_bare_destination_are_masked_too(text: str) -> None:
    address = parse_address(text)
    assert str(address) == text.replace("hunter2", "***")
    assert address.text(masked=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:hunter2@h",
        "redis://user:hunter2@h:99999/list:x",
        "redis://user:hunter2@h:/list:x",
        "redis://user:hunter2@,/list:x",
        "redis://user:hun@ter2hunter2@h:x/list:x",
        "redis://user:hunter2/hunter2@h/list:x",
        "redis://user:hunter2/hunter2@h:6379/0/list:x",
        "redis://user:hunter2?hunter2@h/list:x",
        "redis://user:hunter2#hunter2@h/list:x",
        "redis://user:hunter2%@h/list:x",
        "redis://user:hunter2%zz@h/list:x",
        "redis://user%zz@h/list:x?password=hunter2",
        "redis://user:hunter2:hunter2/@h/list:x",
        "redis://user:hunter2,hunter2/@h/list:x",
        "redis://user:[hunter2/@h/list:x",
        "redis://h/list:x?password=hunter2#a",
        "redis://h/list:x?password=hunter2%zz",
        "redis://h:bad/list:x?password=hunter2",
        "orders?password=hunter2&x",
        "orders?password=hunter2%zz",
        "sqlite:?password=hunter2",
        "user:hunter2@localhost/0",
        "user:hunter2@localhost:6379/list:x",
    ],
)
def test_no_error_holds_a_password(text: str) -> None:
    # Given a wrong address with a password, perhaps one that should have been encoded
    # When it is refused, as an address and as a broker
    told = ""
    for parse in (parse_address, parse_broker):
        try:
            parse(text)
        except UsageError as exc:
            told += str(exc)
    # Then the error does not tell it
    assert told
    assert "hunter2" not in told


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = text.filter(bool)
pairs = st.lists(st.tuples(words, text), max_size=3).map(tuple)
kinds = st.none() | st.from_regex(r"[a-z]{1,9}", fullmatch=True)
hosts = st.lists(
    st.builds(Host, words | st.text("[]:%a", min_size=1, max_size=4), st.integers(1, 65535)),
    min_size=1,
    max_size=3,
).map(tuple)
brokers = st.builds(
    BrokerURL,
    scheme=st.sampled_from(["redis", "amqps", "kafka", "redis+sentinel", "x-y.z"]),
    hosts=hosts,
    username=st.none() | words,
    password=st.none() | text,
    path=st.lists(words, max_size=3).map(tuple),
    query=pairs,
)
files = st.builds(
    BrokerURL,
    scheme=st.just("sqlite"),
    path=st.lists(words, min_size=1, max_size=3).map(lambda pieces: ("", *pieces))
    | st.lists(words, min_size=1, max_size=3).map(tuple),
    query=pairs,
)


@given(brokers | files, kinds, text)
def test_what_is_written_is_parsed_again(broker: BrokerURL, kind: str | None, name: str) -> None:
    # Given any broker, and any destination with any name
    address = Address(name if kind else name or "x", kind, broker)
    # When its canonical text is parsed
    # Then it is the same; and the text is plain enough for a terminal
    assert parse_address(address.text(masked=False)) == address
    assert url(broker.text(masked=False)) == broker
    assert address.text().isprintable()


@given(st.none() | st.from_regex(r"[\w][\w.-]{0,9}", fullmatch=True), kinds, text, pairs)
def test_what_is_written_without_a_broker_is_parsed_again(
    named: str | None, kind: str | None, name: str, query: tuple[tuple[str, str], ...]
) -> None:
    if named is not None and not named.isascii():
        return
    address = Address(name if kind else name or "x", kind, named=named, query=query)
    written = address.text(masked=False)
    if named is None and (name.startswith("@") or written.lower().startswith("sqlite:")):
        return
    assert parse_address(written) == address


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    for parse in (parse_address, parse_broker, parse_destination):
        for given_text in (text, f"redis://{text}", f"redis://h/{text}", f"sqlite:{text}"):
            try:
                parse(given_text)
            except UsageError as exc:
                assert str(exc)
