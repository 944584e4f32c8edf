"""SIGKILL at every step of a payment: after a restart it has happened exactly once."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import anyio
import pytest
from tests.integration.chain.outbox_child import KEY, OPTIONS, send_once
from tests.postgresql import PostgresServer

from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import public_test_key
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import open_transaction_queue
from fabstir.db import open_database
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([send_once.__module__])  # 1 s of imports, once

MAX_STEPS = 200


@contextmanager
def child(
    rpc_url: str, db_url: str, secret: bytes, call: ContractCall, *, refused: bool
) -> Generator[Pipe]:
    """A process that pays; killed when the block is left."""
    ours, theirs = processes.Pipe()
    process = processes.Process(
        target=send_once, args=(theirs, rpc_url, db_url, secret, call), kwargs={"refused": refused}
    )
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def run_steps(pipe: Pipe, num_steps: int) -> list[str]:
    """Let the child take so many steps and stop it at the last; fewer if it was done before."""
    taken: list[str] = []
    try:
        while len(taken) < num_steps:
            taken.append(pipe.recv())
            if len(taken) < num_steps:
                pipe.send("go on")
    except EOFError:
        return taken
    return taken


@pytest.fixture
def open_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URL of an empty database at each call."""
    if request.param == "sqlite":
        numbers = itertools.count()
        return lambda: f"sqlite:///{tmp_path}/{next(numbers)}.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url


@pytest.mark.parametrize(
    ("open_url", "refused"),
    [
        pytest.param("sqlite", False, id="paid"),
        pytest.param("sqlite", True, id="refused by the node"),
        pytest.param(
            "postgresql", False, id="paid, on PostgreSQL", marks=pytest.mark.needs("initdb")
        ),
    ],
    indirect=["open_url"],
)
async def test_a_payment_survives_sigkill_at_every_step(
    chain: Chain, open_url: Callable[[], str], refused: bool
) -> None:
    steps: list[str] = []
    for num_steps in itertools.count(1):
        assert num_steps < MAX_STEPS
        payer = public_test_key(f"payer {num_steps}")
        payee = public_test_key(f"payee {num_steps}").address
        call = ContractCall(to=payee, data=b"", value=Wei(num_steps), description="paying")
        await set_balance(chain, payer.address, Wei(10**18))
        db_url = open_url()
        with child(chain.rpc_url, db_url, payer.secret_key, call, refused=refused) as pipe:
            taken = await anyio.to_thread.run_sync(run_steps, pipe, num_steps)

        async with (
            open_database(db_url) as db,
            open_transaction_queue(chain, payer, db, OPTIONS) as queue,
        ):
            await queue.send(KEY, call)

        where = f"killed at step {num_steps}, {taken[-1]!r}"
        assert await chain.balance(payee) == num_steps, where
        if len(taken) < num_steps:  # it was not killed, it ended
            break
        steps = taken
        assert await chain.nonce(payer.address) <= 1 + 2 * refused, where

    assert "after a broadcast" in steps
    assert steps.count("after a commit") >= 3
