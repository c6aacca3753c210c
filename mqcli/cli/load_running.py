"""From the flags of ``mqcli benchmark`` to a job, and from reports to files and an exit code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmark import exports, gate
from ..benchmark.conductor import Progress
from ..benchmark.plan import Plan, Where
from ..benchmark.result import Report, load
from ..benchmark.run import Job
from ..benchmark.schedule import Phase
from ..errors import ExitCode, OutputError, UsageError, gravest
from ..operations import benchmark as op
from ..operations.stop import Stop
from . import load_text
from .common import Common, seconds, some_seconds
from .env import Env

if TYPE_CHECKING:
    from .benchmark import LoadFlags, ResultFlags, ShapeFlags

__all__ = [
    "State",
    "check_writable",
    "ended",
    "label",
    "measured",
    "saved_runs",
    "understand",
    "write_file",
]

_DURATION, _WARMUP = 10.0, (1.0, 5.0)


def understand(
    env: Env,
    common: Common,
    text: str,
    group: str | None,
    load: LoadFlags,
    shape: ShapeFlags,
    interval: str,
) -> Job:
    """The job. Raises UsageError."""
    phases, duration, count = _model(load)
    _check_together(load, shape, phases)
    lasts = sum(phase.seconds for phase in phases) if phases else duration
    warmup = seconds("--warmup", load.warmup)
    if load.backlog is not None or (shape.only == "consume" and count is not None):
        warmup = 0.0  # what stands there is counted from the first
    elif warmup is None:
        # A tenth, within bounds; a fixed count has no length to take a tenth of.
        warmup = _WARMUP[0] if count is not None else min(_WARMUP[1], max(_WARMUP[0], lasts / 10))
    keys, key_count = op.parse_keys(shape.keys)
    only = shape.only or "both"
    (address,) = common.addresses(env, [text])
    where = Where(
        address.text(masked=False),
        common.options,
        common.connect_timeout,
        common.insecure,
        common.client_name,
        _positive("--confirm-timeout", shape.confirm_timeout),
    )
    plan = Plan(
        run=b"",
        where=where,
        phases=phases,
        duration=duration,
        count=None if phases else count,
        warmup=warmup,
        producers=0 if only == "consume" else shape.producers,
        consumers=0 if only == "publish" else shape.consumers,
        only=only,
        sizes=op.parse_sizes(shape.size),
        samples=op.read_samples(shape.payload or ()),
        random_ratio=shape.random_ratio,
        keys=keys,
        key_count=key_count,
        in_flight=shape.in_flight,
        batch=shape.batch,
        linger=some_seconds("--linger", shape.linger),
        group=group,
        consumer_delay=some_seconds("--consumer-delay", shape.consumer_delay),
        interval=_positive("--interval", interval),
    )
    processes = shape.processes
    if processes is None:
        # At saturation one process would share its core between publishing and reading.
        processes = 2 if plan.saturated and only == "both" and (os.cpu_count() or 1) > 1 else 1
    return Job(
        plan=plan,
        processes=processes,
        drain=_positive("--drain", load.drain),
        keep=shape.keep,
        use_existing=shape.use_existing,
        backlog=load.backlog,
        settings=_settings(plan, load, shape, processes),
    )


def _check_together(load: LoadFlags, shape: ShapeFlags, phases: tuple[Phase, ...]) -> None:
    """Raises UsageError for flags that would do nothing next to each other: figures of another load
    than the one that was asked for would mislead."""
    consuming = shape.only == "consume"
    for flag, given, others in (
        ("--backlog", load.backlog is not None, {
            "--find-max": load.find_max, "--count": load.count, "--duration": load.duration,
            "--warmup": load.warmup, "--agents": shape.agents,
        }),
        ("--find-max", load.find_max, {
            "--count": load.count, "--repeat": load.repeat > 1, "--only consume": consuming,
        }),
        ("--only consume", consuming, {
            "--rate": load.rate, "--variable-rate": load.variable_rate,
            "--warmup together with --count": load.count and load.warmup,
        }),
    ):  # fmt: skip
        for other, too in others.items():
            if given and too:
                raise UsageError(f"{flag} does not go with {other}", hint="leave one out")
    if shape.linger != "0" and not phases and not load.find_max:
        raise UsageError("--linger needs --rate: at saturation nothing waits")
    if phases and not sum(phase.messages for phase in phases):
        raise UsageError("not one message would be sent", hint="a longer --duration")
    actors = 0 if consuming else shape.producers
    actors += 0 if shape.only == "publish" else shape.consumers
    if (shape.agents or 0) > actors:
        raise UsageError(
            f"--agents {shape.agents}: there are only {actors} producers and consumers to share",
            hint="more --producers or --consumers",
        )


def _positive(flag: str, text: str) -> float:
    found = some_seconds(flag, text)
    if found <= 0:
        raise UsageError(f"{flag} must be longer than 0")
    return found


def _model(load: LoadFlags) -> tuple[tuple[Phase, ...], float, int | None]:
    """(phases, duration, count). Raises UsageError where two models are mixed."""
    named = [
        flag
        for flag, given in (
            ("--rate", load.rate is not None),
            ("--max", load.max),
            ("--find-max", load.find_max),
            ("--variable-rate", load.variable_rate is not None),
        )
        if given
    ]
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]} are different measurements", hint="give one")
    duration = seconds("--duration", load.duration)
    if duration is not None and load.count is not None:
        raise UsageError("--duration and --count both say when it ends", hint="give one")
    if duration is not None and duration <= 0:
        raise UsageError("--duration must be longer than 0")
    if load.variable_rate is not None:
        if duration is not None or load.count is not None:
            raise UsageError("--variable-rate says itself how long it lasts")
        return op.parse_phases(load.variable_rate), _DURATION, None
    if load.rate is not None:
        if not 0.001 <= load.rate <= 1e8:
            raise UsageError("--rate goes from 0.001 to 100,000,000 messages/s")
        lasts = duration or (load.count / load.rate if load.count else _DURATION)
        return (Phase(load.rate, lasts),), lasts, load.count
    return (), duration or _DURATION, load.count


def _settings(plan: Plan, load: LoadFlags, shape: ShapeFlags, processes: int) -> dict[str, Any]:
    """What the report's head says was asked for; what is as usual is left out."""
    found: dict[str, Any] = {}
    if load.rate is not None:
        found["rate"] = f"{load.rate:.12g}/s"
    if load.variable_rate is not None:
        found["variable_rate"] = load.variable_rate
    if plan.count is not None:
        found["count"] = plan.count
    elif load.backlog is not None:
        found["backlog"] = load.backlog
    else:
        found["seconds"] = plan.lasts
    found["warmup"] = plan.warmup
    found |= {"producers": plan.producers, "consumers": plan.consumers, "processes": processes}
    found["bytes"] = shape.size if not shape.payload else f"{len(shape.payload)} files + 32"
    found |= {"in_flight": plan.in_flight, "batch": plan.batch}
    usual = {"keys": "none", "linger": "0", "consumer_delay": "0", "random_ratio": 0.0,
             "only": None, "use_existing": False}  # fmt: skip
    for name, value in usual.items():
        if getattr(shape, name) != value:
            found[name] = getattr(shape, name)
    if plan.group is not None:
        found["group"] = plan.group
    if plan.where.options:
        found["options"] = " ".join(f"{name}={value}" for name, value in plan.where.options)
    return found


