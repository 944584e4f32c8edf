"""What `fabstir models` does with the files: fetch, look at, hash, note, remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from fabstir.config import ModelSettings, Settings
from fabstir.engines.gpus import GpuReading, read_gpus
from fabstir.engines.memory import usable_memory
from fabstir.models import FindSources, ModelSpec, OnProgress, Patience, sha256_of
from fabstir.models.facts import ModelFacts, model_facts
from fabstir.models.files import check_header, remember_verified
from fabstir.models.fit import MemoryNeed, need_in_ram, need_in_vram
from fabstir.models.gguf import read_gguf
from fabstir.models.holding import is_held
from fabstir.models.inventory import SUFFIX, Inventory, ModelFile
from fabstir.models.pull import ModelPlace, parse_place, pull_model
from fabstir.models.wanted import hub_access, model_spec, uses_of
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ConfigError, ModelError, ModelMissing
from fabstir.primitives.ids import Hash32
from fabstir.s5.portals.presets import expand
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.web.reach import Reach


def model_folder(settings: Settings) -> Path:
    """Where pulled models lie, and where a host looks for them."""
    return settings.paths.cache_dir / "models"


def inventory(settings: Settings) -> Inventory:
    """The models of this machine."""
    return Inventory(model_folder(settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFit:
    """A model's need of memory against what there is.

    Attributes:
        usable_ram: bytes; None where the system does not say.
    """

    max_model_len: int
    num_slots: int
    ram: MemoryNeed
    vram: MemoryNeed
    usable_ram: int | None
    gpus: tuple[GpuReading, ...]

    @property
    def fits_in_ram(self) -> bool:
        """As a host would find at its start."""
        return self.usable_ram is None or self.ram.total <= self.usable_ram


def look_at(
    settings: Settings, path: Path, *, max_model_len: int | None, num_slots: int | None
) -> tuple[ModelFacts, ModelFit]:
    """Read a model's header, and compare its need with this machine; blocks.

    Args:
        max_model_len, num_slots: None: as the settings have them for this file, else their
            defaults.

    Raises:
        ModelNotGguf: it is no model, or has a damaged header.
        ModelMissing: it cannot be read.
    """
    try:
        facts = model_facts(read_gguf(path))
    except OSError as exc:
        raise ModelMissing(
            f"{path} cannot be read ({exc.strerror}): check its name and permissions"
        ) from exc
    wanted = _wanted_for(settings, path)
    length = max_model_len or wanted.max_model_len
    slots = num_slots or wanted.num_slots
    return facts, ModelFit(
        max_model_len=length,
        num_slots=slots,
        ram=need_in_ram(facts, max_model_len=length, num_slots=slots),
        vram=need_in_vram(facts, max_model_len=length, num_slots=slots),
        usable_ram=usable_memory(),
        gpus=read_gpus(),
    )


def _wanted_for(settings: Settings, path: Path) -> ModelSettings:
    folder = model_folder(settings)
    for _where, wanted in settings.served_models():
        if path == (wanted.path or model_spec(wanted).path_in(folder)):
            return wanted
    return ModelSettings()


def places_of(settings: Settings, texts: Sequence[str]) -> list[ModelPlace]:
    """What was typed, as places to fetch from.

    Raises:
        ConfigError: one is of no known form, or the hub's token cannot be had.
    """
    hub = hub_access(settings)
    return [parse_place(text, hub, _s5_places(settings)) for text in texts]


def _s5_places(settings: Settings) -> FindSources:
    """A blob of S5 comes from this machine's node, if one runs, and from the portals."""

    async def find(blob: BlobId) -> Sequence[BlobSource]:
        door = f"http://127.0.0.1:{settings.s5.port}/s5/blob/{blob.encode('z')}"
        return [
            BlobSource.location(door, is_strangers=False),
            *(BlobSource.portal(url, blob) for url in expand(settings.s5.portals)),
        ]

    return find


