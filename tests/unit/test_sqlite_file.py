"""The embedded broker's file: made at one stroke and private, refused untouched when not ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mqcli.address import BrokerURL
from mqcli.errors import (
    BrokerUnavailable,
    ConnectionLost,
    MqcliError,
    NotFound,
    TryAgainLater,
    UsageError,
)
from mqcli.message import Message
from mqcli.registry import broker_target
from mqcli.transport import Span
from mqcli.transports._sqlite import FORMAT, SqliteBroker
from mqcli.transports.sqlite_topic import SqliteTopic

from . import sqlite_support
from .sqlite_support import (
    child,
    consume,
    make,
    numbers,
    opened,
    publish,
    read,
    run,
    until,
    values,
)

reaped = sqlite_support.reaped


def broker(file: Path) -> SqliteBroker:
    cls, made = broker_target(BrokerURL("sqlite", path=tuple(str(file).split("/"))))
    assert cls is SqliteBroker
    return SqliteBroker(made)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def inode(file: str) -> int:
    return Path(file).stat().st_ino


async def with_open(file: Path, action: Callable[[SqliteTopic], Any]) -> Any:
    async with opened(file) as transport:
        return await action(transport)


ACTIONS: dict[str, Callable[[SqliteTopic], Any]] = {
    "publish": lambda t: t.publish([Message(b"x")], 1),
    "create": lambda t: t.create(),
    "consume": lambda t: t.subscribe(Span(), None, None),
    "group": lambda t: t.subscribe(Span(), "g", None),
    "tail": lambda t: t.tail(Span()),
    "describe": lambda t: t.describe(None),
    "purge": lambda t: t.purge(),
    "delete": lambda t: t.delete(),
}
READING = ["consume", "group", "tail", "describe", "purge", "delete"]


def test_a_new_file_is_private_and_alone(tmp_path: Path) -> None:
    # Given a umask that would let everybody read
    file = tmp_path / "b.db"
    before = os.umask(0)
    try:
        # When a message is published
        run(publish(file, b"hello"))
    finally:
        os.umask(before)
    # Then there is one file, for its owner only, and the message is in it
    assert names(tmp_path) == ["b.db"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run(read(file)) == [b"hello"]
    assert names(tmp_path) == ["b.db"]


def test_while_open_what_stands_beside_it_is_private_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "b.db") as transport:
            await transport.publish([Message(b"x")], 10)
            assert names(tmp_path) == ["b.db", "b.db-shm", "b.db-wal"]
            assert modes(tmp_path) == {0o600}

    run(main())


@pytest.mark.parametrize("action", READING)
def test_reading_a_missing_file_creates_nothing(tmp_path: Path, action: str) -> None:
    with pytest.raises(NotFound):
        run(with_open(tmp_path / "b.db", ACTIONS[action]))
    assert names(tmp_path) == []
    assert run(with_open(tmp_path / "b.db", lambda t: t.exists())) is False
    assert names(tmp_path) == []


@pytest.mark.parametrize("action", READING)
def test_reading_a_missing_topic_creates_nothing(tmp_path: Path, action: str) -> None:
    # Given a file with another topic
    file = tmp_path / "b.db"
    run(publish(file, b"x", topic="other"))
    before = file.read_bytes()
    # When a topic that is not there is read
    with pytest.raises(NotFound):
        run(with_open(file, ACTIONS[action]))
    # Then the file is as it was
    assert run(with_open(file, lambda t: t.exists())) is False
    assert (names(tmp_path), file.read_bytes()) == (["b.db"], before)


def other_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE topics (id)")


def ours(file: Path) -> None:
    run(publish(file, *numbers(0, 2000)))


def newer(file: Path) -> None:
    ours(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")


def truncated(file: Path) -> None:
    ours(file)
    os.truncate(file, file.stat().st_size // 2)


def cut_header(file: Path) -> None:
    ours(file)
    os.truncate(file, 50)


def bad_page_size(file: Path) -> None:
    ours(file)
    with file.open("r+b") as handle:
        handle.seek(16)
        handle.write(b"\x12\x34")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda file: file.write_bytes(b"hello\n" * 100), UsageError, "no SQLite database"),
        (lambda file: file.touch(), UsageError, "it is empty"),
        (other_program, UsageError, "another program"),
        (newer, BrokerUnavailable, "newer mqcli"),
        (truncated, BrokerUnavailable, "damaged"),
        (cut_header, BrokerUnavailable, "damaged"),
        (bad_page_size, BrokerUnavailable, "damaged"),
    ],
    ids=["text", "empty", "other", "newer", "truncated", "cut", "page-size"],
)
def test_a_file_that_is_not_fit_is_refused_and_never_touched(
    tmp_path: Path, action: str, spoil: Callable[[Path], Any], error: type[MqcliError], words: str
) -> None:
    # Given a file that is not ours, damaged, or of a newer format
    file = tmp_path / "b.db"
    spoil(file)
    before, stamp = file.read_bytes(), file.stat().st_mtime_ns
    # When it is used
    with pytest.raises(error, match=words) as caught:
        run(with_open(file, ACTIONS[action]))
    # Then one line says why, and neither it nor what is beside it has changed
    assert str(file) in str(caught.value)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, stamp)
    assert names(tmp_path) == ["b.db"]


def test_damage_deep_inside_is_told(tmp_path: Path) -> None:
    # Given a file whose header is right and whose pages are not
    file = tmp_path / "b.db"
    ours(file)
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    file.write_bytes(data)
    # When it is read, then the damage is named
    with pytest.raises(BrokerUnavailable, match="damaged"):
        run(read(file))


@pytest.mark.parametrize("name", ["d", "no/b.db", "f"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "f")
    with pytest.raises((UsageError, NotFound)):
        run(with_open(tmp_path / name, ACTIONS["publish"]))
    assert names(tmp_path) == ["d", "f"]


def test_names_that_are_not_text(tmp_path: Path) -> None:
    # Given names with a byte that is not UTF-8, a question mark, a percent sign and a space
    file = tmp_path / os.fsdecode(b"a\xff?mode=memory %41#.db")
    odd = os.fsdecode(b"t\xfe\x00'\"")

    async def main() -> None:
        async with opened(file, odd) as transport:
            await transport.publish([Message(b"x")], 10)
            feed = await transport.subscribe(Span(), odd, None)
            messages = await feed.receive(10, 100, 5)
            assert await feed.ack(messages) == 1
            described = await transport.describe(odd)
            assert described["groups"][0]["name"] == odd
        whole = broker(file)
        await whole.open()
        assert [(e.name, e.messages) for e in await whole.ls(None)] == [(odd, 1)]
        await whole.aclose()

    # When they are used, then they are names like any other
    run(main())
    assert names(tmp_path) == [file.name]


def test_a_broken_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no file"):
        make(tmp_path / "a\0b")


def test_a_wal_left_of_a_file_that_is_gone_is_not_taken_for_a_new_ones(tmp_path: Path) -> None:
    # Given a WAL with messages whose file was removed
    file = tmp_path / "b.db"

    async def main() -> None:
        async with opened(file) as transport:
            await transport.publish([Message(b"old")], 10)
            shutil.copy(f"{file}-wal", tmp_path / "kept")

    run(main())
    file.unlink()
    (tmp_path / "kept").rename(f"{file}-wal")
    # When something is published
    outcome = run(with_open(file, ACTIONS["publish"]))
    # Then it is refused, and the WAL stays
    assert outcome.confirmed == 0
    assert "is left of a file" in str(outcome.refused[0])
    assert names(tmp_path) == ["b.db-wal"]


def test_many_processes_make_the_file_and_the_topic_at_once(tmp_path: Path) -> None:
    # Given processes that wait at the same line
    code = "sys.stdin.readline()\nasyncio.run(publish(Path(sys.argv[1]), sys.argv[2].encode()))"
    file = tmp_path / "b.db"
    children = [child(code, file, i) for i in range(6)]
    # When all start
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    # Then each one's message is there, and nothing else
    for process in children:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert sorted(run(read(file))) == sorted(numbers(0, 6))
    assert names(tmp_path) == ["b.db"]


def test_without_hard_links_the_file_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file system that has none (the answer of FAT)
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    # When a message is published, then the file is whole and private
    run(publish(tmp_path / "b.db", b"x"))
    assert run(read(tmp_path / "b.db")) == [b"x"]
    assert stat.S_IMODE((tmp_path / "b.db").stat().st_mode) == 0o600
    assert names(tmp_path) == ["b.db"]


def test_a_lock_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    ours(file)

    async def main() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            async with opened(file, lock_timeout="50ms") as transport:
                # Given another writer that holds the lock
                other.execute("BEGIN IMMEDIATE")
                # When the wait is over
                outcome = await transport.publish([Message(b"x"), Message(b"y")], 0.05)
                # Then all are refused for now, and reading goes on meanwhile
                assert (outcome.confirmed, sorted(outcome.refused)) == (0, [0, 1])
                assert isinstance(outcome.refused[0], TryAgainLater)
                with pytest.raises(TryAgainLater, match="locked"):
                    await transport.purge()
                assert len(await consume(file)) == 2000
                # When the lock is given up during the wait, then it succeeds
                waiting = asyncio.create_task(transport.publish([Message(b"z")], 10))
                await until(lambda: transport._writer is not None, "the thread")
                assert not waiting.done()
                other.execute("COMMIT")
                assert (await waiting).confirmed == 1
        assert (await read(file))[2000:] == [b"z"]

    run(main())


def test_a_disk_that_is_full_stores_nothing_of_a_batch(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    ours(file)

    async def main() -> None:
        async with opened(file) as transport:
            await transport.publish([Message(b"x")], 10)
            # Given no room for more pages
            writer = transport._writer
            assert writer is not None
            await writer.submit(_no_room, 10)
            # When a large batch is published
            outcome = await transport.publish([Message(bytes(10_000))] * 50, 10)
            # Then it is refused as a whole, for now
            assert (outcome.confirmed, len(outcome.refused), list(outcome.unknown)) == (0, 50, [])
            assert isinstance(outcome.refused[0], TryAgainLater)
        assert len(await read(file)) == 2001

    def _no_room(connection: sqlite3.Connection) -> None:
        ((pages,),) = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages}")

    run(main())


def test_a_removed_file_is_noticed_by_writers_and_waiting_readers(tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    ours(file)

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            await transport.publish([Message(b"x")], 10)
            assert values(await feed.receive(1, 100, 5)) == [b"x"]
            # When the file is moved away
            file.rename(tmp_path / "moved")
            # Then nobody goes on confirming or waiting as if it were there
            with pytest.raises(ConnectionLost):
                await transport.publish([Message(b"y")], 10)
            with pytest.raises(ConnectionLost):
                await feed.receive(1, 100, 30)
            assert not file.exists()

    run(main())


def test_a_publisher_killed_midway_leaves_whole_batches(tmp_path: Path) -> None:
    # Given a process that publishes batches of 500 without end
    file = tmp_path / "b.db"
    code = (
        "async def main():\n"
        "    async with opened(Path(sys.argv[1])) as t:\n"
        "        for n in range(10**9):\n"
        "            assert (await t.publish([Message(b'%d' % n)] * 500, 10)).confirmed == 500\n"
        "            print(n, flush=True)\n"
        "asyncio.run(main())"
    )
    process = child(code, file)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "20\n":
            break
    # When it is killed
    process.kill()
    rest = process.communicate(timeout=30)[0].split()
    # Then every confirmed batch is there, and only whole ones
    confirmed = int(rest[-1]) + 1 if rest else 21
    found = run(read(file))
    assert len(found) % 500 == 0
    batches = len(found) // 500
    assert found == [b"%d" % n for n in range(batches) for _ in range(500)]
    assert confirmed <= batches <= confirmed + 1
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_saturating_publishers_both_go_on(tmp_path: Path) -> None:
    # Given two processes that publish 40 batches each as fast as they can
    file = tmp_path / "b.db"
    code = (
        "async def main():\n"
        "    async with opened(Path(sys.argv[1])) as t:\n"
        "        for n in range(40):\n"
        "            batch = [Message(b'%s-%d-%d' % (sys.argv[2].encode(), n, i))\n"
        "                for i in range(1000)]\n"
        "            assert (await t.publish(batch, 10)).confirmed == 1000\n"
        "asyncio.run(main())"
    )
    children = [child(code, file, name) for name in "ab"]
    for process in children:
        process.communicate(timeout=60)
        assert process.returncode == 0
    # Then all is there, each one's in its order, offsets dense
    messages = run(consume(file))
    assert [m.position for m in messages] == [str(i) for i in range(80_000)]
    for name in (b"a", b"b"):
        mine = [v for v in values(messages) if v.startswith(name)]
        assert mine == [b"%s-%d-%d" % (name, n, i) for n in range(40) for i in range(1000)]


def test_the_broker_as_a_whole(tmp_path: Path) -> None:
    async def main() -> None:
        # Given no file
        file = tmp_path / "b.db"
        with pytest.raises(NotFound):
            await broker(file).open()
        # When topics were published to
        await publish(file, b"1", b"2", topic="b")
        await publish(file, b"1", topic="a")
        whole = broker(file)
        await whole.open()
        # Then they are listed by name with their messages, and pinging says what it is
        assert [(e.kind, e.name, e.messages) for e in await whole.ls("topic")] == [
            ("topic", "a", 1),
            ("topic", "b", 2),
        ]
        assert await whole.ls("queue") == []
        answer = await whole.ping()
        assert sqlite3.sqlite_version in answer["broker"]
        assert (answer["file"], answer["format"], answer["topics"]) == (str(file), FORMAT, 2)
        await whole.aclose()

    run(main())


def test_opening_again_drops_no_lock_of_an_open_reader(tmp_path: Path) -> None:
    # Given a reader in this process, and a second look at the same file, whose descriptor is closed
    file = tmp_path / "b.db"
    run(publish(file, b"0"))

    async def main() -> None:
        async with opened(file) as transport:
            feed = await transport.tail(Span())
            async with opened(file) as other:
                assert await other.exists()
            wal = inode(f"{file}-wal")
            # When another process comes and goes
            code = "asyncio.run(publish(Path(sys.argv[1]), b'1'))"
            process = await asyncio.to_thread(child, code, file)
            await asyncio.to_thread(process.communicate)
            assert process.returncode == 0
            # Then it did not take itself for the last user and remove what is still in use
            assert inode(f"{file}-wal") == wal
            assert values(await feed.receive(10, 100, 5)) == [b"1"]
            await transport.publish([Message(b"2")], 10)
            assert values(await feed.receive(10, 100, 5)) == [b"2"]
        assert await read(file) == numbers(0, 3)

    run(main())
