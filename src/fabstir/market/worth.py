"""What a session is worth to this host, and whether a transaction brings more than it costs.

The counterparty sets none of it: every bound has the host's own value. A session that could not
pay for its own settlement is refused before anything is served, and afterwards no transaction is
sent whose gas costs more than the host earns by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fabstir.primitives.ids import NATIVE_TOKEN, Address, ModelId
from fabstir.primitives.units import (
    BPS_DENOMINATOR,
    PRICE_PRECISION,
    BasisPoints,
    PricePerToken,
    TokenCount,
    Wei,
    tokens_for,
)

if TYPE_CHECKING:  # arithmetic needs no database, and imports in a bare Python
    from fabstir.db.host_sessions import SessionTerms

GAS_TO_CLAIM: Final = 310_000
"""The most that submitProofOfWork took, and a little more (docs/contracts.md)."""

GAS_TO_END: Final = 195_000
"""The most that completeSessionJob took, and a little more; triggerSessionTimeout takes less. Nodes
estimate more, because the contract wants more gas than it uses, so that no push is starved."""

INTERIM_RETURN: Final = 4
"""A claim in the middle of a session brings at least so many times its gas: a host that claimed as
soon as it broke even would spend all that it earns on gas."""

_NEVER: Final = TokenCount(1 << 62)
"""More tokens than any deposit pays for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTerms:
    """What this host asks of every session, whatever its renter wrote into it.

    Attributes:
        prices: what it asks, by payment token. Gas is paid in the chain's coin; what a token is
            worth in it follows from the two prices, which are for the same work.
        model_prices: the same for models with prices of their own.
        min_deposits: the host's own minimum, by payment token; on top of what settling costs.
        min_duration: seconds.
        max_unproven: tokens that may be delivered beyond the last proof; see `max_unproven_of`.
        fee: the treasury's share of what the host earns.
        min_proven: the contract takes no claim of fewer tokens.
    """

    prices: Mapping[Address, PricePerToken]
    model_prices: Mapping[ModelId, Mapping[Address, PricePerToken]] = field(
        default_factory=dict[ModelId, Mapping[Address, PricePerToken]]
    )
    min_deposits: Mapping[Address, Wei]
    min_proof_interval: TokenCount
    min_duration: int
    max_unproven: TokenCount
    fee: BasisPoints
    min_proven: TokenCount

    def prices_of(self, model_id: ModelId) -> Mapping[Address, PricePerToken]:
        """What it asks for a model, by payment token."""
        return self.model_prices.get(model_id, self.prices)

    def objection(self, terms: SessionTerms, gas_price: Wei) -> str | None:
        """Why a session is not served: the cause and what to open instead; None if it is.

        Args:
            gas_price: wei for a unit of gas now.
        """
        price = self.prices_of(terms.model_id).get(terms.payment_token)
        if not price:
            return f"this host has no price in {terms.payment_token}: pay in one that it has"
        if terms.price_per_token < price:
            return (
                f"its price is {terms.price_per_token} for a token and this host asks {price} "
                f"(in 1/{PRICE_PRECISION} of the smallest unit): open one at the host's price"
            )
        if terms.proof_interval < self.min_proof_interval:
            return (
                f"its proof interval is {terms.proof_interval} tokens and this host takes "
                f"{self.min_proof_interval} or more: open one with a longer interval"
            )
        if terms.max_duration < self.min_duration:
            return (
                f"it lasts {terms.max_duration} s and this host takes {self.min_duration} s or "
                "more: open a longer one"
            )
        needed = self._least_deposit(terms, gas_price)
        if terms.deposit < needed:
            return (
                f"its deposit is {terms.deposit} and must be {needed} at least, in smallest units "
                "of its token: less would not pay for its own settlement, or is below this host's "
                "minimum: open one with a larger deposit"
            )
        return None

    def _least_deposit(self, terms: SessionTerms, gas_price: Wei) -> Wei:
        tokens = self.min_claim(terms, TokenCount(0), gas_price)
        for_settling = -(-tokens * terms.price_per_token // PRICE_PRECISION)
        return Wei(max(for_settling, self.min_deposits.get(terms.payment_token, Wei(0))))

    def tokens_worth(self, gas: int, terms: SessionTerms, gas_price: Wei) -> TokenCount:
        """The fewest tokens of a session by which the host earns more than `gas` costs."""
        prices = self.prices_of(terms.model_id)
        price, coin_price = prices.get(terms.payment_token), prices[NATIVE_TOKEN]
        if not price or not coin_price or self.fee >= BPS_DENOMINATOR:
            return _NEVER
        in_token = gas * gas_price * price // coin_price + 1
        with_fee = -(-in_token * BPS_DENOMINATOR // (BPS_DENOMINATOR - self.fee))
        return TokenCount(-(-with_fee * PRICE_PRECISION // terms.price_per_token))

    def max_unproven_of(self, terms: SessionTerms, gas_price: Wei) -> TokenCount:
        """How many tokens may be delivered beyond the last proof.

        The host's own bound, and no more than the renter's interval, unless so few tokens are not
        worth the gas of a claim: then as many as are worth it INTERIM_RETURN times.
        """
        worth = self.tokens_worth(INTERIM_RETURN * GAS_TO_CLAIM, terms, gas_price)
        worth = max(worth, self.min_proven)
        # A claim goes out at three quarters of the bound.
        reachable = min(-(-worth * 4 // 3), tokens_for(terms.deposit, terms.price_per_token))
        return TokenCount(max(min(self.max_unproven, terms.proof_interval), reachable))

    def min_claim(self, terms: SessionTerms, proven: TokenCount, gas_price: Wei) -> TokenCount:
        """The fewest unproven tokens for which a last claim is sent.

        The first claim of a session must pay for its end as well, which nothing else would.
        """
        gas = GAS_TO_CLAIM if proven else GAS_TO_CLAIM + GAS_TO_END
        return TokenCount(max(self.min_proven, self.tokens_worth(gas, terms, gas_price)))

    def min_end(self, terms: SessionTerms, gas_price: Wei) -> TokenCount:
        """The fewest proven tokens for which the host ends a session itself."""
        return self.tokens_worth(GAS_TO_END, terms, gas_price)
