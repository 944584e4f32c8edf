"""Finding hosts: the registry on chain says who there is, the DHT who is online and where it moved.

Anybody can make identities in the DHT, thirty in a second; nobody makes a registered host without a
stake. So a peer that no registered host names costs a renter nothing, not even a dial, and a host
that is in the registry alone is found without any libp2p. What counts of a host is on chain (its
key, its price, its URL); what its door and its record say is compared with that. What a candidate
lacks is kept, so that an empty result can be explained.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

import anyio

from fabstir.chain.contracts import Contracts
from fabstir.market.selection import UNKNOWN, Candidate, HostHistory, choose, rank
from fabstir.primitives.errors import (
    ChainError,
    HostRecordInvalid,
    HostUnresponsive,
    ModelMissing,
    NoHostFound,
    PeerError,
    PeerUnreachable,
    RemoteProtocolError,
)
from fabstir.primitives.ids import Address, ChainId, PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord
from fabstir.sdk.door import Doors
from fabstir.sdk.money import PaymentToken
from fabstir.sdk.offers import HostOffer, Model
from fabstir.sdk.registered import MAX_PARALLEL_READS, RegisteredHost, Registry
from fabstir.sdk.transports import Transports

if TYPE_CHECKING:
    from fabstir.p2p import P2PNode  # loads libp2p

_logger = logging.getLogger(__name__)

FIND_TIMEOUT: Final = 15.0
"""Seconds for all of it: what was found by then is what there is."""

PEERS_SHARE: Final = 3
"""A third of that for a first libp2p peer: later there is no time left to ask it for anything."""

DHT_SHARE: Final = 2
"""Half of it for the DHT's answer, where one is needed to choose among many hosts."""

RECORD_TIMEOUT: Final = 5.0
"""Seconds for the record of one host whose registered URL does not answer."""

MEASURE_TIMEOUT: Final = 5.0
"""Seconds for all addresses of one host: a host that takes longer to say nothing is no offer."""

MAX_CANDIDATES: Final = 32
"""Hosts that are looked at: more than anyone compares, few enough for one RPC endpoint."""

MAX_PARALLEL: Final = MAX_CANDIDATES
"""Candidates examined at a time: all of them, so that none waits behind others that hang."""

MAX_LISTED: Final = 8
"""Candidates that an error names one by one; the others are counted."""

MAX_REASON_CHARS: Final = 300
"""Of each of these: some of it is a stranger's text."""


