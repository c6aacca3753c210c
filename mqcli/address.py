"""Addresses: the syntax of DESIGN section 2, and nothing of what is behind them.

``[user:password@]host,host:port`` is parsed here because the standard library's URL parser does
not take several hosts. The text is split first and percent-decoded after, so that an encoded
``/ ? # % :`` is always part of a name. Names that are not UTF-8 are kept by ``surrogateescape``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

import msgspec

from .errors import UsageError

__all__ = ["Address", "BrokerURL", "Host", "parse_address", "parse_broker", "parse_destination"]

_SCHEME = re.compile(r"([a-z][a-z0-9.+-]*)://", re.IGNORECASE)
_FILES = ("sqlite", "redis+unix")
_NETWORKED = re.compile(r"rediss?(\+sentinel|\+cluster)?|amqps?|kafkas?")
_SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(rf"([?&][^=&]*(?:{_SECRET.pattern})[^=&]*=)[^&]*", re.IGNORECASE)
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$'()*+;[]{}")
MASK = "***"


class _Wrong(UsageError):
    """What is wrong with a part of a text; ``within`` says it without telling a password."""

    def __init__(self, part: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{part!r} {reason}", hint=hint)
        self.part = part
        self.reason = reason

    def within(self, text: str) -> UsageError:
        hidden = _hide(text)
        if self.part == text:
            what = f"{hidden!r} {self.reason}"
        elif hidden != text:
            # The part may be of a password that should have been encoded.
            what = f"{hidden!r}: a part of it {self.reason}"
        else:
            what = f"{text!r}: {self.part!r} {self.reason}"
        return UsageError(what, hint=self.hint)


def _hide(text: str) -> str:
    """``text`` fit for an error message although it may hold a password, even one with ``/ ? # @``
    in it: everything between the first colon and the last ``@`` is hidden."""
    match = _SCHEME.match(text)
    start = match.end() if match else 0
    colon, at = text.find(":", start), text.rfind("@")
    if 0 <= colon < at and not text.lower().startswith("sqlite:"):
        text = f"{text[: colon + 1]}{MASK}{text[at:]}"
    return _SECRET_PARAMETER.sub(rf"\1{MASK}", text)


def is_secret(name: str) -> bool:
    """Whether the parameter or option of this name holds what must not be shown."""
    return bool(_SECRET.search(name))


@contextmanager
def _told(text: str) -> Iterator[None]:
    try:
        yield
    except _Wrong as exc:
        raise exc.within(text) from None


def decode(text: str) -> str:
    """Percent-decoded; bytes that are not UTF-8 become surrogates. Raises UsageError."""
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise _Wrong(text, "has a % that is no percent-encoding", "write % as %25")
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode(
        "utf-8", "surrogateescape"
    )


def encode(name: str, also_safe: str = "") -> str:
    """``name`` with all that is special in an address, or could drive a terminal, encoded."""
    out = []
    for char in name:
        if (ord(char) < 128 and (ord(char) in _SAFE or char in also_safe)) or (
            ord(char) >= 128 and char.isprintable()
        ):
            out.append(char)
        else:
            out += [f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape")]
    return "".join(out)


def _query_text(query: tuple[tuple[str, str], ...], masked: bool) -> str:
    pairs = (
        f"{encode(name)}={MASK if masked and is_secret(name) else encode(value, '/:')}"
        for name, value in query
    )
    return "?" + "&".join(pairs) if query else ""


class Host(msgspec.Struct, frozen=True):
    """A host name or IP address (IPv6 without its brackets) and its port, None for the default."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = encode(self.name, ":").replace("[", "%5B").replace("]", "%5D")
        if ":" in self.name:
            name = f"[{name}]"
        return name if self.port is None else f"{name}:{self.port}"


