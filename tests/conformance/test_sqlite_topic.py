"""The embedded broker keeps the contract; the other client is SQL on its file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from mqcli.client import Client
from mqcli.message import Message, Tagged
from mqcli.testing import Harness, TransportConformance

_INSERT = "INSERT INTO topic_{} VALUES (?, ?, ?, ?, NULL, NULL)"


class SqliteHarness(Harness):
    quick_claim = (("claim_after", "500ms"),)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "broker.db"
        # The tables of the whole file; its topics are made by either side.
        asyncio.run(Client.at(f"sqlite://{self.file}/first").create())

    def fresh(self) -> str:
        return f"sqlite://{self.file}/topic:t-{uuid4().hex[:12]}"

    def unreachable(self) -> str:
        return f"sqlite://{self.folder}/nothing/here.db/topic:x"

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        name = address.rpartition(":")[2]
        with closing(sqlite3.connect(self.file, isolation_level=None, timeout=30)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            found = sql.execute("SELECT id, next FROM topics WHERE name = ?", (name,)).fetchone()
            if found is None:
                made = sql.execute("INSERT INTO topics (name) VALUES (?)", (name,)).lastrowid
                sql.execute(
                    f"CREATE TABLE topic_{made} (offset INTEGER PRIMARY KEY, timestamp INTEGER"
                    " NOT NULL, key BLOB, value BLOB, headers BLOB, properties BLOB)"
                )
                found = made, 0
            topic, next_ = found
            now = int(time.time() * 1000)
            for offset, message in enumerate(messages, next_):
                assert message.value is not None
                size = len(message.value)
                sql.execute(_INSERT.format(topic), (offset, now, message.key, message.value))
                sql.execute(
                    "INSERT INTO segments VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET bytes = bytes + ?4, high_ms = max(high_ms, ?3)",
                    (topic, offset // 1000, now, size),
                )
                sql.execute(
                    "UPDATE topics SET next = ?, largest = max(largest, ?) WHERE id = ?",
                    (offset + 1, size + 64, topic),
                )
            sql.execute("COMMIT")

    def foreign_read(self, address: str) -> list[Message]:
        name = address.rpartition(":")[2]
        with closing(sqlite3.connect(self.file, timeout=30)) as sql:
            found = sql.execute("SELECT id FROM topics WHERE name = ?", (name,)).fetchone()
            if found is None:
                return []
            rows = sql.execute(
                f"SELECT value, key, headers, properties, timestamp FROM topic_{found[0]}"
                " ORDER BY offset"
            ).fetchall()
        return [
            Message(value, key, _headers(headers), _decode(properties), timestamp)
            for value, key, headers, properties, timestamp in rows
        ]

    def disrupt(self, address: str) -> bool:
        return False


def _decode(packed: bytes | None) -> Any:
    return None if packed is None else msgspec.msgpack.decode(packed)


def _headers(packed: bytes | None) -> tuple[Any, ...]:
    pairs = _decode(packed) or ()
    return tuple((n, Tagged(v["t"], v["v"]) if isinstance(v, dict) else v) for n, v in pairs)


class TestSqliteTopic(TransportConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SqliteHarness(tmp_path)
