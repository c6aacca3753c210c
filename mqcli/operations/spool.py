"""Input kept on disk until its end is known: an open transaction holds up all who read."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import IO

from ..errors import OutputError
from .publish import Source

__all__ = ["Spooled"]

_CHUNK = 1 << 20


class Spooled:
    """A source that is read to its end, into a file without a name, before it gives anything."""

    def __init__(self, source: Source) -> None:
        self._source, self.name = source, source.name
        self._file: IO[bytes] | None = None

    async def spool(self) -> None:
        """Read all. Raises InputError, OutputError where there is no room for it."""
        try:
            self._file = tempfile.TemporaryFile(prefix="mqcli-")  # noqa: SIM115
            while data := await self._source.read():
                await asyncio.to_thread(self._file.write, data)
            await asyncio.to_thread(self._file.flush)
            self._file.seek(0)
        except OSError as exc:
            raise OutputError(
                "the input cannot be kept until its end",
                where=tempfile.gettempdir(),
                why=exc.strerror or str(exc),
                hint="TMPDIR names another folder",
            ) from exc

    async def read(self) -> bytes:
        """The next bytes; ``spool`` comes first."""
        assert self._file is not None
        data = await asyncio.to_thread(os.read, self._file.fileno(), _CHUNK)
        if not data:
            self._file.close()
        return data