class State:
    """What the last words would be, if it had to be cut off."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._progress: Progress | None = None
        self._plan: Plan | None = None

    def update(self, progress: Progress, plan: Plan) -> None:
        self._progress, self._plan = progress, plan

    def last_words(self) -> str:
        done = self._progress.confirmed if self._progress is not None else 0
        run = f".mqcli-{self._plan.run.hex()[:8]}" if self._plan is not None else ""
        return (
            f"the benchmark was cut off after {done} confirmed messages;"
            f" {self._where}{run} may still be there"
        )


async def measured(env: Env, asked: op.Asked, stop: Stop, state: State) -> list[Report]:
    """The runs, with what is going on shown on a terminal. Raises MqcliError."""
    where = asked.job.plan.where.client().where
    try:
        if not env.stderr_tty or env.quiet:
            told = op.Told(state.update, lambda text: env.say(f"mqcli: {text}"))
            return await op.benchmark(asked, stop.requested, told)
        from .load_live import LiveView

        async with LiveView(env, where) as view:

            def update(progress: Progress, plan: Plan) -> None:
                state.update(progress, plan)
                view.update(progress, plan)

            return await op.benchmark(asked, stop.requested, op.Told(update, view.say))
    except op.Stopped:
        return []


def ended(
    env: Env,
    runs: Sequence[Report],
    rules: Sequence[gate.Rule],
    saved: Sequence[Report],
    flags: ResultFlags,
    stop: Stop,
) -> int:
    """Write everything; the exit code."""
    codes: list[int] = [] if stop.reason is None else [stop.reason]
    if runs:
        for failed in _files(runs, saved, flags):
            env.error(f"mqcli: {failed}")
            codes.append(failed.exit_code)
        match flags.output:
            case "json":
                env.write(exports.as_json(runs))
            case "csv":
                env.write(exports.as_csv(runs).encode())
            case _:
                env.write(_text(runs, saved).encode("utf-8", "backslashreplace"))
    codes += [run.exit_code for run in runs]
    for verdict in gate.judge_rules(rules, runs, saved) if runs else ():
        if verdict.broken:
            codes.append(ExitCode.NOT_ALL)
            env.error(f"mqcli: failed: {verdict.words}")
        else:
            env.say(f"mqcli: {verdict.words}")
    if any(_faulty(run) for run in runs):
        codes.append(ExitCode.NOT_ALL)
    return gravest(codes)


def _faulty(run: Report) -> bool:
    """Not all that was asked for was done."""
    rates, found = run.rates, run.delivery
    if rates.refused or rates.unknown or run.errors:
        return True
    return found is not None and bool(found.lost or found.unseen or found.corrupt)


def _text(runs: Sequence[Report], saved: Sequence[Report]) -> str:
    parts = [load_text.report(run) for run in runs]
    if len(runs) > 1 and runs[0].highest_rate is None:
        parts.append(load_text.repeated(runs))
    if saved:
        parts.append(load_text.comparison([("saved", saved), ("now", runs)]))
    return "\n".join(parts)


def _files(
    runs: Sequence[Report], saved: Sequence[Report], flags: ResultFlags
) -> list[OutputError]:
    """Write all files that can be written; why others could not."""
    made = []
    if flags.save:
        made.append((flags.save, exports.as_json(runs)))
    if flags.prometheus:
        made.append((flags.prometheus, exports.as_prometheus(runs).encode()))
    if flags.hlog:
        made.append((flags.hlog, exports.as_hlog(runs[-1]).encode()))
    if flags.html:
        from ..benchmark.page import page

        sides = [("saved", one) for one in saved] + [("", one) for one in runs]
        made.append((flags.html, page(sides).encode("utf-8", "backslashreplace")))
    failed = []
    for name, data in made:
        try:
            write_file(name, data)
        except OutputError as exc:  # the others may be on another disk
            failed.append(exc)
    return failed


def check_writable(name: str | None) -> None:
    """Raises UsageError for a file that could not be written at the end."""
    if name is None:
        return
    path = Path(name)
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError("cannot be written", where=name, why="no such folder, or no permission")


def write_file(name: str, data: bytes) -> None:
    """All of it or nothing: never half a file in the place of a good one. Raises OutputError."""
    path = Path(name)
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise OutputError("cannot write", where=name, why=exc.strerror or str(exc)) from exc


def label(name: str, names: Sequence[str]) -> str:
    """A file's name for the head of a column: without its folder where that is enough."""
    stem = Path(name).stem
    return stem if [Path(other).stem for other in names].count(stem) == 1 else name


def saved_runs(name: str) -> list[Report]:
    """The runs in a saved file. Raises UsageError where it cannot be read, InputError."""
    try:
        data = Path(name).read_bytes()
    except OSError as exc:
        raise UsageError("cannot read", where=name, why=exc.strerror or str(exc)) from exc
    return load(data, name)
