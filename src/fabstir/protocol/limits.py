"""The wire's limits. docs/protocol.md has the same table; a test compares them."""

from __future__ import annotations

from typing import Final

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Longest WebSocket frame: a million tokens of prompt in hex would not fit any model we know."""

MAX_HOST_FRAME_BYTES: Final = 1024 * 1024
"""Longest frame of a host: a chunk of MAX_CHUNK_TEXT_BYTES of control characters takes six bytes a
character in JSON and twice that in hex, 786,432 in all, and the rest of the frame a few hundred."""

MAX_JSON_DEPTH: Final = 32
"""Deepest nesting of a peer's JSON: our deepest message has seven levels, and Python's parser
recurses."""

MAX_ID_CHARS: Final = 128
"""Longest session, request or message id: they are echoed, so they bound what a peer reflects."""

MAX_MESSAGES: Final = 2048
"""Most messages of one conversation in one request."""

MAX_PARTS: Final = 256
"""Most parts (texts, images, files) of one message."""

MAX_TOOLS: Final = 128
"""Most tools of one request, and calls of tools in one message: OpenAI's limit."""

MAX_TOOL_NAME_CHARS: Final = 128
"""Longest name of a tool, a schema or a participant; OpenAI allows 64, Anthropic 128."""

MAX_SCHEMA_BYTES: Final = 64 * 1024
"""Longest JSON schema of a tool or of an answer, in bytes of UTF-8: engines compile them."""

MAX_LOGIT_BIASES: Final = 1024
"""Most tokens that one request biases; OpenAI's clients send a few hundred at most."""

MAX_TOP_LOGPROBS: Final = 20
"""Most alternatives of each token that one request asks for: OpenAI's limit."""

MAX_ADDITIONS: Final = 64
"""Most places at which a host adds to one conversation."""

MAX_ADDITIONS_BYTES: Final = 256 * 1024
"""What a host adds to one conversation at most, in bytes of canonical JSON: in hex it is twice as
long and still fits MAX_HOST_FRAME_BYTES."""

MAX_STOP_STRINGS: Final = 16
"""Most stop strings of one request."""

MAX_STOP_CHARS: Final = 256
"""Longest stop string."""

MAX_COMPLETION_TOKENS: Final = 1_000_000
"""Largest max_tokens that is read; the model's context bounds it further."""

MAX_HOST_RECORD_BYTES: Final = 8 * 1024
"""Longest signed host record: a DHT value is copied to twenty peers."""

MAX_HOST_RECORD_MODELS: Final = 32
"""Most models of one host record, so that it fits its size."""

MAX_HOST_RECORD_ADDRESSES: Final = 16
"""Most multiaddrs of one host record."""

MAX_HOST_RECORD_LIFETIME: Final = 24 * 3600
"""Seconds from now that a record's expiry may lie ahead: a host that left is forgotten in a day."""

MAX_CHUNK_TOKENS: Final = 64
"""Most tokens of one streamed chunk; slow readers get coalesced chunks, never larger ones."""

MAX_CHUNK_TEXT_BYTES: Final = 64 * 1024
"""Longest text of one chunk, in bytes of UTF-8: bounds a renter's buffer."""

MAX_TOKEN_TEXT_BYTES: Final = 512
"""Most text of one token, in bytes of UTF-8. The longest tokens of today's vocabularies (Llama 3,
Qwen, GPT-4o: runs of spaces) have 128 bytes, and three times that if none of them is valid UTF-8
and each is written as U+FFFD."""

MAX_AUTHORIZATION_LIFETIME: Final = 30 * 24 * 3600
"""Seconds that a session key's authorization may lie ahead: a stolen key dies in a month."""

RECEIPT_INTERVAL_TOKENS: Final = 64
"""A receipt is due after this many completion tokens, and at the end of each request."""

MAX_UNACKNOWLEDGED_TOKENS: Final = 128
"""The host stops decoding at this many tokens without an acknowledgement: its stated exposure."""
