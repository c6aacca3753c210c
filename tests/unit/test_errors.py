"""Exit codes, the one that stands, and the one line of an error."""

from __future__ import annotations

import itertools

import pytest

from mqcli import errors
from mqcli.errors import ExitCode, InputError, MqcliError, UsageError, gravest


def classes() -> list[type[MqcliError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [cls for cls in found if isinstance(cls, type) and issubclass(cls, MqcliError)]


@pytest.mark.parametrize(
    ("name", "code"),
    [("UsageError", 2), ("Unsupported", 2), ("InputError", 65), ("NotFound", 66),
     ("BrokerUnavailable", 69), ("ConnectionLost", 69), ("OutputError", 74), ("TryAgainLater", 75),
     ("AccessDenied", 77), ("ConfigError", 78), ("TimeLimitReached", 124), ("NotAllDone", 1),
     ("Refused", 1), ("GapFound", 1), ("MqcliError", 70)],
)  # fmt: skip
def test_each_error_has_the_code_of_the_design(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_every_error_is_in_the_table_of_its_module() -> None:
    for cls in classes():
        assert cls.__name__ in (errors.__doc__ or ""), cls


def test_the_gravest_code_stands() -> None:
    # Given the order of the design
    order = [70, 130, 143, 74, 78, 2, 77, 66, 65, 75, 69, 124, 1, 0]
    # Then every code has its place, and of two the earlier stands
    assert sorted(order) == sorted(ExitCode)
    for first, second in itertools.combinations(order, 2):
        assert gravest([second, first, second]) == first
    assert gravest([]) is ExitCode.OK


def test_a_code_that_is_none_is_never_success() -> None:
    with pytest.raises(ValueError, match="5"):
        gravest([0, 5])


def test_an_error_is_one_line() -> None:
    assert str(MqcliError("cannot", where="redis://h", why="refused", hint="try")) == (
        "cannot: redis://h: refused; try"
    )
    assert str(MqcliError("cannot", why="refused")) == "cannot: refused"
    assert str(UsageError("cannot", hint="try")) == "cannot; try"
    assert str(InputError("not JSON", line=3, why="truncated")) == "line 3: not JSON: truncated"
    assert str(InputError("cannot read", where="f")) == "cannot read: f"
