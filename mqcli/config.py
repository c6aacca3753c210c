"""Which broker is meant when an address does not say. Knows addresses only.

Named brokers in a configuration file belong here.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .address import Address, BrokerURL, parse_broker
from .errors import UsageError

__all__ = ["embedded_file", "with_broker"]


def embedded_file() -> tuple[Path, str]:
    """The file of the default embedded broker, and why it is not in the usual place (or "").

    It is in the user's data directory; where that cannot be written (a read-only home), in a
    directory of this user's own below the one for temporary files. Raises UsageError when neither
    can be used.
    """
    from platformdirs import user_data_path

    usual = user_data_path("mqcli", appauthor=False)
    try:
        usual.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(usual, os.W_OK | os.X_OK):
            return usual / "broker.db", ""
        why = "not writable"
    except OSError as exc:
        why = exc.strerror or str(exc)
    owner = os.getuid() if hasattr(os, "getuid") else 0
    other = Path(tempfile.gettempdir()) / f"mqcli-{owner}"
    try:
        other.mkdir(mode=0o700, exist_ok=True)
        found = other.lstat()
    except OSError as exc:
        raise UsageError(
            "no place for the embedded broker",
            where=str(usual),
            why=why,
            hint="name a broker with --broker or MQCLI_BROKER",
        ) from exc
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if hasattr(os, "getuid") and not (private and found.st_uid == owner):
        raise UsageError(
            "no safe place for the embedded broker",
            where=str(other),
            why="it belongs to somebody else or is open to others",
            hint="name a broker with --broker or MQCLI_BROKER",
        )
    return other / "broker.db", f"{usual}: {why}"


def _url(text: str) -> BrokerURL:
    found = parse_broker(text)
    if isinstance(found, str):
        raise unknown_name(found)
    return found


def unknown_name(name: str) -> UsageError:
    """``@NAME`` where no broker of that name is configured."""
    return UsageError(
        f"no broker is named @{name}", hint="write its URL, for example redis://localhost:6379"
    )


def default_broker(flag: str | None, env: Mapping[str, str]) -> tuple[BrokerURL, str]:
    """The default broker, and a line for stderr when nobody chose it. Raises UsageError."""
    chosen = flag or env.get("MQCLI_BROKER")
    if chosen:
        return _url(chosen), ""
    file, why = embedded_file()
    url = BrokerURL("sqlite", path=("", *file.parts[1:]))
    return url, f"using the embedded broker {file}" + (f" ({why})" if why else "")


def with_broker(address: Address, flag: str | None, env: Mapping[str, str]) -> tuple[Address, str]:
    """``address`` with its broker filled in, and a line for stderr (or ""). Raises UsageError."""
    if address.named is not None:
        raise unknown_name(address.named)
    if address.broker is not None:
        return address, ""
    url, notice = default_broker(flag, env)
    merged = msgspec.structs.replace(url, query=url.query + address.query)
    return Address(address.name, address.kind, merged), notice
