"""The sample plugin keeps the contract; the other client is the file system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from mqcli.message import Message
from mqcli.testing import Harness, TransportConformance


class MemoHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fresh(self) -> str:
        return f"memo://{self.folder}/box:t-{uuid4().hex[:12]}"

    def unreachable(self) -> str:
        return f"memo://{self.folder}/nothing/here/box:x"

    def _box(self, address: str) -> Path:
        return self.folder / address.rpartition(":")[2]

    def foreign_send(self, address: str, messages: Sequence[Message]) -> None:
        box = self._box(address)
        counter = box / ".next"
        number = int(counter.read_text()) if counter.exists() else 1
        for message in messages:
            assert message.value is not None
            new = box / ".other"
            new.write_bytes(message.value)
            new.rename(box / f"{number:012d}")
            number += 1
            new.write_text(str(number))
            new.rename(counter)

    def foreign_read(self, address: str) -> list[Message]:
        return [Message(f.read_bytes()) for f in sorted(self._box(address).glob("[0-9]*"))]

    def disrupt(self, address: str) -> bool:
        return False


class TestMemoBox(TransportConformance):
    @pytest.fixture
    def harness(self, memo_site: Path, tmp_path: Path) -> Harness:
        return MemoHarness(tmp_path)
