"""The models in the settings: `[model]`, and each table of `[[models]]` with the same names."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fabstir.config.mistakes import unknown_setting, wrong_value
from fabstir.config.sections import ModelSettings
from fabstir.config.values import SettingScalar, setting_types
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError
from fabstir.protocol.limits import MAX_HOST_RECORD_MODELS
from fabstir.protocol.model_names import leads_out

MODELS: Final = "models"
"""The name of the list; `FABSTIR_MODELS` in the environment."""

_HEADER = "[[models]]"
_TYPES = setting_types(ModelSettings)


def table_name(index: int) -> str:
    """How errors and `config show` call one table of the list: models[1] is the first."""
    return f"{MODELS}[{index + 1}]"


def models_from_toml(raw: object, *, folder: Path, source: str) -> tuple[ModelSettings, ...]:
    """Read what a TOML document has under `models`; paths start at `folder`.

    Raises:
        ConfigError: it is no list of tables, or a table has a wrong name or value.
    """
    tables = typing.cast("list[object]", raw) if isinstance(raw, list) else []
    if not isinstance(raw, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(
            f"{source}: models is a list of tables: write each below a line of its own, {_HEADER}"
        )
    if len(tables) > MAX_HOST_RECORD_MODELS:
        raise ConfigError(
            f"{source}: models has {len(tables)} tables, and a host's record names at most "
            f"{MAX_HOST_RECORD_MODELS} models: serve fewer"
        )
    return tuple(
        _model(typing.cast("dict[str, object]", table), table_name(index), folder, source)
        for index, table in enumerate(tables)
    )


def models_from_text(text: str, *, folder: Path, source: str) -> tuple[ModelSettings, ...]:
    """Read a flag or a variable: tables as in the file, or their array, `[{repo = "..."}]`.

    Raises:
        ConfigError: it is no TOML, or see `models_from_toml`.
    """
    if not text.strip():
        return ()
    try:
        document = tomllib.loads(text if _HEADER in text else f"{MODELS} = {text}")
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(
            f"{source}: models is not TOML ({exc}): write tables below {_HEADER}, or an array of "
            'them such as [{repo = "org/name", file = "model.gguf", sha256 = "..."}]'
        ) from exc
    if other := next((name for name in document if name != MODELS), None):
        raise unknown_setting(other, source, [MODELS])
    return models_from_toml(document.get(MODELS, []), folder=folder, source=source)


def _model(table: dict[str, object], where: str, folder: Path, source: str) -> ModelSettings:
    values: dict[str, SettingScalar] = {}
    for name, raw in table.items():
        if name not in _TYPES:
            raise unknown_setting(f"{where}.{name}", source, [f"{where}.{each}" for each in _TYPES])
        try:
            values[name] = _TYPES[name].from_toml(raw, folder)
        except ValueError as exc:
            raise wrong_value(f"{where}.{name}", source, raw, _TYPES[name]) from exc
    return ModelSettings(**typing.cast("dict[str, typing.Any]", values))


def check_model(model: ModelSettings, where: str) -> None:
    """Refuse what only two settings of one model together make wrong.

    Args:
        where: what it is called in the settings: model, models[1].

    Raises:
        ConfigError: names the settings and what would be right.
    """
    _check_engine(model, where)
    identity = {"repo": model.repo, "file": model.file, "sha256": model.sha256}
    names = [f"{where}.{name}" for name in identity]
    missing = [f"{where}.{name}" for name, value in identity.items() if value is None]
    if 0 < len(missing) < len(identity):
        raise ConfigError(
            f"{' and '.join(missing)} must be set too: {names[0]}, {names[1]} and {names[2]} "
            "name a model together; without all three the demo model is served"
        )
    for name, text, example in (
        ("repo", model.repo, "org/name"),
        ("file", model.file, "model.gguf"),
    ):
        if text is not None and leads_out(text):
            raise ConfigError(
                f"{where}.{name} is {text!r}, which is no relative path without dots: write it as "
                f"the registry has it, such as {example}"
            )
    sources = {"cid": model.cid, "url": model.url, "hub": model.hub}
    chosen = [f"{where}.{name}" for name, value in sources.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} are set: choose one place for the model's file")
    if model.hub is not None and model.repo is None:
        raise ConfigError(
            f"{where}.hub is set, but no model: set {names[0]}, {names[1]} and {names[2]} as well"
        )
    if model.cid is not None:
        try:
            BlobId.decode(model.cid)
        except ValueError as exc:
            raise ConfigError(
                f"{where}.cid is {model.cid!r}, which is no S5 identifier ({exc}): take what "
                "`fabstir s5 put --plain` said"
            ) from exc


def _check_engine(model: ModelSettings, where: str) -> None:
    """An engine elsewhere has loaded a file that its owner can name."""
    if model.engine_url is not None and model.path is None:
        raise ConfigError(
            f"{where}.engine_url is set, but not {where}.path: set it to the file that the server "
            "loads, or to a copy of it here, so that its digest can be compared with the registry's"
        )
    needless = {
        "engine_key_file": model.engine_key_file is not None,
        "engine_profile": model.engine_profile != "auto",
        "engine_model": model.engine_model is not None,
    }
    chosen = [f"{where}.{name}" for name, is_set in needless.items() if is_set]
    if model.engine_url is None and chosen:
        raise ConfigError(
            f"{' and '.join(chosen)} are of an engine elsewhere: set {where}.engine_url as well"
        )


def refuse_doubles(models: Iterable[tuple[str, ModelSettings]]) -> None:
    """Refuse two models of one name.

    Args:
        models: each with what it is called in the settings.

    Raises:
        ConfigError: names both.
    """
    seen: dict[str, str] = {}
    for where, model in models:
        if model.repo is None or model.file is None:
            continue
        path = f"{model.repo}/{model.file}"  # what the id on chain is made of
        if path in seen:
            raise ConfigError(
                f"{seen[path]} and {where} are both {model.repo}:{model.file}: remove one of them, "
                "or correct its repo and file"
            )
        seen[path] = where
