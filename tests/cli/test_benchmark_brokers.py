"""``mqcli benchmark`` and ``agent`` on RabbitMQ and Kafka; what they leave is asked of the brokers
themselves."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from mqcli.benchmark.result import Report, load
from tests.brokers.kafka import Kafka
from tests.brokers.rabbitmq import RabbitServer

from .support import Cli, finish

pytestmark = pytest.mark.alone

SHORT = ("--rate", "500", "--duration", "1s", "--warmup", "200ms", "-o", "json")


class Place:
    """A destination of one kind that nobody has made yet."""

    def __init__(
        self, kind: str, at: Callable[[str], str], name: str, every: Callable[[], list[str]]
    ) -> None:
        self.kind, self.at, self.name, self._every = kind, at, name, every
        self.address = at(name)

    def left(self) -> list[str]:
        """What the broker has of it, and of names that begin with it."""
        return [each for each in self._every() if each.startswith(self.name)]


@pytest.fixture(params=["queue", "stream", "topic"])
def place(request: pytest.FixtureRequest, fresh: str) -> Place:
    if request.param == "topic":
        kafka: Kafka = request.getfixturevalue("kafka")
        return Place(
            "topic", lambda name: f"{kafka.url}/{name}", fresh, lambda: list(kafka.topics())
        )
    rabbitmq: RabbitServer = request.getfixturevalue("rabbitmq")
    return Place(
        request.param,
        lambda name: rabbitmq.at(f"{request.param}:{name}"),
        fresh,
        lambda: [queue["name"] for queue in rabbitmq.api("GET", "/api/queues")],
    )


def one_run(out: bytes) -> Report:
    (run,) = load(out, "stdout")
    return run


def test_a_fixed_rate(cli: Cli, place: Place) -> None:
    # Given a destination that does not exist, when measured at a fixed rate
    run = one_run(cli("benchmark", place.address, *SHORT).ok().out)
    # Then every message was confirmed and delivered as it was
    assert run.rates.published == 500
    # (what was published before the clock started and comes behind it counts in these rates)
    assert run.rates.confirmed == pytest.approx(500, rel=0.1)
    assert run.rates.received == pytest.approx(500, rel=0.1)
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (600, 600)
    assert not run.delivery.firsts
    # And both latencies were measured, and what was confirmed is said in words
    assert run.confirm.count == run.end_to_end.count == 500
    assert run.durability.level == {"queue": "disk"}.get(place.kind, "replicated-memory")
    # And nothing is left behind
    assert place.left() == []


def test_saturation_in_two_processes(cli: Cli, place: Place) -> None:
    # Given two producers and two consumers in two processes, when 4,000 go at full speed
    done = cli(
        "benchmark", place.address, "--max", "-c", "4000", "--warmup", "0", "--producers", "2",
        "--consumers", "2", "--processes", "2", "-o", "json",
    ).ok()  # fmt: skip
    # Then all arrived: once on a queue, whose consumers share, twice on a log
    run, times = one_run(done.out), 1 if place.kind == "queue" else 2
    assert run.model == "saturation" and run.machines[0].processes == 2
    assert run.rates.confirmed == 4000
    assert run.delivery is not None
    assert run.delivery.delivered == run.delivery.expected == 4000 * times
    assert (run.delivery.lost, run.delivery.duplicated, run.delivery.corrupt) == (0, 0, 0)
    assert place.left() == []


def test_keep_leaves_the_messages(cli: Cli, place: Place) -> None:
    # Given --keep, when fifty messages are only published
    run = one_run(
        cli("benchmark", place.address, "--only", "publish", "-c", "50", "--warmup", "0",
            "--keep", "-o", "json").ok().out
    )  # fmt: skip
    # Then they stand in a destination of the run's own, each with its stamp and its size
    (left,) = place.left()
    assert left == f"{place.name}.mqcli-{run.run[:8]}"
    lines = cli("consume", place.at(left), "-e", "-o", "json").ok().out.splitlines()
    values = [json.loads(line)["value_base64"] for line in lines]
    assert len(values) == len(set(values)) == 50
    assert {len(base64.b64decode(value)) for value in values} == {100}
    # And reading what stands there must be asked for
    cli("benchmark", place.at(left), "--only", "consume").fails(2, "--use-existing")
    cli("delete", place.at(left), "--yes").ok()
    assert place.left() == []


def test_a_destination_of_somebody_is_never_removed(cli: Cli, place: Place) -> None:
    # Given one that exists, with a message in it
    cli("publish", place.address, "--create", "theirs").ok()
    # When measured under a name of its own, then it is as it was
    cli("benchmark", place.address, *SHORT).ok()
    assert place.left() == [place.name]
    # And when told to use it, the load is verified there, and it still stands
    run = one_run(cli("benchmark", place.address, *SHORT, "--use-existing").ok().out)
    assert run.delivery is not None
    assert (run.delivery.lost, run.delivery.unseen, run.delivery.corrupt) == (0, 0, 0)
    assert place.left() == [place.name]
    if place.kind != "queue":  # reading a log takes nothing
        first = cli("consume", place.address, "-c", "1").ok()
        assert first.out == b"theirs\n"
    cli("delete", place.address, "--yes").ok()


def test_one_that_does_not_exist_is_not_made(cli: Cli, place: Place) -> None:
    # Given nothing of that name, when told to use it, then that is 66 and nothing was made
    assert cli("benchmark", place.address, *SHORT, "--use-existing").code == 66
    assert place.left() == []


def test_a_group_of_kafka_shares(cli: Cli, kafka: Kafka, fresh: str) -> None:
    # Given a topic of two partitions and a group of two consumers, when measured
    done = cli("benchmark", f"{kafka.url}/{fresh}", *SHORT, "-O", "num_partitions=2", "-g", fresh,
               "--consumers", "2", "--keys", "sequence:10")  # fmt: skip
    # Then they divided the messages among them
    run = one_run(done.ok().out)
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (600, 600)
    assert run.delivery.lost == 0


@pytest.mark.parametrize("place", ["queue", "topic"], indirect=True)
def test_agents_meet_through_the_broker(cli: Cli, place: Place) -> None:
    # Given two agents in processes of their own, one there before and one after the benchmark
    with (
        cli.start("agent", place.address) as early,
        cli.start("benchmark", place.address, *SHORT, "--agents", "2", "--producers", "2",
                  "--consumers", "2") as process,
        cli.start("agent", place.address) as late,
    ):  # fmt: skip
        # When they make load together
        done = finish(process, 60)
        ends = [finish(agent, 20) for agent in (early, late)]
    # Then both took part, their figures are joined, and everything arrived
    assert done.code == 0, done
    run, times = one_run(done.out), 1 if place.kind == "queue" else 2
    assert run.machines[0].processes == 2
    assert run.rates.confirmed == 500
    assert run.delivery is not None
    assert (run.delivery.expected, run.delivery.delivered) == (600 * times, 600 * times)
    # And the agents ended with it, and nothing is left, of the load or of the meeting
    assert [end.code for end in ends] == [0, 0]
    assert place.left() == []
