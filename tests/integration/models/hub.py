"""A small HTTP server that behaves like a model hub, faults included."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.models import ModelSpec, UrlSource
from fabstir.primitives.ids import Hash32, hash32

GGUF = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + random.Random(20).randbytes(400_000)
"""What passes for a model where nothing loads it: neither keys nor tensors, and noise behind."""

_MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with a status and no file."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection after so many bytes of the body."""

    after: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Send so many bytes of the body, then nothing until the client hangs up."""

    after: int


@dataclass(frozen=True, slots=True)
class Change:
    """Close the connection after so many bytes of the body; from then on it is another file."""

    after: int
    data: bytes
    etag: str


Fault = Refuse | Cut | Stall | Change


@dataclass(slots=True, kw_only=True)
class HubFile:
    """What lies at a path.

    Attributes:
        faults: one for each of the next requests.
        etag: in its quotes; empty: none is sent.
        has_ranges: whether Range is honoured.
        honours_if_range: whether If-Range is; else a range is a range, whatever the file is now.
        has_length: whether Content-Length is sent; the connection's end tells it otherwise.
    """

    data: bytes
    etag: str = '"first"'
    content_type: str = "application/octet-stream"
    has_ranges: bool = True
    honours_if_range: bool = True
    has_length: bool = True
    faults: list[Fault] = field(default_factory=list[Fault])


@dataclass(slots=True)
class Hub:
    """
    Attributes:
        redirects: from a path to a path or URL.
        told: headers beside a redirect, as Hugging Face tells of a file.
        token: what opens paths that are redirected; "": nothing is gated.
        requests: all of them, in order.
        num_body_bytes: sent so far.
    """

    url: str
    files: dict[str, HubFile] = field(default_factory=dict[str, HubFile])
    redirects: dict[str, str] = field(default_factory=dict[str, str])
    told: dict[str, str] = field(default_factory=dict[str, str])
    token: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    num_body_bytes: int = 0

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                await self._answer(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
                return  # the client hung up, which is what the tests make it do

    async def _answer(self, stream: SocketStream) -> None:
        request = await _read_request(stream)
        self.requests.append(request)
        path = request.path.partition("?")[0]
        if path in self.redirects:
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                return await _send_head(stream, 401, {})
            return await _send_head(stream, 302, {"Location": self.redirects[path]} | self.told)
        file = self.files.get(path)
        if file is None:
            return await _send_head(stream, 404, {})
        fault = file.faults.pop(0) if file.faults else None
        if isinstance(fault, Refuse):
            return await _send_head(stream, fault.status, dict(fault.headers))
        return await self._send_file(stream, file, request, fault)

    async def _send_file(
        self,
        stream: SocketStream,
        file: HubFile,
        request: Request,
        fault: Cut | Stall | Change | None,
    ) -> None:
        size = len(file.data)
        start = _range_start(file, request)
        if start is not None and start >= size:
            return await _send_head(stream, 416, {"Content-Range": f"bytes */{size}"})
        headers = {"Content-Type": file.content_type}
        if file.etag:
            headers["ETag"] = file.etag
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        body = file.data[start or 0 :]
        if file.has_length:
            headers["Content-Length"] = str(len(body))
        await _send_head(stream, 200 if start is None else 206, headers)
        for piece in _pieces(body if fault is None else body[: fault.after]):
            await stream.send(piece)
            self.num_body_bytes += len(piece)
        if isinstance(fault, Stall):
            await stream.receive()
        elif isinstance(fault, Change):
            file.data, file.etag = fault.data, fault.etag
        return None


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and the file of the hub that it is fetched from."""

    hub: Hub
    file: HubFile
    spec: ModelSpec


def serve_model(hub: Hub) -> Served:
    """Put `GGUF` on the hub."""
    hub.files["/tiny.gguf"] = file = HubFile(data=GGUF)
    spec = ModelSpec(
        repo="org/tiny",
        file="tiny.gguf",
        sha256=sha256(GGUF),
        size_bytes=len(GGUF),
        source=UrlSource(url=f"{hub.url}/tiny.gguf"),
    )
    return Served(hub, file, spec)


def sha256(data: bytes) -> Hash32:
    return hash32(hashlib.sha256(data).digest())


@asynccontextmanager
async def open_hub() -> AsyncGenerator[Hub]:
    """Serve on a free loopback port for the length of the block."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        hub = Hub(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
        tasks.start_soon(listener.serve, hub.serve)
        yield hub
        tasks.cancel_scope.cancel()


async def _read_request(stream: SocketStream) -> Request:
    head = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", _MAX_HEAD_BYTES)
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    method, path, _version = first.split()
    return Request(method, path, {name.lower(): value.strip() for name, _, value in fields})


async def _send_head(stream: SocketStream, status: int, headers: dict[str, str]) -> None:
    if status not in {200, 206}:
        headers = {"Content-Length": "0"} | headers
    lines = [f"{name}: {value}" for name, value in ({"Connection": "close"} | headers).items()]
    await stream.send("\r\n".join([f"HTTP/1.1 {status} Status", *lines, "", ""]).encode())


def _range_start(file: HubFile, request: Request) -> int | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if match is None or not file.has_ranges:
        return None
    if file.honours_if_range and request.headers.get("if-range", file.etag) != file.etag:
        return None
    return int(match[1])


def _pieces(body: bytes) -> list[bytes]:
    return [body[i : i + _PIECE_BYTES] for i in range(0, len(body), _PIECE_BYTES)]
