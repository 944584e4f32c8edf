"""Hypothesis strategies: one for each thing that goes over a wire or into a hash.

Values are those that an honest peer can make, up to the protocol's limits; hostile bytes are the
business of tests/fuzz and of the tests that mutate what is made here.
"""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType
from fabstir.primitives.ids import (
    Address,
    ChainId,
    JobId,
    ModelId,
    PeerId,
    address,
    hash32,
)
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.additions import ADDITION_KINDS, Addition
from fabstir.protocol.answers import MIN_LOGPROB, TokenLogprob, ToolCallPiece
from fabstir.protocol.authorization import SessionKeyAuthorization, SignedAuthorization
from fabstir.protocol.checkpoint import (
    RECOVERED_ROLES,
    CheckpointDelta,
    CheckpointEntry,
    TimedMessage,
)
from fabstir.protocol.client_messages import (
    ClientMessage,
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
    Ping,
    StreamCancel,
)
from fabstir.protocol.content import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    TextPart,
    Tool,
    ToolCall,
)
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import InitEnvelope, SealedPayload
from fabstir.protocol.fields import UNKNOWN
from fabstir.protocol.frames import SealedFrame
from fabstir.protocol.host_messages import (
    Connected,
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ErrorMessage,
    ExtensionReply,
    HostMessage,
    Pong,
    ProofMessage,
    SessionClosed,
    SessionInitAck,
    StreamEnd,
    Usage,
)
from fabstir.protocol.host_record import HostModel, HostRecord
from fabstir.protocol.limits import (
    MAX_CHUNK_TOKENS,
    MAX_COMPLETION_TOKENS,
    MAX_ID_CHARS,
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
)
from fabstir.protocol.payloads import (
    FINISH_REASONS,
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionOffer,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import (
    Acknowledgement,
    Receipt,
    SignedAcknowledgement,
    SignedReceipt,
    Work,
)
from fabstir.protocol.request import (
    EFFORTS,
    TOOL_MODES,
    ChatRequest,
    Reasoning,
    RequestPlaintext,
    ResponseFormat,
    ToolChoice,
)
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

T = TypeVar("T")

# -- values ---------------------------------------------------------------------------------------

json_safe = st.characters(codec="utf-8")
"""Any character of UTF-8: controls, quotes and separators too."""


def texts(max_size: int, min_size: int = 0) -> st.SearchStrategy[str]:
    """Text of at most `max_size` characters."""
    return st.text(json_safe, min_size=min_size, max_size=max_size)


def byte_strings(size: int) -> st.SearchStrategy[bytes]:
    """Exactly `size` bytes."""
    return st.binary(min_size=size, max_size=size)


uint64s = st.integers(0, (1 << 64) - 1)
uint53s = st.integers(0, (1 << 53) - 1)
uint256s = st.integers(0, (1 << 256) - 1)
job_ids = uint256s.map(JobId)
chain_ids = uint53s.map(ChainId)
token_counts = uint64s.map(TokenCount)
weis = uint256s.map(Wei)
prices = st.integers(1, 1 << 64).map(PricePerToken)
hashes = byte_strings(32).map(hash32)
addresses = byte_strings(20).map(address)
model_ids: st.SearchStrategy[ModelId] = hashes.map(ModelId)
peer_ids = texts(128, 1).map(PeerId)
identifiers = texts(min(MAX_ID_CHARS, 24), 1)
optional_identifiers = st.none() | identifiers
secrets = st.integers(1, (1 << 250) - 1).map(lambda number: number.to_bytes(32, "big"))
"""Secret keys; all below the group's order."""
public_keys = secrets.map(NATIVE.public_key)
signatures = byte_strings(65)
blob_ids = st.builds(
    BlobId, byte_strings(32), uint64s | st.integers(0, 1 << 20), st.sampled_from(HashType)
)
domains = st.builds(
    Domain, chain_id=uint256s.map(ChainId), contract=addresses, name=texts(8), version=texts(4)
)

# -- conversations --------------------------------------------------------------------------------


def millionths(low: float, high: float) -> st.SearchStrategy[float]:
    """Fractions that have a spelling of six decimals."""
    return st.integers(round(low * 1_000_000), round(high * 1_000_000)).map(lambda n: n / 1_000_000)


texts_of_parts = st.builds(TextPart, texts(20))
parts = st.one_of(
    texts_of_parts,
    st.builds(ImagePart, texts(20), st.sampled_from(["auto", "low", "high"])),
    st.builds(AudioPart, texts(20), texts(8)),
    st.builds(FilePart, filename=texts(8), data=texts(8), file_id=texts(8)),
)
contents = texts(40) | st.lists(parts, max_size=3).map(tuple)
tool_calls = st.builds(ToolCall, id=texts(8), name=texts(8), arguments=texts(20))
messages = st.one_of(
    st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user"]),
        content=contents,
        name=st.none() | texts(8),
    ),
    st.builds(
        Message,
        role=st.just("assistant"),
        content=contents,
        tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
        reasoning=st.none() | texts(20),
    ),
    st.builds(Message, role=st.just("tool"), content=contents, tool_call_id=texts(8)),
)
conversations = st.lists(messages, min_size=1, max_size=4).map(tuple)
schemas = st.sampled_from(
    ['{"type":"object"}', '{ "properties": {"b": {"minimum": 0.5}, "a": {}} }', "{}"]
)
tools = st.builds(
    Tool,
    name=texts(8),
    description=texts(8),
    parameters=st.just("") | schemas,
    strict=st.booleans(),
)
tool_choices = st.sampled_from(sorted(TOOL_MODES)).map(ToolChoice) | texts(8).map(
    lambda name: ToolChoice("required", name)
)
response_formats = st.just(ResponseFormat()) | st.builds(
    ResponseFormat, schema=schemas, name=texts(8), strict=st.booleans()
)
reasonings = st.builds(
    Reasoning,
    effort=st.none() | st.sampled_from(sorted(EFFORTS)),
    max_tokens=st.none() | st.integers(0, MAX_COMPLETION_TOKENS),
)
logit_biases = st.dictionaries(
    st.integers(0, (1 << 32) - 1), millionths(-100, 100), max_size=3
).map(lambda biases: tuple(biases.items()))


