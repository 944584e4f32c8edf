"""What a model is, as far as its file's header says so; and how much each token of context takes.

Keys: docs/gguf.md of ggml. Nothing of it is believed further than arithmetic on it is harmless: a
number that no model has counts as not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fabstir.models.gguf import GgufArray, GgufHeader
from fabstir.models.gguf_types import FILE_TYPES

_MAX_LAYERS: Final = 4096
_MAX_NUMBER: Final = 1 << 31

_FULL_ATTENTION_EVERY: Final = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
"""Of so many layers one sees the whole context, the others a window; as llama.cpp has it for each
architecture. For others that have a window, every layer is counted as one that sees all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """What one layer keeps of each token.

    Attributes:
        key_size, value_size: elements.
        window: tokens that it looks back at; None: all of the context.
    """

    key_size: int
    value_size: int
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model's own description.

    Attributes:
        architecture: "" where it tells none.
        name: its authors', "" where they gave none.
        quantisation: of the file as a whole, else the type of most weights.
        context_length: tokens that it was trained for; None: not told.
        layers: what each keeps of a token; empty where that is not told.
        embedding_size, feed_forward_size: elements of a token's state; 0 where not told.
        weight_bytes: of all tensors.
    """

    architecture: str
    name: str
    quantisation: str
    num_parameters: int
    context_length: int | None
    num_layers: int
    layers: tuple[LayerCache, ...]
    embedding_size: int
    feed_forward_size: int
    vocabulary_size: int
    has_chat_template: bool
    weight_bytes: int
    file_bytes: int


def model_facts(header: GgufHeader) -> ModelFacts:
    """The facts in a header."""
    told = _Told(header)
    num_layers = told.number("block_count") or 0
    return ModelFacts(
        architecture=told.architecture,
        name=told.text("general.name"),
        quantisation=_quantisation(header),
        num_parameters=sum(tensor.num_elements for tensor in header.tensors),
        context_length=told.number("context_length"),
        num_layers=num_layers,
        layers=_layers(told, num_layers),
        embedding_size=told.number("embedding_length") or 0,
        feed_forward_size=max(told.numbers("feed_forward_length", num_layers), default=0),
        vocabulary_size=told.length("tokenizer.ggml.tokens"),
        has_chat_template=bool(told.text("tokenizer.chat_template")),
        weight_bytes=header.weight_bytes,
        file_bytes=header.file_bytes,
    )


class _Told:
    """The header's values by their keys; of another type than expected is as if not told."""

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str:
        found = self._metadata.get(key)
        return found if isinstance(found, str) else ""

    def length(self, key: str) -> int:
        found = self._metadata.get(key)
        return found.length if isinstance(found, GgufArray) else 0

    def number(self, key: str) -> int | None:
        """One of the architecture's own numbers."""
        found = self._metadata.get(f"{self.architecture}.{key}")
        return found if isinstance(found, int) and 0 < found < _MAX_NUMBER else None

    def numbers(self, key: str, num_layers: int) -> Sequence[int]:
        """One for each layer, 0 among them: some models give one number for all."""
        if num_layers > _MAX_LAYERS:
            return ()
        found = self._metadata.get(f"{self.architecture}.{key}")
        if isinstance(found, GgufArray) and found.length == num_layers:
            values = [int(value) for value in found.numbers()]
            return values if all(0 <= value < _MAX_NUMBER for value in values) else ()
        one = self.number(key)
        return () if one is None else [one] * num_layers


def _layers(told: _Told, num_layers: int) -> tuple[LayerCache, ...]:
    heads = told.numbers("attention.head_count_kv", num_layers) or told.numbers(
        "attention.head_count", num_layers
    )
    per_head = _head_size(told, num_layers)
    key_size = told.number("attention.key_length") or per_head
    value_size = told.number("attention.value_length") or per_head
    if told.number("attention.key_length_mla"):
        value_size = 0  # latent attention reads its values out of the keys
    window = told.number("attention.sliding_window")
    full_every = _FULL_ATTENTION_EVERY.get(told.architecture, 1)
    return tuple(
        LayerCache(
            key_size=count * key_size,
            value_size=count * value_size,
            window=None if (index + 1) % full_every == 0 else window,
        )
        for index, count in enumerate(heads)
    )


def _head_size(told: _Told, num_layers: int) -> int:
    heads = told.numbers("attention.head_count", num_layers)
    return (told.number("embedding_length") or 0) // max([1, *heads])


def _quantisation(header: GgufHeader) -> str:
    told = header.metadata.get("general.file_type")
    if isinstance(told, int) and told in FILE_TYPES:
        return FILE_TYPES[told]
    sizes = Counter[str]()
    for tensor in header.tensors:
        sizes[tensor.kind.name] += tensor.num_bytes
    return sizes.most_common(1)[0][0] if sizes else ""
