"""Host records as DHT values: /fabstir-host/<peer id>, a libp2p envelope around the signed record.

The wallet's signature says whose record it is. The envelope (libp2p RFC 2), signed with the key of
the peer id, says that the peer agrees: without it, any wallet could put a record with a higher
sequence number under somebody else's peer id and so hide that host.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.keys import PrivateKey
from libp2p.peer.envelope import Envelope, make_unsigned, unmarshal_envelope
from libp2p.peer.id import ID
from libp2p.records.validator import Validator

from fabstir.p2p.limits import MAX_ENVELOPE_BYTES
from fabstir.primitives.errors import HostRecordInvalid, RemoteProtocolError
from fabstir.primitives.ids import PeerId
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.host_record import HostRecord
from fabstir.protocol.limits import MAX_HOST_RECORD_BYTES, MAX_HOST_RECORD_LIFETIME

NAMESPACE = "fabstir-host"
ENVELOPE_DOMAIN = "fabstir-host-record"
ENVELOPE_TYPE = b"/fabstir/host-record/1.0.0"

MAX_VALUE_BYTES = MAX_HOST_RECORD_BYTES + MAX_ENVELOPE_BYTES


def host_record_key(peer_id: PeerId) -> str:
    """The DHT key of a host's record."""
    return f"/{NAMESPACE}/{peer_id}"


def seal_host_record(encoded: bytes, private_key: PrivateKey) -> bytes:
    """Put a wallet-signed record into an envelope of the peer.

    Raises:
        HostRecordInvalid: the record is too long.
    """
    if len(encoded) > MAX_HOST_RECORD_BYTES:
        raise HostRecordInvalid(
            f"the host record has {len(encoded)} bytes, at most {MAX_HOST_RECORD_BYTES} are "
            "allowed: offer fewer models"
        )
    unsigned = make_unsigned(ENVELOPE_DOMAIN, ENVELOPE_TYPE, encoded)
    signature = private_key.sign(unsigned)
    envelope = Envelope(private_key.get_public_key(), ENVELOPE_TYPE, encoded, signature)
    return envelope.marshal_envelope()


def open_host_record(peer_id: PeerId, value: bytes, crypto: Crypto, now: float) -> HostRecord:
    """Check everything about a record but the registry on chain.

    Args:
        now: Unix time in seconds.

    Raises:
        HostRecordInvalid: malformed, forged or expired; never any other error, whatever the bytes.
    """
    try:
        record = HostRecord.decode(_open_envelope(peer_id, value), crypto)
    except RemoteProtocolError as exc:
        raise HostRecordInvalid(f"the record of host {peer_id} is forged: {exc}") from exc
    if record.peer_id != peer_id:
        raise HostRecordInvalid(
            f"the record of host {peer_id} is forged: it is made out to peer {record.peer_id}"
        )
    if record.expires_at <= now:
        raise HostRecordInvalid(
            f"the record of host {peer_id} expired {now - record.expires_at:.0f} s ago: "
            "the host has left, or one of the two clocks is wrong"
        )
    if record.expires_at - now > MAX_HOST_RECORD_LIFETIME:
        raise HostRecordInvalid(
            f"the record of host {peer_id} expires more than {MAX_HOST_RECORD_LIFETIME} s ahead"
        )
    return record


def _open_envelope(peer_id: PeerId, value: bytes) -> bytes:
    if len(value) > MAX_VALUE_BYTES:
        raise RemoteProtocolError(f"it is longer than {MAX_VALUE_BYTES} bytes")
    try:
        envelope = unmarshal_envelope(value)
        envelope.validate(ENVELOPE_DOMAIN)
    except (DecodeError, ValueError, TypeError) as exc:
        raise RemoteProtocolError("its envelope is malformed or not signed") from exc
    # Ed25519 only: other key types bring other parsers, each with its own errors.
    if not isinstance(envelope.public_key, Ed25519PublicKey):
        raise RemoteProtocolError("its envelope is not signed with an Ed25519 key")
    if ID.from_pubkey(envelope.public_key).to_base58() != peer_id:
        raise RemoteProtocolError("its envelope is signed by another peer")
    if envelope.payload_type != ENVELOPE_TYPE:
        raise RemoteProtocolError("its envelope holds something else")
    return envelope.raw_payload


class HostRecordValidator(Validator):
    """What a DHT server stores under /fabstir-host/: only valid records, the newest one."""

    def __init__(self, crypto: Crypto, clock: Callable[[], float]) -> None:
        self._crypto = crypto
        self._clock = clock

    def validate(self, key: str, value: bytes) -> None:
        """Raises HostRecordInvalid, for which libp2p refuses the record."""
        open_host_record(self._peer_id(key), value, self._crypto, self._clock())

    def select(self, key: str, values: list[bytes]) -> int:
        """The index of the best value: valid ones first, then the highest sequence number.

        Among equal bytes it is the last, because libp2p asks with [stored, offered] and takes
        index 0 as a refusal: republishing the same record must succeed.
        """
        ranks = [self._sequence(key, value) for value in values]
        best = values[ranks.index(max(ranks))]
        return max(index for index, value in enumerate(values) if value == best)

    def _sequence(self, key: str, value: bytes) -> int:
        try:
            now = self._clock()
            return open_host_record(self._peer_id(key), value, self._crypto, now).sequence
        except HostRecordInvalid:
            return -1

    @staticmethod
    def _peer_id(key: str) -> PeerId:
        return PeerId(key.removeprefix(f"/{NAMESPACE}/"))
