"""``-O name=value`` of queues, streams and exchanges, and what is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..errors import UsageError
from ..message import Header, HeaderValue, Properties, Tagged
from ..options import Duration, nearest
from ._amqp_codec import encode_properties

__all__ = ["ExchangeOptions", "PublishOptions", "QueueOptions", "StreamOptions", "defaults_of"]

Text = Annotated[str | None, Meta(description="property of every message that has none")]
Count = Annotated[int, Meta(ge=0)]
Digits = Annotated[str, Meta(pattern=r"^[0-9]+$")]
Age = Annotated[str, Meta(pattern=r"^[0-9]+[YMDhms]$")]


class PublishOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Basic properties: for messages that do not bring them along."""

    persistent: Annotated[
        bool, Meta(description="messages survive the broker, where their queue does")
    ] = True
    content_type: Text = None
    content_encoding: Text = None
    correlation_id: Text = None
    reply_to: Text = None
    expiration: Annotated[
        Digits | None, Meta(description="milliseconds after which a message is dropped")
    ] = None
    message_id: Text = None
    timestamp: Annotated[
        Count | None, Meta(description="seconds since 1970, as a property of the message")
    ] = None
    type: Text = None
    user_id: Annotated[str | None, Meta(description="must be the user of the connection")] = None
    app_id: Text = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=255)] | None, Meta(description="property priority")
    ] = None
    argument: Annotated[
        tuple[str, ...],
        Meta(description="NAME[:TYPE]=VALUE, any argument of create or bind; repeatable"),
    ] = ()


