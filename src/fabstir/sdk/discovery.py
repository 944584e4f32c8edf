"""Finding hosts: who says in the DHT that it serves a model, and what the chain says of it.

A record is a hint. What counts is the registry: that the wallet which signed the record is an
active host for this model, which key and peer id it registered, and its price. What a candidate
lacks is kept, so that an empty result can be explained.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx

from fabstir.chain.contracts import Contracts, NodeInfo
from fabstir.market.selection import Candidate, rank
from fabstir.p2p import P2PNode, Provider
from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import (
    AddressRefused,
    ChainError,
    HostRecordInvalid,
    ModelMissing,
    NoHostFound,
    PeerError,
    PeerUnreachable,
    RemoteProtocolError,
)
from fabstir.primitives.ids import ChainId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord
from fabstir.protocol.limits import MAX_JSON_DEPTH
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.offers import HostOffer, Model
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.client import WebTransport
from fabstir.web.reach import Reach

_logger = logging.getLogger(__name__)

FIND_TIMEOUT: Final = 15.0
"""Seconds for finding providers; each candidate's record may take as long again."""

LATENCY_TIMEOUT: Final = 5.0
"""Seconds for the two requests with which a host's round trip is measured."""

MAX_CANDIDATES: Final = 32
"""Providers that are looked at: more than anyone compares, few enough for one RPC endpoint."""

MAX_PARALLEL: Final = 8
"""Candidates examined at a time."""


