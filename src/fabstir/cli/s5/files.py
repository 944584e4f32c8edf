"""`fabstir s5 put|get|ls|rm|mv|share|mount`: the node's own files, and shared ones."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from anyio import to_thread
from rich.filesize import decimal

from fabstir.cli.context import invocation, run_async
from fabstir.cli.output import note, show, table
from fabstir.cli.progress import Advance, bar
from fabstir.cli.s5.access import Access, open_access
from fabstir.cli.s5.download import download, stream_to_stdout
from fabstir.cli.streams import require_stream
from fabstir.config.homes import expanded
from fabstir.primitives.errors import ConfigError, StorageError
from fabstir.s5.fs import is_media_type, parse_path
from fabstir.s5.run.targets import SharedPath, own_path, parse_target

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
    """Store a file or a folder, encrypted. A PATH that ends with / gets the file's own name.

    Of a folder, links are followed to files in it; what else is no file is left out, and named.
    """
    settings = invocation(ctx).settings()
    if plain and recursive:
        raise ConfigError("--plain stores one file at a time: leave out -r")
    own_path(path)
    if media_type is not None and not is_media_type(media_type):
        raise ConfigError(f"--type is a media type, such as text/plain, not {media_type[:80]!a}")
    local = None if source == STDIN else _existing(source, recursive=recursive)
    if local is None and (recursive or path.endswith("/")):
        raise ConfigError("standard input is one file without a name: write its PATH in full")
    target = path + local.name if local is not None and path.endswith("/") else path
    if not recursive and not parse_path(target):
        raise ConfigError("this PATH is the root, which is a directory: name the file")

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
                pieces = _pieces(local, advance)
                return await node.write(target, pieces, media_type=media_type, encrypt=not plain)

    stored = run_async(run)
    show(ctx, stored, lambda: _stored(stored))


def _existing(source: str, *, recursive: bool) -> Path:
    local = _local(source)
    try:
        is_folder = stat.S_ISDIR(local.stat().st_mode)
    except FileNotFoundError as error:
        raise ConfigError(f"no such file: {source}") from error
    except OSError as error:
        raise ConfigError(f"{source[:80]} cannot be read: {error.strerror}") from error
    if is_folder != recursive:
        wrong = "no folder: leave out -r" if recursive else "a folder: add -r to store all of it"
        raise ConfigError(f"{source} is {wrong}")
    return local


def _stored(stored: Mapping[str, Any]) -> str:
    if "num_files" in stored:
        size = decimal(stored["num_bytes"])
        left_out = ""
        if stored["num_left_out"]:
            names = ", ".join(ascii(name) for name in stored["left_out"])
            more = ", ..." if stored["num_left_out"] > len(stored["left_out"]) else ""
            left_out = (
                f"; left out, as no files, links out of the folder or a Mac's icons: {names}{more}"
            )
        return f"{stored['num_files']} files, {size}, in {stored['path'] or '/'}{left_out}"
    return f"{stored['path']}  {decimal(stored['size'])}  {stored['cid']}"


async def _pieces(local: Path | None, advance: Advance) -> AsyncIterator[bytes]:
    """A file, or standard input, in pieces."""
    shown = "standard input" if local is None else str(local)
    if local is None:
        require_stream("stdin")
    with _reading(shown):
        file = sys.stdin.buffer if local is None else await to_thread.run_sync(_open, local)
    total = None if local is None else _size(file)
    done = 0
    try:
        while True:
            with _reading(shown):
                piece = await to_thread.run_sync(file.read, _READ_BYTES)
            if not piece:
                return
            yield piece
            done += len(piece)
            advance(done, total)
    finally:
        if local is not None:
            file.close()


def _open(local: Path) -> BinaryIO:
    return local.open("rb")


def _size(file: BinaryIO) -> int | None:
    """None: it is a pipe or a device, whose length nobody knows."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _reading(shown: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{shown} cannot be read: {error.strerror}") from error


@app.command("get")
def get(
    ctx: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|CID|CAPABILITY/PATH", help="A file, a blob, or a file that is shared."
        ),
    ],
    *,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Where to; - is standard output.")
    ] = None,
) -> None:
    """Fetch a file by its path, or a blob by its identifier; what broke off is gone on with."""
    settings = invocation(ctx).settings()
    parsed = parse_target(target)
    if output == STDOUT:
        require_stream("stdout")

    async def run() -> Mapping[str, Any]:
        async with open_access(settings) as node:
            found = await node.run("find", {"target": target})
            if found["kind"] == "directory":
                # Not what was typed: it may be a capability.
                shown = found["path"] or "/"
                raise StorageError(f"{shown!a} is a directory: `fabstir s5 ls` lists it")
            with bar(ctx, found["path"] or found["cid"]) as advance:
                if output == STDOUT:
                    await stream_to_stdout(node.read(parsed, found, 0), advance, found["size"])
                    return found
                file = _local(output or Path(found["path"] or found["cid"]).name)
                await download(node, parsed, found, file, advance)
                return {**found, "file": str(file)}

    fetched = run_async(run)
    if output != STDOUT:
        show(ctx, fetched, lambda: f"{fetched['file']}  {decimal(fetched['size'])}")