@st.composite
def sampling_params(draw: st.DrawFn, seeds: st.SearchStrategy[int | None]) -> SamplingParams:
    """Parameters within the limits of the wire."""
    logprobs = draw(st.booleans())
    return SamplingParams(
        max_tokens=draw(st.integers(1, MAX_COMPLETION_TOKENS)),
        temperature=draw(millionths(0, 10)),
        top_p=draw(millionths(0, 1)),
        min_p=draw(millionths(0, 1)),
        repeat_penalty=draw(millionths(0, 10)),
        presence_penalty=draw(millionths(-2, 2)),
        frequency_penalty=draw(millionths(-2, 2)),
        top_k=draw(st.integers(0, (1 << 31) - 1)),
        logit_bias=draw(logit_biases),
        seed=draw(seeds),
        stop=draw(st.lists(texts(min(MAX_STOP_CHARS, 8)), max_size=3).map(tuple)),
        logprobs=logprobs,
        top_logprobs=draw(st.integers(0, MAX_TOP_LOGPROBS)) if logprobs else 0,
    )


seeds = st.integers(0, SEED_LIMIT - 1)
samplings = sampling_params(seeds)


chat_requests = st.builds(
    ChatRequest,
    messages=conversations,
    sampling=sampling_params(st.none() | seeds),
    model=texts(12),
    tools=st.lists(tools, max_size=2).map(tuple),
    tool_choice=st.none() | tool_choices,
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.none() | response_formats,
    reasoning=st.none() | reasonings,
)
"""Requests of everything that clients send."""


@st.composite
def request_plaintexts(draw: st.DrawFn) -> RequestPlaintext:
    """A request with what its commitments and its seed need."""
    request = draw(chat_requests)
    has_seed = request.sampling.seed is not None
    return RequestPlaintext(
        request=request,
        salt=draw(byte_strings(32)),
        client_nonce=None if has_seed else draw(byte_strings(32)),
    )


additions = st.builds(
    Addition,
    kind=st.sampled_from(sorted(ADDITION_KINDS)),
    index=st.integers(0, MAX_MESSAGES),
    num_replaced=st.integers(0, MAX_MESSAGES),
    message=messages,
)
additions_lists = st.lists(additions, max_size=2).map(tuple)
tool_call_pieces = st.builds(
    ToolCallPiece, index=st.integers(0, MAX_TOOLS - 1), arguments=texts(8)
) | st.builds(
    ToolCallPiece,
    index=st.integers(0, MAX_TOOLS - 1),
    arguments=texts(8),
    id=texts(8, 1),
    name=texts(8),
)
alternatives = st.builds(
    TokenLogprob,
    token_id=st.integers(0, (1 << 32) - 1),
    token_bytes=st.binary(max_size=4),
    logprob=millionths(MIN_LOGPROB, 0),
)
token_logprobs = st.builds(
    TokenLogprob,
    token_id=st.integers(0, (1 << 32) - 1),
    token_bytes=st.binary(max_size=4),
    logprob=millionths(MIN_LOGPROB, 0),
    top=st.lists(alternatives, max_size=2).map(tuple),
)

