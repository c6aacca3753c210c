"""Workers on other machines: how a conductor and its agents meet, and agree on the time.

An agent says hello until it is answered. The conductor then asks it for its clock, many times, and
keeps the quickest answer: half of that round trip is what remains in doubt. On one host there is
one clock and no doubt. An agent that has taken part in a run belongs to its conductor, and does not
listen to another, until it is sent home or the conductor has fallen silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from ..errors import BrokerUnavailable, MqcliError, NotFound
from .conductor import Stopped
from .engine import host_identity
from .place import Place, named
from .plan import (
    Failed,
    FromWorker,
    Plan,
    Share,
    ToWorker,
    Where,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from .post import Inbox, Outbox, inbox_of, new_id
from .worker import work

__all__ = ["Meeting", "serve"]

_PINGS = 30
_HELLO_KEPT, _HELLO_LOST = 5.0, 0.3
"""Seconds between two hellos, where a destination keeps them and where it does not."""
_SILENCE = 60.0
"""Seconds without a word, once a run has begun, after which the other side is gone."""
_KEEP_ALIVE = 10.0


class Hello(msgspec.Struct, frozen=True, tag=True):
    host: str


class Ping(msgspec.Struct, frozen=True, tag=True):
    at: int


class Pong(msgspec.Struct, frozen=True, tag=True):
    """``to`` is the conductor that asked: on a stream two of them read the same inbox."""

    at: int
    mine: int
    to: str


class Word(msgspec.Struct, frozen=True, tag=True):
    """A word of a run, as workers know it; ``name`` is the destination that the load goes to."""

    data: bytes
    name: str = ""
    to: str = ""


class End(msgspec.Struct, frozen=True, tag=True):
    """Of the run, or of the meeting; an agent says the latter when it goes by itself."""

    what: Literal["run", "meeting"]


_Any: TypeAlias = Hello | Ping | Pong | Word | End
_decode = msgspec.msgpack.Decoder(_Any).decode


class _Agent:
    """An agent as the conductor knows it."""

    def __init__(self, outbox: Outbox, host: str) -> None:
        self.outbox, self.host = outbox, host
        self.rounds: list[tuple[int, int]] = []
        """(round trip, offset) of each answer, ns."""
        self.words: asyncio.Queue[bytes] = asyncio.Queue()
        self.known = asyncio.Event()
        self.gone = False
        self.silent = False
        """It is gone without a word, and cannot remove its own inbox."""


class _AgentLink:
    """One run on one agent."""

    def __init__(self, agent: _Agent, where: Where) -> None:
        self._agent, self._where = agent, where
        self.offset = self.doubt = 0
        if agent.host != host_identity():
            trip, self.offset = min(agent.rounds)
            self.doubt = trip // 2

    async def open(self) -> None:
        while not self._agent.words.empty():  # of an earlier run that broke off
            self._agent.words.get_nowait()

    async def send(self, word: ToWorker) -> None:
        name = ""
        if isinstance(word, Share):
            # Where the broker is, and the password, every agent knows for itself.
            name = word.plan.where.client().target.address.name
            where = replace(word.plan.where, address="", options=[])
            word = replace(word, plan=replace(word.plan, where=where))
        self._agent.outbox.send(encode(Word(encode(word), name)))

    async def hear(self) -> FromWorker:
        try:
            data = await asyncio.wait_for(self._agent.words.get(), _SILENCE)
        except TimeoutError:
            self._agent.gone = self._agent.silent = True
            raise BrokerUnavailable(
                "an agent has fallen silent", where=self._where.client().where
            ) from None
        word: FromWorker = decode_from_worker(data)
        return word

    async def aclose(self) -> None:
        if not self._agent.gone:
            self._agent.outbox.send(encode(End("run")))


class Meeting:
    """The conductor's side: ``async with`` waits for so many agents, and sends them home."""

    def __init__(self, where: Where, count: int, stop: asyncio.Event) -> None:
        self._where, self._count, self._stop = where, count, stop
        self._id = new_id()
        self._agents: dict[str, _Agent] = {}
        self._stack = AsyncExitStack()
        self._changed = asyncio.Event()
        self._failure: MqcliError | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Meeting:
        try:
            inbox = await self._stack.enter_async_context(Inbox(inbox_of(self._where)))
            task = asyncio.create_task(self._read(inbox))
            self._stack.push_async_callback(_ended, task)
            self._stack.push_async_callback(_ended, asyncio.create_task(self._keep_alive()))
            while len(self._present()) < self._count:
                if self._failure is not None:
                    raise self._failure
                if self._stop.is_set():
                    raise Stopped("stopped before all agents were there")
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                stopped = asyncio.ensure_future(self._stop.wait())
                await asyncio.wait((changed, stopped), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                stopped.cancel()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name, agent in self._agents.items():
            if agent.known.is_set() and not agent.gone:
                agent.outbox.send(encode(End("meeting")))
            elif agent.silent:
                await Place(inbox_of(self._where, name), own=True, keep=False).__aexit__()
        await self._stack.aclose()

    def links(self) -> Sequence[_AgentLink]:
        """The agents, for one run."""
        return [_AgentLink(agent, self._where) for agent in self._present()[: self._count]]

    def _present(self) -> list[_Agent]:
        return [agent for agent in self._agents.values() if agent.known.is_set() and not agent.gone]

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_KEEP_ALIVE)
            for agent in self._present():
                agent.outbox.send(encode(Ping(time.monotonic_ns())))

    async def _read(self, inbox: Inbox) -> None:
        try:
            async for sender, data in inbox.words():
                now = time.monotonic_ns()
                word = _decode(data)
                agent = self._agents.get(sender)
                if isinstance(word, Hello):
                    if agent is None:
                        await self._greet(sender, word)
                    elif not agent.known.is_set():  # it belonged to another, and no longer does
                        agent.outbox.send(encode(Ping(now)))
                elif agent is None:
                    continue
                elif isinstance(word, End):
                    agent.gone = True
                elif isinstance(word, Pong | Word) and word.to != self._id:
                    continue
                elif isinstance(word, Pong):
                    agent.rounds.append((now - word.at, (word.at + now) // 2 - word.mine))
                    if len(agent.rounds) < _PINGS:
                        agent.outbox.send(encode(Ping(time.monotonic_ns())))
                    elif not agent.known.is_set():
                        agent.known.set()
                        self._changed.set()
                elif isinstance(word, Word):
                    agent.words.put_nowait(word.data)
        except MqcliError as exc:
            self._failure = exc
            self._changed.set()

    async def _greet(self, sender: str, hello: Hello) -> None:
        try:
            outbox = await self._stack.enter_async_context(
                Outbox(inbox_of(self._where, sender), self._id)
            )
        except NotFound:  # it said hello, and went
            return
        self._agents[sender] = _Agent(outbox, hello.host)
        outbox.send(encode(Ping(time.monotonic_ns())))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Ear:
    """What an agent hears of one run."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[ToWorker | None] = asyncio.Queue()

    async def hear(self) -> ToWorker | None:
        return await self.words.get()


async def serve(where: Where, stop: asyncio.Event, say: Callable[[str], None]) -> int:
    """The agent's side: meet, make load as told, as often as told; how many runs it were. Ends
    with the meeting, or with ``stop``. Raises MqcliError."""
    mine = new_id()
    kept = where.client().traits().keeps != "nothing"
    async with Inbox(inbox_of(where, mine)) as inbox:
        agent = _Serving(where, mine, say)
        tasks = [
            asyncio.create_task(agent.read(inbox)),
            asyncio.create_task(agent.hello(_HELLO_KEPT if kept else _HELLO_LOST)),
            asyncio.create_task(agent.watch()),
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            if stopping.done():
                agent.leave()
            return agent.runs
        finally:
            for task in tasks:
                task.cancel()
            stopping.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await agent.aclose()


def _said(word: FromWorker, to: str) -> Word:
    return Word(encode(word), to=to)


class _Serving:
    def __init__(self, where: Where, mine: str, say: Callable[[str], None]) -> None:
        self._where, self._mine, self._say = where, mine, say
        self._outbox: Outbox | None = None
        self._answered, self._alone = asyncio.Event(), asyncio.Event()
        self._leader: str | None = None
        """The conductor whose we are."""
        self._heard = 0.0
        self._ear: _Ear | None = None
        self._run: asyncio.Task[None] | None = None
        self.runs = 0

    async def aclose(self) -> None:
        await self._end_run()
        if self._outbox is not None:
            await self._outbox.__aexit__()

    def leave(self) -> None:
        """Say that we go, so that nobody waits for us."""
        if self._leader is not None:
            failed = Failed("BrokerUnavailable", "an agent was stopped", self._where.client().where)
            self._tell(_said(failed, self._leader))
        if self._outbox is not None:
            self._outbox.send(encode(End("meeting")))

    async def watch(self) -> None:
        """Forget a conductor that has fallen silent."""
        while True:
            await asyncio.sleep(1.0)
            if self._answered.is_set() and time.monotonic() - self._heard > _SILENCE:
                self._say("the benchmark has fallen silent; waiting for another")
                await self._end_run()
                self._leader = None
                self._answered.clear()
                self._alone.set()

    async def hello(self, every: float) -> None:
        """As long as nobody answers. The conductor may not be there yet."""
        word = encode(Hello(host_identity()))
        while True:
            if self._answered.is_set():
                self._alone.clear()
                await self._alone.wait()
            try:
                if self._outbox is None:
                    outbox = Outbox(inbox_of(self._where), self._mine)
                    self._outbox = await outbox.__aenter__()
                self._outbox.send(word)
                if self._outbox.failure is not None:
                    raise self._outbox.failure
            except NotFound:
                if self._outbox is not None:
                    await self._outbox.__aexit__()
                    self._outbox = None
                every = min(every, 0.5)
            try:
                await asyncio.wait_for(self._answered.wait(), every)
            except TimeoutError:
                continue

    async def read(self, inbox: Inbox) -> None:
        """Everything that is said to us, until we are sent home."""
        async for sender, data in inbox.words():
            if self._leader not in (None, sender):
                continue
            self._heard = time.monotonic()
            self._answered.set()
            match _decode(data):
                case Ping(at):
                    self._tell(Pong(at, time.monotonic_ns(), sender))
                case Word(data, name):
                    await self._word(decode_to_worker(data), name, sender)
                case End("run"):
                    await self._end_run()
                case End():
                    return
                case _:
                    pass

    def _tell(self, word: Pong | Word) -> None:
        assert self._outbox is not None
        self._outbox.send(encode(word))

    async def _word(self, word: ToWorker, name: str, sender: str) -> None:
        if isinstance(word, Share):
            await self._end_run()
            self._leader = sender
            self._ear = _Ear()
            share = replace(word, plan=self._here(word.plan, name))
            self.runs += 1
            self._say(f"run {self.runs}: {share.plan.where.client().where}")
            self._run = asyncio.create_task(
                work(share, self._ear, lambda told: self._tell(_said(told, sender)))
            )
        elif self._ear is not None:
            self._ear.words.put_nowait(word)

    def _here(self, plan: Plan, name: str) -> Plan:
        """The plan with the destination as this machine reaches it."""
        where = named(self._where.client(), self._where, name)
        return replace(plan, where=replace(where, confirm_timeout=plan.where.confirm_timeout))

    async def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        assert self._ear is not None
        self._ear.words.put_nowait(None)
        await asyncio.wait((run,), timeout=10.0)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
