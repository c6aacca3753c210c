"""A Redis server as a whole: ``ping`` and ``ls``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from ..broker import Broker, Entry
from ..errors import ConnectionLost
from ..transport import Target
from ._redis import RedisLink, RedisOptions
from ._redis_packing import pack


class RedisBroker(Broker):
    """A Redis server, or all masters of a cluster."""

    Connection = RedisOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._link = RedisLink(target)

    async def open(self) -> None:
        await self._link.open()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def ping(self) -> dict[str, Any]:
        timeout = self.target.connect_timeout
        got, cause = await self._link.exchange(pack("PING") + pack("INFO"), 2, timeout)
        if len(got) < 2:
            raise cause or ConnectionLost("no answer", where=self._link.where)
        if isinstance(got[0], ReplyError):
            raise self._link.error(got[0])
        told: dict[str, Any] = {"server": "redis"}
        if isinstance(got[1], bytes):  # INFO may be forbidden where PING is not
            lines = (
                line.partition(":") for line in got[1].decode("utf-8", "replace").split("\r\n")
            )
            info = {name: value for name, _, value in lines}
            for name in ("redis_version", "redis_mode", "role", "os", "used_memory_human"):
                if name in info:
                    told[name.removeprefix("redis_")] = info[name]
            for name in ("uptime_in_seconds", "connected_clients"):
                if info.get(name, "").isdigit():
                    told[name] = int(info[name])
        return told

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """Streams and lists with their lengths, channels with their subscribers; a pattern cannot
        be listed, and a channel without a subscriber does not exist."""
        found: dict[tuple[str, bytes], Entry] = {}
        nodes: list[tuple[str, int] | None] = [*self._link.masters] or [None]
        for node in nodes:
            link = self._link if node is None else await self._link.sibling(node)
            for each, length in (("stream", "XLEN"), ("list", "LLEN")):
                if kind in (None, each):
                    await self._scan(link, each, length, found)
            if kind in (None, "channel"):
                await self._channels(link, found)
        return sorted(found.values(), key=lambda entry: (entry.kind, entry.name))

    async def _scan(
        self, link: RedisLink, kind: str, length: str, found: dict[tuple[str, bytes], Entry]
    ) -> None:
        cursor, timeout = b"0", self.target.connect_timeout
        while True:
            cursor, keys = await link.call(
                "SCAN", cursor, "COUNT", 1000, "TYPE", kind, timeout=timeout
            )
            packed = b"".join(pack(length, key) for key in keys)
            counts, cause = await link.exchange(packed, len(keys), timeout) if keys else ([], None)
            if cause is not None:
                raise cause
            for key, count in zip(keys, counts, strict=True):
                name = key.decode("utf-8", "surrogateescape")
                known = None if isinstance(count, ReplyError) else count
                if known != 0 or kind == "stream":  # a list that emptied meanwhile is gone
                    found[kind, key] = Entry(kind, name, known)
            if cursor == b"0":
                return

    async def _channels(self, link: RedisLink, found: dict[tuple[str, bytes], Entry]) -> None:
        timeout = self.target.connect_timeout
        names = await link.call("PUBSUB", "CHANNELS", timeout=timeout)
        if names:
            counts = await link.call("PUBSUB", "NUMSUB", *names, timeout=timeout)
            for name, count in zip(counts[::2], counts[1::2], strict=True):
                known = found.get(("channel", name))
                total = count + (known.detail["subscribers"] if known else 0)
                text = name.decode("utf-8", "surrogateescape")
                found["channel", name] = Entry("channel", text, None, {"subscribers": total})
