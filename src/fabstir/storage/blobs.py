"""A folder of blobs, each under the hash of its bytes.

What a host publishes about its work (receipt bundles, encrypted checkpoints) stays readable by
anyone who holds the identifier. A blob is acknowledged only when its bytes and its name are on
disk: file, then folder, are flushed before `put` returns.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from anyio import to_thread

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import NotFound, StorageError
from fabstir.protocol.crypto import Crypto


class BlobStore:
    """Content-addressed files below `folder`.

    Safe for several writers: each writes its own temporary file and renames it into place.
    """

    def __init__(self, folder: Path, crypto: Crypto) -> None:
        self._folder = folder
        self._crypto = crypto
        folder.mkdir(parents=True, exist_ok=True)

    async def put(self, data: bytes) -> BlobId:
        """Store `data` durably and return its identifier."""
        blob = BlobId(self._crypto.blake3(data), len(data))
        await to_thread.run_sync(self._write, blob, data)
        return blob

    async def get(self, blob: BlobId) -> bytes:
        """Read and verify.

        Raises:
            StorageError: there is no such blob, or its bytes have rotted.
        """
        return await to_thread.run_sync(self._read, blob)

    def _path(self, blob: BlobId) -> Path:
        name = blob.digest.hex()
        return self._folder / name[:2] / name[2:]

    def _write(self, blob: BlobId, data: bytes) -> None:
        path = self._path(blob)
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".put-", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _fsync_folder(path.parent)
        _fsync_folder(self._folder)

    def _read(self, blob: BlobId) -> bytes:
        try:
            data = self._path(blob).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no blob {blob.encode()} in {self._folder}") from None
        if len(data) != blob.size or self._crypto.blake3(data) != blob.digest:
            raise StorageError(
                f"the bytes of blob {blob.encode()} in {self._folder} are not what was stored: "
                "the disk or somebody changed them; restore the file from a backup"
            )
        return data


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
