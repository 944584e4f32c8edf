"""llama.cpp's server as an engine: the one in the xllamacpp wheel, or a `llama-server` binary."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Protocol

import anyio
from anyio import to_thread

from fabstir.engines._http import EngineAddress, EngineRefused, EngineResponse
from fabstir.engines.engine import (
    BATCH_SECONDS,
    EngineInfo,
    EngineState,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.engines.launcher import EngineProcess
from fabstir.engines.llamacpp.calibration import (
    SpeedCheck,
    ThreadChoice,
    choose_threads,
    known_forms,
)
from fabstir.engines.llamacpp.completion import (
    PATH,
    CompletionReader,
    completion_body,
    num_tokens_too_many,
)
from fabstir.engines.llamacpp.forms import JsonForms
from fabstir.engines.llamacpp.launcher import ChildLauncher, LlamaCppConfig
from fabstir.engines.llamacpp.template import ChatTemplate, open_template
from fabstir.engines.llamacpp.vocabulary import CharacterPieces, character_pieces
from fabstir.engines.supervisor import Supervisor
from fabstir.models.files import FileIdentity, identity_of
from fabstir.models.gguf import GgufHeader, read_gguf
from fabstir.primitives.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineCrashed,
    EngineUnavailable,
    FabstirError,
)
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.request import ResponseFormat
from fabstir.telemetry.background import running

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


class LlamaServer(EngineProcess, Protocol):
    """A llama-server that answers: a child, or one that somebody else runs."""

    @property
    def address(self) -> EngineAddress:
        """Where it listens."""
        ...


class LlamaCppEngine:
    """The `Engine` over a supervised llama-server. Made by `open_llamacpp`, or for one by URL."""

    def __init__(
        self,
        supervisor: Supervisor[LlamaServer],
        info: EngineInfo,
        pieces: CharacterPieces,
        forms: JsonForms,
        template: ChatTemplate,
        check: SpeedCheck | None,
    ) -> None:
        self.info = info
        self._forms = forms
        self._template = template
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

    async def metrics(self) -> str:
        """The child's own counters, as Prometheus text."""
        return await self.address.get_text("/metrics")

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[AsyncIterator[tuple[GenerationEvent, ...]]]:
        """See `Engine.generate`. Waits for a free slot first."""
        async with self._slots:
            address = self.address
            text = await self._template.render(address, request.messages)
            if request.response_format:
                await self._require_held(address, request.response_format, text)
            body = completion_body(request, text)
            async with address.stream("POST", PATH, body, interval=BATCH_SECONDS) as response:
                yield self._batches(response, request)

    async def _batches(
        self, response: EngineResponse, request: GenerationRequest
    ) -> AsyncIterator[tuple[GenerationEvent, ...]]:
        reader = CompletionReader(self._pieces, request, self.info.max_model_len)
        is_alone = True
        try:
            while not reader.is_over and (data := await response.receive()):
                batch = reader.feed(data)
                is_alone = is_alone and self.num_running == 1
                if self._check and is_alone and reader.is_over:
                    self._note_speed(self._check, batch[-1])
                if batch:
                    yield batch
        except EngineRefused as error:
            raise self._refusal(error) from error
        if not reader.is_over:
            raise EngineCrashed(
                "the engine ended its answer in the middle: it is started again; send the request "
                "again"
            )

    async def _require_held(self, address: EngineAddress, form: ResponseFormat, text: str) -> None:
        try:
            await self._forms.require_held(address, form, text)
        except EngineRefused as error:
            raise self._refusal(error) from error

    @staticmethod
    def _note_speed(check: SpeedCheck, event: GenerationEvent) -> None:
        if isinstance(event, GenerationEnd):
            check.saw(event.num_completion_tokens, event.decode_seconds)

    def _refusal(self, error: EngineRefused) -> FabstirError:
        if (num_tokens := num_tokens_too_many(error.body)) is not None:
            return ContextLengthExceeded(num_tokens, self.info.max_model_len)
        return EngineUnavailable(f"the engine refused the request: {error.message}")


@asynccontextmanager
async def open_llamacpp(
    config: LlamaCppConfig, *, on_progress: Callable[[str], None]
) -> AsyncGenerator[LlamaCppEngine]:
    """Load a model and answer for the length of the block.

    Args:
        on_progress: told what start-up is doing, for people.

    Raises:
        EngineUnavailable: it does not start; the text says what it said last.
        ModelNotGguf: the file is no model, or its header is damaged: it is not started with it.
        ConfigError: the model has a shorter context than `config` asks for.
    """
    file, header = await _look_at_file(config)  # first: no native code has seen it yet
    choice = await choose_threads(config, on_progress)
    on_progress("loading the model")
    supervisor = Supervisor(ChildLauncher(config, choice.threads, file), config.restarts)
    ready = anyio.Event()
    async with running(partial(supervisor.run, ready.set)):
        pieces = await to_thread.run_sync(character_pieces, header)
        await ready.wait()
        properties: Any = await supervisor.process.address.get_json("/props")
        info = _info(config, properties, choice)
        forms = await JsonForms.of(supervisor.process.address, known_forms(config))
        template = await open_template(supervisor.process.address, properties)
        yield LlamaCppEngine(supervisor, info, pieces, forms, template, choice.check)


async def _look_at_file(config: LlamaCppConfig) -> tuple[FileIdentity, GgufHeader]:
    def look() -> tuple[FileIdentity, GgufHeader]:
        return identity_of(config.model_path), read_gguf(config.model_path)

    try:
        return await to_thread.run_sync(look)
    except OSError as error:
        raise EngineUnavailable(
            f"{config.model_path} cannot be read ({error.strerror}): put the model's file there "
            "again"
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
