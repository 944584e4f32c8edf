"""Being registered: stake, entry and prices on chain, brought in line with the settings."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from fabstir.chain.contracts import Contracts, NodeInfo, NodeRegistration, PriceLimits
from fabstir.chain.records import ContractCall
from fabstir.chain.transactions import TransactionQueue
from fabstir.primitives.encoding import Json, canonical_json, parse_json
from fabstir.primitives.errors import ConfigError, InsufficientFunds
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ModelId, PeerId
from fabstir.primitives.units import FAB_DECIMALS, PricePerToken, Wei
from fabstir.protocol.limits import MAX_JSON_DEPTH
from fabstir.web.addresses import is_loopback
from fabstir.web.client import WebTransport, named_by_user
from fabstir.web.reach import STRANGERS, Reach

_logger = logging.getLogger(__name__)

_REACH_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """What this host wants the registry to say of it.

    Attributes:
        prices: of each model, per payment token, in 1/PRICE_PRECISION smallest units per token.
        encryption_public_key: 33 bytes; renters encrypt their handshakes to it.
    """

    api_url: str
    prices: Mapping[ModelId, Mapping[Address, PricePerToken]]
    peer_id: PeerId
    encryption_public_key: bytes
    location: str
    max_concurrent: int

    def metadata(self) -> str:
        """The JSON that existing clients read from the registry."""
        value: Json = {
            "hardware": {"gpu": "", "vram": 0, "ram": 0},
            "capabilities": ["text-generation"],
            "location": self.location,
            "maxConcurrent": self.max_concurrent,
            "costPerToken": 0,
            "publicKey": self.encryption_public_key.hex(),
            "peerId": self.peer_id,
        }
        return canonical_json(value).decode()

    @property
    def models(self) -> tuple[ModelId, ...]:
        """All that it serves."""
        return tuple(self.prices)

    def least_price_in(self, token: Address) -> PricePerToken:
        """The price of the cheapest model in one payment token."""
        return min(prices[token] for prices in self.prices.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationPlan:
    """What registering would do, shown to the owner before anything is sent.

    Attributes:
        stake: FAB, in its smallest unit; comes back when the host unregisters.
        reachability: whether renters elsewhere can reach `entry.api_url`, in words.
    """

    account: Address
    stake: Wei
    entry: HostEntry
    reachability: str


Confirm = Callable[[RegistrationPlan], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrar:
    """Keeps this host's entry in the registry as its settings say."""

    contracts: Contracts
    queue: TransactionQueue

    @property
    def account(self) -> Address:
        """The host's wallet."""
        return self.queue.signer.address

    async def ensure(self, entry: HostEntry, confirm: Confirm) -> bool:
        """Register, or update what differs. Returns whether anything was sent.

        Raises:
            ConfigError: the owner said no, or a price is outside the registry's limits.
            InsufficientFunds: not enough FAB for the stake.
        """
        await self._check_models(entry)
        node = await self.contracts.nodes.node(self.account)
        if node is not None and node.is_active:
            return await self._update(node, entry)
        stake = await self.contracts.nodes.min_stake()
        available = await self.contracts.fab.balance(self.account)
        if available < stake:
            raise InsufficientFunds(self.account, stake, available, "FAB", decimals=FAB_DECIMALS)
        plan = RegistrationPlan(
            account=self.account,
            stake=stake,
            entry=entry,
            reachability=await describe_reachability(entry.api_url),
        )
        if not await confirm(plan):
            raise ConfigError(
                f"{self.account} is not registered as a host and was not told to register: "
                "run `fabstir register`, or set host.auto_register = true"
            )
        await self._register(entry, stake)
        return True

    async def unregister(self) -> Wei:
        """Leave the registry; returns the stake that came back.

        Raises:
            ConfigError: this account is not registered.
        """
        node = await self.contracts.nodes.node(self.account)
        if node is None:
            raise ConfigError(f"{self.account} is not registered as a host: there is no stake")
        await self._send("unregister", self.contracts.nodes.unregister())
        return node.staked_amount

    async def _check_models(self, entry: HostEntry) -> None:
        """Refuse what the registry would refuse in the middle of several transactions."""
        for model_id in entry.models:
            if not await self.contracts.models.is_approved(model_id):
                raise ConfigError(
                    f"model {model_id} is not approved in the model registry "
                    f"{self.contracts.deployment.model_registry}: serve an approved one"
                )
        limits = await self.contracts.nodes.price_limits()
        for model_id, prices in entry.prices.items():
            for token, price in prices.items():
                _check_price(model_id, token, price, limits)

    async def _register(self, entry: HostEntry, stake: Wei) -> None:
        nodes = self.contracts.nodes
        if await self.contracts.fab.allowance(self.account, nodes.address) < stake:
            await self._send("approve", self.contracts.fab.approve(nodes.address, stake))
        registration = NodeRegistration(
            metadata=entry.metadata(),
            api_url=entry.api_url,
            models=entry.models,
            min_price_native=entry.least_price_in(NATIVE_TOKEN),
            min_price_stable=entry.least_price_in(self.contracts.usdc.address),
        )
        await self._send("register", nodes.register(registration))
        await self._set_prices(entry)
        _logger.info("registered as a host", extra={"account": self.account, "stake": stake})

    async def _update(self, node: NodeInfo, entry: HostEntry) -> bool:
        nodes = self.contracts.nodes
        calls: list[tuple[str, ContractCall]] = []
        if _json(node.metadata) != _json(entry.metadata()):
            calls.append(("metadata", nodes.update_metadata(entry.metadata())))
        if node.api_url != entry.api_url:
            calls.append(("url", nodes.update_api_url(entry.api_url)))
        if set(entry.models) != set(node.models):
            calls.append(("models", nodes.update_models(entry.models)))
        for name, call in calls:
            await self._send(name, call)
        return await self._set_prices(entry) or bool(calls)

    async def _set_prices(self, entry: HostEntry) -> bool:
        nodes, changed = self.contracts.nodes, False
        for model_id, prices in entry.prices.items():
            for token, price in prices.items():
                if await nodes.price(self.account, model_id, token) != price:
                    await self._send("price", nodes.set_price(model_id, token, price))
                    changed = True
        return changed

    async def _send(self, action: str, call: ContractCall) -> None:
        # Each run decides anew from what the chain says, so each intention is a new one.
        await self.queue.send(f"{self.contracts.nodes.address}:{action}:{uuid4().hex}", call)


