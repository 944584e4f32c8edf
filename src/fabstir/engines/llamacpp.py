"""llama.cpp's server as an engine: the one in the xllamacpp wheel, or a `llama-server` binary."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from fabstir.engines._http import EngineAddress, EngineRefused
from fabstir.engines._process import LlamaCppConfig, Supervisor
from fabstir.engines._sse import EventDecoder
from fabstir.engines.calibration import choose_threads
from fabstir.engines.engine import (
    EngineInfo,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.primitives.errors import (
    ContextLengthExceeded,
    EngineCrashed,
    EngineUnavailable,
)
from fabstir.protocol.chat import ChatMessage

_MILLION = 1_000_000


class LlamaCppEngine:
    """The `Engine` over a supervised child process. Made by `open_llamacpp`."""

    def __init__(self, supervisor: Supervisor, info: EngineInfo) -> None:
        self._supervisor = supervisor
        self.info = info

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self._supervisor.state

    async def tokenize_chat(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Two requests to the child, together about 2 ms for a short prompt."""
        listed = [{"role": message.role, "content": message.content} for message in messages]
        address = self._supervisor.address()
        try:
            answer = await address.post_json("/apply-template", {"messages": listed})
            return await _tokenize(address, answer["prompt"])
        except EngineRefused as error:
            raise EngineUnavailable(
                f"the model's chat template refused the conversation: {_message(error)}"
            ) from error

    async def metrics(self) -> str:
        """The child's own counters, as Prometheus text."""
        return await self._supervisor.address().get_text("/metrics")

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[AsyncIterator[GenerationEvent]]:
        """See `Engine.generate`."""
        num_prompt_tokens = len(request.prompt_token_ids)
        if num_prompt_tokens >= self.info.max_model_len:
            raise ContextLengthExceeded(num_prompt_tokens, self.info.max_model_len)
        address = self._supervisor.address()
        try:
            async with address.stream("POST", "/completion", _body(request)) as pieces:
                yield _events(address, pieces)
        except EngineRefused as error:
            raise self._refusal(error, num_prompt_tokens) from error

    def _refusal(self, error: EngineRefused, num_prompt_tokens: int) -> Exception:
        if b"exceed_context_size_error" in error.body:
            return ContextLengthExceeded(num_prompt_tokens, self.info.max_model_len)
        return EngineUnavailable(f"the engine refused the request: {_message(error)}")


def _body(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "prompt": list(request.prompt_token_ids),
        "n_predict": sampling.max_tokens,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
        "temperature": sampling.temperature_millionths / _MILLION,
        "top_p": sampling.top_p_millionths / _MILLION,
        "min_p": sampling.min_p_millionths / _MILLION,
        "repeat_penalty": sampling.repeat_penalty_millionths / _MILLION,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }


async def _events(
    address: EngineAddress, pieces: AsyncIterator[bytes]
) -> AsyncIterator[GenerationEvent]:
    decoder = EventDecoder()
    num_reported = 0
    async for piece in pieces:
        for payload in decoder.feed(piece):
            event: dict[str, Any] = json.loads(payload)
            if "error" in event:
                raise EngineCrashed(f"the engine gave up: {event['error'].get('message', '')}")
            if event["stop"]:
                yield _end(event)
                return
            num_new = event["tokens_predicted"] - num_reported
            num_reported = event["tokens_predicted"]
            yield await _chunk(address, event["content"], tuple(event["tokens"]), num_new)
    raise EngineCrashed(
        "the engine ended its answer in the middle: it is started again; send the request again"
    )


async def _chunk(
    address: EngineAddress, text: str, reported: tuple[int, ...], num_new: int
) -> GenerationChunk:
    """Find the ids that the server kept to itself while a character was incomplete."""
    if len(reported) == num_new:
        return GenerationChunk(text, reported)
    found = await _tokenize(address, text, add_special=False)
    return GenerationChunk(text, found if len(found) == num_new else reported)


async def _tokenize(
    address: EngineAddress, text: str, *, add_special: bool = True
) -> tuple[int, ...]:
    body = {"content": text, "add_special": add_special, "parse_special": add_special}
    answer = await address.post_json("/tokenize", body)
    return tuple(answer["tokens"])


def _end(event: dict[str, Any]) -> GenerationEnd:
    timings = event["timings"]
    return GenerationEnd(
        finish_reason="length" if event["stop_type"] == "limit" else "stop",
        num_prompt_tokens=event["tokens_evaluated"],
        num_cached_tokens=timings.get("cache_n", 0),
        prompt_seconds=timings["prompt_ms"] / 1000,
        decode_seconds=timings["predicted_ms"] / 1000,
    )


def _message(error: EngineRefused) -> str:
    try:
        return str(json.loads(error.body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)


@asynccontextmanager
async def open_llamacpp(
    config: LlamaCppConfig, *, on_progress: Callable[[str], None]
) -> AsyncGenerator[LlamaCppEngine]:
    """Load a model and answer for the length of the block.

    Args:
        on_progress: told what start-up is doing, for people.

    Raises:
        EngineUnavailable: it does not start; the text says what it said last.
    """
    threads, reason = await choose_threads(config, on_progress)
    on_progress("loading the model")
    supervisor = Supervisor(config, threads)
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supervisor.run, ready.set)
        await ready.wait()
        properties: Any = await supervisor.address().get_json("/props")
        info = EngineInfo(
            model=config.model_path.name,
            max_model_len=config.max_model_len,
            num_slots=properties["total_slots"],
            build=str(properties["build_info"]),
            chat_template=properties["chat_template"],
            tuning=f"{threads.decode} decode and {threads.batch} batch threads, {reason}",
        )
        yield LlamaCppEngine(supervisor, info)
        tasks.cancel_scope.cancel()
