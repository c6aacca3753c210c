"""The verbs on RabbitMQ, as their user meets them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.brokers.process import free_port
from tests.brokers.rabbitmq import Rabbit, RabbitServer

from .support import Cli, finish, until


def envelopes(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# --- bindings -------------------------------------------------------------------------------------


def test_bind_and_unbind(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a topic exchange and a queue
    exchange, queue = rabbitmq.at(f"exchange:{fresh}"), f"queue:{fresh}"
    cli("create", exchange).ok()
    cli("create", rabbitmq.at(queue)).ok()
    # When they are bound, then what the pattern is for arrives
    said = cli("bind", exchange, queue, "-k", "order.#").ok()
    assert f"{queue} is bound to" in said.err and "'order.#'" in said.err
    cli("publish", exchange, "-k", "order.new", "yes").ok()
    assert cli("consume", rabbitmq.at(queue), "-c", "1").ok().out == b"yes\n"
    # And binding again is no error
    cli("bind", exchange, queue, "-k", "order.#").ok()
    # When unbound, then nothing arrives any more, and the message is refused by its number
    cli("unbind", exchange, queue, "-k", "order.#").ok()
    refused = cli("publish", exchange, "-k", "order.new", "no")
    assert refused.code == 1
    assert "message 1 refused: no queue is bound for the routing key 'order.new'" in refused.err


def test_bind_an_exchange_by_headers(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a headers exchange that another exchange is bound to, by a typed header
    source, beside = rabbitmq.at(f"exchange:{fresh}"), f"exchange:{fresh}-2"
    cli("create", source, "-O", "exchange_type=headers").ok()
    cli("create", rabbitmq.at(beside), "-O", "exchange_type=fanout").ok()
    cli("create", rabbitmq.at(f"queue:{fresh}")).ok()
    cli("bind", source, beside, "-H", "x-match=any", "-H", "n:i32=5").ok()
    cli("bind", rabbitmq.at(beside), f"queue:{fresh}").ok()
    # When messages with that header, and with another number, are published
    cli("publish", source, "-H", "n:i32=5", "yes").ok()
    other = cli("publish", source, "-H", "n:i32=6", "no")
    # Then only the one that matches is routed
    assert other.code == 1
    assert cli("consume", rabbitmq.at(f"queue:{fresh}"), "-e").ok().out == b"yes\n"


def test_what_cannot_be_bound(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    nowhere = f"amqp://127.0.0.1:{free_port()}"
    # A queue routes nothing, a topic is not bound, another broker is another broker: no connection
    cli("bind", f"{nowhere}/queue:a", "queue:b").fails(2, "routes them nowhere", "exchange")
    cli("bind", f"{nowhere}/exchange:a", f"{nowhere}/queue:b").fails(2, "kind and name alone")
    cli("bind", "a", "b").fails(2, "cannot be bound")
    # What does not exist is named, and the nearest that does
    cli("create", rabbitmq.at(f"exchange:{fresh}")).ok()
    cli("create", rabbitmq.at(f"queue:{fresh}")).ok()
    cli("bind", rabbitmq.at(f"exchange:{fresh}"), f"queue:{fresh}s").fails(
        66, f"no queue '{fresh}s'", f"did you mean queue:{fresh}?"
    )
    cli("bind", rabbitmq.at("exchange:nosuch"), f"queue:{fresh}").fails(66, "no exchange 'nosuch'")


# --- publish --------------------------------------------------------------------------------------


def test_properties_and_headers_keep_their_types(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given properties as -P and as -O, and typed headers
    queue = rabbitmq.at(f"queue:{fresh}")
    cli(
        "publish", queue, "--create", "-P", "message_id=7", "-P", "priority=3",
        "-P", "expiration=60000", "-O", "content_type=text/plain", "-O", "app_id=mine",
        "-H", "n:i64=5", "-H", "flag:bool=true", "-H", "small:i8=1", "-H", "x=text", "hello",
    ).ok()  # fmt: skip
    # When read, then each has the type of the property, not of what it looks like
    (message,) = envelopes(cli("consume", queue, "-c", "1", "-o", "json").ok().out)
    assert message["properties"] == {
        "content_type": "text/plain", "delivery_mode": 2, "priority": 3, "expiration": "60000",
        "message_id": "7", "app_id": "mine",
    }  # fmt: skip
    assert message["headers"] == [
        ["n", 5], ["flag", True], ["small", {"t": "i8", "v": 1}], ["x", "text"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-P", "priority=high"], ["-P priority=high does not fit"]),
        (["-P", "nosuch=1"], ["the property 'nosuch' cannot be carried"]),
        (["-O", "priority=300"], ["priority"]),
        (["-O", f"content_type={'x' * 256}"], ["content_type", "255"]),
        (["-O", "expiration=4294967296"], ["expiration"]),
        (["-O", "timestamp=18446744073709551616"], ["timestamp"]),
        (["-O", "reply_to=amq.rabbitmq.reply-to"], ["reply_to"]),
        (["-k", "key"], ["a key cannot be carried"]),
        (["--null"], ["tombstone"]),
        (["--timestamp", "@1h"], ["timestamp"]),
        (["--atomic"], ["no transactions"]),
    ],
)
def test_what_a_queue_cannot_carry(cli: Cli, args: list[str], words: list[str]) -> None:
    # Given a broker that is not there, then it is refused before it is asked
    queue = f"amqp://127.0.0.1:{free_port()}/queue:x"
    value = [] if "--null" in args else ["x"]
    cli("publish", queue, *args, *value).fails(2, *words)


def test_the_unroutable_is_refused_by_its_number(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a direct exchange with one queue behind one key
    exchange = rabbitmq.at(f"exchange:{fresh}")
    cli("create", exchange, "-O", "exchange_type=direct").ok()
    cli("create", rabbitmq.at(f"queue:{fresh}")).ok()
    cli("bind", exchange, f"queue:{fresh}", "-k", "good").ok()
    # When messages with the same id and value are published, one with another key
    lines = b"".join(
        b'{"key":"%s","value":"v","properties":{"message_id":"same"}}\n' % key
        for key in (b"good", b"bad", b"good")
    )
    result = cli("publish", exchange, "-i", "json", "--report", "json", stdin=lines)
    # Then that one is refused, and each has its fate in a line, in order
    assert result.code == 1
    assert "message 2 refused: no queue is bound for the routing key 'bad'" in result.err
    assert "2 confirmed, 1 refused, 0 unknown" in result.err
    fates = envelopes(result.out)
    assert [line["message"] for line in fates] == [1, 2, 3]
    assert [line["fate"] for line in fates] == ["confirmed", "refused", "confirmed"]
    assert "NO_ROUTE" in fates[1]["why"]


def test_create_declares_only_what_is_missing(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a queue of another type than a plain create makes
    queue = rabbitmq.at(f"queue:{fresh}")
    rabbitmq.declare(fresh, type="quorum")
    # When published with --create, then it stays as it is
    cli("publish", queue, "--create", "x").ok()
    # And a plain create says what is different
    cli("create", queue).fails(1, "is there, and different", "x-queue-type")


def test_a_missing_queue_is_66_with_the_nearest(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    rabbitmq.declare(fresh)
    wrong = rabbitmq.at(f"queue:{fresh}x")
    # When it is read, looked at, cleared or written to
    for args in (["consume", wrong], ["describe", wrong], ["purge", wrong, "--yes"]):
        cli(*args).fails(66, "does not exist", f"did you mean queue:{fresh}?")
    sent = cli("publish", wrong, "x")
    # Then the nearest is named, and none is made
    assert sent.code == 66 and f"did you mean queue:{fresh}?" in sent.err
    cli("describe", wrong).fails(66)


def test_a_wrong_password_is_77(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    at = rabbitmq.url.replace("amqp://", "amqp://ann:sesame@")
    result = cli("publish", f"{at}/queue:{fresh}", "x").fails(77, "login refused", "ann:***@")
    assert "sesame" not in result.err


def test_a_blocked_broker_is_75_at_the_deadline(
    cli: Cli, started: Callable[[Callable[[], RabbitServer]], RabbitServer], fresh: str
) -> None:
    # Given a broker whose memory alarm is on
    rabbitmq = started(RabbitServer)
    queue = rabbitmq.at(f"queue:{fresh}")
    cli("create", queue).ok()
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.0001")
    # When published, then it waits as long as it may, and gives the broker's reason
    result = cli("publish", queue, "x", "--confirm-timeout", "2s")
    assert result.code == 75, result
    assert "blocked" in result.err and "memory" in result.err
    # And when the alarm is over, it takes messages again
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
    cli("publish", queue, "y").ok()
    assert b"y\n" in cli("consume", queue, "-e").ok().out


# --- consume --------------------------------------------------------------------------------------


def test_peek_gives_back_in_order(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given more messages than are pushed ahead
    queue = rabbitmq.at(f"queue:{fresh}")
    numbers = b"".join(b"%d\n" % n for n in range(2500))
    cli("publish", queue, "--create", stdin=numbers).ok()
    # When peeked at, all of them and then the first three
    all_of_them = cli("consume", queue, "--peek").ok()
    three = cli("consume", queue, "--peek", "-c", "3").ok()
    # Then they are shown, and it is said that they are marked
    assert (all_of_them.out, three.out) == (numbers, b"0\n1\n2\n")
    assert "given back" in three.err and "redelivered" in three.err
    # And all are there, in order, marked
    taken = envelopes(cli("consume", queue, "-e", "-o", "json").ok().out)
    assert [int(m["value"]) for m in taken] == list(range(2500))
    assert taken[0]["meta"]["redelivered"]


def test_what_a_failure_leaves(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a queue with a place for the rejected
    queue, rest = rabbitmq.at(f"queue:{fresh}"), rabbitmq.at(f"queue:{fresh}-dead")
    cli("create", rest).ok()
    dead = ["-O", "dead_letter_exchange=", "-O", f"dead_letter_key={fresh}-dead"]
    cli("create", queue, *dead).ok()
    cli("publish", queue, "a", "b").ok()
    # When the output cannot be written
    with open("/dev/full", "wb") as full:
        requeued = cli("consume", queue, "-c", "2", stdout=full)
        assert requeued.code == 74
        # Then they are there again, unless they were to be dropped
        assert cli("consume", queue, "--peek", "--nack", "requeue").ok().out == b"a\nb\n"
        assert cli("consume", queue, "-c", "2", "--nack", "drop", stdout=full).code == 74
    assert cli("consume", queue, "-e").ok().out == b""
    # And what was dropped is dead-lettered, with the reason in its headers
    letters = envelopes(cli("consume", rest, "-c", "2", "-o", "json").ok().out)
    assert [m["value"] for m in letters] == ["a", "b"]
    assert "rejected" in json.dumps(letters[0]["headers"])


def test_an_exclusive_consumer_keeps_others_out(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a consumer that is exclusive and has begun
    queue = rabbitmq.at(f"queue:{fresh}")
    cli("publish", queue, "--create", "first").ok()
    with cli.start("consume", queue, "-O", "exclusive=true") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        # When another one comes, then it is told to come later
        cli("consume", queue, "-O", "consumer_priority=5", "-c", "1").fails(75, "exclusive")
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 130


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["consume", "queue:x", "-g", "g"], ["a queue has no groups"]),
        (["describe", "queue:x", "-g", "g"], ["a queue has no groups"]),
        (["consume", "stream:x", "-g", "g"], ["AMQP 0-9-1", "offsets"]),
        (["consume", "exchange:x"], ["cannot be consumed", "tail"]),
        (["consume", "stream:x", "--peek"], ["--peek is for queues", "takes nothing"]),
        (["consume", "stream:x", "--nack", "drop"], ["reject a message for good"]),
        (["consume", "queue:x", "--peek", "--nack", "drop"], ["peek"]),
        (["consume", "queue:x", "--peek", "-g", "g"], ["--peek", "--group"]),
        (["tail", "queue:x"], ["cannot be watched", "exchange", "firehose", "peek"]),
        (["tail", "queue:x", "--bind", "a"], ["--bind cannot be used here", "exchange"]),
        (["seek", "stream:x", "-g", "g", "--to", "end"], ["place of a group"]),
    ],
)
def test_what_is_refused_before_a_socket_opens(cli: Cli, args: list[str], words: list[str]) -> None:
    verb, destination, *rest = args
    cli(verb, f"amqp://127.0.0.1:{free_port()}/{destination}", *rest).fails(2, *words)


def test_groups_cannot_be_listed(cli: Cli) -> None:
    cli("ls", f"amqp://127.0.0.1:{free_port()}", "--groups").fails(2, "groups cannot be listed")


# --- tail -----------------------------------------------------------------------------------------


def test_tail_what_is_bound(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a tail of a topic exchange with two patterns
    exchange = rabbitmq.at(f"exchange:{fresh}")
    cli("create", exchange).ok()

    def bindings() -> list[Any]:
        found = rabbitmq.api("GET", f"/api/exchanges/%2F/{fresh}/bindings/source")
        assert isinstance(found, list)
        return found

    with cli.start("tail", exchange, "--bind", "a.#", "--bind", "b", "-c", "2") as process:
        until(lambda: len(bindings()) == 2)
        # When messages for these and for nobody are published
        cli("publish", exchange, "-k", "a.b.c", "one").ok()
        assert cli("publish", exchange, "-k", "c", "nobody's").code == 1
        cli("publish", exchange, "-k", "b", "two").ok()
        result = finish(process)
    # Then it has seen what it was bound for, and leaves nothing behind
    assert (result.code, result.out) == (0, b"one\ntwo\n"), result
    until(lambda: not bindings())


def test_tail_a_queue_through_the_firehose(cli: Cli, rabbitmq: Rabbit, fresh: str) -> None:
    # Given a queue, and tracing that is off: that is said
    queue = rabbitmq.at(f"queue:{fresh}")
    rabbitmq.declare(fresh)
    cli("tail", queue, "-O", "via=firehose").fails(2, "tracing is off", "trace_on")
    # When it is on, then what enters the queue is seen, and stays there
    rabbitmq.trace(True)
    try:
        with cli.start("tail", queue, "-O", "via=firehose", "-c", "1") as process:
            # It has begun when it sees one of those that are sent until then.
            until(lambda: cli("publish", queue, "x").ok() and process.poll() is not None)
            result = finish(process)
    finally:
        rabbitmq.trace(False)
    assert (result.code, result.out) == (0, b"x\n"), result
    assert cli("consume", queue, "-c", "1").ok().out == b"x\n"
