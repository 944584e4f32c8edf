"""All contracts of a deployment in one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.chain.contracts.earnings import HostEarnings
from fabstir.chain.contracts.erc20 import Erc20
from fabstir.chain.contracts.marketplace import Marketplace
from fabstir.chain.contracts.registries import ModelRegistry, NodeRegistry
from fabstir.chain.deployment import Deployment
from fabstir.chain.rpc import Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Contracts:
    """The contracts of one deployment on one chain."""

    deployment: Deployment
    models: ModelRegistry
    nodes: NodeRegistry
    marketplace: Marketplace
    earnings: HostEarnings
    fab: Erc20
    usdc: Erc20

    @classmethod
    def of(cls, chain: Chain, deployment: Deployment) -> Self:
        """Wrap them; nothing is read yet."""
        return cls(
            deployment=deployment,
            models=ModelRegistry(chain, deployment.model_registry),
            nodes=NodeRegistry(chain, deployment.node_registry),
            marketplace=Marketplace(chain, deployment.job_marketplace),
            earnings=HostEarnings(chain, deployment.host_earnings),
            fab=Erc20(chain, deployment.fab_token),
            usdc=Erc20(chain, deployment.usdc),
        )