def _check_price(
    model_id: ModelId, token: Address, price: PricePerToken, limits: PriceLimits
) -> None:
    is_native = token == NATIVE_TOKEN
    low = limits.min_native if is_native else limits.min_stable
    high = limits.max_native if is_native else limits.max_stable
    if not low <= price <= high:
        name = "price_native_per_million" if is_native else "price_usdc_per_million"
        raise ConfigError(
            f"host.{name}, or that of model {model_id}, is outside what the registry takes: "
            f"{price} per 1,000 tokens is not between {low} and {high}"
        )


def _json(text: str) -> object:
    try:
        return parse_json(text, max_depth=MAX_JSON_DEPTH)
    except ValueError:
        return text


async def describe_reachability(api_url: str) -> str:
    """Whether renters elsewhere can reach this URL, as far as this machine can tell."""
    host = urlsplit(api_url).hostname or ""
    if is_loopback(host):
        return f"{api_url} is a loopback address: only programs on this machine can reach it"
    try:
        transport = WebTransport(Reach(), limits=httpx.Limits(), trust_env=True)
        async with httpx.AsyncClient(transport=transport, timeout=_REACH_TIMEOUT) as client:
            answer = await client.get(api_url + "/v1/health", extensions=named_by_user(api_url))
            answer.raise_for_status()
    except httpx.HTTPError as error:
        return (
            f"{api_url} does not answer ({type(error).__name__}): renters will not reach it; "
            "open the port in your router, or correct host.api_url"
        )
    if not STRANGERS.may_be_reached(host):
        return f"{api_url} is a private address: only your own network can reach it"
    return f"{api_url} answers from this machine; whether it does from outside, a renter must try"
