"""The handshake of a session, both halves: who asks, whether it may be believed, which keys follow.

What only the chain knows (whether the job is there, and for whom the named wallet speaks) is the
gate's to ask; everything else of a handshake is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fabstir.primitives.errors import RemoteProtocolError, SessionRefused
from fabstir.primitives.ids import Address, JobId
from fabstir.primitives.units import PricePerToken
from fabstir.protocol.authorization import SignedAuthorization
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import (
    NONCE_BYTES,
    SecureChannel,
    frame_binding,
    init_aad,
    open_init,
    seal_init,
)
from fabstir.protocol.exchange.dialects import EraCDialect, ExtensionDialect, SessionDialect
from fabstir.protocol.host_messages import ExtensionReply, SessionInitAck
from fabstir.protocol.limits import MAX_AUTHORIZATION_LIFETIME
from fabstir.protocol.payloads import EXTENSION_NAME, ExtensionOffer, ExtensionTerms, InitPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Whose handshakes these are: one host on one marketplace."""

    domain: Domain
    host: Address
    crypto: Crypto

    def context(self, job_id: JobId) -> bytes:
        """What an extension's handshake is bound to."""
        return init_aad(self.domain.chain_id, self.domain.contract, job_id, self.host)


# -- the host's half --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """An init that was opened, and what it says of its sender.

    Attributes:
        signer: the key that signed it, which speaks for the session from now on.
    """

    message: EncryptedSessionInit
    init: InitPlaintext
    signer: Address
    party: Party

    @property
    def job_id(self) -> JobId:
        """The session's number on its marketplace."""
        return self.init.job_id

    @property
    def is_proof_due(self) -> bool:
        """Whether it claims to speak for the depositor: then it is refused if it does not."""
        return self.init.extension is not None

    def wallet(self, now: float) -> Address | None:
        """For whom it speaks, if the chain agrees: the signer itself, or who authorized it.

        Args:
            now: Unix time.

        Returns:
            None if what authorized it is signed by nobody, or names another key.

        Raises:
            SessionRefused: it is bound to another job or host, or has expired.
        """
        offer = self.init.extension
        if offer is None:
            return self.signer
        if self.message.payload.sealed.aad != self.party.context(self.job_id):
            raise SessionRefused(
                "JOB_MISMATCH", "the handshake is not bound to this chain, contract, job and host"
            )
        return self.signer if offer.authorization is None else self._authorized(offer, now)

    def _authorized(self, offer: ExtensionOffer, now: float) -> Address | None:
        assert offer.authorization is not None, "asked for only where there is one"
        authorization = offer.authorization.authorization
        if authorization.job_id != self.job_id or authorization.host != self.party.host:
            raise SessionRefused(
                "JOB_MISMATCH", "the authorization is for another job or another host"
            )
        if not now < authorization.expires_at <= now + MAX_AUTHORIZATION_LIFETIME:
            raise SessionRefused(
                "AUTHORIZATION_EXPIRED",
                "the session key's authorization has expired or reaches more than "
                f"{MAX_AUTHORIZATION_LIFETIME // 86400} days ahead: sign a new one",
            )
        if authorization.session_key != self.signer:
            return None
        return offer.authorization.signer(self.party.domain, self.party.crypto)

    def not_depositor(self, depositor: Address) -> SessionRefused:
        """What it is told if the chain does not agree."""
        offer = self.init.extension
        if offer is not None and offer.authorization is not None:
            text = (
                f"session {self.job_id} was paid by {depositor}; neither it nor a delegate of its "
                "authorized this session key"
            )
        else:
            text = (
                f"{self.signer} is neither the depositor {depositor} of session {self.job_id} nor "
                "its delegate, and shows no authorization"
            )
        return SessionRefused("NOT_DEPOSITOR", text)


def read_init(message: EncryptedSessionInit, party: Party, encryption_secret: bytes) -> Greeting:
    """Open an init.

    Raises:
        RemoteProtocolError: it is malformed or not for this host's key.
        SessionRefused: it is for another chain, or names two jobs.
    """
    chain_id = party.domain.chain_id
    if message.chain_id not in {None, chain_id}:
        raise SessionRefused(
            "WRONG_CHAIN", f"this host serves chain {chain_id}, not {message.chain_id}"
        )
    opened = open_init(message.payload, encryption_secret, party.crypto)
    init = InitPlaintext.decode(opened.plaintext)
    if not str(init.job_id) == str(message.job_id) == message.session_id:
        raise SessionRefused(
            "JOB_MISMATCH",
            f"the encrypted job id {init.job_id} is not the outer one "
            f"(job {message.job_id}, session {message.session_id})",
        )
    return Greeting(message=message, init=init, signer=opened.signer, party=party)


