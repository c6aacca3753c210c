"""The file of the embedded broker: recognised before it is opened, made at one stroke, and opened.

A file that is not ours, is damaged, or is of a newer format is told by plain reading, before SQLite
would put its ``-wal`` and ``-shm`` beside it. A new file is built under another name and then
linked to its own, so that nobody ever sees half of one, and of two that make it at the same moment
one wins. The rows in it are the business of ``_sqlite_log`` and ``_sqlite_groups``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote_from_bytes

import msgspec
from msgspec import Meta

from ..broker import Broker, Entry
from ..errors import (
    AccessDenied,
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    Refused,
    TryAgainLater,
    UsageError,
)
from ..options import Duration
from ..transport import Target

APPLICATION_ID = 0x6D71636C
"""``mqcl``, in the header of every file of ours."""
FORMAT = 1
"""``user_version``: a file of a higher one is refused."""
_OLDEST_SQLITE = (3, 32, 0)  # 32,766 parameters in a statement

_SCHEMA = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name NOT NULL UNIQUE,
    first INTEGER NOT NULL DEFAULT 0, next INTEGER NOT NULL DEFAULT 0,
    largest INTEGER NOT NULL DEFAULT 0, parts INTEGER NOT NULL DEFAULT 0,
    max_messages INTEGER, max_age_ms INTEGER);
CREATE TABLE segments (
    topic_id INTEGER NOT NULL, number INTEGER NOT NULL, high_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL, PRIMARY KEY (topic_id, number)) WITHOUT ROWID;
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic_id INTEGER NOT NULL, name NOT NULL,
    position INTEGER NOT NULL, UNIQUE (topic_id, name));
CREATE TABLE consumers (
    id INTEGER PRIMARY KEY, group_id INTEGER NOT NULL, renewed_ms INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL);
CREATE INDEX consumers_of_group ON consumers (group_id);
CREATE TABLE pending (
    group_id INTEGER NOT NULL, first INTEGER NOT NULL, until INTEGER NOT NULL, consumer INTEGER,
    deliveries INTEGER NOT NULL, PRIMARY KEY (group_id, first)) WITHOUT ROWID;
CREATE INDEX returned ON pending (group_id, first) WHERE consumer IS NULL;
"""


class SqliteConnection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the file as a whole."""

    lock_timeout: Annotated[
        Duration,
        Meta(description="how long to wait for a lock that another process holds on the file"),
    ] = Duration(10)


_GUARD = threading.RLock()
_OPEN: Counter[tuple[int, int]] = Counter()
"""The connections of this process by device and inode. Closing any descriptor of a file drops all
POSIX locks that the process has on it (sqlite.org/howtocorrupt.html, 2.2): while SQLite has one
open, no file is opened in any other way, and never in the middle of SQLite's opening or closing."""


class Connection(sqlite3.Connection):
    """One that is counted in ``_OPEN`` until it is closed."""

    identity: tuple[int, int] | None = None

    def close(self) -> None:
        with _GUARD:
            super().close()
            if self.identity is not None:
                _OPEN[self.identity] -= 1
                self.identity = None


