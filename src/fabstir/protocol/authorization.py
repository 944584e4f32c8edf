"""The caller's proof: who may spend a session.

The depositor (or its on-chain delegate) signs once, for one job and one host, which session key
may speak for it. The session key then signs every handshake and every acknowledgement, so the
wallet is needed once a session and can stay cold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.primitives.encoding import Json
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.protocol.crypto import BadSignatureError, Crypto
from fabstir.protocol.eip712 import (
    Domain,
    recover_address,
    sign_digest,
    struct_hash,
    typed_digest,
)
from fabstir.protocol.fields import Fields

SESSION_KEY_TYPE = "SessionKey(uint256 jobId,address host,address sessionKey,uint64 expiresAt)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKeyAuthorization:
    """`session_key` may spend job `job_id` at `host` until `expires_at` (Unix seconds)."""

    job_id: JobId
    host: Address
    session_key: Address
    expires_at: int

    def digest(self, domain: Domain, crypto: Crypto) -> Hash32:
        values = (self.job_id, self.host, self.session_key, self.expires_at)
        return typed_digest(domain, struct_hash(SESSION_KEY_TYPE, values, crypto), crypto)

    def sign(self, secret_key: bytes, domain: Domain, crypto: Crypto) -> SignedAuthorization:
        """Sign as the depositor or its delegate."""
        signature = sign_digest(secret_key, self.digest(domain, crypto), crypto)
        return SignedAuthorization(self, signature)


@dataclass(frozen=True, slots=True)
class SignedAuthorization:
    """An authorization and its 65-byte signature."""

    authorization: SessionKeyAuthorization
    signature: bytes

    def signer(self, domain: Domain, crypto: Crypto) -> Address | None:
        """Who signed; None if the signature is malformed. The gate compares with the chain."""
        digest = self.authorization.digest(domain, crypto)
        try:
            return recover_address(self.signature, digest, crypto)
        except BadSignatureError:
            return None

    def to_json(self) -> Json:
        return {
            "jobId": str(self.authorization.job_id),
            "host": self.authorization.host,
            "sessionKey": self.authorization.session_key,
            "expiresAt": self.authorization.expires_at,
            "signature": "0x" + self.signature.hex(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        authorization = SessionKeyAuthorization(
            job_id=JobId(fields.integer("jobId")),
            host=fields.address("host"),
            session_key=fields.address("sessionKey"),
            expires_at=fields.integer("expiresAt", limit=1 << 53),
        )
        return cls(authorization, fields.hex("signature", size=65))
