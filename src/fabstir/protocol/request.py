"""One request: a conversation, how to go on with it, and the form of the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.content import Message, Tool, conversation_json, parse_schema
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_COMPLETION_TOKENS,
    MAX_MESSAGES,
    MAX_TOOL_NAME_CHARS,
    MAX_TOOLS,
)
from fabstir.protocol.sampling import SamplingParams

TOOL_MODES: Final = frozenset({"auto", "none", "required"})

EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})
"""How much a model is to think, in OpenAI's words; none switches it off."""

_FIELDS: Final = frozenset(
    {
        "model",
        "messages",
        "sampling",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning",
    }
)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the model may or must call: one of TOOL_MODES, or the one that `name` names."""

    mode: str = "auto"
    name: str | None = None

    def to_json(self) -> Json:
        if self.name is None:
            return self.mode
        return {"type": "function", "function": {"name": self.name}}

    @classmethod
    def of(cls, fields: Fields) -> Self:
        """The field `tool_choice`. Raises RemoteProtocolError."""
        value = fields.get("tool_choice")
        if isinstance(value, str) and value in TOOL_MODES:
            return cls(value)
        choice = fields.child("tool_choice")
        choice.refuse_others(frozenset({"type", "function"}))
        if choice.text("type", limit=32) != "function":
            raise RemoteProtocolError(f"{choice.where}: type must be function")
        function = choice.child("function")
        function.refuse_others(frozenset({"name"}))
        return cls("required", function.text("name", limit=MAX_TOOL_NAME_CHARS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """The answer is JSON. Of any form (`schema` empty), or of the form that a schema gives.

    Attributes:
        schema: JSON schema, as text.
        name: what the client calls it.
        strict: the answer must fit the schema; engines that constrain decoding always do so.
    """

    schema: str = ""
    name: str = ""
    strict: bool = False

    def to_json(self) -> Json:
        if not self.schema:
            return {"type": "json_object"}
        inner: dict[str, Json] = {"schema": self.schema}
        if self.name:
            inner["name"] = self.name
        if self.strict:
            inner["strict"] = True
        return {"type": "json_schema", "json_schema": inner}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self | None:
        """None for plain text. Raises RemoteProtocolError."""
        fields.refuse_others(frozenset({"type", "json_schema"}))
        kind = fields.text("type", limit=32)
        if kind in {"text", "json_object"} and fields.get("json_schema") is None:
            return None if kind == "text" else cls()
        if kind != "json_schema":
            raise RemoteProtocolError(
                f"{fields.where}: type must be text, json_object or json_schema, and only the last "
                "has a schema"
            )
        inner = fields.child("json_schema")
        inner.refuse_others(frozenset({"name", "schema", "strict"}))
        return cls(
            schema=parse_schema(inner, "schema"),
            name=inner.optional_text("name", limit=MAX_TOOL_NAME_CHARS) or "",
            strict=inner.optional_flag("strict") or False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """How much the model may think before it answers.

    Attributes:
        effort: one of EFFORTS, or None for the model's own measure.
        max_tokens: bound on the tokens of thought, or None.
    """

    effort: str | None = None
    max_tokens: int | None = None

    def to_json(self) -> Json:
        out: dict[str, Json] = {"effort": self.effort, "max_tokens": self.max_tokens}
        return {name: value for name, value in out.items() if value is not None}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        fields.refuse_others(frozenset({"effort", "max_tokens"}))
        effort = fields.optional_text("effort", limit=16)
        if effort is not None and effort not in EFFORTS:
            raise RemoteProtocolError(f"{fields.where}: effort must be one of {sorted(EFFORTS)}")
        max_tokens = fields.optional_integer("max_tokens", limit=MAX_COMPLETION_TOKENS + 1)
        return cls(effort=effort, max_tokens=max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One completion that a renter asks for, or, with its seed and the host's additions, the one
    that is executed.

    Attributes:
        messages: the whole conversation, oldest first.
        model: as the renter calls it; informative, the session's model answers.
        tool_choice: None for auto if there are tools.
        parallel_tool_calls: None for the engine's own choice.
        response_format: None for text.
        reasoning: None for the model's own choice.
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    model: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None

    def with_seed(self, seed: int) -> Self:
        """The request as it is executed."""
        return replace(self, sampling=replace(self.sampling, seed=seed))

    def to_json(self) -> dict[str, Json]:
        """The form that travels and is hashed: one for each request."""
        out: dict[str, Json] = {
            "model": self.model,
            "messages": conversation_json(self.messages),
            "sampling": self.sampling.to_json(),
        }
        if self.tools:
            out["tools"] = [tool.to_json() for tool in self.tools]
        if self.tool_choice:
            out["tool_choice"] = self.tool_choice.to_json()
        if self.parallel_tool_calls is not None:
            out["parallel_tool_calls"] = self.parallel_tool_calls
        if self.response_format:
            out["response_format"] = self.response_format.to_json()
        if self.reasoning:
            out["reasoning"] = self.reasoning.to_json()
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        fields.refuse_others(_FIELDS)
        messages = fields.children("messages", limit=MAX_MESSAGES)
        if not messages:
            raise RemoteProtocolError(f"{fields.where}: a conversation has at least one message")
        tools = fields.optional_children("tools", limit=MAX_TOOLS)
        response_format = fields.optional_child("response_format")
        reasoning = fields.optional_child("reasoning")
        return cls(
            messages=tuple(Message.from_fields(message) for message in messages),
            sampling=SamplingParams.from_fields(fields.child("sampling")),
            model=fields.optional_text("model", limit=512) or "",
            tools=tuple(Tool.from_fields(tool) for tool in tools),
            tool_choice=ToolChoice.of(fields) if fields.get("tool_choice") is not None else None,
            parallel_tool_calls=fields.optional_flag("parallel_tool_calls"),
            response_format=response_format and ResponseFormat.from_fields(response_format),
            reasoning=reasoning and Reasoning.from_fields(reasoning),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlaintext:
    """The plaintext of encrypted_message.

    Attributes:
        salt: 32 bytes for the commitments; the renter's choice.
        client_nonce: 32 bytes from which, with the host's, an unchosen seed is derived; None if
            the request names its seed.
    """

    request: ChatRequest
    salt: bytes
    client_nonce: bytes | None = None

    def encode(self) -> bytes:
        out: dict[str, Json] = {"request": self.request.to_json(), "salt": self.salt.hex()}
        if self.client_nonce is not None:
            out["clientNonce"] = self.client_nonce.hex()
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError, never another error."""
        fields = Fields.parse(data, "request")
        request = ChatRequest.from_fields(fields.child("request"))
        has_nonce = fields.get("clientNonce") is not None
        if has_nonce == (request.sampling.seed is not None):
            raise RemoteProtocolError("a request has either a seed or a clientNonce")
        return cls(
            request=request,
            salt=fields.hex("salt", size=32),
            client_nonce=fields.hex("clientNonce", size=32) if has_nonce else None,
        )
