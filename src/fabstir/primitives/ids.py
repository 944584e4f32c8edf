"""Identifiers as types. All hex is lower case with a 0x prefix."""

from __future__ import annotations

import re
from typing import NewType

Address = NewType("Address", str)
"""An EVM address: 0x and 40 lower-case hex digits. Checksummed only when shown to people."""

ChainId = NewType("ChainId", int)
"""EIP-155 chain id."""

JobId = NewType("JobId", int)
"""A session's number on JobMarketplace; on the wire a decimal string."""

ModelId = NewType("ModelId", str)
"""bytes32 as hex: keccak256(repo + "/" + file)."""

Hash32 = NewType("Hash32", str)
"""Any other bytes32 as hex: a digest, a commitment, a transaction hash."""

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58."""

NATIVE_TOKEN = Address("0x" + "00" * 20)
"""How the contracts name the chain's own coin among payment tokens."""

_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_HASH32 = re.compile(r"0x[0-9a-f]{64}")


def parse_address(text: str) -> Address:
    """Accept any letter case and a missing 0x.

    Raises:
        ValueError: not 20 bytes of hex.
    """
    lowered = text.strip().lower()
    if not lowered.startswith("0x"):
        lowered = "0x" + lowered
    if not _ADDRESS.fullmatch(lowered):
        raise ValueError(f"{text!r} is not an address (0x and 40 hex digits)")
    return Address(lowered)


def parse_hash32(text: str) -> Hash32:
    """Accept any letter case and a missing 0x.

    Raises:
        ValueError: not 32 bytes of hex.
    """
    lowered = text.strip().lower()
    if not lowered.startswith("0x"):
        lowered = "0x" + lowered
    if not _HASH32.fullmatch(lowered):
        raise ValueError(f"{text!r} is not 32 bytes of hex")
    return Hash32(lowered)


def to_bytes(hex_text: Address | ModelId | Hash32) -> bytes:
    """The bytes of a 0x-prefixed identifier."""
    return bytes.fromhex(hex_text[2:])


def hash32(raw: bytes) -> Hash32:
    """32 raw bytes as an identifier."""
    if len(raw) != 32:
        raise ValueError(f"32 bytes expected, not {len(raw)}")
    return Hash32("0x" + raw.hex())


def address(raw: bytes) -> Address:
    """20 raw bytes as an address."""
    if len(raw) != 20:
        raise ValueError(f"20 bytes expected, not {len(raw)}")
    return Address("0x" + raw.hex())
