"""A conversation in the model's own template: rendered here where that gives what the engine gives.

It saves a request for each answer. Whether it is the same is not believed but tried, at each start
of the engine, with conversations of every kind that is rendered here; if one differs, or the
template needs what is not here, the engine is asked each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import minijinja

from fabstir.engines._http import EngineAddress, EngineRefused
from fabstir.primitives.errors import ConversationRefused, EngineUnavailable
from fabstir.protocol.content import Message

LOADING: Final = 503
"""The status of a server that has not read its model yet."""

_FUEL: Final = 5_000_000
"""Steps that a template may take: a conversation of a million tokens in 2,048 messages needs a
hundredth. One that loops without end would hold the whole program."""

_OUT_OF_FUEL: Final = "engine ran out of fuel"

_ROLES: Final = frozenset({"system", "user", "assistant"})
"""What is rendered here; other roles (tool, developer) the engine rewrites first."""

_TEXT: Final = ' It\'s "so" {{ 1 }} {% x %} <|im_end|> [INST] é\U0001f600\n\n  & <b> \\n\t'

_TRIALS: Final[tuple[tuple[tuple[str, str], ...], ...]] = (
    (("user", "Hello"),),
    (("user", _TEXT),),
    (("user", ""),),
    (("system", "Be brief."), ("user", "Hello")),
    (("system", _TEXT), ("user", _TEXT)),
    (("user", "a"), ("assistant", "b"), ("user", "c")),
    (("system", ""), ("user", "a"), ("assistant", _TEXT), ("user", "c"), ("assistant", "d")),
    (("user", "a"), ("assistant", "<think>\nwhy\n</think>\n\nb"), ("user", "c")),
    (("user", "a"), ("user", "b")),
    (("user", "a"), ("system", "b"), ("user", "c")),
    (("assistant", "a"), ("user", "b")),
)


class ChatTemplate:
    """Made by `open_template`.

    Attributes:
        is_local: conversations are rendered here.
    """

    def __init__(self, environment: minijinja.Environment | None, bos_token: str, eos_token: str):
        """
        Args:
            environment: has the template under the name "chat"; None: the engine is asked.
        """
        self._environment = environment
        self._constants = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "add_generation_prompt": True,
            "enable_thinking": True,
        }
        self.is_local = environment is not None

    async def render(self, address: EngineAddress, messages: Sequence[Message]) -> str:
        """The prompt's text, open for the answer.

        Raises:
            ConversationRefused: the template does not take these roles in this order.
            EngineUnavailable: it is loading or gone.
        """
        listed = [{"role": message.role, "content": message.text} for message in messages]
        # What cannot be rendered here is asked for, also to be told why in the engine's words.
        rendered = self.try_here(listed)
        return await _ask(address, listed) if rendered is None else rendered

    def try_here(self, listed: Sequence[Mapping[str, str]]) -> str | None:
        """What the template makes of messages; None where it cannot be told here.

        Raises:
            ConversationRefused: it does not come to an end.
        """
        if self._environment is None or not all(each["role"] in _ROLES for each in listed):
            return None
        try:
            return self._environment.render_template("chat", messages=listed, **self._constants)
        except _RefusedByTemplate:
            return None
        except minijinja.TemplateError as error:
            if _OUT_OF_FUEL in str(error):
                raise ConversationRefused(
                    "the model's chat template does not come to an end: its host must choose "
                    "another file of this model"
                ) from error
            return None


async def open_template(address: EngineAddress, properties: Mapping[str, Any]) -> ChatTemplate:
    """The template of an engine that is ready, as its /props tell it.

    Raises:
        ConversationRefused: it does not come to an end.
    """
    environment = template_environment(str(properties["chat_template"]))
    bos, eos = (str(properties.get(name) or "") for name in ("bos_token", "eos_token"))
    # Some builds leave the first token to the tokenizer, whatever the template writes.
    candidates = [ChatTemplate(environment, bos, eos), ChatTemplate(environment, "", eos)]
    for trial in _TRIALS:
        listed = [{"role": role, "content": text} for role, text in trial]
        ours = [candidate.try_here(listed) for candidate in candidates]
        theirs = await _ask_or_none(address, listed)
        candidates = [
            candidate for candidate, text in zip(candidates, ours, strict=True) if text == theirs
        ]
    return candidates[0] if candidates else ChatTemplate(None, bos, eos)


def template_environment(source: str) -> minijinja.Environment | None:
    """What a template is rendered in, as "chat"; None if it cannot be read here."""
    environment = minijinja.Environment(trim_blocks=True, lstrip_blocks=True, fuel=_FUEL)
    environment.add_global("strftime_now", _strftime_now)
    environment.add_global("raise_exception", _refuse)
    try:
        environment.add_template("chat", source)
    except minijinja.TemplateError:
        return None
    return environment


def _strftime_now(form: str) -> str:
    """The machine's own day, as the engine has it."""
    return datetime.now().astimezone().strftime(form)


class _RefusedByTemplate(Exception):
    """Its `raise_exception`."""


def _refuse(reason: str) -> str:
    raise _RefusedByTemplate(reason)


async def _ask_or_none(address: EngineAddress, listed: Sequence[Mapping[str, str]]) -> str | None:
    try:
        return await _ask(address, listed)
    except ConversationRefused:
        return None


async def _ask(address: EngineAddress, listed: Sequence[Mapping[str, str]]) -> str:
    try:
        answer: Any = await address.post_json("/apply-template", {"messages": list(listed)})
    except EngineRefused as error:
        if error.status == LOADING:
            raise EngineUnavailable(f"the engine is loading: {error.message}") from error
        raise ConversationRefused(
            f"the model's chat template does not take this conversation: {error.message}. "
            "Some models take no system message, or only user and assistant in turn"
        ) from error
    return str(answer["prompt"])
