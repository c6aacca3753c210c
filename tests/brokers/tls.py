"""A certificate authority for one test run, made by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .process import Unavailable


class Certificates:
    """``ca``, and ``cert`` with ``key``, valid for localhost and 127.0.0.1 for a day."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise Unavailable("openssl is not on the PATH, so no certificates can be made")
        self.ca = folder / "ca.crt"
        self.cert = folder / "server.crt"
        self.key = folder / "server.key"
        ca_key, request, extra = folder / "ca.key", folder / "server.csr", folder / "extra.cnf"
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        _openssl(
            "req", "-x509", *new_key, "-keyout", ca_key, "-out", self.ca, "-days", "1",
            "-subj", "/CN=mqcli test authority",
        )  # fmt: skip
        _openssl("req", *new_key, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
            "-out", self.cert, "-days", "1", "-extfile", extra,
        )  # fmt: skip


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, stdin=subprocess.DEVNULL, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
