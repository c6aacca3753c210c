"""Jars from Maven Central, by the mvn on the PATH, kept in its own local repository."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from .process import Unavailable

__all__ = ["jar"]


@cache
def jar(coordinates: str) -> Path:
    """The file of ``group:artifact:version``. Raises Unavailable without mvn or the network."""
    if shutil.which("mvn") is None:
        raise Unavailable("no mvn on the PATH")
    group, artifact, version = coordinates.split(":")
    known = Path.home() / ".m2/repository" / group.replace(".", "/") / artifact / version
    found = known / f"{artifact}-{version}.jar"
    if found.exists():
        return found
    folder = Path(tempfile.gettempdir()) / "mqcli-test-jars"
    done = subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={coordinates}",
         f"-DoutputDirectory={folder}"],
        capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise Unavailable(f"mvn could not get {coordinates}: {done.stdout[-300:]}")
    return folder / found.name
