"""A real store, its registry, and file systems over them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry, open_store

OWNER = "alice"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[BlobStore]:
    async with open_store(tmp_path / "store", NATIVE) as store:
        yield store


@pytest.fixture
def root() -> Capability:
    return Capability.of_keys(Identity(b"\7" * 16, NATIVE).file_system_root(), writable=True)


@pytest.fixture
def blobs(store: BlobStore) -> LocalBlobs:
    return LocalBlobs(store, OWNER)


@pytest.fixture
def registry(store: BlobStore) -> LocalRegistry:
    return LocalRegistry(store, NATIVE)


@pytest.fixture
def fs(blobs: LocalBlobs, registry: LocalRegistry, root: Capability) -> FileSystem:
    return FileSystem(blobs, registry, root, NATIVE)


@pytest.fixture
def other(blobs: LocalBlobs, registry: LocalRegistry, root: Capability) -> FileSystem:
    """Another reader and writer of the same tree, that has seen nothing yet."""
    return FileSystem(blobs, registry, root, NATIVE)