_DROPPED: Final = (PeerError, ChainError, RemoteProtocolError, HostUnresponsive, TimeoutError)
"""Why a candidate is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Looks for hosts in the registry and in the DHT.

    Attributes:
        histories: how hosts served this wallet before.
        random: draws among more hosts than are looked at.
    """

    p2p: P2PNode
    contracts: Contracts
    chain_id: ChainId
    crypto: Crypto
    transports: Transports
    doors: Doors
    histories: Callable[[], Awaitable[Mapping[Address, HostHistory]]]
    random: Random

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

        Args:
            timeout: seconds for all of it.

        Raises:
            NoHostFound: nobody can; says why each candidate was dropped.
            ChainError: the registry cannot be read.
        """
        search = _Search(self, model, token, timeout, await self.histories())
        with anyio.move_on_after(timeout) as scope:
            await search.run()
        if scope.cancelled_caught:
            search.problems.append(f"not all of them answered in {timeout:g} s")
        search.count_strangers()
        if not search.offers:
            raise _no_host(search)
        if search.rejected:
            _logger.info("candidates dropped", extra={"rejected": search.rejected})
        return search.ranked()


@dataclass(slots=True)
class _Search:
    """One search, with what it has found so far.

    Attributes:
        hosts: those of the registry that could serve.
        rejected: why candidates were dropped, by their wallet, or their peer id if no wallet
            stands behind it.
        problems: why there were not more of them.
        announced: peers that the DHT says serve the model.
        has_asked: set when the DHT has answered, or never will.
        reads: of the chain that go on at a time, of all the candidates together.
    """

    discovery: Discovery
    model: Model
    token: PaymentToken
    timeout: float
    histories: Mapping[Address, HostHistory]
    hosts: list[RegisteredHost] = field(default_factory=list[RegisteredHost])
    offers: dict[Address, HostOffer] = field(default_factory=dict[Address, HostOffer])
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    announced: set[PeerId] = field(default_factory=set[PeerId])
    has_asked: anyio.Event = field(default_factory=anyio.Event)
    reads: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(MAX_PARALLEL_READS)
    )

    async def run(self) -> None:
        registry = self._registry
        known = [
            host
            for host, history in self.histories.items()
            if history.num_served and not history.is_silent
        ]
        addresses = await registry.addresses(self.model.model_id, known)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask_dht)
            honest = [address for address in addresses if not self._has_overcharged(address)]
            self.hosts += await registry.hosts(honest, self.model.model_id, self.rejected)
            chosen = await self._choose(known)
            await self._for_each(self._try_registered_url, chosen)
            if not self.offers:
                await self.has_asked.wait()
            await self._try_records(chosen)
            tasks.cancel_scope.cancel()

    def ranked(self) -> tuple[HostOffer, ...]:
        """The offers, the best first."""
        ranked = rank(
            Candidate(
                host=offer.host,
                price_per_token=offer.price_per_token,
                latency=offer.latency,
                history=self.histories.get(offer.host, UNKNOWN),
            )
            for offer in self.offers.values()
        )
        return tuple(self.offers[candidate.host] for candidate in ranked)

    @property
    def _registry(self) -> Registry:
        discovery = self.discovery
        return Registry(
            nodes=discovery.contracts.nodes, crypto=discovery.crypto, random=discovery.random
        )

    def _has_overcharged(self, host: Address) -> bool:
        times = self.histories.get(host, UNKNOWN).num_overcharged
        if times:
            self.rejected[host] = (
                f"it was paid for more tokens than were agreed to, in {times} of this wallet's "
                "sessions"
            )
        return bool(times)

    # -- whom to look at ----------------------------------------------------------------------

    async def _ask_dht(self) -> None:
        p2p, patience = self.discovery.p2p, self.timeout / PEERS_SHARE
        started = anyio.current_time()
        try:
            await p2p.wait_for_peers(timeout=patience)
            left = self.timeout / DHT_SHARE - (anyio.current_time() - started)
            providers = await p2p.find_providers(self.model.model_id, timeout=left)
            self.announced.update(provider.peer_id for provider in providers)
        except TimeoutError:
            self.problems.append(
                f"no libp2p peer answered in {patience:g} s, so the DHT could not be asked for "
                "hosts: set p2p.bootstrap to the multiaddr of a running host or bootstrap peer"
            )
        except PeerError as error:
            self.problems.append(f"the DHT could not be asked for hosts: {error}")
        finally:
            self.has_asked.set()

    async def _choose(self, known: Sequence[Address]) -> list[RegisteredHost]:
        """Some that served well, then some that are online, then the rest by lot, never in the
        order of addresses, which can be ground; of many, MAX_CANDIDATES."""
        if len(self.hosts) > MAX_CANDIDATES:
            await self.has_asked.wait()
        by_address = {host.address: host for host in self.hosts}
        chosen = choose(
            list(by_address),
            known=known,
            announced=[host.address for host in self.hosts if host.peer_id in self.announced],
            limit=MAX_CANDIDATES,
            random=self.discovery.random,
        )
        return [by_address[address] for address in chosen]

    def count_strangers(self) -> None:
        """Peers of the DHT behind which no registered host stands were never dialled."""
        for peer_id in self.announced.difference(host.peer_id for host in self.hosts):
            self.rejected[peer_id] = "no host that is registered for the model has this peer id"

    # -- looking at one -----------------------------------------------------------------------

    async def _for_each(
        self, look: Callable[[RegisteredHost], Awaitable[None]], hosts: Sequence[RegisteredHost]
    ) -> None:
        limiter = anyio.CapacityLimiter(MAX_PARALLEL)

        async def look_at(host: RegisteredHost) -> None:
            async with limiter:
                self.rejected[host.address] = "it did not answer in time"
                try:
                    await look(host)
                    del self.rejected[host.address]
                except _DROPPED as error:
                    self.rejected[host.address] = str(error) or "it did not answer in time"

        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(look_at, host)

    async def _try_registered_url(self, host: RegisteredHost) -> None:
        await self._try_addresses(host, [host.api_url], host.api_url)

    async def _try_records(self, hosts: Sequence[RegisteredHost]) -> None:
        """Hosts whose registered URL does not answer, but of which the DHT says that they serve."""
        before = dict(self.rejected)
        absent = [host for host in hosts if host.address in before]
        await self._for_each(
            self._try_record, [host for host in absent if host.peer_id in self.announced]
        )
        for host in absent:
            if (
                host.address in self.rejected
                and before[host.address] != self.rejected[host.address]
            ):
                self.rejected[host.address] = (
                    f"{before[host.address]}; {self.rejected[host.address]}"
                )

    async def _try_record(self, host: RegisteredHost) -> None:
        record = await self.discovery.p2p.get_host_record(host.peer_id, timeout=RECORD_TIMEOUT)
        self._check_record(record, host)
        others = [
            address
            for address in record.all_addresses
            if address != host.api_url and self.discovery.transports.can_dial(address)
        ]
        if not others:
            raise PeerUnreachable("its record names no other address that can be dialled")
        await self._try_addresses(host, others, record.api_url)

    def _check_record(self, record: HostRecord, host: RegisteredHost) -> None:
        """The record is the registered host's, and speaks of this chain and model."""
        registry = self.discovery.contracts.nodes.address
        if (record.chain_id, record.registry) != (self.discovery.chain_id, registry):
            raise HostRecordInvalid(
                f"the record is for registry {record.registry} on chain {record.chain_id}, not "
                f"for {registry} on chain {self.discovery.chain_id}"
            )
        if record.host != host.address:
            raise HostRecordInvalid(f"the record of its peer id is made out to {record.host}")
        if all(offered.model_id != self.model.model_id for offered in record.models):
            raise HostRecordInvalid(f"the record does not offer {self.model.name}")

    async def _try_addresses(
        self, host: RegisteredHost, addresses: Sequence[str], api_url: str
    ) -> None:
        """Ask its HTTP door what it serves, and measure how sessions would get there."""
        discovery, model = self.discovery, self.model
        async with self.reads:
            price = await discovery.contracts.nodes.price(
                host.address, model.model_id, self.token.address
            )
        if price is None:
            raise PeerUnreachable(f"{host.address} sells nothing for {self.token.symbol}")
        answer = await discovery.doors.answer_of(api_url, model.model_id, host.public_key)
        measured = await discovery.transports.measure(
            addresses, host.address, timeout=MEASURE_TIMEOUT
        )
        self.offers[host.address] = HostOffer(
            host=host.address,
            peer_id=host.peer_id,
            api_url=api_url,
            addresses=tuple(each.address for each in measured),
            public_key=host.public_key,
            model=model,
            max_model_len=answer.max_model_len,
            token=self.token,
            price_per_token=price,
            latency=measured[0].latency,
        )


def _no_host(search: _Search) -> NoHostFound:
    rejected = search.rejected
    listed = sorted(rejected.items())[:MAX_LISTED]
    reasons = [f"{who}: {reason[:MAX_REASON_CHARS]}" for who, reason in listed]
    if len(rejected) > MAX_LISTED:
        reasons.append(f"and {len(rejected) - MAX_LISTED} more")
    if not rejected:
        reasons.append("no host is registered for it, and nobody in the DHT says that it serves it")
    text = "; ".join([*reasons, *search.problems])
    return NoHostFound(
        f"no host serves {search.model.name} for {search.token.symbol} now ({text}): try again "
        "later, or with another model or payment token",
        rejected,
    )
