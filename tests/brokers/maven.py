"""Jars from Maven Central, by the mvn on the PATH, kept in its own local repository."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from .process import Unavailable

__all__ = ["class_path", "copied", "jar"]

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>mqcli</groupId><artifactId>for-tests</artifactId><version>1</version><dependencies>
<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>
</dependencies></project>"""


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


def class_path(coordinates: str) -> str:
    """Java's class path of ``group:artifact:version`` with all that it needs; see ``copied``."""
    group, artifact, version = coordinates.split(":")
    return copied(f"{artifact}-{version}", _POM.format(group, artifact, version))


@cache
def copied(name: str, pom: str) -> str:
    """Java's class path of all that a project's file depends on, kept under ``name`` in the user's
    cache folder. Raises Unavailable without mvn or the network."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "mqcli-tests" / name
    if not folder.exists():
        if shutil.which("mvn") is None:
            raise Unavailable(f"no mvn on the PATH to get {name} from Maven Central")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Complete or not there: another process may look at any moment.
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            (Path(made) / "pom.xml").write_text(pom)
            done = subprocess.run(
                ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"],
                cwd=made, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            if done.returncode != 0:
                raise Unavailable(f"mvn could not get {name}: {done.stdout[-500:]}")
            with contextlib.suppress(OSError):
                (Path(made) / "jars").rename(folder)
    return f"{folder}/*"
