"""Writing to the embedded broker's file: one thread, one connection, one transaction at a time."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from ..errors import BrokerUnavailable, ConnectionLost
from ._sqlite import File

_CHECKPOINT_PAGES = 4000  # 16 MB of WAL: a quarter of the default's fsyncs while publishing in bulk

T = TypeVar("T")


class FateUnknown(BrokerUnavailable):
    """Committing failed in a way that leaves open what a later reader of the file will find."""


class Writer:
    """One thread with one connection, through which a transport writes, in order of submission.

    Nothing starts before the first piece of work. A cancelled caller changes nothing in the file:
    work that has begun is finished, work that has not is left out.
    """

    def __init__(self, file: File, sync: Literal["normal", "full"]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._file, self._sync = file, sync
        self._pool = ThreadPoolExecutor(1, "mqcli-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._closing = False

    def submit(
        self, work: Callable[[sqlite3.Connection], T], wait: float, *, create: bool = False
    ) -> asyncio.Future[T]:
        """The result of ``work`` in one transaction, for which the lock is awaited up to ``wait``
        seconds. After an error nothing of it is stored, except after FateUnknown."""
        if self._closing:
            raise ConnectionLost("the file is closed", where=self._file.where)
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, self._work, work, wait, create)

    def _work(self, work: Callable[[sqlite3.Connection], T], wait: float, create: bool) -> T:
        with self._file.mapped("the file cannot be written"):
            deadline = time.monotonic() + wait
            connection = self._connection or self._open(wait, create)
            if self._file.identity() != self._identity:
                raise ConnectionLost("the file was removed or replaced", where=self._file.where)
            self._begin(connection, deadline)
            try:
                result = work(connection)
                self._commit(connection)
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
                raise FateUnknown(
                    "committing failed", where=self._file.where, why=str(exc)
                ) from exc
            raise

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> None:
        """SQLite's own waiting sleeps up to 100 ms between looks, which starves a small writer
        beside a busy one; and it could not be ended by closing."""
        pause = 0.0005
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                busy = exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or self._closing or time.monotonic() >= deadline:
                    raise
            time.sleep(pause * random.random())
            pause = min(pause * 1.5, 0.01)

    def _open(self, wait: float, create: bool) -> sqlite3.Connection:
        if not self._file.examine():
            if not create:
                raise self._file.missing()
            self._file.create()
        connection = self._file.connect_within(wait)
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute(f"PRAGMA synchronous = {self._sync}")
            connection.execute(f"PRAGMA fullfsync = {int(self._sync == 'full')}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, connection.identity
        return connection

    async def aclose(self) -> None:
        """Close behind the work already submitted, which no longer waits for locks. Safe twice."""
        if self._closing:
            return
        self._closing = True
        closed = asyncio.get_running_loop().run_in_executor(self._pool, self._close)
        self._pool.shutdown(wait=False)
        await asyncio.shield(closed)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
