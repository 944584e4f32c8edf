"""Registry entries: signed pointers with a revision, by public key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEntry:
    """A registry entry as its owner signed it.

    Attributes:
        public_key: 32 bytes of ed25519.
        revision: the higher one wins.
        data: up to 64 bytes; normally the 33 of a multihash.
        signature: 64 bytes, over `07 | revision | length | data`, without the key.
    """

    public_key: bytes
    revision: int
    data: bytes
    signature: bytes
