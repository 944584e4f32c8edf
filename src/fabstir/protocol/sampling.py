"""Sampling parameters: what the engine is asked for and what a receipt binds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from fabstir.primitives.decimals import decimal_text, round_decimal
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import LocalProtocolError, RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_COMPLETION_TOKENS,
    MAX_LOGIT_BIASES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_TOP_LOGPROBS,
)

SEED_LIMIT: Final = (1 << 32) - 1
"""Seeds lie below: llama.cpp reads 2^32 - 1 as "choose one"."""

TOP_K_LIMIT: Final = 1 << 31

_RANGES: Final = {
    "temperature": (0, 10),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
"""Lowest and highest value of each fraction."""

_MAX_BIAS: Final = 100
"""OpenAI's range; -100 forbids a token."""

_FIELDS: Final = frozenset(
    {*_RANGES, "max_tokens", "top_k", "seed", "stop", "logit_bias", "logprobs", "top_logprobs"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen, in OpenAI's and llama.cpp's words.

    Fractions are rounded to millionths, so that each value has one spelling in a digest.

    Attributes:
        top_k: 0 for all tokens.
        seed: 0 <= seed < SEED_LIMIT; None for one that neither side chooses.
        logit_bias: (token id, what is added to its logit), in the order of the ids, each id once.
        top_logprobs: alternatives told for each token; only with `logprobs`.

    Raises:
        LocalProtocolError: a value is of another type.
        ValueError: a fraction is not finite, or a token has two biases.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 0.95
    min_p: float = 0.05
    top_k: int = 40
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name in _RANGES:
            object.__setattr__(self, name, round_decimal(getattr(self, name)))
        biases = tuple(sorted((token, round_decimal(bias)) for token, bias in self.logit_bias))
        if len({token for token, _ in biases}) < len(biases):
            raise ValueError("a token has two biases")
        object.__setattr__(self, "logit_bias", biases)

    def _check_types(self) -> None:
        """Apps are not always checked for types, and a string is a sequence of strings too."""
        for name in _RANGES:
            _require(name, getattr(self, name), "a number", int, float)
        for name in ("max_tokens", "top_k", "top_logprobs"):
            _require(name, getattr(self, name), "an int", int)
        if self.seed is not None:
            _require("seed", self.seed, "an int or None", int)
        _require("stop", self.stop, "a tuple of texts", tuple, list)
        for text in self.stop:
            _require("each of stop", text, "a text", str)
        pairs = "a tuple of pairs, such as ((token_id, -100.0),)"
        pair = "a pair of a token id and a number"
        _require("logit_bias", self.logit_bias, pairs, tuple, list)
        for bias in self.logit_bias:
            _require("each of logit_bias", bias, pair, tuple, list)
            if len(bias) != 2:
                raise LocalProtocolError(f"each of logit_bias must be {pair}, not {bias!r}")
            _require("a token id", bias[0], "an int", int)
            _require("a bias", bias[1], "a number", int, float)

    def to_json(self) -> dict[str, Json]:
        """Every value that has an effect, whether it is a default or not."""
        out: dict[str, Json] = {name: decimal_text(getattr(self, name)) for name in _RANGES}
        out |= {"max_tokens": self.max_tokens, "top_k": self.top_k, "stop": list(self.stop)}
        if self.logit_bias:
            out["logit_bias"] = {str(token): decimal_text(bias) for token, bias in self.logit_bias}
        if self.seed is not None:
            out["seed"] = self.seed
        if self.logprobs:
            out |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        fields.refuse_others(_FIELDS)
        max_tokens = fields.integer("max_tokens", limit=MAX_COMPLETION_TOKENS + 1)
        if not max_tokens:
            raise RemoteProtocolError(f"{fields.where}: max_tokens must be at least 1")
        top_logprobs = fields.optional_integer("top_logprobs", limit=MAX_TOP_LOGPROBS + 1) or 0
        logprobs = fields.optional_flag("logprobs") or False
        if top_logprobs and not logprobs:
            raise RemoteProtocolError(f"{fields.where}: top_logprobs needs logprobs")
        fractions = {
            name: fields.decimal(name, low=low, high=high) for name, (low, high) in _RANGES.items()
        }
        return cls(
            max_tokens=max_tokens,
            top_k=fields.integer("top_k", limit=TOP_K_LIMIT),
            logit_bias=_logit_bias(fields),
            seed=fields.optional_integer("seed", limit=SEED_LIMIT),
            stop=fields.texts("stop", limit=MAX_STOP_STRINGS, chars=MAX_STOP_CHARS),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            **fractions,
        )


def _require(name: str, value: object, what: str, *kinds: type) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise LocalProtocolError(f"{name} must be {what}, not {value!r}")


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...]:
    biases = fields.optional_child("logit_bias")
    if biases is None:
        return ()
    if len(biases.raw) > MAX_LOGIT_BIASES:
        raise RemoteProtocolError(f"{biases.where}: at most {MAX_LOGIT_BIASES} tokens")
    found = {
        Fields({"token": name}, biases.where).integer("token", limit=1 << 32): biases.decimal(
            name, low=-_MAX_BIAS, high=_MAX_BIAS
        )
        for name in biases.raw
    }
    if len(found) < len(biases.raw):
        raise RemoteProtocolError(f"{biases.where}: a token is named twice")
    return tuple(found.items())
