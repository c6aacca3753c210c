"""What all verbs share: the flags that each of them has, and the way from words to a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import UsageError
from ..position import parse_duration
from .env import Env
from .flags import CommonFlags

if TYPE_CHECKING:
    from ..address import Address, BrokerURL
    from ..client import Client, Limits

__all__ = ["Common", "pairs", "seconds", "some_seconds", "understood"]


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


def understood(env: Env, flags: CommonFlags, verb: str) -> Common:
    """Raises UsageError."""
    env.quiet, env.verbose = flags.quiet, flags.verbose
    if env.quiet and env.verbose:
        raise UsageError("--quiet and --verbose cannot both be meant")
    if flags.insecure:
        env.say("mqcli: --insecure: TLS certificates are not verified, so anyone may be listening")
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
