"""One message of a conversation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """`role` is system, user, assistant or a template's own role; `content` is plain text."""

    role: str
    content: str
