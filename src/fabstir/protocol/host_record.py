"""The signed record with which a host is found in the DHT.

Stored under /fabstir-host/<peer id>. The wallet that is registered on chain signs it, so a peer
cannot speak for another host; it expires, so a host that left is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, Hash32, ModelId, PeerId
from fabstir.primitives.units import PricePerToken
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain, is_signed_by, sign_digest, struct_hash, typed_digest
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_HOST_RECORD_ADDRESSES,
    MAX_HOST_RECORD_BYTES,
    MAX_HOST_RECORD_MODELS,
)

HOST_RECORD_TYPE = "HostRecord(address host,bytes32 content,uint64 sequence,uint64 expiresAt)"
_MAX_TEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HostModel:
    """One model on offer.

    Attributes:
        prices: per payment token (NATIVE_TOKEN for the chain's coin), per language-model token;
            decoded in ascending order of the token's address.
        max_model_len: tokens of context for one session.
    """

    model_id: ModelId
    name: str
    max_model_len: int
    prices: tuple[tuple[Address, PricePerToken], ...]

    def to_json(self) -> Json:
        prices: dict[str, Json] = {token: str(price) for token, price in self.prices}
        return {
            "modelId": self.model_id,
            "name": self.name,
            "maxModelLen": self.max_model_len,
            "prices": prices,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        prices = fields.child("prices")
        if len(prices.raw) > MAX_HOST_RECORD_MODELS:
            raise RemoteProtocolError(f"{prices.where} has too many payment tokens")
        return cls(
            model_id=ModelId(fields.hash32("modelId")),
            name=fields.text("name", limit=_MAX_TEXT),
            max_model_len=fields.integer("maxModelLen", limit=1 << 32),
            prices=tuple(
                (Fields({"token": token}, prices.where).address("token"),
                 PricePerToken(prices.integer(token)))
                for token in sorted(prices.raw)
            ),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """Who a host is, where it answers and what it sells.

    Attributes:
        host: its wallet, as registered in NodeRegistry.
        addresses: libp2p multiaddrs, without the /p2p part.
        api_url: where its WebSocket and HTTP doors are.
        sequence: a later record has a higher one.
        expires_at: Unix time in seconds.
    """

    host: Address
    peer_id: PeerId
    addresses: tuple[str, ...]
    api_url: str
    models: tuple[HostModel, ...]
    chain_id: ChainId
    registry: Address
    sequence: int
    expires_at: int

    @property
    def all_addresses(self) -> tuple[str, ...]:
        """Wherever it can be dialled: its URL, then its multiaddrs, each with the peer id."""
        urls = (self.api_url,) if self.api_url else ()
        return (*urls, *(f"{address}/p2p/{self.peer_id}" for address in self.addresses))

    def _content(self) -> Json:
        return {
            "host": self.host,
            "peerId": self.peer_id,
            "addresses": list(self.addresses),
            "apiUrl": self.api_url,
            "models": [model.to_json() for model in self.models],
            "chainId": self.chain_id,
            "registry": self.registry,
            "sequence": self.sequence,
            "expiresAt": self.expires_at,
        }

    def digest(self, crypto: Crypto) -> Hash32:
        """What the wallet signs."""
        content = "0x" + crypto.keccak256(canonical_json(self._content())).hex()
        values = (self.host, content, self.sequence, self.expires_at)
        struct = struct_hash(HOST_RECORD_TYPE, values, crypto)
        return typed_digest(Domain(self.chain_id, self.registry), struct, crypto)

    def encode_signed(self, secret_key: bytes, crypto: Crypto) -> bytes:
        """The record's bytes in the DHT."""
        return self._signed_bytes(sign_digest(secret_key, self.digest(crypto), crypto))

    def _signed_bytes(self, signature: bytes) -> bytes:
        return canonical_json({"record": self._content(), "signature": "0x" + signature.hex()})

    @classmethod
    def decode(cls, data: bytes, crypto: Crypto) -> Self:
        """Parse and check the signature. Expiry and the registry are the caller's to check.

        Raises:
            RemoteProtocolError: malformed, too long, not in canonical form, or not signed by the
                wallet it names.
        """
        if len(data) > MAX_HOST_RECORD_BYTES:
            raise RemoteProtocolError(f"host record is longer than {MAX_HOST_RECORD_BYTES} bytes")
        outer = Fields.parse(data, "host record")
        record = cls._from_fields(outer.child("record"))
        signature = outer.hex("signature", size=65)
        if not is_signed_by(record.host, signature, record.digest(crypto), crypto):
            raise RemoteProtocolError("host record is not signed by the wallet it names")
        # One byte form a record: else a peer could add a second spelling of a payment token, with
        # another price, to bytes whose signature still holds.
        if data != record._signed_bytes(signature):
            raise RemoteProtocolError("host record is not in its canonical form")
        return record

    @classmethod
    def _from_fields(cls, fields: Fields) -> Self:
        models = fields.children("models", limit=MAX_HOST_RECORD_MODELS)
        return cls(
            host=fields.address("host"),
            peer_id=PeerId(fields.text("peerId", limit=128)),
            addresses=fields.texts("addresses", limit=MAX_HOST_RECORD_ADDRESSES, chars=_MAX_TEXT),
            api_url=fields.text("apiUrl", limit=_MAX_TEXT),
            models=tuple(HostModel.from_fields(model) for model in models),
            chain_id=ChainId(fields.integer("chainId", limit=1 << 53)),
            registry=fields.address("registry"),
            sequence=fields.integer("sequence", limit=1 << 53),
            expires_at=fields.integer("expiresAt", limit=1 << 53),
        )