class BrokerURL(msgspec.Struct, frozen=True):
    """Where a broker is. ``path`` is what stands behind the authority, decoded piece by piece:
    a database, a vhost, a master's name, or the pieces of a file's path (an absolute one begins
    with an empty piece). ``query`` are the parameters in order. ``str`` and ``repr`` are masked."""

    scheme: str
    hosts: tuple[Host, ...] = ()
    username: str | None = None
    password: str | None = None
    path: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()

    @property
    def file(self) -> str:
        """The path as a file's name, for brokers that are files or unix sockets."""
        return "/".join(self.path)

    def text(self, *, masked: bool = True) -> str:
        """The URL; with ``masked`` (the default) its password and secret parameters are hidden."""
        return self._text("", masked=masked)

    def _text(self, destination: str, *, masked: bool) -> str:
        if self.scheme == "sqlite" and (not self.path or self.path[0] != ""):
            base = "sqlite:" + "/".join(encode(piece) for piece in self.path)
        else:
            login = ""
            if self.username is not None or self.password is not None:
                login = encode(self.username or "")
                if self.password is not None:
                    login += ":" + (MASK if masked else encode(self.password))
                login += "@"
            pieces = self.path[1:] if self.path[:1] == ("",) else self.path
            base = f"{self.scheme}://{login}{','.join(str(host) for host in self.hosts)}" + "".join(
                "/" + encode(piece) for piece in pieces
            )
        if destination:
            base += "/" + destination
        return base + _query_text(self.query, masked)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"BrokerURL({self.text()!r})"


class Address(msgspec.Struct, frozen=True):
    """A broker and a destination on it. ``kind`` is None until the registry has resolved it.

    ``named`` is the NAME of ``@NAME/…``; then ``broker`` is None. For a bare destination both are
    None and the default broker is meant; ``query`` then holds its own parameters.
    """

    name: str
    kind: str | None = None
    broker: BrokerURL | None = None
    named: str | None = None
    query: tuple[tuple[str, str], ...] = ()

    @property
    def destination(self) -> str:
        """``kind:name`` (or ``name``) as it stands in an address; behind a kind a colon is free."""
        if self.kind is None:
            return encode(self.name)
        return f"{self.kind}:{encode(self.name, ':')}"

    def text(self, *, masked: bool = True) -> str:
        """The canonical address: parsing it gives this one again (when not masked)."""
        if self.broker is not None:
            return self.broker._text(self.destination, masked=masked)
        base = self.destination if self.named is None else f"@{self.named}/{self.destination}"
        return base + _query_text(self.query, masked)

    def with_kind(self, kind: str) -> Address:
        return msgspec.structs.replace(self, kind=kind)

    def with_name(self, name: str, kind: str | None = None) -> Address:
        """The address of another destination on the same broker, without parameters."""
        broker = None if self.broker is None else msgspec.structs.replace(self.broker, query=())
        return Address(name, kind or self.kind, broker, self.named)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Address({self.text()!r})"


def parse_destination(text: str) -> tuple[str | None, str]:
    """(kind, name) of ``[kind:]name``. Raises UsageError."""
    with _told(text):
        return _parse_destination(text)


def _parse_destination(text: str) -> tuple[str | None, str]:
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "", text
    if "/" in name or "#" in text:
        raise _Wrong(text, "has a '/' or '#' in a name", "percent-encode it: / as %2F, # as %23")
    if not colon and not name:
        raise UsageError("the destination is missing", hint="write BROKER-URL/DESTINATION")
    return (kind if colon else None), decode(name)


