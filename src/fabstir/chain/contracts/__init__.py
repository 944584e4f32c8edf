"""Typed wrappers of the contracts: reads give frozen dataclasses, writes give `ContractCall`s."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.chain.contracts.all import Contracts
    from fabstir.chain.contracts.earnings import HostEarnings
    from fabstir.chain.contracts.erc20 import Erc20
    from fabstir.chain.contracts.marketplace import (
        GAS_LIMIT_TO_END,
        Marketplace,
        MarketplaceTerms,
        ProofSubmission,
        SessionJob,
        SessionOffer,
        SessionStatus,
    )
    from fabstir.chain.contracts.registries import (
        ApprovedModel,
        ModelRegistry,
        NodeInfo,
        NodeRegistration,
        NodeRegistry,
        PriceLimits,
    )
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "all": ["Contracts"],
            "earnings": ["HostEarnings"],
            "erc20": ["Erc20"],
            "marketplace": [
                "GAS_LIMIT_TO_END",
                "Marketplace",
                "MarketplaceTerms",
                "ProofSubmission",
                "SessionJob",
                "SessionOffer",
                "SessionStatus",
            ],
            "registries": [
                "ApprovedModel",
                "ModelRegistry",
                "NodeInfo",
                "NodeRegistration",
                "NodeRegistry",
                "PriceLimits",
            ],
        },
    )

__all__ = [
    "GAS_LIMIT_TO_END",
    "ApprovedModel",
    "Contracts",
    "Erc20",
    "HostEarnings",
    "Marketplace",
    "MarketplaceTerms",
    "ModelRegistry",
    "NodeInfo",
    "NodeRegistration",
    "NodeRegistry",
    "PriceLimits",
    "ProofSubmission",
    "SessionJob",
    "SessionOffer",
    "SessionStatus",
]
