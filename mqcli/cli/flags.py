"""What Typer knows of the verbs: their flags, and how these reach a verb's function.

A verb's module and this one are all that ``--help`` and completion load; everything that works is
imported inside the functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import click
import typer

from .env import Env

__all__ = [
    "AddressArgument",
    "AddressesArgument",
    "BindingFlags",
    "BrokerArgument",
    "CommonFlags",
    "DestinationArgument",
    "FactsFormat",
    "Flags",
    "GroupFlag",
    "InputFlags",
    "PartFlags",
    "ReadingFlags",
    "SendingFlags",
    "YesFlag",
    "verb",
]


class Flags:
    """A group of flags: each annotated attribute is one. ``verb`` fills an instance."""

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)


def files(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """For flags that take a file's name: the shell completes these itself."""
    return []


def complete_broker(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Schemes. Loads no driver."""
    from ..registry import schemes

    for plugins in (False, True):
        found = [
            f"{scheme}:./" if scheme == "sqlite" else f"{scheme}://"
            for scheme in schemes(plugins=plugins)
        ]
        if matching := [text for text in found if text.startswith(incomplete)]:
            return matching
    return []


def complete_address(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Schemes, and behind a broker's URL the kinds of destination. Loads no driver."""
    from ..errors import UsageError
    from ..registry import kinds

    scheme, separator, rest = incomplete.partition("://")
    if not separator:
        return complete_broker(ctx, args, incomplete)
    base = incomplete.rpartition("/")[0]
    try:
        found = [f"{base}/{kind}:" for kind in kinds(scheme)] if "/" in rest else []
    except UsageError:  # no such scheme
        found = []
    return [text for text in found if text.startswith(incomplete)]


AddressArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ADDRESS", show_default=False, autocompletion=complete_address)
]
AddressesArgument: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="ADDRESS...", show_default=False, autocompletion=complete_address),
]
DestinationArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="DESTINATION", show_default=False)
]
BrokerArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="[BROKER]", show_default=False, autocompletion=complete_broker),
]


def _named(name: str | None) -> str | None:
    if name == "":  # a variable of a script that is not set, rather than a name
        raise click.BadParameter("a group has a name")
    return name


GroupFlag: TypeAlias = Annotated[
    str | None,
    typer.Option("--group", "-g", metavar="NAME", callback=_named, help="A group on a log."),
]
YesFlag: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
FactsFormat: TypeAlias = Annotated[
    Literal["auto", "json"],
    typer.Option("--output", "-o", metavar="FORMAT", help="auto (text) or json."),
]


class CommonFlags(Flags):
    """The flags of every verb."""

    broker: Annotated[
        str | None,
        typer.Option(
            "--broker",
            "-b",
            metavar="URL",
            help="Broker of a bare destination.",
            autocompletion=complete_broker,
        ),
    ] = None
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-O",
            metavar="NAME=VALUE",
            help="What one kind of destination has; mqcli help SCHEME:KIND lists them.",
        ),
    ] = None
    password_file: Annotated[
        str | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="The password is this file's first line (or is in MQCLI_PASSWORD).",
            autocompletion=files,
        ),
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not verify TLS certificates.")
    ] = False
    connect_timeout: Annotated[
        str, typer.Option("--connect-timeout", metavar="T", help="Time to connect in.")
    ] = "10s"
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="T", help="Time for everything.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only errors.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what is done, and counts.")
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


class ReadingFlags(Flags):
    """Which messages, when to end, how they are written."""

    count: Annotated[
        int | None,
        typer.Option("--count", "-c", min=1, metavar="N", help="Stop after N delivered messages."),
    ] = None
    end: Annotated[
        bool, typer.Option("--end", "-e", help="Stop at the end that stood when reading began.")
    ] = False
    last: Annotated[
        int | None,
        typer.Option("--last", "-n", min=0, metavar="N", help="The last N first (as --from -N)."),
    ] = None
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="START",
            help="beginning, end, +N, -N, a position, @TIME, or a range A..B.",
        ),
    ] = None
    to: Annotated[
        str | None, typer.Option("--to", metavar="STOP", help="Stop before this; as START.")
    ] = None
    output: Annotated[
        Literal["auto", "value", "raw", "json", "hex"],
        typer.Option("--output", "-o", metavar="FORMAT", help="auto, value, raw, json or hex."),
    ] = "auto"
    embed_json: Annotated[
        bool, typer.Option("--embed-json", help="With -o json: values that are JSON as such.")
    ] = False
    nul: Annotated[
        bool, typer.Option("--nul", help="End each value with a NUL byte, not a newline.")
    ] = False
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", "-D", metavar="TEXT", help="What ends each value."),
    ] = None
    idle: Annotated[
        str | None, typer.Option("--idle", metavar="T", help="Stop when nothing came for so long.")
    ] = None
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Merge partitions by timestamp, not by arrival.")
    ] = False
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Go on behind what cannot be decoded, and end with 1."),
    ] = False
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the destination to appear.")] = (
        False
    )
    on_gap: Annotated[
        Literal["report", "fail", "earliest", "latest"] | None,
        typer.Option(
            "--on-gap",
            metavar="ACTION",
            help="Where messages may have passed unseen: report, fail, earliest or latest.",
        ),
    ] = None
    reconnect_for: Annotated[
        str, typer.Option("--reconnect-for", metavar="T", help="How long to try a lost broker.")
    ] = "60s"


