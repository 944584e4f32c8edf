"""The arithmetic of what a model takes, by headers of models that many hosts serve."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gguf_files import I32, array_pair, gguf_file, small_model, text_pair, u32_pair

from fabstir.models.facts import LayerCache, ModelFacts, model_facts
from fabstir.models.fit import (
    PlannedModel,
    kv_cache_bytes,
    need_in_ram,
    need_in_vram,
    require_fit,
)
from fabstir.models.gguf import parse_gguf
from fabstir.primitives.errors import ConfigError

GB = 10**9


def facts_of(data: bytes) -> ModelFacts:
    return model_facts(parse_gguf(io.BytesIO(data), len(data), "m.gguf"))


def header(architecture: str, weight_bytes: int, vocabulary: int, **numbers: int) -> ModelFacts:
    """Facts of a model by the numbers of its published header; its weights only by their size."""
    pairs = [text_pair("general.architecture", architecture)]
    for key, value in numbers.items():
        pairs.append(u32_pair(f"{architecture}.{key.replace('__', '.')}", value))
    return replace(
        facts_of(gguf_file(pairs)), weight_bytes=weight_bytes, vocabulary_size=vocabulary
    )


LLAMA_8B = header(
    "llama",
    4_920_000_000,
    128_256,
    block_count=32,
    context_length=131_072,
    embedding_length=4096,
    feed_forward_length=14_336,
    attention__head_count=32,
    attention__head_count_kv=8,
)
QWEN_14B = header(
    "qwen2",
    8_990_000_000,
    152_064,
    block_count=48,
    context_length=32_768,
    embedding_length=5120,
    feed_forward_length=13_824,
    attention__head_count=40,
    attention__head_count_kv=8,
)
QWEN_32B = header(
    "qwen2",
    19_850_000_000,
    152_064,
    block_count=64,
    context_length=32_768,
    embedding_length=5120,
    feed_forward_length=27_648,
    attention__head_count=40,
    attention__head_count_kv=8,
)
GEMMA_27B = header(
    "gemma3",
    16_550_000_000,
    262_208,
    block_count=62,
    context_length=131_072,
    embedding_length=5376,
    feed_forward_length=21_504,
    attention__head_count=32,
    attention__head_count_kv=16,
    attention__key_length=128,
    attention__value_length=128,
    attention__sliding_window=1024,
)


@pytest.mark.parametrize(
    ("facts", "bytes_per_token"),
    [(LLAMA_8B, 131_072), (QWEN_14B, 196_608), (QWEN_32B, 262_144)],
)
def test_each_token_takes_what_its_architecture_says(
    facts: ModelFacts, bytes_per_token: int
) -> None:
    """2 (keys, values) x layers x KV heads x head size x 2 bytes: 128 KiB for Llama 3.1 8B."""
    assert kv_cache_bytes(facts, 8192, 1) == 8192 * bytes_per_token
    assert kv_cache_bytes(facts, 8192, 4) == 4 * 8192 * bytes_per_token
    assert kv_cache_bytes(facts, 8192, 1, "Q8_0") == 8192 * bytes_per_token * 34 // 64
    assert kv_cache_bytes(facts, 8193, 1) == (8192 + 256) * bytes_per_token


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    """Gemma 3: every sixth layer sees all of the context, the others 1,024 tokens."""
    per_layer = 2 * 16 * 128 * 2
    num_full, num_windowed = 10, 52

    assert kv_cache_bytes(GEMMA_27B, 32_768, 1) == per_layer * (
        num_full * 32_768 + num_windowed * 1536
    )


@pytest.mark.parametrize(
    ("facts", "max_model_len", "num_slots", "fits"),
    [
        (LLAMA_8B, 8192, 8, True),
        (LLAMA_8B, 32_768, 4, True),
        (LLAMA_8B, 131_072, 1, True),
        (LLAMA_8B, 131_072, 2, False),
        (QWEN_14B, 8192, 8, True),
        (QWEN_14B, 32_768, 4, False),
        (QWEN_32B, 8192, 1, True),
        (QWEN_32B, 8192, 4, False),
        (GEMMA_27B, 8192, 4, True),
        (GEMMA_27B, 32_768, 4, False),
    ],
)
def test_what_a_card_of_24_gb_holds(
    facts: ModelFacts, max_model_len: int, num_slots: int, fits: bool
) -> None:
    need = need_in_vram(facts, max_model_len=max_model_len, num_slots=num_slots)

    assert (need.total <= 24 * GB) is fits
    assert need.total == need.weights + need.kv_cache + need.compute + need.overhead


def test_the_facts_of_a_header() -> None:
    facts = facts_of(small_model())

    assert facts.architecture == "llama"
    assert facts.name == "Small"
    assert facts.quantisation == "F16"
    assert facts.num_parameters == 64 * 4 + 2 * 64 * 64
    assert facts.context_length == 512
    assert facts.layers == (LayerCache(key_size=32, value_size=32),) * 2
    assert facts.has_chat_template
    assert not facts_of(small_model(template=None)).has_chat_template


def test_layers_may_differ_and_some_keep_nothing() -> None:
    """Hybrids have attention in some of their layers only."""
    facts = facts_of(
        gguf_file(
            [
                text_pair("general.architecture", "hybrid"),
                u32_pair("hybrid.block_count", 3),
                u32_pair("hybrid.attention.key_length", 64),
                u32_pair("hybrid.attention.value_length", 32),
                array_pair("hybrid.attention.head_count_kv", I32, 3, struct.pack("<3i", 0, 4, 0)),
            ]
        )
    )

    assert [(layer.key_size, layer.value_size) for layer in facts.layers] == [
        (0, 0),
        (256, 128),
        (0, 0),
    ]
    assert kv_cache_bytes(facts, 256, 1) == 256 * (256 + 128) * 2


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [text_pair("general.architecture", "x"), text_pair("x.block_count", "many")],
        [text_pair("general.architecture", "x"), u32_pair("x.block_count", (1 << 32) - 1)],
        [
            text_pair("general.architecture", "x"),
            u32_pair("x.block_count", 2),
            array_pair("x.attention.head_count_kv", I32, 2, struct.pack("<2i", -1, 1)),
        ],
    ],
)
def test_what_a_header_does_not_tell_counts_as_nothing(pairs: list[bytes]) -> None:
    facts = facts_of(gguf_file(pairs))

    assert facts.layers == ()
    assert need_in_ram(facts, max_model_len=4096, num_slots=4).kv_cache == 0


def planned(where: str, num_slots: int = 4, max_model_len: int = 8192) -> PlannedModel:
    return PlannedModel(
        where=where, facts=LLAMA_8B, max_model_len=max_model_len, num_slots=num_slots
    )


def test_a_refusal_has_the_figures_and_what_would_fit() -> None:
    with pytest.raises(ConfigError) as refused:
        require_fit({"llama": planned("model")}, 8 * GB)

    assert str(refused.value) == (
        "llama: 4,920 MB weights + 4,295 MB KV cache + 126 MB to compute + 60 MB overhead = "
        "9,401 MB. That is 9,401 MB, and 8,000 MB of memory can be had: set model.num_slots = 2 "
        "(from 4), or serve a smaller model or another quantisation (fewer bits a weight), or end "
        "what else uses this machine's memory"
    )


def test_a_shorter_context_is_offered_where_one_slot_is_too_much() -> None:
    with pytest.raises(ConfigError, match=r"set model\.num_slots = 1 and model\.max_model_len = 5"):
        require_fit({"llama": planned("model")}, 5_900_000_000)


def test_weights_that_do_not_fit_are_not_a_matter_of_slots() -> None:
    with pytest.raises(ConfigError, match="can be had: serve a smaller model"):
        require_fit({"llama": planned("model")}, 4 * GB)


def test_two_models_are_counted_together() -> None:
    both = {"a": planned("models[1]"), "b": planned("models[2]", num_slots=1)}

    require_fit(both, 16 * GB)
    with pytest.raises(ConfigError, match=r"set models\[1\]\.num_slots = 2 .*serve fewer models"):
        require_fit(both, 14 * GB)


def test_nothing_is_refused_where_nobody_knows_the_memory() -> None:
    require_fit({"llama": planned("model")}, None)


@given(
    num_slots=st.integers(1, 256),
    max_model_len=st.integers(128, 1 << 17),
    usable=st.integers(5_300_000_000, 64 * GB),
)
def test_what_is_advised_fits(num_slots: int, max_model_len: int, usable: int) -> None:
    model = planned("model", num_slots, max_model_len)
    try:
        require_fit({"llama": model}, usable)
    except ConfigError as refused:
        words = str(refused).replace(",", "").split()
        given = {
            words[i - 1]: int(words[i + 1])
            for i, word in enumerate(words)
            if word == "=" and words[i - 1].startswith("model.")
        }
        smaller = replace(
            model,
            num_slots=given["model.num_slots"],
            max_model_len=given.get("model.max_model_len", max_model_len),
        )
        require_fit({"llama": smaller}, usable)
