"""The process that the kill tests kill: sends one payment, stopping at every step it takes.

A step is what changes something: a commit or a broadcast. Between two reads there is nothing that
a kill could spoil.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection

from fabstir.chain.anvil import DEV_CHAIN_ID
from fabstir.chain.keystore import Signer
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain, open_chain
from fabstir.chain.transactions import TransactionOptions, open_transaction_queue
from fabstir.db import Database, open_database
from fabstir.primitives.errors import InsufficientFunds, RpcRefused

T = TypeVar("T")

KEY = "the payment"
OPTIONS = TransactionOptions(poll_interval=0.02, stuck_after=0.5, timeout=10.0)


class Steps:
    """Announces each step and waits to be told to go on; the whole process stands still."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def __call__(self, name: str) -> None:
        self._pipe.send(name)
        self._pipe.recv()


class SteppingChain(Chain):
    """A chain whose every broadcast is two steps; it may refuse payments."""

    def __init__(self, chain: Chain, steps: Steps, refused: str) -> None:
        super().__init__(chain.session, chain.rpc_url, chain.chain_id)
        self._steps = steps
        self._refused = refused

    async def request(
        self, method: str, params: Sequence[Any] = (), *, is_idempotent: bool = True
    ) -> Any:
        if method != "eth_sendRawTransaction":
            return await super().request(method, params, is_idempotent=is_idempotent)
        if self._refused and self._refused in params[0]:
            raise RpcRefused(method, -32000, "insufficient funds for gas * price + value")
        self._steps("before a broadcast")
        answer = await super().request(method, params, is_idempotent=is_idempotent)
        self._steps("after a broadcast")
        return answer


class SteppingDatabase(Database):
    """A database whose every write is two steps."""

    def __init__(self, db: Database, steps: Steps) -> None:
        self.place = db.place
        self.read = db.read
        self.hold = db.hold
        self._write = db.write
        self._steps = steps

    async def write(self, fn: Callable[[Connection], T], *, durable: bool) -> T:
        self._steps("before a commit")
        result = await self._write(fn, durable=durable)
        self._steps("after a commit")
        return result


def send_once(
    pipe: Pipe, rpc_url: str, db_url: str, secret: bytes, call: ContractCall, *, refused: bool
) -> None:
    """Entry point of the process."""
    asyncio.run(_send_once(Steps(pipe), rpc_url, db_url, Signer(secret), call, refused=refused))


async def _send_once(
    steps: Steps, rpc_url: str, db_url: str, signer: Signer, call: ContractCall, *, refused: bool
) -> None:
    assert call.to is not None
    async with open_database(db_url) as db, open_chain(rpc_url, chain_id=DEV_CHAIN_ID) as plain:
        chain = SteppingChain(plain, steps, call.to[2:] if refused else "")
        marked = SteppingDatabase(db, steps)
        async with open_transaction_queue(chain, signer, marked, OPTIONS) as queue:
            if refused:
                with pytest.raises(InsufficientFunds):
                    await queue.send(KEY, call)
                # Needs the refused one's nonce to be used up by its filler.
                await queue.send("the next", replace(call, to=signer.address))
            else:
                await queue.send(KEY, call)
