"""Bytes to messages and messages to bytes, by the name of a format.

Input (:func:`make_decoder`) cuts a stream of bytes into messages; output (:func:`make_encoder`)
makes exactly one chunk of bytes of each message. Only the module that a format needs is imported.
Nothing here knows a broker, a terminal or a file. docs/envelope.md describes the JSON envelope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from ..errors import InputError, UsageError
from ..message import Message
from .base import Decoder, Encoder

__all__ = ["Decoder", "Encoder", "InputFormat", "OutputFormat", "make_decoder", "make_encoder"]

InputFormat: TypeAlias = Literal["lines", "nul", "whole", "json"]
OutputFormat: TypeAlias = Literal["value", "raw", "json", "hex", "terminal"]


def make_decoder(
    format: InputFormat,
    *,
    delimiter: bytes | None = None,
    key_delimiter: bytes | None = None,
    template: Message | None = None,
    on_bad: Callable[[InputError], None] | None = None,
    keep_timestamp: bool = False,
    keep_partition: bool = False,
) -> Decoder:
    """A decoder for one stream of input.

    ``delimiter`` replaces the newline of ``lines``; ``key_delimiter`` splits each record, where it
    first occurs, into key and value. ``template`` gives key, headers, properties and timestamp to
    every message; what a JSON envelope or a record's key says itself wins, headers are appended,
    and its ``value`` is not used. ``on_bad`` gets what cannot be a message, and reading goes on;
    without it reading ends there (:class:`Decoder`). ``keep_timestamp`` and ``keep_partition``
    take these from the ``meta`` of an envelope, where it has them.
    Raises UsageError for flags that do not go together.
    """
    if delimiter is not None and format != "lines":
        raise UsageError(
            f"a delimiter does not apply to the input format {format}",
            hint="give -D without --nul, --whole and -i json",
        )
    if format == "json":
        if key_delimiter is not None:
            raise UsageError(
                "a key delimiter does not apply to -i json", hint='write the "key" in the envelope'
            )
        from .envelope_reader import EnvelopeDecoder

        return EnvelopeDecoder(template, on_bad, keep_timestamp, keep_partition)
    if keep_timestamp or keep_partition:
        raise UsageError(
            "--keep-timestamp and --keep-partition need envelopes", hint="read them with -i json"
        )
    from .framing import Delimited, Whole

    if format == "whole":
        return Whole(key_delimiter, template, on_bad)
    end = b"\0" if format == "nul" else b"\n" if delimiter is None else delimiter
    return Delimited(end, key_delimiter, template, on_bad)


def make_encoder(
    format: OutputFormat,
    *,
    embed_json: bool = False,
    delimiter: bytes = b"\n",
    colour: bool = False,
    width: int = 80,
) -> Encoder:
    """An encoder for one output; it may keep caches, so one per output and thread.

    ``value`` ends each value with ``delimiter`` (a tombstone is an empty one), ``raw`` adds
    nothing. ``embed_json`` prints values that are JSON objects or arrays as such (``json`` only).
    ``colour`` and ``width`` (columns) are for ``terminal`` and ``hex``.
    Raises UsageError for flags that do not go together.
    """
    if embed_json and format != "json":
        raise UsageError("--embed-json applies to -o json only")
    if delimiter != b"\n" and format != "value":
        raise UsageError(f"a delimiter does not apply to the output format {format}")
    match format:
        case "json":
            from .envelope_writer import EnvelopeEncoder

            return EnvelopeEncoder(embed_json)
        case "hex":
            from .terminal import HexEncoder

            return HexEncoder(colour)
        case "terminal":
            from .terminal import TerminalEncoder

            return TerminalEncoder(colour, width)
        case "value" | "raw":
            from .framing import ValueEncoder

            return ValueEncoder(delimiter if format == "value" else b"")
