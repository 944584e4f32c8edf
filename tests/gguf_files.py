"""GGUF headers, byte by byte: small ones that are right, and ones that are wrong in one place."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

STRING, ARRAY, U16, U32, I32, F32, BOOL = 8, 9, 2, 4, 5, 6, 7
F16_TYPE, Q4_1_TYPE = 1, 3


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def text_pair(key: str, value: str) -> bytes:
    return string(key.encode()) + struct.pack("<I", STRING) + string(value.encode())


def u32_pair(key: str, value: int) -> bytes:
    return string(key.encode()) + struct.pack("<II", U32, value)


def array_pair(key: str, kind: int, length: int, items: bytes) -> bytes:
    return string(key.encode()) + struct.pack("<IIQ", ARRAY, kind, length) + items


def strings_pair(key: str, *items: bytes) -> bytes:
    return array_pair(key, STRING, len(items), b"".join(map(string, items)))


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor as a header tells it; `offset` counts from the first weight."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    def encode(self) -> bytes:
        dimensions = struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape)
        return string(self.name.encode()) + dimensions + struct.pack("<IQ", self.kind, self.offset)


def gguf_file(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[TensorRow] = (),
    *,
    weight_bytes: int = 0,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file: header, gap, and so many bytes of weights."""
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    head += b"".join(pairs) + b"".join(row.encode() for row in tensors)
    return head + bytes(-len(head) % alignment) + bytes(weight_bytes)


def small_model(*, template: str | None = "{{ messages }}") -> bytes:
    """Llama's kind with two layers, right in every byte; no engine would say anything with it."""
    pairs = [
        text_pair("general.architecture", "llama"),
        text_pair("general.name", "Small"),
        u32_pair("general.file_type", 1),
        u32_pair("llama.block_count", 2),
        u32_pair("llama.context_length", 512),
        u32_pair("llama.embedding_length", 64),
        u32_pair("llama.attention.head_count", 4),
        u32_pair("llama.attention.head_count_kv", 2),
        strings_pair("tokenizer.ggml.tokens", b"a", b"b", "é".encode(), b"<0x8C>"),
        array_pair("tokenizer.ggml.token_type", I32, 4, struct.pack("<4i", 1, 1, 1, 6)),
    ]
    if template is not None:
        pairs.append(text_pair("tokenizer.chat_template", template))
    tensors = [
        TensorRow("token_embd.weight", (64, 4), F16_TYPE, 0),
        TensorRow("blk.0.attn_q.weight", (64, 64), Q4_1_TYPE, 512),
        TensorRow("blk.1.attn_q.weight", (64, 64), Q4_1_TYPE, 512 + 2560),
    ]
    return gguf_file(pairs, tensors, weight_bytes=512 + 2 * 2560)
