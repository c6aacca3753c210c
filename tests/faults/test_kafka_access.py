"""Kafka says no: tokens it does not trust, and what its ACLs do not allow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.brokers.kafka import KafkaServer
from tests.cli.support import Cli

Started = Callable[[Callable[[], Any]], Any]
_OAUTH = "org.apache.kafka.common.security.oauthbearer"
USERS = {"alice": "secret", "bob": "hunter2"}


def token(**claims: Any) -> str:
    """An unsecured JWS (RFC 7515, appendix A.5): nobody has signed it."""

    def part(fields: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(claims)}."


@pytest.fixture
def bearer(started: Started) -> KafkaServer:
    """A broker that takes OAUTHBEARER, and whose ACLs know who the tokens are about."""
    server: KafkaServer = started(
        lambda: KafkaServer(
            "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            "listener.name.out.oauthbearer.sasl.jaas.config="
            f'{_OAUTH}.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
            "listener.name.out.oauthbearer.sasl.server.callback.handler.class="
            f"{_OAUTH}.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler",
            users=USERS,
        )
    )
    return server


def test_a_token_is_a_login(cli: Cli, bearer: KafkaServer, tmp_path: Path, fresh: str) -> None:
    # Given a broker that takes tokens, and a file with one
    held = tmp_path / "token"
    now = int(time.time())
    address = f"kafka://{bearer.url.partition('@')[2]}/{fresh}"
    login = ("-O", f"oauth_token_file={held}")
    held.write_text(token(sub="carol", iat=now, exp=now + 3600) + "\n")
    # When it is valid, then everything works with it
    cli("publish", address, "--create", *login, "one", "two").ok()
    assert cli("consume", address, "-e", *login).ok().out == b"one\ntwo\n"
    assert cli("consume", address, "-e", "-g", fresh, *login).ok().out == b"one\ntwo\n"
    # When it has expired, or is none, then that is said, in the broker's words, and not the token
    for wrong in (token(sub="carol", iat=now - 7200, exp=now - 3600), "nonsense"):
        held.write_text(wrong)
        refused = cli("publish", address, *login, "x").fails(77, "login refused")
        assert wrong not in refused.err
    # and a file that is not there, or empty, is told before anything is sent
    held.write_text("")
    cli("publish", address, *login, "x").fails(2, "token")
    held.unlink()
    cli("publish", address, *login, "x").fails(2, str(held))


@pytest.fixture
def guarded(started: Started) -> KafkaServer:
    """A broker with ACLs, whose administrator is alice."""
    server: KafkaServer = started(
        lambda: KafkaServer(
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:alice;User:ANONYMOUS",
            users=USERS,
        )
    )
    return server


def allow(server: KafkaServer, *words: str) -> None:
    """By Kafka's own tool: bob may do this."""
    settings = server.folder / "admin.properties"
    settings.write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config="
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        ' username="alice" password="secret";\n'
    )
    server._java(
        "org.apache.kafka.tools.AclCommand", "--command-config", str(settings),
        "--add", "--allow-principal", "User:bob", *words,
    )  # fmt: skip


