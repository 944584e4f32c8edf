"""Registering and logging in at a portal: a signed answer to a challenge.

The answer is `01 (register) or 02 (login) | challenge32 | BLAKE3(host[:port])`, 65 bytes, signed by
the account's key. The portal's name in it stops one portal from using what was signed for another.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from urllib.parse import urlsplit

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.crypto import Crypto

CHALLENGE_BYTES: Final = 32

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class ChallengeKind(IntEnum):
    """What is signed: the first byte of the answer."""

    REGISTER = 1
    LOGIN = 2


@dataclass(frozen=True, slots=True)
class ChallengeResponse:
    """What goes to the portal, with the account's public key.

    Attributes:
        response: 65 bytes.
        signature: 64 bytes.
    """

    response: bytes
    signature: bytes


def portal_authority(url: str) -> str:
    """`host[:port]` of a portal's URL as browsers write it: lower case, no default port.

    Raises:
        ValueError: the URL has no host, or a port that is none.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if not host:
        raise ValueError("the URL of a portal has a host: https://host[:port]")
    if ":" in host:
        host = f"[{host}]"
    default = parts.port is None or parts.port == _DEFAULT_PORTS.get(parts.scheme.lower())
    return host if default else f"{host}:{parts.port}"


def challenge_message(
    kind: ChallengeKind, challenge: bytes, authority: str, crypto: Crypto
) -> bytes:
    """What is signed.

    Raises:
        ValueError: the challenge has not 32 bytes.
    """
    if len(challenge) != CHALLENGE_BYTES:
        raise ValueError(f"challenges have {CHALLENGE_BYTES} bytes, not {len(challenge)}")
    return bytes([kind]) + challenge + crypto.blake3(authority.encode())


def sign_challenge(
    seed: bytes, kind: ChallengeKind, challenge: bytes, authority: str, crypto: Crypto
) -> ChallengeResponse:
    """Answer a portal's challenge.

    Args:
        seed: the account's ed25519 seed, `Identity.portal_account_key(...)`.
        authority: `portal_authority(url)` of the URL that was asked: never what the portal says of
            itself.

    Raises:
        ValueError: the challenge has not 32 bytes.
    """
    message = challenge_message(kind, challenge, authority, crypto)
    return ChallengeResponse(message, crypto.ed25519_sign(seed, message))


def verify_challenge(
    public_key: bytes,
    answer: ChallengeResponse,
    kind: ChallengeKind,
    challenge: bytes,
    authority: str,
    crypto: Crypto,
) -> None:
    """Check an answer to a challenge of ours.

    Args:
        public_key: 32 bytes.
        challenge: the one that was given to this key, still valid and not used before.

    Raises:
        RemoteProtocolError: another kind, another challenge, another portal's name, or not signed
            by the key.
    """
    expected = challenge_message(kind, challenge, authority, crypto)
    if not hmac.compare_digest(expected, answer.response):
        raise RemoteProtocolError(
            f"the response is not {kind:02x} | challenge | BLAKE3({authority!r}): sign the "
            "newest challenge, for this portal's own host and port"
        )
    if not crypto.ed25519_verify(public_key, answer.response, answer.signature):
        raise RemoteProtocolError("the response is not signed by the account's key")
