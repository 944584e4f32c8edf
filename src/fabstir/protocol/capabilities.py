"""What a loaded model and its engine can do beyond text, and what a request needs of it.

What a request needs and the host has not is refused by name before anything is charged: left out
in silence, the answer would be another than was asked for, and billed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from enum import StrEnum

from fabstir.primitives.errors import RequestRefused
from fabstir.protocol.content import AudioPart, FilePart, ImagePart, Message, Part
from fabstir.protocol.request import ChatRequest
from fabstir.protocol.sampling import SamplingParams


class ModelCapability(StrEnum):
    """What is not common to all models and engines; temperature, top_p, seed and stop are.

    tools: definitions, choices and calls of tools, and their results. names: several participants
    in one role. reasoning: its switches, and reasoning that a client sends back. json_object,
    json_schema: decoding is held to JSON. penalties: presence_penalty and frequency_penalty.
    Servers that speak OpenAI's API only have no top_k, min_p and repeat_penalty.
    """

    IMAGES = "images"
    AUDIO = "audio"
    FILES = "files"
    TOOLS = "tools"
    NAMES = "names"
    REASONING = "reasoning"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    TOP_K = "top_k"
    MIN_P = "min_p"
    REPEAT_PENALTY = "repeat_penalty"
    PENALTIES = "penalties"
    LOGIT_BIAS = "logit_bias"
    LOGPROBS = "logprobs"


_OF_PARTS: Mapping[type[Part], ModelCapability] = {
    ImagePart: ModelCapability.IMAGES,
    AudioPart: ModelCapability.AUDIO,
    FilePart: ModelCapability.FILES,
}


def needs_of(request: ChatRequest) -> frozenset[ModelCapability]:
    """What a request needs; values that change nothing need nothing."""
    needs = {need for message in request.messages for need in _needs_of_message(message)}
    if request.tools or request.tool_choice or request.parallel_tool_calls is not None:
        needs.add(ModelCapability.TOOLS)
    if request.reasoning:
        needs.add(ModelCapability.REASONING)
    if request.response_format:
        has_schema = bool(request.response_format.schema)
        needs.add(ModelCapability.JSON_SCHEMA if has_schema else ModelCapability.JSON_OBJECT)
    return frozenset({*needs, *_needs_of_sampling(request.sampling)})


def _needs_of_message(message: Message) -> Iterator[ModelCapability]:
    yield from (need for part in message.parts if (need := _OF_PARTS.get(type(part))))
    if message.tool_calls or message.tool_call_id is not None:
        yield ModelCapability.TOOLS
    if message.name is not None:
        yield ModelCapability.NAMES
    if message.reasoning is not None:
        yield ModelCapability.REASONING


def _needs_of_sampling(sampling: SamplingParams) -> Iterator[ModelCapability]:
    needed = {
        ModelCapability.TOP_K: sampling.top_k > 0,
        ModelCapability.MIN_P: sampling.min_p > 0,
        ModelCapability.REPEAT_PENALTY: sampling.repeat_penalty != 1,
        ModelCapability.PENALTIES: sampling.presence_penalty or sampling.frequency_penalty,
        ModelCapability.LOGIT_BIAS: sampling.logit_bias,
        ModelCapability.LOGPROBS: sampling.logprobs,
    }
    yield from (need for need, is_needed in needed.items() if is_needed)


def require_capable(request: ChatRequest, capabilities: Set[ModelCapability]) -> None:
    """Refuse a request that needs more than there is.

    Raises:
        RequestRefused: the text names all that is missing.
    """
    missing = sorted(needs_of(request) - capabilities)
    if missing:
        raise RequestRefused(
            f"the request needs {', '.join(missing)}, which this host's model does not serve: "
            "nothing is answered or billed; leave it out, or choose another host"
        )
