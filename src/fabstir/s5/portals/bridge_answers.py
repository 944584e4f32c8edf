"""What /s5/fs bridges answer, parsed: any bytes give a value or RemoteProtocolError."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import PathRefused, RemoteProtocolError
from fabstir.protocol.fields import Fields
from fabstir.s5.formats.directory import Cbor
from fabstir.s5.formats.limits import MAX_PATH_BYTES
from fabstir.s5.fs.paths import check_name, format_path, parse_path
from fabstir.s5.fs.values import DEFAULT_MEDIA_TYPE, DirectoryInfo, FileInfo, Info, Page
from fabstir.s5.portals.answers import parse_cid

_MAX_CURSOR_CHARS = 4096
_UINT64 = 1 << 64
_MAX_KIND_CHARS = 64
_NOTHING: Final[Mapping[Cbor, Cbor]] = MappingProxyType({})


def parse_page(body: bytes, path: str, limit: int) -> Page:
    """A page of a directory's list.

    Args:
        path: the directory, as it was asked for.
        limit: the most entries that were asked for.
    """
    fields = Fields.parse(body, "a list of files")
    entries: list[Info] = []
    num_refused = fields.optional_integer("numRefused", limit=_UINT64) or 0
    for item in fields.children("entries", limit=limit):
        try:
            entries.append(_entry(item, path))
        except PathRefused:
            num_refused += 1
    cursor = fields.optional_text("cursor", limit=_MAX_CURSOR_CHARS)
    return Page(entries=tuple(entries), cursor=cursor or None, num_refused=num_refused)


def _entry(item: Fields, directory: str) -> Info:
    name = check_name(item.text("name", limit=MAX_PATH_BYTES), is_new=False)
    path = format_path((*parse_path(directory, is_new=False), name))
    kind = item.text("type", limit=16)
    if kind == "directory":
        return DirectoryInfo(
            path=path,
            cid=item.optional_text("cid", limit=256) or "",
            created_at=_seconds(item, "createdAt"),
            is_encrypted=item.flag("encrypted"),
            metadata=_NOTHING,
        )
    if kind != "file":
        raise RemoteProtocolError(f"{item.where} is neither a file nor a directory")
    return FileInfo(
        path=path,
        size=item.integer("size", limit=_UINT64),
        media_type=item.optional_text("mediaType", limit=256) or DEFAULT_MEDIA_TYPE,
        modified_at=_seconds(item, "modifiedAt"),
        cid=parse_cid(item.text("cid", limit=256)).encode(),
        is_encrypted=item.flag("encrypted"),
        plaintext_hash=None,
        num_versions=1,
        metadata=_NOTHING,
    )


def parse_written(body: bytes, path: str, size: int, media_type: str | None) -> FileInfo:
    """The answer to a PUT, of our bridge or of the original node's, which says less.

    Raises:
        RemoteProtocolError: also where it wrote another number of bytes.
    """
    fields = Fields.parse(body, "the answer to a write")
    if not fields.flag("success"):
        raise RemoteProtocolError("the answer to a write says no success")
    said = fields.optional_integer("size", limit=_UINT64)
    if said not in {None, size}:
        raise RemoteProtocolError(f"{size} bytes were written, and the bridge says {said}")
    cid = fields.optional_text("cid", limit=256)
    on_network = fields.get("networkUploaded")
    return FileInfo(
        path=path,
        size=size,
        media_type=fields.optional_text("mediaType", limit=256) or media_type or DEFAULT_MEDIA_TYPE,
        modified_at=None,
        cid="" if cid is None else parse_cid(cid).encode(),
        is_encrypted=fields.flag("encrypted"),
        plaintext_hash=None,
        num_versions=1,
        metadata={} if on_network is None else {"networkUploaded": on_network is True},
    )


def parse_file_headers(path: str, headers: Mapping[str, str], size: int) -> FileInfo:
    """A file from the headers of an answer.

    Args:
        headers: found by names in any case.
    """
    cid = parse_etag(headers.get("ETag", ""))
    return FileInfo(
        path=path,
        size=size,
        media_type=headers.get("Content-Type", DEFAULT_MEDIA_TYPE)[:256],
        modified_at=_moment(headers.get("S5-Modified", "")),
        cid="" if cid is None else cid.encode(),
        # Sealed bytes are more than their content, and the identifier is of what is stored.
        is_encrypted=cid is not None and cid.size != size,
        plaintext_hash=None,
        num_versions=1,
        metadata=_NOTHING,
    )


def parse_etag(header: str) -> BlobId | None:
    """The blob that a strong ETag names; None: there is none, or it names something else."""
    if len(header) < 2 or not header.startswith('"') or not header.endswith('"'):
        return None
    try:
        return BlobId.decode(header[1:-1])
    except ValueError:
        return None


def parse_kind(body: bytes) -> str:
    """The `error_type` of an error, "" where there is none."""
    try:
        fields = Fields.parse(body, "an error")
        return fields.optional_text("error_type", limit=_MAX_KIND_CHARS) or ""
    except RemoteProtocolError:
        return ""


def _seconds(item: Fields, name: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _UINT64:
        raise RemoteProtocolError(f"{item.where}: {name} must be Unix seconds")
    return float(value)


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
