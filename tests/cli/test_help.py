"""Help: every verb and every kind of destination explains itself, with its options."""

from __future__ import annotations

import re

import msgspec
import pytest

from mqcli.address import Address, BrokerURL
from mqcli.options import described
from mqcli.registry import load, topics

from .support import Cli


def verbs(cli: Cli) -> list[str]:
    """The verbs that the program lists."""
    listed = cli("help").ok().out.decode()
    return re.findall(r"(?m)^  ([a-z]+)  ", listed.split("Verbs:")[1].split("Kinds")[0])


def test_a_verb_explains_itself(cli: Cli) -> None:
    found = verbs(cli)
    assert {"publish", "consume", "tail", "ls", "ping", "demo", "help"} <= set(found)
    for verb in found:
        # When help is asked for in either way
        asked, flagged = cli("help", verb).ok(), cli(verb, "--help").ok()
        # Then both say the same
        assert asked.out.split() == flagged.out.split()
        assert b"mqcli " + verb.encode() in asked.out


@pytest.mark.parametrize("topic", topics())
def test_a_kind_tells_all_its_options(cli: Cli, topic: str) -> None:
    # When help is asked for about a kind of destination
    words = set(cli("help", topic).ok().out.decode().split())
    # Then each of its options, and of its connection, is there
    scheme, _, kind = topic.partition(":")
    cls = load(Address("x", kind, BrokerURL(scheme)))
    fields = [
        field.encode_name
        for struct in (cls.Options, cls.Connection)
        for field in msgspec.structs.fields(struct)
    ]
    assert set(fields) <= words
    assert all(o.description for s in (cls.Options, cls.Connection) for o in described(s))


def test_topics_and_what_is_none(cli: Cli) -> None:
    # When no topic is named, then all are listed; the sample plugin is known to this process only
    own = {topic for topic in topics() if not topic.startswith("memo")}
    assert len(own) >= 9 and own <= set(cli("help").ok().out.decode().split())
    # And a wrong one is an error that names the right one
    cli("help", "publsh").fails(2, "did you mean publish?")
    cli("help", "redis").fails(2, "write one of redis:channel, redis:list")
    cli("help", "redis:lst").fails(2, "did you mean list:")
    cli("help", "x:list").fails(2, "unknown broker scheme")
    # Of a broker with one kind that may be left out, and every scheme of a broker will do
    assert cli("help", "sqlite").ok().out == cli("help", "sqlite:topic").ok().out
    assert b"sentinel_password" in cli("help", "rediss+sentinel:list").ok().out
