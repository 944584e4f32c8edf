"""Pulling a model by whatever names it: a hub's file, a URL, an S5 blob, a wheel, a path."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from fabstir.models.catalogue import (
    DEMO_MODEL,
    FindSources,
    HubSource,
    ModelSpec,
    PathSource,
    S5Source,
    Source,
    UnknownModel,
    UrlSource,
    WheelSource,
)
from fabstir.models.download import Patience
from fabstir.models.fetch import fetch_model, fetch_unknown
from fabstir.models.files import OnProgress
from fabstir.models.hub import ask_hub
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, ModelDownloadFailed, ModelError
from fabstir.primitives.ids import Hash32
from fabstir.web.reach import Reach

_LOG = logging.getLogger(__name__)

DEMO: Final = "demo"
"""What the demo model is called on the command line."""

OWN_REPO: Final = "local"
"""The repository of a file that comes with no name but its own."""

_HUB_PATH: Final = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob|raw)/([^/]+)/(.+)")
_HUB_NAME: Final = re.compile(r"([\w.-]+/[\w.-]+)[:/]([^:]+\.gguf)")
_WHEEL: Final = re.compile(r"wheel:([\w.-]+)==([\w.+!-]+):(.+)")
_WEB: Final = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """The hub that names without an address mean.

    Attributes:
        token: sent to this hub and to no other.
    """

    endpoint: str
    token: str | None = dataclasses.field(repr=False)
    revision: str = "main"

    def at(self, endpoint: str, revision: str) -> HubSource:
        """A hub as a source; with the token if it is this one."""
        is_this = endpoint.rstrip("/") == self.endpoint.rstrip("/")
        token = self.token if is_this else None
        return HubSource(endpoint=endpoint, revision=revision, token=token)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """Where a model is, and what it is called there."""

    repo: str
    file: str
    source: Source
    sha256: Hash32 | None = None


def parse_place(text: str, hub: HubAccess, find: FindSources) -> ModelPlace:
    """Read what somebody typed.

    Raises:
        ConfigError: it is none of the forms; names them.
    """
    if text == DEMO:
        assert DEMO_MODEL.source is not None, "a constant that has one"
        return ModelPlace(
            repo=DEMO_MODEL.repo,
            file=DEMO_MODEL.file,
            source=DEMO_MODEL.source,
            sha256=DEMO_MODEL.sha256,
        )
    if text.partition("://")[0] in _WEB:
        return _at_address(text, hub)
    if match := _WHEEL.fullmatch(text):
        source = WheelSource(package=match[1], version=match[2], member=match[3])
        return ModelPlace(repo=match[1], file=PurePosixPath(match[3]).name, source=source)
    if (path := Path(text).expanduser()).is_file():
        return ModelPlace(repo=OWN_REPO, file=path.name, source=PathSource(path=path.absolute()))
    if match := _HUB_NAME.fullmatch(text):
        return ModelPlace(repo=match[1], file=match[2], source=hub.at(hub.endpoint, hub.revision))
    try:
        blob = BlobId.decode(text)
    except ValueError as exc:
        raise ConfigError(
            f"{text!r} names no model: give org/name:file.gguf of the hub, an http or https URL, "
            f"an S5 identifier, a file's path, wheel:package==version:member, or {DEMO!r}"
        ) from exc
    return ModelPlace(
        repo=OWN_REPO, file=f"{text[:24]}.gguf", source=S5Source(blob=blob, find=find)
    )


def _at_address(url: str, hub: HubAccess) -> ModelPlace:
    """A file on the web; a page of a hub's file is taken for the file."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise ConfigError(f"{url!r} is no URL ({exc}): correct it") from exc
    if match := _HUB_PATH.fullmatch(parts.path):
        endpoint = f"{parts.scheme}://{parts.netloc}"
        source = hub.at(endpoint, unquote(match[2]))
        return ModelPlace(repo=match[1], file=unquote(match[3]), source=source)
    file = PurePosixPath(unquote(parts.path)).name
    if not file:
        raise ConfigError(f"{url!r} names no file: give the whole URL of a .gguf file")
    return ModelPlace(repo=parts.hostname or OWN_REPO, file=file, source=UrlSource(url=url))


async def pull_model(
    places: Sequence[ModelPlace],
    folder: Path,
    *,
    sha256: Hash32 | None,
    patience: Patience,
    on_progress: OnProgress | None,
    reach: Reach,
) -> ModelSpec:
    """Fetch a model from the first of the places that gives it, into the first one's name.

    What one place began another goes on with, where the digest is known.

    Args:
        sha256: what the file's must be; None: what the hub says, else what comes.

    Returns:
        The model, verified and in its place.

    Raises:
        ModelError: no place gave it; has what each of them said.
    """
    said: list[str] = []
    named = places[0]
    for place in places:
        try:
            return await _pull(named, place, folder, sha256, patience, on_progress, reach)
        except ModelError as exc:
            if len(places) == 1:
                raise
            said.append(str(exc))
            _LOG.warning("a source does not give the model", extra={"reason": str(exc)})
    raise ModelDownloadFailed(f"none of {len(places)} sources gave the model: {'; '.join(said)}")


async def _pull(
    named: ModelPlace,
    place: ModelPlace,
    folder: Path,
    sha256: Hash32 | None,
    patience: Patience,
    on_progress: OnProgress | None,
    reach: Reach,
) -> ModelSpec:
    expected, size_bytes, source = sha256 or place.sha256, None, place.source
    if isinstance(source, HubSource):
        told = await ask_hub(source, place.repo, place.file, patience=patience, reach=reach)
        expected, size_bytes = expected or told.sha256, told.size_bytes
        revision = told.commit or source.revision  # another commit meanwhile is another file
        pinned = dataclasses.replace(source, revision=revision)
        source = UrlSource(url=pinned.url(place.repo, place.file), token=source.token)
    if expected is None:
        unknown = UnknownModel(repo=named.repo, file=named.file, source=source)
        return await fetch_unknown(
            unknown, folder, patience=patience, on_progress=on_progress, reach=reach
        )
    spec = ModelSpec(
        repo=named.repo, file=named.file, sha256=expected, size_bytes=size_bytes, source=source
    )
    await fetch_model(spec, folder, patience=patience, on_progress=on_progress, reach=reach)
    return spec
