"""What all verbs share: the flags that each of them has, and the way from words to a client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import click
import msgspec
import typer

from ..errors import UsageError
from ..position import parse_duration
from .env import Env

if TYPE_CHECKING:
    from ..address import Address, BrokerURL
    from ..client import Client, Limits

__all__ = [
    "AddressArgument",
    "Common",
    "Flags",
    "complete_address",
    "files",
    "pairs",
    "seconds",
    "some_seconds",
    "verb",
]


class Common(msgspec.Struct):
    """The flags of every verb, understood."""

    broker: str | None
    options: list[tuple[str, str]]
    connect_timeout: float
    timeout: float | None
    insecure: bool
    password: str | None
    verb: str

    @property
    def client_name(self) -> str:
        """What a broker may be told of us."""
        from .._version import __version__

        return f"mqcli/{__version__} {self.verb}"

    def url(self, env: Env, text: str | None) -> BrokerURL:
        """The broker that ``text``, or else the default, names. Raises UsageError."""
        from ..config import default_broker

        if text is not None and self.broker is not None:
            raise UsageError(
                f"two brokers are named, {shown_url(text)} and --broker {shown_url(self.broker)}",
                hint="name one",
            )
        find = partial(default_broker, text or self.broker, env.variables)
        url, notice = self._default(env, find)
        if notice:
            env.say(f"mqcli: {notice}")
        return self._with_password(env, url)

    def client(self, env: Env, text: str, limits: Limits | None = None) -> Client:
        """The client of an ADDRESS; see ``addresses`` for several. Raises UsageError."""
        return self.clients(env, [text], limits)[0]

    def clients(self, env: Env, texts: Sequence[str], limits: Limits | None = None) -> list[Client]:
        """The clients of some ADDRESSes. Opens nothing. Raises UsageError."""
        from ..client import Client
        from ..registry import target

        return [
            Client(
                *target(
                    address,
                    self.options,
                    connect_timeout=self.connect_timeout,
                    insecure=self.insecure,
                    client_name=self.client_name,
                ),
                limits,
            )
            for address in self.addresses(env, texts)
        ]

    def addresses(self, env: Env, texts: Sequence[str]) -> list[Address]:
        """The addresses with their brokers and passwords. Raises UsageError."""
        from ..address import parse_address
        from ..config import with_broker

        parsed = [parse_address(text) for text in texts]
        for address in parsed:
            if address.broker is not None:
                env.secret(address.broker.password)
        if self.broker is not None and all(a.broker or a.named for a in parsed):
            raise UsageError(
                f"--broker does not apply, for {parsed[0]} names its broker",
                hint="leave out --broker, or give the destination alone",
            )
        found, notices = [], []
        for address in parsed:
            if address.broker is not None and address.broker.password is not None:
                env.detail(
                    "mqcli: other users of this machine can see the password on the command line;"
                    " use MQCLI_PASSWORD or --password-file"
                )
            find = partial(with_broker, address, self.broker, env.variables)
            whole, notice = self._default(env, find)
            assert whole.broker is not None
            found.append(
                msgspec.structs.replace(whole, broker=self._with_password(env, whole.broker))
            )
            if notice and notice not in notices:
                notices.append(notice)
        for notice in notices:
            env.say(f"mqcli: {notice}")
        return found

    def _default(self, env: Env, find: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
        try:
            return find()
        except UsageError as exc:
            if self.broker is None and env.variables.get("MQCLI_BROKER") and not exc.where:
                exc.where = "MQCLI_BROKER"
            raise

    def _with_password(self, env: Env, url: BrokerURL) -> BrokerURL:
        env.secret(url.password)
        if self.password is None or url.password is not None or url.scheme == "sqlite":
            return url
        env.secret(self.password)
        return msgspec.structs.replace(url, password=self.password)


def files(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """For flags that take a file's name: the shell completes these itself."""
    return []


def complete_address(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    """Schemes, and behind a broker's URL the kinds of destination. Loads no driver."""
    from ..registry import kinds, schemes

    found = [f"{scheme}:./" if scheme == "sqlite" else f"{scheme}://" for scheme in schemes()]
    scheme, separator, rest = incomplete.partition("://")
    if separator and "/" in rest and scheme in schemes():
        base = incomplete.rpartition("/")[0]
        found += [f"{base}/{kind}:" for kind in kinds(scheme)]
    return [text for text in found if text.startswith(incomplete)]


AddressArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ADDRESS", show_default=False, autocompletion=complete_address)
]


def shown_url(text: str) -> str:
    """What the user wrote for a broker, with its password masked."""
    from ..address import parse_broker

    return str(parse_broker(text))


def seconds(flag: str, text: str | None) -> float | None:
    """The duration given to ``flag``. Raises UsageError."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except UsageError as exc:
        raise UsageError(f"{flag}: {exc.what}", hint=exc.hint) from None


def some_seconds(flag: str, text: str) -> float:
    """As ``seconds``, for a flag that has a default."""
    found = seconds(flag, text)
    assert found is not None
    return found


def pairs(flag: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """``name=value`` for each. Raises UsageError."""
    found = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {text} is not name=value")
        found.append((name, value))
    return found


def _password(env: Env, file: str | None) -> str | None:
    if file is None:
        return env.variables.get("MQCLI_PASSWORD") or None
    try:
        text = Path(file).read_text("utf-8", "surrogateescape")
    except OSError as exc:
        raise UsageError(
            "the password file cannot be read", where=file, why=exc.strerror or str(exc)
        ) from exc
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise UsageError("the password file's first line is empty", where=file)
    return password


class Flags(msgspec.Struct):
    """A group of flags: each field, annotated for Typer, is one. ``verb`` knows them."""


class _CommonFlags(Flags):
    broker: Annotated[
        str | None,
        typer.Option("--broker", "-b", metavar="URL", help="Broker of a bare destination."),
    ] = None
    options: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="What one broker alone has."),
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


def _understood(env: Env, flags: _CommonFlags, verb: str) -> Common:
    env.quiet, env.verbose = flags.quiet, flags.verbose
    if env.quiet and env.verbose:
        raise UsageError("--quiet and --verbose cannot both be meant")
    common = Common(
        flags.broker,
        pairs("-O", flags.options),
        some_seconds("--connect-timeout", flags.connect_timeout),
        seconds("--timeout", flags.timeout),
        flags.insecure,
        _password(env, flags.password_file),
        verb,
    )
    if common.connect_timeout <= 0:
        raise UsageError("--connect-timeout must be longer than 0")
    return common


def _expanded(cls: type[Flags]) -> list[inspect.Parameter]:
    hints = get_type_hints(cls, include_extras=True)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]
        )
        for name, default in zip(cls.__struct_fields__, cls.__struct_defaults__, strict=True)
    ]


def verb(function: Callable[..., int]) -> Callable[..., int]:
    """Make ``function(env, common, …)`` into what Typer registers: its own parameters, those of
    type Flags taken apart, then the flags that every verb has."""
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
    parameters += _expanded(_CommonFlags)

    def call(**given: Any) -> int:
        env = click.get_current_context().obj
        assert isinstance(env, Env)

        def take(cls: type[Flags]) -> Any:
            return cls(**{field: given.pop(field) for field in cls.__struct_fields__})

        common = _understood(env, take(_CommonFlags), name)
        made = {argument: take(cls) for argument, cls in groups.items()}
        return function(env, common, **made, **given)

    call.__name__, call.__doc__ = name, function.__doc__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call