def open_hosts_client(reach: Reach) -> httpx.AsyncClient:
    """The client for URLs that hosts name in their records. It follows no redirects."""
    limits = httpx.Limits(max_connections=2 * MAX_PARALLEL)
    return httpx.AsyncClient(transport=WebTransport(reach, limits=limits), trust_env=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Looks for hosts in the DHT and checks them on chain."""

    p2p: P2PNode
    contracts: Contracts
    chain_id: ChainId
    crypto: Crypto
    http: httpx.AsyncClient

    async def resolve_model(self, name: str | None) -> Model:
        """The approved model that is called so; None: the only one there is.

        Raises:
            ModelMissing: there is no such model, or more than one; the text lists all.
        """
        models = [model for model in await self.models() if name is None or model.is_called(name)]
        if len(models) == 1:
            return models[0]
        listed = ", ".join(sorted(model.name for model in models or await self.models())) or "none"
        if name is None or models:
            raise ModelMissing(f"say which model is meant; approved on this chain: {listed}")
        raise ModelMissing(
            f"no model called {name!r} is approved on this chain; approved are: {listed}"
        )

    async def models(self) -> list[Model]:
        """Every model for which sessions can be opened."""
        registry = self.contracts.models
        found: list[Model] = []
        for model_id in await registry.models():
            entry = await registry.model(model_id)
            if entry is not None and entry.is_active:
                found.append(
                    Model(model_id=model_id, repo=entry.repo, file=entry.file, digest=entry.sha256)
                )
        return found

    async def find(
        self, model: Model, token: PaymentToken, *, timeout: float = FIND_TIMEOUT
    ) -> tuple[HostOffer, ...]:
        """Every host that can serve the model for this token now, the best first.

        Raises:
            NoHostFound: nobody can; says why each candidate was dropped.
        """
        providers = await self._providers(model, timeout)
        offers: list[HostOffer] = []
        rejected: dict[str, str] = {}
        limiter = anyio.CapacityLimiter(MAX_PARALLEL)

        async def examine(provider: Provider) -> None:
            async with limiter:
                try:
                    offers.append(await self._examine(provider, model, token, timeout))
                except (PeerError, ChainError, RemoteProtocolError) as error:
                    rejected[provider.peer_id] = str(error)

        async with anyio.create_task_group() as tasks:
            for provider in providers[:MAX_CANDIDATES]:
                tasks.start_soon(examine, provider)
        if not offers:
            raise _no_host(model, token, rejected)
        if rejected:
            _logger.info("candidates dropped", extra={"rejected": rejected})
        return _ranked(offers)

    async def _providers(self, model: Model, timeout: float) -> tuple[Provider, ...]:
        try:
            await self.p2p.wait_for_peers(timeout=timeout)
        except TimeoutError as exc:
            raise NoHostFound(
                f"no libp2p peer answered in {timeout:g} s, so nobody could be asked for hosts: "
                "set p2p.bootstrap to the multiaddr of a running host or bootstrap peer"
            ) from exc
        return await self.p2p.find_providers(model.model_id, timeout=timeout)

    async def _examine(
        self, provider: Provider, model: Model, token: PaymentToken, timeout: float
    ) -> HostOffer:
        record = await self.p2p.get_host_record(provider.peer_id, timeout=timeout)
        max_model_len = self._check_record(record, model)
        node = await self.contracts.nodes.node(record.host)
        if node is None or not node.is_active:
            raise HostRecordInvalid(f"{record.host} is not registered (any more)")
        if model.model_id not in node.models:
            raise HostRecordInvalid(f"{record.host} is not registered for {model.name}")
        public_key = self._public_key(node, record)
        price = await self.contracts.nodes.price(record.host, model.model_id, token.address)
        if price is None:
            raise PeerUnreachable(f"{record.host} sells nothing for {token.symbol}")
        return HostOffer(
            host=record.host,
            peer_id=record.peer_id,
            api_url=record.api_url,
            public_key=public_key,
            model=model,
            max_model_len=max_model_len,
            token=token,
            price_per_token=price,
            latency=await self.measure_latency(record.api_url),
        )

    def _check_record(self, record: HostRecord, model: Model) -> int:
        """The record speaks of this chain and model; returns the context that it offers."""
        registry = self.contracts.nodes.address
        if (record.chain_id, record.registry) != (self.chain_id, registry):
            raise HostRecordInvalid(
                f"the record is for registry {record.registry} on chain {record.chain_id}, not "
                f"for {registry} on chain {self.chain_id}"
            )
        for offered in record.models:
            if offered.model_id == model.model_id:
                return offered.max_model_len
        raise HostRecordInvalid(f"the record does not offer {model.name}")

    def _public_key(self, node: NodeInfo, record: HostRecord) -> bytes:
        """The key in the registry's metadata, whose peer id must be the record's."""
        try:
            metadata: Any = parse_json(node.metadata, max_depth=MAX_JSON_DEPTH)
            key, peer_id = bytes.fromhex(metadata["publicKey"]), metadata["peerId"]
            self.crypto.address_of(key)
        except (ValueError, TypeError, KeyError) as exc:
            raise HostRecordInvalid(
                f"{node.operator} has no usable publicKey and peerId in its registered metadata"
            ) from exc
        if peer_id != record.peer_id:
            raise HostRecordInvalid(
                f"{node.operator} registered peer {peer_id}, the record is of {record.peer_id}"
            )
        return key

    async def measure_latency(self, api_url: str) -> float:
        """Seconds of one round trip on an open connection.

        Raises:
            PeerUnreachable: it does not answer, or says itself that it cannot serve.
        """
        try:
            url = str(parse_strangers_url(api_url)).rstrip("/")
            with anyio.fail_after(LATENCY_TIMEOUT):
                # This one also opens the connection (and TLS), which sessions do only once.
                health = await self.http.get(f"{url}/v1/health")
                started = time.monotonic()
                await self.http.get(f"{url}/v1/version")
                latency = time.monotonic() - started
        except AddressRefused as exc:
            raise PeerUnreachable(f"its URL {api_url} is not fetched: {exc}") from exc
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
            reason = str(exc) or type(exc).__name__
            raise PeerUnreachable(f"{api_url} does not answer: {reason}") from exc
        if not health.is_success:
            raise PeerUnreachable(f"{api_url} is not healthy: HTTP {health.status_code}")
        return latency


def _ranked(offers: list[HostOffer]) -> tuple[HostOffer, ...]:
    """Several peers may speak for one wallet: each wallet once, by its nearest door."""
    by_host = {offer.host: offer for offer in sorted(offers, key=lambda o: o.latency, reverse=True)}
    ranked = rank(
        Candidate(host=o.host, price_per_token=o.price_per_token, latency=o.latency)
        for o in by_host.values()
    )
    return tuple(by_host[candidate.host] for candidate in ranked)


def _no_host(model: Model, token: PaymentToken, rejected: dict[str, str]) -> NoHostFound:
    if not rejected:
        text = "nobody in the DHT says that it serves it"
    else:
        text = "; ".join(f"{peer}: {reason}" for peer, reason in sorted(rejected.items()))
    return NoHostFound(
        f"no host serves {model.name} for {token.symbol} now ({text}): try again later, or with "
        "another model or payment token",
        rejected,
    )
