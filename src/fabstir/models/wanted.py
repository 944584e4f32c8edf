"""The models that the settings name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fabstir.config import ModelSettings, Settings
from fabstir.db.files import OpenToOthers, read_secret
from fabstir.models.catalogue import (
    DEMO_MODEL,
    FindSources,
    ModelSpec,
    S5Source,
    UrlSource,
)
from fabstir.models.inventory import ModelFile
from fabstir.models.pull import HubAccess
from fabstir.primitives.cid import BlobId
from fabstir.primitives.edited_text import without_mark
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Hash32

_MAX_TOKEN_BYTES: Final = 4096
_THIS_MACHINE: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def model_spec(wanted: ModelSettings) -> ModelSpec:
    """Which model is named; the demo model if none is."""
    if wanted.repo is None or wanted.file is None or wanted.sha256 is None:
        return DEMO_MODEL  # the settings have all three or none
    return ModelSpec(repo=wanted.repo, file=wanted.file, sha256=Hash32("0x" + wanted.sha256))


def hub_access(settings: Settings) -> HubAccess:
    """The hub of the settings, and the token that opens it.

    Raises:
        ConfigError: the token's file cannot be read, is open to others, or would be sent in clear.
    """
    hub = settings.hub
    if hub.token_file is None:
        return HubAccess(endpoint=hub.url, token=None)
    if not hub.url.startswith("https://") and urlsplit(hub.url).hostname not in _THIS_MACHINE:
        raise ConfigError(
            f"hub.token_file is set, and hub.url is {hub.url}: a token is sent over https only"
        )
    return HubAccess(endpoint=hub.url, token=_token(hub.token_file))


def _token(file: Path) -> str:
    try:
        text = without_mark(read_secret(file, _MAX_TOKEN_BYTES).decode(errors="replace")).strip()
    except OpenToOthers as exc:
        raise ConfigError(
            f"hub.token_file {file} can be read by others ({exc}): run `chmod 600 {file}`"
        ) from exc
    except OSError as exc:
        raise ConfigError(
            f"hub.token_file {file} cannot be read ({exc.strerror}): write the token into it"
        ) from exc
    if not (text.isascii() and text.isprintable() and text) or " " in text:
        raise ConfigError(f"hub.token_file {file} holds no token: write it on its first line")
    return text


def with_source(
    spec: ModelSpec, wanted: ModelSettings, find: FindSources, token_of: HubAccess | None = None
) -> ModelSpec:
    """The model from where the settings say, else from where it comes anyway.

    Args:
        token_of: the hub whose token is known.
    """
    if wanted.cid is not None:
        return dataclasses.replace(spec, source=S5Source(blob=BlobId.decode(wanted.cid), find=find))
    if wanted.url is not None:
        return dataclasses.replace(spec, source=UrlSource(url=wanted.url))
    if wanted.hub is not None:
        known = token_of or HubAccess(endpoint=wanted.hub, token=None)
        hub = known.at(wanted.hub, wanted.revision)
        return dataclasses.replace(spec, source=hub)
    return spec


def uses_of(model: ModelFile, settings: Settings) -> list[str]:
    """Where the settings name a file: model, models[1]."""
    return [
        where
        for where, wanted in settings.served_models()
        if wanted.path == model.path
        or (wanted.path is None and not model.is_added and _names(wanted, model))
    ]


def _names(wanted: ModelSettings, model: ModelFile) -> bool:
    spec = model_spec(wanted)
    return (spec.repo, spec.file) == (model.repo, model.file)
