"""What the clients of portals and bridges read out of answers (see `targets`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import httpx

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.portals import answers
from fabstir.s5.portals.bridge_answers import (
    parse_etag,
    parse_file_headers,
    parse_kind,
    parse_page,
    parse_written,
)
from fabstir.s5.portals.http import retry_after, shown

Target = Callable[[bytes], None]

_KEY: Final = NATIVE.ed25519_public_key(b"\x01" * 32)
_LIMIT: Final = 100


def s5_portal_answer(data: bytes) -> None:
    """Every JSON answer of a portal; what is read again is the same."""
    for parse in (
        answers.parse_uploaded,
        answers.parse_challenge,
        answers.parse_account,
        answers.parse_locations,
        answers.parse_nodes,
        answers.parse_version,
    ):
        with suppress(RemoteProtocolError):
            parse(data)
    with suppress(RemoteProtocolError):
        entry = answers.parse_registry(data, _KEY, NATIVE)
        assert entry == sign_entry(b"\x01" * 32, entry.revision, entry.data, NATIVE)
        again = json.dumps(dict(answers.registry_json(entry))).encode()
        assert answers.parse_registry(again, _KEY, NATIVE) == entry


def s5_portal_token(data: bytes) -> None:
    """A token out of a cookie or a body goes into headers: nothing in it ends one."""
    cookie, _, body = data.partition(b"\n")
    with suppress(RemoteProtocolError):
        token = answers.parse_token([cookie.decode("latin-1")], body)
        assert token.isascii()
        assert token.isprintable()
        assert not set(token) & set(" ;\r\n")


def s5_bridge_answer(data: bytes) -> None:
    """A bridge's lists, answers to writes, and errors."""
    with suppress(RemoteProtocolError):
        page = parse_page(data, "folder", _LIMIT)
        assert len(page.entries) <= _LIMIT
        assert all(entry.path.startswith("folder/") for entry in page.entries)
    with suppress(RemoteProtocolError):
        assert parse_written(data, "path", 5, None).size == 5
    parse_kind(data)


def s5_portal_header(data: bytes) -> None:
    """ETag, Retry-After, S5-Modified, and what is shown of somebody's words."""
    text = data.decode("latin-1")
    blob = parse_etag(text)
    assert blob is None or parse_etag(f'"{blob.encode()}"') == blob
    assert 0.0 <= retry_after(text, 1_000_000_000.0) <= 3600.0
    headers = httpx.Headers([(b"ETag", data), (b"S5-Modified", data), (b"Content-Type", data)])
    parse_file_headers("path", headers, 5)
    assert shown(text).isprintable()


S5_PORTAL_TARGETS: Final[dict[str, Target]] = {
    "s5_bridge_answer": s5_bridge_answer,
    "s5_portal_answer": s5_portal_answer,
    "s5_portal_header": s5_portal_header,
    "s5_portal_token": s5_portal_token,
}
