"""Opening a chain: what is checked, and what happens when the node goes away."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from tests.anvil import increase_time, mine, revert_to, snapshot
from tests.integration.chain.faulty_rpc import open_faulty_rpc

from fabstir.chain.anvil import DEV_CHAIN_ID, open_anvil
from fabstir.chain.cheats import set_balance
from fabstir.chain.devnet import Devnet
from fabstir.chain.rpc import Chain, open_chain
from fabstir.primitives.errors import (
    ChainError,
    ConfigError,
    NoCodeAtAddress,
    RpcRefused,
    RpcUnavailable,
    WrongChain,
)
from fabstir.primitives.ids import Address, ChainId
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NOBODY = Address("0x" + "99" * 20)


async def test_the_right_chain_with_the_right_contracts_opens(devnet: Devnet) -> None:
    async with open_chain(
        devnet.rpc_url, chain_id=DEV_CHAIN_ID, deployment=devnet.deployment
    ) as chain:
        assert await chain.block_number() >= devnet.deployment.block_number


async def test_another_chain_is_refused_with_both_ids(rpc_url: str) -> None:
    with pytest.raises(WrongChain, match="serves chain id 31337, but the configuration expects 84"):
        async with open_chain(rpc_url, chain_id=ChainId(84532)):
            pass


async def test_a_deployment_of_another_chain_is_refused(devnet: Devnet) -> None:
    other = replace(devnet.deployment, chain_id=ChainId(8453))

    with pytest.raises(WrongChain, match="the deployment file serves chain id 8453"):
        async with open_chain(devnet.rpc_url, chain_id=DEV_CHAIN_ID, deployment=other):
            pass


async def test_an_address_without_code_is_named(devnet: Devnet) -> None:
    other = replace(devnet.deployment, host_earnings=NOBODY)

    with pytest.raises(NoCodeAtAddress, match=f"no code at {NOBODY} .* has host_earnings"):
        async with open_chain(devnet.rpc_url, chain_id=DEV_CHAIN_ID, deployment=other):
            pass


async def test_a_contract_that_is_no_marketplace_is_refused(devnet: Devnet) -> None:
    other = replace(devnet.deployment, job_marketplace=devnet.deployment.usdc)

    with pytest.raises(ChainError, match="is not a marketplace"):
        async with open_chain(devnet.rpc_url, chain_id=DEV_CHAIN_ID, deployment=other):
            pass


def marketplace_code(num_fields: int, precision: int) -> bytes:
    """EVM code that answers calls without arguments with the precision, all others with words of
    zeros but for the 16th, where era C's getter has the offset of its first string.
    """
    is_precision = bytes.fromhex("36600414601457")
    session = (
        bytes.fromhex("61") + (32 * num_fields).to_bytes(2) + bytes.fromhex("6101e0526103006000f3")
    )
    answer = bytes.fromhex("5b61") + precision.to_bytes(2) + bytes.fromhex("60005260206000f3")
    return is_precision + session + answer


@pytest.mark.parametrize(
    ("num_fields", "precision", "text"),
    [(17, 1000, "does not store sessions of 18 fields"), (18, 1, "divides prices by 1, this")],
)
async def test_a_marketplace_of_another_version_is_refused(
    devnet: Devnet, num_fields: int, precision: int, text: str
) -> None:
    chain, address = devnet.chain, Address("0x" + "77" * 20)
    code = marketplace_code(num_fields, precision)
    await chain.request("anvil_setCode", [address, "0x" + code.hex()])
    other = replace(devnet.deployment, job_marketplace=address)

    with pytest.raises(ChainError, match=text):
        async with open_chain(devnet.rpc_url, chain_id=DEV_CHAIN_ID, deployment=other):
            pass


async def test_a_node_that_restarts_is_waited_for() -> None:
    async with open_anvil() as url:
        port = int(url.rsplit(":", 1)[1])
    numbers: list[int] = []

    async def read() -> None:
        async with open_chain(url, chain_id=DEV_CHAIN_ID) as chain:
            numbers.append(await chain.block_number())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        async with open_anvil(port=port):
            with anyio.fail_after(5):
                while not numbers:
                    await anyio.lowlevel.checkpoint()

    assert numbers == [0]


async def test_an_error_of_the_node_is_passed_on(chain: Chain) -> None:
    with pytest.raises(RpcRefused, match="refused eth_nonsense"):
        await chain.request("eth_nonsense")


async def test_a_rate_limit_is_waited_for(rpc_url: str) -> None:
    answers = iter(["Too Many Requests", "rate limit exceeded"])

    def refuse(method: str, _params: list[Any]) -> str | None:
        return next(answers, None) if method == "eth_blockNumber" else None

    async with (
        open_faulty_rpc(rpc_url, refuse) as url,
        open_chain(url, chain_id=DEV_CHAIN_ID) as chain,
    ):
        assert await chain.block_number() == 0


async def test_cancelled_requests_harm_no_later_ones(chain: Chain) -> None:
    # web3.py's provider leaves a lock of the whole process taken: see rpc.py.
    for num_steps in range(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(chain.block_number)
            for _ in range(num_steps):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    with anyio.fail_after(2):
        assert await chain.block_number() == 0


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://user:pw@127.0.0.1:9/v2/SECRET", "Cannot connect to host 127.0.0.1:9"),
        ("SECRET", "that is not a URL"),
    ],
)
async def test_what_is_wrong_is_told_without_the_urls_secrets(url: str, text: str) -> None:
    with pytest.raises(RpcUnavailable, match=text) as caught:
        async with open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.01,)):
            pass

    assert "SECRET" not in str(caught.value)
    assert "pw@" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (b"200 OK", b"<html>", "does not answer eth_chainId: Expecting value"),
        (b"200 OK", b"[1, 2]", "not a JSON-RPC answer"),
        (b"503 Service Unavailable", b"{}", "HTTP 503"),
    ],
)
async def test_an_answer_that_is_not_json_rpc_is_none(
    status: bytes, body: bytes, text: str
) -> None:
    answer = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream):
                while await stream.receive():
                    await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/SECRET"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            with pytest.raises(RpcUnavailable, match=text) as caught:
                async with open_chain(url, chain_id=DEV_CHAIN_ID, retry_delays=(0.01,)):
                    pass
            assert "SECRET" not in str(caught.value)
            tasks.cancel_scope.cancel()


async def test_what_only_a_devnet_can_do(chain: Chain) -> None:
    before = await chain.latest_block()
    mark = await snapshot(chain)

    await set_balance(chain, NOBODY, Wei(5))
    await mine(chain, 3)
    await increase_time(chain, 360)

    after = await chain.latest_block()
    assert after.number == before.number + 4
    assert after.timestamp >= before.timestamp + 360
    assert await chain.balance(NOBODY) == 5
    await revert_to(chain, mark)
    assert await chain.block_number() == before.number
    assert await chain.balance(NOBODY) == 0


async def test_a_taken_port_is_named(rpc_url: str) -> None:
    port = int(rpc_url.rsplit(":", 1)[1])

    with pytest.raises(ConfigError, match=f"port {port} is taken"):
        async with open_anvil(port=port):
            pass
