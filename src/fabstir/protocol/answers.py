"""What an answer consists of: text, reasoning, calls of tools, and how likely each token was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from fabstir.primitives.decimals import decimal_text, round_decimal
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.content import ToolCall
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_ID_CHARS,
    MAX_TOKEN_TEXT_BYTES,
    MAX_TOOL_NAME_CHARS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
)

MIN_LOGPROB: Final = -9999.0
"""Stands for minus infinity and all below, as in OpenAI's answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallPiece:
    """A piece of a model's call of a tool.

    Attributes:
        index: which of the answer's calls, from 0.
        id, name: in the first piece of a call alone.
        arguments: what follows of the JSON; the pieces joined are all of it.
    """

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""

    @property
    def num_bytes(self) -> int:
        """Of its texts."""
        return sum(len(text.encode()) for text in (self.id, self.name, self.arguments))

    def to_json(self) -> Json:
        out: dict[str, Json] = {"index": self.index, "arguments": self.arguments}
        if self.id:
            out |= {"id": self.id, "name": self.name}
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        is_first = fields.get("id") not in (None, "")
        return cls(
            index=fields.integer("index", limit=MAX_TOOLS),
            arguments=fields.text("arguments", limit=MAX_CHUNK_TEXT_BYTES),
            id=fields.text("id", limit=MAX_ID_CHARS) if is_first else "",
            name=fields.text("name", limit=MAX_TOOL_NAME_CHARS) if is_first else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """How likely a token was: the natural logarithm of its probability.

    Attributes:
        token_bytes: what it stands for, which need not be whole characters of UTF-8.
        logprob: from MIN_LOGPROB to 0, rounded to millionths.
        top: the likeliest tokens at its place, without alternatives of their own.
    """

    token_id: int
    token_bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()

    def __post_init__(self) -> None:
        bounded = min(max(self.logprob, MIN_LOGPROB), 0.0)
        object.__setattr__(self, "logprob", round_decimal(bounded))

    def to_json(self) -> dict[str, Json]:
        out: dict[str, Json] = {
            "id": self.token_id,
            "bytes": self.token_bytes.hex(),
            "logprob": decimal_text(self.logprob),
        }
        if self.top:
            out["top"] = [each.to_json() for each in self.top]
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        alternatives = fields.optional_children("top", limit=MAX_TOP_LOGPROBS)
        if any(each.get("top") is not None for each in alternatives):
            raise RemoteProtocolError(f"{fields.where}: alternatives have no alternatives")
        token_bytes = fields.hex("bytes")
        if len(token_bytes) > MAX_TOKEN_TEXT_BYTES:
            raise RemoteProtocolError(
                f"{fields.where}: a token has at most {MAX_TOKEN_TEXT_BYTES} bytes"
            )
        return cls(
            token_id=fields.integer("id", limit=1 << 32),
            token_bytes=token_bytes,
            logprob=fields.decimal("logprob", low=MIN_LOGPROB, high=0),
            top=tuple(cls.from_fields(each) for each in alternatives),
        )


@dataclass(slots=True)
class AnswerContent:
    """All of an answer so far. Pieces are joined only when they are asked for."""

    _texts: list[str] = field(default_factory=list[str])
    _thoughts: list[str] = field(default_factory=list[str])
    _calls: list[list[ToolCallPiece]] = field(default_factory=list[list[ToolCallPiece]])

    @property
    def text(self) -> str:
        """What is said."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """What was thought before."""
        return "".join(self._thoughts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, in order; the last one may still miss arguments."""
        return tuple(
            ToolCall(
                id=pieces[0].id,
                name=pieces[0].name,
                arguments="".join(piece.arguments for piece in pieces),
            )
            for pieces in self._calls
        )

    def add(
        self, text: str, *, reasoning: str = "", tool_calls: Sequence[ToolCallPiece] = ()
    ) -> None:
        """Take in the next piece.

        Raises:
            RemoteProtocolError: a call begins out of order, or twice.
        """
        self._texts.append(text)
        self._thoughts.append(reasoning)
        for piece in tool_calls:
            is_first = bool(piece.id)
            if piece.index != len(self._calls) - (0 if is_first else 1):
                raise RemoteProtocolError(f"piece of tool call {piece.index} came out of order")
            if is_first:
                self._calls.append([])
            self._calls[piece.index].append(piece)