class _Made(PublishOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What queues are created with."""

    max_length_bytes: Annotated[Count | None, Meta(description="create: bytes kept at most")] = None


class QueueOptions(_Made, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of ``queue:``."""

    queue_type: Annotated[
        Literal["classic", "quorum"] | None,
        Meta(description="create: the broker's default if not given"),
    ] = None
    durable: Annotated[bool, Meta(description="create: survives the broker")] = True
    auto_delete: Annotated[bool, Meta(description="create: goes with its last consumer")] = False
    ttl: Annotated[Duration | None, Meta(description="create: how long messages stay")] = None
    expires: Annotated[
        Duration | None, Meta(description="create: unused for so long, the queue goes")
    ] = None
    max_length: Annotated[Count | None, Meta(description="create: messages kept at most")] = None
    overflow: Annotated[
        Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None,
        Meta(description="create: what happens when it is full"),
    ] = None
    dead_letter_exchange: Annotated[
        str | None, Meta(description="create: where rejected and expired messages go")
    ] = None
    dead_letter_key: Annotated[str | None, Meta(description="create: with this routing key")] = None
    max_priority: Annotated[
        Annotated[int, Meta(ge=1, le=255)] | None, Meta(description="create: a priority queue")
    ] = None
    delivery_limit: Annotated[
        Count | None,
        Meta(description="create: of a quorum queue, attempts before a message is dropped"),
    ] = None
    lazy: Annotated[bool, Meta(description="create: messages on disk first")] = False
    single_active_consumer: Annotated[bool, Meta(description="create: one consumer at a time")] = (
        False
    )
    prefetch: Annotated[
        Annotated[int, Meta(ge=1, le=65535)],
        Meta(description="consume: messages that the broker may push ahead"),
    ] = 2000
    ack_every: Annotated[
        Annotated[int, Meta(ge=1, le=65535)],
        Meta(description="consume: acknowledge so many together, or what there is after 0.1 s"),
    ] = 1
    consumer_priority: Annotated[
        Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None,
        Meta(description="consume: higher gets messages first"),
    ] = None
    exclusive: Annotated[bool, Meta(description="consume: refuse other consumers")] = False
    peek: Annotated[
        bool,
        Meta(description="consume: show and give back in order; messages get marked redelivered"),
    ] = False
    nack: Annotated[
        Literal["requeue", "drop"],
        Meta(description="consume: what becomes of messages that were handed out, but not settled"),
    ] = "requeue"
    via: Annotated[
        Literal["firehose"] | None,
        Meta(description="tail: what enters the queue, while tracing (rabbitmqctl trace_on) is on"),
    ] = None


class StreamOptions(_Made, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of ``stream:``."""

    max_age: Annotated[
        Age | None, Meta(description="create: how long messages are kept, as 7D, 12h, 30m")
    ] = None
    segment_bytes: Annotated[Count | None, Meta(description="create: size of a segment file")] = (
        None
    )
    prefetch: Annotated[
        Annotated[int, Meta(ge=1, le=65535)],
        Meta(description="messages that the broker may push ahead"),
    ] = 2000


class ExchangeOptions(PublishOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of ``exchange:``."""

    exchange_type: Annotated[
        str, Meta(description="create: direct, topic, fanout, headers, or a plugin's")
    ] = "topic"
    durable: Annotated[bool, Meta(description="create: survives the broker")] = True
    auto_delete: Annotated[bool, Meta(description="create: goes with its last binding")] = False
    internal: Annotated[bool, Meta(description="create: only other exchanges publish to it")] = (
        False
    )
    alternate_exchange: Annotated[
        str | None, Meta(description="create: where unroutable messages go")
    ] = None
    mandatory: Annotated[
        bool, Meta(description="publish: a message that no queue takes is refused")
    ] = True
    delay: Annotated[
        Duration | None,
        Meta(description="publish: needs an exchange of the delayed-message plugin"),
    ] = None
    bind: Annotated[
        tuple[str, ...],
        Meta(
            description="tail: routing key pattern, or for a headers exchange NAME[:TYPE]=VALUE;"
            " repeatable; everything by default"
        ),
    ] = ()
    via: Annotated[
        Literal["firehose"] | None,
        Meta(description="tail: unwrap what the firehose (amq.rabbitmq.trace) shows"),
    ] = None


_PROPERTIES = (
    "content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id",
    "timestamp", "type", "user_id", "app_id", "priority",
)  # fmt: skip


def defaults_of(options: PublishOptions) -> Properties:
    """The properties that every message gets which has not got its own. Raises UsageError."""
    made: Properties = {"delivery_mode": 2 if options.persistent else 1}
    for name in _PROPERTIES:
        value = getattr(options, name)
        if value is not None:
            made[name] = value
    try:
        encode_properties((), made)
    except ValueError as exc:
        raise UsageError(f"an option does not fit: {exc}") from exc
    return made


_INTEGERS = {"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "time"}
_TYPES = (*sorted(_INTEGERS), "bool", "bytes", "decimal", "f32", "f64", "null", "text")


def parse_argument(text: str) -> Header:
    """``NAME[:TYPE]=VALUE`` as a typed header. Raises UsageError."""
    left, equals, value = text.partition("=")
    name, colon, kind = left.rpartition(":")
    if not colon or kind not in _TYPES:
        if colon and (guess := nearest(kind, _TYPES)) and kind.isalnum():
            raise UsageError(f"{kind!r} in {text!r} is not a type", hint=f"did you mean {guess}?")
        name, kind = left, "text"
    if not equals or not name:
        raise UsageError(f"{text!r} is not an argument", hint="write NAME=VALUE or NAME:i64=5")
    try:
        return name, _value(kind, value)
    except ValueError as exc:
        raise UsageError(f"{value!r} in {text!r} is not {kind}") from exc


def _value(kind: str, text: str) -> HeaderValue:
    if kind == "text":
        return text
    if kind == "bool":
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    if kind == "bytes":
        return text.encode("utf-8", "surrogateescape")
    if kind == "null":
        return Tagged("null", None)
    if kind == "decimal":
        return Tagged("decimal", text)
    if kind in ("f32", "f64"):
        return Tagged("f32", float(text)) if kind == "f32" else float(text)
    number = int(text)
    return number if kind == "i64" else Tagged(kind, number)  # type: ignore[arg-type]


def arguments_of(options: Any, fixed: dict[str, HeaderValue]) -> tuple[Header, ...]:
    """Arguments of a declaration: the fixed ones, then those of ``-O argument=``."""
    return (*fixed.items(), *[parse_argument(text) for text in options.argument])


def queue_arguments(options: QueueOptions) -> tuple[Header, ...]:
    def ms(duration: Duration | None) -> int | None:
        return None if duration is None else round(duration * 1000)

    wanted: dict[str, Any] = {
        "x-queue-type": options.queue_type,
        "x-message-ttl": ms(options.ttl),
        "x-expires": ms(options.expires),
        "x-max-length": options.max_length,
        "x-max-length-bytes": options.max_length_bytes,
        "x-overflow": options.overflow,
        "x-dead-letter-exchange": options.dead_letter_exchange,
        "x-dead-letter-routing-key": options.dead_letter_key,
        "x-max-priority": options.max_priority,
        "x-delivery-limit": options.delivery_limit,
        "x-queue-mode": "lazy" if options.lazy else None,
        "x-single-active-consumer": options.single_active_consumer or None,
    }
    return arguments_of(options, {k: v for k, v in wanted.items() if v is not None})


def stream_arguments(options: StreamOptions) -> tuple[Header, ...]:
    wanted: dict[str, Any] = {
        "x-queue-type": "stream",
        "x-max-length-bytes": options.max_length_bytes,
        "x-max-age": options.max_age,
        "x-stream-max-segment-size-bytes": options.segment_bytes,
    }
    return arguments_of(options, {k: v for k, v in wanted.items() if v is not None})
