"""What host, treasury and renter get when a session ends.

Source: `_settle` in contracts/src/JobMarketplaceWithModels.sol. The contract decides; this mirror
only predicts, and tests/integration/market/test_settlement.py holds it to the deployed bytecode.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.units import (
    BPS_DENOMINATOR,
    BasisPoints,
    PricePerToken,
    TokenCount,
    Wei,
    cost_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Where a deposit goes; the three parts add up to it."""

    host: Wei
    treasury: Wei
    refund: Wei


def settle(
    deposit: Wei, tokens_used: TokenCount, price: PricePerToken, fee: BasisPoints
) -> Settlement:
    """Split a deposit as the marketplace contract will.

    Args:
        deposit: what the renter locked.
        tokens_used: language-model tokens proven on chain.
        fee: the treasury's share of what the host earned.

    Returns:
        Integer amounts; division rounds down at each step, as in Solidity.

    Raises:
        ValueError: the tokens cost more than the deposit, which the contract refuses when a
            proof is submitted.
    """
    earned = cost_of(tokens_used, price)
    if earned > deposit:
        raise ValueError(f"{tokens_used} tokens cost {earned}, more than the deposit {deposit}")
    treasury = Wei(earned * fee // BPS_DENOMINATOR)
    return Settlement(host=Wei(earned - treasury), treasury=treasury, refund=Wei(deposit - earned))