def _split_query(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    if "#" in text:
        raise _Wrong(text, "has a '#'", "percent-encode it as %23")
    base, mark, query = text.partition("?")
    pairs = []
    for part in query.split("&") if mark and query else []:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise _Wrong(part, "is a parameter without a value", "write ?name=value&name=value")
        pairs.append((decode(name), decode(value)))
    return base, tuple(pairs)


def _parse_host(text: str) -> Host:
    name, port_text = text, None
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _Wrong(text, "has a bracket that is not closed")
        port_text = rest[1:] if rest else None
    elif text.count(":") > 1:
        raise _Wrong(text, "has too many colons for a host", "write IPv6 in brackets")
    elif ":" in text:
        name, port_text = text.split(":")
    if not name:
        raise _Wrong(text, "is an empty host name")
    if port_text is None:
        return Host(decode(name))
    if not (re.fullmatch(r"[0-9]{1,5}", port_text) and 0 < int(port_text) < 65536):
        raise _Wrong(text, "has a wrong port", "ports go from 1 to 65535")
    return Host(decode(name), int(port_text))


def _is_url(text: str) -> bool:
    return bool(_SCHEME.match(text)) or text.lower().startswith("sqlite:")


def _parse_url(text: str) -> BrokerURL:
    base, query = _split_query(text)
    match = _SCHEME.match(base)
    if match is None:  # sqlite:./file or sqlite:file
        path = base[len("sqlite:") :]
        if not path:
            raise UsageError(
                "sqlite: names no file", hint="write sqlite:///abs/file.db or sqlite:./file.db"
            )
        pieces = tuple(decode(piece) for piece in path.split("/"))
        return BrokerURL("sqlite", path=pieces, query=query)
    scheme = match[1].lower()
    authority, slash, path = base[match.end() :].partition("/")
    login, at, hosts_text = authority.rpartition("@")
    username = password = None
    if at:
        user_text, colon, password_text = login.partition(":")
        username = decode(user_text) or None
        password = decode(password_text) if colon else None
    hosts: tuple[Host, ...] = ()
    if hosts_text:
        hosts = tuple(_parse_host(part) for part in hosts_text.split(","))
        # Several hosts share the last port given, as in kafka://h1,h2:9092.
        last = hosts[-1].port
        hosts = tuple(Host(h.name, h.port if h.port is not None else last) for h in hosts)
    pieces = tuple(decode(piece) for piece in path.split("/")) if slash else ()
    if not hosts:
        # A plugin's scheme may do without a host; whether it does is its connection's to say.
        if not slash or _NETWORKED.fullmatch(scheme):
            raise _Wrong(text, "names no host", "write scheme://host[:port]")
        pieces = ("", *pieces)
    elif scheme in _FILES:
        raise _Wrong(
            text,
            "names a host where a path belongs",
            f"write three slashes for an absolute path: {scheme}:///path",
        )
    if len(pieces) > 1 and pieces[-1] == "":
        pieces = pieces[:-1]
    elif pieces == ("",):
        pieces = ()
    return BrokerURL(scheme, hosts, username, password, pieces, query)


def parse_broker(text: str) -> BrokerURL | str:
    """A broker URL, or the NAME of ``@NAME``. Raises UsageError, which never holds a password."""
    with _told(text):
        return _parse_broker(text)


def _parse_broker(text: str) -> BrokerURL | str:
    if text.startswith("@"):
        return _parse_named(text)[0]
    if not _is_url(text):
        raise _Wrong(text, "is not a broker URL", "write for example redis://localhost:6379")
    return _parse_url(text)


def _parse_named(text: str) -> tuple[str, str]:
    name, _, rest = text[1:].partition("/")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise _Wrong(text, "is not a broker's name", "write @NAME/DESTINATION")
    return name, rest


def parse_address(text: str) -> Address:
    """An ADDRESS: a broker URL with a destination, ``@NAME/DESTINATION``, or a bare destination.

    Raises UsageError, which never holds a password.
    """
    with _told(text):
        return _parse_address(text)


def _parse_address(text: str) -> Address:
    if not text:
        raise UsageError("the address is empty")
    if _is_url(text):
        base, mark, query = text.partition("?")
        head, slash, last = base.rpartition("/")
        if not slash or not _is_url(head) or head.endswith(":/") or head.lower() == "sqlite:":
            raise _Wrong(text, "names a broker but no destination", "append /DESTINATION")
        kind, name = _parse_destination(last)
        return Address(name, kind, _parse_url(head + mark + query))
    if text.startswith("@"):
        base, parameters = _split_query(text)
        named, rest = _parse_named(base)
        kind, name = _parse_destination(rest)
        return Address(name, kind, named=named, query=parameters)
    base, parameters = _split_query(text)
    kind, name = _parse_destination(base)
    return Address(name, kind, query=parameters)
