"""What a Redis says when it will not: each has its exit code, one line, and a way out."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.brokers.process import free_port, wait_until
from tests.brokers.redis import RedisServer
from tests.brokers.tls import Certificates
from tests.cli.support import Cli, finish, until

from .support import Clock, Output, Started, account

SECRET = "s3cret-w0rd"


def readonly(server: RedisServer) -> str:
    server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
    return "read-only replica"


def full(server: RedisServer) -> str:
    server.cli("CONFIG", "SET", "maxmemory", "1")
    return "maxmemory"


def cannot_save(server: RedisServer) -> str:
    (server.folder / "dump.rdb").mkdir()
    server.cli("CONFIG", "SET", "save", "3600 1000000")
    server.cli("BGSAVE")
    wait_until(
        lambda: b"rdb_last_bgsave_status:err" in server.cli("INFO", "persistence"), "a failed save"
    )
    return "cannot save to disk"


def too_few_replicas(server: RedisServer) -> str:
    server.cli("CONFIG", "SET", "min-replicas-to-write", "3")
    return "min-replicas-to-write"


@pytest.mark.parametrize("state", [readonly, full, cannot_save, too_few_replicas])
def test_refused_for_now(cli: Cli, started: Started, fresh: str, state: object) -> None:
    # Given a server in that state
    server: RedisServer = started(RedisServer)
    assert callable(state)
    hint = state(server)
    for kind in ("list", "stream"):
        # When messages are published
        clock = Clock()
        result = cli("publish", f"{server.url}/{kind}:{fresh}-{kind}", "1", "2", "3", "--retry")
        # Then all are refused at once with 75 and a hint, and none is unknown
        assert result.code == 75, result
        assert clock() < 5
        assert account(result)[:4] == (3, 0, 3, 0)
        assert hint in result.err, result
        assert "Traceback" not in result.err
        # And nothing is there
        assert server.cli("EXISTS", f"{fresh}-{kind}") == 0
    # And the server can be looked at all the same
    cli("ls", server.url).ok()
    cli("describe", f"{server.url}/list:{fresh}").ok()


def test_too_many_clients(cli: Cli, started: Started, fresh: str) -> None:
    # Given a server whose places are taken
    server: RedisServer = started(RedisServer)
    server.cli("CONFIG", "SET", "maxclients", "1")
    with socket.create_connection(("127.0.0.1", server.port)):
        until(lambda: cli("ping", server.url).code == 75)
        # When one more comes
        for words in (["publish", "list", "x"], ["consume", "list"], ["tail", "channel"]):
            result = cli(words[0], f"{server.url}/{words[1]}:{fresh}", *words[2:])
            # Then it is told to try again later
            result.fails(75, "maxclients")


@pytest.fixture(scope="module")
def locked() -> object:
    server = RedisServer(
        f"requirepass {SECRET}",
        f"user reader on >{SECRET} ~* &* +@read +@connection +client",
        login=["--no-auth-warning", "-a", SECRET],
    )
    server.start()
    yield server
    server.stop()


VERBS = [
    ["publish", "list", "v"],
    ["publish", "channel", "v"],
    ["consume", "list"],
    ["consume", "stream", "-g", "g"],
    ["tail", "channel"],
    ["tail", "pattern"],
    ["describe", "stream"],
    ["delete", "list", "--yes"],
    ["ping"],
    ["ls"],
]


@pytest.mark.parametrize("login", ["", ":wr0ng@", "nobody:wr0ng@"])
def test_a_wrong_login(cli: Cli, locked: RedisServer, fresh: str, login: str) -> None:
    url = f"redis://{login}127.0.0.1:{locked.port}"
    for n, words in enumerate(VERBS if login == ":wr0ng@" else VERBS[::3]):
        place = f"{url}/{words[1]}:{fresh}" if len(words) > 1 else url
        debug = ["--debug"] if n % 2 else []
        # When a verb is used with none or a wrong one
        result = cli(words[0], place, *words[2:], *debug)
        # Then it is refused with 77, and no password is in any output
        assert result.code == 77, (words, result)
        assert debug or len(result.lines) == 1, (words, result)
        assert "wr0ng" not in result.err
        assert ("NOAUTH" if not login else "WRONGPASS") in result.err, (words, result)


def test_a_user_without_the_right(cli: Cli, locked: RedisServer, fresh: str) -> None:
    # Given a user who may only read
    url = f"redis://reader:{SECRET}@127.0.0.1:{locked.port}"
    for kind in ("list", "stream", "channel"):
        # When that user publishes
        result = cli("publish", f"{url}/{kind}:{fresh}", "v", "w")
        # Then it is refused with 77, naming what was not permitted and whom to ask
        assert result.code == 77, result
        assert "NOPERM" in result.err
        assert "ACL" in result.err
        assert SECRET not in result.err
        assert account(result)[:4] == (2, 0, 2, 0)
    # And taking from a list, which needs more than reading, likewise
    cli("consume", f"{url}/list:{fresh}").fails(77, "NOPERM")


@pytest.mark.parametrize("verb", ["consume", "tail"])
def test_a_login_that_is_taken_away(cli: Cli, started: Started, fresh: str, verb: str) -> None:
    # Given a reader that logged in as a user
    server: RedisServer = started(RedisServer)
    server.cli("ACL", "SETUSER", "worker", "on", f">{SECRET}", "~*", "&*", "+@all")
    server.cli("RPUSH", fresh, "first")
    kind = "list" if verb == "consume" else "channel"
    address = f"redis://worker:{SECRET}@127.0.0.1:{server.port}/{kind}:{fresh}"
    with cli.start(verb, address) as process:
        output = Output(process.stdout)
        if verb == "tail":
            until(lambda: server.cli("PUBLISH", fresh, "first") == 1)
        output.expect(b"first\n")
        # When the user is deleted, which ends the connection
        server.cli("ACL", "DELUSER", "worker")
        result = finish(process)
    # Then it does not try for long
    assert result.code == 77, result
    assert "WRONGPASS" in result.err
    assert SECRET not in result.err


def test_a_password_is_on_no_command_line(cli: Cli, locked: RedisServer, fresh: str) -> None:
    # Given a reader whose password came from the environment
    address = f"redis://127.0.0.1:{locked.port}/channel:{fresh}"
    cli.env["MQCLI_PASSWORD"] = SECRET
    with cli.start("tail", address, "--debug") as process:
        until(lambda: locked.cli("PUBLISH", fresh, "x") == 1)
        # Then it is neither in its command line nor in what the server is told of it
        with open(f"/proc/{process.pid}/cmdline", "rb") as line:
            assert SECRET.encode() not in line.read()
        assert SECRET.encode() not in locked.cli("CLIENT", "LIST")
        process.send_signal(signal.SIGINT)
        assert SECRET not in finish(process).err


@pytest.fixture(scope="module")
def secure() -> object:
    server = RedisServer(tls=True)
    server.start()
    yield server
    server.stop()


def test_tls(cli: Cli, secure: RedisServer, fresh: str) -> None:
    # Given a server with a certificate for localhost of its own authority
    assert secure.certificates is not None
    trusted = ["-O", f"ssl_ca_certs={secure.certificates.ca}"]
    good = f"rediss://localhost:{secure.port}/list:{fresh}"
    # When the authority is named, then it is trusted
    cli("publish", good, "1", *trusted).ok()
    # When it is not, or the host is not the certificate's, or the authority is another's
    (cli.home / "other").mkdir()
    other = ["-O", f"ssl_ca_certs={Certificates(cli.home / 'other').ca}"]
    wrong_host = f"rediss://127.1:{secure.port}/list:{fresh}"  # resolves, and is not in it
    # Then each is refused with the reason
    cli("publish", good, "2").fails(69, "not trusted", "--insecure")
    cli("publish", good, "2", *other).fails(69, "not trusted", "--insecure")
    cli("consume", good).fails(69, "not trusted")
    cli("publish", wrong_host, "2", *trusted).fails(69, "not trusted", "127.1", "--insecure")
    # And --insecure alone passes, with a warning that says so
    passed = cli("publish", good, "3", "--insecure").ok()
    assert "not verified" in passed.err, passed
    assert secure.cli("LRANGE", fresh, "0", "-1") == [b"1", b"3"]


def test_tls_where_there_is_none_and_none_where_there_is(
    cli: Cli, secure: RedisServer, started: Started, fresh: str
) -> None:
    plain: RedisServer = started(RedisServer)
    short = ["--connect-timeout", "2s"]
    # When TLS is spoken to a plain port, and nothing but text to one with TLS
    for kind, verb in (("list", ["publish", "x"]), ("channel", ["tail"])):
        upper = cli(verb[0], f"rediss://localhost:{plain.port}/{kind}:{fresh}", *verb[1:], *short)
        lower = cli(verb[0], f"redis://localhost:{secure.port}/{kind}:{fresh}", *verb[1:], *short)
        # Then both are refused, and each is told what to write
        upper.fails(69, "redis:// in place of rediss://")
        lower.fails(69, "rediss:// in place of redis://")
