"""Whether a model fits into memory, as arithmetic that can be shown, before anything is loaded.

Weights and KV cache follow exactly from the header. The rest was measured: for the demo model on a
CPU the child needs some 60 MB beside them, and what a batch of 512 tokens takes to compute. A test
of the estimate holds it to what the real child uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fabstir.models.facts import LayerCache, ModelFacts
from fabstir.models.gguf_types import TENSOR_TYPES, TensorType
from fabstir.primitives.errors import ConfigError

CACHE_TYPES: Final = {kind.name: kind for kind in TENSOR_TYPES.values()}
"""Of KV caches; llama.cpp takes F32, F16, BF16, Q8_0, Q4_0, Q4_1, IQ4_NL, Q5_0 and Q5_1."""

DEFAULT_CACHE_TYPE: Final = "F16"

PROCESS_BYTES: Final = 60_000_000
"""Python, the server and its libraries, without a model: 42 MB of its own and 16 MB mapped."""

GPU_CONTEXT_BYTES: Final = 500_000_000
"""An allowance for what a GPU's driver takes for a process; it was not measured here."""

_BATCH_TOKENS: Final = 512
"""llama.cpp's n_ubatch: prompts are computed so many tokens at a time."""

_CELLS_STEP: Final = 256
"""It rounds a cache's length up to a multiple of this."""

_FLOAT_BYTES: Final = 4
_STATES, _FEEDS = 8, 2
"""Copies of a token's state, and of its feed-forward layer, that a computation holds at a time:
15 MB for the demo model, of which 15 MB were measured."""

_MB: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes, by what they are for."""

    weights: int
    kv_cache: int
    compute: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute + self.overhead

    def __str__(self) -> str:
        return (
            f"{self.weights / _MB:,.0f} MB weights + {self.kv_cache / _MB:,.0f} MB KV cache + "
            f"{self.compute / _MB:,.0f} MB to compute + {self.overhead / _MB:,.0f} MB overhead = "
            f"{self.total / _MB:,.0f} MB"
        )


def need_in_ram(
    facts: ModelFacts, *, max_model_len: int, num_slots: int, cache_type: str = DEFAULT_CACHE_TYPE
) -> MemoryNeed:
    """What an engine takes of a machine's memory, all layers on the processor.

    Its cache of prompts (engines/llamacpp) comes on top, up to a gigabyte, as conversations come
    and go; the system may take that back.

    Args:
        max_model_len: tokens of context of each slot.
        cache_type: a name of `CACHE_TYPES`.
    """
    states = _STATES * facts.embedding_size + _FEEDS * facts.feed_forward_size
    return MemoryNeed(
        weights=facts.weight_bytes,
        kv_cache=kv_cache_bytes(facts, max_model_len, num_slots, cache_type),
        compute=_BATCH_TOKENS * states * _FLOAT_BYTES,
        overhead=PROCESS_BYTES,
    )


def need_in_vram(
    facts: ModelFacts, *, max_model_len: int, num_slots: int, cache_type: str = DEFAULT_CACHE_TYPE
) -> MemoryNeed:
    """What an engine takes of a GPU's memory, all layers there.

    What is computed has its room from the start there, a batch's probabilities among it.
    """
    in_ram = need_in_ram(
        facts, max_model_len=max_model_len, num_slots=num_slots, cache_type=cache_type
    )
    return MemoryNeed(
        weights=in_ram.weights,
        kv_cache=in_ram.kv_cache,
        compute=in_ram.compute + _BATCH_TOKENS * facts.vocabulary_size * _FLOAT_BYTES,
        overhead=GPU_CONTEXT_BYTES,
    )


def kv_cache_bytes(
    facts: ModelFacts, max_model_len: int, num_slots: int, cache_type: str = DEFAULT_CACHE_TYPE
) -> int:
    """What all slots keep of their tokens. 0 where the header does not tell the layers."""
    kind = CACHE_TYPES[cache_type]
    per_slot = sum(_layer_bytes(layer, max_model_len, kind) for layer in facts.layers)
    return num_slots * per_slot


def _layer_bytes(layer: LayerCache, max_model_len: int, kind: TensorType) -> int:
    cells = _rounded(max_model_len)
    if layer.window is not None:
        cells = min(cells, _rounded(layer.window + _BATCH_TOKENS))
    return kind.bytes_of(cells * layer.key_size) + kind.bytes_of(cells * layer.value_size)


def _rounded(num_tokens: int) -> int:
    return -(-num_tokens // _CELLS_STEP) * _CELLS_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """A model as it is to be loaded.

    Attributes:
        where: what it is called in the settings: model, models[1].
    """

    where: str
    facts: ModelFacts
    max_model_len: int
    num_slots: int

    @property
    def need(self) -> MemoryNeed:
        """See `need_in_ram`."""
        return need_in_ram(self.facts, max_model_len=self.max_model_len, num_slots=self.num_slots)


def require_fit(planned: Mapping[str, PlannedModel], usable_bytes: int | None) -> None:
    """Refuse what cannot be loaded together.

    Args:
        planned: by their names.
        usable_bytes: memory that can be had; None where nobody knows, and then nothing is refused.

    Raises:
        ConfigError: it does not fit; has the figures, and what would fit.
    """
    total = sum(each.need.total for each in planned.values())
    if usable_bytes is None or total <= usable_bytes:
        return
    figures = "; ".join(f"{name}: {each.need}" for name, each in planned.items())
    raise ConfigError(
        f"{figures}. That is {total / _MB:,.0f} MB, and {usable_bytes / _MB:,.0f} MB of memory can "
        f"be had: {what_fits(planned, total - usable_bytes)}, or end what else uses this machine's "
        "memory"
    )


def what_fits(planned: Mapping[str, PlannedModel], missing_bytes: int) -> str:
    """What to change so that `missing_bytes` less are needed; one model's settings at a time."""
    advice = [text for each in planned.values() if (text := _smaller(each, missing_bytes))]
    others = "serve a smaller model or another quantisation (fewer bits a weight)"
    if len(planned) > 1:
        others = "serve fewer models, or smaller ones or of another quantisation"
    return ", or ".join([*advice, others])


def _smaller(model: PlannedModel, missing_bytes: int) -> str:
    """The most slots, and with one slot the longest context, that would do for this model."""
    allowed = model.need.kv_cache - missing_bytes
    fewer = allowed // max(1, kv_cache_bytes(model.facts, model.max_model_len, 1))
    if fewer >= 1:
        return f"set {model.where}.num_slots = {fewer} (from {model.num_slots})"
    shorter = model.max_model_len // _CELLS_STEP * _CELLS_STEP
    while shorter > 0 and kv_cache_bytes(model.facts, shorter, 1) > allowed:
        shorter -= _CELLS_STEP
    if shorter < 1:
        return ""
    return f"set {model.where}.num_slots = 1 and {model.where}.max_model_len = {shorter}"
