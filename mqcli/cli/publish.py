"""``mqcli publish``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .env import Env
from .flags import AddressArgument, InputFlags, PartFlags, SendingFlags, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[VALUE]...", show_default=False)
    ] = None,
    *,
    reading: InputFlags,
    parts: PartFlags,
    sending: SendingFlags,
) -> int:
    """Send messages to ADDRESS: each VALUE, or what is in files, or standard input.

    Input is lines, unless told otherwise, and a last line without a newline counts. The exit code
    is 0 only when the broker has confirmed every message.
    """
    from .publishing import send

    return send(env, common, address, values or [], reading, parts, sending)
