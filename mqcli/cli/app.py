"""The program's grammar: which verbs there are. A verb's module is imported when it is invoked.

``--help`` and completion read names and summaries from the table below, so that they load no verb
and no broker library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import click
import typer
from click.shell_completion import CompletionItem
from typer.core import TyperGroup

__all__ = ["VERBS", "program"]

VERBS = {
    "publish": "send messages, from arguments, files or standard input",
    "consume": "take messages, or read a log; acknowledged once they are written",
    "tail": "watch any number of destinations, and take nothing",
    "ls": "list a broker's destinations",
    "describe": "show what is known of a destination",
    "create": "make a destination",
    "purge": "remove the messages of a destination",
    "delete": "remove a destination",
    "bind": "let an exchange route to a queue or exchange",
    "unbind": "undo a bind",
    "seek": "move the place of a group on a log",
    "ping": "see whether a broker answers",
    "benchmark": "measure rates and latencies, and whether all arrives",
    "report": "show, compare, merge or draw saved benchmarks",
    "agent": "make load for a benchmark that another machine leads",
    "demo": "see the embedded broker at work, without a server",
    "help": "explain a verb, or a kind of destination and its options",
}
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verbs(TyperGroup):
    """A group that knows its verbs by name and loads only the one that is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        function = import_module(f"mqcli.cli.{name}").main
        single = typer.Typer(
            rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
        )
        single.command(name, context_settings=dict(_SETTINGS))(function)
        return typer.main.get_command(single)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from ..options import nearest

            guess = nearest(args[0], VERBS)
            hint = f"did you mean {guess}?" if guess else f"the verbs are {', '.join(VERBS)}"
            raise click.UsageError(f"there is no verb {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [
            CompletionItem(name, help=summary)
            for name, summary in VERBS.items()
            if name.startswith(incomplete)
        ]
        # Past the group's own: click would load every verb to read its summary.
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from .._version import __version__

        click.echo(f"mqcli {__version__}")
        raise typer.Exit


def _show_completion(ctx: typer.Context, shell: str) -> str:
    if shell and not ctx.resilient_parsing:
        from .completion import script

        click.echo(script(shell), nl=False)
        raise typer.Exit
    return shell


def _shells(ctx: typer.Context, args: list[str], incomplete: str) -> list[tuple[str, str]]:
    return [(shell, "") for shell in ("bash", "zsh", "fish")]


def program() -> click.Command:
    """The whole command line."""
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings=dict(_SETTINGS),
    )

    @app.callback(cls=Verbs, no_args_is_help=True, subcommand_metavar="VERB …")
    def mqcli(
        version: Annotated[
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Say the version."),
        ] = False,
        show_completion: Annotated[
            str,
            typer.Option(
                "--show-completion",
                metavar="SHELL",
                callback=_show_completion,
                is_eager=True,
                show_default=False,
                autocompletion=_shells,
                help="Print the completion script for bash, zsh or fish.",
            ),
        ] = "",
    ) -> None:
        """One command line for every message broker.

        An ADDRESS is a broker's URL and a destination, as in redis://localhost/stream:orders, or
        a destination alone on the default broker: -b, or MQCLI_BROKER, or else the embedded
        broker, which needs no server.
        """

    command = typer.main.get_command(app)
    assert isinstance(command, Verbs)
    return command


def context(args: list[str], **settings: Any) -> click.Context:
    """The parsed command line, ready to be invoked. Raises click's exceptions, and MqcliError."""
    return program().make_context("mqcli", args, **settings)
