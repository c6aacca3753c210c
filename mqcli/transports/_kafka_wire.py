"""One connection to one Kafka broker: frames out, frames in, in order; versions and login.

aiokafka knows the requests, the answers and the steps of SCRAM. Its own connection is not used: it
copies each answer three times, counts a time limit from the request on (so that a large answer on
a slow line can never come), and tells why a login failed only to a log.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast

from aiokafka.conn import SaslPlainAuthenticator, ScramAuthenticator
from aiokafka.protocol.admin import (
    ApiVersionRequest,
    SaslAuthenticateRequest,
    SaslHandShakeRequest,
)
from msgspec import Struct

from ..errors import AccessDenied, ConnectionLost, MqcliError, UsageError
from . import _kafka_errors as errors

__all__ = ["Frame", "Login", "Wire"]

Frame = bytes | bytearray

_SMALL = 1 << 16
_LARGEST = 1 << 30
_LARGEST_GREETING = 1 << 20
STRONGEST_FIRST = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")


class Login(Struct, frozen=True):
    """How to log in. ``mechanisms`` are tried in this order until the broker knows one."""

    mechanisms: tuple[str, ...]
    username: str = ""
    password: str = ""
    token_file: str = ""

    def __repr__(self) -> str:
        return f"Login({self.mechanisms})"


class NoMechanism(AccessDenied):
    """The broker does not know this mechanism: another one may do."""


class Wire(asyncio.BufferedProtocol):
    """Answers come in the order of the requests. After ``broken`` is set nothing works any more."""

    def __init__(self, where: str, peer: str, client_id: str) -> None:
        self.where, self.peer = where, peer
        self.versions: dict[int, tuple[int, int]] = {}
        self.broken: MqcliError | None = None
        self._client_id = client_id
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[asyncio.Future[Frame]] = deque()
        self._number = 0
        self._small = bytearray(_SMALL)
        self._small_view = memoryview(self._small)
        self._have = 0
        self._large: bytearray | None = None
        self._large_view = self._small_view
        self._filled = 0
        self._heard = 0.0
        self._limit = _LARGEST_GREETING
        self._closed = asyncio.get_running_loop().create_future()

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return self._large_view[self._filled :]
        return self._small_view[self._have :]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = time.monotonic()
        if self._large is not None:
            self._filled += nbytes
            if self._filled == len(self._large):
                frame, self._large = self._large, None
                self._large_view = self._small_view
                self._deliver(frame)
            return
        self._have += nbytes
        start = 0
        while self._have - start >= 4:
            (size,) = struct.unpack_from(">i", self._small, start)
            if not 4 <= size <= self._limit:
                self._break("what it answers is not Kafka's protocol", hint=True)
                return
            if self._have - start - 4 < size:
                if size > _SMALL - 4:
                    self._large = bytearray(size)
                    self._large_view = memoryview(self._large)
                    self._filled = self._have - start - 4
                    self._large_view[: self._filled] = self._small_view[start + 4 : self._have]
                    start = self._have
                break
            self._deliver(bytes(self._small_view[start + 4 : start + 4 + size]))
            start += 4 + size
        if start:
            rest = self._have - start
            self._small[:rest] = self._small[start : self._have]
            self._have = rest

    def _deliver(self, frame: Frame) -> None:
        if not self._waiting:
            self._break("it answers what was not asked")
            return
        waiting = self._waiting.popleft()
        if not waiting.done():
            waiting.set_result(frame)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(str(exc) if exc else "the broker closed the connection")
        if not self._closed.done():
            self._closed.set_result(None)

    # -- requests

    def _break(self, why: str, *, hint: bool = False) -> None:
        if self.broken is None:
            self.broken = ConnectionLost(
                "connection lost",
                where=self.where,
                why=f"{self.peer}: {why}",
                hint=errors.silent_hint(False) if hint else "",
            )
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(self.broken)
                waiting.exception()  # its waiter may have gone: that is no news then
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()

    def next_number(self) -> int:
        """The correlation id of the next request."""
        self._number = (self._number + 1) & 0x7FFFFFFF
        return self._number

    def head(self, api: int, version: int) -> bytes:
        """The header of a request that is encoded by hand (not of a flexible version)."""
        name = self._client_id.encode()
        return struct.pack(">hhih", api, version, self.next_number(), len(name)) + name

    def write(self, pieces: Sequence[Frame], *, answered: bool = True) -> asyncio.Future[Frame]:
        """Send the pieces as one frame. The answer's frame, after its correlation id, comes in the
        future. Raises ConnectionLost when nothing was sent."""
        if self.broken is not None or self._transport is None:
            raise self.broken or ConnectionLost("not connected", where=self.where, why=self.peer)
        waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        if answered:
            self._waiting.append(waiting)
        else:
            waiting.set_result(b"")
        self._transport.writelines([struct.pack(">i", sum(map(len, pieces))), *pieces])
        return waiting

    async def answer(self, waiting: asyncio.Future[Frame], timeout: float) -> Frame:
        """The frame, unless ``timeout`` seconds pass in which nothing moves on this connection in
        either direction; then it is broken. Raises ConnectionLost. Cancelling is safe."""
        since, left = time.monotonic(), self._unsent()
        while not waiting.done():
            limit = max(since, self._heard) + timeout - time.monotonic()
            if limit <= 0:
                if self._unsent() == left:
                    self._break(f"no answer within {timeout:g} s")
                    break
                since, left = time.monotonic(), self._unsent()
                continue
            await asyncio.wait((waiting,), timeout=limit)
        return waiting.result()

    def _unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def drain(self, timeout: float) -> None:
        """Wait until what was written has left the process. Raises ConnectionLost."""
        since, left = time.monotonic(), self._unsent()
        while self.broken is None and (now_left := self._unsent()):
            if now_left != left:
                since, left = time.monotonic(), now_left
            elif time.monotonic() - since > timeout:
                self._break(f"it took nothing for {timeout:g} s")
            await asyncio.sleep(0.002)
        if self.broken is not None:
            raise self.broken

    async def call(self, request: Any, timeout: float) -> Any:
        """The decoded answer to a request of ``aiokafka.protocol``, in the newest version that both
        sides know. Raises ConnectionLost, Unsupported."""
        try:
            made = request.prepare(self.versions)
        except NotImplementedError as exc:
            raise errors.failure(errors.UNSUPPORTED_VERSION, self.where, str(exc)) from exc
        head = made.build_request_header(self.next_number(), self._client_id)
        frame = await self.answer(self.write([head.encode(), made.encode()]), timeout)
        data = BytesIO(frame)
        made.parse_response_header(data)
        try:
            return made.RESPONSE_TYPE.decode(data)
        except (ValueError, struct.error) as exc:
            self._break(f"its answer cannot be read: {exc}")
            assert self.broken is not None
            raise self.broken from exc

    # -- opening and closing

    @classmethod
    async def connect(
        cls,
        where: str,
        host: str,
        port: int,
        client_id: str,
        tls: SSLContext | None,
        login: Login | None,
        timeout: float,
    ) -> Wire:
        """Connected and logged in. ``timeout`` is for the whole. Raises BrokerUnavailable,
        AccessDenied."""
        loop = asyncio.get_running_loop()
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        wire = cls(where, peer, client_id)
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(
                    lambda: wire, host, port, ssl=tls, server_hostname=host if tls else None
                )
                await wire._greet(login, timeout)
        except (OSError, MqcliError) as exc:
            await wire.aclose()
            if isinstance(exc, ConnectionLost):
                exc = _Silent(f"{exc.why.partition(': ')[2]}")
            raise errors.cannot_connect(exc, where, peer, tls is not None) from exc
        except BaseException:
            await wire.aclose()
            raise
        wire._limit = _LARGEST
        return wire

    async def _greet(self, login: Login | None, timeout: float) -> None:
        answer = await self.call(ApiVersionRequest(), timeout)
        self.versions = {key: (low, high) for key, low, high in answer.api_versions}
        if login is not None:
            await self._log_in(login, login.mechanisms[0], timeout)

    async def _log_in(self, login: Login, mechanism: str, timeout: float) -> None:
        answer = await self.call(SaslHandShakeRequest(mechanism), timeout)
        if answer.error_code:
            known = ", ".join(answer.enabled_mechanisms)
            raise NoMechanism(
                "login refused",
                where=self.where,
                why=f"{self.peer} does not know {mechanism}; it knows: {known or 'none'}",
            )
        told: bytes | None = None
        steps = _steps(login, mechanism)
        while True:
            try:
                step = await steps.step(told)
            except (ValueError, KeyError, AssertionError) as exc:
                raise AccessDenied(
                    "login refused by us",
                    where=self.where,
                    why=f"{self.peer} could not prove that it knows the password",
                ) from exc
            if step is None:
                return
            answer = await self.call(SaslAuthenticateRequest(step[0]), timeout)
            if answer.error_code:
                raise errors.failure(answer.error_code, self.where, answer.error_message)
            told = answer.sasl_auth_bytes

    async def aclose(self) -> None:
        """Safe twice, and after it broke."""
        if self.broken is None:
            self.broken = ConnectionLost("closed", where=self.where, why=self.peer)
        if self._transport is not None:
            self._transport.close()
            if not self._closed.done():
                await asyncio.wait((self._closed,), timeout=1.0)
            self._transport.abort()
            self._transport = None
        self._break("closed")


class _Silent(OSError):
    """A peer that ended the connection before it was of use."""


class _Token:
    """OAUTHBEARER (RFC 7628): the token is read anew at each login, for it expires."""

    def __init__(self, file: str) -> None:
        self._file: str | None = file

    async def step(self, told: bytes | None) -> tuple[bytes, bool] | None:
        if self._file is None:
            # A refusal is answered with a JSON text, which one more byte completes.
            return (b"\x01", True) if told else None
        try:
            token = (await asyncio.to_thread(Path(self._file).read_text)).strip()
        except (OSError, UnicodeDecodeError) as exc:
            why = str(getattr(exc, "strerror", "") or exc)
            raise UsageError(f"the token file {self._file} cannot be read", why=why) from exc
        if not token:
            raise UsageError(f"the token file {self._file} is empty")
        self._file = None
        return f"n,,\x01auth=Bearer {token}\x01\x01".encode(), True


def _steps(login: Login, mechanism: str) -> Any:
    loop = asyncio.get_running_loop()
    if mechanism == "OAUTHBEARER":
        return _Token(login.token_file)
    names = {"sasl_plain_username": login.username, "sasl_plain_password": login.password}
    if mechanism == "PLAIN":
        return SaslPlainAuthenticator(loop=loop, **names)
    return ScramAuthenticator(loop=loop, sasl_mechanism=mechanism, **names)