def _local(name: str) -> Path:
    try:
        return expanded(Path(name)).absolute()
    except RuntimeError as error:  # ~NAME of nobody
        raise ConfigError(f"{name[:80]}: {error}") from error


@app.command("ls")
def ls(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH|CAPABILITY[/PATH]")] = "",
    *,
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="Entries of a page.")] = _PAGE,
    show_all: Annotated[bool, typer.Option("--all", help="Every page.")] = False,
) -> None:
    """List a directory, your own or a shared one, a page at a time."""
    settings = invocation(ctx).settings()

    async def run() -> dict[str, Any]:
        async with open_access(settings) as node:
            page = await _list(node, path, cursor, limit)
            while show_all and page["cursor"]:
                more = await _list(node, path, page["cursor"], limit)
                added = {key: page[key] + more[key] for key in ("entries", "num_refused")}
                page = {**more, **added}
            return page

    page = run_async(run)
    rows = [_row(entry) for entry in page["entries"]]
    show(ctx, page, lambda: table("name", "size", "modified", "CID", rows=rows))
    if page["num_refused"]:
        note(
            f"{page['num_refused']} more entries have names that are not allowed here (they lead "
            "elsewhere, turn text around, or are too long): they can only be deleted, with their "
            "directory"
        )
    if page["cursor"] and not invocation(ctx).as_json:
        note(f"more: --cursor {page['cursor']}, or --all")


async def _list(node: Access, path: str, cursor: str | None, limit: int) -> dict[str, Any]:
    return await node.run("ls", {"path": path, "cursor": cursor, "limit": limit})


def _row(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = entry["path"].rpartition("/")[2]
    moment = entry["modified_at"]
    when = "" if moment is None else _when(moment)
    if entry["kind"] == "directory":
        return name + "/", "", when, entry["cid"]
    return name, decimal(entry["size"]), when, entry["cid"]


def _when(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    except (ValueError, OverflowError, OSError):  # whoever wrote the directory chose the number
        return "beyond all calendars"


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
    _run(ctx, "rm", {"path": own_path(path), "recursive": recursive}, f"deleted {path}")


@app.command("mv")
def mv(
    ctx: typer.Context,
    path: PathArgument,
    to: Annotated[str, typer.Argument(metavar="NEW_PATH")],
) -> None:
    """Move or rename a file or directory. A NEW_PATH that ends with / keeps the name."""
    if to.endswith("/"):
        to += path.strip("/").rpartition("/")[2]
    _run(ctx, "mv", {"path": own_path(path), "to": own_path(to)}, f"{path} is {to}")


@app.command("share")
def share(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH")] = "",
    *,
    write: Annotated[
        bool, typer.Option("--write", help="Who has the text may also write.")
    ] = False,
) -> None:
    """Print a directory's capability: whoever has this text reads all below, now and later.

    They use it with `ls`, `get` and `mount`, on a node that has this one as its peer.
    """
    shared = _ask(ctx, "share", {"path": own_path(path), "is_writable": write})
    show(ctx, shared, lambda: str(shared["capability"]))


@app.command("mount")
def mount(
    ctx: typer.Context,
    path: PathArgument,
    capability: Annotated[str, typer.Argument(help="What `share` printed; - reads it from stdin.")],
) -> None:
    """Give a directory that somebody shared a path among your own.

    `rm` takes back the path, and leaves the directory alone.
    """
    if capability == STDIN:
        require_stream("stdin")
    text = sys.stdin.readline().strip() if capability == STDIN else capability
    match parse_target(text):
        case SharedPath(capability=whole, path=""):
            arguments = {"path": own_path(path), "capability": whole}
        case SharedPath():
            raise ConfigError("a capability opens one directory as a whole: leave out /PATH")
        case _:
            raise ConfigError("this is no capability: `fabstir s5 share` prints one")
    mounted = _ask(ctx, "mount", arguments)
    use = "read and write" if mounted["is_writable"] else "for reading only"
    show(ctx, mounted, lambda: f"{mounted['path']}  {use}")


def _run(ctx: typer.Context, command: str, arguments: dict[str, Any], said: str) -> None:
    answer = _ask(ctx, command, arguments)
    show(ctx, answer, lambda: said)


def _ask(ctx: typer.Context, command: str, arguments: dict[str, Any]) -> Any:
    settings = invocation(ctx).settings()

    async def run() -> Any:
        async with open_access(settings) as node:
            return await node.run(command, arguments)

    return run_async(run)
