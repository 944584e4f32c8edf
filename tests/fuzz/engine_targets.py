"""What engines answer: as strange as any stranger's bytes where somebody else runs them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fabstir.engines import GenerationChunk, GenerationEnd
from fabstir.engines._http import EngineRefused
from fabstir.engines.openai.vllm import VllmReader
from fabstir.primitives.errors import EngineCrashed


def vllm_stream(data: bytes) -> None:
    """A streamed answer of vLLM. What was counted at its end is what was delivered."""
    reader = VllmReader(num_prompt_tokens=1)
    with suppress(EngineCrashed, EngineRefused):
        events = reader.feed(data)
        num_delivered = sum(
            len(event.token_ids) for event in events if isinstance(event, GenerationChunk)
        )
        for event in events:
            assert not isinstance(event, GenerationEnd) or (
                event.num_completion_tokens == num_delivered
            )


ENGINE_TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"vllm_stream": vllm_stream}
