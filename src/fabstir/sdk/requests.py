"""What an app asks, held to the protocol's rules before anything is sent.

Apps are not always checked for types. A request that no host would take is refused here, by the
rules that a host has: the session and its connection stay as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from fabstir.primitives.encoding import canonical_json
from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError, RequestRefused
from fabstir.protocol.content import (
    AudioPart,
    FilePart,
    ImagePart,
    Message,
    Part,
    TextPart,
    Tool,
    ToolCall,
)
from fabstir.protocol.fields import Fields
from fabstir.protocol.request import ChatRequest, Reasoning, ResponseFormat, ToolChoice
from fabstir.protocol.sampling import SamplingParams

T = TypeVar("T")


def chat_request(
    messages: Sequence[Message],
    *,
    model: str,
    sampling: SamplingParams,
    response_format: ResponseFormat | None = None,
    tools: Sequence[Tool] = (),
    tool_choice: ToolChoice | None = None,
    reasoning: Reasoning | None = None,
) -> ChatRequest:
    """The request of these arguments.

    Raises:
        LocalProtocolError: one of them is of another type.
        RequestRefused: every host would refuse it; the text says why.
    """
    request = ChatRequest(
        messages=_all_of("messages", messages, Message),
        sampling=_one_of("sampling", sampling, SamplingParams),
        model=model,
        response_format=_perhaps("response_format", response_format, ResponseFormat),
        tools=_all_of("tools", tools, Tool),
        tool_choice=_perhaps("tool_choice", tool_choice, ToolChoice),
        reasoning=_perhaps("reasoning", reasoning, Reasoning),
    )
    for message in request.messages:
        _check_message(message)
    try:
        ChatRequest.from_fields(Fields.parse(canonical_json(request.to_json()), "the request"))
    except RemoteProtocolError as exc:
        raise RequestRefused(f"{exc}. Nothing was sent") from exc
    except UnicodeEncodeError as exc:
        raise RequestRefused(
            "the request holds half of a surrogate pair, which is no text: correct or replace it. "
            "Nothing was sent"
        ) from exc
    except TypeError as exc:
        raise LocalProtocolError(f"the request is no JSON ({exc}). Nothing was sent") from exc
    return request


def _check_message(message: Message) -> None:
    # The types of both say so; whoever made the message may not have been checked for types.
    content = cast("object", message.content)
    if not isinstance(content, str):
        _all_of(
            "the content of a message that is no text", cast("Sequence[Part]", content), *_PARTS
        )
    _all_of("tool_calls", message.tool_calls, ToolCall)


_PARTS = (TextPart, ImagePart, AudioPart, FilePart)


def _all_of(name: str, values: Iterable[T], *kinds: type) -> tuple[T, ...]:
    names = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(values, str | bytes) or not isinstance(cast("object", values), Iterable):
        raise LocalProtocolError(f"{name} must be a list of {names}, not {values!r:.80}")
    items = tuple(values)
    for item in items:
        if not isinstance(item, kinds):
            raise LocalProtocolError(f"{name} must hold {names} alone, not {item!r:.80}")
    return items


def _one_of(name: str, value: T, kind: type) -> T:
    if not isinstance(value, kind):
        raise LocalProtocolError(f"{name} must be a {kind.__name__}, not {value!r:.80}")
    return value


def _perhaps(name: str, value: T | None, kind: type) -> T | None:
    return None if value is None else _one_of(name, value, kind)
