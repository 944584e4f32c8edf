"""A host's HTTP doors, as existing clients ask them before they open a session."""

from __future__ import annotations

import hashlib
import secrets

import httpx
import pytest

from fabstir.chain.devnet import Devnet
from fabstir.crypto import NATIVE, checksum_address
from fabstir.node.build import Host

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]


async def test_health_and_chains(host: Host, devnet: Devnet) -> None:
    async with httpx.AsyncClient(base_url=host.api_url, trust_env=False) as http:
        health = [(await http.get(path)).json() for path in ("/health", "/v1/health")]
        chains = (await http.get("/v1/chains")).text

    assert [answer["healthy"] for answer in health] == [True, True]
    assert checksum_address(devnet.deployment.job_marketplace) in chains
    assert devnet.rpc_url not in chains


async def test_the_challenge_is_answered_by_the_key_that_opens_handshakes(
    host: Host, devnet: Devnet
) -> None:
    challenge = secrets.token_bytes(32)

    async with httpx.AsyncClient(base_url=host.api_url, trust_env=False) as http:
        response = await http.post("/v1/auth/challenge", json={"challenge": challenge.hex()})
    answer = response.json()

    signature = bytes.fromhex(answer["signature"]) + bytes([answer["recid"]])
    signer = NATIVE.recover(signature, hashlib.sha256(challenge).digest())
    node = await devnet.contracts.nodes.node(host.market.signer.address)
    assert node is not None
    assert signer.hex() in node.metadata
    assert NATIVE.address_of(signer) != host.market.signer.address