async def pull(
    settings: Settings,
    places: Sequence[ModelPlace],
    *,
    sha256: Hash32 | None,
    on_progress: OnProgress,
) -> ModelFile:
    """Fetch a model; see `pull_model`.

    Raises:
        ConfigError: it cannot have the name that it has, or was given.
    """
    _require_name(places[0].repo, places[0].file)
    spec = await pull_model(
        places,
        model_folder(settings),
        sha256=sha256,
        patience=Patience(),
        on_progress=on_progress,
        reach=Reach(allow_private=settings.network.allow_private),
    )
    path = spec.path_in(model_folder(settings))
    return await to_thread.run_sync(inventory(settings).find, str(path))


async def add(
    settings: Settings, path: Path, *, repo: str, file: str, on_progress: OnProgress
) -> ModelFile:
    """Note a file of the owner's, which stays where it is.

    Raises:
        ModelNotGguf: it is no model, one of several parts, or has a damaged header.
        ModelMissing: it cannot be read.
        ConfigError: it cannot have this name.
    """
    _require_name(repo, file)
    try:
        await check_header(path)
        sha256 = await sha256_of(path, on_progress)
    except OSError as exc:
        raise ModelMissing(
            f"{path} cannot be read ({exc.strerror}): check its name and permissions"
        ) from exc
    await remember_verified(path, sha256)
    spec = ModelSpec(repo=repo, file=file, sha256=sha256)
    models = inventory(settings)
    await to_thread.run_sync(models.note, spec, path)
    return await to_thread.run_sync(models.find, str(path))


def _require_name(repo: str, file: str) -> None:
    """A path below the folder of models, which only looks at files that are called .gguf."""
    parts = f"{repo}/{file}".split("/")
    is_safe = not any(part in {"", ".", ".."} or part.startswith(".") for part in parts)
    if not is_safe or "\\" in repo + file or "\0" in repo + file or not file.endswith(SUFFIX):
        raise ConfigError(
            f"{repo}:{file} cannot be a model's name here: give one such as org/name:model{SUFFIX} "
            "with --name"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What hashing a file showed.

    Attributes:
        expected: by the settings, or when it was hashed before; None: nobody has said.
        problem: "" where it is as it should be.
    """

    name: str
    path: Path
    expected: Hash32 | None
    actual: Hash32 | None
    problem: str


async def verify(settings: Settings, model: ModelFile, on_progress: OnProgress) -> Verification:
    """Hash a file whole, whatever is remembered of it, and read its header."""
    expected = _expected(settings, model)
    actual = None
    problem = ""
    try:
        actual = await sha256_of(model.path, on_progress)
        await check_header(model.path)
    except OSError as exc:
        problem = f"it cannot be read ({exc.strerror}): put the file there again"
    except ModelError as exc:
        problem = str(exc)
    if actual is not None and expected not in {None, actual}:
        problem = "other bytes than expected: remove it and pull it again, or correct the sha256"
    if actual is not None and not problem:
        await remember_verified(model.path, actual)
    return Verification(
        name=model.name, path=model.path, expected=expected, actual=actual, problem=problem
    )


def _expected(settings: Settings, model: ModelFile) -> Hash32 | None:
    uses = uses_of(model, settings)
    for where, wanted in settings.served_models():
        if where in uses:
            return model_spec(wanted).sha256
    return model.sha256


def remove(settings: Settings, model: ModelFile, *, is_forced: bool) -> None:
    """Delete a pulled file, or forget an added one.

    Raises:
        ConfigError: a running host has loaded it, or the settings name it, and it is not forced.
    """
    reasons = [f"{where} of {settings.file} names it" for where in uses_of(model, settings)]
    if is_held(model.path):
        reasons.append("a running host has it loaded")
    if reasons and not is_forced:
        raise ConfigError(
            f"{model.name} is in use ({'; '.join(reasons)}): change that first, or remove it all "
            "the same with --force"
        )
    inventory(settings).forget(model)