class InputFlags(Flags):
    """Where values come from, and how they are cut."""

    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Read this file; - is standard input.",
            autocompletion=files,
        ),
    ] = None
    input: Annotated[
        Literal["lines", "nul", "whole", "json"] | None,
        typer.Option(
            "--input", "-i", metavar="FORMAT", help="lines (the default), nul, whole or json."
        ),
    ] = None
    nul: Annotated[bool, typer.Option("--nul", help="A NUL byte ends each value.")] = False
    whole: Annotated[bool, typer.Option("--whole", help="Each input is one value.")] = False
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", "-D", metavar="TEXT", help="What ends each value.")
    ] = None
    key_delimiter: Annotated[
        str | None,
        typer.Option(
            "--key-delimiter", "-K", metavar="TEXT", help="What parts key and value of each."
        ),
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on behind bad input, and end with 1.")
    ] = False
    keep_timestamp: Annotated[
        bool, typer.Option("--keep-timestamp", help="With -i json: keep meta.timestamp.")
    ] = False
    keep_partition: Annotated[
        bool, typer.Option("--keep-partition", help="With -i json: keep the partition.")
    ] = False


class PartFlags(Flags):
    """What every message has beside its value."""

    key: Annotated[
        str | None, typer.Option("--key", "-k", metavar="KEY", help="The key of every message.")
    ] = None
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="NAME=VALUE",
            help="A header of every message; NAME:TYPE=VALUE for another type than text.",
        ),
    ] = None
    property: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            "-P",
            metavar="NAME=VALUE",
            help="What is typed apart from headers; VALUE is JSON where it can be.",
        ),
    ] = None
    timestamp: Annotated[
        str | None,
        typer.Option(
            "--timestamp", metavar="TIME", help="The time of every message, as behind @ in a START."
        ),
    ] = None
    null: Annotated[
        bool, typer.Option("--null", help="Send one tombstone: a message without a value.")
    ] = False
    drop_unsupported: Annotated[
        bool,
        typer.Option("--drop-unsupported", help="Leave out what the destination cannot carry."),
    ] = False


class BindingFlags(Flags):
    """Which messages a binding is for."""

    key: Annotated[
        str | None,
        typer.Option("--key", "-k", metavar="KEY", help="Routing key, or pattern of a topic."),
    ] = None
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="NAME=VALUE",
            help="Header to match, or another argument, as x-match=any; NAME:TYPE=VALUE is typed.",
        ),
    ] = None


class SendingFlags(Flags):
    """How it is sent."""

    create: Annotated[bool, typer.Option("--create", help="Create the destination first.")] = False
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the destination to appear.")] = (
        False
    )
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Send again what was lost on the way; it may double."),
    ] = False
    atomic: Annotated[
        bool,
        typer.Option("--atomic", help="All or nothing: one transaction over the whole input."),
    ] = False
    report: Annotated[
        Literal["json"] | None,
        typer.Option(
            "--report",
            metavar="FORMAT",
            help="json: a line for each message, with its fate and position.",
        ),
    ] = None
    require_receivers: Annotated[
        int,
        typer.Option(
            "--require-receivers",
            min=0,
            metavar="N",
            help="End with 1 when fewer receive a message.",
            show_default=False,
        ),
    ] = 0
    confirm_timeout: Annotated[
        str,
        typer.Option("--confirm-timeout", metavar="T", help="Time without any confirmation."),
    ] = "30s"
    reconnect_for: Annotated[
        str,
        typer.Option("--reconnect-for", metavar="T", help="With --retry: how long to try."),
    ] = "60s"


def _expanded(cls: type[Flags]) -> list[inspect.Parameter]:
    hints = get_type_hints(cls, include_extras=True)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(cls, name),
            annotation=hints[name],
        )
        for name in cls.__annotations__
    ]


def verb(function: Callable[..., int]) -> Callable[..., int]:
    """Make ``function(env, common, …)`` into what Typer registers: its own parameters, those of
    type Flags taken apart, then the flags that every verb has."""
    for unregistered in ("env", "common"):  # their types are known to type checkers only
        function.__annotations__.pop(unregistered)
    own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]
    name = function.__module__.rpartition(".")[2]
    groups: dict[str, type[Flags]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in own:
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Flags):
            groups[parameter.name] = kind
            parameters += _expanded(kind)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters += _expanded(CommonFlags)

    def call(**given: Any) -> int:
        from .common import understood

        env = click.get_current_context().obj
        assert isinstance(env, Env)

        def take(cls: type[Flags]) -> Any:
            return cls(**{flag: given.pop(flag) for flag in cls.__annotations__})

        common = understood(env, take(CommonFlags), name)
        made = {argument: take(cls) for argument, cls in groups.items()}
        return function(env, common, **made, **given)

    call.__name__, call.__doc__ = name, function.__doc__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call
