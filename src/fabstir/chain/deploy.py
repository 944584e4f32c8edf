"""Deploying and wiring all contracts, as docs/contracts.md says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fabstir.chain.abi import ARTIFACTS, load_abi
from fabstir.chain.deployment import Deployment
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.crypto import NATIVE
from fabstir.primitives.errors import ChainError
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.primitives.units import BasisPoints


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketplaceParameters:
    """What is fixed for ever when a marketplace is deployed. Durations in seconds."""

    treasury: Address
    """Who may withdraw the fees."""
    fee: BasisPoints
    dispute_window: int = 30
    min_proof_timeout: int = 60


def contracts_hash() -> str:
    """BLAKE3 over the creation code of every contract: tells builds apart."""
    code = b"".join(load_abi(name).bytecode for name in ARTIFACTS)
    return NATIVE.blake3(code).hex()


async def deploy_contracts(
    chain: Chain, queue: TransactionQueue, parameters: MarketplaceParameters
) -> Deployment:
    """Deploy test tokens and contracts, and let the marketplace credit and prove.

    Each step has its key in the outbox, so a deployment that was cut off goes on where it was.
    """
    start = await chain.block_number()
    fab = await _create(chain, queue, "TestFab")
    usdc = await _create(chain, queue, "TestUsdc")
    models = await _create(chain, queue, "ModelRegistry", fab)
    proofs = await _create(chain, queue, "ProofSystem")
    earnings = await _create(chain, queue, "HostEarnings")
    nodes = await _create(chain, queue, "NodeRegistryWithModels", fab, models)
    marketplace = await _create(
        chain,
        queue,
        "JobMarketplaceWithModels",
        nodes,
        earnings,
        proofs,
        usdc,
        parameters.treasury,
        parameters.fee,
        parameters.dispute_window,
        parameters.min_proof_timeout,
        NATIVE_TOKEN,
        "ETH",
    )
    for name, contract in (("HostEarnings", earnings), ("ProofSystem", proofs)):
        authorize = load_abi(name).functions["setAuthorizedCaller"]
        call = ContractCall(
            to=contract,
            data=authorize.encode(marketplace, True),
            description=f"letting the marketplace call {name}",
        )
        await queue.send(f"deploy:authorize:{name}:{marketplace}", call)
    return Deployment(
        chain_id=chain.chain_id,
        block_number=start,
        contracts_hash=contracts_hash(),
        model_registry=models,
        node_registry=nodes,
        job_marketplace=marketplace,
        proof_system=proofs,
        host_earnings=earnings,
        fab_token=fab,
        usdc=usdc,
    )


async def _create(chain: Chain, queue: TransactionQueue, name: str, *arguments: Any) -> Address:
    call = ContractCall(
        to=None, data=load_abi(name).creation_code(*arguments), description=f"deploying {name}"
    )
    mined = await queue.send(f"deploy:{name}", call)
    receipt = await chain.receipt(mined.tx_hash)
    if receipt is None or receipt.contract_address is None:
        raise ChainError(f"{chain.shown_url} has no receipt of {name}'s creation {mined.tx_hash}")
    return receipt.contract_address
