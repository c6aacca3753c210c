"""The only place that turns what went wrong into one line on stderr and an exit code.

Everything inside it raises: it knows neither stderr nor exit codes for errors.
"""

from __future__ import annotations

import errno
import os

import click
from click.exceptions import Exit, NoArgsIsHelpError

from ..errors import ExitCode, MqcliError
from .env import Env, leave_pipe

__all__ = ["run"]


def run(args: list[str]) -> int:
    """Run the program with these arguments; its exit code. Does not raise."""
    env = Env()
    env.debug = "--debug" in args[: args.index("--") if "--" in args else None]
    try:
        if "_MQCLI_COMPLETE" in os.environ:
            from .completion import complete

            return complete(env, args)
        return _program(env, args)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        leave_pipe()
        return ExitCode.OK
    except MqcliError as exc:
        return fail(env, exc)
    except (Exit, click.Abort) as exc:
        return exc.exit_code if isinstance(exc, Exit) else ExitCode.INTERRUPTED
    except NoArgsIsHelpError as exc:
        env.raw(exc.format_message() + "\n")
        return ExitCode.USAGE
    except click.ClickException as exc:
        trace(env, exc)
        env.error(f"mqcli: {_usage(exc)}")
        return ExitCode.USAGE
    except Exception as exc:
        return _unexpected(env, exc)


def _program(env: Env, args: list[str]) -> int:
    from .app import context

    if 1 in env.closed and {"-h", "--help", "--version", "--show-completion"} & set(args):
        env.require_stdout()
    with context(args, obj=env) as ctx:
        code = ctx.command.invoke(ctx)
    return int(code or 0)


def fail(env: Env, error: MqcliError) -> ExitCode:
    """Tell an error that ended everything; its exit code."""
    trace(env, error)
    env.error(f"mqcli: {shown(error)}")
    return error.exit_code


def shown(error: MqcliError | str) -> str:
    """An error's line as a terminal may have it: names from a broker cannot drive it."""
    from ..formats.terminal import escape

    return escape(str(error))


def trace(env: Env, error: BaseException) -> None:
    """The traceback, with ``--debug``; passwords are hidden in it."""
    if env.debug:
        from traceback import format_exception

        from ..formats.terminal import escape

        for line in "".join(format_exception(error)).splitlines():
            env.raw(escape(line) + "\n")


def _usage(exc: click.ClickException) -> str:
    """What click has to say, in one line, with the way to more."""
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "mqcli"
    text = " ".join(exc.format_message().split())
    return f"{shown(text).rstrip('.')}; see {path} --help"


def _unexpected(env: Env, exc: Exception) -> ExitCode:
    trace(env, exc)
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        env.error(f"mqcli: cannot write: standard output: {exc.strerror}")
        return ExitCode.OUTPUT
    hint = "" if env.debug else ", with what the same command says with --debug"
    env.error(f"mqcli: this is a bug in mqcli: {shown(repr(exc))}; please report it{hint}")
    return ExitCode.BUG
