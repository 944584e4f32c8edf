"""What the market offers, as the renter compares it."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.ids import Address, Hash32, ModelId, PeerId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, price_per_million
from fabstir.protocol.model_names import is_model_called
from fabstir.sdk.money import PaymentToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An approved model.

    Attributes:
        digest: sha256 of the file's bytes, from the registry.
    """

    model_id: ModelId
    repo: str
    file: str
    digest: Hash32

    @property
    def name(self) -> str:
        """As existing clients call it."""
        return f"{self.repo}:{self.file}"

    def is_called(self, name: str) -> bool:
        """See `is_model_called`."""
        return is_model_called(name, model_id=self.model_id, repo=self.repo, file=self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOffer:
    """One host that can serve a model now; everything in it was checked against the chain.

    Attributes:
        public_key: to which handshakes are encrypted; from the registry's metadata.
        max_model_len: tokens of context, as the host says.
        price_per_token: on chain, in `token`.
        addresses: where it answered, the quickest first.
        latency: seconds of one round trip to the first of them, measured by its own transport.
    """

    host: Address
    peer_id: PeerId
    api_url: str
    addresses: tuple[str, ...]
    public_key: bytes
    model: Model
    max_model_len: int
    token: PaymentToken
    price_per_token: PricePerToken
    latency: float

    @property
    def price_per_million(self) -> Wei:
        """Of a million completion tokens, in the payment token's smallest unit."""
        return price_per_million(self.price_per_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What opening a session would mean, before anything is sent. Amounts in smallest units.

    Attributes:
        max_tokens: completion tokens that the deposit pays for.
        gas_to_open: wei of the native coin, at the fee that is offered now.
        gas_to_close: the same, if the host does not settle and we have to.
    """

    offer: HostOffer
    deposit: Wei
    max_tokens: TokenCount
    gas_to_open: Wei
    gas_to_close: Wei