def test_what_the_acls_deny_is_77_and_named(cli: Cli, guarded: KafkaServer, fresh: str) -> None:
    # Given a topic of alice's, and bob, who may do nothing
    alice = f"{guarded.url}/{fresh}"
    bob = alice.replace("alice:secret@", "bob:hunter2@")
    cli("create", alice, "-O", "num_partitions=2").ok()
    cli("publish", alice, "one", "two").ok()
    # When he tries, then each refusal is 77, says what was denied, and where rights come from
    for args in (["publish", bob, "x"], ["consume", bob, "-e"], ["tail", bob], ["describe", bob],
                 ["purge", bob, "--yes"], ["delete", bob, "--yes"],
                 ["consume", bob, "-e", "-g", fresh]):  # fmt: skip
        refused = cli(*args)
        assert refused.code == 77, (args, refused)
        assert "TOPIC_AUTHORIZATION_FAILED" in refused.err and "ACL" in refused.err, refused
        assert "hunter2" not in refused.err and refused.out == b""
    made = cli("create", f"{bob}-new")
    assert made.code == 77 and "AUTHORIZATION_FAILED" in made.err and "ACL" in made.err, made
    # When he may look at the topic, then reading and writing are still refused
    allow(guarded, "--operation", "Describe", "--topic", fresh)
    for args in (["publish", bob, "x"], ["publish", bob, "x", "-O", "idempotent=false"],
                 ["consume", bob, "-e"], ["tail", bob, "-n", "1"]):  # fmt: skip
        refused = cli(*args)
        assert refused.code == 77 and "AUTHORIZATION_FAILED" in refused.err, (args, refused)
        assert "ACL" in refused.err, refused
    # and when he may read, his group is what is named
    allow(guarded, "--operation", "Read", "--topic", fresh)
    assert sorted(cli("consume", bob, "-e").ok().out.split()) == [b"one", b"two"]
    cli("consume", bob, "-e", "-g", fresh).fails(77, "GROUP_AUTHORIZATION_FAILED", "ACL", "group")
    # When he may write, then all of it is counted and done
    allow(guarded, "--operation", "Write", "--topic", fresh)
    allow(guarded, "--operation", "Read", "--group", fresh)
    assert "3 confirmed" in cli("publish", bob, "-v", "a", "b", "c").ok().err
    assert len(cli("consume", bob, "-e", "-g", fresh).ok().out.split()) == 5


def test_rights_that_are_taken_away_in_mid_publish(
    cli: Cli, guarded: KafkaServer, fresh: str
) -> None:
    """Every message has a fate, and the end is 77."""
    alice = f"{guarded.url}/{fresh}"
    bob = alice.replace("alice:secret@", "bob:hunter2@")
    cli("create", alice).ok()
    allow(guarded, "--operation", "Write", "--topic", fresh)
    # Given a publisher that has begun
    with cli.start("publish", bob, "--report", "json", stdin=-1) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"one\n")
        assert json.loads(process.stdout.readline())["fate"] == "confirmed"
        # When its right is taken away
        settings = guarded.folder / "admin.properties"
        guarded._java(
            "org.apache.kafka.tools.AclCommand", "--command-config", str(settings), "--remove",
            "--force", "--allow-principal", "User:bob", "--operation", "Write", "--topic", fresh,
        )  # fmt: skip
        process.stdin.write(b"two\n")
        process.stdin.close()
        fate = json.loads(process.stdout.readline())
        # Then the next one is refused for it, and that is the end
        assert process.wait(40) == 77
        said = process.stderr.read().decode()
    assert fate["fate"] == "refused" and "TOPIC_AUTHORIZATION_FAILED" in fate["why"]
    assert "1 confirmed, 1 refused, 0 unknown" in said
    assert cli("consume", alice, "-e").ok().out == b"one\n"


def mutual() -> KafkaServer:
    """A broker that wants a certificate of its clients, too."""
    server = KafkaServer("ssl.client.auth=required", tls=True)
    made = server.certificates
    assert made is not None
    server._base += ["-X", f"ssl.certificate.location={made.cert}"]
    server._base += ["-X", f"ssl.key.location={made.key}"]
    return server


def test_a_client_certificate_is_shown_where_it_is_wanted(
    cli: Cli, started: Started, fresh: str
) -> None:
    # Given a broker that wants a certificate
    server: KafkaServer = started(mutual)
    made = server.certificates
    assert made is not None
    address, ca = f"{server.url}/{fresh}", ("-O", f"ssl_ca_certs={made.ca}")
    ours = (*ca, "-O", f"ssl_certfile={made.cert}", "-O", f"ssl_keyfile={made.key}")
    # When it is shown, then everything works
    cli("publish", address, "--create", *ours, "v").ok()
    assert cli("consume", address, "-e", *ours).ok().out == b"v\n"
    # and without it, that is what is told
    refused = cli("publish", address, *ca, "x", "--connect-timeout", "5s")
    assert refused.code == 69 and "certificate" in refused.err.lower(), refused
