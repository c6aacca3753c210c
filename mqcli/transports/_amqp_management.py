"""RabbitMQ's management API, for what AMQP cannot list or tell. It is a plugin, and may be absent,
elsewhere, or closed to this user: whoever asks must be able to do without, or say so."""

from __future__ import annotations

import asyncio
import base64
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ..broker import Entry
from ..errors import AccessDenied, BrokerUnavailable, MqcliError, UsageError
from ..transport import Target
from ._amqp import login_of, tls_of, vhost_of

__all__ = ["Management"]

_SECONDS = 5.0
_QUEUE = (
    "type", "state", "messages", "messages_ready", "messages_unacknowledged", "consumers",
    "durable", "auto_delete", "exclusive", "arguments", "policy", "node", "leader", "members",
    "online", "memory", "message_bytes", "idle_since",
)  # fmt: skip
_EXCHANGE = ("type", "durable", "auto_delete", "internal", "arguments", "policy")


class Management:
    """Questions to the API, as the user of the broker's URL."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._vhost = quote(vhost_of(target), safe="")

    def _bases(self) -> list[tuple[str, str, str]]:
        """(URL, user, password) to try in turn."""
        given = self._target.connection.management
        if given is not None:
            parts = urlsplit(given)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(
                    "the option management is not a URL", hint="write http://HOST:15672"
                )
            authority = parts.netloc.rpartition("@")[2]
            base = f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"
            if parts.username is not None:
                return [(base, unquote(parts.username), unquote(parts.password or ""))]
            return [(base, *login_of(self._target))]
        url = self._target.address.broker
        assert url is not None
        scheme, port = ("https", 15671) if url.scheme == "amqps" else ("http", 15672)
        names = [f"[{host.name}]" if ":" in host.name else host.name for host in url.hosts]
        return [(f"{scheme}://{name}:{port}", *login_of(self._target)) for name in names]

    async def get(self, path: str) -> Any:
        """The decoded answer. Raises BrokerUnavailable where the API does not answer, or does not
        know what AMQP knows (so it is another one), AccessDenied."""
        error: MqcliError | None = None
        for base, user, password in self._bases():
            try:
                raw = await asyncio.to_thread(self._fetch, base, user, password, path)
                return msgspec.json.decode(raw)
            except BrokerUnavailable as exc:
                error = exc
            except msgspec.DecodeError as exc:
                error = _silent(base, f"its answer is not JSON: {exc}")
        assert error is not None
        raise error

    def _fetch(self, base: str, user: str, password: str, path: str) -> bytes:
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(base + path, headers={"Authorization": f"Basic {token}"})
        context = tls_of(self._target) if base.startswith("https") and self._tls else None
        seconds = min(_SECONDS, self._target.connect_timeout)
        try:
            with urllib.request.urlopen(request, timeout=seconds, context=context) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code in (401, 403):
                raise AccessDenied(
                    "the management API refused the login",
                    where=base,
                    why=f"{exc.code} {exc.reason}",
                    hint="the user needs the tag management",
                ) from exc
            raise _silent(base, f"{exc.code} {exc.reason}") from exc
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", exc)
            raise _silent(base, str(getattr(reason, "strerror", None) or reason)) from exc

    @property
    def _tls(self) -> bool:
        url = self._target.address.broker
        return url is not None and url.scheme == "amqps"

    async def ls(self, kind: str | None) -> Sequence[Entry]:
        """All queues, streams and exchanges of the virtual host."""
        found: list[Entry] = []
        if kind in (None, "queue", "stream"):
            for queue in await self.get(f"/api/queues/{self._vhost}"):
                is_stream = queue.get("type") == "stream"
                found.append(
                    Entry(
                        "stream" if is_stream else "queue",
                        queue["name"],
                        queue.get("messages"),
                        _some(queue, ("type", "state", "consumers", "policy")),
                    )
                )
        if kind in (None, "exchange"):
            found += [
                Entry("exchange", exchange["name"], None, _some(exchange, ("type", "policy")))
                for exchange in await self.get(f"/api/exchanges/{self._vhost}")
            ]
        return sorted(
            (entry for entry in found if kind in (None, entry.kind)),
            key=lambda entry: (entry.kind, entry.name),
        )

    async def queue(self, name: str) -> dict[str, Any]:
        """What is known of a queue, with its bindings. Counts may be some seconds old."""
        path = f"/api/queues/{self._vhost}/{quote(name, safe='')}"
        found = _some(await self.get(path), _QUEUE)
        bindings = await self.get(f"{path}/bindings")
        found["bindings"] = [
            {"exchange": b["source"], **_binding(b)} for b in bindings if b["source"]
        ]
        return found

    async def exchange(self, name: str) -> dict[str, Any]:
        """What is known of an exchange, with what is bound to it."""
        path = f"/api/exchanges/{self._vhost}/{quote(name or 'amq.default', safe='')}"
        found = _some(await self.get(path), _EXCHANGE)
        bindings = await self.get(f"{path}/bindings/source")
        found["bindings"] = [
            {b["destination_type"]: b["destination"], **_binding(b)} for b in bindings
        ]
        return found

    async def tracing(self) -> bool:
        """Whether the virtual host shows its messages to the firehose."""
        return bool((await self.get(f"/api/vhosts/{self._vhost}")).get("tracing"))


def _binding(found: dict[str, Any]) -> dict[str, Any]:
    made = {"key": found["routing_key"]}
    return {**made, "arguments": found["arguments"]} if found["arguments"] else made


def _some(found: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if found.get(name) not in (None, "", {})}


def _silent(base: str, why: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        "the management API does not answer",
        where=base,
        why=why,
        hint="AMQP itself cannot list; -O management=URL says where the API is,"
        " rabbitmq-plugins enable rabbitmq_management turns it on",
    )
