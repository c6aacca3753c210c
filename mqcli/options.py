"""``-O name=value`` and ``?name=value``: text made into the typed structs of a transport.

A transport's options are a frozen ``msgspec.Struct`` whose fields carry their description::

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        claim_after: Annotated[Duration, Meta(description="…")] = Duration(30)

A field that is a tuple may be given several times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from .address import is_secret
from .errors import UsageError
from .position import parse_duration

__all__ = ["Duration", "Option", "described", "nearest", "parse_options"]

_VERIFICATION = frozenset(
    {"no_verify_ssl", "ssl_no_verify", "verify", "verify_ssl", "ssl_cert_reqs", "insecure",
     "ssl_check_hostname", "tls_verify", "skip_verify"}
)  # fmt: skip


class Duration(float):
    """Seconds, written with a unit (``30s``); see ``position.parse_duration``."""


class Option(NamedTuple):
    """One option for people: ``takes`` says what its values are, ``default`` is "" for none."""

    name: str
    takes: str
    default: str
    description: str


def described(struct: type[msgspec.Struct]) -> list[Option]:
    """The options that are the fields of a struct, in their order."""
    found = []
    for field in msgspec.structs.fields(struct):
        info, description = _type(field.type), ""
        while isinstance(info, msgspec.inspect.Metadata):
            description = (info.extra_json_schema or {}).get("description", description)
            info = info.type
        default = "" if field.default in (None, (), msgspec.NODEFAULT) else field.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, Duration):
            default = f"{default:g}s"
        found.append(Option(field.encode_name, _takes(info), str(default), description))
    return found


def _type(kind: Any) -> msgspec.inspect.Type:
    return msgspec.inspect.type_info(kind)


def _takes(info: msgspec.inspect.Type) -> str:
    i = msgspec.inspect
    match info:
        case i.Metadata(type=inner):
            return _takes(inner)
        case i.UnionType(types=types):
            return " or ".join(_takes(one) for one in types if not isinstance(one, i.NoneType))
        case i.LiteralType(values=values):
            return " or ".join(str(value) for value in values)
        case i.BoolType():
            return "true or false"
        case i.IntType(ge=least, le=most):
            limits = "" if least is None else f" of {least} or more"
            return "a whole number" + (limits if most is None else f" from {least} to {most}")
        case i.FloatType():
            return "a number"
        case i.CustomType():
            return "a duration"
        case i.VarTupleType(item_type=item):
            return _takes(item)
        case i.StrType(pattern=str(pattern)):
            return f"text like {pattern}"
        case _:
            return "text"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def _convert(kind: type, value: Any) -> Any:
    if kind is Duration and isinstance(value, str):
        try:
            return Duration(parse_duration(value))
        except UsageError as exc:
            raise ValueError(str(exc)) from exc
    raise ValueError(f"not a {kind.__name__}")


def parse_options(
    pairs: Sequence[tuple[str, str]], *structs: type[msgspec.Struct], where: str
) -> list[Any]:
    """One instance of each struct, from all the pairs; the structs share no field names.

    Raises UsageError for an unknown name (with the nearest known one), a value of a wrong type, a
    name given twice, and anything that would turn off the verification of certificates.
    """
    fields = {
        field.encode_name: (index, field)
        for index, struct in enumerate(structs)
        for field in msgspec.structs.fields(struct)
    }
    given: list[dict[str, Any]] = [{} for _ in structs]
    for name, text in pairs:
        if name not in fields:
            if name in _VERIFICATION:
                raise UsageError(
                    f"the option {name!r} is refused",
                    where=where,
                    why="it can turn off the verification of TLS certificates",
                    hint="use --insecure if that is what you want",
                )
            guess = nearest(name, fields)
            known = ", ".join(sorted(fields)) or "none"
            raise UsageError(
                f"unknown option {name!r}",
                where=where,
                hint=f"did you mean {guess!r}?" if guess else f"known here: {known}",
            )
        index, field = fields[name]
        if _is_tuple(field.type):
            given[index][name] = (*given[index].get(name, ()), text)
        elif name in given[index]:
            raise UsageError(f"the option {name!r} is given twice", where=where)
        else:
            given[index][name] = text
    made = []
    for struct, values in zip(structs, given, strict=True):
        try:
            made.append(msgspec.convert(values, struct, strict=False, dec_hook=_convert))
        except msgspec.ValidationError as exc:
            why, _, path = str(exc).partition(" - at `$.")
            name = path.rstrip("`").partition("[")[0]
            if name and "duration" not in why:
                why = f"it takes {_takes(_type(fields[name][1].type))}"
            raise _misfit(name, values.get(name, ""), where, why) from exc
        for name, text in values.items():
            value = getattr(made[-1], fields[name][1].name)
            if isinstance(value, float) and not math.isfinite(value):
                raise _misfit(name, text, where, "not a number")
    return made


def _misfit(name: str, text: Any, where: str, why: str) -> UsageError:
    if not name:
        return UsageError("wrong options", where=where, why=why)
    if is_secret(name):
        return UsageError(f"the option {name} does not fit", where=where)
    return UsageError(f"the option {name}={text} does not fit", where=where, why=why)


def _is_tuple(kind: Any) -> bool:
    info = _type(kind)
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    return isinstance(info, msgspec.inspect.VarTupleType)
