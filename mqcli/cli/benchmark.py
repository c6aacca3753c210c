"""``mqcli benchmark``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .env import Env
from .flags import AddressArgument, Flags, GroupFlag, files, verb

if TYPE_CHECKING:
    from .common import Common


class LoadFlags(Flags):
    """How much load, and for how long."""

    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", help="Open loop: N messages/s, come what may."),
    ] = None
    max: Annotated[
        bool, typer.Option("--max", help="As fast as it goes (without --rate the default).")
    ] = False
    find_max: Annotated[
        bool,
        typer.Option("--find-max", help="The highest sustained rate; then 50, 70 and 90 % of it."),
    ] = False
    variable_rate: Annotated[
        str | None,
        typer.Option("--variable-rate", metavar="RATE:T,...", help="As in 1000:10s,20000:5s."),
    ] = None
    duration: Annotated[
        str | None,
        typer.Option("--duration", metavar="T", help="How long it counts (10s by default)."),
    ] = None
    count: Annotated[
        int | None,
        typer.Option("--count", "-c", min=1, metavar="N", help="How many messages count."),
    ] = None
    warmup: Annotated[
        str | None,
        typer.Option(
            "--warmup", metavar="T", help="Left out of the figures: a tenth, at least 1s, of 5s."
        ),
    ] = None
    drain: Annotated[
        str, typer.Option("--drain", metavar="T", help="Wait so long for what does not come.")
    ] = "5s"
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, max=1000, metavar="N", help="Run N times.")
    ] = 1
    backlog: Annotated[
        int | None,
        typer.Option("--backlog", min=1, metavar="N", help="Fill with N, then drain."),
    ] = None


class ShapeFlags(Flags):
    """What the load is made of."""

    producers: Annotated[
        int, typer.Option("--producers", min=1, max=1000, metavar="N", help="How many publish.")
    ] = 1
    consumers: Annotated[
        int, typer.Option("--consumers", min=1, max=1000, metavar="N", help="How many read.")
    ] = 1
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            max=256,
            metavar="N",
            help="In so many processes: 1, or 2 for publishing and reading at saturation.",
        ),
    ] = None
    only: Annotated[
        Literal["publish", "consume"] | None,
        typer.Option("--only", metavar="SIDE", help="publish or consume."),
    ] = None
    size: Annotated[
        str,
        typer.Option("--size", metavar="BYTES", help="100, 50-200, or weighted 100:9,10000:1."),
    ] = "100"
    payload: Annotated[
        list[str] | None,
        typer.Option(
            "--payload", metavar="FILE", help="Send this file's content.", autocompletion=files
        ),
    ] = None
    random_ratio: Annotated[
        float,
        typer.Option(
            "--random-ratio", min=0, max=1, metavar="0..1", help="Share of random bytes in it."
        ),
    ] = 0.0
    keys: Annotated[
        str,
        typer.Option("--keys", metavar="HOW[:N]", help="none, sequence, random or zipf, of N."),
    ] = "none"
    in_flight: Annotated[
        int,
        typer.Option(
            "--in-flight", min=1, max=1_000_000, metavar="N", help="Unconfirmed messages at most."
        ),
    ] = 5000
    batch: Annotated[
        int,
        typer.Option("--batch", min=1, max=100_000, metavar="N", help="Messages in a batch."),
    ] = 1000
    linger: Annotated[
        str, typer.Option("--linger", metavar="T", help="With a rate: send only every T.")
    ] = "0"
    consumer_delay: Annotated[
        str, typer.Option("--consumer-delay", metavar="T", help="Work of a consumer per message.")
    ] = "0"
    confirm_timeout: Annotated[
        str, typer.Option("--confirm-timeout", metavar="T", help="Time without any confirmation.")
    ] = "30s"
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove what was made for it.")] = (
        False
    )
    use_existing: Annotated[
        bool,
        typer.Option("--use-existing", help="ADDRESS itself; it is never removed or trimmed."),
    ] = False
    agents: Annotated[
        int | None,
        typer.Option("--agents", min=1, max=100, metavar="N", help="On N machines: mqcli agent."),
    ] = None


class ResultFlags(Flags):
    """What becomes of the figures."""

    output: Annotated[
        Literal["auto", "json", "csv"],
        typer.Option("--output", "-o", metavar="FORMAT", help="auto (text), json or csv."),
    ] = "auto"
    interval: Annotated[
        str, typer.Option("--interval", metavar="T", help="Length of the intervals.")
    ] = "1s"
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="FILE", help="For mqcli report.", autocompletion=files),
    ] = None
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="FILE", help="A page with charts.", autocompletion=files),
    ] = None
    hlog: Annotated[
        str | None,
        typer.Option(
            "--hlog", metavar="FILE", help="Write an HdrHistogram log.", autocompletion=files
        ),
    ] = None
    prometheus: Annotated[
        str | None,
        typer.Option(
            "--prometheus", metavar="FILE", help="Write metrics as text.", autocompletion=files
        ),
    ] = None
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="FILE", help="A saved run to compare with.", autocompletion=files
        ),
    ] = None
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="RULE", help="End with 1: p99>20ms, lost>0, p99>+10%."),
    ] = None


@verb
def main(
    env: Env,
    common: Common,
    address: AddressArgument,
    load: LoadFlags,
    shape: ShapeFlags,
    results: ResultFlags,
    group: GroupFlag = None,
) -> int:
    """Measure publishing, delivery and consuming at ADDRESS.

    The load has a destination of its own, made for it and removed afterwards: ADDRESS with a
    suffix. With --rate latency counts from the moment when each message was meant to be sent, so
    that a stall shows in full; without, throughput counts. docs/benchmark.md has the method.
    """
    from ..benchmark import gate
    from ..operations import benchmark as op
    from ..operations.stop import Stop
    from . import load_running as r
    from .running import run

    rules = [gate.parse_rule(text) for text in results.fail_if or ()]
    saved = r.saved_runs(results.compare) if results.compare else []
    if any(rule.relative for rule in rules) and not saved:
        from ..errors import UsageError

        raise UsageError("--fail-if with a change, as +10%, compares", hint="give --compare FILE")
    job = r.understand(env, common, address, group, load, shape, results.interval)
    client = job.plan.where.client()
    op.check(client, job.plan, use_existing=job.use_existing, backlog=job.backlog)
    if results.output != "auto":
        env.require_stdout()
    for name in (results.save, results.html, results.hlog, results.prometheus):
        r.check_writable(name)
    asked = op.Asked(job=job, repeat=load.repeat, find_max=load.find_max, agents=shape.agents or 0)
    state = r.State(client.where)

    async def work(stop: Stop) -> int:
        runs = await r.measured(env, asked, stop, state)
        return r.ended(env, runs, rules, saved, results, stop)

    return run(env, common.timeout, work, last_words=state.last_words)
