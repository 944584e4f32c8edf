"""NodeRegistryWithModels and ModelRegistry: who serves what, and which models there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fabstir.chain.contracts._contract import Contract
from fabstir.chain.records import ContractCall
from fabstir.crypto import NATIVE
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import Address, Hash32, ModelId, hash32, to_bytes
from fabstir.primitives.units import PricePerToken, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A host as it registered itself."""

    operator: Address
    staked_amount: Wei
    """FAB, in its smallest unit."""
    is_active: bool
    metadata: str
    """JSON by convention; anybody's text in fact."""
    api_url: str
    models: tuple[ModelId, ...]
    min_price_native: PricePerToken
    min_price_stable: PricePerToken


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRegistration:
    """What a host says of itself when it registers."""

    metadata: str
    api_url: str
    models: tuple[ModelId, ...]
    min_price_native: PricePerToken
    min_price_stable: PricePerToken


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceLimits:
    """Between what and what the registry accepts prices."""

    min_native: PricePerToken
    max_native: PricePerToken
    min_stable: PricePerToken
    max_stable: PricePerToken


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedModel:
    """A model as the registry lists it."""

    repo: str
    file: str
    sha256: Hash32
    """Of the file's bytes."""
    tier: int
    """1: listed by the owner; 2: voted for."""
    is_active: bool
    timestamp: int


class NodeRegistry(Contract):
    """Hosts, their stakes, models and prices."""

    artifact = "NodeRegistryWithModels"

    async def node(self, operator: Address) -> NodeInfo | None:
        """A host's entry; None if it is not registered."""
        values = await self._read("getNodeFullInfo", operator)
        if Address(values[0]) != operator:
            return None
        return NodeInfo(
            operator=Address(values[0]),
            staked_amount=Wei(values[1]),
            is_active=values[2],
            metadata=values[3],
            api_url=values[4],
            models=tuple(ModelId(hash32(model)) for model in values[5]),
            min_price_native=PricePerToken(values[6]),
            min_price_stable=PricePerToken(values[7]),
        )

    async def is_active(self, operator: Address) -> bool:
        """Whether sessions can be opened with it."""
        return bool(await self._read_one("isActiveNode", operator))

    async def hosts_for(self, model: ModelId) -> list[Address]:
        """Every host that says it serves this model."""
        return [Address(node) for node in await self._read_one("getNodesForModel", to_bytes(model))]

    async def price(
        self, operator: Address, model: ModelId, token: Address
    ) -> PricePerToken | None:
        """The host's price for a model in a token; None if it set none."""
        try:
            value = await self._read_one("getModelPricing", operator, to_bytes(model), token)
        except TransactionReverted as exc:
            if "no model pricing" in exc.reason.lower():
                return None
            raise
        return PricePerToken(value) if value else None

    async def price_limits(self) -> PriceLimits:
        """The registry's constants."""
        return PriceLimits(
            min_native=PricePerToken(await self._read_one("MIN_PRICE_PER_TOKEN_NATIVE")),
            max_native=PricePerToken(await self._read_one("MAX_PRICE_PER_TOKEN_NATIVE")),
            min_stable=PricePerToken(await self._read_one("MIN_PRICE_PER_TOKEN_STABLE")),
            max_stable=PricePerToken(await self._read_one("MAX_PRICE_PER_TOKEN_STABLE")),
        )

    async def min_stake(self) -> Wei:
        """How much FAB registering takes; the registry needs an allowance of as much."""
        return Wei(await self._read_one("MIN_STAKE"))

    def register(self, registration: NodeRegistration) -> ContractCall:
        """Register the sender; takes the stake from its FAB allowance."""
        return self._call(
            "registering as a host",
            "registerNode",
            registration.metadata,
            registration.api_url,
            [to_bytes(model) for model in registration.models],
            registration.min_price_native,
            registration.min_price_stable,
        )

    def unregister(self) -> ContractCall:
        """Leave; the stake comes back at once."""
        return self._call("unregistering the host", "unregisterNode")

    def set_price(self, model: ModelId, token: Address, price: PricePerToken) -> ContractCall:
        """Set the sender's price. Without it nobody can open a session for model and token."""
        return self._call(
            f"setting the price of {model} in {token}",
            "setModelTokenPricing",
            to_bytes(model),
            token,
            price,
        )

    def update_metadata(self, metadata: str) -> ContractCall:
        """Replace the sender's metadata."""
        return self._call("updating the metadata", "updateMetadata", metadata)

    def update_api_url(self, api_url: str) -> ContractCall:
        """Replace the sender's URL."""
        return self._call("updating the API URL", "updateApiUrl", api_url)

    def update_models(self, models: Sequence[ModelId]) -> ContractCall:
        """Replace the sender's models."""
        ids = [to_bytes(model) for model in models]
        return self._call("updating the models", "updateSupportedModels", ids)


class ModelRegistry(Contract):
    """The models that sessions may be opened for."""

    artifact = "ModelRegistry"

    @staticmethod
    def model_id(repo: str, file: str) -> ModelId:
        """keccak-256 of "repo/file", as the contract computes it."""
        return ModelId(hash32(NATIVE.keccak256(f"{repo}/{file}".encode())))

    async def is_approved(self, model: ModelId) -> bool:
        """Whether new sessions may name it."""
        return bool(await self._read_one("isModelApproved", to_bytes(model)))

    async def model(self, model: ModelId) -> ApprovedModel | None:
        """A model's entry; None if it was never listed."""
        values = await self._read_one("getModel", to_bytes(model))
        if not values[5]:
            return None
        return ApprovedModel(
            repo=values[0],
            file=values[1],
            sha256=hash32(values[2]),
            tier=values[3],
            is_active=values[4],
            timestamp=values[5],
        )

    async def models(self) -> list[ModelId]:
        """Every model ever listed."""
        return [ModelId(hash32(model)) for model in await self._read_one("getAllModels")]

    def add_trusted(self, repo: str, file: str, sha256: Hash32) -> ContractCall:
        """List a model. The owner only."""
        return self._call(
            f"approving {repo}/{file}", "addTrustedModel", repo, file, to_bytes(sha256)
        )
