"""Answers that are held to a form: JSON, by a schema.

The wheel's server holds decoding to a schema with llguidance, which takes whatever strangers write
(tried: references in circles, patterns of thousands of groups, arrays of 10^9 items). A server that
was built without it converts schemas in C++, which we have not tried with hostile ones, and so
serves none but our own: any object.

A schema that llguidance does not know how to follow (`not`, a reference to another document) is
dropped by the server without a word, and the answer would be free text. So each is tried first,
with one token: whether the likeliest of all is refused, because no JSON begins with it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from anyio import to_thread

from fabstir.db.files import replace_private
from fabstir.engines._http import EngineAddress
from fabstir.primitives.errors import RequestRefused
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.request import ResponseFormat

ANY_OBJECT: Final = {"type": "object"}

_NO_JSON = "The"
"""No JSON value begins with its first letter."""

_LLGUIDANCE = "%llguidance"
"""How the grammar begins into which such a server turns a schema."""

_OF_FORMS = frozenset({ModelCapability.JSON_OBJECT, ModelCapability.JSON_SCHEMA})

_CERTAIN = 1000.0
"""A bias that makes any token the likeliest."""


@dataclass(frozen=True, slots=True)
class JsonForms:
    """What one server holds answers to.

    Attributes:
        capabilities: json_object, json_schema, both or none.
        wrong_token: begins with what no JSON begins with.
    """

    capabilities: frozenset[ModelCapability]
    wrong_token: int

    @classmethod
    async def of(cls, address: EngineAddress, known: Path | None = None) -> Self:
        """Ask a server that is ready, with two short requests.

        Args:
            known: keeps what a server of this build said of this model. A form's first use makes
                the server read its whole vocabulary, 0.4 s of processor time at each start.
                None for a server that somebody else runs, whose next build is not ours to know.
        """
        listed = await address.post_json("/tokenize", {"content": _NO_JSON})
        wrong = int(listed["tokens"][0])
        if known is None:
            return cls(await _ask(address, wrong), wrong)
        capabilities = await to_thread.run_sync(_read, known)
        if not capabilities:
            capabilities = await _ask(address, wrong)
            await to_thread.run_sync(_keep, known, capabilities)
        return cls(capabilities, wrong)

    async def require_held(self, address: EngineAddress, form: ResponseFormat, prompt: str) -> None:
        """Try the form on a prompt, which the server then has in its cache.

        Raises:
            RequestRefused: the server would answer without it.
        """
        if not form.schema:
            return
        answer = await _first_token(address, prompt, schema_of(form), self.wrong_token)
        if not _is_held(answer):
            raise RequestRefused(
                "the engine cannot hold an answer to this schema: leave out what it does not "
                "know, such as `not`, patterns with look-around and references to other documents"
            )


async def _ask(address: EngineAddress, wrong: int) -> frozenset[ModelCapability]:
    answer = await _first_token(address, [wrong], ANY_OBJECT, wrong)
    if not _is_held(answer):
        return frozenset()
    if str(answer["generation_settings/grammar"]).startswith(_LLGUIDANCE):
        return frozenset({ModelCapability.JSON_OBJECT, ModelCapability.JSON_SCHEMA})
    return frozenset({ModelCapability.JSON_OBJECT})


def _read(known: Path) -> frozenset[ModelCapability]:
    """None are known where the file is not there or cannot be read: the server is asked again."""
    try:
        values: Any = json.loads(known.read_text())
        return frozenset(ModelCapability(value) for value in values) & _OF_FORMS
    except (OSError, ValueError, TypeError):
        return frozenset()


def _keep(known: Path, capabilities: frozenset[ModelCapability]) -> None:
    if capabilities:
        with suppress(OSError):  # it is asked again then
            replace_private(known, json.dumps(sorted(capabilities)).encode())


def schema_of(form: ResponseFormat) -> Any:
    """The schema as the server takes it."""
    return json.loads(form.schema) if form.schema else ANY_OBJECT


async def _first_token(
    address: EngineAddress, prompt: str | list[int], schema: Any, likeliest: int
) -> dict[str, Any]:
    body = {
        "prompt": prompt,
        "n_predict": 1,
        "temperature": 0,
        "logit_bias": [[likeliest, _CERTAIN]],
        "json_schema": schema,
        "response_fields": ["content", "generation_settings/grammar"],
    }
    return await address.post_json("/completion", body)


def _is_held(answer: dict[str, Any]) -> bool:
    return not str(answer["content"]).lstrip().startswith(_NO_JSON[0])
