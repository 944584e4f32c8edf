"""The ways to an engine, one interface for the conformance tests: driver, server, its own words."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from tests.integration.engines.servers import MODEL_NAME, ModelServer

from fabstir.engines import Engine
from fabstir.engines._http import EngineAddress
from fabstir.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, open_llamacpp
from fabstir.engines.openai import UrlEngineConfig, open_url_engine
from fabstir.protocol.content import Message

STRICT_CHATML = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
"""The demo model's own form, for conversations in which users and assistants take turns."""


def with_template(model: Path, template: str, copy: Path) -> Path:
    """The demo model with another chat template, no longer than its own."""
    data = bytearray(model.read_bytes())
    begin = data.index(b"{% for message in messages %}")
    length = int.from_bytes(data[begin - 8 : begin], "little")
    assert len(template) <= length, "it stands in the place of the other"
    data[begin : begin + length] = template.encode().ljust(length)
    copy.write_bytes(data)
    return copy


def quietly(_text: str) -> None:
    """Nobody watches these starts."""


class Way(Protocol):
    """One driver and its server.

    Attributes:
        name: as the table of docs/engines.md has it.
        start_seconds: within which its server starts on a busy machine.
    """

    name: str
    start_seconds: float

    def open(self, **changes: Any) -> AbstractAsyncContextManager[Engine]:
        """The driver, over a server that is started if it does not run."""
        ...

    def address(self, engine: Engine) -> EngineAddress:
        """Where the tests ask the server itself."""
        ...

    async def tokenize(self, engine: Engine, messages: Sequence[Message]) -> list[int]:
        """A conversation's prompt, by the server."""
        ...

    async def detokenize(self, engine: Engine, token_ids: Sequence[int]) -> str:
        """Their text, by the server."""
        ...

    async def num_generated(self, engine: Engine) -> int:
        """Tokens that the server has generated, by its own counter."""
        ...

    async def num_running(self, engine: Engine) -> int:
        """Requests that the server works on, by its own gauge."""
        ...

    def send(self, engine: Engine, number: signal.Signals) -> None:
        """A signal to the server's processes."""
        ...

    def revive(self) -> None:
        """Start the server again, where nobody else does."""
        ...


def _listed(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


async def _metric(address: EngineAddress, name: str) -> int:
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", await address.get_text("/metrics"), re.M)
    assert found, f"the server counts no {name}"
    return int(float(found[1]))


class _LlamaWords:
    """How any llama-server is asked, beside the driver."""

    def address(self, engine: Engine) -> EngineAddress:
        assert isinstance(engine, LlamaCppEngine)
        return engine.address

    async def tokenize(self, engine: Engine, messages: Sequence[Message]) -> list[int]:
        address = self.address(engine)
        text = (await address.post_json("/apply-template", {"messages": _listed(messages)}))[
            "prompt"
        ]
        body = {"content": text, "add_special": True, "parse_special": True}
        return (await address.post_json("/tokenize", body))["tokens"]

    async def detokenize(self, engine: Engine, token_ids: Sequence[int]) -> str:
        answer = await self.address(engine).post_json("/detokenize", {"tokens": list(token_ids)})
        return answer["content"]

    async def num_generated(self, engine: Engine) -> int:
        return await _metric(self.address(engine), "llamacpp:tokens_predicted_total")

    async def num_running(self, engine: Engine) -> int:
        return await _metric(self.address(engine), "llamacpp:requests_processing")


@dataclass
class ChildWay(_LlamaWords):
    """llama.cpp as a child of ours."""

    config: LlamaCppConfig
    name: str = "llama.cpp child"
    start_seconds: float = 60

    def open(self, **changes: Any) -> AbstractAsyncContextManager[Engine]:
        return open_llamacpp(replace(self.config, **changes), on_progress=quietly)

    def send(self, engine: Engine, number: signal.Signals) -> None:
        assert isinstance(engine, LlamaCppEngine)
        if engine.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(engine.pid, number)

    def revive(self) -> None:
        """The supervisor does."""


@dataclass
class _UrlWay:
    """A server that the tests run."""

    server: ModelServer
    config: UrlEngineConfig

    def open(self, **changes: Any) -> AbstractAsyncContextManager[Engine]:
        return open_url_engine(replace(self.config, **changes), on_progress=quietly)

    def send(self, engine: Engine, number: signal.Signals) -> None:
        self.server.send(number)

    def revive(self) -> None:
        self.server.end()
        self.server.start()


@dataclass
class LlamaUrlWay(_UrlWay, _LlamaWords):
    """llama-server by URL."""

    name: str = "llama-server by URL"
    start_seconds: float = 60


@dataclass
class VllmWay(_UrlWay):
    """vLLM by URL."""

    name: str = "vLLM by URL"
    start_seconds: float = 600
    _address: EngineAddress = field(init=False)

    def __post_init__(self) -> None:
        self._address = EngineAddress("127.0.0.1", self.server.port, self.server.key)

    def address(self, engine: Engine) -> EngineAddress:
        return self._address

    async def tokenize(self, engine: Engine, messages: Sequence[Message]) -> list[int]:
        body = {"model": MODEL_NAME, "messages": _listed(messages)}
        return (await self._address.post_json("/tokenize", body))["tokens"]

    async def detokenize(self, engine: Engine, token_ids: Sequence[int]) -> str:
        body = {"model": MODEL_NAME, "tokens": list(token_ids)}
        return (await self._address.post_json("/detokenize", body))["prompt"]

    async def num_generated(self, engine: Engine) -> int:
        return await _metric(self._address, "vllm:generation_tokens_total")

    async def num_running(self, engine: Engine) -> int:
        return await _metric(self._address, "vllm:num_requests_running")
