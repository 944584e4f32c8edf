"""What a client said so far, and how its next message becomes a prompt.

Era-C clients resend the whole conversation, or a string that is already in ChatML; our own send
the messages. The host keeps history in memory only, and only for the former.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fabstir.protocol.content import Message
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.request import RequestPlaintext

_CHATML_START = "<|im_start|>"
_CHATML_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_UI_MARKERS = re.compile(r"<<(?:DISPLAY|ATTACHMENTS)>>|\[Attached image: [^\]]*\]")


@dataclass(slots=True)
class Conversation:
    """The history of one session.

    Attributes:
        messages: what was said and answered, oldest first.
    """

    messages: list[Message] = field(default_factory=list[Message])

    def turn(self, request: EraCRequest) -> tuple[Message, ...]:
        """The whole conversation that `request` asks to be continued."""
        if request.messages:
            return request.messages
        if _CHATML_START in request.prompt:
            return parse_chatml(request.prompt)
        text = _UI_MARKERS.sub("", self._new_part(request.prompt)).strip()
        return (*self.messages, Message("user", text))

    def remember(self, turn: Sequence[Message], answer: str) -> None:
        """Keep a finished turn; a resent conversation replaces what was known."""
        self.messages = [*turn, Message("assistant", answer)]

    def _new_part(self, prompt: str) -> str:
        """Clients that resend everything: what follows the last question and its answer."""
        if len(self.messages) < 2:
            return prompt
        question, answer = (message.text.strip() for message in self.messages[-2:])
        asked = prompt.rfind(question)
        # Both must be there, in order: a short answer alone ("4") occurs in many new questions.
        answered = prompt.rfind(answer) if asked >= 0 else -1
        if answered < asked + len(question) or not answer:
            return prompt
        return prompt[answered + len(answer) :]


def is_self_contained(request: EraCRequest | RequestPlaintext) -> bool:
    """Whether a request brings all that was said before, so that nobody else has to know it."""
    if isinstance(request, RequestPlaintext):
        return True
    return bool(request.messages) or _CHATML_START in request.prompt


def parse_chatml(text: str) -> tuple[Message, ...]:
    """The turns of a ChatML string, so that the model's own template is applied exactly once.

    An empty open assistant turn at the end is the request to answer and is dropped.
    """
    turns = tuple(Message(match[1], match[2].strip()) for match in _CHATML_TURN.finditer(text))
    if turns and turns[-1].role == "assistant" and not turns[-1].text:
        turns = turns[:-1]
    return turns or (Message("user", text),)