# -- receipts and proofs of the caller ------------------------------------------------------------

works = st.builds(
    Work,
    model_digest=hashes,
    request_digest=hashes,
    additions_digest=hashes,
    output_commitment=hashes,
    num_prompt_tokens=token_counts,
    num_completion_tokens=token_counts,
)
receipts = st.builds(
    Receipt,
    job_id=job_ids,
    sequence=uint64s,
    previous=hashes,
    work=works,
    cumulative_tokens=token_counts,
    cumulative_cost=weis,
)
signed_receipts = st.builds(SignedReceipt, receipts, signatures)
acknowledgements = st.builds(
    Acknowledgement,
    job_id=job_ids,
    sequence=uint64s,
    receipt_hash=hashes,
    cumulative_tokens=token_counts,
)
signed_acknowledgements = st.builds(SignedAcknowledgement, acknowledgements, signatures)
authorizations = st.builds(
    SessionKeyAuthorization,
    job_id=job_ids,
    host=addresses,
    session_key=addresses,
    expires_at=uint53s,
)
signed_authorizations = st.builds(SignedAuthorization, authorizations, signatures)

# -- what stands inside the envelopes -------------------------------------------------------------

extension_offers = st.builds(
    ExtensionOffer,
    authorization=st.none() | signed_authorizations,
    last_acknowledgement=st.none() | signed_acknowledgements,
)
init_plaintexts = st.builds(
    InitPlaintext,
    job_id=job_ids,
    model_name=texts(40),
    session_key=byte_strings(32),
    price_per_token=prices,
    recovery_public_key=st.none() | public_keys,
    extension=st.none() | extension_offers,
)
extension_terms = st.builds(
    ExtensionTerms,
    model_digest=hashes,
    max_model_len=st.integers(0, (1 << 32) - 1),
    price_per_token=prices,
    receipt_interval=st.integers(0, (1 << 32) - 1),
    max_unacknowledged=st.integers(0, (1 << 32) - 1),
    seed_commitment=hashes,
    sequence=uint64s,
    receipt_hash=hashes,
    cumulative_tokens=token_counts,
)


@st.composite
def chunk_plaintexts(draw: st.DrawFn) -> ChunkPlaintext:
    """A piece with all that it may hold; at most one probability a token."""
    ids = draw(st.lists(st.integers(0, (1 << 32) - 1), max_size=MAX_CHUNK_TOKENS))
    return ChunkPlaintext(
        text=draw(texts(40)),
        token_ids=tuple(ids),
        reasoning=draw(texts(8)),
        tool_calls=tuple(draw(st.lists(tool_call_pieces, max_size=2))),
        logprobs=tuple(draw(st.lists(token_logprobs, max_size=min(2, len(ids))))),
    )


receipt_plaintexts = st.builds(
    ReceiptPlaintext,
    signed=signed_receipts,
    seed=seeds,
    host_nonce=byte_strings(32),
    additions=additions_lists,
)
end_plaintexts = st.builds(
    EndPlaintext,
    finish_reason=st.sampled_from([*sorted(FINISH_REASONS), UNKNOWN]),
    num_prompt_tokens=token_counts,
    num_completion_tokens=token_counts,
    seed_commitment=hashes,
)
closed_plaintexts = st.builds(
    ClosedPlaintext,
    tokens_proven=token_counts,
    is_final=st.booleans(),
    settles_in=st.none() | st.integers(0, (1 << 32) - 1),
)

# -- envelopes and frames -------------------------------------------------------------------------

sealed_payloads = st.builds(
    SealedPayload, ciphertext=st.binary(max_size=64), nonce=byte_strings(24), aad=st.binary()
)
init_envelopes = st.builds(
    InitEnvelope,
    ephemeral_public_key=byte_strings(33),
    salt=st.just(b"") | byte_strings(32),
    sealed=sealed_payloads,
    info=texts(16).map(str.encode),
    signature=signatures,
)
session_inits = st.builds(
    EncryptedSessionInit,
    session_id=identifiers,
    job_id=job_ids,
    chain_id=st.none() | uint53s,
    payload=init_envelopes,
    id=optional_identifiers,
)


def sealed_frames(kind: type[T]) -> st.SearchStrategy[T]:
    """One of the frames that hold nothing but a payload."""
    assert issubclass(kind, SealedFrame)
    return st.builds(kind, session_id=identifiers, id=optional_identifiers, payload=sealed_payloads)


