"""A server of blobs and their outboards, by ranges, that can be told to misbehave in many ways."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.transfer.fetch import BlobSource
from fabstir.s5.verified.tree import GROUP_BYTES, TreeBuilder

_MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """A blob, and its outboard."""

    data: bytes = field(repr=False)
    blob: BlobId
    outboard: bytes = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> Sample:
        builder = TreeBuilder()
        builder.update(data)
        tree = builder.finish()
        assert tree.blob.digest == NATIVE.blake3(data)
        return cls(data, tree.blob, tree.encode())


def noise(num_bytes: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(num_bytes)


@dataclass(slots=True, kw_only=True)
class Conduct:
    """How a server behaves.

    Attributes:
        has_outboard, has_ranges: whether it knows the two.
        outboard: what it says is the outboard; None: the right one.
        wrong_groups: of which it sends other bytes.
        cut_after: bytes of a body after which the connection ends, once for each number.
        stall_after: bytes of a body after which nothing comes, until the client hangs up.
        statuses: what the next requests for bytes are answered with.
        stated_size: what it says is the blob's size; None: the right one.
        lies_at: paths of somebody else on the same server, with other bytes.
        redirects_to: another server, for bytes.
        on_body: called with all bytes that were sent so far, after each piece.
    """

    has_outboard: bool = True
    has_ranges: bool = True
    outboard: bytes | None = None
    wrong_groups: frozenset[int] = frozenset()
    cut_after: list[int] = field(default_factory=list[int])
    stall_after: int | None = None
    statuses: list[int] = field(default_factory=list[int])
    stated_size: int | None = None
    lies_at: frozenset[str] = frozenset()
    redirects_to: str | None = None
    on_body: Callable[[int], None] = lambda _count: None


@dataclass(slots=True)
class Server:
    """
    Attributes:
        ranges: of each request for bytes that was answered, start and end.
        num_body_bytes: sent so far, of the blob.
        num_open: requests for bytes that are being answered; `most_open`: at a time so far.
    """

    url: str
    sample: Sample
    conduct: Conduct
    ranges: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    paths: list[str] = field(default_factory=list[str])
    num_body_bytes: int = 0
    num_open: int = 0
    most_open: int = 0

    @property
    def source(self) -> BlobSource:
        return self.source_at("/blobs/one")

    @property
    def name(self) -> str:
        return self.source.name

    def source_at(self, path: str) -> BlobSource:
        return BlobSource.location(self.url + path)

    def _is_here(self, path: str) -> bool:
        cid = self.sample.blob.encode("z")
        own = {"/blobs/one", f"/s5/blob/{cid}", f"/s5/download/{cid}"}
        return path in own | self.conduct.lies_at

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                await self._answer(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
                return  # the client hung up

    async def _answer(self, stream: SocketStream) -> None:
        raw = await BufferedByteReceiveStream(stream).receive_until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        head = raw.decode("latin-1")
        path = head.split()[1]
        self.paths.append(path)
        if path.endswith(".obao"):
            await self._send_outboard(stream, path)
        else:
            self.num_open += 1
            self.most_open = max(self.most_open, self.num_open)
            try:
                await self._send_blob(stream, head, path)
            finally:
                self.num_open -= 1

    async def _send_outboard(self, stream: SocketStream, path: str) -> None:
        if not self.conduct.has_outboard or not self._is_here(path.removesuffix(".obao")):
            return await _send_head(stream, 404, {"Content-Length": "0"})
        outboard = self.conduct.outboard
        body = self.sample.outboard if outboard is None else outboard
        await _send_head(stream, 200, {"Content-Length": str(len(body))})
        await stream.send(body)
        return None

    async def _send_blob(self, stream: SocketStream, head: str, path: str) -> None:
        conduct, size = self.conduct, len(self.sample.data)
        if conduct.statuses:
            status = conduct.statuses.pop(0)
            return await _send_head(stream, status, {"Content-Length": "0"})
        if conduct.redirects_to is not None:
            where = {"Location": conduct.redirects_to, "Content-Length": "0"}
            return await _send_head(stream, 307, where)
        if not self._is_here(path):
            return await _send_head(stream, 404, {"Content-Length": "0"})
        match = re.search(r"(?i)range: bytes=(\d+)-(\d+)", head) if conduct.has_ranges else None
        start, end = (int(match[1]), int(match[2]) + 1) if match else (0, size)
        stated = size if conduct.stated_size is None else conduct.stated_size
        headers = {"Content-Length": str(end - start)}
        if match:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stated}"
        self.ranges.append((start, end))
        await _send_head(stream, 206 if match else 200, headers)
        body = bytearray(self.sample.data[start:end])
        if path in conduct.lies_at:
            for offset in range(0, len(body), GROUP_BYTES):
                body[offset] ^= 1
        await self._send_body(stream, body, start)
        return None

    async def _send_body(self, stream: SocketStream, body: bytearray, start: int) -> None:
        conduct, end = self.conduct, start + len(body)
        for group in conduct.wrong_groups:
            if start <= group * GROUP_BYTES < end:
                body[group * GROUP_BYTES - start] ^= 1
        stop = conduct.stall_after
        if stop is None and conduct.cut_after:
            stop = conduct.cut_after.pop(0)
        for offset in range(0, len(body) if stop is None else min(stop, len(body)), _PIECE_BYTES):
            piece = body[offset : offset + _PIECE_BYTES]
            if stop is not None:
                piece = piece[: stop - offset]
            await stream.send(bytes(piece))
            self.num_body_bytes += len(piece)
            conduct.on_body(self.num_body_bytes)
        if conduct.stall_after is not None:
            await stream.receive()


async def _send_head(stream: SocketStream, status: int, headers: dict[str, str]) -> None:
    lines = [f"{name}: {value}" for name, value in ({"Connection": "close"} | headers).items()]
    await stream.send("\r\n".join([f"HTTP/1.1 {status} Status", *lines, "", ""]).encode())


@asynccontextmanager
async def open_server(sample: Sample, conduct: Conduct | None = None) -> AsyncGenerator[Server]:
    """Serve on a free loopback port for the length of the block."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        server = Server(url, sample, conduct or Conduct())
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()
