"""How the commands of `fabstir s5` reach a node: one that runs, or its folder in this process.

A running node has its store alone. What is asked in words goes over its control socket, bytes go
through its HTTP door on loopback with the owner's token. Where no node runs, the same commands run
here, on the opened folder, and nobody else can open it meanwhile.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from fabstir.config import Settings
from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json, parse_json
from fabstir.primitives.errors import (
    AccessDenied,
    FabstirError,
    NotFound,
    PathRefused,
    RemoteProtocolError,
    StorageError,
    StorageFull,
)
from fabstir.protocol.fields import Fields
from fabstir.s5.door.bridge import CAPABILITY_HEADER
from fabstir.s5.fs import parse_path
from fabstir.s5.identities.node_secrets import load_owner_token
from fabstir.s5.run.commands import S5Commands
from fabstir.s5.run.parts import S5, open_s5_parts, s5_control_path
from fabstir.s5.run.targets import S5Target, SharedPath
from fabstir.web.control import Asked, ask

ShowProgress = Callable[[Any], None]

CONNECT_TIMEOUT = 5.0
STALL_TIMEOUT = 60.0
"""Seconds without a byte: the node may be waiting for a portal."""

_PARTIAL_CONTENT = 206
_MAX_ERROR_BYTES = 64 * 1024
_MAX_JSON_DEPTH = 16

_ERRORS: dict[int, type[StorageError]] = {
    400: PathRefused,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    507: StorageFull,
}


class Access(Protocol):
    """A node, from this process or through its doors."""

    async def run(
        self,
        command: str,
        arguments: Mapping[str, Json] | None = None,
        on_progress: ShowProgress | None = None,
    ) -> Any:
        """One of `s5.run.commands`."""
        ...

    def read(self, target: S5Target, found: Mapping[str, Any], start: int) -> AsyncGenerator[bytes]:
        """The content of a target, from a byte on.

        Args:
            found: what the command `find` says of it.
        """
        ...

    async def write(
        self,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        media_type: str | None,
        encrypt: bool = True,
    ) -> Any:
        """Store a file; returns what the command `find` would find now."""
        ...


@asynccontextmanager
async def open_access(settings: Settings) -> AsyncGenerator[Access]:
    """Reach the node of these settings, running or not."""
    socket = s5_control_path(settings)
    door = await ask(socket, "door")
    if door is None:
        async with open_s5_parts(settings) as s5:
            yield _Here(s5)
        return
    headers = {"Authorization": f"Bearer {load_owner_token(socket.parent)}"}
    timeout = httpx.Timeout(STALL_TIMEOUT, connect=CONNECT_TIMEOUT)
    # Proxies of the environment are for other machines.
    async with httpx.AsyncClient(
        base_url=door["url"], headers=headers, timeout=timeout, trust_env=False
    ) as client:
        yield _There(socket, client)


class _Here:
    """The folder, opened in this process."""

    def __init__(self, s5: S5) -> None:
        self._s5 = s5
        self._commands = S5Commands(s5)

    async def run(
        self,
        command: str,
        arguments: Mapping[str, Json] | None = None,
        on_progress: ShowProgress | None = None,
    ) -> Any:
        async def report(progress: Json) -> None:
            if on_progress is not None:
                on_progress(progress)

        fields = Fields(dict(arguments or {}), "the request")
        return await self._commands.table()[command](Asked(fields, report))

    def read(self, target: S5Target, found: Mapping[str, Any], start: int) -> AsyncGenerator[bytes]:
        if isinstance(target, BlobId):
            return self._s5.node.read(BlobId.decode(found["cid"]), start)
        tree, path = self._commands.tree(target)
        return tree.read(path, start, version=found["cid"])

    async def write(
        self,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        media_type: str | None,
        encrypt: bool = True,
    ) -> Any:
        info = await self._s5.files.put(path, pieces, media_type=media_type, encrypt=encrypt)
        return await self.run("find", {"target": f"/{info.path}"})


class _There:
    """A node that runs."""

    def __init__(self, socket: Path, client: httpx.AsyncClient) -> None:
        self._socket = socket
        self._client = client

    async def run(
        self,
        command: str,
        arguments: Mapping[str, Json] | None = None,
        on_progress: ShowProgress | None = None,
    ) -> Any:
        answer = await ask(self._socket, command, arguments, on_progress)
        if answer is None:
            raise FabstirError("the node has just ended: run the command again")
        return answer

    async def read(
        self, target: S5Target, found: Mapping[str, Any], start: int
    ) -> AsyncGenerator[bytes]:
        is_blob = isinstance(target, BlobId)
        url = f"/s5/download/{found['cid']}" if is_blob else f"/s5/fs/{quote(found['path'])}"
        headers = {"Range": f"bytes={start}-", "If-Match": f'"{found["cid"]}"'} if start else {}
        if isinstance(target, SharedPath):
            headers[CAPABILITY_HEADER] = target.capability
        with _named_errors():
            async with self._client.stream("GET", url, headers=headers) as response:
                await _refuse(response)
                if start and response.status_code != _PARTIAL_CONTENT:
                    raise StorageError("the node sends the whole file instead of its rest")
                async for piece in response.aiter_bytes():
                    yield piece

    async def write(
        self,
        path: str,
        pieces: AsyncIterable[bytes],
        *,
        media_type: str | None,
        encrypt: bool = True,
    ) -> Any:
        headers = {} if media_type is None else {"Content-Type": media_type}
        params = {} if encrypt else {"encrypt": "false"}
        # Here, because an URL with ".." in it would be another one before it is sent.
        plain = "/".join(parse_path(path))
        with _named_errors():
            async with self._client.stream(
                "PUT", f"/s5/fs/{quote(plain)}", headers=headers, params=params, content=pieces
            ) as response:
                await _refuse(response)
                await response.aread()
        return await self.run("find", {"target": f"/{plain}"})


@contextmanager
def _named_errors() -> Generator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise StorageError(
            f"the running node broke off ({reason}): look at its log, and run the command again"
        ) from error


async def _refuse(response: httpx.Response) -> None:
    """Raise what the node says if it is no success."""
    if response.is_success:
        return
    body = await response.aread()
    try:
        fields = Fields.of(parse_json(body[:_MAX_ERROR_BYTES], max_depth=_MAX_JSON_DEPTH), "")
        text = fields.text("message", "error")
    except (ValueError, RemoteProtocolError):
        text = f"the node answers HTTP {response.status_code}"
    raise _ERRORS.get(response.status_code, StorageError)(text)
