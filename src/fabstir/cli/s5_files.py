"""`fabstir s5 put|get|ls|rm|mv|share`: files of the node's own file system."""

from __future__ import annotations

import mimetypes
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from anyio import to_thread
from rich.filesize import decimal

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import show, table
from fabstir.cli.s5_access import Access, open_access
from fabstir.cli.s5_download import download, stream_to
from fabstir.cli.s5_progress import Advance, bar
from fabstir.primitives.errors import ConfigError, StorageError

app = typer.Typer()

PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="In the file system of S5.")]

_READ_BYTES = 1 << 20
_PAGE = 500
STDIN = STDOUT = "-"


@app.command("put")
def put(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="What to store; - is standard input.")
    ],
    path: PathArgument,
    *,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="Store a folder, all of it in one commit.")
    ] = False,
    media_type: Annotated[
        str | None, typer.Option("--type", help="Its media type; default: by its name.")
    ] = None,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="In clear: others can use it by its CID, as models are."),
    ] = False,
) -> None:
    """Store a file or a folder, encrypted. A PATH that ends with / gets the file's own name."""
    settings = invocation(ctx).settings()
    if plain and recursive:
        raise ConfigError("--plain stores one file at a time: leave out -r")
    local = None if source == STDIN else _existing(source, recursive=recursive)
    target = path + local.name if local is not None and path.endswith("/") else path

    async def run() -> Any:
        async with open_access(settings) as node:
            if local is not None and recursive:
                with bar(ctx, local.name, in_bytes=False) as advance:
                    return await node.run(
                        "put_tree",
                        {"folder": str(local), "path": target},
                        lambda progress: advance(progress["done"], progress["total"]),
                    )
            with bar(ctx, source) as advance:
                kind = media_type or mimetypes.guess_type(local.name if local else target)[0]
                pieces = _pieces(local, advance)
                return await node.write(target, pieces, media_type=kind, encrypt=not plain)

    stored = run_async(run)
    show(ctx, stored, lambda: _stored(stored))


def _existing(source: str, *, recursive: bool) -> Path:
    local = Path(source).expanduser().absolute()
    if not local.exists():
        raise ConfigError(f"no such file: {source}")
    if local.is_dir() != recursive:
        wrong = "no folder: leave out -r" if recursive else "a folder: add -r to store all of it"
        raise ConfigError(f"{source} is {wrong}")
    return local


def _stored(stored: Mapping[str, Any]) -> str:
    if "num_files" in stored:
        size = decimal(stored["num_bytes"])
        return f"{stored['num_files']} files, {size}, in {stored['path'] or '/'}"
    return f"{stored['path']}  {decimal(stored['size'])}  {stored['cid']}"


async def _pieces(local: Path | None, advance: Advance) -> AsyncIterator[bytes]:
    """A file, or standard input, in pieces."""
    file = sys.stdin.buffer if local is None else await to_thread.run_sync(_open, local)
    total = None if local is None else os.fstat(file.fileno()).st_size
    done = 0
    try:
        while piece := await to_thread.run_sync(file.read, _READ_BYTES):
            yield piece
            done += len(piece)
            advance(done, total)
    finally:
        if local is not None:
            file.close()


def _open(local: Path) -> BinaryIO:
    try:
        return local.open("rb")
    except OSError as error:
        raise StorageError(f"{local} cannot be read: {error.strerror}") from error


@app.command("get")
def get(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="PATH|CID", help="A file's path, or a blob.")],
    *,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Where to; - is standard output.")
    ] = None,
) -> None:
    """Fetch a file by its path, or a blob by its identifier; what broke off is gone on with."""
    settings = invocation(ctx).settings()

    async def run() -> Mapping[str, Any]:
        async with open_access(settings) as node:
            found = await node.run("find", {"target": target})
            if found["kind"] == "directory":
                raise StorageError(f"{target} is a directory: `fabstir s5 ls {target}`")
            with bar(ctx, target) as advance:
                if output == STDOUT:
                    await stream_to(sys.stdout.buffer, node.read(found, 0), advance, found["size"])
                    return found
                file = _target(output or Path(found["path"] or found["cid"]).name)
                await download(node, found, file, advance)
                return {**found, "file": str(file)}

    fetched = run_async(run)
    if output != STDOUT:
        show(ctx, fetched, lambda: f"{fetched['file']}  {decimal(fetched['size'])}")


def _target(name: str) -> Path:
    return Path(name).expanduser().absolute()


@app.command("ls")
def ls(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH")] = "",
    *,
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="Entries of a page.")] = _PAGE,
    show_all: Annotated[bool, typer.Option("--all", help="Every page.")] = False,
) -> None:
    """List a directory, a page at a time."""
    settings = invocation(ctx).settings()

    async def run() -> dict[str, Any]:
        async with open_access(settings) as node:
            page = await _list(node, path, cursor, limit)
            while show_all and page["cursor"]:
                more = await _list(node, path, page["cursor"], limit)
                page = {**more, "entries": page["entries"] + more["entries"]}
            return page

    page = run_async(run)
    rows = [_row(entry) for entry in page["entries"]]
    show(ctx, page, lambda: table("name", "size", "modified", "CID", rows=rows))
    if page["cursor"] and not invocation(ctx).as_json:
        typer.echo(f"more: --cursor {page['cursor']}, or --all", err=True)


async def _list(node: Access, path: str, cursor: str | None, limit: int) -> dict[str, Any]:
    return await node.run("ls", {"path": path, "cursor": cursor, "limit": limit})


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = entry["path"].rpartition("/")[2]
    moment = entry["modified_at"]
    when = "" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    if entry["kind"] == "directory":
        return name + "/", "", when, entry["cid"]
    return name, decimal(entry["size"]), when, entry["cid"]


@app.command("rm")
def rm(
    ctx: typer.Context,
    path: PathArgument,
    *,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="A directory with all that is in it.")
    ] = False,
) -> None:
    """Delete a file or an empty directory; its blobs go with the next collection."""
    _run(ctx, "rm", {"path": path, "recursive": recursive}, f"deleted {path}")


@app.command("mv")
def mv(
    ctx: typer.Context,
    path: PathArgument,
    to: Annotated[str, typer.Argument(metavar="NEW_PATH")],
) -> None:
    """Move or rename a file."""
    _run(ctx, "mv", {"path": path, "to": to}, f"{path} is {to}")


@app.command("share")
def share(ctx: typer.Context, path: Annotated[str, typer.Argument(metavar="PATH")] = "") -> None:
    """Print a directory's capability: whoever has this text reads all below, now and later."""
    settings = invocation(ctx).settings()

    async def run() -> Any:
        async with open_access(settings) as node:
            return await node.run("share", {"path": path})

    shared = run_async(run)
    show(ctx, shared, lambda: str(shared["capability"]))


def _run(ctx: typer.Context, command: str, arguments: dict[str, Any], said: str) -> None:
    settings = invocation(ctx).settings()

    async def run() -> Any:
        async with open_access(settings) as node:
            return await node.run(command, arguments)

    answer = run_async(run)
    show(ctx, answer, lambda: said)
