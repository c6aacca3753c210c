"""The suite: what can be known before anything opens. Traits, options, refusals."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from ..errors import UsageError
from ..options import parse_options
from ..transport import Consumes, Inspects, Manages, Publishes, Tails
from .harness import Harness
from .support import Spot, nothing_opened, refused

_ROLES = (Publishes, Consumes, Tails, Inspects, Manages)


class Promising:
    """Mixed into the suite."""

    def test_traits_are_known_before_anything_opens(self, harness: Harness) -> None:
        """Given an address, when asked for its traits, then they are always the same."""
        spot = Spot(harness)
        with nothing_opened():
            assert spot.client.traits() == spot.client.traits()
            assert harness.client(spot.address).traits() == spot.traits

    def test_traits_and_roles_do_not_contradict_each_other(self, harness: Harness) -> None:
        """Given roles and traits, when put beside each other, then they can all be true."""
        spot = Spot(harness)
        t = spot.traits
        reads = spot.client.supports(Consumes) or spot.client.supports(Tails)
        assert reads or spot.client.supports(Publishes)
        assert not t.nack or t.ack != "none"
        match t.keeps:
            case "nothing":
                assert not spot.client.supports(Consumes), "there is nothing to take"
                assert t.ack == "none" and t.starts <= {"end"}
            case "until-taken":
                assert t.shares and not t.fans_out and not t.starts
                assert t.watch_starts <= {"beginning", "end", "skip", "last"}, "no places"
            case "log":
                assert t.fans_out and {"beginning", "end"} <= t.starts
        assert ("after" in t.starts) == (t.keeps == "log"), "a log's reader goes on behind a place"
        if spot.can("group"):
            grouped = spot.client.traits(spot.group)
            assert grouped.ack != "none" and grouped.shares
            same = ("keeps", "confirm", "headers", "keys", "tombstones", "missing", "properties")
            assert all(getattr(grouped, name) == getattr(t, name) for name in same)

    def test_every_role_that_is_not_there_is_refused(self, harness: Harness) -> None:
        """Given a class, when asked for a role it lacks, then that is refused and nothing opens."""
        spot = Spot(harness)
        for role in _ROLES:
            if not spot.client.supports(role):
                with refused():
                    spot.client.make(role)

    def test_a_group_is_refused_where_there_is_none(self, harness: Harness) -> None:
        """Given a kind without groups, when read with one, then that is refused."""
        spot = Spot(harness)
        if spot.can("group"):
            with nothing_opened():
                spot.at("group")
        else:
            spot.refuses("group")

    def test_every_option_is_described_and_typed(self, harness: Harness) -> None:
        """Given the two structs of options, when looked at, then every field says what it is
        for, has a default or must be given, and no name stands in both."""
        spot = Spot(harness)
        cls = spot.client.cls
        names: set[str] = set()
        for struct in (cls.Connection, cls.Options):
            assert struct.__struct_config__.frozen
            for field in msgspec.structs.fields(struct):
                assert field.encode_name not in names, f"{field.encode_name} stands in both"
                names.add(field.encode_name)
                text = _description(field.type)
                assert text and text.strip() and "\n" not in text, f"{field.name}: no description"
        assert cls.summary and "\n" not in cls.summary

    def test_unknown_options_are_refused_with_the_nearest(self, harness: Harness) -> None:
        """Given an option that does not exist, when made, then that is one line of UsageError."""
        spot = Spot(harness)
        with refused(UsageError):
            harness.client(spot.address, ("no_such_option", "1"))
        with refused(UsageError):
            harness.client(spot.address, ("no_verify_ssl", "1"))
        cls = spot.client.cls
        for struct in (cls.Connection, cls.Options):
            for field in msgspec.structs.fields(struct):
                wrong = field.encode_name + "x"
                with pytest.raises(UsageError, match=re.escape(field.encode_name)):
                    parse_options([(wrong, "1")], cls.Connection, cls.Options, where="here")

    def test_the_address_is_canonical(self, harness: Harness) -> None:
        """Given an address, when shown and parsed again, then it is the same destination."""
        spot = Spot(harness)
        address = spot.client.target.address
        again = harness.client(address.text(masked=False)).target
        assert again.address == address
        assert again.options == harness.client(spot.address).target.options


def _description(kind: Any) -> str | None:
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata) and info.extra_json_schema:
        found = info.extra_json_schema.get("description")
        return found if isinstance(found, str) else None
    return None
