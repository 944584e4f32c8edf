"""llama.cpp's server as an engine: the one in the xllamacpp wheel, or a `llama-server` binary."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
from anyio import to_thread

from fabstir.engines._http import EngineAddress, EngineRefused
from fabstir.engines._sse import EventDecoder
from fabstir.engines.engine import (
    EngineInfo,
    EngineState,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.engines.llamacpp.calibration import SpeedCheck, ThreadChoice, choose_threads
from fabstir.engines.llamacpp.forms import JsonForms, schema_of
from fabstir.engines.llamacpp.launcher import ChildLauncher, LlamaCppConfig, RunningChild
from fabstir.engines.llamacpp.vocabulary import CharacterPieces, read_character_pieces
from fabstir.engines.supervisor import Supervisor
from fabstir.primitives.errors import (
    ConfigError,
    ContextLengthExceeded,
    ConversationRefused,
    EngineCrashed,
    EngineUnavailable,
)
from fabstir.protocol.answers import TokenLogprob
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.telemetry.background import running

_LOADING: Final = 503

_CAPABILITIES: Final = frozenset(
    {
        ModelCapability.TOP_K,
        ModelCapability.MIN_P,
        ModelCapability.REPEAT_PENALTY,
        ModelCapability.PENALTIES,
        ModelCapability.LOGIT_BIAS,
        ModelCapability.LOGPROBS,
    }
)
"""What every build does; answers in JSON hang on the build."""

_END_FIELDS: Final = ("stop", "stop_type", "tokens_evaluated", "timings")
"""Of the last event; the others repeat the prompt and the settings."""


class LlamaCppEngine:
    """The `Engine` over a supervised child process. Made by `open_llamacpp`."""

    def __init__(
        self,
        supervisor: Supervisor[RunningChild],
        info: EngineInfo,
        pieces: CharacterPieces,
        forms: JsonForms,
        check: SpeedCheck | None,
    ) -> None:
        self.info = info
        self._forms = forms
        self._supervisor = supervisor
        self._pieces = pieces
        self._check = check
        # The server's own queue would hold one of its few HTTP threads for each waiting request,
        # and then no other request, not even a health check, is answered.
        self._slots = anyio.Semaphore(info.num_slots)

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self._supervisor.state

    def capabilities(self) -> frozenset[ModelCapability]:
        """What the server's /completion does by itself; what its templates do is not parsed yet."""
        return _CAPABILITIES | self._forms.capabilities

    @property
    def pid(self) -> int | None:
        """The child process, while there is one: for `status`, and for tests that kill it."""
        return self._supervisor.pid

    @property
    def address(self) -> EngineAddress:
        """Where the child listens now, for benchmarks that ask it directly.

        Raises:
            EngineUnavailable: it is loading or gone.
        """
        return self._supervisor.process.address

    @property
    def num_running(self) -> int:
        """Requests that are being decoded; at most `info.num_slots`."""
        return self.info.num_slots - self._slots.value

    async def tokenize_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Two requests to the child, together about 2 ms for a short prompt."""
        listed = [{"role": message.role, "content": message.text} for message in messages]
        address = self.address
        try:
            answer = await address.post_json("/apply-template", {"messages": listed})
        except EngineRefused as error:
            if error.status == _LOADING:
                raise EngineUnavailable(f"the engine is loading: {_message(error)}") from error
            raise ConversationRefused(
                f"the model's chat template does not take this conversation: {_message(error)}. "
                "Some models take no system message, or only user and assistant in turn"
            ) from error
        body = {"content": answer["prompt"], "add_special": True, "parse_special": True}
        try:
            return tuple((await address.post_json("/tokenize", body))["tokens"])
        except EngineRefused as error:
            raise EngineUnavailable(
                f"the engine refused to tokenize the prompt: {_message(error)}"
            ) from error

    async def metrics(self) -> str:
        """The child's own counters, as Prometheus text."""
        return await self.address.get_text("/metrics")

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[AsyncIterator[GenerationEvent]]:
        """See `Engine.generate`. Waits for a free slot first."""
        room = self.info.max_model_len - len(request.prompt_token_ids)
        if room < 1:
            raise ContextLengthExceeded(len(request.prompt_token_ids), self.info.max_model_len)
        async with self._slots:
            address = self.address
            try:
                if request.response_format:
                    await self._forms.require_held(
                        address, request.response_format, request.prompt_token_ids
                    )
                async with address.stream(
                    "POST", "/completion", completion_body(request, room)
                ) as pieces:
                    num_alternatives = request.sampling.top_logprobs
                    yield self._checked(read_events(pieces, self._pieces, num_alternatives))
            except EngineRefused as error:
                raise EngineUnavailable(
                    f"the engine refused the request: {_message(error)}"
                ) from error

    async def _checked(
        self, events: AsyncIterator[GenerationEvent]
    ) -> AsyncIterator[GenerationEvent]:
        is_alone = True
        async for event in events:
            is_alone = is_alone and self.num_running == 1
            if self._check and is_alone and isinstance(event, GenerationEnd):
                self._check.saw(event.num_completion_tokens, event.decode_seconds)
            yield event


