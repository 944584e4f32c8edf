"""The challenges that accounts answer: remembered by nobody until one is answered rightly.

A challenge carries its own expiry and proof of origin, so that strangers who ask for a million of
them cost no memory and push nobody else's out. Only what was redeemed is remembered, until it
would have expired anyway.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from fabstir.primitives.errors import AccessDenied, Busy
from fabstir.s5.formats.account import CHALLENGE_BYTES, ChallengeKind

CHALLENGE_SECONDS = 300
"""How long an answer is taken: time for a person to unlock a key."""

MAX_REDEEMED = 65_536
"""Redeemed ones that are remembered: 5 MB. 218 a second for the whole of CHALLENGE_SECONDS."""

_EXPIRY_BYTES = 8
_NONCE_BYTES = 8
_PROOF_BYTES = CHALLENGE_BYTES - _EXPIRY_BYTES - _NONCE_BYTES


class Challenges:
    """Gives challenges out and takes each once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secrets.token_bytes(32)
        self._clock = clock
        self._redeemed: OrderedDict[bytes, int] = OrderedDict()

    def issue(self, kind: ChallengeKind, public_key: bytes) -> bytes:
        """32 bytes that only this key can use, for this purpose, for CHALLENGE_SECONDS."""
        expiry = int(self._clock()) + CHALLENGE_SECONDS
        head = expiry.to_bytes(_EXPIRY_BYTES, "big") + secrets.token_bytes(_NONCE_BYTES)
        return head + self._proof(kind, public_key, head)

    def check(self, kind: ChallengeKind, public_key: bytes, challenge: bytes) -> None:
        """Whether it is one of ours for this key, valid, and not redeemed before.

        Raises:
            AccessDenied: it is not.
        """
        head, proof = challenge[:-_PROOF_BYTES], challenge[-_PROOF_BYTES:]
        is_ours = len(challenge) == CHALLENGE_BYTES and hmac.compare_digest(
            proof, self._proof(kind, public_key, head)
        )
        if not is_ours or int.from_bytes(head[:_EXPIRY_BYTES], "big") <= self._clock():
            raise AccessDenied("the challenge is not one of this key, or too old: ask for another")
        if challenge in self._redeemed:
            raise AccessDenied("the challenge was answered before: ask for another")

    def redeem(self, challenge: bytes) -> None:
        """Take one that was checked and answered rightly.

        Raises:
            Busy: too many were redeemed in the last CHALLENGE_SECONDS.
        """
        now = self._clock()
        while self._redeemed and next(iter(self._redeemed.values())) <= now:
            self._redeemed.popitem(last=False)
        if len(self._redeemed) >= MAX_REDEEMED:
            raise Busy("too many accounts log in at once", retry_after=CHALLENGE_SECONDS)
        # By the time of redeeming, not of issuing: so the oldest is always first.
        self._redeemed[challenge] = int(now) + CHALLENGE_SECONDS

    def _proof(self, kind: ChallengeKind, public_key: bytes, head: bytes) -> bytes:
        message = bytes([kind]) + public_key + head
        return hmac.digest(self._secret, message, "sha256")[:_PROOF_BYTES]
