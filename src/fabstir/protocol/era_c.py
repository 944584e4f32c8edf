"""The requests of existing clients ("era-C"), which stay as they are, read into ours.

They send one text, which may be a whole conversation in ChatML, or a list of messages; fractions as
JSON numbers; names in snake_case or camelCase; and no limit at all, for which a default stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self, cast

from fabstir.primitives.encoding import parse_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.content import Message
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_COMPLETION_TOKENS,
    MAX_JSON_DEPTH,
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
)
from fabstir.protocol.sampling import SEED_LIMIT, TOP_K_LIMIT, SamplingParams

ERA_C_MAX_TOKENS: Final = 4000
"""What existing clients mean when they name no limit."""

_NOT_SERVED: Final = {
    "action": "actions such as image_generation",
    "images": "images",
    "audio": "audio",
    "files": "files",
    "tools": "tools",
    "tool_choice": "tools",
    "functions": "functions",
    "response_format": "response formats",
    "lora": "adapters",
}
"""What these requests may name and no host serves in this form. Ignored, it would be answered as if
it had not been asked for, and billed; so it is refused by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EraCRequest:
    """One completion that an existing client asks for.

    Attributes:
        prompt: a single text; may be a whole conversation in ChatML.
        messages: the whole conversation; if there are any, there is no prompt.
        model: as the client calls it; not checked.
    """

    prompt: str = ""
    messages: tuple[Message, ...] = ()
    model: str = ""
    sampling: SamplingParams

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A JSON object, or bare text (then the text is the prompt).

        Raises:
            RemoteProtocolError: never another error. UNSUPPORTED_REQUEST: it asks for more than
                text, which is not ignored.
        """
        fields = _fields_of(data)
        _refuse_what_is_not_served(fields)
        messages = _messages(fields)
        request = cls(
            prompt="" if messages else fields.optional_text("prompt") or "",
            messages=messages,
            model=fields.optional_text("model", limit=512) or "",
            sampling=_sampling(fields),
        )
        if not request.prompt and not request.messages:
            raise RemoteProtocolError("the request holds neither a prompt nor messages")
        return request


def _fields_of(data: bytes) -> Fields:
    try:
        value = parse_json(data, max_depth=MAX_JSON_DEPTH)
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError("the request is not UTF-8", code="INVALID_UTF8") from exc
    except ValueError:
        value = None
    if isinstance(value, dict):
        return Fields.of(cast("object", value), "request")
    return Fields({"prompt": value if isinstance(value, str) else data.decode()}, "request")


def _refuse_what_is_not_served(fields: Fields) -> None:
    for name, what in _NOT_SERVED.items():
        if fields.get(name) not in (None, "", "none", [], {}):
            raise RemoteProtocolError(
                f"the request has {name!r} and this host serves no {what}: send text alone",
                code="UNSUPPORTED_REQUEST",
            )


def _messages(fields: Fields) -> tuple[Message, ...]:
    if fields.get("messages") is None:
        return ()
    return tuple(
        Message(item.text("role", limit=32), item.text("content"))
        for item in fields.children("messages", limit=MAX_MESSAGES)
    )


def _sampling(fields: Fields) -> SamplingParams:
    max_tokens = fields.optional_integer("max_tokens", "maxTokens", limit=MAX_COMPLETION_TOKENS + 1)
    if max_tokens == 0:
        raise RemoteProtocolError("request: max_tokens must be at least 1")
    stop = fields.get("stop")
    if isinstance(stop, str):
        fields = Fields({**fields.raw, "stop": [stop]}, fields.where)
    default = SamplingParams(max_tokens=max_tokens or ERA_C_MAX_TOKENS)
    top_k = fields.optional_integer("top_k", "topK", limit=TOP_K_LIMIT)
    return SamplingParams(
        max_tokens=default.max_tokens,
        temperature=fields.fraction("temperature", default=default.temperature, high=10),
        top_p=fields.fraction("top_p", "topP", default=default.top_p, high=1),
        min_p=fields.fraction("min_p", "minP", default=default.min_p, high=1),
        repeat_penalty=fields.fraction(
            "repeat_penalty", "repeatPenalty", default=default.repeat_penalty, high=10
        ),
        top_k=default.top_k if top_k is None else top_k,
        seed=fields.optional_integer("seed", limit=SEED_LIMIT),
        stop=()
        if stop is None
        else fields.texts("stop", limit=MAX_STOP_STRINGS, chars=MAX_STOP_CHARS),
    )
