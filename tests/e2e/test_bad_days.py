"""A host that cannot start says why and what to do; one that is hurt or told to stop loses nothing.

Each failed start is the command as its owner runs it; the text is what the owner reads.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.e2e.harness import (
    HostStarter,
    Wallet,
    check_money,
    descendants,
    eventually,
    free_port,
    funded,
    is_running,
    serve_and_fail,
    session_of,
)
from tests.e2e.raw_client import Answer, OpenedSession, RawClient, Refused, open_raw_client

from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import Devnet
from fabstir.chain.keystore import Signer
from fabstir.cli.host_process import HostProcess
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.host_messages import StreamEnd
from fabstir.protocol.limits import RECEIPT_INTERVAL_TOKENS

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

EXIT_FAILED, EXIT_USAGE = 1, 2

STRANGER = bytes(31) + b"\7"
"""Anybody's key."""

STORY = "Write a long story about a lighthouse keeper and the sea."


@pytest.fixture
def settings(start_host: HostStarter) -> dict[str, str]:
    """Of a host that would start."""
    return start_host.settings("fails")


@pytest.fixture
def owner(start_host: HostStarter) -> Signer:
    """An account with coin and FAB."""
    return start_host.signer("fails")


@contextmanager
def taken_port() -> Generator[int]:
    """A port on loopback on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


# -- the chain --------------------------------------------------------------------------------


async def test_another_chain_id_is_refused_naming_both(
    settings: dict[str, str], owner: Signer, tmp_path: Path
) -> None:
    ended = await serve_and_fail(tmp_path, owner, settings | {"chain.chain_id": "84532"})

    assert ended.status == EXIT_FAILED
    assert "84532" in ended.said
    assert "31337" in ended.said


async def test_an_address_without_code_is_refused_by_name(
    settings: dict[str, str], owner: Signer, devnet: Devnet, tmp_path: Path
) -> None:
    deployment = json.loads(devnet.deployment_path.read_text())
    nowhere = "0x" + "ab" * 20
    text = json.dumps(deployment).replace(deployment["job_marketplace"], nowhere)
    (tmp_path / "31337.json").write_text(text)
    changed = settings | {"chain.deployment": str(tmp_path / "31337.json")}

    ended = await serve_and_fail(tmp_path, owner, changed)

    assert ended.status == EXIT_FAILED
    assert nowhere in ended.said.lower()
    assert "31337" in ended.said


async def test_a_chain_that_does_not_answer_is_named_with_its_setting(
    settings: dict[str, str], owner: Signer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    ended = await serve_and_fail(tmp_path, owner, settings | {"chain.rpc_url": url})

    assert ended.status == EXIT_FAILED
    assert url in ended.said
    assert "chain.rpc_url" in ended.said


# -- the account ------------------------------------------------------------------------------


async def test_an_account_without_fab_is_told_the_stake_it_lacks(
    settings: dict[str, str], devnet: Devnet, tmp_path: Path
) -> None:
    poor = await funded(devnet, "without FAB")

    ended = await serve_and_fail(tmp_path, poor, settings)

    assert ended.status == EXIT_FAILED
    assert poor.address in ended.said.lower()
    assert "FAB" in ended.said


async def test_an_account_without_gas_is_told_so(
    settings: dict[str, str], devnet: Devnet, tmp_path: Path
) -> None:
    penniless = devnet.accounts[-1]
    await set_balance(devnet.chain, penniless.address, Wei(0))

    ended = await serve_and_fail(tmp_path, penniless, settings)

    assert ended.status == EXIT_FAILED
    assert penniless.address in ended.said.lower()
    assert "gas included" in ended.said


async def test_nothing_is_staked_unless_the_owner_says_so(
    settings: dict[str, str], owner: Signer, devnet: Devnet, tmp_path: Path
) -> None:
    ended = await serve_and_fail(tmp_path, owner, settings, is_confirmed=False)

    assert ended.status == EXIT_USAGE
    assert "host.auto_register" in ended.said
    assert await devnet.contracts.nodes.node(owner.address) is None


# -- the model --------------------------------------------------------------------------------


async def test_a_model_that_is_not_approved_is_refused_by_name(
    settings: dict[str, str], owner: Signer, tmp_path: Path
) -> None:
    another = {"model.repo": "nobody/Unheard-Of", "model.file": "unheard-of.gguf"}

    ended = await serve_and_fail(tmp_path, owner, settings | another | {"model.sha256": "ab" * 32})

    assert ended.status == EXIT_USAGE
    assert "nobody/Unheard-Of" in ended.said
    assert "approve" in ended.said


@pytest.mark.parametrize("content", [None, b"GGUF, but of another model"], ids=["absent", "wrong"])
async def test_a_model_file_that_is_absent_or_has_other_bytes_is_never_loaded(
    settings: dict[str, str], owner: Signer, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)

    ended = await serve_and_fail(tmp_path, owner, settings | {"model.path": str(path)})

    assert ended.status == EXIT_FAILED
    assert "model.gguf" in ended.said
    assert ("sha256" in ended.said) == (content is not None)


# -- ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host.port", "p2p.port", "metrics.port", "s5.port"])
async def test_a_port_that_is_taken_is_named_before_anything_is_staked(
    settings: dict[str, str], owner: Signer, devnet: Devnet, tmp_path: Path, name: str
) -> None:
    with taken_port() as port:
        ended = await serve_and_fail(tmp_path, owner, settings | {name: str(port)})

    assert ended.status == EXIT_USAGE
    assert str(port) in ended.said
    assert name in ended.said
    assert await devnet.contracts.nodes.node(owner.address) is None


# -- while it serves --------------------------------------------------------------------------


@pytest.fixture
async def host(start_host: HostStarter) -> AsyncGenerator[HostProcess]:
    async with start_host("serves", {"host.reconnect_grace_seconds": "0.5"}) as started:
        yield started


async def open_session(
    client: RawClient, wallet: Wallet, host: HostProcess, *, max_tokens: int
) -> tuple[OpenedSession, Answer]:
    """A session in the middle of a long answer, with its first receipt acknowledged."""
    job_id = await wallet.lock(host)
    key = secrets.token_bytes(32)
    offer = client.authorize(job_id, wallet.signer.secret_key, key)
    session = await client.open(job_id, key, offer=offer)
    await client.send(session.message(STORY, max_tokens=max_tokens))
    return session, await session.read(until_tokens=RECEIPT_INTERVAL_TOKENS + 8)


async def test_a_second_host_in_the_same_folder_is_refused(
    start_host: HostStarter, host: HostProcess
) -> None:
    settings = start_host.settings("serves") | {"host.port": "0", "p2p.port": "0"}

    ended = await serve_and_fail(host.folder, start_host.signer("serves"), settings)

    assert ended.status == EXIT_USAGE
    assert host.process.returncode is None


async def test_an_engine_that_is_killed_fails_its_answer_by_name_and_comes_back(
    devnet: Devnet, host: HostProcess, wallet: Wallet
) -> None:
    async with open_raw_client(host, devnet) as client:
        session, before = await open_session(client, wallet, host, max_tokens=500)
        (engine,) = descendants(host.process.pid)

        os.kill(engine, signal.SIGKILL)
        with pytest.raises(Refused, match="ENGINE_CRASHED"):
            before.receipts += (await session.read()).receipts
        assert isinstance(end := await client.receive(), StreamEnd)
        answer = await eventually(lambda: try_again(session), timeout=60, interval=0.5)
        proven = await session.close()

    assert end.reason == "error"
    agreed = before.receipts[-1].cumulative_tokens
    assert proven == agreed + answer.tokens
    job_id = answer.receipts[-1].job_id
    await wallet.settle_now(job_id)
    await check_money(devnet, job_id, proven)


async def try_again(session: OpenedSession) -> Answer | None:
    """An answer, or None while the engine is being started again."""
    try:
        return await session.ask("Hello", request_id=secrets.token_hex(4))
    except Refused as refused:
        if refused.code != "ENGINE_UNAVAILABLE":
            raise
    assert isinstance(await session.client.receive(), StreamEnd)
    return None


async def is_draining(client: RawClient, job_id: JobId) -> bool:
    """Whether the host takes no new sessions any more."""
    try:
        await client.open(job_id, STRANGER)
    except Refused as refused:
        return refused.code == "DRAINING"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_a_host_that_is_stopped_finishes_its_answer_proves_it_and_leaves_nothing(
    devnet: Devnet, host: HostProcess, wallet: Wallet, number: signal.Signals
) -> None:
    async with open_raw_client(host, devnet) as client, open_raw_client(host, devnet) as other:
        session, before = await open_session(client, wallet, host, max_tokens=160)
        started = descendants(host.process.pid)
        late = await wallet.lock(host)

        host.process.send_signal(number)
        assert await eventually(lambda: is_draining(other, late))
        answer = await session.read()
        with anyio.fail_after(60):
            status = await host.process.wait()

    tokens = before.tokens + answer.tokens
    job_id = answer.receipts[-1].job_id
    job = await session_of(devnet, job_id)
    assert (answer.finish_reason, tokens) == ("length", 160)
    assert status == 0
    assert started
    assert not [command for pid, command in started.items() if is_running(pid)]
    assert job.tokens_used == tokens
    await wallet.settle_now(late)
    await wallet.settle_now(job_id)
    await check_money(devnet, job_id, TokenCount(tokens))
