"""Queries to all peers, and peers' queries passed on: where they stop.

A question goes to every peer but the one that asked, at most MAX_HOPS times. It carries an id, and
who has seen that answers at once that it has nothing, so none goes round. Nodes that know no ids
get and send plain questions, of which each peer has one of a kind going on at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, TypeVar

import anyio

from fabstir.s5.formats.wire import MAX_HOPS, Absent, HashQuery, RegistryQuery, Trace
from fabstir.s5.peers.limits import PeerLimits
from fabstir.s5.peers.search import Search, Searches
from fabstir.s5.peers.session import PeerSession

Query = TypeVar("Query", HashQuery, RegistryQuery)
Found = TypeVar("Found")

_STEPS: Final = MAX_HOPS + 1


class Relaying:
    """What this node asks its peers, for itself and for others.

    Args:
        sessions: a connection of every peer but the one with this key.
    """

    def __init__(
        self,
        limits: PeerLimits,
        sessions: Callable[[bytes | None], Sequence[PeerSession]],
        new_id: Callable[[], bytes],
    ) -> None:
        self._room = anyio.Semaphore(limits.max_relayed)
        self._limits = limits
        self._sessions = sessions
        self._new_id = new_id
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def ask(self, query: Query, question_id: bytes) -> set[object]:
        """Ask for this node; returns from whom an answer is waited for."""
        self._remember(question_id)
        return self._send(query, Trace(id=question_id, hops=MAX_HOPS), self._sessions(None))

    def trace(self, query: Query, asker: PeerSession) -> Trace | None:
        """How a peer's question is passed on; None: it ends here."""
        trace = query.trace or Trace(id=self._new_id(), hops=MAX_HOPS)
        if trace.hops < 1 or trace.id in self._seen or not self._others(asker):
            return None
        self._remember(trace.id)
        return trace

    @asynccontextmanager
    async def search(
        self,
        searches: Searches[bytes, Found],
        key: bytes,
        query: Query,
        trace: Trace,
        asker: PeerSession,
    ) -> AsyncGenerator[Search[Found]]:
        """Ask the others for a peer, for the length of the block; plain questions of a peer for the
        same thing are one.
        """

        def send(_question_id: bytes) -> set[object]:
            return self._send(query, replace(trace, hops=trace.hops - 1), self._others(asker))

        who = asker if query.trace is None else trace.id
        async with (
            self._room,
            searches.ask(key, send, asker=who, question_id=trace.id) as search,
        ):
            yield search

    def deadline(self, trace: Trace) -> float:
        """When the answer to what is passed on has to be there, before the asker gives up."""
        seconds = self._limits.query_deadline * trace.hops / _STEPS
        return anyio.current_time() + seconds

    def _others(self, asker: PeerSession) -> list[PeerSession]:
        # Who never answers is not bothered with what strangers want to know.
        return [peer for peer in self._sessions(asker.peer_key) if peer.is_waited_for]

    def _send(self, query: Query, trace: Trace, sessions: Sequence[PeerSession]) -> set[object]:
        plain, traced = replace(query, trace=None).encode(), replace(query, trace=trace).encode()
        return {
            session
            for session in sessions
            if session.send(traced if session.relays else plain) and session.is_waited_for
        }

    def _remember(self, question_id: bytes) -> None:
        self._seen[question_id] = None
        if len(self._seen) > self._limits.max_seen_questions:
            self._seen.popitem(last=False)


def say_absent(session: PeerSession, subject: bytes, trace: Trace | None) -> None:
    """Tell a peer that reads it that there is nothing for it."""
    if session.answers_absent:
        trace_id = trace.id if trace is not None and session.relays else None
        session.send(Absent(subject=subject, trace_id=trace_id).encode())
