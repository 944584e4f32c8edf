"""Functions of the contracts that only tests use: their wrappers with these added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabstir.chain.contracts.erc20 import Erc20
from fabstir.chain.contracts.marketplace import Marketplace, SessionOffer
from fabstir.chain.contracts.registries import ModelRegistry, NodeRegistry
from fabstir.chain.devnet import Devnet
from fabstir.chain.records import ContractCall
from fabstir.primitives.ids import Address, JobId, ModelId, to_bytes
from fabstir.primitives.units import TokenCount, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositLimits:
    """Between what and what a session's deposit in one ERC-20 must be."""

    is_accepted: bool
    minimum: Wei
    maximum: Wei


class MarketplaceCalls(Marketplace):
    """JobMarketplace with what no host or renter of ours does."""

    async def deposit_limits(self, token: Address) -> DepositLimits:
        """What sessions in this ERC-20 may lock."""
        return DepositLimits(
            is_accepted=await self._read_one("acceptedTokens", token),
            minimum=Wei(await self._read_one("tokenMinDeposits", token)),
            maximum=Wei(await self._read_one("tokenMaxDeposits", token)),
        )

    async def next_job_id(self) -> JobId:
        """The number that the next session gets."""
        return JobId(await self._read_one("nextJobId"))

    def create_session_from_deposit(self, offer: SessionOffer) -> ContractCall:
        """Lock money that the sender deposited here before."""
        return self._call(
            f"opening a session with {offer.host} from the deposit",
            "createSessionFromDepositForModel",
            to_bytes(offer.model_id),
            offer.host,
            offer.payment_token,
            offer.deposit,
            *offer.terms,
        )

    def create_session_as_delegate(self, payer: Address, offer: SessionOffer) -> ContractCall:
        """Lock a payer's ERC-20, by its allowance; refunds go to the payer."""
        return self._call(
            f"opening a session with {offer.host} for {payer}",
            "createSessionForModelAsDelegate",
            payer,
            to_bytes(offer.model_id),
            offer.host,
            offer.payment_token,
            offer.deposit,
            *offer.terms,
        )

    def authorize_delegate(self, delegate: Address, *, authorized: bool) -> ContractCall:
        """Let an account open sessions with the sender's ERC-20, or stop it."""
        verb = "authorizing" if authorized else "revoking"
        return self._call(f"{verb} delegate {delegate}", "authorizeDelegate", delegate, authorized)

    def withdraw_treasury(self, tokens: Sequence[Address]) -> ContractCall:
        """Take out the fees in native coin and these tokens. The treasury only."""
        return self._call("withdrawing fees", "withdrawAllTreasuryFees", list(tokens))


def marketplace_calls(devnet: Devnet) -> MarketplaceCalls:
    """Of a development chain."""
    return MarketplaceCalls(devnet.chain, devnet.contracts.marketplace.address)


class NodeRegistryCalls(NodeRegistry):
    """NodeRegistry with what no host of ours does."""

    async def active_nodes(self) -> list[Address]:
        """Every host that is registered now."""
        return [Address(node) for node in await self._read_one("getAllActiveNodes")]

    def clear_price(self, model: ModelId, token: Address) -> ContractCall:
        """Stop selling a model for a token."""
        return self._call(
            f"clearing the price of {model} in {token}",
            "clearModelTokenPricing",
            to_bytes(model),
            token,
        )


class ModelRegistryCalls(ModelRegistry):
    """ModelRegistry with what nobody reads."""

    async def rate_limit(self, model: ModelId) -> TokenCount:
        """How many tokens per second one session of the model may claim."""
        return TokenCount(await self._read_one("getModelRateLimit", to_bytes(model)))


class Erc20Calls(Erc20):
    """A token with what no host or renter of ours does."""

    def transfer(self, to: Address, amount: Wei) -> ContractCall:
        """Send tokens."""
        return self._call(f"sending {amount} to {to}", "transfer", to, amount)
