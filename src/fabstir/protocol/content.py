"""What a conversation is made of: messages, their parts, and the tools that a model calls.

The words are those of OpenAI's chat completions, because nearly every client of today writes them;
Anthropic's messages map onto them without loss of content. Whatever a request holds is parsed
here, also what no model of a host serves: that is refused by name, never skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

from fabstir.primitives.encoding import Json, parse_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_ID_CHARS,
    MAX_JSON_DEPTH,
    MAX_PARTS,
    MAX_SCHEMA_BYTES,
    MAX_TOOL_NAME_CHARS,
    MAX_TOOLS,
)

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Who speaks in a request."""

_MESSAGE_FIELDS: Final = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning"}
)
_DETAILS: Final = frozenset({"auto", "low", "high"})


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text."""

    text: str

    def to_json(self) -> Json:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image by its URL, mostly a `data:` one. `detail` is auto, low or high."""

    url: str
    detail: str = "auto"

    def to_json(self) -> Json:
        return {"type": "image_url", "image_url": {"url": self.url, "detail": self.detail}}


@dataclass(frozen=True, slots=True)
class AudioPart:
    """Sound in base 64; `format` is wav, mp3 or another codec's name."""

    data: str
    format: str

    def to_json(self) -> Json:
        return {"type": "input_audio", "input_audio": {"data": self.data, "format": self.format}}


@dataclass(frozen=True, slots=True)
class FilePart:
    """A document: `data` as a `data:` URL, or `file_id` of one that the host is said to have."""

    filename: str = ""
    data: str = ""
    file_id: str = ""

    def to_json(self) -> Json:
        file = {"filename": self.filename, "file_data": self.data, "file_id": self.file_id}
        return {"type": "file", "file": {name: value for name, value in file.items() if value}}


Part = TextPart | ImagePart | AudioPart | FilePart


def _part(fields: Fields) -> Part:
    kind = fields.text("type", limit=32)
    match kind:
        case "text":
            fields.refuse_others(frozenset({"type", "text"}))
            return TextPart(fields.text("text"))
        case "image_url":
            image = _only(fields, kind, {"url", "detail"})
            detail = image.optional_text("detail", limit=8) or "auto"
            if detail not in _DETAILS:
                raise RemoteProtocolError(f"{image.where}: detail must be auto, low or high")
            return ImagePart(image.text("url"), detail)
        case "input_audio":
            audio = _only(fields, kind, {"data", "format"})
            return AudioPart(audio.text("data"), audio.text("format", limit=32))
        case "file":
            file = _only(fields, kind, {"filename", "file_data", "file_id"})
            return FilePart(
                filename=file.optional_text("filename", limit=256) or "",
                data=file.optional_text("file_data") or "",
                file_id=file.optional_text("file_id", limit=MAX_ID_CHARS) or "",
            )
        case _:
            raise RemoteProtocolError(
                f"{fields.where} is of type {kind!r}: text, image_url, input_audio and file are "
                "known",
                code="UNSUPPORTED_REQUEST",
            )