stream_cancels = st.builds(
    StreamCancel, session_id=identifiers, reason=texts(40), id=optional_identifiers
)
client_messages: st.SearchStrategy[ClientMessage] = st.one_of(
    session_inits,
    sealed_frames(EncryptedMessage),
    sealed_frames(EncryptedAck),
    sealed_frames(EncryptedClose),
    stream_cancels,
    st.just(Ping()),
)

extension_replies = st.builds(
    ExtensionReply, ephemeral_public_key=byte_strings(33), payload=sealed_payloads
)
session_init_acks = st.builds(
    SessionInitAck,
    session_id=identifiers,
    job_id=job_ids,
    chain_id=uint53s,
    client_address=texts(64),
    id=optional_identifiers,
    extension=st.none() | extension_replies,
)
encrypted_chunks = st.builds(
    EncryptedChunk,
    session_id=identifiers,
    id=optional_identifiers,
    tokens=st.integers(0, (1 << 32) - 1),
    index=uint53s,
    payload=sealed_payloads,
    final=st.booleans(),
)
usages = st.builds(
    Usage, prompt_tokens=uint53s, completion_tokens=uint53s, context_window_size=uint53s
)
stream_ends = st.builds(
    StreamEnd,
    session_id=identifiers,
    id=optional_identifiers,
    reason=st.sampled_from(["complete", "cancelled", "error", UNKNOWN]),
    tokens_used=uint53s,
    finish_reason=st.none() | st.sampled_from(["stop", "length", "cancelled", UNKNOWN]),
    usage=st.none() | usages,
)
proofs_submitted = st.builds(
    ProofMessage,
    session_id=identifiers,
    proof_id=hashes,
    tokens_claimed=uint256s,
    timestamp=uint53s,
    size_bytes=uint53s,
)
error_messages = st.builds(
    ErrorMessage,
    code=st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True),
    message=texts(40, 1),
    session_id=optional_identifiers,
    id=optional_identifiers,
    prompt_tokens=st.none() | uint53s,
    context_window_size=st.none() | uint53s,
)
host_messages: st.SearchStrategy[HostMessage] = st.one_of(
    st.builds(Connected, texts(40)),
    session_init_acks,
    encrypted_chunks,
    sealed_frames(EncryptedReceipt),
    sealed_frames(EncryptedResponse),
    stream_ends,
    proofs_submitted,
    sealed_frames(SessionClosed),
    error_messages,
    st.just(Pong()),
)

# -- records and checkpoints ----------------------------------------------------------------------


def _sorted_prices(
    by_token: dict[Address, PricePerToken],
) -> tuple[tuple[Address, PricePerToken], ...]:
    return tuple(sorted(by_token.items()))


host_models = st.builds(
    HostModel,
    model_id=model_ids,
    name=texts(16),
    max_model_len=st.integers(0, (1 << 32) - 1),
    prices=st.dictionaries(addresses, prices, max_size=3).map(_sorted_prices),
)


@st.composite
def host_records(draw: st.DrawFn, secret: bytes) -> HostRecord:
    """A record of the wallet `secret`."""
    return HostRecord(
        host=NATIVE.address_of(NATIVE.public_key(secret)),
        peer_id=draw(peer_ids),
        addresses=tuple(draw(st.lists(texts(24), max_size=3))),
        api_url=draw(texts(24)),
        models=tuple(draw(st.lists(host_models, max_size=2))),
        chain_id=draw(chain_ids),
        registry=draw(addresses),
        sequence=draw(uint53s),
        expires_at=draw(uint53s),
    )


timed_messages = st.builds(
    TimedMessage,
    message=st.builds(Message, role=st.sampled_from(sorted(RECOVERED_ROLES)), content=texts(40)),
    timestamp=uint53s,
    is_partial=st.booleans(),
)
checkpoint_deltas = st.builds(
    CheckpointDelta,
    session_id=identifiers,
    checkpoint_index=uint53s,
    proof_hash=hashes,
    start_token=uint53s,
    end_token=uint53s,
    messages=st.lists(timed_messages, max_size=3).map(tuple),
)
checkpoint_entries = st.builds(
    CheckpointEntry,
    index=uint53s,
    proof_hash=hashes,
    proof_cid=blob_ids.map(BlobId.encode),
    delta_cid=blob_ids.map(BlobId.encode),
    start_token=uint53s,
    end_token=uint53s,
    timestamp=uint53s,
    is_encrypted=st.booleans(),
)
