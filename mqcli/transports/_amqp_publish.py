"""Confirmed publishing in batches, on one channel of a connection.

The broker answers one bad message by closing the channel. What came after that message was
certainly not taken and is sent again on a new channel; what came before it and was not confirmed
is unknown. So that there is nothing before it, a message that may be refused (much larger than any
that was sent, with the user id of somebody else) is written only when all is confirmed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from struct import Struct

from aiormq.abc import AbstractChannel

from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    Refused,
)
from ..message import Headers, Message, Plain, Properties, contents
from ..transport import Outcome
from . import _amqp_errors as errors
from ._amqp import AmqpLink
from ._amqp_codec import CONTENT, FRAME, Marshaller, encode_properties, read_short
from ._amqp_ledger import CONFIRMED, NACKED, Call, Ledger, Part
from ._amqp_methods import exchange_there
from ._amqp_wire import Tap

__all__ = ["Sender"]

_ACK, _NACK, _RETURN = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78", b"\x00\x3c\x00\x32"
_TAG = Struct(">QB")
_TRUSTED_SIZE = 1024
_NO_LIMIT = 1 << 62
_ROW_BYTES = 4 << 20
_TOO_LARGE = re.compile(r"message size (\d+) is larger than configured max size (\d+)")
_WRONG_USER = re.compile(r"user_id property set to '([^']*)'")
_TOPIC = re.compile(r"access to topic '([^']*)'")


class Sender(Tap):
    """Publishes to one exchange. ``queue`` is the routing key of every message where the default
    exchange stands for a queue; else a message's key is its routing key."""

    def __init__(
        self, link: AmqpLink, exchange: str, queue: str | None, defaults: Properties,
        extra_headers: Headers = (), mandatory: bool = True,
        vet: Callable[[Headers], None] | None = None,
    ) -> None:  # fmt: skip
        """``vet`` raises ValueError for headers that the destination would not keep."""
        self._link, self._exchange, self._queue = link, exchange, queue
        self._key = b"" if queue is None else queue.encode("utf-8", "surrogateescape")
        self._defaults, self._extra, self._mandatory = defaults, extra_headers, mandatory
        self._vet = vet
        self._order = asyncio.Lock()
        self._channel: AbstractChannel | None = None
        self._marshal: Marshaller | None = None
        self._ledger = Ledger(
            Refused(
                "the broker did not take it (nack)",
                where=link.where,
                why="a queue is full and rejects, or could not store it",
            )
        )
        self._again: list[tuple[Call, Sequence[int]]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._answer_at = 0.0
        self._answered = asyncio.Event()
        self._seen_size = _TRUSTED_SIZE
        self._size_limit = _NO_LIMIT
        self._return: tuple[int, str, bytes] = (0, "", b"")
        self._return_content = b""
        self._return_body: list[bytes] = []
        self._return_left = 0

    # --- publishing -------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Message], timeout: float) -> Outcome:
        """See ``Publishes.publish``."""
        if not batch:
            return Outcome(0)
        call = Call(batch, self._link.wire.loop.create_future())
        async with self._order:
            self._link.check()
            try:
                await self._ensure(timeout)
            except ConnectionLost:
                raise
            except MqcliError as exc:
                return Outcome(0, dict.fromkeys(range(len(batch)), exc))
            await self._write(call, range(len(batch)), timeout)
        await self._settled(call, timeout)
        return call.outcome()

    async def aclose(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)

    async def _ensure(self, timeout: float) -> None:
        """An open channel that confirms, and everything written on it that has to be sent again.
        Raises what the broker says; then that is refused as well."""
        try:
            if self._channel is None:
                await self._open_channel()
        except MqcliError as exc:
            self._refuse_again(exc)
            raise
        again, self._again = self._again, []
        for call, indices in again:
            await self._write(call, indices, timeout)

    async def _open_channel(self) -> None:
        link = self._link
        channel = await link.channel(self)
        await link.ask(channel.confirm_delivery)
        if self._exchange:
            there = exchange_there(self._exchange)
            await link.ask(lambda: link.rpc(channel, there))
        if self._marshal is None:
            name = self._exchange.encode("utf-8", "surrogateescape")
            self._marshal = Marshaller(
                channel.number, name, link.frame_max, self._mandatory, self._prepared
            )
        self._marshal.for_channel(channel.number)
        self._ledger.restart()
        link.wire.on_blocked = self._answered.set
        self._channel = channel

    def _prepared(self, headers: Headers, properties: Properties) -> bytes:
        if self._vet is not None:
            self._vet(headers)
        return encode_properties((*headers, *self._extra), {**self._defaults, **properties})

    async def _write(self, call: Call, indices: Sequence[int], timeout: float) -> None:
        """Write these messages: in one row, unless some may be refused."""
        marshal, batch = self._marshal, call.batch
        assert marshal is not None
        chosen = batch if len(indices) == len(batch) else [batch[i] for i in indices]
        if isinstance(chosen, Plain) or not any(
            m.key is not None or m.headers or m.properties for m in chosen
        ):
            values = contents(chosen)
            if max(map(len, values)) <= min(self._seen_size, marshal.body_max, self._size_limit):
                await self._send(call, indices, marshal.plain(values, self._key), timeout)
                return
        row: list[int] = []
        frames: list[bytes] = []
        size = 0
        for index in indices:
            try:
                written = self._frames(marshal, batch[index])
            except ValueError as exc:
                call.refuse(index, Refused(str(exc), where=self._link.where))
                continue
            risky = self._risky(batch[index])
            if row and (risky or size > _ROW_BYTES):
                await self._send(call, row, b"".join(frames), timeout)
                row, frames, size = [], [], 0
            if risky:
                await self._all_settled(timeout)
            row.append(index)
            frames.append(written)
            size += len(written)
        if row:
            await self._send(call, row, b"".join(frames), timeout)

    def _frames(self, marshal: Marshaller, message: Message) -> bytes:
        value = message.value or b""
        if len(value) > self._size_limit:
            raise ValueError(
                f"the message has {len(value)} bytes, the broker's max_message_size is"
                f" {self._size_limit}"
            )
        properties = marshal.properties(message.headers, message.properties)
        return marshal.message(value, self._routing_key(message), properties)

    def _routing_key(self, message: Message) -> bytes:
        return (message.key or b"") if self._queue is None else self._key

    def _risky(self, message: Message) -> bool:
        size = len(message.value or b"")
        if size > self._seen_size:
            self._seen_size = 2 * size
            return True
        user = (message.properties or {}).get("user_id")
        return user is not None and user != self._link.user

    async def _send(self, call: Call, indices: Sequence[int], data: bytes, timeout: float) -> None:
        """Give one row to the wire, unless that is lost or the broker blocks publishers."""
        wire = self._link.wire
        loop = wire.loop
        deadline = loop.time() + timeout
        while wire.blocked is not None and wire.lost is None and loop.time() < deadline:
            await self._wait_for_answer(deadline - loop.time())
        error: MqcliError | None = None
        if wire.lost is not None:
            error = errors.lost(wire.lost, self._link.where)
        elif wire.blocked is not None:
            error = errors.alarm(wire.blocked, self._link.where)
        elif self._channel is None:  # the broker closed it while we waited
            self._send_again([(call, indices)])
            return
        if error is not None:
            for index in indices:
                call.refuse(index, error)
            return
        self._ledger.write(call, indices)
        wire.write(data)
        self._answer_at = loop.time()
        while not wire.writable.is_set() and loop.time() < self._answer_at + timeout:
            before = wire.unsent()
            try:
                async with asyncio.timeout(min(1.0, timeout)):
                    await wire.writable.wait()
            except TimeoutError:
                if wire.unsent() < before:
                    self._answer_at = loop.time()

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait_for_answer(self, seconds: float) -> None:
        self._answered.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return

    async def _all_settled(self, timeout: float) -> None:
        """Return when nothing is in flight, or after ``timeout`` seconds without an answer."""
        loop = self._link.wire.loop
        while self._ledger.parts and (left := self._answer_at + timeout - loop.time()) > 0:
            await self._wait_for_answer(left)

    async def _settled(self, call: Call, timeout: float) -> None:
        """Return when the call has its outcome: at the latest ``timeout`` seconds after the last
        answer of the broker."""
        call.timer = self._link.wire.loop.call_later(timeout, self._look, call, timeout)
        try:
            await call.future
        finally:
            call.timer.cancel()
            call.timer = None

    def _look(self, call: Call, timeout: float) -> None:
        loop = self._link.wire.loop
        left = self._answer_at + timeout - loop.time()
        if left > 0 or self._order.locked():
            call.timer = loop.call_later(max(left, 0.05), self._look, call, timeout)
        else:
            self._give_up(call, timeout)

    def _give_up(self, call: Call, timeout: float) -> None:
        """Nothing more is awaited for the call."""
        wire, where = self._link.wire, self._link.where
        cause: MqcliError = BrokerUnavailable(
            f"the broker confirmed nothing for {timeout:g} s", where=where
        )
        if wire.blocked is not None:
            cause = errors.alarm(wire.blocked, where)
        mine = [part for part in self._ledger.parts if part.call is call]
        self._ledger.give_up(mine, cause)
        self._refuse_again(cause, call)
        if not call.future.done():
            call.future.set_result(None)

    # --- what the broker answers ------------------------------------------------------------------

    def feed(self, data: bytes, at: int, end: int) -> int:
        number = self.number
        while end - at >= 8:
            kind, channel, size = FRAME.unpack_from(data, at)
            after = at + 8 + size
            if after > end or channel != number:
                break
            if kind == 1:
                method = data[at + 7 : at + 11]
                if method in (_ACK, _NACK):
                    tag, bits = _TAG.unpack_from(data, at + 11)
                    state = CONFIRMED if method == _ACK else NACKED
                    self._ledger.confirm(tag, bool(bits & 1), state)
                elif method == _RETURN:
                    code = int.from_bytes(data[at + 11 : at + 13], "big")
                    text, place = read_short(data, at + 13)
                    _, place = read_short(data, place)
                    key, _ = read_short(data, place)
                    self._return = (code, text.decode("utf-8", "replace"), key)
                else:
                    break
            elif kind == 2:
                self._return_left = CONTENT.unpack_from(data, at + 7)[2]
                self._return_content = data[at + 19 : after - 1]
                self._return_body = []
                if not self._return_left:
                    self._came_back()
            elif kind == 3:
                self._return_body.append(data[at + 7 : after - 1])
                self._return_left -= size
                if self._return_left <= 0:
                    self._came_back()
            else:
                break
            at = after
        return at

    def flush(self) -> None:
        self._answer_at = self._link.wire.loop.time()
        self._answered.set()

    def _came_back(self) -> None:
        """A whole returned message is here: find whose it is."""
        code, text, key = self._return
        body, content, marshal = b"".join(self._return_body), self._return_content, self._marshal
        assert marshal is not None
        if self._queue is not None:
            error: MqcliError = NotFound(
                "does not exist",
                where=self._link.where,
                why=f"{code} {text}",
                hint="--create makes it",
            )
        else:
            shown = key.decode("utf-8", "backslashreplace")
            error = Refused(
                f"no queue is bound for the routing key {shown!r}",
                where=self._link.where,
                why=f"{code} {text}",
            )

        def alike(message: Message) -> bool:
            return (message.value or b"") == body and self._routing_key(message) == key

        def same(message: Message) -> bool:
            return (
                alike(message)
                and marshal.properties(message.headers, message.properties) == content
            )

        if not self._ledger.came_back(same, error):
            # The broker changes properties in one case: it takes the header BCC out.
            self._ledger.came_back(alike, error)

    def lost(self) -> None:
        cause = errors.lost(self._link.wire.lost, self._link.where)
        self._channel = None
        self._ledger.give_up(list(self._ledger.parts), cause)
        self._refuse_again(cause)
        self._answered.set()

    def channel_closed(self, code: int, text: str) -> None:
        link, ledger = self._link, self._ledger
        link.wire.untap(self)
        self._channel = None
        error = errors.from_reply(code, text, link.where)
        guilty = self._guilty(text)
        if guilty is not None:
            self._send_again(ledger.split(*guilty, error))
        else:
            # Permission for an exchange is the same for all its messages.
            never = isinstance(error, AccessDenied) and not ledger.any_confirmed
            ledger.give_up(list(ledger.parts), error, never and _TOPIC.search(text) is None)
        self.flush()

    def _guilty(self, text: str) -> tuple[Part, int] | None:
        """The message for which the broker closed the channel."""
        size, user, topic = _TOO_LARGE.search(text), _WRONG_USER.search(text), _TOPIC.search(text)
        if size is not None:
            self._size_limit = self._seen_size = int(size[2])
        for part in self._ledger.parts:
            for position in part.pending():
                message = part.message(position)
                properties = {**self._defaults, **(message.properties or {})}
                if (
                    (size is not None and len(message.value or b"") == int(size[1]))
                    or (user is not None and properties.get("user_id") == user[1])
                    or (topic is not None and self._routing_key(message) == topic[1].encode())
                ):
                    return part, position
        return None

    # --- sending again what was certainly not taken -----------------------------------------------

    def _send_again(self, more: Sequence[tuple[Call, Sequence[int]]]) -> None:
        self._again += more
        if self._again and self._recovery is None:
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        try:
            async with self._order:
                await self._ensure(self._link.target.connect_timeout)
        except MqcliError:
            return  # the calls concerned have been told
        finally:
            self._recovery = None

    def _refuse_again(self, error: MqcliError, only: Call | None = None) -> None:
        kept = []
        for call, indices in self._again:
            if only is not None and call is not only:
                kept.append((call, indices))
                continue
            for index in indices:
                call.refuse(index, error)
        self._again = kept
