"""docs/protocol.md says what the code does: limits, fields, error codes, known answers."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.protocol.vectors import VECTORS

from fabstir.crypto import NATIVE
from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ChainId, JobId, ModelId, PeerId
from fabstir.primitives.units import PricePerToken, TokenCount
from fabstir.protocol import limits
from fabstir.protocol.additions import Addition
from fabstir.protocol.answers import TokenLogprob, ToolCallPiece
from fabstir.protocol.authorization import SESSION_KEY_TYPE, SessionKeyAuthorization
from fabstir.protocol.client_messages import (
    CLIENT_FRAMES,
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
    Ping,
    StreamCancel,
)
from fabstir.protocol.codes import ERROR_CODES, may_reopen, text_prefix
from fabstir.protocol.content import Message, Tool, ToolCall
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import InitEnvelope, SealedPayload
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import (
    HOST_FRAMES,
    Connected,
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ErrorMessage,
    ExtensionReply,
    Pong,
    ProofMessage,
    SessionClosed,
    SessionInitAck,
    StreamEnd,
    Usage,
)
from fabstir.protocol.host_record import HOST_RECORD_TYPE, HostModel, HostRecord
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionOffer,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import (
    ACKNOWLEDGEMENT_TYPE,
    GENESIS,
    RECEIPT_TYPE,
    Acknowledgement,
    ChainHead,
    Work,
    sign_receipt,
)
from fabstir.protocol.refusals import (
    SearchResponse,
    SearchVectorsResponse,
    UploadVectorsResponse,
)
from fabstir.protocol.request import (
    ChatRequest,
    Reasoning,
    RequestPlaintext,
    ResponseFormat,
    ToolChoice,
)
from fabstir.protocol.sampling import SamplingParams

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "fabstir"

# -- one of everything, with every optional field set ---------------------------------------------

SECRET = b"\1" * 32
WALLET = NATIVE.address_of(NATIVE.public_key(SECRET))
DOMAIN = Domain(ChainId(1), WALLET)
JOB = JobId(7)
SEALED = SealedPayload(b"", bytes(24), b"")
KEY = NATIVE.public_key(SECRET)
ZERO = TokenCount(0)

WORK = Work(
    model_digest=GENESIS,
    request_digest=GENESIS,
    additions_digest=GENESIS,
    output_commitment=GENESIS,
    num_prompt_tokens=ZERO,
    num_completion_tokens=ZERO,
)
RECEIPT = sign_receipt(ChainHead().make(JOB, WORK, PricePerToken(1)), SECRET, DOMAIN, NATIVE)
ACKNOWLEDGEMENT = Acknowledgement(
    job_id=JOB, sequence=1, receipt_hash=GENESIS, cumulative_tokens=ZERO
).sign(SECRET, DOMAIN, NATIVE)
AUTHORIZATION = SessionKeyAuthorization(
    job_id=JOB, host=WALLET, session_key=WALLET, expires_at=0
).sign(SECRET, DOMAIN, NATIVE)
LOGPROB = TokenLogprob(token_id=0, token_bytes=b"", logprob=0)
CALL = ToolCall(id="c", name="n", arguments="{}")
SAMPLING = SamplingParams(
    max_tokens=1, seed=0, logit_bias=((1, 1.0),), logprobs=True, top_logprobs=1
)
TOOL = Tool(name="t", description="d", parameters="{}", strict=True)
MESSAGE = Message("assistant", "x", name="n", tool_calls=(CALL,), tool_call_id="c", reasoning="r")
CHAT = ChatRequest(
    messages=(MESSAGE,),
    sampling=SAMPLING,
    tools=(TOOL,),
    tool_choice=ToolChoice(),
    parallel_tool_calls=True,
    response_format=ResponseFormat(schema="{}", name="n", strict=True),
    reasoning=Reasoning(effort="low", max_tokens=1),
)
ADDITION = Addition(kind="summary", index=0, message=MESSAGE)
RECORD = HostRecord(
    host=WALLET,
    peer_id=PeerId("p"),
    addresses=(),
    api_url="",
    models=(
        HostModel(
            model_id=ModelId(GENESIS),
            name="m",
            max_model_len=1,
            prices=((NATIVE_TOKEN, PricePerToken(1)),),
        ),
    ),
    chain_id=ChainId(1),
    registry=Address(WALLET),
    sequence=0,
    expires_at=0,
)

FRAMES: list[Frame] = [
    EncryptedSessionInit(
        session_id="7",
        job_id=JOB,
        chain_id=1,
        id="i",
        payload=InitEnvelope(
            ephemeral_public_key=KEY, salt=bytes(32), sealed=SEALED, info=b"", signature=bytes(65)
        ),
    ),
    EncryptedMessage(session_id="7", id="i", payload=SEALED),
    EncryptedAck(session_id="7", id="i", payload=SEALED),
    EncryptedClose(session_id="7", id="i", payload=SEALED),
    StreamCancel(session_id="7", id="i"),
    Ping(),
    Connected(""),
    SessionInitAck(
        session_id="7",
        job_id=JOB,
        chain_id=1,
        client_address=WALLET,
        id="i",
        extension=ExtensionReply(ephemeral_public_key=KEY, payload=SEALED),
    ),
    EncryptedChunk(session_id="7", id="i", tokens=0, index=0, payload=SEALED, final=True),
    EncryptedReceipt(session_id="7", id="i", payload=SEALED),
    EncryptedResponse(session_id="7", id="i", payload=SEALED),
    StreamEnd(
        session_id="7",
        id="i",
        reason="complete",
        tokens_used=0,
        finish_reason="stop",
        usage=Usage(prompt_tokens=0, completion_tokens=0, context_window_size=0),
    ),
    ProofMessage(session_id="7", proof_id=GENESIS, tokens_claimed=0, timestamp=0, size_bytes=0),
    SessionClosed(session_id="7", id="i", payload=SEALED),
    ErrorMessage(
        code="C", message="m", session_id="7", id="i", prompt_tokens=0, context_window_size=0
    ),
    Pong(),
    UploadVectorsResponse(request_id="r", rejected=0, error="e"),
    SearchVectorsResponse(request_id="r", error="e"),
    SearchResponse(kind="searchResponse", request_id="r", error="e"),
]
PLAINTEXTS: dict[str, bytes] = {
    "InitPlaintext": InitPlaintext(
        job_id=JOB,
        model_name="m",
        session_key=bytes(32),
        recovery_public_key=KEY,
        extension=ExtensionOffer(authorization=AUTHORIZATION, last_acknowledgement=ACKNOWLEDGEMENT),
    ).encode(),
    "ExtensionTerms": ExtensionTerms(
        model_digest=GENESIS,
        max_model_len=1,
        price_per_token=PricePerToken(1),
        receipt_interval=1,
        max_unacknowledged=1,
        seed_commitment=GENESIS,
        sequence=0,
        receipt_hash=GENESIS,
        cumulative_tokens=ZERO,
    ).encode(),
    "RequestPlaintext": RequestPlaintext(
        request=CHAT, salt=bytes(32), client_nonce=bytes(32)
    ).encode(),
    "ChatRequest": canonical_json(CHAT.to_json()),
    "Message": canonical_json(MESSAGE.to_json()),
    "ToolCall": canonical_json(CALL.to_json()),
    "Tool": canonical_json(TOOL.to_json()),
    "SamplingParams": canonical_json(SAMPLING.to_json()),
    "ChunkPlaintext": ChunkPlaintext(
        text="x",
        token_ids=(),
        reasoning="r",
        tool_calls=(ToolCallPiece(index=0, id="c", name="n"),),
        logprobs=(LOGPROB,),
    ).encode(),
    "ToolCallPiece": canonical_json(ToolCallPiece(index=0, id="c", name="n").to_json()),
    "TokenLogprob": canonical_json(replace(LOGPROB, top=(LOGPROB,)).to_json()),
    "Addition": canonical_json(ADDITION.to_json()),
    "ReceiptPlaintext": ReceiptPlaintext(
        signed=RECEIPT, seed=0, host_nonce=bytes(32), additions=(ADDITION,)
    ).encode(),
    "EndPlaintext": EndPlaintext(
        finish_reason="stop",
        num_prompt_tokens=ZERO,
        num_completion_tokens=ZERO,
        seed_commitment=GENESIS,
    ).encode(),
    "ClosedPlaintext": ClosedPlaintext(tokens_proven=ZERO, is_final=True, settles_in=0).encode(),
    "SignedAuthorization": canonical_json(AUTHORIZATION.to_json()),
    "SignedReceipt": canonical_json(RECEIPT.to_json()),
    "SignedAcknowledgement": ACKNOWLEDGEMENT.encode(),
    "HostRecord": canonical_json(json.loads(RECORD.encode_signed(SECRET, NATIVE))["record"]),
}

ATOMS = {
    "authorization",
    "lastAcknowledgement",
    "receipt",
    "prices",
    "messages",
    "request",
    "sampling",
    "tools",
    "tool_calls",
    "toolCalls",
    "logprobs",
    "logit_bias",
    "top",
    "additions",
    "message",
}
"""Fields whose own fields stand in a table of their own, or vary."""


NEVER_READ = {"uploadVectorsResponse", "searchVectorsResponse", "searchResponse"}
"""What hosts send to existing clients alone."""


def table(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its first two lines."""
    _, _, after = TEXT.partition(f"{heading}\n")
    assert after, f"docs/protocol.md has no {heading}"
    section = re.split(r"\n#+ ", after, maxsplit=1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def names(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("`") for row in rows]


def field_names(value: Json, prefix: str = "") -> Iterator[str]:
    """Dotted names of an example's fields; an encrypted payload counts as one field."""
    assert isinstance(value, dict)
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and name not in ATOMS:
            yield path
            yield from field_names(cast("Json", inner[0]), f"{path}.")
        elif not isinstance(inner, dict) or name in ATOMS:
            yield path
        elif "ciphertextHex" in inner:
            rest = {k: v for k, v in inner.items() if k not in SEALED.to_json()}
            yield path
            yield from field_names(rest, f"{path}.")
        else:
            yield from field_names(cast("Json", inner), f"{path}.")


# -- the tests ------------------------------------------------------------------------------------


def test_limits_table() -> None:
    written = {row[0].strip("`"): int(row[1]) for row in table("## 2. Limits")}

    assert written == {name: v for name, v in vars(limits).items() if name.isupper()}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frame_tables(frame: Frame) -> None:
    example = frame.to_json()
    kind = example.pop("type")
    rows = table(f"#### `{kind}`") if example else []

    assert sorted(name.replace("?", "") for name in names(rows)) == sorted(field_names(example))


@pytest.mark.parametrize("name", PLAINTEXTS)
def test_plaintext_tables(name: str) -> None:
    example = json.loads(PLAINTEXTS[name])

    written = names(table(f"#### `{name}`"))

    assert sorted(n.replace("?", "") for n in written) == sorted(field_names(example))


def test_no_frame_or_plaintext_is_documented_that_does_not_exist() -> None:
    headings = set(re.findall(r"^#### `(\w+)`$", TEXT, re.MULTILINE))

    assert headings == {str(frame.to_json()["type"]) for frame in FRAMES} | set(PLAINTEXTS)


@pytest.mark.parametrize(
    ("section", "frames"),
    [("### 4.1 Client to host", CLIENT_FRAMES), ("### 4.2 Host to client", HOST_FRAMES)],
    ids=["client", "host"],
)
def test_every_type_that_is_read_is_documented_in_its_direction(
    section: str, frames: Mapping[str, object]
) -> None:
    part = re.split(r"\n### ", TEXT.partition(section)[2], maxsplit=1)[0]
    written = set(re.findall(r"^#### `(\w+)`$", part, re.MULTILINE))

    assert set(frames) == written - NEVER_READ


def test_the_sealed_payload_table() -> None:
    assert names(table("**SealedPayload**, the form of everything encrypted:")[:3]) == list(
        SEALED.to_json()
    )


@pytest.mark.parametrize(
    "type_string",
    [SESSION_KEY_TYPE, RECEIPT_TYPE, ACKNOWLEDGEMENT_TYPE, HOST_RECORD_TYPE],
)
def test_typed_data_is_quoted_exactly(type_string: str) -> None:
    assert f"\n    {type_string}\n" in TEXT


def test_error_codes_table() -> None:
    """Every code that the code can send is there, with its meaning, and no other."""
    rows = table("## 12. Error codes")

    found_by_their_error = {code for code, row in ERROR_CODES.items() if row.error}
    assert set(ERROR_CODES) == found_by_their_error | set(codes_in_source())
    assert [[row[0].strip("`"), *row[1:]] for row in rows] == [
        [
            code,
            row.meaning,
            row.fix,
            str(row.status),
            row.kind,
            "yes" if may_reopen(text_prefix(code)) else "",
        ]
        for code, row in ERROR_CODES.items()
    ]


def codes_in_source() -> Iterator[str]:
    yield RemoteProtocolError("").code
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from _codes_of_call(node)
        if path.parent.name == "protocol" and path.name != "codes.py":
            # Codes that helpers of the decoders take as an argument.
            yield from (
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"(INVALID|MISSING)_[A-Z_]+", node.value)
            )


def _codes_of_call(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id == "SessionRefused" and node.args:
        yield from _code(node.args[0])
    for keyword in node.keywords:
        if keyword.arg == "code" and isinstance(node.func, ast.Name):
            yield from _code(keyword.value)


def _code(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
        yield node.value


def documented_vectors() -> dict[str, dict[str, Any]]:
    blocks = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    vectors = [json.loads(block) for block in blocks]
    assert len({vector["vector"] for vector in vectors}) == len(vectors)
    return {vector["vector"]: vector for vector in vectors}


def test_every_vector_is_documented_once() -> None:
    assert set(documented_vectors()) == set(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_known_answers(name: str) -> None:
    vector = documented_vectors()[name]

    assert VECTORS[name](vector["in"]) == vector["out"]


def test_the_table_of_contents_is_that_of_the_document() -> None:
    headings = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]

    contents = re.findall(r"^- \[(.+)\]\(#(.+)\)$", TEXT, re.MULTILINE)

    assert contents == list(zip(headings, anchors, strict=True))
