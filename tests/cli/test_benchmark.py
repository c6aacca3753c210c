"""``mqcli benchmark``, ``report`` and ``agent`` as whole processes, on real brokers."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import time
from pathlib import Path

import pytest

from mqcli.benchmark.result import load
from tests.brokers import need
from tests.brokers.hdrhistogram import LogProcessor
from tests.brokers.process import wait_until
from tests.brokers.redis import Redis

from .support import PROGRAM, Cli, Terminal, finish

pytestmark = pytest.mark.alone

SHORT = ("--rate", "500", "--duration", "1s", "--warmup", "200ms")


@pytest.fixture(params=["stream", "list", "channel", "sqlite"])
def address(request: pytest.FixtureRequest, fresh: str, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/bench.db/{fresh}"
    redis: Redis = request.getfixturevalue("redis")
    return f"{redis.url}/{request.param}:{fresh}"


def names(cli: Cli, address: str) -> list[str]:
    """The destinations of the broker that begin as ``address`` does."""
    broker, _, destination = address.rpartition("/")
    name = destination.rpartition(":")[2]
    found = cli("ls", broker, "-o", "json")
    if found.code == 66:  # no file was ever made
        return []
    every = [json.loads(line)["name"] for line in found.ok().out.splitlines()]
    return [each for each in every if each.startswith(name)]


def test_a_fixed_rate_on_every_transport(cli: Cli, address: str) -> None:
    # Given a destination that does not exist, when measured at a fixed rate
    done = cli("benchmark", address, *SHORT, "-o", "json").ok()
    (run,) = load(done.out, "stdout")
    # Then every message was confirmed and received, and both latencies were measured
    assert run.model == "open-loop"
    assert (run.rates.published, run.rates.confirmed) == (500, 500)
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (600, 600)
    assert run.confirm.count == run.end_to_end.count == 500
    assert run.end_to_end.percentiles["p50"] is not None
    # And 1,000 samples would carry the 99th percentile, 500 do not
    assert run.end_to_end.percentiles["p99"] is None
    # And nothing is left behind
    assert names(cli, address) == []


def test_saturation_in_several_processes(cli: Cli, address: str) -> None:
    # Given two producers and two consumers in three processes, when 20,000 are sent at full speed
    done = cli(
        "benchmark", address, "-c", "20000", "--warmup", "0", "--producers", "2",
        "--consumers", "2", "--processes", "3", "-o", "json",
    ).ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then all arrived: once where consumers share, and once for each where not
    times = 1 if "list:" in address else 2
    assert run.rates.confirmed == 20_000
    assert run.delivery is not None
    assert run.delivery.delivered == run.delivery.expected == 20_000 * times
    assert run.machines[0].processes == 3
    assert run.model == "saturation"


def test_text_says_what_a_person_needs(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a run, when shown as text
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", *SHORT).ok()
    text = done.out.decode()
    # Then rates, latencies, delivery, durability and the client are in it, without colours
    for word in ("published", "confirmed", "end to end", "p99.99", "0 lost", "not yet seen",
                 "in one server's memory", "% of a core", "redis 7"):  # fmt: skip
        assert word in text, text
    assert "\x1b" not in text


def test_backlog_is_filled_and_drained(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a list, when 5,000 messages are put there and then drained against the clock
    address = f"{redis.url}/list:{fresh}"
    (run,) = load(cli("benchmark", address, "--backlog", "5000", "-o", "json").ok().out, "stdout")
    # Then all were drained, and no end-to-end latency is made up
    assert run.model == "backlog"
    assert run.rates.received == run.max_backlog == 5000
    assert run.delivery is not None and run.delivery.delivered == 5000
    assert run.end_to_end.count == 0
    # And a channel, which keeps nothing, is refused
    cli("benchmark", f"{redis.url}/channel:{fresh}", "--backlog", "5").fails(2, "keeps messages")


def test_what_was_there_is_left_as_it_was(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a stream with two entries and a group of somebody's
    redis.cli("XADD", fresh, "*", "value", "mine")
    redis.cli("XADD", fresh, "*", "value", "too")
    redis.cli("XGROUP", "CREATE", fresh, "theirs", "0")
    address = f"{redis.url}/stream:{fresh}"
    # When measured under a name of its own, then it is untouched
    cli("benchmark", address, *SHORT).ok()
    assert redis.cli("XLEN", fresh) == 2
    assert names(cli, address) == [fresh]
    # And when told to use it, only the load is added, nothing is removed or called foreign
    done = cli("benchmark", address, *SHORT, "--use-existing", "-o", "json").ok()
    (run,) = load(done.out, "stdout")
    assert run.delivery is not None and run.delivery.foreign == 0
    assert redis.cli("XLEN", fresh) >= 602
    assert redis.cli("XRANGE", fresh, "-", "+", "COUNT", "1")[0][1] == [b"value", b"mine"]


def test_keep_leaves_the_destination(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given --keep, when measured, then the stream with all messages is still there
    address = f"{redis.url}/stream:{fresh}"
    (run,) = load(cli("benchmark", address, *SHORT, "--keep", "-o", "json").ok().out, "stdout")
    (left,) = names(cli, address)
    assert left.startswith(f"{fresh}.mqcli-")
    assert redis.cli("XLEN", left) >= 600
    assert run.address.endswith(left)
    redis.cli("DEL", left)


def test_a_channel_with_other_receivers_is_refused(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given somebody who listens to every channel of a name
    address = f"{redis.url}/channel:{fresh}"
    with redis.listening("PSUBSCRIBE", f"{fresh}*"):
        # When measured, then it is refused, for it would get the load
        cli("benchmark", address, *SHORT).fails(2, "would receive what is published")
        # Unless that is wanted
        cli("benchmark", address, *SHORT, "--use-existing", "-q").ok()


def test_a_group_shares_and_acknowledges(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given two consumers of one group on a stream, when measured
    done = cli(
        "benchmark", f"{redis.url}/stream:{fresh}", *SHORT, "-g", "g", "--consumers", "2",
        "--keep", "-o", "json",
    ).ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    # Then they divided the messages, and nothing is pending
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (600, 600)
    name = run.address.rpartition(":")[2]
    assert redis.cli("XPENDING", name, "g")[0] == 0
    redis.cli("DEL", name)


def test_files_for_other_programs(cli: Cli, redis: Redis, fresh: str, tmp_path: Path) -> None:
    # Given a run that is written in every form
    address, base = f"{redis.url}/stream:{fresh}", tmp_path / "r"
    out = cli(
        "benchmark", address, *SHORT, "-o", "csv", "--save", f"{base}.json", "--html",
        f"{base}.html", "--hlog", f"{base}.hlog", "--prometheus", f"{base}.prom",
    ).ok().out  # fmt: skip
    # Then the CSV has a line for each interval, whose sum is the whole
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert sum(int(row["published"]) for row in rows) == 600
    assert {row["phase"] for row in rows} <= {"warm-up", "measured", "drain"}
    # And the JSON is of the documented schema, as report reads it
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["schema"] == "mqcli.benchmark/1"
    assert saved["rates"]["confirmed"] == 500
    shown = cli("report", "show", f"{base}.json").ok().out.decode()
    assert "0 lost" in shown
    # And the page stands alone
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 3 or page.count("<svg") == 2
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    # And the metrics are in the text format
    lines = (tmp_path / "r.prom").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[a-z_]+\{.*\} [0-9.e+-]+", line) for line in lines)
    assert any('kind="lost"' in line for line in lines)
    # And the log has the intervals
    assert "Tag=end_to_end" in (tmp_path / "r.hlog").read_text()


def test_hdrhistograms_own_tools_read_the_log_of_a_run(
    cli: Cli, redis: Redis, fresh: str, tmp_path: Path
) -> None:
    # Given a run of which 2,000 messages count, and its log
    processor, log = need("hdrhistogram", LogProcessor), tmp_path / "a.hlog"
    done = cli("benchmark", f"{redis.url}/stream:{fresh}", "--rate", "1000", "--duration", "2s",
               "--warmup", "300ms", "--interval", "300ms", "--hlog", str(log),
               "-o", "json").ok()  # fmt: skip
    (run,) = load(done.out, "stdout")
    for tag, latency in (("confirm", run.confirm), ("end_to_end", run.end_to_end)):
        # When HdrHistogram's log processor sums it up
        found = processor(log, tag)
        # Then it has the report's figures: all intervals make the whole
        assert found.count == latency.count == 2000
        assert latency.max is not None
        for share, value in found.values.items():
            (ours,) = latency.decoded().percentiles([share * 100])
            assert value == pytest.approx(ours / 1000, rel=0.002)
        assert found.values[0.5] == pytest.approx(
            1000 * (latency.percentiles["p50"] or 0), rel=0.01
        )
        assert max(found.values.values()) == pytest.approx(1000 * latency.max, rel=0.01)


def test_the_gate(cli: Cli, redis: Redis, fresh: str, tmp_path: Path) -> None:
    # Given a saved run
    address, saved = f"{redis.url}/stream:{fresh}", str(tmp_path / "a.json")
    cli("benchmark", address, *SHORT, "--save", saved, "--fail-if", "lost>0").ok()
    # When a rule is broken, then that is said and the code is 1
    done = cli("benchmark", address, *SHORT, "--fail-if", "rate<5000", "--fail-if", "p50>1h")
    assert done.code == 2 and "p50" in done.err
    done = cli("benchmark", address, *SHORT, "--fail-if", "rate<5000", "--fail-if", "p50>60s")
    assert done.code == 1
    assert "failed: rate<5000 broken: rate is" in done.err
    assert "p50>60s kept" in done.err
    # And a percentile with too few samples cannot be kept
    assert cli("benchmark", address, *SHORT, "--fail-if", "p99>60s").code == 1
    # And against the saved run
    done = cli("benchmark", address, *SHORT, "--compare", saved, "--fail-if", "p50<-100%",
               "--fail-if", "p50>+1000000%")  # fmt: skip
    assert done.code == 0, done.err
    assert "--repeat would tell" in done.err
    assert "saved" in done.out.decode()
    cli("benchmark", address, *SHORT, "--fail-if", "p50>+10%").fails(2, "--compare")


def test_repeating_gives_a_spread(cli: Cli, redis: Redis, fresh: str, tmp_path: Path) -> None:
    # Given three runs alike
    saved = str(tmp_path / "a.json")
    done = cli("benchmark", f"{redis.url}/list:{fresh}", "--rate", "200", "--duration", "500ms",
               "--warmup", "0", "--repeat", "3", "--save", saved).ok()  # fmt: skip
    # Then median and spread are shown, and all are saved
    assert "3 runs" in done.out.decode() and "median" in done.out.decode()
    assert len(load(Path(saved).read_bytes(), saved)) == 3
    # And a comparison knows what is beyond the spread, and what is not
    same = cli("report", "compare", saved, saved).ok().out.decode()
    assert "within the spread" in same
    done = cli("report", "compare", saved, saved, "--fail-if", "confirmed<-1%").ok()


def test_different_durabilities_are_not_ranked(
    cli: Cli, redis: Redis, fresh: str, tmp_path: Path
) -> None:
    # Given a run on a Redis stream and one on a channel
    one, two = str(tmp_path / "one.json"), str(tmp_path / "two.json")
    cli("benchmark", f"{redis.url}/stream:{fresh}", *SHORT, "--save", one).ok()
    cli("benchmark", f"{redis.url}/channel:{fresh}", *SHORT, "--save", two).ok()
    # When compared, then each stands in a table of its own
    text = cli("report", "compare", one, two).ok().out.decode()
    assert text.count("confirmed means:") == 2
    assert "not ranked" in text
    # And neither gate nor merge mixes them
    done = cli("report", "compare", one, two, "--fail-if", "p50>+10%")
    assert done.code == 2 and "durability" in done.err
    cli("report", "merge", one, two).fails(2, "durability")


def test_merging_adds_up(cli: Cli, redis: Redis, fresh: str, tmp_path: Path) -> None:
    # Given two runs of two machines
    files = [str(tmp_path / f"{name}.json") for name in "ab"]
    for file in files:
        cli("benchmark", f"{redis.url}/stream:{fresh}", *SHORT, "--save", file).ok()
    # When merged
    out = cli("report", "merge", *files, "-o", "json").ok().out
    # Then counts and histograms are the sums
    (run,) = load(out, "stdout")
    parts = [load(Path(file).read_bytes(), file)[0] for file in files]
    assert run.rates.published == 1000
    assert run.end_to_end.count == sum(part.end_to_end.count for part in parts) == 1000
    assert run.end_to_end.max == max(part.end_to_end.max or 0 for part in parts)
    # And rules are held against the whole, not against the last part
    cli("report", "merge", *files, "--fail-if", "published<900").ok()


def test_find_max(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a search whose steps are short, when run
    done = cli("benchmark", f"{redis.url}/list:{fresh}", "--find-max", "--duration", "1s",
               "-o", "json", "--batch", "10", "--in-flight", "50")  # fmt: skip
    # Then a rate was found, and measured below
    assert done.code == 0, done
    runs = load(done.out, "stdout")
    if len(runs) > 1:
        highest = runs[0].highest_rate
        assert highest is not None and highest > 100
        assert [run.settings["share_of_highest"] for run in runs] == [0.5, 0.7, 0.9]
    else:
        assert "no rate was sustained" in runs[0].notes[-1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--rate", "10", "--max"], "different measurements"),
        (["--size", "10"], "32 bytes"),
        (["--size", "abc"], "not a size"),
        (["--keys", "zipf"], "no keys"),
        (["--variable-rate", "10"], "RATE:DURATION"),
        (["--duration", "10"], "duration"),
        (["--duration", "1s", "-c", "5"], "both say"),
        (["--only", "consume"], "--use-existing"),
        (["--fail-if", "p98>1ms"], "no figure"),
        (["--fail-if", "p99>1"], "unit"),
        (["--fail-if", "lost"], "not a rule"),
        (["--payload", "/does/not/exist"], "cannot be read"),
        (["--save", "/does/not/exist/a.json"], "cannot be written"),
        (["--compare", "/does/not/exist.json"], "cannot read"),
        (["-g", "x"], "groups"),
        (["--rate", "0"], "--rate goes from"),
        (["--rate", "1", "--duration", "200ms"], "not one message"),
        (["--only", "consume", "--use-existing", "--rate", "9"], "does not go with --rate"),
        (["--find-max", "-c", "9"], "does not go with --count"),
        (["--find-max", "--repeat", "3"], "does not go with --repeat"),
        (["--backlog", "9", "--agents", "1"], "does not go with --agents"),
        (["--backlog", "9", "--duration", "9s"], "does not go with --duration"),
        (["--agents", "3"], "only 2 producers and consumers"),
        (["--linger", "5ms"], "--linger needs --rate"),
    ],
)
def test_wrong_words_are_one_line(
    cli: Cli, redis: Redis, fresh: str, arguments: list[str], word: str
) -> None:
    # Given flags that cannot be meant, when tried, then one line says why and nothing was made
    cli("benchmark", f"{redis.url}/list:{fresh}", *arguments).fails(2, word)
    assert redis.cli("KEYS", f"{fresh}*") == []


def test_saved_files_that_are_none(cli: Cli, tmp_path: Path) -> None:
    # Given files that are no saved run
    for text in ("", "[]", "{}", '{"schema":"mqcli.benchmark/9"}', '{"runs":[]}', "\x00"):
        file = tmp_path / "x.json"
        file.write_text(text)
        # When read, then that is said in one line
        cli("report", "show", str(file)).fails(65, "x.json")


def test_an_interrupt_reports_what_was_measured(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a long run under way
    address = f"{redis.url}/stream:{fresh}"
    with cli.start("benchmark", address, "--rate", "500", "--duration", "60s", "--warmup", "0",
                   "-o", "json") as process:  # fmt: skip
        wait_until(lambda: _length(redis, fresh) > 300, "messages flow")
        # When interrupted
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        done = finish(process)
    # Then it ends in time, with what was measured until then, nothing called lost, nothing left
    assert done.code == 130
    assert time.monotonic() - began < 5
    (run,) = load(done.out, "stdout")
    assert not run.complete
    assert run.rates.confirmed > 200
    assert run.delivery is not None and run.delivery.lost == 0
    assert redis.cli("KEYS", f"{fresh}*") == []


def _length(redis: Redis, fresh: str) -> int:
    found = redis.cli("KEYS", f"{fresh}*")
    return int(redis.cli("XLEN", found[0])) if found else 0


def test_an_unreachable_broker(cli: Cli, fresh: str) -> None:
    # Given nobody who listens, when measured, then that is 69, in one line
    cli("benchmark", f"redis://127.0.0.1:1/stream:{fresh}", *SHORT).fails(69, "127.0.0.1:1")


def test_the_live_view(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a terminal, when a benchmark runs there
    address = f"{redis.url}/stream:{fresh}"
    terminal = Terminal(
        [*PROGRAM, "benchmark", address, "--rate", "300", "--duration", "3s", "--warmup", "1s"],
        {**cli.env, "TERM": "xterm-256color"}, cli.home,
    )  # fmt: skip
    # Then rates and percentiles are shown while it runs, and the figures when it has ended
    for token in (b"running", b"p99 ms", b"received", b"backlog", b"0 lost"):
        terminal.expect(token)
    assert terminal.end() == 0


def test_the_live_view_draws_the_rates(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given a terminal, and a rate that rises from 200/s to five times that
    terminal = Terminal(
        [*PROGRAM, "benchmark", f"{redis.url}/stream:{fresh}", "--variable-rate",
         "200:2s,1000:2s", "--warmup", "0", "--interval", "250ms"],
        {**cli.env, "TERM": "xterm-256color"}, cli.home,
    )  # fmt: skip
    # When a benchmark runs there
    assert terminal.end() == 0
    # Then each rate has a line of bars, which grew with every interval
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output.decode())
    for name in ("published", "confirmed", "received"):
        lines = re.findall(rf"{name}\s+[\d,]+[^▁-█\n]*([▁-█]+)", shown)
        assert len({len(line) for line in lines}) >= 5, (name, lines)
        # And they are low where the rate was, and high where it was high
        early, late = lines[-1][2:6], lines[-1][10:15]
        assert sorted(early)[2] < sorted(late)[2], (name, lines[-1])


@pytest.mark.parametrize("kind", ["stream", "list", "channel"])
def test_agents_meet_through_the_broker(cli: Cli, redis: Redis, fresh: str, kind: str) -> None:
    # Given two agents in processes of their own, one there before and one after the benchmark
    address = f"{redis.url}/{kind}:{fresh}"
    load_of_two = (*SHORT, "--agents", "2", "--producers", "2", "--repeat", "2", "-o", "json")
    with (
        cli.start("agent", address) as early,
        cli.start("benchmark", address, *load_of_two) as process,
        cli.start("agent", address) as late,
    ):
        # When they make load together, twice
        done = finish(process, 60)
        ends = [finish(agent, 20) for agent in (early, late)]
    # Then both took part, their figures are joined, and everything arrived
    assert done.code == 0, done
    for run in load(done.out, "stdout"):
        assert run.machines[0].processes == 2
        assert run.rates.confirmed == 500
        assert run.delivery is not None
        assert (run.delivery.expected, run.delivery.delivered) == (600, 600)
    # And the agents ended with it, and nothing is left
    assert [end.code for end in ends] == [0, 0]
    assert redis.cli("KEYS", f"*{fresh}*") == []


def test_interrupting_an_agent_ends_it(cli: Cli, redis: Redis, fresh: str) -> None:
    # Given an agent whom nobody answers, when interrupted
    with cli.start("agent", f"{redis.url}/stream:{fresh}") as process:
        wait_until(lambda: bool(redis.cli("KEYS", f"{fresh}*")), "it has an inbox")
        process.send_signal(signal.SIGTERM)
        done = finish(process)
    # Then it ends, and takes its inbox along
    assert done.code == 143
    assert all(b".mqcli-meet." not in key for key in redis.cli("KEYS", f"{fresh}*"))
