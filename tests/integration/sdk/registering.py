"""Hosts that stand in the registry, whether or not anything answers where they say."""

from __future__ import annotations

from fabstir.chain.devnet import Devnet
from fabstir.chain.transactions import TransactionQueue
from fabstir.models import DEMO_MODEL
from fabstir.node.registration import HostEntry, Registrar, RegistrationPlan
from fabstir.primitives.ids import NATIVE_TOKEN, ModelId, PeerId

PEER_ID = PeerId("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5")


def demo_model_id(devnet: Devnet) -> ModelId:
    return devnet.contracts.models.model_id(DEMO_MODEL.repo, DEMO_MODEL.file)


async def register(
    devnet: Devnet,
    queue: TransactionQueue,
    *,
    api_url: str,
    public_key: bytes,
    peer_id: PeerId = PEER_ID,
) -> None:
    """Register the queue's account for the demo model at the lowest prices, or change its entry."""
    limits = await devnet.contracts.nodes.price_limits()
    entry = HostEntry(
        api_url=api_url,
        peer_id=peer_id,
        encryption_public_key=public_key,
        prices={
            demo_model_id(devnet): {
                NATIVE_TOKEN: limits.min_native,
                devnet.deployment.usdc: limits.min_stable,
            }
        },
        location="",
        max_concurrent=1,
    )

    async def confirm(_plan: RegistrationPlan) -> bool:
        return True

    await Registrar(contracts=devnet.contracts, queue=queue).ensure(entry, confirm)