def _only(fields: Fields, name: str, known: set[str]) -> Fields:
    """The object below `name` of a part that holds nothing else."""
    fields.refuse_others(frozenset({"type", name}))
    inner = fields.child(name)
    inner.refuse_others(frozenset(known))
    return inner


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model asks for a tool.

    Attributes:
        id: names the call; the tool's result names it too.
        arguments: JSON as the model wrote it, so possibly none.
    """

    id: str
    name: str
    arguments: str

    def to_json(self) -> Json:
        function = {"name": self.name, "arguments": self.arguments}
        return {"type": "function", "id": self.id, "function": function}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        fields.refuse_others(frozenset({"type", "id", "function"}))
        _require_function(fields)
        function = fields.child("function")
        function.refuse_others(frozenset({"name", "arguments"}))
        return cls(
            id=fields.text("id", limit=MAX_ID_CHARS),
            name=function.text("name", limit=MAX_TOOL_NAME_CHARS),
            arguments=function.text("arguments"),
        )


def _require_function(fields: Fields) -> None:
    kind = fields.text("type", limit=32)
    if kind != "function":
        raise RemoteProtocolError(
            f"{fields.where} is of type {kind!r}: only functions are known",
            code="UNSUPPORTED_REQUEST",
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    A single part of text is kept as the text itself, so that either spelling has one digest.

    Attributes:
        role: one of ROLES; what existing clients and recovered conversations hold may be another.
        content: text, or parts in order.
        name: of the participant, where several speak in one role.
        tool_calls: of an assistant.
        tool_call_id: of a tool's result: the call that it answers.
        reasoning: what an assistant thought before it answered, as a client sends it back.
    """

    role: str
    content: str | tuple[Part, ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        match self.content:
            case ():
                object.__setattr__(self, "content", "")
            case (TextPart(text),):
                object.__setattr__(self, "content", text)
            case _:
                pass

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts."""
        return (TextPart(self.content),) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The text of all parts, a line each, as engines join them for templates that take text."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    def to_json(self) -> dict[str, Json]:
        """Fields without a value are left out."""
        content: Json = (
            self.content
            if isinstance(self.content, str)
            else [part.to_json() for part in self.content]
        )
        out: dict[str, Json] = {"role": self.role, "content": content}
        if self.tool_calls:
            out["tool_calls"] = [call.to_json() for call in self.tool_calls]
        optional = {"name": self.name, "tool_call_id": self.tool_call_id}
        optional["reasoning"] = self.reasoning
        return out | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """A message of a request.

        Raises:
            RemoteProtocolError: it is malformed, or holds what its role does not have.
        """
        fields.refuse_others(_MESSAGE_FIELDS)
        role = fields.text("role", limit=32)
        if role not in ROLES:
            raise RemoteProtocolError(f"{fields.where}: role must be one of {sorted(ROLES)}")
        calls = fields.optional_children("tool_calls", limit=MAX_TOOLS)
        message = cls(
            role=role,
            content=_content(fields),
            name=fields.optional_text("name", limit=MAX_TOOL_NAME_CHARS),
            tool_calls=tuple(ToolCall.from_fields(call) for call in calls),
            tool_call_id=fields.optional_text("tool_call_id", limit=MAX_ID_CHARS),
            reasoning=fields.optional_text("reasoning"),
        )
        if role != "assistant" and (message.tool_calls or message.reasoning is not None):
            raise RemoteProtocolError(f"{fields.where}: only an assistant thinks or calls tools")
        if (role == "tool") != (message.tool_call_id is not None):
            raise RemoteProtocolError(
                f"{fields.where}: a tool's result names its call (tool_call_id), nothing else does"
            )
        return message


def _content(fields: Fields) -> str | tuple[Part, ...]:
    if isinstance(fields.get("content"), list):
        return tuple(_part(part) for part in fields.children("content", limit=MAX_PARTS))
    return fields.optional_text("content") or ""


def parse_schema(fields: Fields, *names: str) -> str:
    """A JSON schema as the text of one JSON object.

    It stays the text that the client wrote: schemas hold fractions, which have no one spelling, and
    the order of their properties matters to engines.

    Raises:
        RemoteProtocolError: it is longer than MAX_SCHEMA_BYTES, or no JSON object.
    """
    text = fields.text(*names, limit=MAX_SCHEMA_BYTES)
    try:
        value = parse_json(text, max_depth=MAX_JSON_DEPTH)
    except ValueError as exc:
        raise RemoteProtocolError(f"{fields.where}: {names[0]} is not JSON: {exc}") from exc
    if len(text.encode()) > MAX_SCHEMA_BYTES or not isinstance(value, dict):
        raise RemoteProtocolError(
            f"{fields.where}: {names[0]} must be the text of a JSON object of at most "
            f"{MAX_SCHEMA_BYTES} bytes"
        )
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: the JSON schema of its arguments, as text; empty if it takes none.
        strict: the arguments must fit the schema.
    """

    name: str
    description: str = ""
    parameters: str = ""
    strict: bool = False

    def to_json(self) -> Json:
        out: dict[str, Json] = {"name": self.name}
        if self.description:
            out["description"] = self.description
        if self.parameters:
            out["parameters"] = self.parameters
        if self.strict:
            out["strict"] = True
        return {"type": "function", "function": out}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        fields.refuse_others(frozenset({"type", "function"}))
        _require_function(fields)
        function = fields.child("function")
        function.refuse_others(frozenset({"name", "description", "parameters", "strict"}))
        has_parameters = function.get("parameters") not in (None, "")
        return cls(
            name=function.text("name", limit=MAX_TOOL_NAME_CHARS),
            description=function.optional_text("description") or "",
            parameters=parse_schema(function, "parameters") if has_parameters else "",
            strict=function.optional_flag("strict") or False,
        )


def conversation_json(messages: Sequence[Message]) -> Json:
    """The messages in the form that is hashed."""
    return cast("Json", [message.to_json() for message in messages])
