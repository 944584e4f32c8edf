"""Which server answers at a URL, and what it serves: asked at the start, and at each return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fabstir.engines._http import EngineRefused
from fabstir.engines.openai.address import RemoteAddress
from fabstir.engines.openai.config import ServerProfile, UrlEngineConfig
from fabstir.primitives.errors import ConfigError, EngineCrashed, EngineUnavailable
from fabstir.primitives.text import one_line

_OWNERS: Final[Mapping[str, ServerProfile]] = {
    "vllm": ServerProfile.VLLM,
    "sglang": ServerProfile.SGLANG,
    "llamacpp": ServerProfile.LLAMA_SERVER,
    "library": ServerProfile.OLLAMA,
}
"""What each writes as `owned_by` into /v1/models."""

_INSTEAD: Final[Mapping[ServerProfile, str]] = {
    ServerProfile.SGLANG: (
        "SGLang, whose answers are not read here yet: serve the model with vLLM (`vllm serve`)"
    ),
    ServerProfile.OLLAMA: (
        "Ollama, which tells no token ids: what it generates cannot be counted exactly, and so "
        "not be sold. Serve the same GGUF file with `llama-server -m FILE`, or leave out "
        "engine_url, and this host runs it itself"
    ),
    ServerProfile.OPENAI: (
        "a server that tells no token ids that this host knows how to read: what it generates "
        "cannot be counted exactly, and so not be sold. Use vLLM or llama-server, or, if it is "
        "one of them behind a proxy, say so with engine_profile"
    ),
}
"""Why a server is no engine of paid sessions, and what to use instead."""

_UNAUTHORIZED: Final = frozenset({401, 403})
_NOT_FOUND: Final = 404
_LOADING: Final = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedThere:
    """What a server says of itself and of one model. Equal: the same server has come back.

    Attributes:
        served_name: what its requests call the model.
        max_model_len: tokens of its context, of one request.
        num_slots: requests that it decodes at a time; None where it does not say.
        chat_template: as text; "" where it does not say.
        place: the model's file or folder on the server's machine; "" where it does not say.
    """

    profile: ServerProfile
    served_name: str
    build: str
    max_model_len: int
    num_slots: int | None = None
    chat_template: str = ""
    place: str = ""


async def recognise(address: RemoteAddress, config: UrlEngineConfig) -> ServedThere:
    """Ask a server what it is.

    Raises:
        ConfigError: its answers cannot be sold, it has no such model, or its key is another.
        EngineUnavailable: it does not answer, or is loading.
    """
    try:
        listed: Any = await address.get_json("/v1/models")
        entry = _entry(listed, config)
        profile = config.profile or await _profile(address, entry)
        if (instead := _INSTEAD.get(profile)) is not None:
            raise ConfigError(f"{config.where}.engine_url: at {config.url} is {instead}")
        describe = _llama_server if profile is ServerProfile.LLAMA_SERVER else _vllm
        there = await describe(address, str(entry["id"]), entry)
    except EngineCrashed as error:
        raise EngineUnavailable(str(error)) from error
    except EngineRefused as error:
        raise _refusal(config, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{config.where}.engine_url: what {config.url} answers is not of OpenAI's API "
            f"({one_line(repr(error))}): correct the URL, which goes as far as before /v1"
        ) from error
    _require_usable(there, config)
    return there


def _refusal(config: UrlEngineConfig, error: EngineRefused) -> ConfigError | EngineUnavailable:
    said = f"{config.url} says: {one_line(error.message)}"
    if error.status in _UNAUTHORIZED:
        return ConfigError(
            f"{said}: set {config.where}.engine_key_file to a file with the server's key"
        )
    if error.status == _NOT_FOUND:
        return ConfigError(f"{said}: correct {config.where}.engine_url, or engine_profile")
    if error.status == _LOADING:
        return EngineUnavailable(f"{said}: it is still loading")
    return EngineUnavailable(f"{said}: look at the server's log")


def _entry(listed: Any, config: UrlEngineConfig) -> Mapping[str, Any]:
    """The model that is meant; adapters have a parent, and are models of their own."""
    data = cast("Sequence[Mapping[str, Any]]", listed["data"])
    names = [str(each["id"]) for each in data]
    wanted = config.served_name
    if wanted is None:
        found = [each for each in data if not each.get("parent")]
    else:
        found = [each for each in data if each["id"] == wanted]
    if len(found) != 1:
        shown = one_line(", ".join(names)) or "none"
        raise ConfigError(
            f"{config.url} serves the models {shown}: set {config.where}.engine_model to one of "
            "them"
        )
    return found[0]


async def _profile(address: RemoteAddress, entry: Mapping[str, Any]) -> ServerProfile:
    known = _OWNERS.get(str(entry.get("owned_by")))
    if known is not None:
        return known
    try:  # models that a user made there have the user's name
        await address.get_json("/api/version")
    except (EngineRefused, ValueError):
        return ServerProfile.OPENAI
    return ServerProfile.OLLAMA


async def _llama_server(
    address: RemoteAddress, name: str, _entry: Mapping[str, Any]
) -> ServedThere:
    properties: Any = await address.get_json("/props")
    return ServedThere(
        profile=ServerProfile.LLAMA_SERVER,
        served_name=name,
        build=str(properties["build_info"]),
        max_model_len=int(properties["default_generation_settings"]["n_ctx"]),
        num_slots=int(properties["total_slots"]),
        chat_template=str(properties["chat_template"]),
        place=str(properties.get("model_path", "")),
    )


async def _vllm(address: RemoteAddress, name: str, entry: Mapping[str, Any]) -> ServedThere:
    version: Any = await address.get_json("/version")
    return ServedThere(
        profile=ServerProfile.VLLM,
        served_name=name,
        build=f"vllm {version['version']}",
        max_model_len=int(entry["max_model_len"]),
        place=str(entry.get("root") or ""),
    )


def _require_usable(there: ServedThere, config: UrlEngineConfig) -> None:
    if there.max_model_len < config.max_model_len:
        raise ConfigError(
            f"{config.url} serves {one_line(there.served_name)} with a context of "
            f"{there.max_model_len} tokens, and {config.where}.max_model_len is "
            f"{config.max_model_len}: lower it, or start the server with a longer one"
        )
    if there.num_slots is not None and there.num_slots < config.num_slots:
        raise ConfigError(
            f"{config.url} decodes {there.num_slots} requests at a time, and "
            f"{config.where}.num_slots is {config.num_slots}: lower it, or start the server with "
            f"--parallel {config.num_slots}"
        )


def require_same_file(there: ServedThere, config: UrlEngineConfig) -> None:
    """Compare the file that was verified with the one that a server on this machine names.

    Raises:
        ConfigError: they are two, or the file is one of several that make the model.
    """
    parts = sorted(config.model_path.parent.glob(f"*{config.model_path.suffix}"))
    if config.model_path.suffix == ".safetensors" and len(parts) > 1:
        raise ConfigError(
            f"{config.model_path} is one of {len(parts)} files of weights, and its digest covers "
            f"none of the others: serve a model of one file"
        )
    place = Path(there.place)
    if not there.place or not address_is_here(config.url) or not place.exists():
        return
    same = config.model_path.parent if place.is_dir() else config.model_path
    if not place.samefile(same):
        raise ConfigError(
            f"{config.url} serves {place}, and {config.where}.path is {config.model_path}: name "
            "the file that the server loads, or have it load this one"
        )


def address_is_here(url: str) -> bool:
    """Whether a URL names this machine by a name that always does."""
    return any(f"://{name}" in url for name in ("127.", "localhost", "[::1]"))
