"""A conversation out of what its host published with its claims: for a renter who lost it.

The list of claims comes from the host, signed, or from the chain, if the host is gone or leaves out
what it was paid for. Each claim's delta is a blob of S5: from the host, or from any portal that has
it. Nothing of it is believed: every blob is held to its identifier, every delta to the host's
signature and to its claim, and only the session's recovery key opens it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from fabstir.chain.contracts import Marketplace
from fabstir.chain.events import ProofSubmitted, decode_event, event_filter
from fabstir.chain.rpc import Chain
from fabstir.db.renter import RenterSession
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.errors import (
    AddressRefused,
    ChainError,
    ConfigError,
    FabstirError,
    NotFound,
    PortalError,
    PortalRefused,
    RemoteProtocolError,
    StorageError,
)
from fabstir.primitives.ids import JobId
from fabstir.protocol.checkpoint import (
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
    decode_index,
    open_delta,
)
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.limits import MAX_FRAME_BYTES
from fabstir.s5.portals import PortalHttp
from fabstir.s5.transfer.fetch import BlobSource, read_whole
from fabstir.sdk.recovered import MissingPart, RecoveredConversation
from fabstir.sdk.session_job.watcher import MAX_LOG_RANGE
from fabstir.web.addresses import parse_strangers_url

_LOG = logging.getLogger(__name__)

MAX_DELTA_BYTES: Final = MAX_FRAME_BYTES
"""What is parsed of a peer's JSON at all."""

MAX_CLAIMS: Final = 4096
"""Claims of one session that are read back. A host of ours claims every 750 tokens by default, so
this is a session of three million."""

