"""The sample plugin, installed as a user would, in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqcli import registry

SAMPLE = Path(__file__).parents[1] / "plugin_sample"


@pytest.fixture(scope="session")
def memo_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder the plugin is installed in; it is on ``sys.path`` for the rest of the session."""
    site = tmp_path_factory.mktemp("site")
    # Without network: its build tool, hatchling, is one of the test requirements.
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
         "--no-index", "--disable-pip-version-check", "--target", str(site), str(SAMPLE)],
        check=True, timeout=120,
    )  # fmt: skip
    sys.path.insert(0, str(site))
    registry._plugins.cache_clear()
    yield site
    sys.path.remove(str(site))
    registry._plugins.cache_clear()
