"""The engine with a real model: counts, text, stops, cancellation."""

import re

import anyio
import pytest

from fabstir.engines import (
    GenerationChunk,
    GenerationEnd,
    GenerationRequest,
    LlamaCppEngine,
)
from fabstir.primitives.errors import ContextLengthExceeded
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.sampling import SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


def greedy(max_tokens: int, stop: tuple[str, ...] = ()) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature_millionths=0, seed=1, stop=stop)


async def complete(
    engine: LlamaCppEngine, question: str, sampling: SamplingParams
) -> tuple[list[GenerationChunk], GenerationEnd]:
    prompt = await engine.tokenize_chat([ChatMessage("user", question)])
    chunks: list[GenerationChunk] = []
    async with engine.generate(
        GenerationRequest(prompt_token_ids=prompt, sampling=sampling)
    ) as events:
        async for event in events:
            if isinstance(event, GenerationEnd):
                assert event.num_prompt_tokens == len(prompt)
                return chunks, event
            chunks.append(event)
    raise AssertionError("no end came")


async def predicted_total(engine: LlamaCppEngine) -> int:
    found = re.search(r"^llamacpp:tokens_predicted_total (\d+)", await engine.metrics(), re.M)
    assert found
    return int(found[1])


async def test_an_answer_by_the_model(engine: LlamaCppEngine) -> None:
    question = "What is the capital of Italy? Answer in one sentence."

    chunks, end = await complete(engine, question, greedy(40))

    assert "".join(chunk.text for chunk in chunks) == "The capital of Italy is Rome."
    assert end.finish_reason == "stop"


async def test_max_tokens_are_exact(engine: LlamaCppEngine) -> None:
    before = await predicted_total(engine)

    chunks, end = await complete(engine, "Count from 1 to 100.", greedy(17))

    assert sum(len(chunk.token_ids) for chunk in chunks) == 17
    assert await predicted_total(engine) - before == 17
    assert end.finish_reason == "length"


async def test_characters_of_several_tokens_are_whole_and_counted(engine: LlamaCppEngine) -> None:
    question = "Repeat exactly: \U0001f600\U0001f389 你好世界 é"

    chunks, _end = await complete(engine, question, greedy(40))

    assert "\U0001f389" in "".join(chunk.text for chunk in chunks)
    assert "�" not in "".join(chunk.text for chunk in chunks)
    assert any(len(chunk.token_ids) == 3 for chunk in chunks)
    assert sum(len(chunk.token_ids) for chunk in chunks) == 40


async def test_a_stop_string_ends_the_answer(engine: LlamaCppEngine) -> None:
    question = "What is the capital of Italy? Answer in one sentence."

    chunks, end = await complete(engine, question, greedy(40, stop=(" is",)))

    assert "".join(chunk.text for chunk in chunks) == "The capital of Italy"
    assert end.finish_reason == "stop"


async def test_leaving_early_stops_decoding(engine: LlamaCppEngine) -> None:
    prompt = await engine.tokenize_chat([ChatMessage("user", "Count from 1 to 1000.")])
    request = GenerationRequest(prompt_token_ids=prompt, sampling=greedy(400))

    async with engine.generate(request) as events:
        async for _event in events:
            break

    _chunks, _end = await complete(engine, "Say yes.", greedy(2))
    settled = await predicted_total(engine)
    _chunks, _end = await complete(engine, "Say no.", greedy(2))
    assert await predicted_total(engine) - settled == 2


async def test_a_prompt_beyond_the_context_is_refused(engine: LlamaCppEngine) -> None:
    prompt = await engine.tokenize_chat([ChatMessage("user", "word " * 600)])

    with pytest.raises(ContextLengthExceeded) as refused:
        async with engine.generate(GenerationRequest(prompt_token_ids=prompt, sampling=greedy(5))):
            pass

    assert refused.value.num_prompt_tokens == len(prompt)
    assert refused.value.max_model_len == 512


async def test_four_answers_at_once_equal_one_alone(engine: LlamaCppEngine) -> None:
    alone, _end = await complete(engine, "Name a colour.", greedy(12))
    together: list[list[GenerationChunk]] = []

    async def ask() -> None:
        together.append((await complete(engine, "Name a colour.", greedy(12)))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)

    assert together == [alone] * 4
