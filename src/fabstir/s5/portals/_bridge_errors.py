"""A bridge's errors as ours: the inverse of the doors' table (web/errors)."""

from __future__ import annotations

import time

from fabstir.primitives.errors import (
    AccessDenied,
    Busy,
    CorruptBlob,
    NotFound,
    PathRefused,
    PortalRefused,
    PortalUnavailable,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.s5.portals.bridge_answers import parse_kind
from fabstir.s5.portals.http import PortalAnswer, retry_after, shown_words

_CAUSES = {
    405: "it does not offer this (the original node's bridges do not list)",
    413: "it takes no file of this size",
    501: "it does not offer this",
}


def bridge_error(url: str, where: str, answer: PortalAnswer) -> StorageError:
    """What a status other than success means, for a path that was asked for."""
    status, kind = answer.status, parse_kind(answer.body)
    is_page = "html" in answer.headers.get("Content-Type", "").lower()
    words = "" if is_page else shown_words(answer.body[:4096])
    named = {"path_refused": PathRefused, "storage_full": StorageFull}.get(kind)
    if named is not None:
        return named(f"{url}: {where!a}: {words}")
    if kind == "corrupt_blob":
        return CorruptBlob(f"of {where!a}", url)
    if status in {404, 410}:
        return NotFound(f"{url} has no {where!a}")
    if status in {401, 403}:
        return AccessDenied(f"{url} wants its owner's token for {where!a}: {words}")
    if status in {409, 412}:
        return WriteConflict(where, f"{url} says {words or status}")
    wait = retry_after(answer.headers.get("Retry-After", ""), time.time())
    if status == 429:
        return Busy(f"{url} gets too many requests", retry_after=wait)
    if status in {408, 425, 500, 502, 503, 504}:
        return PortalUnavailable(url, f"it answers {status}: {words}", retry_after=wait)
    cause = _CAUSES.get(status, "it refuses")
    return PortalRefused(url, status, f"{cause}: {words}" if words else cause)
