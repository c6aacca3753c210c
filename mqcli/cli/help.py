"""``mqcli help``"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import click
import typer

from .app import VERBS
from .env import Env

if TYPE_CHECKING:
    from ..options import Option


def _topics(ctx: typer.Context, args: list[str], incomplete: str) -> list[tuple[str, str]]:
    from ..registry import topics

    known = VERBS | topics()
    return [(name, summary) for name, summary in known.items() if name.startswith(incomplete)]


def main(
    ctx: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="[TOPIC]", show_default=False, autocompletion=_topics),
    ] = None,
) -> int:
    """Explain TOPIC: a verb, or a kind of destination as SCHEME:KIND, with its -O options."""
    from ..registry import topics

    env, group = ctx.obj, ctx.find_root().command
    assert isinstance(env, Env) and isinstance(group, click.Group)
    columns = shutil.get_terminal_size().columns if env.stdout_tty else 100
    page = click.HelpFormatter(width=min(columns, 100))
    known = topics()
    if topic is None:
        group.format_help(ctx.find_root(), page)
        with page.section("Kinds of destination (mqcli help KIND shows their options)"):
            page.write_dl(list(known.items()))
    elif topic in VERBS:
        command = group.get_command(ctx, topic)
        assert command is not None
        command.format_help(click.Context(command, ctx.find_root(), topic), page)
    else:
        _kind(page, *_destination(topic, known))
    env.write(page.getvalue().encode())
    return 0


def _destination(topic: str, known: Mapping[str, str]) -> tuple[str, str]:
    """The scheme and kind that are meant; of a scheme with one kind it may be left out."""
    from ..errors import UsageError
    from ..options import nearest

    scheme, _, kind = topic.partition(":")
    if kind:
        return scheme, kind
    fitting = [name for name in known if name.startswith(f"{scheme}:")]
    if len(fitting) == 1:
        return scheme, fitting[0].partition(":")[2]
    guess = nearest(topic, [*VERBS, *known])
    if not fitting and guess:
        hint = f"did you mean {guess}?"
    else:
        hint = f"write one of {', '.join(fitting or known)}, or a verb"
    raise UsageError(f"there is no topic {topic!r}", hint=hint)


def _kind(page: click.HelpFormatter, scheme: str, kind: str) -> None:
    """What a kind of destination is, which verbs it knows, and its options."""
    from ..address import Address, BrokerURL
    from ..options import described
    from ..registry import load, resolve
    from ..transport import Consumes, Inspects, Manages, Publishes, Tails

    cls = load(resolve(Address("NAME", kind, BrokerURL(scheme))))
    makes = cls.traits(cls.Options(), None).missing != "undetectable"
    roles = {
        "publish": Publishes,
        "consume": Consumes,
        "tail": Tails,
        "describe": Inspects,
        "create, purge, delete" if makes else "purge, delete": Manages,
    }
    verbs = ", ".join(verb for verb, role in roles.items() if issubclass(cls, role))
    page.write_text(f"{scheme}:{kind}: {cls.summary}")
    page.write_paragraph()
    page.write_text(f"Verbs: {verbs}")
    for title, struct in (("options", cls.Options), ("options of the connection", cls.Connection)):
        if options := described(struct):
            with page.section(
                f"{title.capitalize()} (-O NAME=VALUE, or ?NAME=VALUE in the address)"
            ):
                page.write_dl(_rows(options), col_max=24)


def _rows(options: Sequence[Option]) -> list[tuple[str, str]]:
    rows = []
    for option in options:
        takes = [] if option.takes == "text" else [option.takes]
        if option.default:
            takes.append(f"{option.default} by default")
        rows.append((option.name, option.description + (f" ({'; '.join(takes)})" if takes else "")))
    return rows
