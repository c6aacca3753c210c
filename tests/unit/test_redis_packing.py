"""Commands packed in one go are the same bytes as commands packed one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcli.transports._redis_packing import pack, pack_alike, pack_variadic


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=20))
def test_alike_is_the_same_as_one_by_one(values: list[bytes]) -> None:
    # Given values of any length, When they are packed at once
    packed = pack_alike(("XADD", b"s\xff", 5, "*"), values, set(map(len, values)))

    # Then it is what hiredis makes of each
    assert packed == b"".join(pack("XADD", b"s\xff", 5, "*", value) for value in values)


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=20))
def test_all_values_in_one_command(values: list[bytes]) -> None:
    # Given values of any length, When they become the arguments of one command
    packed = pack_variadic(("RPUSH", b"k\xff"), values, set(map(len, values)))

    # Then it is what hiredis makes of it
    assert packed == pack("RPUSH", b"k\xff", *values)
