"""A headless Chromium, driven over its own pipe: what a page looks like where people look at it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from .process import STOP_SECONDS, Unavailable

_LIMIT = 60.0
# The browser reads from its descriptor 3 and writes to its 4; those given to the shell are above.
_PIPED = 'in=$1 out=$2; shift 2; exec "$@" 3</dev/fd/$in 4>/dev/fd/$out'
_ABOVE = 10


class Image(NamedTuple):
    """Pixels, row by row, each (red, green, blue)."""

    width: int
    height: int
    rows: list[list[tuple[int, int, int]]]

    def places(self, color: tuple[int, int, int], near: int = 48) -> dict[int, int]:
        """The highest pixel (counted from above) of this colour in each column that has one, edges
        that are smoothed included: each of red, green and blue differs by ``near`` at most."""
        alike = {
            found
            for found in set(itertools.chain.from_iterable(self.rows))
            if all(abs(a - b) <= near for a, b in zip(found, color, strict=True))
        }
        highest: dict[int, int] = {}
        for y, row in enumerate(self.rows):
            for x, found in enumerate(row):
                if found in alike:
                    highest.setdefault(x, y)
        return highest


class Chromium:
    """A browser of this test's own, with a profile that is removed. Raises Unavailable."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            raise Unavailable("chromium is not on the PATH")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        hears, self._to = _pipe()
        self._from, says = _pipe()
        argv = [
            program, "--headless", "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--force-color-profile=srgb",
        ]  # fmt: skip
        if os.getuid() == 0:  # as root it has no sandbox, and says so by not starting
            argv.append("--no-sandbox")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the browser
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _PIPED, "sh", str(hears), str(says), *argv],
            pass_fds=(hears, says), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env={**os.environ, "HOME": self._profile.name},
        )  # fmt: skip
        os.close(hears)
        os.close(says)
        self._ids = itertools.count(1)
        self._rest = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self.do("Browser.close")
        os.close(self._to)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        os.close(self._from)
        self._log.close()
        self._profile.cleanup()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the DevTools protocol; what else is told meanwhile is in
        ``events``. Raises AssertionError."""
        number = next(self._ids)
        word: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            word["sessionId"] = self._session
        data = json.dumps(word).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next(method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, waiting_for: str) -> dict[str, Any]:
        deadline = time.monotonic() + _LIMIT
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._from], [], [], left)[0]
            data = os.read(self._from, 1 << 16) if ready else b""
            if not data:
                self._log.seek(0)
                raise AssertionError((waiting_for, self._log.read()[-2000:]))
            self._rest += data
        one, _, self._rest = self._rest.partition(b"\0")
        word: dict[str, Any] = json.loads(one)
        if "id" not in word:
            self.events.append(word)
        return word

    def show(self, page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
        """Load a file into a window of this width, for eyes that like it light or dark."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900,
                deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.do("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
        self.events.clear()
        self.do("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self.names():
            self._next("Page.loadEventFired")

    def names(self) -> list[str]:
        """What has been told since the page was asked for."""
        return [event["method"] for event in self.events]

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, clip: dict[str, float] | None = None) -> bytes:
        """PNG of the whole page, or of a part: ``x``, ``y``, ``width``, ``height``."""
        parts: dict[str, Any] = {} if clip is None else {"clip": {**clip, "scale": 1}}
        done = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True, **parts)
        return base64.b64decode(done["data"])


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    above = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for end in ends]
    for end in ends:
        os.close(end)
    return above[0], above[1]


def decoded(png: bytes) -> Image:
    """The picture in a PNG of 8 bits and three or four channels, which is what browsers write."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, width, height, channels = 8, b"", 0, 0, 0
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        content = png[at + 8 : at + 8 + size]
        at += size + 12
        if kind == b"IHDR":
            width, height, depth, color, *_, interlaced = struct.unpack(">IIBBBBB", content)
            assert (depth, interlaced) == (8, 0) and color in (2, 6)
            channels = {2: 3, 6: 4}[color]
        elif kind == b"IDAT":
            packed += content
    data, row_size = zlib.decompress(packed), width * channels
    before, rows = bytearray(row_size), []
    for start in range(0, len(data), row_size + 1):
        row = _unfiltered(data[start], bytearray(data[start + 1 : start + 1 + row_size]), before,
                          channels)  # fmt: skip
        rows.append(list(zip(row[::channels], row[1::channels], row[2::channels], strict=True)))
        before = row
    return Image(width, height, rows)


def _unfiltered(kind: int, row: bytearray, above: bytearray, step: int) -> bytearray:
    """A row of a PNG (ISO 15948, 9.2) without its filter."""
    for i in range(len(row) if kind else 0):
        left = row[i - step] if i >= step else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[i]
        elif kind == 3:
            guess = (left + above[i]) // 2
        else:
            corner = above[i - step] if i >= step else 0
            sum_ = left + above[i] - corner
            guess = min((left, above[i], corner), key=lambda near: abs(sum_ - near))
        row[i] = (row[i] + guess) & 0xFF
    return row