def answer_init(
    greeting: Greeting, terms: ExtensionTerms, random: Callable[[int], bytes]
) -> tuple[SessionDialect, SessionInitAck]:
    """Open the session on this connection: the dialect of its frames, and what its client is told.

    Args:
        terms: for a client that knows the extension.
        random: secure random bytes.
    """
    party, init, message = greeting.party, greeting.init, greeting.message
    session_id = str(greeting.job_id)
    reply = None
    if init.extension is None:
        dialect: SessionDialect = EraCDialect(session_id, init.session_key, party.crypto, random)
    else:
        ephemeral = random(32)
        channel = SecureChannel.derive(
            is_host=True,
            session_key=init.session_key,
            ephemeral_secret=ephemeral,
            peer_ephemeral_public_key=message.payload.ephemeral_public_key,
            context=party.context(greeting.job_id),
            crypto=party.crypto,
        )
        binding = frame_binding("session_init_ack", session_id, message.id or "")
        reply = ExtensionReply(
            ephemeral_public_key=party.crypto.public_key(ephemeral),
            payload=channel.seal(terms.encode(), binding),
        )
        dialect = ExtensionDialect(session_id, channel)
    ack = SessionInitAck(
        session_id=session_id,
        job_id=greeting.job_id,
        chain_id=party.domain.chain_id,
        client_address=greeting.signer,
        id=message.id,
        extension=reply,
    )
    return dialect, ack


# -- the renter's half ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """What a renter opens a session with.

    Attributes:
        host_public_key: to which the init is encrypted, from the registry.
        session_secret: the session key, which `authorization` names.
        recovery_public_key: to which the host encrypts its checkpoints.
        last_acknowledgement: where both sides go on after an earlier connection.
    """

    host_public_key: bytes
    model_name: str
    session_secret: bytes = field(repr=False)
    recovery_public_key: bytes
    authorization: SignedAuthorization
    last_acknowledgement: SignedAcknowledgement | None


class OpenHandshake:
    """An init that was sent and not answered yet. Made by `introduce`."""

    def __init__(
        self,
        party: Party,
        init: EncryptedSessionInit,
        session_key: bytes,
        ephemeral_secret: bytes,
    ) -> None:
        self.init = init
        self._party = party
        self._session_key = session_key
        self._ephemeral_secret = ephemeral_secret

    def finish(self, ack: SessionInitAck) -> tuple[SecureChannel, ExtensionTerms]:
        """The host's answer.

        Raises:
            RemoteProtocolError: it is another session's, gives no receipts, or does not open.
        """
        party, init = self._party, self.init
        theirs = (ack.session_id, ack.job_id, ack.chain_id, ack.id)
        if theirs != (init.session_id, init.job_id, party.domain.chain_id, init.id):
            raise RemoteProtocolError("the host answers the handshake of another session")
        if ack.extension is None:
            raise RemoteProtocolError(
                f"host {party.host} does not give receipts (extension {EXTENSION_NAME}), so what "
                "it counts could not be checked: choose another host"
            )
        channel = SecureChannel.derive(
            is_host=False,
            session_key=self._session_key,
            ephemeral_secret=self._ephemeral_secret,
            peer_ephemeral_public_key=ack.extension.ephemeral_public_key,
            context=party.context(init.job_id),
            crypto=party.crypto,
        )
        binding = frame_binding("session_init_ack", ack.session_id, ack.id or "")
        return channel, ExtensionTerms.decode(channel.open(ack.extension.payload, binding))


def introduce(
    party: Party,
    job_id: JobId,
    price_per_token: PricePerToken,
    introduction: Introduction,
    random: Callable[[int], bytes],
) -> OpenHandshake:
    """Make an init; `random` gives secure random bytes."""
    session_key, ephemeral_secret = random(32), random(32)
    plaintext = InitPlaintext(
        job_id=job_id,
        model_name=introduction.model_name,
        session_key=session_key,
        price_per_token=price_per_token,
        recovery_public_key=introduction.recovery_public_key,
        extension=ExtensionOffer(
            authorization=introduction.authorization,
            last_acknowledgement=introduction.last_acknowledgement,
        ),
    )
    envelope = seal_init(
        plaintext.encode(),
        host_public_key=introduction.host_public_key,
        ephemeral_secret=ephemeral_secret,
        signing_secret=introduction.session_secret,
        nonce=random(NONCE_BYTES),
        aad=party.context(job_id),
        crypto=party.crypto,
    )
    init = EncryptedSessionInit(
        session_id=str(job_id),
        job_id=job_id,
        chain_id=party.domain.chain_id,
        payload=envelope,
        id="init",
    )
    return OpenHandshake(party, init, session_key, ephemeral_secret)
