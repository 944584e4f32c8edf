"""A question to all peers at once, and the answers as they come."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio

from fabstir.telemetry.waiting import Changes

KeyT = TypeVar("KeyT", bound=Hashable)
AnswerT = TypeVar("AnswerT")


class Search(Generic[AnswerT]):
    """One question. `waiting` are those who have not answered.

    Args:
        on_silent: told of each who has not answered when the time was over.
    """

    def __init__(
        self,
        question_id: bytes,
        waiting: set[object],
        max_answers: int,
        on_silent: Callable[[object], None],
    ) -> None:
        self.id = question_id
        self.answers: list[AnswerT] = []
        self.num_users = 0
        self._waiting = waiting
        self._max_answers = max_answers
        self._on_silent = on_silent
        self._is_over = False
        self._changes = Changes()

    def add(self, who: object, answer: AnswerT | None) -> None:
        """What `who` says; None: it has nothing, or is gone."""
        self._waiting.discard(who)
        if answer is not None and len(self.answers) < self._max_answers:
            self.answers.append(answer)
        self._changes.tell()

    async def answer(self, index: int, until: float) -> AnswerT | None:
        """The answer number `index`; None: nobody else can have one, or it took too long.

        Args:
            until: of `anyio.current_time()`.
        """
        while len(self.answers) <= index and self._waiting:
            with anyio.move_on_at(until) as scope:
                await self._changes.wait()
            if scope.cancelled_caught:
                if not self.answers:  # after the first one, nobody waited long for the others
                    self._give_up()
                break
        return self.answers[index] if index < len(self.answers) else None

    def _give_up(self) -> None:
        for who in () if self._is_over else self._waiting:
            self._on_silent(who)
        self._is_over = True

    async def collect(self, until: float, settle: float) -> list[AnswerT]:
        """All answers until `until`, or `settle` seconds after the first one."""
        return [answer async for answer in self.each(until, settle)]

    async def each(self, until: float, settle: float) -> AsyncGenerator[AnswerT]:
        """As `collect`, each as it comes."""
        index = 0
        while (answer := await self.answer(index, until)) is not None:
            if index == 0:
                until = min(until, anyio.current_time() + settle)
            index += 1
            yield answer


class Searches(Generic[KeyT, AnswerT]):
    """The running questions: who asks the same at the same time shares the answers.

    Args:
        max_searches: further ones wait for one of these to end.
        on_silent: told of each who did not answer in time.
        new_id: makes the id of a question, 8 random bytes.
    """

    def __init__(
        self,
        max_searches: int,
        max_answers: int,
        *,
        on_silent: Callable[[object], None] = lambda _who: None,
        new_id: Callable[[], bytes] = lambda: secrets.token_bytes(8),
    ) -> None:
        self._running: dict[KeyT, dict[object, Search[AnswerT]]] = {}
        self._max_answers = max_answers
        self._on_silent = on_silent
        self._new_id = new_id
        self._room = anyio.Semaphore(max_searches)

    def __contains__(self, key: KeyT) -> bool:
        return key in self._running

    def is_ours(self, key: KeyT) -> bool:
        """Whether this node asks for itself."""
        return None in self._running.get(key, {})

    @asynccontextmanager
    async def ask(
        self,
        key: KeyT,
        send: Callable[[bytes], set[object]],
        *,
        asker: object = None,
        question_id: bytes | None = None,
    ) -> AsyncGenerator[Search[AnswerT]]:
        """Ask, or join who asks already.

        Args:
            send: sends the question with this id, and returns from whom an answer is waited for.
            asker: for whom; None: this node itself. Others are not joined: a question that comes
                around to where it began must not wait for itself.
            question_id: None: a new one.
        """
        async with self._room:
            of_key = self._running.setdefault(key, {})
            search = of_key.get(asker)
            if search is None:
                new_id = question_id or self._new_id()
                waiting = send(new_id)
                search = Search[AnswerT](new_id, waiting, self._max_answers, self._on_silent)
                of_key[asker] = search
            search.num_users += 1
            try:
                yield search
            finally:
                search.num_users -= 1
                if not search.num_users:
                    del of_key[asker]
                if not of_key:
                    self._running.pop(key, None)

    def answer(
        self, key: KeyT, who: object, answer: AnswerT | None, question_id: bytes | None = None
    ) -> None:
        """Hand on what `who` says; nobody may have asked.

        Args:
            question_id: of the only question that is answered; None: whoever asks for the key.
        """
        for search in self._running.get(key, {}).values():
            if question_id in {None, search.id}:
                search.add(who, answer)

    def gone(self, who: object) -> None:
        """`who` will answer nothing any more."""
        for of_key in self._running.values():
            for search in of_key.values():
                search.add(who, None)
