"""``mqcli report``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .env import Env
from .flags import files, verb

if TYPE_CHECKING:
    from .common import Common


@verb
def main(
    env: Env,
    common: Common,
    action: Annotated[
        Literal["show", "compare", "merge", "html"], typer.Argument(show_default=False)
    ],
    names: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", show_default=False, autocompletion=files),
    ],
    output: Annotated[
        Literal["auto", "json", "csv", "hlog"],
        typer.Option("--output", "-o", metavar="FORMAT", help="auto (text), json, csv or hlog."),
    ] = "auto",
    save: Annotated[
        str | None,
        typer.Option(
            "--save", metavar="FILE", help="Write the result to this file.", autocompletion=files
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="RULE", help="As of benchmark, for the last FILE."),
    ] = None,
) -> int:
    """Read what benchmark --save wrote: show it, compare files side by side (the last one is
    judged against the first), merge runs that several machines made at the same time, or draw
    them all in one HTML page.
    """
    from ..benchmark import exports, gate, merge
    from ..errors import ExitCode, UsageError
    from . import load_running as r
    from . import load_text

    sides = [(r.label(name, names), r.saved_runs(name)) for name in names]
    runs = [run for _, found in sides for run in found]
    rules = [gate.parse_rule(text) for text in fail_if or ()]
    if action == "merge":
        runs = [merge.merged(runs)]
    if action == "compare" and len(sides) < 2 and output == "auto":
        raise UsageError("compare needs two files at least")
    if action == "html":
        from ..benchmark.page import page

        labels = [(f"{name} #{i + 1}" if len(found) > 1 else name, run)
                  for name, found in sides for i, run in enumerate(found)]  # fmt: skip
        data = page(labels if len(labels) > 1 else [("", labels[0][1])]).encode(
            "utf-8", "backslashreplace"
        )
    elif output == "json" or (action == "merge" and save is not None):
        data = exports.as_json(runs)
    elif output == "csv":
        data = exports.as_csv(runs).encode()
    elif output == "hlog":
        if len(runs) > 1:
            raise UsageError("an hlog holds one run", hint="merge them, or name one file")
        data = exports.as_hlog(runs[0]).encode()
    elif action == "compare":
        data = load_text.comparison(sides).encode("utf-8", "backslashreplace")
    else:
        text = "\n".join(load_text.report(run) for run in runs)
        data = text.encode("utf-8", "backslashreplace")
    if save is None:
        env.write(data)
    else:
        r.write_file(save, data)
    judged = runs if action == "merge" else sides[-1][1]
    saved = sides[0][1] if action != "merge" and len(sides) > 1 else []
    verdicts = gate.judge_rules(rules, judged, saved)
    for verdict in verdicts:
        if verdict.broken:
            env.error(f"mqcli: failed: {verdict.words}")
    return ExitCode.NOT_ALL if any(verdict.broken for verdict in verdicts) else ExitCode.OK