MAX_CONVERSATION_BYTES: Final = 64 * 1024 * 1024
"""Deltas of one session that are fetched and held, all together: sixteen of the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReader:
    """Reads back what hosts published about sessions.

    Attributes:
        client: of `portals.open_client`.
        portals: URLs to ask for blobs that the host does not give.
    """

    chain: Chain
    marketplace: Marketplace
    client: httpx.AsyncClient
    portals: Sequence[str]
    crypto: Crypto

    async def conversation(self, session: RenterSession) -> RecoveredConversation:
        """The conversation of a session.

        Raises:
            NotFound: nothing was claimed for it, so nothing was published.
            FabstirError: neither the host nor the chain says what was claimed.
        """
        if session.job_id is None:
            raise NotFound("the session never began, so its host published nothing")
        claims = await self._claims(session, session.job_id)
        if not claims:
            raise NotFound(
                f"nothing was claimed for session {session.job_id} yet, so its host published "
                "nothing: it does so with every claim"
            )
        messages: list[TimedMessage] = []
        missing: list[MissingPart] = []
        readable, too_much = readable_claims(claims)
        for claim in readable:
            try:
                messages += (await self._delta(session, claim)).messages
            except (StorageError, RemoteProtocolError, ConfigError) as exc:
                missing.append(
                    MissingPart(
                        start_token=claim.start_token, end_token=claim.end_token, reason=str(exc)
                    )
                )
        return RecoveredConversation(
            job_id=session.job_id,
            messages=tuple(messages),
            num_checkpoints=len(claims),
            missing=(*missing, *too_much),
        )

    async def _claims(self, session: RenterSession, job_id: JobId) -> Sequence[CheckpointEntry]:
        """From the host where it answers for all that the chain says, else from the chain."""
        failure: FabstirError | None = None
        entries: Sequence[CheckpointEntry] = ()
        try:
            entries = await self._claims_of_host(session, job_id)
        except NotFound:
            pass
        except (StorageError, RemoteProtocolError, ConfigError) as exc:
            _LOG.warning("no checkpoint index", extra={"job_id": job_id, "reason": str(exc)})
            failure = exc
        try:
            job = await self.marketplace.session(job_id)
            proven = job.tokens_used if job else 0
            if sum(entry.end_token - entry.start_token for entry in entries) >= proven > 0:
                return entries
            return await self._claims_on_chain(session, job_id)
        except ChainError:
            if entries:
                return entries
            if failure is not None:
                raise failure from None
            raise

    async def _claims_of_host(
        self, session: RenterSession, job_id: JobId
    ) -> Sequence[CheckpointEntry]:
        place = BlobSource.location(f"{_door_of(session)}/v1/checkpoints/{job_id}")
        http = PortalHttp(place.origin, self.client, is_strangers=True)
        answer = await http.ask(
            "GET", place.routes[0], operation="checkpoints", max_bytes=MAX_FRAME_BYTES
        )
        entries = decode_index(answer.body, job_id, session.host, self.crypto)
        check_claims(entries)
        return entries

    async def _claims_on_chain(
        self, session: RenterSession, job_id: JobId
    ) -> Sequence[CheckpointEntry]:
        entries: list[CheckpointEntry] = []
        head, tokens = await self.chain.block_number(), 0
        wanted = event_filter([session.contract], ProofSubmitted)
        for first in range(session.opened_block or 0, head + 1, MAX_LOG_RANGE):
            for log in await self.chain.logs(wanted, first, min(first + MAX_LOG_RANGE - 1, head)):
                event = decode_event(log)
                if not isinstance(event, ProofSubmitted) or event.job_id != job_id:
                    continue
                entries.append(
                    CheckpointEntry(
                        index=len(entries),
                        proof_hash=event.proof_hash,
                        proof_cid=event.proof_cid,
                        delta_cid=event.delta_cid,
                        start_token=tokens,
                        end_token=tokens + event.tokens_claimed,
                        timestamp=0,
                        is_encrypted=True,
                    )
                )
                tokens += event.tokens_claimed
        return entries

    async def _delta(self, session: RenterSession, claim: CheckpointEntry) -> CheckpointDelta:
        try:
            blob = BlobId.decode(claim.delta_cid)
        except ValueError as exc:
            raise RemoteProtocolError(f"{claim.delta_cid!r} is no S5 identifier") from exc
        if blob.size > MAX_DELTA_BYTES or blob.type is not HashType.BLAKE3:
            raise RemoteProtocolError(f"blob {claim.delta_cid} is no checkpoint delta by its size")
        published = await self._blob(session, blob)
        delta = open_delta(published, session.host, session.recovery_secret, self.crypto)
        if (delta.session_id, delta.proof_hash) != (str(session.job_id), claim.proof_hash):
            raise RemoteProtocolError("the delta is another claim's")
        return delta

    async def _blob(self, session: RenterSession, blob: BlobId) -> bytes:
        """From the host, else from the portals."""
        places = [BlobSource.portal(url, blob) for url in self.portals]
        failures: list[str] = []
        try:
            host = f"{_door_of(session)}/s5/blob/{blob.encode()}"
            places.insert(0, BlobSource.location(host))
        except PortalRefused as exc:
            failures.append(str(exc))
        for place in places:
            try:
                return await read_whole(blob, place, client=self.client, crypto=self.crypto)
            except (PortalError, NotFound) as exc:
                failures.append(str(exc))
        raise NotFound(f"blob {blob.encode()} comes from nowhere: {'; '.join(failures)}")


def _door_of(session: RenterSession) -> str:
    """The host's URL, as it named it, without its last slash.

    Raises:
        PortalRefused: it is no URL that a host may have.
    """
    try:
        return str(parse_strangers_url(session.api_url)).rstrip("/")
    except AddressRefused as exc:
        raise PortalRefused(session.api_url, 0, str(exc)) from exc


def check_claims(claims: Sequence[CheckpointEntry]) -> None:
    """That a host's list is one of claims: each of some tokens, and behind the one before it.

    Raises:
        RemoteProtocolError: it is not; the chain has the list, too.
    """
    tokens = 0
    for claim in claims:
        if claim.start_token != tokens or claim.end_token <= tokens:
            raise RemoteProtocolError(
                f"the checkpoint index has a claim of tokens {claim.start_token} to "
                f"{claim.end_token} behind one that ends at {tokens}"
            )
        tokens = claim.end_token


def readable_claims(
    claims: Sequence[CheckpointEntry],
) -> tuple[Sequence[CheckpointEntry], tuple[MissingPart, ...]]:
    """The claims whose deltas are fetched, oldest first, and what is too much of the rest."""
    num_bytes = 0
    for index, claim in enumerate(claims):
        num_bytes += _size_of(claim)
        if index >= MAX_CLAIMS or num_bytes > MAX_CONVERSATION_BYTES:
            reason = (
                f"a conversation is read back to {MAX_CLAIMS} claims and {MAX_CONVERSATION_BYTES} "
                "bytes"
            )
            start, end = claim.start_token, claims[-1].end_token
            return claims[:index], (MissingPart(start_token=start, end_token=end, reason=reason),)
    return claims, ()


def _size_of(claim: CheckpointEntry) -> int:
    """Of its delta, as its identifier says; 0 if that is none, which is noticed when it is read."""
    try:
        return BlobId.decode(claim.delta_cid).size
    except ValueError:
        return 0
