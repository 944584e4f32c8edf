"""What the file system says about files and directories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fabstir.s5.formats.directory import Cbor, DirRef, FileRef
from fabstir.s5.formats.directory_cid import DirectoryCid
from fabstir.s5.fs.contents import blob_of

DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"

OWN_PREFIX: Final = "fabstir."
"""Begins the names under which the file system itself keeps something beside an entry."""

_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file as its directory describes it.

    Attributes:
        path: from the root of the tree that was asked.
        size: bytes of the plaintext.
        modified_at: Unix seconds by its writer's clock; None: not written down.
        cid: the identifier of the blob that holds it, as it is stored: another content or another
            encryption of the same content has another one.
        plaintext_hash: BLAKE3 of the content, 32 bytes; None: its writer did not say.
        metadata: what its writers keep beside it.
    """

    path: str
    size: int
    media_type: str
    modified_at: float | None
    cid: str
    is_encrypted: bool
    plaintext_hash: bytes | None
    num_versions: int
    metadata: Mapping[Cbor, Cbor]

    @property
    def etag(self) -> str:
        """What `if_match` takes: the CID."""
        return self.cid

    @property
    def is_directory(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryInfo:
    """A directory as the one above it describes it.

    Attributes:
        cid: its directory CID without the key that opens it.
        created_at: Unix seconds by its maker's clock; None: not written down.
    """

    path: str
    cid: str
    created_at: float | None
    is_encrypted: bool
    metadata: Mapping[Cbor, Cbor]

    @property
    def is_directory(self) -> bool:
        """True."""
        return True


Info = FileInfo | DirectoryInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a directory's list.

    Attributes:
        cursor: where the next page begins; None: this is the last one.
        num_refused: entries that other writers gave names which are not allowed here, or sizes that
            no blob has; they are left out.
    """

    entries: tuple[Info, ...]
    cursor: str | None
    num_refused: int = 0


def file_info(path: str, file: FileRef) -> FileInfo:
    """Describe a file."""
    encryption = file.encryption
    return FileInfo(
        path=path,
        size=file.size,
        media_type=file.media_type or DEFAULT_MEDIA_TYPE,
        modified_at=_seconds(file.timestamp, file.timestamp_nanos),
        cid=cid_of(file),
        is_encrypted=encryption is not None,
        plaintext_hash=file.hash if encryption is None else encryption.plaintext_hash,
        num_versions=len(versions_of(file)),
        metadata=_metadata(file.extra),
    )


def directory_info(path: str, ref: DirRef) -> DirectoryInfo:
    """Describe a directory."""
    return DirectoryInfo(
        path=path,
        cid=DirectoryCid(kind=ref.kind, link=ref.link).encode(),
        created_at=_seconds(ref.timestamp, ref.timestamp_nanos),
        is_encrypted=ref.encryption_key is not None,
        metadata=_metadata(ref.extra),
    )


def cid_of(file: FileRef) -> str:
    """A file's CID as text."""
    return blob_of(file).encode()


def versions_of(file: FileRef) -> tuple[FileRef, ...]:
    """A file and what it replaced, newest first."""
    versions: list[FileRef] = []
    current: FileRef | None = file
    while current is not None:
        versions.append(current)
        current = current.prev
    return tuple(versions)


def split_time(now: float) -> tuple[int, int]:
    """Unix seconds and the nanoseconds beyond them."""
    seconds = int(now)
    return seconds, min(int((now - seconds) * _NANOS), _NANOS - 1)


def _seconds(seconds: int | None, nanos: int | None) -> float | None:
    return None if seconds is None else seconds + (nanos or 0) / _NANOS


def _metadata(extra: Mapping[Cbor, Cbor]) -> Mapping[Cbor, Cbor]:
    return {
        key: value
        for key, value in extra.items()
        if not (isinstance(key, str) and key.startswith(OWN_PREFIX))
    }
