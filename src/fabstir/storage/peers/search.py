"""A question to all peers at once, and the answers as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Search(Generic[Answer]):
    """One question. `waiting` are those who have not answered."""

    def __init__(self, waiting: set[object], max_answers: int) -> None:
        self.answers: list[Answer] = []
        self.num_users = 0
        self._waiting = waiting
        self._max_answers = max_answers
        self._changed = anyio.Event()

    def add(self, who: object, answer: Answer | None) -> None:
        """What `who` says; None: it has nothing, or is gone."""
        self._waiting.discard(who)
        if answer is not None and len(self.answers) < self._max_answers:
            self.answers.append(answer)
        self._changed.set()
        self._changed = anyio.Event()

    async def answer(self, index: int, until: float) -> Answer | None:
        """The answer number `index`; None: nobody else can have one, or it took too long.

        Args:
            until: of `anyio.current_time()`.
        """
        while len(self.answers) <= index and self._waiting:
            with anyio.move_on_at(until) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                break
        return self.answers[index] if index < len(self.answers) else None

    async def collect(self, until: float, settle: float) -> list[Answer]:
        """All answers until `until`, or `settle` seconds after the first one."""
        if await self.answer(0, until) is None:
            return []
        until = min(until, anyio.current_time() + settle)
        while await self.answer(len(self.answers), until) is not None:
            pass
        return list(self.answers)


class Searches(Generic[Key, Answer]):
    """The running questions: who asks the same at the same time shares the answers.

    Args:
        max_searches: further ones wait for one of these to end.
    """

    def __init__(self, max_searches: int, max_answers: int) -> None:
        self._running: dict[Key, Search[Answer]] = {}
        self._max_answers = max_answers
        self._room = anyio.Semaphore(max_searches)

    def __contains__(self, key: Key) -> bool:
        return key in self._running

    @asynccontextmanager
    async def ask(
        self, key: Key, send: Callable[[], set[object]]
    ) -> AsyncGenerator[Search[Answer]]:
        """Ask, or join who asks already.

        Args:
            send: sends the question, and returns whom it reached.
        """
        async with self._room:
            search = self._running.get(key)
            if search is None:
                search = self._running[key] = Search[Answer](send(), self._max_answers)
            search.num_users += 1
            try:
                yield search
            finally:
                search.num_users -= 1
                if not search.num_users:
                    del self._running[key]

    def answer(self, key: Key, who: object, answer: Answer | None) -> None:
        """Hand on what `who` says; nobody may have asked."""
        if key in self._running:
            self._running[key].add(who, answer)

    def gone(self, who: object) -> None:
        """`who` will answer nothing any more."""
        for search in self._running.values():
            search.add(who, None)