def completion_body(request: GenerationRequest, room: int) -> dict[str, Any]:
    """What the server is asked for; `room` is what the context has left."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "prompt": list(request.prompt_token_ids),
        "n_predict": min(sampling.max_tokens, room),
        "stream": True,
        "return_tokens": True,
        "response_fields": list(_END_FIELDS),
        "cache_prompt": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": [list(pair) for pair in sampling.logit_bias],
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    if sampling.logprobs:
        body["n_probs"] = max(1, sampling.top_logprobs)  # 0 for no probabilities at all
    if request.response_format:
        body["json_schema"] = schema_of(request.response_format)
    return body


async def read_events(
    body: AsyncIterator[bytes], pieces: CharacterPieces, num_alternatives: int = 0
) -> AsyncIterator[GenerationEvent]:
    """The events in the body of a streamed answer, with all of their token ids.

    Args:
        num_alternatives: how many are told with each probability, if those were asked for.

    Raises:
        EngineCrashed: the answer ends without its last event.
    """
    decoder = EventDecoder()
    num_reported = num_delivered = 0
    is_text_withheld = False
    async for data in body:
        for payload in decoder.feed(data):
            event: dict[str, Any] = json.loads(payload)
            if "error" in event:
                raise EngineCrashed(f"the engine gave up: {event['error'].get('message', '')}")
            if event["stop"]:
                yield _end(event, num_delivered)
                return
            text, token_ids = event["content"], tuple[int, ...](event["tokens"])
            num_new = event["tokens_predicted"] - num_reported
            num_reported = event["tokens_predicted"]
            if num_new > len(token_ids) == 1:
                token_ids = pieces.spell(text, num_new, token_ids[0], is_whole=not is_text_withheld)
            is_text_withheld = not text  # it may be the beginning of a stop string
            num_delivered += len(token_ids)
            probabilities = event.get("completion_probabilities", ())
            logprobs = tuple(_logprob(each, num_alternatives) for each in probabilities)
            yield GenerationChunk(text, token_ids, logprobs)
    raise EngineCrashed(
        "the engine ended its answer in the middle: it is started again; send the request again"
    )


def _logprob(told: dict[str, Any], num_alternatives: int) -> TokenLogprob:
    top = told.get("top_logprobs", ())[:num_alternatives]
    return TokenLogprob(
        token_id=told["id"],
        token_bytes=bytes(told["bytes"]),
        logprob=told["logprob"],
        top=tuple(_logprob(each, 0) for each in top),
    )


def _end(event: dict[str, Any], num_delivered: int) -> GenerationEnd:
    timings = event["timings"]
    return GenerationEnd(
        finish_reason="length" if event["stop_type"] == "limit" else "stop",
        num_prompt_tokens=event["tokens_evaluated"],
        num_cached_tokens=timings.get("cache_n", 0),
        num_completion_tokens=num_delivered,
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
        ConfigError: the model has a shorter context than `config` asks for.
    """
    choice = await choose_threads(config, on_progress)
    on_progress("loading the model")
    supervisor = Supervisor(ChildLauncher(config, choice.threads), config.restarts)
    ready = anyio.Event()
    async with running(partial(supervisor.run, ready.set)):
        pieces = await _character_pieces(config)
        await ready.wait()
        properties: Any = await supervisor.process.address.get_json("/props")
        info = _info(config, properties, choice)
        forms = await JsonForms.of(supervisor.process.address)
        yield LlamaCppEngine(supervisor, info, pieces, forms, choice.check)


async def _character_pieces(config: LlamaCppConfig) -> CharacterPieces:
    try:
        return await to_thread.run_sync(read_character_pieces, config.model_path)
    except (OSError, ValueError) as error:
        raise EngineUnavailable(
            f"the vocabulary of {config.model_path} cannot be read ({error}): is it a GGUF file?"
        ) from error


def _info(config: LlamaCppConfig, properties: Any, choice: ThreadChoice) -> EngineInfo:
    offered = int(properties["default_generation_settings"].get("n_ctx", math.inf))
    if offered < config.max_model_len:
        raise ConfigError(
            f"{config.model_path.name} has a context of {offered} tokens, and "
            f"model.max_model_len is {config.max_model_len}: lower it"
        )
    return EngineInfo(
        model=config.model_path.name,
        max_model_len=config.max_model_len,
        num_slots=int(properties["total_slots"]),
        build=str(properties["build_info"]),
        chat_template=str(properties["chat_template"]),
        tuning=f"{choice.threads.decode} decode and {choice.threads.batch} batch threads, "
        f"{choice.reason}",
    )
