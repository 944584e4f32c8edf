"""Host records for the tests of the libp2p side."""

from __future__ import annotations

from fabstir.crypto import NATIVE
from fabstir.primitives.ids import Address, ChainId, ModelId, PeerId
from fabstir.protocol.host_record import HostRecord

WALLET_KEY = b"\x01" * 32
MODEL = ModelId("0x" + "ab" * 32)
NOW = 1_800_000_000
"""Unix time of the tests' clocks."""


def signed_record(
    peer_id: PeerId, *, sequence: int = 1, expires_at: int = NOW + 600, key: bytes = WALLET_KEY
) -> bytes:
    """A record as a host makes it, without models."""
    return HostRecord(
        host=NATIVE.address_of(NATIVE.public_key(key)),
        peer_id=peer_id,
        addresses=("/ip4/127.0.0.1/tcp/9000",),
        api_url="http://127.0.0.1:8080",
        models=(),
        chain_id=ChainId(31337),
        registry=Address("0x" + "11" * 20),
        sequence=sequence,
        expires_at=expires_at,
    ).encode_signed(key, NATIVE)
