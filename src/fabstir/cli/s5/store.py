"""`fabstir s5 pin|unpin|du|scrub|gc|export|import|queue|where`: what the node keeps, and where."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.filesize import decimal

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import show, table, together
from fabstir.cli.progress import bar
from fabstir.cli.s5.access import ShowProgress, open_access
from fabstir.config.homes import expanded
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import ConfigError, StorageError

app = typer.Typer()

BlobArgument = Annotated[str, typer.Argument(metavar="CID", help='"blobb..." or "z...".')]

GRACE_SECONDS = 3600.0
"""What nobody pins is kept for so long: somebody may be about to pin it."""

_MAX_GRACE_SECONDS = 1e10
"""Three hundred years; more is a typing error."""


@app.command("pin")
def pin(
    ctx: typer.Context,
    cid: BlobArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "by hand",
) -> None:
    """Keep a blob for good, fetched from peers or portals if it is not here."""
    answer = _ask(ctx, "pin", {"cid": cid, "reason": reason})
    show(ctx, answer, lambda: f"pinned {cid}, {decimal(answer['size'])}")


@app.command("unpin")
def unpin(ctx: typer.Context, cid: BlobArgument) -> None:
    """Take back what `pin` did; files keep their blobs."""
    answer = _ask(ctx, "unpin", {"cid": cid})
    is_news = answer["was_pinned"]
    said = f"unpinned {cid}" if is_news else f"nothing to do: {cid} was not pinned by hand"
    show(ctx, answer, lambda: said)


@app.command("du")
def du(
    ctx: typer.Context,
    *,
    where: Annotated[bool, typer.Option("--where", help="Also by portal and peer.")] = False,
) -> None:
    """Show how much is kept, by owner and by reason, and with --where in which places."""
    answer = _ask(ctx, "du", {"where": where})

    def render() -> RenderableType:
        rows = [
            (
                line["owner"],
                line["reason"] or "",
                str(line["num_blobs"]),
                decimal(line["num_bytes"]),
                "" if line["max_bytes"] is None else decimal(line["max_bytes"]),
            )
            for line in answer["owners"]
        ]
        parts: list[RenderableType] = [
            table("owner", "reason", "blobs", "size", "quota", rows=rows),
            f"in the store: {answer['num_blobs']} blobs, {decimal(answer['num_bytes'])}",
        ]
        if where:
            parts.append(_places(answer["places"], answer["num_missing"]))
        return together(*parts)

    show(ctx, answer, render)


def _places(places: list[Mapping[str, Any]], num_missing: int) -> RenderableType:
    rows = [
        (place["place"], place["state"], str(place["num_blobs"]), decimal(place["num_bytes"]))
        for place in places
    ]
    missing = f"copies that are missing elsewhere: {num_missing}"
    return together(table("place", "state", "blobs", "size", rows=rows), missing)


@app.command("where")
def where_is(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="PATH|CID")],
) -> None:
    """Show where the copies of a file or blob are."""
    answer = _ask(ctx, "where", {"target": target})
    rows = [
        (copy["place"], copy["state"], _moment(copy["checked_at"])) for copy in answer["copies"]
    ]
    nowhere = "no copy is known, here or elsewhere"
    show(ctx, answer, lambda: table("place", "state", "looked at", rows=rows) if rows else nowhere)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@app.command("scrub")
def scrub(
    ctx: typer.Context,
    *,
    mend: Annotated[
        bool, typer.Option(help="Replace what has rotted from peers and portals.")
    ] = True,
) -> None:
    """Read every blob and compare it with its hash; exit code 1 if one stays damaged."""
    with bar(ctx, "scrub", in_bytes=False) as advance:
        answer = _ask(
            ctx,
            "scrub",
            {"mend": mend},
            lambda progress: advance(progress["done"], progress["total"]),
        )

    def render() -> RenderableType:
        rows = [
            (bad["cid"] or "", bad["place"], bad["problem"], bad["outcome"])
            for bad in answer["bad"]
        ]
        found = f"{answer['num_blobs']} blobs, {answer['num_bad']} damaged, "
        summary = found + f"{answer['num_mended']} of them replaced"
        made = table("CID", "place", "problem", "", rows=rows)
        return together(made, summary) if rows else summary

    show(ctx, answer, render)
    if answer["num_bad"] > answer["num_mended"]:
        raise StorageError(
            f"{answer['num_bad'] - answer['num_mended']} blobs are damaged: they are never served; "
            "name peers or portals that have them (s5.peers, s5.portals) and scrub again"
        )


@app.command("gc")
def gc(
    ctx: typer.Context,
    *,
    grace: Annotated[
        float,
        typer.Option(
            min=0, max=_MAX_GRACE_SECONDS, help="Seconds for which what nobody pins is kept."
        ),
    ] = GRACE_SECONDS,
) -> None:
    """Remove what nobody has pinned for a while.

    What a directory may need that cannot be read stays, and the directory is named.
    """
    answer = _ask(ctx, "gc", {"grace_millis": round(grace * 1000)})

    def render() -> RenderableType:
        said = f"removed {answer['num_blobs']} blobs, {decimal(answer['num_bytes'])}"
        rows = [(entry["path"], entry["problem"]) for entry in answer["unreadable"]]
        if not rows:
            return said
        kept = f"{answer['num_kept']} blobs that may be these directories' are kept until they"
        return together(
            said,
            f"{kept} can be read, or are deleted (`fabstir s5 rm -r`):",
            table("directory", "problem", rows=rows),
        )

    show(ctx, answer, render)
    if answer["problem"]:
        raise StorageError(
            "the files' tree cannot be read, so only what nobody pinned was removed: "
            f"{answer['problem']}"
        )


@app.command("export")
def export(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(help="Must not exist yet.")]
) -> None:
    """Write all pinned blobs and the registry into one file, verified on the way.

    With it and the identity's phrase, another node has the same files after `import`.
    """
    target = expanded(file).absolute()
    if target.exists():
        raise ConfigError(f"{file} exists already and is not overwritten")
    answer = _transfer(ctx, "export", target)
    parts = f"{answer['num_blobs']} blobs and {answer['num_entries']} registry entries"
    show(ctx, answer, lambda: f"{parts} are in {file}")
    if answer["damaged"]:
        raise StorageError(
            f"{len(answer['damaged'])} blobs are damaged and not in it: `fabstir s5 scrub` first"
        )


@app.command("import")
def import_(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(help="Made by `export`.")]
) -> None:
    """Store and pin what `export` wrote; everything is verified, and what is newer here stays."""
    source = expanded(file).absolute()
    if not source.is_file():
        raise ConfigError(f"no such file: {file}")
    answer = _transfer(ctx, "import", source)

    def render() -> str:
        came = f"{answer['num_blobs']} blobs and {answer['num_entries']} registry entries came"
        if answer["num_outdated"]:
            came += f", and {answer['num_outdated']} entries that are newer here"
        return f"{came} from {file}"

    show(ctx, answer, render)
    if answer["num_refused"]:
        raise StorageError(
            f"{answer['num_refused']} registry entries are of further keys than this node takes: "
            "raise s5.max_registry_entries and import it again, which goes on"
        )
    if answer["problem"]:
        raise StorageError(
            f"everything is pinned, but the tree of this identity cannot be read as a whole, so "
            f"that `gc` cannot tell what it needs: {answer['problem']}"
        )


def _transfer(ctx: typer.Context, command: str, file: Path) -> Any:
    with bar(ctx, command) as advance:
        return _ask(
            ctx,
            command,
            {"file": str(file)},
            lambda progress: advance(progress["done"], progress["total"]),
        )


@app.command("queue")
def queue(
    ctx: typer.Context,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing waits any more.")] = False,
) -> None:
    """Show the uploads that wait for their portals, and why."""
    with bar(ctx, "uploads left", in_bytes=False) as advance:
        answer = _ask(
            ctx,
            "queue",
            {"wait": wait},
            lambda progress: advance(progress["done"], progress["total"]),
        )
    rows = [
        (
            item["place"],
            item["cid"],
            decimal(item["size"]),
            str(item["num_failures"]),
            _moment(item["next_at"]),
            item["problem"] or "",
        )
        for item in answer["uploads"]
    ]
    columns = ("portal", "CID", "size", "failures", "next try", "problem")
    missing = answer["num_missing"]
    nothing = "nothing waits"
    if missing:
        nothing += (
            f" for its turn, but {missing} copies are missing elsewhere: their portals do not "
            "answer, or no node serves; `fabstir s5 du --where` shows the places"
        )
    show(ctx, answer, lambda: table(*columns, rows=rows) if rows else nothing)


def _ask(
    ctx: typer.Context,
    command: str,
    arguments: Mapping[str, Json],
    on_progress: ShowProgress | None = None,
) -> Any:
    settings = invocation(ctx).settings()

    async def run() -> Any:
        async with open_access(settings) as node:
            return await node.run(command, arguments, on_progress)

    return run_async(run)
