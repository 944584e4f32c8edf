"""An engine by URL: recognised, watched, asked in its own words."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio import to_thread

from fabstir.engines._http import EngineRefused, EngineResponse
from fabstir.engines.engine import (
    BATCH_SECONDS,
    Engine,
    EngineInfo,
    EngineState,
    GenerationEvent,
    GenerationRequest,
)
from fabstir.engines.llamacpp.driver import LlamaCppEngine
from fabstir.engines.llamacpp.forms import JsonForms
from fabstir.engines.llamacpp.template import open_template
from fabstir.engines.llamacpp.vocabulary import CharacterPieces, character_pieces
from fabstir.engines.openai import vllm
from fabstir.engines.openai.address import RemoteAddress
from fabstir.engines.openai.config import ServerProfile, UrlEngineConfig
from fabstir.engines.openai.follower import RemoteLauncher, RemoteServer, first_look
from fabstir.engines.openai.servers import ServedThere, require_same_file
from fabstir.engines.supervisor import Supervisor
from fabstir.models.gguf import read_gguf
from fabstir.primitives.errors import (
    ContextLengthExceeded,
    EngineCrashed,
    EngineUnavailable,
)
from fabstir.protocol.capabilities import ModelCapability
from fabstir.telemetry.background import running


class VllmEngine:
    """The `Engine` over a vLLM server. Made by `open_url_engine`."""

    def __init__(
        self,
        supervisor: Supervisor[RemoteServer],
        info: EngineInfo,
        served_name: str,
    ) -> None:
        self.info = info
        self._supervisor = supervisor
        self._served_name = served_name
        self._slots = anyio.Semaphore(info.num_slots)

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        return self._supervisor.state

    @property
    def address(self) -> RemoteAddress:
        """Where the server listens. Raises EngineUnavailable: it is away."""
        return self._supervisor.process.address

    def capabilities(self) -> frozenset[ModelCapability]:
        """What vLLM does for prompts of token ids."""
        return vllm.CAPABILITIES

    @asynccontextmanager
    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[AsyncIterator[tuple[GenerationEvent, ...]]]:
        """See `Engine.generate`. Waits for a free slot first."""
        async with self._slots:
            address = self.address
            prompt = await vllm.prompt_ids(address, self._served_name, request.messages)
            room = self.info.max_model_len - len(prompt) - len(request.generated)
            if room < 1:
                raise ContextLengthExceeded(len(prompt), self.info.max_model_len)
            body = vllm.completion_body(request, self._served_name, prompt, room)
            async with address.stream("POST", vllm.PATH, body, interval=BATCH_SECONDS) as response:
                yield self._batches(response, vllm.VllmReader(len(prompt)))

    async def _batches(
        self, response: EngineResponse, reader: vllm.VllmReader
    ) -> AsyncIterator[tuple[GenerationEvent, ...]]:
        try:
            while not reader.is_over and (data := await response.receive()):
                if batch := reader.feed(data):
                    yield batch
        except EngineRefused as error:
            raise EngineUnavailable(f"the engine refused the request: {error.message}") from error
        if not reader.is_over:
            raise EngineCrashed(
                "the engine ended its answer in the middle: look at its log; send the request again"
            )


@asynccontextmanager
async def open_url_engine(
    config: UrlEngineConfig, *, on_progress: Callable[[str], None]
) -> AsyncGenerator[Engine]:
    """Answer through a server that somebody else runs, for the length of the block.

    It is followed: while it is away the state says so, and when it is back it is asked again.

    Args:
        on_progress: told what start-up is doing, for people.

    Raises:
        ConfigError: the server is none whose answers can be sold, has another model, a shorter
            context or another key.
        EngineUnavailable: it is not there in time.
    """
    address = RemoteAddress.of(config)
    there = await first_look(address, on_progress)
    require_same_file(there, config)
    supervisor = Supervisor(RemoteLauncher(address, there), config.restarts)
    ready = anyio.Event()
    async with running(partial(supervisor.run, ready.set)):
        await ready.wait()
        yield await _engine(supervisor, config, there)


async def _engine(
    supervisor: Supervisor[RemoteServer], config: UrlEngineConfig, there: ServedThere
) -> Engine:
    info = EngineInfo(
        model=config.model_path.name,
        max_model_len=config.max_model_len,
        num_slots=config.num_slots,
        build=there.build,
        chat_template=there.chat_template,
        tuning=f"at {config.url}",
    )
    if there.profile is ServerProfile.LLAMA_SERVER:
        return await _llama_engine(supervisor, info, config)
    return VllmEngine(supervisor, info, there.served_name)


async def _llama_engine(
    supervisor: Supervisor[RemoteServer], info: EngineInfo, config: UrlEngineConfig
) -> LlamaCppEngine:
    """The child's own driver, over a server that somebody else runs."""

    def read_pieces() -> CharacterPieces:
        return character_pieces(read_gguf(config.model_path))

    try:
        pieces = await to_thread.run_sync(read_pieces)
    except OSError as error:
        raise EngineUnavailable(
            f"{config.model_path} cannot be read ({error.strerror}): put the model's file there "
            "again"
        ) from error
    address = supervisor.process.address
    forms = await JsonForms.of(address)
    template = await open_template(address, await address.get_json("/props"))
    return LlamaCppEngine(supervisor, info, pieces, forms, template, None)
