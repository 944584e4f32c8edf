"""What the outbox stores of a transaction, apart from its table: a wallet signs without SQL."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVersion:
    """One signed transaction, as it goes over the wire."""

    tx_hash: Hash32
    raw: bytes
    nonce: int
    max_fee_per_gas: Wei
    max_priority_fee_per_gas: Wei
    is_filler: bool = False
