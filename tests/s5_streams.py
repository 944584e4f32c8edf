"""Stream messages of other nodes: ours only pass them on, so only tests sign any."""

from __future__ import annotations

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import Multihash
from fabstir.s5.formats.registry import StreamMessage


def sign_stream_message(seed: bytes, revision: int, payload: bytes) -> StreamMessage:
    """A message of the stream of the key that belongs to `seed`."""
    multihash = Multihash(NATIVE.blake3(payload)).to_bytes()
    signed = b"\x08" + revision.to_bytes(8, "big") + bytes([len(multihash)]) + multihash
    return StreamMessage(
        public_key=NATIVE.ed25519_public_key(seed),
        revision=revision,
        payload_hash=multihash[1:],
        signature=NATIVE.ed25519_sign(seed, signed),
        payload=payload,
    )
