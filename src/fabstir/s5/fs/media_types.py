"""The media type of a file by its name's ending: the one definition for commands and doors."""

from __future__ import annotations

import mimetypes
import re
from typing import Final

from fabstir.s5.fs.values import DEFAULT_MEDIA_TYPE

_OURS: Final = {
    ".7z": "application/x-7z-compressed",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".ipynb": "application/x-ipynb+json",
    ".js": "text/javascript",
    ".jsonl": "application/jsonl",
    ".log": "text/plain",
    ".m4a": "audio/mp4",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ndjson": "application/x-ndjson",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".parquet": "application/vnd.apache.parquet",
    ".rtf": "application/rtf",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}
"""What is common and not in Python's own table, or in that of some versions only."""

_COMPRESSED: Final = {
    "br": "application/x-brotli",
    "bzip2": "application/x-bzip2",
    "compress": "application/x-compress",
    "gzip": "application/gzip",
    "xz": "application/x-xz",
}
"""What is compressed is that first: `a.tar.gz` is no tar file for whoever gets it."""

_MEDIA_TYPE: Final = re.compile(
    r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(;[ -~]{0,255})?", re.ASCII
)

_TABLE: Final = mimetypes.MimeTypes(filenames=())
"""Python's own table and not the machine's, so that a name means the same on every machine."""

for _ending, _media_type in _OURS.items():
    _TABLE.add_type(_media_type, _ending)


def is_media_type(text: str) -> bool:
    """Whether a text is `type/subtype`, perhaps with parameters (RFC 9110, 8.3.1)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def guess_media_type(name: str) -> str:
    """By the name's ending; DEFAULT_MEDIA_TYPE where it says nothing."""
    # As the path of a URL: else a name such as "data:,x" is taken for one that holds its type.
    media_type, encoding = _TABLE.guess_type(f"file:{name}")
    if encoding is not None:
        return _COMPRESSED.get(encoding, DEFAULT_MEDIA_TYPE)
    return media_type or DEFAULT_MEDIA_TYPE
