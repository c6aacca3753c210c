"""Publishing all or nothing, through a transport that has transactions."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

from .errors import BrokerUnavailable, ConnectionLost, MqcliError, NotAllDone
from .publisher import Publisher
from .roles import Transacts

__all__ = ["AtomicPublisher"]

State = Literal["open", "committed", "undone", "unknown"]


class AtomicPublisher(Publisher):
    """A publisher whose messages become visible together, by :meth:`commit`, or never.

    The first message that is refused, or of an unknown fate, is the ``failure``. After
    :meth:`abort`, and on leaving without a commit, everything counts as refused, since nothing of
    it was published; until then ``confirmed`` means: taken into the transaction.
    """

    state: State = "open"
    """``unknown``: nobody could be asked whether the commit came through."""
    given_up: MqcliError | None = None
    """Why the broker could not be told to undo it: it does so by itself, later."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self._transaction.begin()
        except BaseException:
            await self._transport.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.abandon()
        if self.state == "open":
            self._nothing_done()
        await super().__aexit__(kind, exc, tb)

    @property
    def _transaction(self) -> Transacts:
        assert isinstance(self._transport, Transacts)
        return self._transport

    def _refuse(self, number: int, error: MqcliError) -> None:
        super()._refuse(number, error)
        if self.failure is None:
            # The refusal itself is among the errors already.
            self.failure = NotAllDone(
                "nothing was published: the transaction was undone",
                where=self.where,
                why=f"message {number + 1} was refused",
            )
            self._room.set()
            self._trouble.set()

    async def commit(self) -> None:
        """Let all be seen, and return when it can be. Call it behind ``finish``.

        Raises BrokerUnavailable where it is committed but not to be read yet, ConnectionLost where
        its fate is unknown, and what the broker refused it for; ``state`` and ``counts`` say it.
        """
        counts = self.counts
        try:
            await self._transaction.commit(self._limits.confirm_timeout)
        except ConnectionLost:
            self.state = "unknown"
            counts.unknown, counts.confirmed = counts.unknown + counts.confirmed, 0
            raise
        except BrokerUnavailable:
            self.state = "committed"
            raise
        except MqcliError:
            self._nothing_done()
            raise
        self.state = "committed"

    async def abort(self) -> None:
        """Let nothing of it ever be seen. Does not raise: see ``given_up``."""
        try:
            await self._transaction.abort(self._limits.confirm_timeout)
        except MqcliError as exc:
            self.given_up = exc
        self._nothing_done()

    def _nothing_done(self) -> None:
        # Without a commit nothing can be seen, whatever became of the batches and of the abort.
        self.state = "undone"
        counts = self.counts
        counts.refused, counts.confirmed, counts.unknown = counts.submitted, 0, 0