def stored_name(name: str) -> str | bytes:
    """A topic's or group's name as it stands in the file: text, or a blob where it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")
    return name


def shown_name(name: str | bytes) -> str:
    """The inverse of :func:`stored_name`."""
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


class File:
    """The path of one target and what is known of the file there. Making one opens nothing."""

    def __init__(self, target: Target) -> None:
        assert target.address.broker is not None
        self.where = target.where
        self.lock_timeout = float(target.connection.lock_timeout)
        name = target.address.broker.file
        if not name or "\0" in name:
            raise UsageError("the address names no file", where=self.where)
        self.path = Path.cwd() / name

    def missing(self) -> NotFound:
        return NotFound(
            "there is no such file",
            where=self.where,
            hint="publishing to a topic makes it, and so does mqcli create",
        )

    def identity(self) -> tuple[int, int] | None:
        """What tells this file from another of the same name; None when it is gone."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def examine(self) -> bool:
        """Whether it is there; it is only read. Raises UsageError for what is not ours,
        BrokerUnavailable for what is damaged or newer, AccessDenied, and NotFound for a missing
        directory."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise BrokerUnavailable(
                f"SQLite {sqlite3.sqlite_version} is too old",
                where=self.where,
                hint=f"the embedded broker needs {'.'.join(map(str, _OLDEST_SQLITE))} or newer",
            )
        try:
            # Looking first keeps us from opening a FIFO, which would wait for a writer.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise self._foreign("it is not a regular file")
            with _GUARD:
                if _OPEN[self.identity() or (0, 0)] > 0:
                    return True
                quiet = not self._wal_bytes()
                with self.path.open("rb", buffering=0) as file:
                    head, size = file.read(100), os.fstat(file.fileno()).st_size
            why = self._damage(head, size)
            # With a WAL beside it, before or after, the file alone says little: SQLite will tell.
            if why and quiet and not self._wal_bytes():
                raise self._damaged(why)
            return True
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return False
            raise NotFound(f"there is no directory {self.path.parent}", where=self.where) from None
        except OSError as exc:
            raise self.failure(exc, "the file cannot be read") from exc

    def _wal_bytes(self) -> int:
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _damage(self, head: bytes, size: int) -> str:
        """Why the file is damaged, or "". Raises for what is not ours or newer."""
        if head[:16] != b"SQLite format 3\0":
            raise self._foreign("it is empty" if not size else "it is no SQLite database")
        if len(head) < 100:
            return f"it ends after {size} bytes"
        if int.from_bytes(head[68:72], "big") != APPLICATION_ID:
            raise self._foreign("it is a database of another program")
        self._check_format(int.from_bytes(head[60:64], "big"))
        page = int.from_bytes(head[16:18], "big")
        page = 65536 if page == 1 else page
        pages = int.from_bytes(head[28:32], "big")
        if page < 512 or page & (page - 1):
            return f"its header says that a page has {page} bytes"
        if head[24:28] == head[92:96] and pages * page > size:
            return f"it should have {pages * page} bytes but ends after {size}"
        return ""

    def _check_format(self, found: int) -> None:
        if found > FORMAT:
            raise BrokerUnavailable(
                "the file was written by a newer mqcli",
                where=self.where,
                why=f"its format is {found}, this one knows {FORMAT}",
                hint="upgrade mqcli, or name another file",
            )

    def _foreign(self, why: str) -> UsageError:
        hint = "remove it first" if why == "it is empty" else "name another file"
        return UsageError(
            "this is not a file of the embedded broker", where=self.where, why=why, hint=hint
        )

    def _damaged(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            "the file is damaged",
            where=self.where,
            why=why,
            hint="restore a copy; what is readable: sqlite3 FILE .recover",
        )

    def failure(self, exc: OSError | sqlite3.Error, what: str) -> MqcliError:
        """The error to raise ``from exc``; the most specific class that fits."""
        if isinstance(exc, OSError):
            kind: type[MqcliError] = {
                errno.EACCES: AccessDenied, errno.EPERM: AccessDenied, errno.ENOENT: NotFound,
                errno.ENOSPC: TryAgainLater, errno.EDQUOT: TryAgainLater,
                errno.EROFS: TryAgainLater, errno.ENOTDIR: UsageError, errno.ELOOP: UsageError,
                errno.ENAMETOOLONG: UsageError,
            }.get(exc.errno or 0, BrokerUnavailable)  # fmt: skip
            return kind(what, where=self.where, why=exc.strerror or str(exc))
        code = getattr(exc, "sqlite_errorcode", None)
        if code is None:
            return ConnectionLost("the file is closed", where=self.where, why=str(exc))
        why = str(exc)
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                hint = "-O lock_timeout= says how long to wait"
                return TryAgainLater(
                    "another process keeps the file locked", where=self.where, why=why, hint=hint
                )
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self._damaged(why)
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_NOMEM:
                return TryAgainLater(what, where=self.where, why=why)
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
                    return TryAgainLater(what, where=self.where, why=why)
                return AccessDenied(what, where=self.where, why=why)
            case sqlite3.SQLITE_CANTOPEN:
                if self.identity() is None:
                    return self.missing()
                hint = "SQLite keeps a -wal and a -shm beside it: the directory must be writable"
                return AccessDenied(what, where=self.where, why=why, hint=hint)
            case sqlite3.SQLITE_TOOBIG:
                return Refused(what, where=self.where, why=why)
        return BrokerUnavailable(what, where=self.where, why=why)

    @contextmanager
    def mapped(self, what: str) -> Iterator[None]:
        """Errors of the system and of SQLite become ours within."""
        try:
            yield
        except (OSError, sqlite3.Error) as exc:
            raise self.failure(exc, what) from exc

    def create(self) -> None:
        """Make it, with mode 0600, unless it is there. Raises as :meth:`examine`."""
        import tempfile

        if self.examine():
            return
        if self._wal_bytes() and not self.examine():
            raise BrokerUnavailable(
                f"{self.path.name}-wal is left of a file that is gone",
                where=self.where,
                why="a new file would take its pages for its own",
                hint="put the old file back, or remove the -wal",
            )
        with self.mapped("the file cannot be made"):
            handle, name = tempfile.mkstemp(".new", f".{self.path.name}.", self.path.parent)
            os.close(handle)
            try:
                with closing(sqlite3.connect(name, isolation_level=None)) as connection:
                    connection.execute("PRAGMA page_size = 4096")
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
                    connection.executescript(_SCHEMA)
                with suppress(FileExistsError):
                    self._place(name)
            finally:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
        deadline = time.monotonic() + 1.0
        while not self.path.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.005)  # the winner, on a file system without links, is about to fill it
        self.examine()

    def _place(self, name: str) -> None:
        try:
            os.link(name, self.path)
        except FileExistsError:
            raise
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
                raise
            # No hard links here (FAT): who makes the empty file wins the right to replace it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            Path(name).replace(self.path)

    def connect(self) -> Connection:
        """An open connection in autocommit mode, its schema read. Raises sqlite3.Error,
        BrokerUnavailable, NotFound where the file is missing."""
        url = "file://" + quote_from_bytes(os.fsencode(self.path)) + "?mode=rw"
        with _GUARD:
            if not self.examine():
                raise self.missing()
            connection = sqlite3.connect(
                url, timeout=0.05, isolation_level=None, factory=Connection, uri=True
            )
            try:
                (found,) = connection.execute("PRAGMA user_version").fetchone()
                connection.identity = self.identity()
                if connection.identity is not None:
                    _OPEN[connection.identity] += 1
                self._check_format(found)
                connection.execute("SELECT id FROM topics WHERE id = 0").fetchone()
            except BaseException:
                connection.close()
                raise
        return connection

    def _retry(self, deadline: float) -> Connection | None:
        """A connection, or None when a lock is in the way. Raises what :meth:`mapped` makes of
        errors, at the deadline TryAgainLater."""
        try:
            with self.mapped("the file cannot be opened"):
                return self.connect()
        except TryAgainLater:
            if time.monotonic() >= deadline:
                raise
            return None

    def connect_within(self, wait: float) -> Connection:
        """Opening can meet a lock: while the last user of the file closes it. Up to ``wait``
        seconds are spent on that, blocking the thread."""
        deadline = time.monotonic() + wait
        while (connection := self._retry(deadline)) is None:
            time.sleep(0.005)
        return connection

    async def reader(self) -> Connection:
        """A connection for reading on the event loop's own thread.

        Reading a WAL waits for nobody, and SQLite hands over a row at a time, which in a second
        thread would cost a switch of threads for each. Raises NotFound where the file is missing.
        """
        deadline = time.monotonic() + self.lock_timeout
        while (connection := self._retry(deadline)) is None:  # noqa: ASYNC110, no event tells
            await asyncio.sleep(0.005)
        connection.execute("PRAGMA query_only = 1")
        return connection


class SqliteBroker(Broker):
    """The embedded broker as a whole: one file."""

    Connection = SqliteConnection

    async def open(self) -> None:
        """Reads the header of the file. Raises NotFound where it is missing, and what
        ``File.examine`` raises."""
        self._file = File(self.target)
        if not self._file.examine():
            raise self._file.missing()

    async def aclose(self) -> None:
        """Nothing stays open between the calls."""

    async def ping(self) -> dict[str, Any]:
        """Opens the file and reads from it."""
        with (
            self._file.mapped("the file cannot be read"),
            closing(await self._file.reader()) as reader,
        ):
            ((topics,),) = reader.execute("SELECT count(*) FROM topics")
            ((mode,),) = reader.execute("PRAGMA journal_mode")
        return {
            "broker": f"embedded, SQLite {sqlite3.sqlite_version}",
            "file": str(self._file.path),
            "format": FORMAT,
            "journal": mode,
            "topics": topics,
        }

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """All topics, with the number of messages each keeps."""
        if kind not in (None, "topic"):
            return []
        with (
            self._file.mapped("the file cannot be read"),
            closing(await self._file.reader()) as reader,
        ):
            rows = reader.execute("SELECT name, next - first FROM topics").fetchall()
        return sorted(
            (Entry("topic", shown_name(name), count) for name, count in rows),
            key=lambda entry: entry.name,
        )
